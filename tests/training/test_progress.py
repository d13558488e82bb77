"""What is watched: every figure a step has is shown, in the reader's language, within the width of the
terminal."""

from __future__ import annotations

import io
import time

import pytest
import torch
from rich.console import Console

from hanlin.common import terminal
from hanlin.common.devices import matmul_peak
from hanlin.common.progress import LiveProgress, PlainProgress, describe, panel
from hanlin.training.metrics import cost_metrics
from tests.support import tiny_model

FIGURES = {
    "loss": 3.2134,
    "bits_per_byte": 1.2345,
    "tokens_per_second": 12345.6,
    "mfu": 0.412,
    "memory_mb": 812.3,
    "device_memory_mb": 14000.0,
    "grad_norm": 0.453,
    "lr": 5e-3,
    "skipped": 2,
    "seconds": 9.0,
    "source/web": 0.61,
    "source/books": 0.22,
    "source/百科": 0.17,
    "bits_per_byte/web": 1.519,
    "bits_per_byte/books": 1.706,
}
TEXTS = (
    "3.213",
    "1.234",
    "12,346",
    "41%",
    "812",
    "13.7",
    "0.45",
    "5.0e-03",
    "620/1080",
    "57%",
    "2:13",
    "web 61% 1.52 · books 22% 1.71 · 百科 17%",
)
NAMES = {
    "zh": ("损失", "比特/字节", "词元/秒", "内存", "显存", "梯度范数", "学习率", "跳过", "来源", "剩余"),
    "en": ("loss", "bits/byte", "tok/s", "memory", "grad", "lr", "skipped", "sources", "ETA"),
}


@pytest.mark.parametrize("language", ["zh", "en"])
@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_panel_shows_all_of_it_and_fits(monkeypatch, language, width):
    monkeypatch.setenv("HANLIN_LANG", language)
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(panel("4/11 pretrain", 620, 1080, FIGURES, "2:13"))
    lines = console.export_text().splitlines()
    assert all(terminal.width(line) <= width for line in lines) and len(lines) <= (6 if width >= 80 else 11)
    shown = "\n".join(lines).replace("\u00a0", " ")
    wanted = [*TEXTS, *NAMES[language]] if width >= 80 else ["3.213", "12,346", "2:13"]
    assert [text for text in wanted if text not in shown] == []
    assert "seconds" not in shown


@pytest.mark.parametrize("language", ["zh", "en"])
def test_plain_lines_say_the_same(monkeypatch, capsys, language):
    monkeypatch.setenv("HANLIN_LANG", language)
    progress = PlainProgress(0.0)
    progress.stage(4, 11, "pretrain")
    progress.update(1080, 1080, FIGURES)
    line = capsys.readouterr().err.splitlines()[-1]
    assert [
        text for text in (*TEXTS[:8], "[4/11 pretrain]", "1080/1080", *NAMES[language]) if text not in line
    ] == []


def test_what_is_not_known_is_left_out():
    text = describe(3, 10, {"loss": 1.0, "skipped": 0}, "?")
    assert (
        "1.000" in text
        and "%" not in text
        and "0\u00a0" not in text
        and "skip" not in text
        and "跳过" not in text
    )


def test_the_live_panel_runs_and_keeps_notes(monkeypatch):
    monkeypatch.setenv("HANLIN_LANG", "en")
    out = io.StringIO()
    progress = LiveProgress(Console(file=out, force_terminal=True, width=80))
    progress.stage(1, 2, "pretrain")
    progress.update(1, 10, FIGURES)
    progress.note("one thing [with] marks")
    progress.stage(2, 2, "sft")
    progress.update(2, 10, {"loss": 0.5})
    progress.close()
    assert (
        "one thing [with] marks" in out.getvalue()
        and "2/2 sft" in out.getvalue()
        and "0.500" in out.getvalue()
    )


def test_time_left_follows_the_pace(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = PlainProgress(0.0)
    progress.stage(1, 1, "x")
    for step in range(501, 511):  # resumed at 500: what came before is not this run's pace
        progress.update(step, 1000, {})
        now[0] += 2.0
    now[0] -= 2.0
    assert progress._clock.left(510, 1000) == "16:20"


def test_the_machines_own_speed_is_found_quickly_and_once():
    cpu = torch.device("cpu")
    matmul_peak.cache_clear()
    began = time.monotonic()
    peak = matmul_peak(cpu)
    assert time.monotonic() - began < 3.0 and matmul_peak(cpu) == peak  # 0.3 s alone; others may be at work
    a = torch.ones(1024, 1024)
    rates = []
    for _ in range(5):
        start = time.perf_counter()
        a @ a
        rates.append(2 * 1024**3 / (time.perf_counter() - start))
    assert 0.2 < peak / max(rates) < 5


def test_a_steps_figures():
    model = tiny_model("qwen3")
    cpu = torch.device("cpu")
    figures = cost_metrics(model, cpu, tokens=1000, seconds=0.5, length=128)
    assert (
        figures["mfu"] == pytest.approx(model.config.flops_per_token(128) * 2000 / matmul_peak(cpu))
        and figures["memory_mb"] > 50
    )
    assert "mfu" not in cost_metrics(object(), cpu, 1000, 0.5, 128)
