"""Compiling is decided by arithmetic, from what does not change when a run goes on."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from hanlin.training import compiling
from tests.support import tiny_model

CPU = torch.device("cpu")


def batch(rows: int, length: int) -> SimpleNamespace:
    return SimpleNamespace(ids=torch.zeros(rows, length, dtype=torch.int64))


def test_long_runs_compile_and_short_ones_do_not(monkeypatch):
    monkeypatch.setattr(compiling, "compiler_present", lambda device: True)
    model = tiny_model("qwen3")
    per_step = model.config.flops_per_token(64) * 4 * 64
    enough = int(2e14 / per_step) + 1
    assert compiling.compiling_pays(model, [batch(4, 64)], enough, CPU)
    assert not compiling.compiling_pays(model, [batch(4, 64)], enough // 2, CPU)
    assert compiling.compiling_pays(model, [batch(4, 64)] * 2, enough // 2 + 1, CPU)
    assert not compiling.compiling_pays(model, [batch(4, 64), batch(3, 64)], enough, CPU)  # each shape would compile again


def test_without_a_compiler_nothing_is_compiled(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert not compiling.compiler_present(CPU)
    assert not compiling.compiling_pays(tiny_model("qwen3"), [batch(4, 64)], 10**12, CPU)
