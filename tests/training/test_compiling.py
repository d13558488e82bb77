"""Compiling is decided by arithmetic, from what does not change when a run goes on."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from hanlin.common.progress import Progress
from hanlin.training import TrainConfig, compilation
from tests.support import tiny_model

CPU = torch.device("cpu")


def batch(rows: int, length: int) -> SimpleNamespace:
    return SimpleNamespace(ids=torch.zeros(rows, length, dtype=torch.int64))


def test_long_runs_compile_and_short_ones_do_not(monkeypatch):
    monkeypatch.setattr(compilation, "compiler_present", lambda device: True)
    model = tiny_model("qwen3")
    per_step = model.config.flops_per_token(64) * 4 * 64
    enough = int(2e14 / per_step) + 1
    assert compilation.compiling_pays(model, [batch(4, 64)], enough, CPU)
    assert not compilation.compiling_pays(model, [batch(4, 64)], enough // 2, CPU)
    assert compilation.compiling_pays(model, [batch(4, 64)] * 2, enough // 2 + 1, CPU)
    # each shape would compile again
    assert not compilation.compiling_pays(model, [batch(4, 64), batch(3, 64)], enough, CPU)


def test_a_run_compiles_when_all_its_processes_would(monkeypatch):
    """By the same rule for one process and for several, sharded or not; one that has no compiler keeps the
    others from it."""
    for sharded in (False, True):
        for others, wanted in (([True, True], True), ([True, False], False)):
            asked = []
            group = SimpleNamespace(all_gather_object=lambda own, others=others: [own, *others[1:]])
            strategy = SimpleNamespace(sharded=sharded, can_compile=True, group=group)
            model = SimpleNamespace(compile_decoder=lambda by_block, asked=asked: asked.append(by_block))
            monkeypatch.setattr(compilation, "compiling_pays", lambda *arguments: True)
            config = TrainConfig(compile="auto", steps=10)
            compiled = compilation.agree_to_compile(config, True, model, [], strategy, CPU, Progress())  # type: ignore[arg-type]
            assert compiled is wanted and asked == ([sharded] if wanted else [])


def test_without_a_compiler_nothing_is_compiled(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert not compilation.compiler_present(CPU)
    assert not compilation.compiling_pays(tiny_model("qwen3"), [batch(4, 64)], 10**12, CPU)
