"""Training curves are found wherever a run keeps them, summed up rightly, and compared at what all runs
reached."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from hanlin.common.errors import HanlinError
from hanlin.report.curves import compare_curves, curves_picture, curves_text, find_metrics, read_curve


def write(file, values, tokens=100, step_seconds=0.5, name="bits_per_byte"):
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        {"step": i + 1, "tokens": tokens, "seconds": (i + 1) * step_seconds, "loss": 2 * v, name: v}
        for i, v in enumerate(values)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def falling(rate: float, steps: int = 400) -> np.ndarray:
    return 1 + 2 * np.exp(-rate * np.arange(steps))


@pytest.mark.parametrize(
    "place",
    [
        "run/metrics.jsonl",
        "run/curves/pretrain.jsonl",
        "run/work/metrics.jsonl",
        "run/work/pretrain-12ab/metrics.jsonl",
        ".run.work/12ab/metrics.jsonl",
    ],
)
def test_a_curve_is_found_wherever_a_run_keeps_it(tmp_path, place):
    (tmp_path / "run").mkdir()
    file = write(tmp_path / place, [3.0, 2.0])
    assert find_metrics(tmp_path / "run") == file == find_metrics(file)


def test_tokens_are_summed_and_cut_lines_and_overflows_passed_over(tmp_path):
    file = write(tmp_path / "metrics.jsonl", [3.0, 2.5, 2.0])
    with file.open("a") as handle:
        handle.write(
            '{"step": 4, "tokens": 100, "seconds": 9, "loss": 1, "bits_per_byte": null}\n'.replace(
                "null", "1e999"
            )
            + '{"step": 5, "tok'
        )
    curve = read_curve(file)
    assert curve.tokens.tolist() == [100, 200, 300] and curve.steps[-1] == 3 and curve.seconds[-1] == 1.5


def test_what_it_took_to_reach_what_all_reached(tmp_path):
    """One run learns twice as fast for each step, at steps that take four times as long."""
    a, b = (
        write(tmp_path / "a.jsonl", falling(0.01)),
        write(tmp_path / "b.jsonl", falling(0.02), step_seconds=2.0),
    )
    found = compare_curves([a, b])
    first, second = (row["reached"] for row in found["runs"])
    assert found["equal"] == pytest.approx(float(falling(0.01)[-1]), rel=0.02)
    assert second["tokens"] / first["tokens"] == pytest.approx(0.5, abs=0.03) and second["seconds"] / first[
        "seconds"
    ] == pytest.approx(2.0, abs=0.1)


def test_a_run_without_bits_is_compared_by_loss(tmp_path):
    a, b = (
        write(tmp_path / "a.jsonl", falling(0.01)),
        write(tmp_path / "b.jsonl", falling(0.02), name="accuracy"),
    )
    found = compare_curves([a, b])
    assert found["measure"] == "loss" and found["runs"][0]["final"] == pytest.approx(
        2 * falling(0.01)[-1], rel=0.02
    )


@pytest.mark.parametrize("language", ["zh", "en"])
def test_text_and_picture(tmp_path, monkeypatch, language):
    monkeypatch.setenv("HANLIN_LANG", language)
    found = compare_curves(
        [write(tmp_path / "a<.jsonl", falling(0.01)), write(tmp_path / "b.jsonl", falling(0.02, 200))]
    )
    assert ("比特/字节" if language == "zh" else "bits per byte") in curves_text(found)
    picture = ET.fromstring(curves_picture(found))
    lines = [e for e in picture.iter() if e.get("class", "").startswith("line")]
    assert len(lines) == 6 and not any(
        "nan" in str(value) for e in picture.iter() for value in e.attrib.values()
    )


def test_what_has_no_curve_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "metrics.jsonl").write_text("")
    for place in (tmp_path / "empty", tmp_path / "metrics.jsonl"):
        with pytest.raises(HanlinError):
            read_curve(place)
