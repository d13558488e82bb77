"""The loop: kill it anywhere and the bits agree; bad gradients touch nothing; micro-batches do not matter."""

from __future__ import annotations

import gc
import time
import weakref

import numpy as np
import orjson
import pytest
import torch

from hanlin.common.errors import HanlinError
from hanlin.common.progress import Progress
from hanlin.dataset import TextRows, build_text_dataset
from hanlin.stages.supervised import NextTokenLoss, RowSource, SupervisedConfig
from hanlin.tokenizer.token_bytes import token_bytes
from hanlin.training import TrainConfig, train
from hanlin.training.checkpoint.format import list_checkpoints
from hanlin.training.distributed.shard import FULL
from hanlin.training.guards import SpikeGuard
from hanlin.training.hooks import Hook
from hanlin.training.optim.optimizers import Muon, Optimizers, orthogonalize
from hanlin.training.schedule import learning_rate_factor
from hanlin.training.trainer import Trainer
from tests.support import tiny_model, tiny_tokenizer

TEXTS = [
    f"小明在{place}看见了{n}只小鸟，小红把书给了他。" for place in ("学校", "公园", "家里") for n in range(40)
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    tokenizer = tiny_tokenizer(folder / "t")
    return build_text_dataset([{"text": t} for t in TEXTS], tokenizer, folder / "d"), tokenizer


def run(data, work, steps=12, micro=256, seed=5, max_steps=None, **options):
    dataset, tokenizer = data
    config = SupervisedConfig(
        TrainConfig(steps=steps, learning_rate=3e-3, checkpoint_seconds=0.0, **options),
        seq_len=64,
        batch_tokens=256,
        micro_tokens=micro,
    )
    model = tiny_model("qwen3", tokenizer)
    result = train(
        model,
        RowSource(TextRows(dataset, 64, seed), config),
        NextTokenLoss(token_bytes(tokenizer), 1e-4),
        config.train,
        work,
        Progress(),
    )
    return {name: p.detach().clone() for name, p in model.named_parameters()}, result


def test_it_learns(data, tmp_path):
    _, result = run(data, tmp_path, steps=40)
    assert result.last["bits_per_byte"] < 0.8 and result.skipped == 0


def test_the_time_spent_on_data_is_said(data, tmp_path, monkeypatch):
    quick = run(data, tmp_path / "quick", steps=2)[1].last["data_seconds"]
    ready = RowSource.micro_batches
    monkeypatch.setattr(RowSource, "micro_batches", lambda *given: (time.sleep(0.3), ready(*given))[1])
    slow = run(data, tmp_path / "slow", steps=2)[1].last["data_seconds"]
    assert 0 < quick < slow and slow >= 0.3


def test_a_run_is_a_function_of_its_seed(data, tmp_path):
    first, second, other = (run(data, tmp_path / str(i), seed=seed)[0] for i, seed in enumerate((5, 5, 6)))
    assert all(torch.equal(first[n], second[n]) for n in first)
    assert not all(torch.equal(first[n], other[n]) for n in first)


def test_micro_batches_do_not_change_the_gradient(data, tmp_path):
    whole, cut = (run(data, tmp_path / str(micro), steps=3, micro=micro)[0] for micro in (256, 64))
    assert max(float((whole[n] - cut[n]).abs().max()) for n in whole) < 1e-5


@pytest.mark.parametrize("damage", ["flip", "truncate", "missing"])
def test_a_damaged_checkpoint_is_put_aside_and_the_one_before_it_used(data, tmp_path, damage):
    clean, _ = run(data, tmp_path / "clean")
    with pytest.raises(ZeroDivisionError):
        run_until(data, tmp_path / "work", stop=8)
    newest = list_checkpoints(tmp_path / "work")[0]
    file = newest / "optimizer.safetensors"
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "truncate":
        file.write_bytes(content[:-7])
    else:
        file.unlink()
    resumed, _ = run(data, tmp_path / "work")
    assert newest.with_name(newest.name + ".damaged").exists()
    assert all(torch.equal(clean[n], resumed[n]) for n in clean)


def run_until(data, work, stop, **options):
    """Train until step `stop`, then fail as a broken data source would."""
    dataset, tokenizer = data
    config = SupervisedConfig(
        TrainConfig(steps=12, learning_rate=3e-3, checkpoint_seconds=0.0, **options),
        seq_len=64,
        batch_tokens=256,
        micro_tokens=256,
    )
    source = RowSource(TextRows(dataset, 64, 5), config)
    plain = source.micro_batches
    source.micro_batches = lambda step, model, shard: plain(step, model) if step < stop else 1 // 0  # type: ignore[method-assign]
    train(
        tiny_model("qwen3", tokenizer),
        source,
        NextTokenLoss(token_bytes(tokenizer), 1e-4),
        config.train,
        work,
        Progress(),
    )


@pytest.mark.nightly
def test_a_compiled_run_is_resumed_to_the_same_bits_and_learns_what_an_eager_one_does(data, tmp_path):
    eager, _ = run(data, tmp_path / "eager")
    clean, _ = run(data, tmp_path / "clean", compile=True)
    with pytest.raises(ZeroDivisionError):
        run_until(data, tmp_path / "work", stop=7, compile=True)
    resumed, _ = run(data, tmp_path / "work", compile=True)
    assert all(torch.equal(clean[n], resumed[n]) for n in clean)
    assert max(float((clean[n] - eager[n]).abs().max()) for n in clean) < 1e-3


def test_other_data_are_refused_on_resume(data, tmp_path):
    with pytest.raises(ZeroDivisionError):
        run_until(data, tmp_path, stop=4)
    with pytest.raises(HanlinError, match=str(tmp_path)):
        run(data, tmp_path, seed=6)


class Poisoned(NextTokenLoss):
    """Turns the loss of chosen calls into NaN."""

    def __init__(self, *arguments, bad):
        super().__init__(*arguments)
        self.calls, self.bad = 0, bad

    def __call__(self, model, batch):
        loss, figures = super().__call__(model, batch)
        self.calls += 1
        return (loss * float("nan") if self.calls in self.bad else loss), figures


def test_a_non_finite_step_touches_nothing(data, tmp_path):
    dataset, tokenizer = data
    config = SupervisedConfig(
        TrainConfig(steps=1, learning_rate=3e-3), seq_len=64, batch_tokens=256, micro_tokens=256
    )
    model = tiny_model("qwen3", tokenizer)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    objective = Poisoned(token_bytes(tokenizer), 0.0, bad={1})
    result = train(
        model, RowSource(TextRows(dataset, 64, 0), config), objective, config.train, tmp_path, Progress()
    )
    assert result.skipped == 1
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())


def tensors(loss, norm):
    return torch.tensor(float(loss)), torch.tensor(float(norm))


def test_spikes_are_found_and_ordinary_noise_is_not():
    rng = np.random.default_rng(0)
    guard = SpikeGuard(6.0, max_grad_norm=1.0)
    assert not any(
        guard.judge(*tensors(2 + 0.1 * rng.standard_normal(), 0.3 * rng.lognormal(sigma=0.2))).bad
        for _ in range(500)
    )
    assert guard.judge(*tensors(4.0, 0.3)).bad
    assert guard.judge(*tensors(2.0, 50.0)).bad
    assert not guard.judge(*tensors(2.0, 0.9)).bad, "a norm that clipping leaves alone is no spike"


def test_the_guard_agrees_with_its_definition():
    """Sigma by sigma, against a plain list of the last 128 ordinary steps."""
    rng = np.random.default_rng(1)
    guard, seen = SpikeGuard(3.0, max_grad_norm=0.0), []
    verdicts = set()
    for _ in range(400):
        value = float(np.float32(2 + 0.3 * rng.standard_t(3)))
        known = np.asarray(seen[-128:])
        sigmas = (
            (value - known.mean()) / max(known.std(), 1e-6 + 0.02 * abs(known.mean())) if len(seen) else 0.0
        )
        expected = len(seen) >= 64 and sigmas > 3.0
        verdict = guard.judge(*tensors(value, 1.0))
        assert bool(verdict.bad) == expected
        if seen:
            assert float(verdict.loss_sigmas) == pytest.approx(sigmas, rel=1e-3, abs=1e-3)
        if not expected:
            seen.append(value)
        verdicts.add(expected)
    assert verdicts == {False, True}


def test_the_guard_is_not_poisoned_and_survives_json():
    rng = np.random.default_rng(2)
    guard = SpikeGuard(6.0, max_grad_norm=1.0)
    for value in rng.normal(2, 0.1, 200):
        guard.judge(*tensors(value, 0.5))
    before = guard.seen.clone()
    for loss, norm in ((float("nan"), 0.5), (2.0, float("inf")), (float("-inf"), float("nan")), (9.0, 0.5)):
        assert guard.judge(*tensors(loss, norm)).bad
    assert torch.equal(before, guard.seen) and int(guard.count) == 200
    other = SpikeGuard(6.0, max_grad_norm=1.0)
    other.load(orjson.loads(orjson.dumps(guard.state())))
    assert torch.equal(other.seen, guard.seen) and int(other.count) == 200


def test_muon_equals_torchs():
    """torch.optim.Muon with the same scaling is the oracle; it computes in bfloat16, hence the tolerance."""
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(32, 48)), torch.nn.Parameter(torch.randn(48, 32))]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    mine = Muon(ours, lr=0.02, momentum=0.95, weight_decay=0.1)
    oracle = torch.optim.Muon(
        theirs, lr=0.02, momentum=0.95, weight_decay=0.1, nesterov=True, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(5):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        mine.step()
        oracle.step()
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() < 5e-3


def test_orthogonalized_singular_values_are_near_one():
    values = torch.linalg.svdvals(orthogonalize(torch.randn(4, 64, 40)))
    assert values.min() > 0.4 and values.max() < 1.3


def test_optimizer_state_round_trip(data):
    _, tokenizer = data
    models = [tiny_model("qwen3", tokenizer) for _ in range(2)]
    optimizers = [Optimizers(model, learning_rate=1e-2) for model in models]
    ids = torch.randint(0, 300, (2, 16))

    def step(which):
        models[which](ids).square().mean().backward()
        optimizers[which].step(1.0)

    step(0)
    models[1].load_state_dict(models[0].state_dict())
    optimizers[1].load_state_tensors(optimizers[0].state_tensors())
    step(0)
    step(1)
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))


@pytest.mark.parametrize("muon", [True, False])
def test_offloaded_state_gives_the_same_bits_piece_by_piece(data, muon):
    _, tokenizer = data
    models = [tiny_model("qwen3", tokenizer) for _ in range(3)]
    plain, away, back = (
        Optimizers(model, learning_rate=1e-2, muon=muon, offload=offload)
        for model, offload in zip(models, (False, True, True), strict=True)
    )
    ids = torch.randint(0, 300, (2, 16))

    def step(model, optimizers, bad=False):
        model(ids).square().mean().backward()
        optimizers.step(0.5, torch.tensor(bad))

    for bad in (False, False, True, False):
        step(models[0], plain, bad)
        step(models[1], away, bad)
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))
    first, second = plain.state_tensors(), away.state_tensors()
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    models[2].load_state_dict(models[1].state_dict())
    back.load_state_tensors(second)
    for model, optimizers in zip(models, (plain, away, back), strict=True):
        step(model, optimizers)
    assert all(
        torch.equal(a, b) and torch.equal(a, c)
        for a, b, c in zip(*(model.parameters() for model in models), strict=True)
    )


@pytest.mark.parametrize("schedule", ["wsd", "cosine", "constant"])
def test_schedules_rise_once_and_never_leave_their_range(schedule):
    factors = [
        learning_rate_factor(s, 200, schedule=schedule, warmup_ratio=0.1, decay_ratio=0.3, min_lr_ratio=0.05)
        for s in range(200)
    ]
    top = factors.index(max(factors))
    assert all(0 < f <= 1 for f in factors) and max(factors) == pytest.approx(1.0, abs=1e-3)
    assert factors[: top + 1] == sorted(factors[: top + 1]) and factors[20:] == sorted(
        factors[20:], reverse=True
    )
    if schedule != "constant":
        assert factors[-1] < 0.08


def test_the_decay_ends_with_the_last_step():
    """`remaining / decay steps`, the step itself counted: the last one still learns, and the one before the
    decay at the full rate."""
    factors = [
        learning_rate_factor(s, 20, schedule="wsd", warmup_ratio=0.1, decay_ratio=0.25) for s in range(20)
    ]
    assert factors == pytest.approx([0.5] + [1.0] * 15 + [0.8, 0.6, 0.4, 0.2])
    floored = [
        learning_rate_factor(s, 20, schedule="wsd", warmup_ratio=0.0, decay_ratio=0.2, min_lr_ratio=0.5)
        for s in range(16, 20)
    ]
    assert floored == pytest.approx([1.0, 0.875, 0.75, 0.625])


class Watch(Hook):
    """Writes down what it was called with, and asks for the state after step 3."""

    def __init__(self):
        self.calls, self.trainer = [], None

    def wants_state(self, step):
        return step == 3

    def with_state(self, step, save):
        assert self.trainer.pending is None
        self.calls.append(("state", step, self.trainer.state.step))

    def after_step(self, report):
        assert report.metrics["tokens"] == sum(batch.ids.numel() for batch in report.batches) == 256
        self.calls.append(("step", report.step, self.trainer.dispatched))

    def at_end(self):
        self.calls.append(("end", self.trainer.state.step))


@pytest.mark.parametrize("later", [False, True])
def test_metrics_are_read_a_step_later_and_at_once_where_a_hook_asks_for_the_state(
    data, tmp_path, monkeypatch, later
):
    monkeypatch.setattr("hanlin.training.trainer._reads_later", lambda device: later)
    dataset, tokenizer = data
    config = SupervisedConfig(TrainConfig(steps=5), seq_len=64, batch_tokens=256, micro_tokens=256)
    source = RowSource(TextRows(dataset, 64, 5), config)
    objective = NextTokenLoss(token_bytes(tokenizer))

    class Counting(Trainer):
        dispatched = 0

        def dispatch_step(self, step):
            self.dispatched += 1
            return super().dispatch_step(step)

    trainer = Counting(tiny_model("qwen3", tokenizer), source, objective, config.train, tmp_path, Progress())
    hook = Watch()
    hook.trainer = trainer
    trainer.add_hook(hook)
    trainer.run()
    dispatched = [2, 3, 3, 5, 5] if later else [1, 2, 3, 4, 5]
    steps = [("step", step, count) for step, count in enumerate(dispatched)]
    assert hook.calls == [*steps[:3], ("state", 3, 3), *steps[3:], ("end", 5)]


class Sometimes(RowSource):
    """Has something to read in odd steps only."""

    def micro_batches(self, step, model, shard=FULL):
        return super().micro_batches(step, model, shard) if step % 2 else []


def test_a_step_without_batches_is_counted_and_changes_nothing(data, tmp_path):
    dataset, tokenizer = data
    config = SupervisedConfig(
        TrainConfig(steps=4, learning_rate=3e-3, weight_decay=0.5, permanent_checkpoint_interval=1),
        seq_len=64,
        batch_tokens=256,
        micro_tokens=256,
    )
    model = tiny_model("qwen3", tokenizer)
    source = Sometimes(TextRows(dataset, 64, 5), config)
    result = train(model, source, NextTokenLoss(token_bytes(tokenizer)), config.train, tmp_path, Progress())
    assert result.idle == 2 and result.skipped == 0 and result.last["tokens"] == 256
    third, second = list_checkpoints(tmp_path)[:2]
    assert (third / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
    assert (third / "optimizer.safetensors").read_bytes() == (second / "optimizer.safetensors").read_bytes()


def test_nothing_of_a_training_outlives_it(data, tmp_path):
    """Without the collector of circles: stages follow one another, and optimiser state is twice the
    weights."""
    dataset, tokenizer = data
    config = SupervisedConfig(TrainConfig(steps=2), seq_len=64, batch_tokens=256, micro_tokens=256)
    objective = NextTokenLoss(token_bytes(tokenizer))
    reference = weakref.ref(objective)
    gc.collect()
    gc.disable()
    try:
        source = RowSource(TextRows(dataset, 64, 5), config)
        train(tiny_model("qwen3", tokenizer), source, objective, config.train, tmp_path, Progress())
        del objective
        assert reference() is None
    finally:
        gc.enable()
