"""The corpus' page: whole whatever the text, nothing fetched, every figure of report.json on it, changes
marked truly."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanlin.common.manifest import read_manifest
from hanlin.corpus.builder.boilerplate import RULE, BoilerplateConfig
from hanlin.corpus.builder.build import TITLES, CorpusConfig, build_corpus
from hanlin.corpus.filters.clean import LINE_RULES
from hanlin.corpus.filters.rules import RULE_NAMES
from hanlin.corpus.filters.signals import SCRIPTS
from hanlin.report import corpus_text, svg
from hanlin.report.corpus_evidence import marked, shown
from hanlin.report.corpus_page import SOURCES, render_corpus
from hanlin.report.text import RULES
from tests.report.fake_run import HOSTILE
from tests.report.test_report import Page

COMMON = (
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里"
    "用道行所然家种事成方多经么去法学如都同现当没动面起看定"
)


def prose(seed: int, length: int = 90) -> str:
    import random

    draw = random.Random(seed)
    return "，".join("".join(draw.choices(COMMON, k=9)) for _ in range(length // 9)) + "。"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus with something in every part of its page, hostile text in as many places as text can be."""
    folder = tmp_path_factory.mktemp("page")
    question = prose(5000, 60)
    (folder / "exam.jsonl").write_text(
        json.dumps({"question": question, "answer": HOSTILE}, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    lines = [{"text": f"{prose(i)}\n本站版权所有，转载请注明出处{HOSTILE}"} for i in range(40)]
    lines += [{"text": prose(i)} for i in range(5)] + [
        {"text": f"{prose(100)}{HOSTILE}"},
        {"text": f"{prose(100)[:-5]}甲乙丙丁。{HOSTILE}"},
    ]
    lines += [
        {"text": f"{prose(200)}\u200b\x07{prose(201)}\u202e{HOSTILE}"},
        {"text": f"{prose(300)}{question}"},
        {"text": "短"},
    ]
    lines += [{"text": f"&lt;b&gt;{prose(400)}&lt;/b&gt;<b>{prose(401)}</b> 电话13812345678。"}]
    text = "".join(
        json.dumps(line | {"source": f"{HOSTILE[:30]}{number % 3}"}, ensure_ascii=False) + "\n"
        for number, line in enumerate(lines)
    )
    (folder / "a.jsonl").write_text(text + f"{{broken {HOSTILE}\n", encoding="utf-8")
    config = CorpusConfig(
        preset="zh-short",
        mask_pii=True,
        decontaminate=(str(folder / "exam.jsonl"),),
        heldout_fraction=0.1,
        boilerplate=BoilerplateConfig(documents=5),
        weights={"*0": 2},
    )
    return build_corpus([folder / "a.jsonl"], folder / "corpus", config, page=render_corpus)


@pytest.fixture(scope="module")
def about(built: Path) -> dict:
    manifest = read_manifest(built)
    return {
        "config": manifest.config,
        "seed": manifest.seed,
        "metrics": manifest.metrics,
        "report": json.loads((built / "report.json").read_bytes()),
    }


@pytest.fixture(scope="module")
def page(built: Path) -> Page:
    return Page((built / "report.html").read_text(encoding="utf-8"))


def test_the_page_is_what_its_files_say(built: Path, about: dict) -> None:
    assert (built / "report.html").read_text(encoding="utf-8") == render_corpus(built, about)
    files = read_manifest(built).files
    assert files["report.html"]["view"] is True and not any(
        "view" in entry for name, entry in files.items() if name != "report.html"
    )


def test_nothing_is_fetched_and_hostile_text_is_only_shown(page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form"), tag
        assert not {"src", "srcset", "data", "action", "style"} & attributes.keys()
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("href", "#").startswith("#")
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "<script>alert('x')</script>" in page.text and HOSTILE[:30] in page.text


def test_links_lead_somewhere_and_no_name_occurs_twice(page: Page) -> None:
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names))
    assert {attributes["href"][1:] for tag, attributes in page.tags if tag == "a"} <= set(names)


def test_every_part_is_there(page: Page, about: dict) -> None:
    report, metrics = about["report"], about["metrics"]
    assert (
        set(report["rules"]) >= {"exact_duplicate", "near_duplicate", "contaminated", "too_short"}
        and "boilerplate_line" in report["lines"]
    )
    for rule, found in {**report["rules"], **report["lines"]}.items():
        assert rule in page.text and f"{found['count']:,}" in page.text and RULES[rule].zh in page.text
        for sample in found["samples"]:
            assert sample["text"][:40].split("\u200b")[0].strip() in page.text
    for name, source in report["sources"].items():
        assert (
            name in page.text
            and f"{source['read']['documents']:,} → {source['kept']['documents']:,}" in page.text
        )
    for hit in report["hits"]:
        assert hit["benchmark"] in page.text and hit["text"][:30] in page.text
    assert report["hits"] and report["masked"]["[PHONE]"] == 1 and "[PHONE]" in page.text
    for reason in metrics["quarantine_reasons"]:
        assert reason in page.text
    assert f"Jaccard {report['rules']['near_duplicate']['samples'][0]['similarity']:.3f}" in page.text
    pictures = [
        attributes for tag, attributes in page.tags if tag == "svg" and attributes.get("class") == "histogram"
    ]
    assert len(pictures) == 1 + len(report["sources"])


def test_both_languages_say_the_same_number_of_things(page: Page) -> None:
    languages = [
        attributes["lang"] for tag, attributes in page.tags if tag == "span" and "lang" in attributes
    ]
    assert (
        languages
        and languages[::2] == ["zh-CN"] * (len(languages) // 2)
        and languages[1::2] == ["en"] * (len(languages) // 2)
    )


def test_every_name_has_words() -> None:
    assert {*RULE_NAMES, *LINE_RULES, RULE, "exact_duplicate", "near_duplicate", "contaminated"} <= set(RULES)
    assert set(corpus_text.SCRIPTS) == set(SCRIPTS) and set(corpus_text.PHASES) == set(TITLES)


def test_times_have_their_words(about: dict) -> None:
    assert set(about["metrics"]["seconds_of_cleaning"]) <= set(corpus_text.BLOCKS)
    assert set(about["metrics"]["seconds"]) <= set(corpus_text.PHASES)


class Marks(HTMLParser):
    """Reads marked text: what was there before, and what is there after."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.inside: list[str] = []
        self.before, self.after = "", ""
        self.feed(text)
        self.close()
        assert not self.inside

    def handle_starttag(self, tag, attrs):
        self.inside.append(tag)

    def handle_endtag(self, tag):
        assert self.inside.pop() == tag

    def handle_data(self, data):
        if "i" in self.inside:  # the name of a character
            data = {"⏎": "", "⇥": "\t"}[data] if data in "⏎⇥" else chr(int(data.removeprefix("U+"), 16))
        self.before += "" if "ins" in self.inside else data
        self.after += "" if "del" in self.inside else data


texts = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from("甲乙丙\u200b\n\t<&>"), max_size=80
)


@given(texts, texts)
def test_marks_hold_both_texts(before: str, after: str) -> None:
    marks = Marks(marked(before, after))
    assert (marks.before, marks.after) == (before, after)


def test_what_was_cut_is_not_a_change() -> None:
    text = "".join(chr(0x4E00 + number) for number in range(400))
    assert marked(text[:300], text[5:305]) == f"<del>{text[:5]}</del>{text[5:305]}"
    assert "<ins>" not in marked(text[:300], text[:100] + text[110:310]) and "<del>" in marked(
        text[:300], text[:100] + text[110:310]
    )
    assert marked(text[:50], text[:40]) == f"{text[:40]}<del>{text[40:50]}</del>"


@pytest.mark.parametrize(
    "texts", [("ab" * 400, "ba" * 400), ("a" * 5000, "ab" * 2500), ("甲乙甲丙" * 300, "甲丙甲乙" * 300)]
)
def test_marking_takes_bounded_time(texts: tuple[str, str]) -> None:
    began = time.process_time()
    marked(*texts)
    assert time.process_time() - began < 1


def test_characters_that_cannot_be_seen_are_named() -> None:
    assert shown("a\x00\u202e<b>\n") == 'a<i class="code">U+0000</i><i class="code">U+202E</i>&lt;b&gt;\n'
    assert shown("👨\u200d👩 甲\u3000乙") == "👨\u200d👩 甲\u3000乙"


@given(st.text(max_size=50))
def test_any_text_anywhere_leaves_the_page_whole(built: Path, about: dict, text: str) -> None:
    report = json.loads(json.dumps(about["report"]))
    for kind in ("rules", "lines"):
        for found in report[kind].values():
            for sample in found["samples"]:
                sample["text"] = sample["source"] = text
                for name in {"benchmark", "duplicate_of"} & set(sample):
                    sample[name] = text
        report[kind][text or "x"] = {"count": 1, "characters": 1, "bytes": 1, "samples": []}
    for item in [*report["kept"], *report["changed"]["samples"], *report["hits"]]:
        item["text"] = item["source"] = text
    for item in report["changed"]["samples"]:
        item["before"] = text + "甲"
    report["sources"] = {f"{text}{name}": source for name, source in report["sources"].items()}
    report["contaminated"] = {text: 1}
    metrics = about["metrics"] | {
        "quarantine_reasons": about["metrics"]["quarantine_reasons"] | {text: 1},
        "seconds": {text: 1.0},
    }
    page = Page(
        render_corpus(
            built,
            about | {"report": report, "metrics": metrics, "config": {**about["config"], "preset": text}},
        )
    )
    assert [tag for tag, _ in page.tags].count("script") == 1


def test_many_sources_are_summed(built: Path, about: dict) -> None:
    one = next(iter(about["report"]["sources"].values()))
    report = about["report"] | {"sources": {f"s{number:04}": one for number in range(500)}}
    page = Page(render_corpus(built, about | {"report": report}))
    assert (
        f"另有 {500 - SOURCES} 个来源" in page.text
        and f"{(500 - SOURCES) * one['read']['documents']:,}" in page.text
    )
    assert [tag for tag, _ in page.tags].count("svg") < 200


def test_a_corpus_with_nothing_to_tell_has_a_page(tmp_path: Path) -> None:
    config = CorpusConfig(preset="none", heldout_fraction=0)
    config = replace(config, dedup=replace(config.dedup, exact=False, near=False))
    page = Page(
        (
            build_corpus([{"text": prose(1)}], tmp_path / "c", config, page=render_corpus) / "report.html"
        ).read_text(encoding="utf-8")
    )
    for sentence in (
        "没有丢弃一篇",
        "No document was changed",
        "没有查重",
        "Every record could be read",
        "No benchmarks were given",
    ):
        assert sentence in page.text


@given(
    st.lists(st.tuples(st.text(max_size=5), st.integers(0, 10**9)), max_size=30),
    st.integers(100, 500),
    st.integers(60, 300),
)
def test_columns_are_as_high_as_their_counts(columns: list, width: int, height: int) -> None:
    picture = svg.histogram(columns, "x", width=width, height=height)
    Page(f"<p>{picture}</p>")
    tall = [float(value) for value in re.findall(r'<rect [^>]*? height="([\d.]+)"', picture)]
    assert len(tall) == len(columns)
    most = max((count for _, count in columns), default=0)
    for (_, count), value in zip(columns, tall, strict=True):
        assert abs(value - max((height - 28) * count / (most or 1), 1.0 if count else 0.0)) < 0.06
