"""Comparing runs: same metrics side by side, a best one only where intervals are apart."""

from __future__ import annotations

import unicodedata

import pytest

from hanlin.common.errors import HanlinError
from hanlin.evaluation import Metric
from hanlin.report.compare import compare_runs, comparison_table
from hanlin.report.report import write_report


def make_run(folder, name: str, successes: int, n: int = 500, extra: bool = False, higher: bool = True):
    metric = Metric.proportion(successes, n, higher_is_better=higher).to_dict()
    metrics = {"tinyworld/story_qa": metric} | ({"only_here": metric} if extra else {})
    stage = {
        "id": "sft",
        "kind": "sft",
        "seconds": 1.0,
        "peak_rss_mb": 1.0,
        "kept": True,
        "metrics": metrics,
        "samples": [],
    }
    report = {
        "format": 2,
        "recipe": name,
        "seed": 1,
        "machine": "m",
        "seconds": 60.0,
        "peak_rss_mb": 1.0,
        "model": "model",
        "stages": [stage],
    }
    (folder / name).mkdir()
    write_report(folder / name, report)
    return folder / name


def best(*runs):
    return {row["name"]: row["best"] for row in compare_runs(runs)["metrics"]}["tinyworld/story_qa"]


@pytest.mark.parametrize("higher", [True, False])
def test_the_best_run_is_named_only_when_it_beats_every_other(tmp_path, higher):
    low, mid, high, near = (
        make_run(tmp_path, name, k, higher=higher)
        for name, k in (("l", 100), ("m", 250), ("h", 400), ("n", 410))
    )
    assert best(low, mid, high) == (2 if higher else 0)
    assert best(high, mid, low) == (0 if higher else 2)
    assert best(high, near) is None
    assert best(low, near, high) == (None if higher else 0)


def test_metrics_of_one_run_are_shown_and_not_ranked(tmp_path):
    a, b = make_run(tmp_path, "a", 100, extra=True), make_run(tmp_path, "b", 400)
    row = next(row for row in compare_runs([a / "report.json", b])["metrics"] if row["name"] == "only_here")
    assert row["values"][0] is not None and row["values"][1] is None and row["best"] is None


def test_few_items_are_not_ranked_and_the_table_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("HANLIN_LANG", "en")
    a, b = make_run(tmp_path, "a", 0, n=19), make_run(tmp_path, "b", 19, n=19)
    assert best(a, b) is None
    assert "no ranking: fewer than 20 items" in comparison_table(compare_runs([a, b]))


WORDS = {
    "zh": ("不排名：区间重叠", "2 最好", "只有一次"),
    "en": ("no ranking: intervals overlap", "2 is best", "one run only"),
}


@pytest.mark.parametrize(("language", "words"), WORDS.items())
def test_the_table_lines_up_and_says_so(tmp_path, monkeypatch, language, words):
    monkeypatch.setenv("HANLIN_LANG", language)
    a, b, c = (
        make_run(tmp_path, "a", 100, extra=True),
        make_run(tmp_path, "b", 400),
        make_run(tmp_path, "c", 401),
    )
    tables = [comparison_table(compare_runs(runs)) for runs in ([b, c], [a, b])]
    assert words[0] in tables[0] and words[1] in tables[1] and words[2] in tables[1]
    assert "80.0% [76.3%, 83.3%] n=500" in tables[0]
    head, shares, numbers = tables[1].splitlines()[2:]

    def column(line: str, mark: str) -> int:
        return sum(
            2 if unicodedata.east_asian_width(character) in "WF" else 1
            for character in line[: line.index(mark)]
        )

    assert column(head, "1 ") == column(shares, "20.0%") == column(numbers, "0.200")


def test_one_run_or_an_unfinished_one_is_refused(tmp_path):
    run = make_run(tmp_path, "a", 100)
    with pytest.raises(HanlinError):
        compare_runs([run])
    (tmp_path / "empty").mkdir()
    with pytest.raises(HanlinError, match="empty"):
        compare_runs([run, tmp_path / "empty"])
