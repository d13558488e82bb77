"""float16 with a loss scale: the scale follows torch's rule, an overflow is no bad step, and a resumed run
has the same bits."""

from __future__ import annotations

import dataclasses
import itertools

import orjson
import pytest
import torch

from hanlin.common.devices import CAPABILITIES
from hanlin.common.messages import Text
from hanlin.common.progress import Progress
from hanlin.common.tracking import MetricsLog
from hanlin.dataset import TextRows, TokenDataset
from hanlin.stages.supervised import NextTokenLoss, RowSource, SupervisedConfig
from hanlin.tokenizer import load_tokenizer
from hanlin.tokenizer.token_bytes import token_bytes
from hanlin.training import TrainConfig, precision, train
from hanlin.training.hooks import LogHook
from hanlin.training.optim.optimizers import Optimizers, orthogonalize
from hanlin.training.precision import INITIAL, GradientScaler, skips_on_device
from hanlin.training.trainer import Trainer
from tests.support import tiny_model
from tests.training.zygote import build_world

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("precision")
    build_world(folder)
    return folder, load_tokenizer(folder / "tokenizer")


@pytest.fixture
def half(monkeypatch):
    """The CPU's row with float16 in it: slow, and real float16 arithmetic."""
    monkeypatch.setitem(CAPABILITIES, "cpu", dataclasses.replace(CAPABILITIES["cpu"], train_dtype="float16"))


class Told(Progress):
    def __init__(self):
        self.warnings: list[str] = []

    def warn(self, message, /, **fields):
        self.warnings.append(Text.of(message, **fields).en)


def run(world, work, steps, *, progress=None, log=None, learning_rate=3e-3):
    folder, tokenizer = world
    model = tiny_model("qwen3", tokenizer, hidden_size=32)
    settings = TrainConfig(
        steps=12,
        learning_rate=learning_rate,
        permanent_checkpoint_interval=4,
        checkpoint_seconds=1e9,
        compile=False,
    )
    config = SupervisedConfig(settings, seq_len=64, batch_tokens=256, micro_tokens=128)
    source = RowSource(TextRows(TokenDataset(folder / "text"), 64, 5), config)
    objective = NextTokenLoss(token_bytes(tokenizer), 1e-4)
    if steps == 12:
        return model, train(model, source, objective, config.train, work, progress or Progress(), log=log)

    class Part(Trainer):
        """Leaves off after so many steps, in the middle of its schedule."""

        def remaining_steps(self, stop_requested):
            return itertools.takewhile(lambda step: step < steps, super().remaining_steps(stop_requested))

    part = Part(model, source, objective, config.train, work, progress or Progress())
    part.add_hook(LogHook(log or MetricsLog(None)))
    part.run()
    part.save(wait=True)
    return model, part


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


# ---------------------------------------------------------------- the scale


def test_the_scale_follows_torch(monkeypatch):
    """Beside `torch.amp.GradScaler` on 200 steps, one in fourteen of which overflows."""
    monkeypatch.setattr(precision, "GROWTH_INTERVAL", 8)
    ours, theirs = GradientScaler(CPU, True), torch.amp.GradScaler("cpu", growth_interval=8)
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    generator, overflows = torch.Generator().manual_seed(3), 0
    for _ in range(200):
        bad = float(torch.rand((), generator=generator)) < 1 / 14
        gradient = torch.tensor([1.0, -2.0, float("inf") if bad else 0.5])
        theirs.scale(torch.zeros(()))
        parameter.grad = gradient * theirs.get_scale()
        theirs.unscale_(optimizer)
        parameter.grad = gradient * ours.scale
        ours.unscale_([parameter])
        assert bad or torch.equal(parameter.grad, gradient)
        theirs.step(optimizer)
        theirs.update()
        assert bool(ours.judge(torch.ones(()), parameter.grad.norm())) == bad
        overflows += bad
        assert float(ours.scale) == theirs.get_scale() > 1
        assert int(ours.overflows) == overflows
    assert 8 < overflows < 25


def test_a_loss_that_is_not_finite_is_no_overflow_and_a_scale_of_one_has_none():
    infinite, one = torch.tensor(float("inf")), torch.ones(())
    scaler = GradientScaler(CPU, True)
    assert not scaler.judge(infinite, infinite) and float(scaler.scale) == INITIAL
    for _ in range(16):
        assert scaler.judge(one, infinite)
    assert float(scaler.scale) == 1.0
    assert not scaler.judge(one, infinite) and float(scaler.scale) == 1.0 and int(scaler.overflows) == 16


def test_without_float16_nothing_is_touched():
    scaler = GradientScaler(CPU, False)
    loss, parameter = torch.ones((), requires_grad=True), torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.full((2,), float("inf"))
    scaler.unscale_([parameter])
    assert scaler.scaled(loss) is loss and not scaler.judge(loss, torch.tensor(float("nan")))
    assert scaler.metrics() == {} and scaler.state() is None
    scaler.load({"scale": 2.0, "good": 1, "overflows": 0})
    assert float(scaler.scale) == 1.0


def test_the_host_waits_for_nothing():
    """A tensor on the meta device has no value to be read: whoever asks for one fails."""
    meta = torch.device("meta")
    scaler = GradientScaler(meta, True)
    parameter = torch.nn.Parameter(torch.ones(2, device=meta))
    parameter.grad = torch.ones(2, device=meta)
    loss = scaler.scaled(torch.ones((), device=meta))
    scaler.unscale_([parameter])
    overflow = scaler.judge(loss, torch.linalg.vector_norm(parameter.grad))
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(overflow)


def test_small_gradients_survive_in_float16():
    """A gradient of 2⁻³⁰ is zero in float16, and exact with the scale."""
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    for scaler, expected in ((GradientScaler(CPU, False), 0.0), (GradientScaler(CPU, True), 2.0**-30)):
        weight.grad = None
        scaler.scaled((weight.half() * 2.0**-10).float().sum() * 2.0**-20).backward()
        scaler.unscale_([weight])
        assert weight.grad is not None and float(weight.grad) == expected


# ---------------------------------------------------------------- in the loop


def test_float16_learns_like_float32(world, tmp_path, monkeypatch):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    _, wide = run(world, tmp_path / "wide", 12)
    monkeypatch.setitem(CAPABILITIES, "cpu", dataclasses.replace(CAPABILITIES["cpu"], train_dtype="float16"))
    _, narrow = run(world, tmp_path / "narrow", 12, log=log)
    log.close()
    lines = [orjson.loads(line) for line in (tmp_path / "metrics.jsonl").read_bytes().splitlines()]
    assert len(lines) == 12 and {"loss_scale", "overflows"} <= lines[-1].keys()
    assert narrow.skipped == 0
    assert narrow.last["loss"] == pytest.approx(wide.last["loss"], rel=0.02)
    assert narrow.last["loss"] < 0.9 * lines[0]["loss"]


def test_overflows_are_left_out_and_never_roll_back(world, tmp_path, half, monkeypatch):
    """From a scale far too large: each overflow halves it and changes no weight; none of them is a bad
    step."""
    monkeypatch.setattr(precision, "INITIAL", 2.0**30)
    progress, log = Told(), MetricsLog(tmp_path / "metrics.jsonl")
    model, result = run(world, tmp_path / "work", 12, progress=progress, log=log)
    log.close()
    lines = [orjson.loads(line) for line in (tmp_path / "metrics.jsonl").read_bytes().splitlines()]
    overflows = int(lines[-1]["overflows"])
    assert 3 <= overflows < 12  # three bad steps would have sent it back to the beginning
    assert result.skipped == 0 and progress.warnings == []
    assert lines[-1]["loss_scale"] == 2.0 ** (30 - overflows)
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())
    assert not (tmp_path / "work" / "spikes.jsonl").exists()


def test_an_overflow_changes_no_bit(world, tmp_path, half, monkeypatch):
    monkeypatch.setattr(precision, "INITIAL", 2.0**39)
    folder, tokenizer = world
    before = weights(tiny_model("qwen3", tokenizer, hidden_size=32))
    model, part = run(world, tmp_path / "work", 2)
    assert float(part.scaler.scale) == 2.0**37 and int(part.scaler.overflows) == 2
    assert all(torch.equal(before[name], value) for name, value in weights(model).items())
    assert (
        not any(bool(value.any()) for value in part.optimizers.state_tensors().values())
        and int(part.guard.count) == 0
    )


def test_a_resumed_run_has_the_same_bits(world, tmp_path, half, monkeypatch):
    """Interrupted between overflows and between doublings, so that scale and count both matter."""
    monkeypatch.setattr(precision, "INITIAL", 2.0**27)
    monkeypatch.setattr(precision, "GROWTH_INTERVAL", 3)
    straight, _ = run(world, tmp_path / "straight", 12)
    for stop in (1, 4, 8):
        run(world, tmp_path / "parts", stop)
    resumed, _ = run(world, tmp_path / "parts", 12)
    first, second = weights(straight), weights(resumed)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_checkpoint_of_another_precision_is_taken(world, tmp_path, monkeypatch):
    run(world, tmp_path / "work", 4)
    monkeypatch.setitem(CAPABILITIES, "cpu", dataclasses.replace(CAPABILITIES["cpu"], train_dtype="float16"))
    _, part = run(world, tmp_path / "work", 6)
    assert part.state.step == 6 and float(part.scaler.scale) > 1


# ---------------------------------------------------------------- what a device has to be able to do


def test_fused_adamw_here_leaves_a_bad_step_alone():
    skips_on_device.cache_clear()
    assert skips_on_device(CPU)


def test_where_it_does_not_the_host_reads_the_verdict(world, tmp_path, monkeypatch):
    """An AdamW that knows nothing of `found_inf`, as some devices' may: found out, and weights stay sound
    all the same."""
    sound = torch.optim.AdamW.step

    def deaf(self, closure=None):
        self.__dict__.pop("found_inf", None)
        return sound(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", deaf)
    skips_on_device.cache_clear()
    assert not skips_on_device(CPU)
    model = tiny_model("qwen3", world[1], hidden_size=32)
    optimizers = Optimizers(model, learning_rate=1e-2)
    before = weights(model)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    bad = torch.ones((), dtype=torch.bool)
    optimizers.step(1.0, bad if skips_on_device(CPU) else bad.cpu())
    assert all(torch.equal(before[name], value) for name, value in weights(model).items())
    skips_on_device.cache_clear()


@pytest.mark.parametrize("dtype, kept", [("bfloat16", False), ("float16", True), ("float32", True)])
def test_muon_takes_bfloat16_only_where_it_is_the_training_type(dtype, kept, monkeypatch):
    torch.manual_seed(0)
    matrices = torch.randn(2, 24, 40)
    wide = orthogonalize(matrices)
    monkeypatch.setitem(CAPABILITIES, "cpu", dataclasses.replace(CAPABILITIES["cpu"], train_dtype=dtype))
    assert torch.equal(orthogonalize(matrices), wide) == kept
