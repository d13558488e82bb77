"""Comparing runs: same metrics side by side, a best one only where intervals are apart."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest

from hanlin.common.errors import HanlinError
from hanlin.evaluation import Metric
from hanlin.evaluation.kept_items import keep_items
from hanlin.report.compare import compare_runs, comparison_table
from hanlin.report.report import write_report


def make_run(
    folder, name: str, successes: int, n: int = 500, extra: bool = False, higher: bool = True, kept=None
):
    """A run with one stage.

    Args:
        kept: the metric with its items, in place of one without.
    """
    measured = Metric.proportion(successes, n, higher_is_better=higher) if kept is None else kept
    metric = measured.to_dict()
    metrics = {"tinyworld/story_qa": metric} | ({"only_here": metric} if extra else {})
    (folder / name).mkdir()
    stage = {
        "id": "sft",
        "kind": "sft",
        "seconds": 1.0,
        "peak_rss_mb": 1.0,
        "kept": True,
        "metrics": metrics,
        "samples": [],
    }
    if kept is not None:
        stage["scores"] = keep_items(folder / name, "sft", {"tinyworld/story_qa": kept})
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
    "zh": ("不排名：区间重叠", "2 最好：区间不重叠", "只有一次"),
    "en": ("no ranking: intervals overlap", "2 is best: intervals apart", "one run only"),
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


HARD = np.random.default_rng(5).random(500)


def answers(skill: float, n: int = 500, data: str = "", **more) -> Metric:
    """A model that answers what is not too hard, on the same items as another."""
    ids = tuple(map(str, range(n)))
    return Metric.share(skill > HARD[:n], ids=ids, data=data, **more)


@pytest.mark.parametrize("higher", [True, False])
def test_runs_that_kept_the_same_items_are_compared_item_by_item(tmp_path, monkeypatch, higher):
    monkeypatch.setenv("HANLIN_LANG", "en")
    a = make_run(tmp_path, "a", 0, kept=answers(0.50, higher_is_better=higher))
    b = make_run(tmp_path, "b", 0, kept=answers(0.54, higher_is_better=higher))
    assert best(a, b) == (1 if higher else 0)
    row = compare_runs([a, b])["metrics"][0]
    first, second = (Metric.from_dict(value) for value in row["values"])
    assert first.high > second.low  # the intervals overlap
    apart = row["difference"]
    assert row["rule"] == "paired" and apart["n"] == 500
    assert apart["value"] == pytest.approx((1 if higher else -1) * (second.value - first.value))
    table = comparison_table(compare_runs([a / "report.json", b]))
    assert f"{'2' if higher else '1'} is best, item by item {100 * apart['value']:+.1f} [" in table
    assert "1 metrics were compared item by item" in table and "about 0.1 of them" in table


def test_of_more_runs_the_best_beats_each_item_by_item(tmp_path):
    runs = [
        make_run(tmp_path, name, 0, kept=answers(skill))
        for name, skill in (("a", 0.5), ("b", 0.54), ("c", 0.6))
    ]
    row = compare_runs(runs)["metrics"][0]
    assert row["best"] == 2 and row["rule"] == "paired" and row["difference"] is None


@pytest.mark.parametrize("other", ["data", "items", "lost", "without"])
def test_runs_on_other_items_are_compared_by_their_intervals(tmp_path, monkeypatch, other):
    monkeypatch.setenv("HANLIN_LANG", "en")
    a = make_run(tmp_path, "a", 0, kept=answers(0.5))
    kept = {"data": answers(0.54, data="x"), "items": answers(0.54, n=499), "without": None}
    b = make_run(tmp_path, "b", 270, kept=kept.get(other, answers(0.54)))
    if other == "lost":
        next((b / "scores" / "sft").iterdir()).unlink()
    row = compare_runs([a, b])["metrics"][0]
    assert (row["best"], row["rule"], row["difference"]) == (None, "overlap", None)
    table = comparison_table(compare_runs([a, b]))
    assert "no ranking: intervals overlap" in table and "item by item" not in table


def test_runs_that_do_not_differ_are_not_ranked(tmp_path, monkeypatch):
    monkeypatch.setenv("HANLIN_LANG", "en")
    a, b = (make_run(tmp_path, name, 0, kept=answers(0.5)) for name in "ab")
    row = compare_runs([a, b])["metrics"][0]
    assert row["best"] is None and row["difference"]["value"] == 0 < row["difference"]["high"]
    table = comparison_table(compare_runs([a, b]))
    assert "no ranking: no difference shown item by item +0.0 [-0.8, +0.8]" in table


def test_one_run_or_an_unfinished_one_is_refused(tmp_path):
    run = make_run(tmp_path, "a", 100)
    with pytest.raises(HanlinError):
        compare_runs([run])
    (tmp_path / "empty").mkdir()
    with pytest.raises(HanlinError, match="empty"):
        compare_runs([run, tmp_path / "empty"])
