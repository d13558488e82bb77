"""Bad steps and too little memory: nothing is touched, the same samples are used, and who was to blame is
named."""

from __future__ import annotations

import json
import math

import pytest
import torch

from hanlin.cli.inspect import spike
from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text
from hanlin.common.progress import Progress
from hanlin.dataset import Batch, ConversationRows, TextRows, TokenDataset
from hanlin.inference import Engine
from hanlin.model import RewardModel
from hanlin.stages.grpo import GRPOConfig, GRPOLoss, RolloutSource
from hanlin.stages.pairs import PairSource
from hanlin.stages.preference.objective import PairObjective
from hanlin.stages.preference.stage import PreferenceConfig
from hanlin.stages.reward_model import PairwiseRewardLoss, RewardConfig
from hanlin.stages.supervised import NextTokenLoss, RowSource, SupervisedConfig
from hanlin.tokenizer import load_tokenizer
from hanlin.tokenizer.token_bytes import token_bytes
from hanlin.training import Objective, TrainConfig, train
from hanlin.training.optim.optimizers import Optimizers
from hanlin.training.spikes import write_run_file
from hanlin.training.trainer import Trainer
from tests.support import ReferenceModel, tiny_model
from tests.training.zygote import TALKS, build_world, poison

pytestmark = pytest.mark.usefixtures("one_thread")


class Told(Progress):
    """Keeps what was said."""

    def __init__(self):
        self.warnings: list[str] = []

    def warn(self, message, /, **fields):
        self.warnings.append(Text.of(message, **fields).en)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guards")
    build_world(folder)
    return folder, load_tokenizer(folder / "tokenizer")


def section(steps=12, micro=256, batch=256, **options):
    options = {"checkpoint_seconds": 1e9, "permanent_checkpoint_interval": 4, **options}
    return SupervisedConfig(
        TrainConfig(steps=steps, learning_rate=3e-3, **options),
        seq_len=64,
        batch_tokens=batch,
        micro_tokens=micro,
    )


def setting(world, config):
    folder, tokenizer = world
    model = tiny_model("qwen3", tokenizer, hidden_size=32)
    return (
        model,
        RowSource(TextRows(TokenDataset(folder / "text"), 64, 5), config),
        NextTokenLoss(token_bytes(tokenizer), 1e-4),
    )


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def equal(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


# ---------------------------------------------------------------- bad steps


@pytest.mark.parametrize("on_device", [True, False])
@pytest.mark.parametrize("muon", [True, False])
def test_a_bad_step_changes_no_bit(muon, on_device):
    """Parameters, momenta, moments and AdamW's count, with NaN and Inf in the gradients; negative zeros
    included.

    A CPU reads the verdict; `on_device` goes the way of an accelerator, where it is never read.
    """
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"embed_tokens": torch.nn.Embedding(7, 8), "up": torch.nn.Linear(8, 8)})
    optimizers = Optimizers(model, learning_rate=0.1, muon=muon, weight_decay=0.1)

    def gradients(*values):
        for parameter, value in zip(model.parameters(), values, strict=True):
            parameter.grad = torch.randn_like(parameter) * value

    def step(bad):
        if on_device:
            for optimizer in optimizers.all:
                optimizer.found_inf = torch.tensor(float(bad))  # type: ignore[attr-defined]
                optimizer.step()
        else:
            optimizers.step(1.0, torch.tensor(bad))

    gradients(1.0, 1.0, 1.0)
    step(False)
    with torch.no_grad():
        model["up"].weight[0, :4] = -0.0
    before = {**weights(model), **{name: value.clone() for name, value in optimizers.state_tensors().items()}}
    gradients(math.nan, math.inf, 1.0)
    step(True)
    after = {**weights(model), **optimizers.state_tensors()}
    assert before.keys() == after.keys() and len(before) > 6
    assert all(before[name].numpy().tobytes() == after[name].numpy().tobytes() for name in before)
    gradients(1.0, 1.0, 1.0)
    step(False)
    assert not equal(before, weights(model) | optimizers.state_tensors())


def test_a_skipped_step_is_as_if_its_samples_had_not_been(world, tmp_path):
    config = section(steps=4)
    model, source, objective = setting(world, config)
    result = train(
        model, source, poison(objective, source, range(2, 3)), config.train, tmp_path / "a", Progress()
    )
    assert result.skipped == 1
    clean, other, objective = setting(world, config)
    schedule = [0, 1, 3]  # the rate of step 2 was never used; a run of constant rate shows the rest
    flat = TrainConfig(steps=4, learning_rate=3e-3, schedule="constant", warmup_ratio=0.0, decay_ratio=0.0)
    model, source, poisoned = setting(world, config)
    train(model, source, poison(poisoned, source, range(2, 3)), flat, tmp_path / "b", Progress())
    read = other.micro_batches
    other.micro_batches = lambda step, model, shard: read(schedule[step], model)  # type: ignore[method-assign]
    train(
        clean,
        other,
        objective,
        TrainConfig(steps=3, learning_rate=3e-3, schedule="constant", warmup_ratio=0.0, decay_ratio=0.0),
        tmp_path / "c",
        Progress(),
    )
    assert equal(weights(model), weights(clean))


@pytest.mark.parametrize("later", [False, True])
def test_three_bad_steps_roll_back_and_skip_their_samples(world, tmp_path, later, monkeypatch):
    """Bit for bit the run that never saw the samples between the anchor and the last bad step; figures read
    at once, or a step later."""
    monkeypatch.setattr("hanlin.training.trainer._reads_later", lambda device: later)
    config, told = section(), Told()
    model, source, objective = setting(world, config)
    result = train(model, source, poison(objective, source, range(5, 8)), config.train, tmp_path / "a", told)
    assert result.skipped == 3
    assert "back to step 4, leaving out the data of the 4 steps" in told.warnings[-1]
    clean, source, objective = setting(world, config)
    read = source.micro_batches
    source.micro_batches = lambda step, model, shard: read(step if step < 4 else step + 4, model)  # type: ignore[method-assign]
    train(clean, source, objective, config.train, tmp_path / "b", Progress())
    assert equal(weights(model), weights(clean))


def test_a_second_rollback_to_the_same_place_ends_the_run(world, tmp_path):
    config = section()
    model, source, objective = setting(world, config)
    with pytest.raises(HanlinError, match="(?s)learning_rate.*inspect spike"):
        train(model, source, poison(objective, source, range(5, 14)), config.train, tmp_path, Progress())
    lines = [json.loads(line) for line in (tmp_path / "spikes.jsonl").read_text().splitlines()]
    assert [(line["step"], line["data"]) for line in lines] == [
        (5, 5),
        (6, 6),
        (7, 7),
        (4, 8),
        (5, 9),
        (6, 10),
    ]


def test_bad_steps_without_an_earlier_anchor_still_have_the_beginning(world, tmp_path):
    config = section(permanent_checkpoint_interval=100)
    model, source, objective = setting(world, config)
    result = train(model, source, poison(objective, source, range(0, 3)), config.train, tmp_path, Progress())
    assert result.skipped == 3 and math.isfinite(result.last["loss"])


def test_the_documents_of_a_bad_step_are_named_worst_first(world, tmp_path, capsys):
    """One document of random tokens among ordinary ones spikes the loss; the record and the command point at
    it."""
    folder, tokenizer = world
    config = section(steps=70, spike_sigma=6.0)
    model, source, objective = setting(world, config)
    read, garbled = source.micro_batches, []

    def micro_batches(step, model, shard):
        batches = read(step, model, shard)
        if step == 68:
            batch, owner = batches[0], 2
            garbled.append(batch.documents[owner])
            place = (batch.doc_ids == owner) & (batch.labels != -100)
            batch.labels[place] = torch.randint(
                0, tokenizer.vocab_size, (int(place.sum()),), generator=torch.Generator().manual_seed(0)
            )
            batch.labels[batch.doc_ids != owner] = -100
        return batches

    source.micro_batches = micro_batches  # type: ignore[method-assign]
    result = train(model, source, objective, config.train, tmp_path, Progress())
    assert result.skipped == 1
    write_run_file(tmp_path, folder / "text", folder / "tokenizer")
    spike(tmp_path, json=True)
    (entry,) = json.loads(capsys.readouterr().out)
    assert (
        entry["step"] == 68 and entry["reason"] in ("loss", "gradient") and max(entry["sigmas"].values()) > 6
    )
    worst, *others = entry["documents"]
    assert worst["document"] == garbled[0] and worst["loss"] > 3 > max(other["loss"] for other in others)
    assert (
        worst["text"] == tokenizer.decode(TokenDataset(folder / "text").document(garbled[0]).tolist())[:200]
    )
    spike(tmp_path, step=68)
    assert "小" in capsys.readouterr().out
    with pytest.raises(HanlinError, match="--step"):
        spike(tmp_path, step=3)
    with pytest.raises(HanlinError, match=str(tmp_path)):
        spike(tmp_path / "elsewhere")


def test_inspect_says_when_the_text_is_gone(world, tmp_path, capsys):
    config = section(steps=3)
    model, source, objective = setting(world, config)
    train(model, source, poison(objective, source, range(1, 2)), config.train, tmp_path, Progress())
    write_run_file(tmp_path, tmp_path / "moved", tmp_path / "gone")
    spike(tmp_path)
    assert str(tmp_path / "moved") in capsys.readouterr().out


@pytest.mark.parametrize("stage", ["text", "dpo", "reward", "grpo"])
def test_per_sequence_losses_add_up_to_the_objectives(world, stage):
    folder, tokenizer = world
    model = tiny_model("qwen3", tokenizer, hidden_size=32)
    if stage == "text":
        objective = NextTokenLoss(token_bytes(tokenizer))
        batch = TextRows(TokenDataset(folder / "text"), 64, 5).batch([3, 4, 5])
        expected = float(objective(model, batch)[1]["nll"])
        counts = [
            int(((batch.doc_ids == owner) & (batch.labels != -100)).sum())
            for owner in range(len(batch.documents))
        ]
    elif stage == "grpo":
        config = GRPOConfig(seq_len=64, prompts=4, group_size=4, max_new_tokens=20)
        objective = GRPOLoss(config, None)
        (batch,) = RolloutSource(
            TALKS, lambda record, text, opened: float(len(text) % 3), tokenizer, config, seed=0
        ).micro_batches(0, model)
        expected = float(objective(model, batch)[0])
        counts = [
            int(((batch.rows.doc_ids == owner) & (batch.rows.labels != -100)).sum())
            for owner in range(len(batch.documents))
        ]
    elif stage == "reward":
        config = RewardConfig(seq_len=128, pairs=3, centering=0.0)
        model, objective = RewardModel(model.config), PairwiseRewardLoss(config)
        torch.nn.init.normal_(model.score.weight, generator=torch.Generator().manual_seed(0))
        batch = PairSource(TokenDataset(folder / "pairs"), config, 0).pack(range(3))
        expected, counts = 2 * float(objective(model, batch)[0]), [1] * 6  # each pair is both its sides'
    else:
        config = PreferenceConfig(seq_len=128, pairs=3, sft_weight=1.0, beta=1.0)
        objective = PairObjective(config.loss, ReferenceModel(model))
        batch = PairSource(TokenDataset(folder / "pairs"), config, 0).pack(range(3))
        expected = float(objective(model, batch)[0]) - 3 * math.log(2)
        counts = [1 - document % 2 for document in batch.documents]  # the anchor is over chosen answers
    found = objective.per_sequence_loss(model, batch).tolist()
    assert sum(loss * count for loss, count in zip(found, counts, strict=True)) == pytest.approx(
        expected, rel=1e-4
    )


# ---------------------------------------------------------------- memory


class Limited(Objective):
    """An objective on a device with room for so many rows (or documents), and a list of the rows it saw."""

    def __init__(self, objective, room, error=None):
        self.objective, self.room, self.rows = objective, room, []
        self.error = error or torch.OutOfMemoryError("out of memory")

    def num_items(self, batch):
        return self.objective.num_items(batch)

    def __call__(self, model, batch):
        if len(batch.ids) > self.room:
            raise self.error
        self.rows.append(batch.ids)
        return self.objective(model, batch)


def gradients_of(model, source, objective, work, step=0):
    """Of one step, as the loop accumulates them."""
    model.zero_grad()
    trainer = Trainer(model, source, objective, TrainConfig(), work, Progress())
    found = trainer.gradients.accumulate(step, source.micro_batches(step, model))
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    return gradients, found.loss, found.metrics, found.batches


def difference(first, second):
    return max(float((first[name] - second[name]).abs().max()) for name in first)


CPU_MESSAGE = (
    "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 9 bytes"
)


@pytest.mark.parametrize("room", [1, 2, 4, 8])
@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(CPU_MESSAGE), MemoryError("none")],
    ids=["device", "cpu", "python"],
)
def test_less_memory_same_samples_same_gradients(world, tmp_path, room, error):
    config = section(micro=512, batch=512)
    model, source, objective = setting(world, config)
    whole, loss, figures, _ = gradients_of(model, source, objective, tmp_path)
    limited = Limited(objective, room, error)
    pieces, cut_loss, cut_figures, batches = gradients_of(model, source, limited, tmp_path)
    assert difference(whole, pieces) <= 1e-6
    assert float(cut_loss) == pytest.approx(float(loss), abs=1e-6)
    assert {name: float(value) for name, value in cut_figures.items()} == pytest.approx(
        {name: float(value) for name, value in figures.items()}, rel=1e-5
    )
    assert [len(batch.ids) for batch in batches] == [room] * (8 // room)
    seen = torch.cat(limited.rows[-len(batches) :])
    assert torch.equal(seen, source.micro_batches(0, model)[0].ids)
    documents = [document for batch in batches for document in batch.documents]
    assert documents == source.micro_batches(0, model)[0].documents


def test_what_memory_asked_for_is_remembered_and_said_once(world, tmp_path):
    config, told = section(steps=6, checkpoint_seconds=0.0), Told()
    model, source, objective = setting(world, config)
    train(model, source, Limited(objective, 2), config.train, tmp_path / "a", told)
    assert len(told.warnings) == 1 and "2 rows" in told.warnings[0]
    states = [
        json.loads((path / "state.json").read_text()) for path in sorted((tmp_path / "a").glob("step-*"))
    ]
    assert states[-1]["microbatch_halvings"] == 1
    roomy, source, objective = setting(world, config)
    train(roomy, source, objective, config.train, tmp_path / "b", Progress())
    first, second = weights(model), weights(roomy)
    assert difference(first, second) < 1e-4


def test_one_row_that_does_not_fit_is_explained(world, tmp_path):
    config = section()
    model, source, objective = setting(world, config)
    with pytest.raises(HanlinError, match="seq_len"):
        train(model, source, Limited(objective, 0), config.train, tmp_path, Progress())


def test_other_errors_are_not_taken_for_a_lack_of_memory(world, tmp_path):
    config = section()
    model, source, objective = setting(world, config)
    with pytest.raises(RuntimeError, match="shape"):
        train(
            model,
            source,
            Limited(objective, 0, RuntimeError("shape mismatch")),
            config.train,
            tmp_path,
            Progress(),
        )


@pytest.mark.parametrize("stage", ["sft", "dpo", "reward", "grpo"])
def test_batches_of_every_stage_can_be_cut(world, tmp_path, stage):
    """The same gradient from the pieces, down to those that cannot be cut again."""
    folder, tokenizer = world
    model = tiny_model("qwen3", tokenizer, hidden_size=32)
    reference = tiny_model("qwen3", tokenizer, seed=3, hidden_size=32)
    if stage == "sft":
        config = section(batch=512, micro=512)
        source, objective = (
            RowSource(ConversationRows(TokenDataset(folder / "talks"), 64, 1), config),
            NextTokenLoss(token_bytes(tokenizer), 1e-4),
        )
    elif stage == "dpo":
        config = PreferenceConfig(seq_len=64, pairs=6)
        source, objective = (
            PairSource(TokenDataset(folder / "pairs"), config, 0),
            PairObjective(config.loss, ReferenceModel(reference)),
        )
    elif stage == "reward":
        config = RewardConfig(seq_len=64, pairs=6)
        model = RewardModel(model.config)
        torch.nn.init.normal_(model.score.weight, generator=torch.Generator().manual_seed(0))
        source, objective = PairSource(TokenDataset(folder / "pairs"), config, 0), PairwiseRewardLoss(config)
    else:
        config = GRPOConfig(seq_len=64, prompts=4, group_size=4, max_new_tokens=20, kl_coef=0.1)
        source = RolloutSource(
            TALKS, lambda record, text, opened: float(len(text) % 3), tokenizer, config, seed=0
        )
        objective = GRPOLoss(config, reference)
    whole, loss, figures, (batch,) = gradients_of(model, source, objective, tmp_path)
    assert len(batch.ids) > 1, "else nothing is tested"
    pieces, cut_loss, cut_figures, batches = gradients_of(
        model, source, Limited(objective, len(batch.ids) // 2), tmp_path
    )
    assert len(batches) > 1 and difference(whole, pieces) <= 1e-6
    assert float(cut_loss) == pytest.approx(float(loss), abs=1e-6)
    assert {name: float(value) for name, value in cut_figures.items()} == pytest.approx(
        {name: float(value) for name, value in figures.items()}, rel=1e-4, abs=1e-4
    )
    assert sorted(d for piece in batches for d in piece.documents) == sorted(batch.documents)


def test_answers_are_the_same_when_memory_is_short_while_they_are_written(world, monkeypatch):
    _, tokenizer = world
    model, told = tiny_model("qwen3", tokenizer, hidden_size=32), Told()
    config = GRPOConfig(seq_len=64, prompts=4, group_size=4, max_new_tokens=20)

    def source(progress):
        return RolloutSource(
            TALKS,
            lambda record, text, opened: float(len(text) % 3),
            tokenizer,
            config,
            seed=0,
            progress=progress,
        )

    (whole,) = source(Progress()).micro_batches(0, model)
    room, once = 5, Engine.generate

    def crowded(self, prompts, params=None, on_token=None):
        if self.max_batch > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return once(self, prompts, params, on_token)

    monkeypatch.setattr(Engine, "generate", crowded)
    limited = source(told)
    (pieces,) = limited.micro_batches(0, model)
    assert torch.equal(whole.ids, pieces.ids) and torch.equal(whole.advantages, pieces.advantages)
    assert limited.at_once == 4 and len(told.warnings) == 2 and "4 at a time" in told.warnings[-1]
    room = 0
    with pytest.raises(HanlinError, match="seq_len"):
        limited.micro_batches(0, model)


def test_splitting_keeps_rows_documents_and_padding():
    doc_ids = torch.tensor([[0, 0, 1], [1, 2, -1], [3, -1, -1], [4, 4, 5]])
    batch = Batch(
        torch.arange(12).view(4, 3),
        torch.arange(12).view(4, 3),
        torch.zeros(4, 3),
        doc_ids,
        [10, 11, 12, 13, 14, 15],
    )
    first, second = batch.split()
    assert first.documents == [10, 11, 12] and second.documents == [13, 14, 15]
    assert second.doc_ids.tolist() == [[0, -1, -1], [1, 1, 2]] and first.doc_ids.tolist() == [
        [0, 0, 1],
        [1, 2, -1],
    ]
    assert torch.equal(torch.cat([first.ids, second.ids]), batch.ids)
    (alone,) = Batch(batch.ids[:1], batch.labels[:1], batch.positions[:1], doc_ids[:1], [10, 11]).split()
    assert alone.documents == [10, 11]
