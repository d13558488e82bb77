"""The report: checked before it is written, whole or absent, self-contained, and nothing in it can become
markup."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text
from hanlin.evaluation import Metric
from hanlin.evaluation.tasks.base import task_entries
from hanlin.report.evidence import facts_of, read_curves
from hanlin.report.page import render_report
from hanlin.report.report import read_report, validate_report, write_report
from hanlin.report.svg import curve_plot, interval_plot, nice_ticks, running_mean, thin
from hanlin.report.text import METRICS, STEPS, in_words, metric_text, show
from tests.report.fake_run import HOSTILE, fake_run

VOID = {"meta", "br", "img", "input", "link", "hr"}


class Page(HTMLParser):
    """Reads a page strictly: every tag closed by its own, and what it would fetch or run."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, *fake_run(folder)


@pytest.fixture(scope="module")
def page(run) -> Page:
    return Page(render_report(*run[1:]))


def test_report_json_is_the_report(run):
    folder, report, extras = run
    assert write_report(folder, report, extras) == folder / "report.html"
    assert orjson.loads((folder / "report.json").read_bytes()) == orjson.loads(orjson.dumps(report))
    assert (folder / "report.html").read_text(encoding="utf-8") == render_report(report, extras)


def test_nothing_is_fetched(page):
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form"), tag
        assert not {"src", "srcset", "data", "action", "style"} & attributes.keys()
        assert not any(name.startswith("on") for name in attributes)
        # beside it, in the run
        assert attributes.get("href", "#").startswith("#") or attributes["href"] == "corpus/report.html"
    policy = next(
        a["content"]
        for tag, a in page.tags
        if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy
    assert [tag for tag, _ in page.tags].count("script") == 1


def test_hostile_text_is_shown_and_not_obeyed(page):
    assert HOSTILE in page.text


@settings(deadline=None)
@given(
    st.text(max_size=60),
    st.sampled_from(
        [
            "recipe",
            "model",
            "stage",
            "metric",
            "control",
            "sample",
            "drop",
            "artifact",
            "machine",
            "note",
            "version",
        ]
    ),
)
def test_any_text_anywhere_leaves_the_page_whole(text, place):
    metric = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9, "higher_is_better": True}
    put = {place: text}
    metric["control"] = {"name": put.get("control", "sft"), "value": 0.3, "low": 0.2, "high": 0.35}
    stage = {
        "id": put.get("stage", "sft"),
        "kind": "sft",
        "seconds": 1.0,
        "peak_rss_mb": 1.0,
        "kept": True,
        "samples": [],
        "metrics": {put.get("metric", "x"): metric},
    }
    report = {
        "format": 2,
        "recipe": put.get("recipe", "r"),
        "seed": 1,
        "machine": {"cpu": put.get("machine", "")},
        "seconds": 1.0,
        "peak_rss_mb": 1.0,
        "model": put.get("model", "m"),
        "stages": [stage, stage | {"id": "corpus", "kind": "corpus"}] if place != "stage" else [stage],
    }
    extras = {
        "samples": {
            "corpus": [
                {
                    "prompt": put.get("sample", ""),
                    "before": put.get("sample", ""),
                    "after": put.get("sample", ""),
                }
            ]
        },
        "drops": {put.get("drop", "promotion"): {"count": 2, "samples": [put.get("drop", "")]}},
        "artifacts": {
            put.get("artifact", "a"): {"kind": text, "hash": "ab" * 32, "parents": {text: text}, "path": text}
        },
        "notes": {"corpus": {put.get("note", "n"): text, "gate": {"zh": text, "en": text}}},
        "versions": {"v": put.get("version", "1")},
        "recipe_resolved": {"a": text},
    }
    rendered = Page(render_report(report, extras))
    assert [tag for tag, _ in rendered.tags].count("script") == 1


def test_everything_asked_for_is_on_the_page(run, page):
    _, report, extras = run
    identifiers = {attributes.get("id") for _, attributes in page.tags}
    for stage in report["stages"]:
        assert stage["id"] in identifiers
        for name, raw in stage["metrics"].items():
            share = metric_text(name).share
            for number in (
                raw["value"],
                raw["low"],
                raw["high"],
                *(raw.get("control", {}).get(key, raw["value"]) for key in ("value", "low", "high")),
            ):
                assert show(number, share) in page.text
            assert f"{raw['n']:,}" in page.text
    for artifact in extras["artifacts"].values():
        assert artifact["hash"][:12] in page.text
    for samples in extras["samples"].values():
        for sample in samples:
            assert sample["prompt"] in page.text
    for kinds in extras["drops"]["rules"].values():
        for sample in kinds["samples"]:
            assert sample["text"] in page.text
    for version in extras["versions"].values():
        assert version in page.text
    assert extras["notes"]["grpo"]["gate"]["en"][-40:] in page.text
    assert "hidden_size: 128" in page.text


def test_the_page_says_what_model_this_is_and_not_what_the_recipe_says_of_itself(run, page):
    _, report, extras = run
    assert "1.13M 参数，4 层，宽 128，词表 1,536，预训练读了 3.69M 词元" in page.text
    assert (
        "1.13M parameters, 4 layers, width 128" in page.text
        and "2.60e+13" in page.text
        and "3.69M (×0.67)" in page.text
    )
    assert (
        "读过" in page.text
        and extras["recipe_resolved"]["description"]["zh"] not in page.text.split("完整的配方")[0]
    )
    assert (
        extras["recipe_resolved"]["description"]["zh"]
        in Page(render_report({k: v for k, v in report.items() if k != "about"}, extras)).text
    )


def test_there_is_a_table_of_contents(run, page):
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    identifiers = {attributes.get("id") for _, attributes in page.tags}
    assert {f"#{stage['id']}" for stage in run[1]["stages"]} | {
        "#model",
        "#overview",
        "#provenance",
        "corpus/report.html",
    } <= set(links)
    assert {link[1:] for link in links if link.startswith("#")} <= identifiers


def test_a_sentence_in_tokens_and_an_item_of_each_stage_s_data(page):
    assert "<E7><BF><B0>林" in page.text and "1.42 个字" in page.text
    assert "<|im_start|>user" in page.text and "较好的" in page.text
    marked = [tag for tag, _ in page.tags].count("mark")
    assert marked == 2  # what is learned, and nothing else


def report_of(stage: str, metrics: dict) -> dict:
    """A report of one stage, with the least that the schema asks for."""
    taken = {"seconds": 1.0, "peak_rss_mb": 1.0}
    entry = {"id": stage, "kind": stage, **taken, "kept": True, "metrics": metrics, "samples": []}
    return {"format": 2, "recipe": "r", "seed": 1, "machine": "m", **taken, "model": "m", "stages": [entry]}


def section(page: Page, name: str) -> str:
    """The text of a stage's section: the page's text between two links back to the contents."""
    order = [stage["id"] for stage in fake_run(Path(tempfile.mkdtemp()))[0]["stages"]]
    return page.text.split("↑ 目录")[order.index(name)]


def test_what_was_taught_before_stands_beside_what_it_is_now(page):
    text = section(page, "distill")
    assert "原来会的，现在怎样" in text and "问候答对率" in text
    assert "98.7%" in text and "40.0%" in text and "更差" in text and "分不出" in text


def finding(metric: str, said: str, ends: tuple, **more) -> dict:
    """A part of the gate's verdict, as report.json has it."""
    ends = dict(zip(("difference", "low", "high"), ends, strict=True))
    rest = {"allowed": None, "paired": True, "n": 500, "further": None}
    return {"metric": metric, "finding": said, **ends, **rest, **more}


GATE = {
    "verdict": "undecided",
    "zh": "chat 已采用，未能判定。",
    "en": "chat was kept; ends_by_itself is open.",
    "judged": [
        finding("tinyworld/story_qa", "better", (0.031, 0.004, 0.056)),
        finding("ends_by_itself", "undecided", (-0.004, -0.031, 0.021), allowed=0.02, further=1800),
        finding("tinyworld/greetings", "held", (0.0, -0.012, 0.012), allowed=0.05),
        finding("answer_bits_per_byte/sft", "lost", (-0.2, None, None), allowed=0.05, paired=False),
    ],
}


@pytest.mark.parametrize("where", ["report", "notes"])
def test_the_gate_s_verdicts_stand_beside_what_each_metric_lost(where):
    share = Metric.proportion
    bits = Metric(1.2, 1.1, 1.3, 30, higher_is_better=False).to_dict()
    names = ("ends_by_itself", "tinyworld/greetings")
    metrics = {name: share(140, 150).to_dict() for name in names} | {"answer_bits_per_byte/sft": bits}
    report = report_of("chat", metrics)
    notes = {"before": metrics}
    if where == "report":
        report["stages"][0]["gate"] = GATE
    else:
        notes["gate"] = GATE
    text = Page(render_report(report, {"notes": {"chat": notes}})).text
    assert "kept, undecided" in text and "已采用，未能判定" in text
    assert "ends by itself is open" in text  # the metric's name in words
    assert "-0.4 points [-3.1, +2.1], allowed: 2.0, about 1,800 more items would decide" in text
    assert "未能判定undecided-0.4 个百分点 [-3.1, +2.1]、容许 2.0、大约再有 1,800 道题可以判定" in text
    assert "+0.0 points [-1.2, +1.2], allowed: 5.0" in text and "守住held" in text
    assert "interval not known, allowed: 0.050" in text and "退步太多lost too much" in text
    if where == "report":
        assert "Kept, but undecided: chat" in text and "已采用但未能判定：chat" in text


@pytest.mark.parametrize(
    ("skill", "words"),
    [
        (0.54, ("It beat its control", "胜过对照")),
        (0.50, ("so they cannot be told apart", "分不出高下")),
        (0.45, ("fell below it", "反而不如")),
    ],
)
def test_a_control_on_the_same_items_is_compared_item_by_item(skill, words):
    hard = np.random.default_rng(5).random(500)
    ids = tuple(map(str, range(500)))
    ours, control = (Metric.share(level > hard, ids=ids) for level in (skill, 0.5))
    metric = ours.with_control("before", control)
    assert ours.low < control.high and control.low < ours.high  # the intervals overlap
    report = report_of("sft", {"tinyworld/story_qa": metric.to_dict()})
    text = Page(render_report(report, {})).text
    assert all(word in text for word in words)
    assert "item by item the gain is within [" in text and "intervals overlap, so" not in text


def test_greedy_and_sampled_stand_in_one_table_and_bits_beside_what_they_were(page):
    text = section(page, "evaluation")
    assert "temperature 0.7, top_p 0.9" in text and "87.0%" in text and "80.2%" in text
    assert (
        "预训练模型每字节 0.412 比特，最终模型 1.784 比特，五元语法模型（只数了 9.6M 词元） 0.688 比特"
        in text
    )
    assert "（采样）" not in text  # not once more as a metric of its own


def test_the_control_of_equal_time_says_what_it_was_given(page):
    assert "各次走了 84、80、79 步，平均学习率 0.0006、0.0006、0.0006" in section(page, "grpo")
    assert "各次训练用时" in section(page, "grpo") and "各次训练用时" not in section(page, "corpus")


def test_samples_are_explained_where_the_metric_asks_otherwise(page):
    assert "要不要先思考由模型自己决定" in section(page, "distill")
    assert "要不要先思考由模型自己决定" not in section(page, "pretrain")
    assert "粗鲁" in section(page, "sft")


RUN_METRICS = (
    "tinyworld/greetings",
    "tinyworld/story_requests",
    "tinyworld/outside_declined",
    "tinyworld/math_word_problems_free",
    "tinyworld/later_turns",
    "ends_by_itself",
    "thinking_closes",
    "inside_answered",
    "pairs_preferred/dpo",
    "answer_bits_per_byte/sft",
    "answer_bits_per_byte/reasoning",
    "reward_mean/grpo/published",
    "tinyworld/greetings/sampled",
)
RUN_NOTES = (
    "last_merge_count",
    "unreachable",
    "sources",
    "nothing_to_learn",
    "texts",
    "too_long",
    "training_seconds",
    "distinct_pieces",
    "seconds",
    "by_seed",
    "passes",
    "merges",
    "target_tokens",
)


@pytest.mark.parametrize("name", RUN_METRICS)
def test_a_run_s_metrics_have_words(name):
    text = metric_text(name)
    assert (
        re.search("[\u4e00-\u9fff]", text.name.zh)
        and "_" not in text.name.zh
        and "/" not in text.name.zh
        and "_" not in text.name.en
    )
    titles = {"sft": Text.rendered(zh="监督微调", en="Supervised fine-tuning")}
    sentence = in_words(Text.rendered(zh=f"sft：{name} 变差", en=f"sft: {name} got worse"), titles)
    assert sentence.zh == f"监督微调：{text.name.zh} 变差" and "_" not in sentence.en


def test_a_run_s_figures_have_words():
    shown = facts_of(dict.fromkeys(RUN_NOTES, 3) | {"machine": {"memory_gib": 3, "exact_duplicate": 4}})
    assert shown.count("<code>") == 1  # `machine`, which is no figure of a run


def test_both_languages_say_the_same_number_of_things(page):
    languages = [
        attributes["lang"] for tag, attributes in page.tags if tag == "span" and "lang" in attributes
    ]
    assert (
        languages
        and languages[::2] == ["zh-CN"] * (len(languages) // 2)
        and languages[1::2] == ["en"] * (len(languages) // 2)
    )


@pytest.mark.parametrize(
    ("value", "control", "zh", "en"),
    [
        (0.9, 0.5, "它胜过了对照", "It beat its control"),
        (0.52, 0.5, "分不出高下", "cannot be told apart"),
        (0.2, 0.5, "反而更差", "fell below it"),
    ],
)
@pytest.mark.parametrize("higher", [True, False])
def test_a_stage_says_whether_it_beat_its_control(value, control, zh, en, higher):
    metric = Metric.proportion(value * 500, 500, higher_is_better=higher).with_control(
        "x", Metric.proportion(control * 500, 500)
    )
    if not higher and value != 0.52:
        zh, en = {
            "它胜过了对照": ("反而更差", "fell below it"),
            "反而更差": ("它胜过了对照", "It beat its control"),
        }[zh]
    report = report_of("sft", {"tinyworld/story_qa": metric.to_dict()})
    text = Page(render_report(report, {})).text
    assert zh in text and en in text


@pytest.mark.parametrize("n", [1, 19])
def test_figures_of_few_items_are_flagged_and_not_judged(n, tmp_path):
    values, others = [2.0] * n, [9.0] * n
    metric = Metric.mean(values, higher_is_better=False).with_control(
        "5-gram on 9.6M tokens", Metric.mean(others, higher_is_better=False)
    )
    report = report_of("pretrain", {"bits_per_byte": metric.to_dict()})
    write_report(tmp_path, report, {})
    text = Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "样本太少，不下结论" in text and "too few to tell" in text and "它胜过了对照" not in text
    assert "五元语法模型（只数了 9.6M 词元）" in text and "counted on 9.6M tokens only" in text
    assert ("区间不知道" in text) == (n == 1) and not re.search(r"\b(inf|nan)\b", text)


def test_extras_and_curves_may_be_missing(run, tmp_path):
    _, report, _ = run
    Page(render_report(report, {}))
    Page(
        render_report(
            report,
            {
                "curves": {"pretrain": str(tmp_path / "gone.jsonl")},
                "drops": {},
                "samples": {},
                "notes": {"sft": None},
            },
        )
    )
    Page(render_report(report | {"stages": []}, {}))


def breakages():
    def on_metric(change):
        return lambda report: change(report["stages"][4]["metrics"]["tinyworld/story_qa"])

    return {
        "no n": on_metric(lambda m: m.pop("n")),
        "no interval": on_metric(lambda m: m.pop("low")),
        "null interval": on_metric(lambda m: m.update(high=None)),
        "no items": on_metric(lambda m: m.update(n=0)),
        "not a number": on_metric(lambda m: m.update(value=float("nan"))),
        "outside its interval": on_metric(lambda m: m.update(value=0.1)),
        "control without interval": on_metric(lambda m: m["control"].pop("high")),
        "unknown part": on_metric(lambda m: m.update(p_value=0.01)),
        "a bare number": lambda report: report["stages"][4]["metrics"].update({"tinyworld/story_qa": 0.9}),
        "no direction": on_metric(lambda m: m.pop("higher_is_better")),
        "another format": lambda report: report.update(format=3),
        "no seed": lambda report: report.pop("seed"),
        "no stages": lambda report: report.update(stages=None),
        "a stage twice": lambda report: report["stages"].append(report["stages"][0]),
        "kept is not a bool": lambda report: report["stages"][0].update(kept=1),
    }


@pytest.mark.parametrize("how", breakages())
def test_what_breaks_the_schema_is_refused_and_nothing_is_written(run, tmp_path, how):
    broken = copy.deepcopy(run[1])
    validate_report(broken)
    breakages()[how](broken)
    with pytest.raises(HanlinError) as error:
        write_report(tmp_path, broken, {})
    assert not list(tmp_path.iterdir())
    if "tinyworld/story_qa" in str(broken["stages"] or "") and how not in (
        "another format",
        "no seed",
        "no stages",
        "a stage twice",
        "kept is not a bool",
    ):
        assert "tinyworld/story_qa" in error.value.en and "sft" in error.value.en


def test_the_words_are_complete():
    tasks = task_entries().values()
    words = [text for table in (METRICS, STEPS) for entry in table.values() for text in entry[:2]]
    words += [text for task in tasks for text in (task.title, task.meaning)]
    assert len(words) > 40
    for text in words:
        assert re.search("[\u4e00-\u9fff]", text.zh), text
        assert text.en and not re.search("[\u4e00-\u9fff]", text.en), text


def test_reading_reports_needs_no_torch():
    code = (
        "import sys, hanlin.report.report, hanlin.report.compare, hanlin.evaluation as e; e.NGramModel; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ---------------------------------------------------------------- pictures


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9), st.integers(2, 8))
def test_ticks_are_few_round_and_inside(low, width, most):
    high = low + width
    if not high > low:
        return
    ticks = nice_ticks(low, high, most)
    assert len(ticks) <= most + 1
    slack = 1e-6 * max(abs(low), abs(high), width)
    assert all(low - slack <= tick <= high + slack for tick in ticks)


numbers = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=400)


@given(numbers, st.none() | st.floats(-1e6, 1e6), st.booleans())
def test_curves_stay_inside_their_picture(values, line, from_zero):
    y = np.array(values)
    picture = ElementTree.fromstring(
        curve_plot(
            [(np.arange(len(y), dtype=float), y), (np.arange(5.0), np.ones(5))],
            "x",
            width=200,
            height=100,
            line=line,
            from_zero=from_zero,
        )
    )
    for path in picture.iter("path"):
        points = np.array([[float(c) for c in pair.split(",")] for pair in path.attrib["d"][1:].split("L")])
        assert np.isfinite(points).all() and (points >= -0.5).all() and (points <= [200.5, 100.5]).all()


@given(numbers)
def test_running_mean_keeps_ends_bounds_and_straight_lines(values):
    y = np.array(values)
    smooth = running_mean(y)
    assert smooth[0] == pytest.approx(y[0], abs=1e-6) and smooth[-1] == pytest.approx(y[-1], abs=1e-6)
    assert smooth.min() >= y.min() - 1e-6 and smooth.max() <= y.max() + 1e-6
    line = np.arange(len(y)) * 2.0
    np.testing.assert_allclose(running_mean(line), line, atol=1e-9)
    assert thin(y)[0] == y[0] and thin(y)[-1] == y[-1] and len(thin(y)) <= 300


@given(st.integers(0, 500), st.integers(0, 500), st.booleans())
def test_points_lie_where_their_values_do(k, other, with_control):
    metric = Metric.proportion(k, 500, chance=0.5)
    if with_control:
        metric = metric.with_control("c", Metric.proportion(other, 500))
    picture = ElementTree.fromstring(interval_plot(metric, 0.0, 1.0, True, '<&">'))
    assert picture.attrib["aria-label"] == '<&">'
    circle = next(picture.iter("circle"))
    assert float(circle.attrib["cx"]) == pytest.approx(12 + 296 * k / 500, abs=0.06)
    squares = [float(r.attrib["x"]) + 3 for r in picture.iter("rect")]
    assert squares == ([pytest.approx(12 + 296 * other / 500, abs=0.06)] if with_control else [])


def test_curves_are_read_past_what_a_kill_left(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(
        b'{"step":1,"loss":2.0,"other":5}\nnot json\n{"loss":1}\n{"step":2,"loss":1.5}\n[1]\n{"step":3,"lo'
    )
    curves = read_curves(file)
    assert list(curves) == ["loss"]
    np.testing.assert_array_equal(curves["loss"], ([1, 2], [2.0, 1.5]))
    assert read_curves(tmp_path / "none") == {}


# ---------------------------------------------------------------- formats


def test_a_report_of_format_1_reads_as_one_of_today(tmp_path):
    """Each metric and stage of before under today's name, every figure as it was."""
    metric = Metric.proportion(90, 100).with_control("direct", Metric.proportion(10, 100)).to_dict()
    common = {"seconds": 1.0, "peak_rss_mb": 1.0, "kept": True, "samples": []}
    stages = [
        {"name": "corpus", "metrics": {"dirt_removed": metric}} | common,
        {"name": "distill", "metrics": {"problems_solved": metric, "greetings/sampled": metric}} | common,
        {"name": "reward", "metrics": {"pair_accuracy": metric}} | common,
        {"name": "grpo", "metrics": {"task_reward": metric, "task_reward/published": metric}} | common,
        {"name": "gguf", "metrics": {}} | common,
    ]
    old = {"format": 1, "recipe": "demo", "seed": 1, "machine": "m", "seconds": 5.0, "peak_rss_mb": 1.0}
    (tmp_path / "report.json").write_text(json.dumps(old | {"model": "model", "stages": stages}))
    report = read_report(tmp_path / "report.json")
    shown = [(s["id"], s["kind"], s.get("target") or None, sorted(s["metrics"])) for s in report["stages"]]
    assert shown == [
        ("corpus", "corpus", "cleaning/recall", ["cleaning/recall"]),
        (
            "distill",
            "sft",
            "tinyworld/math_word_problems",
            ["tinyworld/greetings/sampled", "tinyworld/math_word_problems"],
        ),
        ("reward", "reward_model", "pair_accuracy", ["pair_accuracy"]),
        ("grpo", "rl", "reward_mean/grpo", ["reward_mean/grpo", "reward_mean/grpo/published"]),
        ("gguf", "export", None, []),
    ]
    assert report["stages"][1]["metrics"]["tinyworld/math_word_problems"] == metric
    Page(render_report(report, {}))
