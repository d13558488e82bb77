"""The plan before the run: its arithmetic is the module's own, its refusals say what would help."""

import dataclasses

import pytest
import torch

from hanlin.common.errors import HanlinError
from hanlin.common.hardware import HARDWARE, find_hardware
from hanlin.common.progress import Progress
from hanlin.model import CausalLM, ModelShape
from hanlin.planning.plan import expected_bits_per_byte, plan_recipe, plan_text
from hanlin.recipe.recipe import load_recipe
from hanlin.stages.supervised import SupervisedConfig, settle_micro_batch
from hanlin.training import TrainConfig
from hanlin.training.optim.optimizers import Optimizers
from hanlin.training.step_estimate import MemoryBudget, StepSpec, fit_step, trace_step

SHAPE = ModelShape(
    hidden_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
)
CONFIG = SHAPE.config(1200, 0)
STEP = StepSpec(seq_len=64, rows=4)


def saved_bytes(model, shape):
    """Bytes of the distinct storages that autograd keeps in a real forward pass, besides weights and
    tables."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    ids = torch.randint(0, 1200, (shape.rows, shape.seq_len))
    zeros = torch.zeros_like(ids)
    place = torch.arange(shape.rows * shape.seq_len)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model.hidden(ids, positions=zeros, doc_ids=zeros)
        loss, _ = model.head.cross_entropy(
            hidden[place // shape.seq_len, place % shape.seq_len], ids.flatten()
        )
    return loss, sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("muon", [True, False])
def test_weights_gradients_and_state_are_the_modules_own(muon):
    settings = TrainConfig(muon=muon)
    cost = trace_step(CONFIG, settings, STEP)
    model = CausalLM(CONFIG)
    optimizers = Optimizers(model, learning_rate=1e-3, muon=muon)
    loss, _ = saved_bytes(model, STEP)
    loss.backward()
    assert cost.gradients == sum(p.grad.nbytes for p in model.parameters()) == 4 * CONFIG.parameters()
    optimizers.step(1.0)
    assert cost.weights == sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
    assert cost.optimizer == pytest.approx(
        sum(t.nbytes for t in optimizers.state_tensors().values()), rel=1e-3
    )


def test_activations_are_what_autograd_keeps():
    """With the gradients that the loss has ready by then, and the batch of 32 bytes a token, to within a
    hundredth."""
    cost = trace_step(CONFIG, TrainConfig(), STEP)
    tokens = STEP.rows * STEP.seq_len
    _, kept = saved_bytes(CausalLM(CONFIG), STEP)
    ready = 4 * CONFIG.hidden_size * (CONFIG.vocab_size + tokens)
    assert kept + ready <= cost.activations <= 1.01 * (kept + ready) + 32 * tokens


def test_activations_grow_with_the_rows_and_accumulation_keeps_the_gradients_beside_them():
    one, two = (trace_step(CONFIG, TrainConfig(), dataclasses.replace(STEP, rows=rows)) for rows in (4, 8))
    assert two.activations == pytest.approx(2 * one.activations, rel=0.15)
    many = trace_step(CONFIG, TrainConfig(), dataclasses.replace(STEP, micros=2))
    assert many.backward_peak - one.backward_peak >= 0.5 * one.gradients
    halves = trace_step(CONFIG, TrainConfig(), dataclasses.replace(STEP, dtype="bfloat16"))
    assert halves.activations < one.activations


def test_the_work_is_the_models_own_count_and_full_attention():
    cost = trace_step(CONFIG, TrainConfig(), STEP)
    tokens = STEP.rows * STEP.seq_len
    # 14 of full less 6 of causal
    extra = (
        8.0 * CONFIG.num_hidden_layers * CONFIG.num_attention_heads * CONFIG.head_dim * STEP.seq_len * tokens
    )
    assert sum(flops for flops, _ in cost.forward_backward) == pytest.approx(
        CONFIG.flops_per_token(STEP.seq_len) * tokens + extra, rel=0.02
    )


def test_the_largest_power_of_two_that_fits_is_taken():
    big = dataclasses.replace(STEP, rows=32)
    costs = {
        rows: trace_step(CONFIG, TrainConfig(), dataclasses.replace(big, rows=rows, micros=32 // rows)).peak
        for rows in (1, 2, 4, 8, 16, 32)
    }
    for rows in (2, 8, 32):
        assert (
            fit_step(CONFIG, TrainConfig(), big, 32, MemoryBudget(costs[rows] + 1000.0, allocator=1.0)).rows
            == rows
        )


def test_what_does_not_fit_is_refused_with_what_would_help():
    with pytest.raises(HanlinError) as caught:
        fit_step(
            CONFIG, TrainConfig(), dataclasses.replace(STEP, seq_len=256), 8, MemoryBudget(2e6, allocator=1.0)
        )
    assert "seq_len: 128" in caught.value.zh and "--params" in caught.value.en


def test_offload_is_offered_where_a_device_has_memory_of_its_own():
    with pytest.raises(HanlinError) as caught:
        fit_step(CONFIG, TrainConfig(), STEP, 4, MemoryBudget(2e5, allocator=1.0, own=True))
    assert (
        caught.value.zh.index("offload_optimizer") < caught.value.zh.index("--params")
        and "bus" in caught.value.en
    )
    with pytest.raises(HanlinError) as caught:
        fit_step(CONFIG, TrainConfig(), STEP, 4, MemoryBudget(2e5, allocator=1.0))
    assert "offload" not in caught.value.en


@pytest.mark.parametrize("muon", [True, False])
def test_what_is_offloaded_is_not_counted_on_the_device(muon):
    train = TrainConfig(muon=muon)
    whole, away = (
        trace_step(CONFIG, train, dataclasses.replace(STEP, offload=offload)) for offload in (False, True)
    )
    assert away.host == whole.optimizer and away.optimizer == 0
    assert (
        whole.backward_peak - away.backward_peak == whole.optimizer
        and 0.2 * whole.optimizer < whole.update_peak - away.update_peak < whole.optimizer
    )
    section = SupervisedConfig(dataclasses.replace(train, offload_optimizer=True))
    assert section.step_spec("float32", discrete=True).offload and not section.step_spec("float32").offload


def test_auto_settles_once_and_keeps_to_it(tmp_path):
    config = SupervisedConfig(TrainConfig(steps=1), seq_len=64, batch_tokens=1024, micro_tokens="auto")
    model = CausalLM(CONFIG)
    first = settle_micro_batch(config, model, tmp_path / "work", Progress())
    assert first.micro_tokens == 1024
    (tmp_path / "work" / "micro_tokens.json").write_text('{"micro_tokens": 256}')
    assert settle_micro_batch(config, model, tmp_path / "work", Progress()).micro_tokens == 256


def test_explicit_micro_tokens_stand_and_nonsense_is_refused():
    assert load_recipe("demo").pretrain.micro_tokens == 4096
    assert load_recipe("demo", ["pretrain.micro_tokens=auto"]).pretrain.micro_tokens == "auto"
    with pytest.raises(HanlinError):
        load_recipe("demo", ["pretrain.micro_tokens=some"])


def test_a_plan_by_data_sheet_adds_up():
    recipe = load_recipe("zh-mini", ["corpus.files=[x]"])
    one, eight = plan_recipe(recipe, "rtx4090", price=3.6), plan_recipe(recipe, "rtx4090", gpus=8, price=3.6)
    stage = one.stages[0]
    assert stage.tokens == 800 * 8192
    assert stage.seconds * stage.tokens_per_second == pytest.approx(stage.tokens)
    assert stage.money == pytest.approx(stage.seconds / 1000)
    assert eight.stages[0].seconds < stage.seconds and eight.stages[0].peak < stage.peak
    assert sum(one.memory.values()) == pytest.approx(stage.peak)
    assert "4090" in plan_text(one)


def test_a_plan_says_what_it_does_not_know(monkeypatch):
    monkeypatch.setenv("HANLIN_LANG", "en")
    text = plan_text(plan_recipe(load_recipe("demo"), "h100"))
    assert "bits per byte: not known" in text
    assert "dpo, reward, grpo: not reckoned; depends on the lengths of the data and on generation" in text
    assert "equal-time-sft: not reckoned; takes as long as grpo" in text
    assert expected_bits_per_byte(26e6, 500e6) is None
    value, around = expected_bits_per_byte(3.6e6, 6.55e6)
    assert abs(value - 2.199) < around


def test_a_control_of_equal_time_is_planned_with_the_time_of_its_subject():
    recipe = load_recipe(
        "demo", ["equal-time-sft.of=sft", "equal-time-sft.seeds=1", "pretrain.train.steps=10"]
    )
    stages = {stage.name: stage for stage in plan_recipe(recipe, "rtx4090", price=1.0).stages}
    control, subject = stages["equal-time-sft"], stages["sft"]
    assert (control.seconds, control.money) == (subject.seconds, subject.money)
    assert control.steps is None and subject.steps is not None  # it ends by the clock


def test_stages_of_one_shape_are_traced_once(monkeypatch):
    from hanlin.planning import estimators

    traced = []

    def traced_fit(section, *arguments):
        traced.append(section.id)
        return fit(section, *arguments)

    fit = estimators._fit_micro_batch
    monkeypatch.setattr(estimators, "_fit_micro_batch", traced_fit)
    recipe = load_recipe("demo", ["direct.train.muon=false"])
    plan_recipe(recipe, "rtx4090")
    assert traced == ["pretrain", "direct"]  # another optimiser is another step


@pytest.mark.parametrize("name", ["RTX 4060 Ti", "t4"])
def test_what_people_have_is_in_the_table_and_said_to_be_untested(name, monkeypatch):
    monkeypatch.setenv("HANLIN_LANG", "en")
    text = plan_text(plan_recipe(load_recipe("demo"), name))
    assert "not measured on such a device" in text and "recalled" in text and "CNY" not in text


def test_cards_without_bfloat16_are_planned_in_what_they_train_in():
    wanted = {
        "t4": "float16",
        "v100": "float16",
        "rtx2080ti": "float16",
        "p100": "float32",
        "rtx3060": "bfloat16",
        "mac-m1": "float32",
    }
    assert {name: HARDWARE[name].dtype for name in wanted} == wanted
    names = {
        "RTX 3060": "rtx3060",
        "rtx4060": "rtx4060",
        "RTX_5090": "rtx5090",
        "910B": "910b",
        "Arc B580": "arc-b580",
        "Mac M4 Pro": "mac-m4-pro",
    }
    assert all(find_hardware(said) is HARDWARE[name] for said, name in names.items())
    for name, row in HARDWARE.items():
        assert (
            1 < row.tflops < 1000
            and 4 < row.memory < 100
            and 50 < row.bandwidth < 4000
            and row.dtype in ("bfloat16", "float16", "float32")
        ), name


def test_a_card_that_is_not_in_the_table_is_planned_by_its_memory(monkeypatch):
    monkeypatch.setenv("HANLIN_LANG", "en")
    plan = plan_recipe(load_recipe("demo"), vram=8)
    assert plan.device == "8 GiB" and "only the memory is known" in plan_text(plan)
    with pytest.raises(HanlinError, match="--vram"):
        plan_recipe(load_recipe("demo"), vram=0)
    with pytest.raises(HanlinError, match="not both"):
        plan_recipe(load_recipe("demo"), "t4", vram=8)
    with pytest.raises(HanlinError, match="rtx4090"):
        plan_recipe(load_recipe("demo"), "rtx409")


@pytest.mark.parametrize(
    "arguments",
    [
        {"device": "rtx309"},
        {"device": "h100", "gpus": 64},
        {"device": "h100", "gpus": 0},
        {"device": "this", "gpus": 2},
    ],
)
def test_impossible_plans_are_refused(arguments):
    with pytest.raises(HanlinError):
        plan_recipe(load_recipe("demo"), **arguments)


def test_a_probe_measures_real_steps():
    from hanlin.planning.measure_step import measure_step

    found = measure_step(CONFIG, TrainConfig(), dataclasses.replace(STEP, micros=4), "cpu", steps=6)
    assert found.seconds > 0 and found.steps == 6
    assert found.peak_mb >= found.baseline_mb > 0
