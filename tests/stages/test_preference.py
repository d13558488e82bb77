"""Preference optimisation as a stage: packing, the cached reference, KTO's step, data that cannot be used."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from hanlin.common.errors import HanlinError
from hanlin.common.progress import Progress
from hanlin.dataset import TokenDataset
from hanlin.evaluation import Metric
from hanlin.model import load_model
from hanlin.pipeline.stage_command import load_stage_file, run_stage
from hanlin.stages.base import Job
from hanlin.stages.pairs import PairSource, build_heldout_pairs, build_pair_dataset, say_equal_pairs
from hanlin.stages.preference import reference as reference_module
from hanlin.stages.preference.harm import BITS, REPETITION, harm, refuse_harm
from hanlin.stages.preference.kto import KTO
from hanlin.stages.preference.labelled import LabelledObjective, LabelledSource, build_labelled_dataset
from hanlin.stages.preference.log_probs import answer_log_probs
from hanlin.stages.preference.loss import LOSSES, PairLoss
from hanlin.stages.preference.losses import DPO, LengthDesensitizedDPO
from hanlin.stages.preference.objective import PairObjective
from hanlin.stages.preference.reference import CachedReference
from hanlin.stages.preference.stage import (
    PreferenceConfig,
    optimise_preferences,
    reference_of,
    require_answers,
)
from hanlin.training import Interrupted, TrainConfig
from hanlin.training.distributed.shard import DataShard
from hanlin.training.trainer import Trainer
from tests.adapters.bench import make_base
from tests.stages.test_preference_losses import AT_THE_START
from tests.support import ReferenceModel, tiny_model

TRAIN = TrainConfig(steps=1, learning_rate=1e-3, muon=False)
LABELLED = [
    {
        "prompt": f"小明{n}在学校吗？",
        "completion": f"{n}小明在学校。" * (1 + n % 3) if n % 3 else f"{n}12345" * (1 + n % 2),
        "label": bool(n % 3),
    }
    for n in range(18)
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with `base`, its tokenizer and model, pairs and labelled answers."""
    folder = tmp_path_factory.mktemp("preference")
    make_base(folder)
    model, tokenizer = Job(folder / "x", folder / "w", Progress()).load(folder / "base", 64)
    records = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    pairs = build_pair_dataset(records, tokenizer, folder / "pairs", max_length=64)
    labelled = build_labelled_dataset(LABELLED, tokenizer, folder / "labelled", max_length=64)
    return folder, tokenizer, model, pairs, labelled


def job(folder: Path, name: str) -> Job:
    """A stage's surroundings."""
    return Job(folder / name, folder / f"{name}-work", Progress(), seed=0)


def gradients(model, objective, batches) -> tuple[float, list[torch.Tensor]]:
    """Summed loss and gradient of micro-batches."""
    model.zero_grad()
    total = 0.0
    for batch in batches:
        loss, _ = objective(model, batch)
        loss.backward()
        total += loss.item()
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return total, found


def same(one, other) -> bool:
    """Loss and gradients agree to float32's rounding."""
    return one[0] == pytest.approx(other[0], rel=2e-5) and all(
        torch.allclose(a, b, atol=2e-5 * float(a.abs().max()) + 1e-8)
        for a, b in zip(one[1], other[1], strict=True)
    )


# ---------------------------------------------------------------- packing


@pytest.mark.parametrize("kind", [kind for kind in LOSSES if issubclass(LOSSES.get(kind), PairLoss)])
def test_a_loss_knows_neither_packing_nor_order_nor_micro_batches(world, kind):
    _, tokenizer, model, data, _ = world
    loss = LOSSES.get(kind)()
    reference = ReferenceModel(tiny_model("qwen3", tokenizer, seed=9, hidden_size=32), loss.tail_weight)
    objective = PairObjective(loss, reference if loss.needs_reference else None)
    sources = [PairSource(data, PreferenceConfig(seq_len=length), 0) for length in (64, 200)]
    whole = gradients(model, objective, [sources[0].pack(range(6))])
    assert same(whole, gradients(model, objective, [sources[0].pack([pair]) for pair in (4, 0, 5, 1, 3, 2)]))
    assert same(whole, gradients(model, objective, [sources[1].pack(range(6))]))
    assert same(whole, gradients(model, objective, sources[0].pack(range(6)).split()))
    assert not same(whole, gradients(model, objective, [sources[0].pack(range(5))]))


def test_the_tail_beyond_the_shorter_answer_counts_as_much_as_asked(world):
    _, _, model, data, _ = world
    batch = PairSource(data, PreferenceConfig(seq_len=64), 0).pack(range(5))
    weighted, lengths = answer_log_probs(model, batch, 0.3)
    for at, document in enumerate(batch.documents):
        ids = torch.tensor(data.document(document).astype(np.int64))
        mask = data.mask[data.starts[document] : data.starts[document + 1]]
        said = torch.log_softmax(model(ids[None])[0], -1)
        values = [said[i - 1, ids[i]].item() for i in range(1, len(ids)) if mask[i]]
        shared = int(min(lengths[at], lengths[batch.documents.index(document ^ 1)]))
        expected = sum(values[:shared]) + 0.3 * sum(values[shared:])
        assert weighted[at].item() == pytest.approx(expected, rel=1e-5)


# ---------------------------------------------------------------- the reference


@pytest.mark.parametrize("kind", list(LOSSES))
def test_the_first_loss_of_a_run_is_that_of_no_difference(world, tmp_path, kind):
    folder, _, _, pairs, labelled = world
    loss = LOSSES.get(kind)(sft_weight=0.0)
    data = pairs if isinstance(loss, PairLoss) else labelled
    config = PreferenceConfig(seq_len=64, pairs=5, loss=loss, train=TRAIN)
    result = optimise_preferences(folder / "base", data.path, config, job(tmp_path, "out"))
    cached = list((tmp_path / "out-work").glob("reference-*"))
    assert len(cached) == loss.needs_reference  # a loss without a reference has none made
    if kind == "kto":
        assert result.last["loss"] == pytest.approx(0.5, abs=1e-6)
    elif loss.needs_reference:
        assert result.last["loss"] == pytest.approx(AT_THE_START[kind], abs=1e-6 * AT_THE_START[kind])
    assert ("chosen_log_ratio" in result.last) == loss.needs_reference


def test_the_cache_is_what_a_second_model_would_say_in_every_epoch(world, tmp_path):
    """However the pairs of later epochs are packed, within the rounding of float32."""
    folder, _, model, data, _ = world
    config = PreferenceConfig(
        seq_len=64, pairs=5, loss=LengthDesensitizedDPO(), train=TrainConfig(steps=9, muon=False)
    )
    optimise_preferences(folder / "base", data.path, config, job(tmp_path, "out"))
    (cache,) = (tmp_path / "out-work").glob("reference-*")
    cached, asked = CachedReference(np.load(cache / "log_probs.npy")), ReferenceModel(model, 0.5)
    source = PairSource(data, config, 0)
    for step in range(9):
        (batch,) = source.micro_batches(step, None)
        assert torch.allclose(cached.log_probs(batch), asked.log_probs(batch), rtol=1e-6)


def test_a_run_that_was_rolled_back_reads_nothing_that_the_reference_does_not_know(world, tmp_path):
    """Beyond its last step it begins again, while not all pairs have been read."""
    folder, _, model, data, _ = world
    for steps, period in ((2, 2), (3, None)):
        config = PreferenceConfig(seq_len=64, pairs=4, train=TrainConfig(steps=steps, muon=False))
        source = PairSource(data, config, 0)
        surroundings = job(tmp_path, f"steps-{steps}")
        reference = reference_of(model, source, config, surroundings, {})
        assert source.period == period
        for step in range(7):
            assert torch.isfinite(reference.log_probs(source.micro_batches(step, model)[0])).all()
        assert (source.numbers(steps) == source.numbers(0)) == (period is not None)


def test_a_second_start_reads_the_cache_unless_it_is_damaged_or_of_another_model(
    world, tmp_path, monkeypatch
):
    folder, _, model, data, _ = world
    config = PreferenceConfig(seq_len=64, pairs=5, train=TRAIN)
    computed = []
    compute = reference_module._compute

    def counted(*arguments):
        computed.append(1)
        return compute(*arguments)

    monkeypatch.setattr(reference_module, "_compute", counted)
    for out, parent in (("a", "base"), ("b", "base")):
        optimise_preferences(
            folder / parent, data.path, config, Job(tmp_path / out, tmp_path / "work", Progress(), seed=0)
        )
    assert len(computed) == 1
    (cache,) = (tmp_path / "work").glob("reference-*")
    file = cache / "log_probs.npy"
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\0")
    optimise_preferences(
        folder / "base", data.path, config, Job(tmp_path / "c", tmp_path / "work", Progress(), seed=0)
    )
    assert len(computed) == 2
    with pytest.raises(HanlinError, match="model"):  # its checkpoints are of the other one as well
        optimise_preferences(
            tmp_path / "a", data.path, config, Job(tmp_path / "d", tmp_path / "work", Progress(), seed=0)
        )
    assert len(computed) == 3 and len(list((tmp_path / "work").glob("reference-*"))) == 2


@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_a_killed_run_goes_on_to_the_same_bits(world, tmp_path, kind, monkeypatch):
    folder = world[0]
    path = write_stage(tmp_path, folder, kind, steps=5)
    run_stage("preference", path, tmp_path / "whole")
    dispatch_step = Trainer.dispatch_step

    def until(self, step):
        if step == 3:
            self.save(wait=True)
            raise Interrupted(2)
        return dispatch_step(self, step)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "dispatch_step", until)
        with pytest.raises(Interrupted):
            run_stage("preference", path, tmp_path / "killed")
    monkeypatch.setattr(reference_module, "_compute", None)  # it is there already
    run_stage("preference", path, tmp_path / "killed")
    whole, killed = (load_model(tmp_path / name).state_dict() for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


# ---------------------------------------------------------------- KTO


def labelled_source(world) -> LabelledSource:
    """With a reference that is another model."""
    _, tokenizer, _, _, data = world
    source = LabelledSource(data, PreferenceConfig(seq_len=64, pairs=8, loss=KTO()), 0)
    source.reference = ReferenceModel(tiny_model("qwen3", tokenizer, seed=9, hidden_size=32))
    return source


def test_z_is_the_mean_log_ratio_of_answers_to_other_prompts(world):
    _, tokenizer, model, _, data = world
    source = labelled_source(world)
    other = source.reference.model
    kept = [tokenizer.decode(data.document(2 * row).tolist()) for row in range(len(data) // 2)]
    total = 0.0
    for row in source.numbers(0):
        ids = torch.tensor(data.document(2 * row + 1).astype(np.int64))
        mask = data.mask[data.starts[2 * row + 1] : data.starts[2 * row + 2]]
        text = tokenizer.decode(ids.tolist())
        asked = text.partition("<|im_start|>assistant")[0]
        assert kept[row].startswith(asked) and text != kept[row]
        for sign, policy in ((1, model), (-1, other)):
            said = torch.log_softmax(policy(ids[None])[0], -1)
            total += sign * sum(said[i - 1, ids[i]].item() for i in range(1, len(ids)) if mask[i])
    (batch,) = source.micro_batches(0, model)
    assert batch.kl.item() == pytest.approx(max(0.0, total / 8), rel=1e-4, abs=1e-5)
    assert batch.good.tolist() == [LABELLED[document // 2]["label"] for document in batch.documents]


def test_z_is_that_of_the_step_however_it_is_cut(world):
    """Shards, halves for want of memory, single answers: the same z in every bit, the same gradient."""
    _, _, model, _, _ = world
    source = labelled_source(world)
    source.reference.model, policy = model, source.reference.model  # so that z is not clamped at 0
    (whole,) = source.micro_batches(0, policy)
    if not float(whole.kl):
        source.reference.model, policy = policy, model
        (whole,) = source.micro_batches(0, policy)
    assert float(whole.kl) > 0
    objective = LabelledObjective(KTO(desirable_weight=1.3), source.reference)
    expected = gradients(policy, objective, [whole])
    shards = [source.micro_batches(0, policy, DataShard(rank, 3))[0] for rank in range(3)]
    alone = [source.pack_labelled([document], whole.kl) for document in whole.documents]
    for parts in (shards, whole.split(), alone):
        assert all(torch.equal(part.kl, whole.kl) for part in parts)
        assert sum(objective.num_items(part) for part in parts) == objective.num_items(whole) == 8
        assert same(expected, gradients(policy, objective, parts))


def test_pairs_are_taken_apart_for_kto(world, tmp_path):
    _, tokenizer, _, _, _ = world
    records = [{"prompt": f"{n}？", "chosen": "是", "rejected": "不是"} for n in range(4)]
    data = build_labelled_dataset(records, tokenizer, tmp_path / "d", max_length=64)
    assert data.manifest.metrics["good"] == data.manifest.metrics["bad"] == 4
    assert np.load(data.path / "labels.npy").tolist() == [True, False] * 4


# ---------------------------------------------------------------- the command


def write_stage(target: Path, folder: Path, loss, steps: int = 1, **changes) -> Path:
    """A stage's YAML beside its data."""
    kto = loss == "kto"
    records = LABELLED if kto else [json.loads(x) for x in (folder / "pairs.jsonl").read_text().splitlines()]
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    (target / "data.jsonl").write_text(lines, encoding="utf-8")
    section = {
        "from": str(folder / "base"),
        "data": {"files": [str(target / "data.jsonl")]},
        "loss": loss,
        "seq_len": 64,
        "pairs": 4,
        "train": {"steps": steps, "muon": False, "learning_rate": 1e-3, "checkpoint_seconds": 0},
    }
    (target / "stage.yaml").write_text(yaml.safe_dump(section | changes), encoding="utf-8")
    return target / "stage.yaml"


@pytest.mark.parametrize("kind", list(LOSSES))
def test_the_command_knows_every_loss_by_its_name(world, tmp_path, kind):
    run_stage("preference", write_stage(tmp_path, world[0], kind), tmp_path / "out")
    assert load_model(tmp_path / "out").config.hidden_size == 32
    assert not (tmp_path / ".out.work").exists()


def test_a_loss_is_named_alone_or_with_its_parameters(world, tmp_path):
    def loss_of(loss, **changes):
        path = write_stage(tmp_path, world[0], loss, **changes)
        return load_stage_file("preference", path).stage.loss

    assert loss_of("simpo") == LOSSES.get("simpo")()
    assert loss_of({"kind": "simpo", "gamma_ratio": 0.3}).gamma_ratio == 0.3
    assert loss_of({"beta": 0.7}) == DPO(beta=0.7)
    assert loss_of("ipo", beta=0.2) == LOSSES.get("ipo")(beta=0.2)
    assert loss_of("dpo", length_normalized=False, sft_weight=1.0) == DPO(
        length_normalized=False, sft_weight=1.0
    )
    for loss, changes, said in (
        ("simp", {}, "no preference loss 'simp'. Did you mean simpo"),
        (
            {"kind": "simpo", "gama_ratio": 1},
            {},
            "unknown key loss.gama_ratio. Did you mean",
        ),
        ({"kind": "cdpo", "label_smoothing": 0.5}, {}, "label_smoothing is 0.5"),
        ("kto", {"length_normalized": True}, "length_normalized is set, and loss kto has no such setting"),
        ("dpo", {"beta": 0}, "beta is 0.0"),
    ):
        with pytest.raises(HanlinError) as caught:
            loss_of(loss, **changes)
        assert said in caught.value.en


@pytest.mark.parametrize("language", ["zh", "en"])
def test_the_page_lists_every_loss_with_its_defaults(language):
    page = (Path(__file__).parents[2] / "docs" / language / "preference.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w-]+)` \| \S.* \| (`beta`[^|]*) \| [^|]+ \|$", page, re.M)
    listed = {kind: dict(re.findall(r"`(\w+)` ([\w.]+)", said)) for kind, said in rows}
    plain = {"kind", "sft_weight", "length_normalized"}  # of any loss; told where they are not off
    for kind in LOSSES:
        loss = LOSSES.get(kind)()
        values = {f.name: getattr(loss, f.name) for f in dataclasses.fields(loss) if f.name != "kind"}
        told = {name: value for name, value in values.items() if value or name not in plain}
        assert listed.pop(kind) == {name: str(value).lower() for name, value in told.items()}
    assert not listed


def test_a_loss_in_a_file_of_ones_own_is_known(world, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import dataclasses\n"
        "from hanlin.stages.preference.loss import PairLoss, register_loss\n"
        "@register_loss\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Mine(PairLoss):\n"
        "    kind: str = 'mine-of-a-test'\n"
        "    def compare(self, chosen, rejected):\n"
        "        margin = self.beta * (chosen.log_ratio - rejected.log_ratio)\n"
        "        return (1 - margin).square(), margin\n",
        encoding="utf-8",
    )
    kind = "mine-of-a-test"
    path = write_stage(tmp_path, world[0], {"kind": kind, "beta": 0.5}, extensions=["mine.py"])
    try:
        run_stage("preference", path, tmp_path / "out")
    finally:
        LOSSES._kinds.pop(kind, None)
    assert (tmp_path / "out").exists()


# ---------------------------------------------------------------- harm


@pytest.fixture(scope="module")
def many(world):
    """More pairs than a verdict needs."""
    records = [{"prompt": f"{n}？", "chosen": f"是{n}，小明在。", "rejected": f"{n}不"} for n in range(60)]
    return records, build_pair_dataset(records, world[1], world[0] / "many", max_length=64)


def test_chosen_answers_that_fall_and_replies_that_repeat_are_shown(world, many):
    _, tokenizer, model, _, _ = world
    _, data = many
    chosen = range(0, len(data), 2)
    same = harm(model, model, tokenizer, data, chosen)
    refuse_harm(same, "dpo")
    assert set(same) == {BITS, REPETITION} and same[BITS][0].value == same[BITS][1].value
    expected = []
    for document in chosen:
        ids = torch.tensor(data.document(document).astype(np.int64))
        mask = torch.tensor(np.array(data.mask[data.starts[document] : data.starts[document + 1]]))[1:]
        said = torch.log_softmax(model(ids[None])[0, :-1], -1).gather(1, ids[1:, None])[:, 0]
        expected.append(-said[mask > 0].sum().item() / np.log(2))
    tokens = data.mask.reshape(-1)
    tokens = sum(int(tokens[data.starts[d] : data.starts[d + 1]].sum()) for d in chosen)
    assert same[BITS][1].value == pytest.approx(sum(expected) / tokens, rel=1e-4)
    assert same[BITS][2] == pytest.approx(same[BITS][1].value / 10)

    worse = copy.deepcopy(model)
    with torch.no_grad():
        worse.model.embed_tokens.weight.mul_(30.0)  # surer of what it says, and so more wrong about these
    fallen = harm(model, worse, tokenizer, data, chosen)
    with pytest.raises(HanlinError, match=f"is not published: .*{BITS} went from"):
        refuse_harm(fallen, "dpo")
    assert BITS not in harm(model, worse, tokenizer, data, chosen, falls=True)


def test_a_reply_that_repeats_itself_twice_as_much_is_refused():
    ids = tuple(map(str, range(200)))

    def repeats(share):
        return Metric.mean(share + np.arange(200) % 2 / 50, ids=ids, higher_is_better=False)

    for before, after, refused in (
        (0.1, 0.15, False),
        (0.1, 0.3, True),
        (0.0, 0.005, False),
        (0.0, 0.2, True),
    ):
        guards = {REPETITION: (repeats(after), repeats(before), max(repeats(before).value, 0.01))}
        if refused:
            with pytest.raises(HanlinError, match=REPETITION):
                refuse_harm(guards, "dpo")
        else:
            refuse_harm(guards, "dpo")


def test_the_command_publishes_nothing_that_does_harm(world, many, tmp_path):
    """At far too high a learning rate without an anchor the margin grows while both answers fall."""
    train = {"steps": 6, "muon": False, "learning_rate": 0.3}
    path = write_stage(tmp_path, world[0], "hinge", train=train, pairs=20)
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in many[0])
    (tmp_path / "data.jsonl").write_text("".join(lines), encoding="utf-8")
    with pytest.raises(HanlinError, match="is not published") as caught:
        run_stage("preference", path, tmp_path / "out")
    assert not (tmp_path / "out").exists() and "\n" not in caught.value.en
    run_stage("preference", path, tmp_path / "out", ["refuse_harm=false"])
    assert (tmp_path / "out").exists()


# ---------------------------------------------------------------- data that cannot be used


def test_labels_go_to_kto_alone(world, tmp_path):
    _, tokenizer, _, _, _ = world
    with pytest.raises(HanlinError, match="loss: kto"):
        build_pair_dataset(LABELLED, tokenizer, tmp_path / "d", max_length=64)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("label", ["maybe", None, 1])
def test_a_label_that_is_neither_true_nor_false_is_counted_and_told(world, tmp_path, label, caplog):
    path = write_stage(tmp_path, world[0], "kto")
    file = tmp_path / "data.jsonl"
    file.write_text(file.read_text() + json.dumps({**LABELLED[0], "label": label}) + "\n")
    run_stage("preference", path, tmp_path / "out")
    assert f"label {label!r} is neither true nor false" in caplog.text
    file.write_text(json.dumps({**LABELLED[0], "label": label}) + "\n")
    with pytest.raises(HanlinError, match="neither true nor false"):
        run_stage("preference", path, tmp_path / "other")


@pytest.mark.parametrize(
    "records,said",
    [
        ([record for record in LABELLED if record["label"]], "12 usable answers 12 are labelled true"),
        ([{**record, "prompt": "一样"} for record in LABELLED], "All answers belong to one prompt"),
        ([{**record, "prompt": "长" * 99} for record in LABELLED[:2]], "one prompt|are longer than 64"),
    ],
)
def test_labels_that_tell_nothing_apart_are_refused(world, tmp_path, records, said):
    with pytest.raises(HanlinError, match=said):
        build_labelled_dataset(records, world[1], tmp_path / "d", max_length=64)
    assert not (tmp_path / "d").exists()


def test_equal_answers_are_counted_and_kept(world, tmp_path):
    tokenizer = world[1]
    equal = [{"prompt": "好吗？", "chosen": "好", "rejected": "好"}]
    told = []

    class Heard(Progress):
        def note(self, template, **fields):
            told.append(template.format(**fields))

    some = build_pair_dataset(
        [*equal, {"prompt": "好吗？", "chosen": "好", "rejected": "坏"}],
        tokenizer,
        tmp_path / "some",
        max_length=64,
    )
    say_equal_pairs(some, Heard(), anchored=False)
    assert len(some) == 4 and told[0].startswith("1 of 2 pairs have the same answer")
    every = build_pair_dataset(equal, tokenizer, tmp_path / "every", max_length=64)
    say_equal_pairs(every, Heard(), anchored=True)
    with pytest.raises(HanlinError, match="nothing to prefer"):
        say_equal_pairs(every, Heard(), anchored=False)


def test_an_answer_that_was_cut_away_is_refused(world, tmp_path):
    _, _, _, data, _ = world
    whole = TokenDataset(data.path)
    require_answers(whole)
    whole.mask = np.array(whole.mask)
    whole.mask[whole.starts[3] : whole.starts[4]] = 0
    with pytest.raises(HanlinError, match="1 answers .* the first in document 3"):
        require_answers(whole)


def test_labelled_records_are_judged_good_beside_bad(world, tmp_path):
    tokenizer = world[1]
    data = build_heldout_pairs(LABELLED, tokenizer, tmp_path / "d", max_length=64)
    texts = [tokenizer.decode(data.document(index).tolist()) for index in range(len(data))]
    assert len(texts) == 2 * sum(not record["label"] for record in LABELLED)
    assert all("学校。" in text for text in texts[0::2]) and all("12345" in text for text in texts[1::2])
