"""Differences of settings: true ones are found, luck of seeds and documents is not taken for one, and
pictures are whole."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from hanlin.evaluation.intervals import student_t
from hanlin.report.ablation_page import (
    Runs,
    ablation_markdown,
    ablation_picture,
    ablation_table,
    ablation_text,
    difference,
)


def runs(
    rng,
    effect: float,
    seeds: int = 3,
    documents: int = 120,
    of_seeds: float = 0.01,
    of_documents: float = 0.02,
) -> tuple[Runs, Runs]:
    """A setting and its baseline: documents differ in hardness and length, seeds in luck, and the setting
    adds `effect`."""
    sizes = rng.integers(50, 2000, documents).astype(float)
    hard = rng.normal(1.5, 0.4, documents)
    shared = rng.normal(0, of_seeds, (seeds, 1))  # the same start and order of data
    base = (hard + shared + rng.normal(0, of_documents, documents)) * sizes
    ours = (
        hard + shared + rng.normal(0, of_seeds, (seeds, 1)) + rng.normal(0, of_documents, documents) + effect
    ) * sizes
    return Runs(ours, sizes), Runs(base, sizes)


def test_equal_settings_are_rarely_told_apart():
    """95 % intervals: of 400 pairs without a difference, about 20 are called one; seeds or documents alone
    would give more."""
    rng = np.random.default_rng(1)
    found = [difference(*runs(rng, 0.0)) for _ in range(400)]
    wrong = sum(d.verdict != "unclear" for d in found)
    by_documents = sum(not d.documents[0] <= 0 <= d.documents[1] for d in found)
    assert wrong <= 32 < by_documents, (wrong, by_documents)


def test_a_true_difference_is_found_and_has_its_sign():
    rng = np.random.default_rng(2)
    assert all(difference(*runs(rng, -0.1)).verdict == "better" for _ in range(20))
    assert all(difference(*runs(rng, 0.1)).verdict == "worse" for _ in range(20))


def test_one_seed_ranks_nothing():
    found = difference(*runs(np.random.default_rng(3), 0.5, seeds=1))
    assert found.low > 0 and found.seeds is None and found.verdict == "one_seed"


def test_few_documents_rank_nothing_and_one_has_no_interval():
    found = difference(*runs(np.random.default_rng(3), 5.0, documents=19))
    assert found.low > 0 and found.verdict == "few"
    assert difference(*runs(np.random.default_rng(3), 5.0, documents=20)).verdict == "worse"
    alone = difference(*runs(np.random.default_rng(3), 5.0, documents=1)).to_dict()
    assert alone["low"] is alone["high"] is None and alone["verdict"] == "few"


def test_pairing_takes_out_what_seeds_share():
    rng = np.random.default_rng(4)
    sizes = np.full(50, 100.0)
    luck = rng.normal(0, 0.2, (4, 1))
    base = (1.5 + luck) * sizes
    found = difference(Runs(base - 0.01 * sizes, sizes), Runs(base, sizes))
    assert found.verdict == "better" and found.value == pytest.approx(-0.01)


def test_students_points_are_those_of_the_tables():
    assert [student_t(n) for n in (1, 2, 4, 10)] == pytest.approx([12.706, 4.303, 2.776, 2.228], abs=5e-4)


@pytest.fixture
def table():
    rng = np.random.default_rng(5)
    ours, base = runs(rng, -0.1)
    sources = ["甲" if i % 3 else "b<" for i in range(len(base.bytes))]

    def results(found: Runs) -> list[dict]:
        figures = {
            "steps": 10,
            "tokens": 1000,
            "seconds": 2.0,
            "tokens_per_second": 500.0,
            "peak_rss_mb": 1.0,
            "skipped": 0,
            "parameters": 9,
        }
        return [
            figures | {"bits": bits.tolist(), "bytes": found.bytes.tolist(), "sources": sources}
            for bits in found.bits
        ]

    variants = [
        {"name": f"qk_norm={v}", "settings": {}, "results": results(r)}
        for v, r in (("true", base), ("false", ours))
    ]
    rows = ablation_table(variants)
    return {
        "recipe": "r",
        "seeds": [1, 2, 3],
        "equal": {"steps": 10},
        "documents": len(base.bytes),
        "variants": rows,
        "notes": [("注", "note")],
    }


def test_the_table_holds_the_sum_of_its_sources(table):
    base, ours = table["variants"]
    assert set(ours["sources"]) == {"甲", "b<"} and "difference" not in base
    assert ours["difference"]["verdict"] == "better" and ours["difference"]["value"] == pytest.approx(
        -0.1, abs=0.05
    )
    assert sum(part["bits_per_byte"]["n"] for part in base["sources"].values()) == table["documents"]


@pytest.mark.parametrize(("language", "word"), [("zh", "更好"), ("en", "better")])
def test_texts_and_picture_say_it_in_the_readers_language(table, monkeypatch, language, word):
    monkeypatch.setenv("HANLIN_LANG", language)
    for text in (ablation_text(table), ablation_markdown(table), ablation_picture(table)):
        assert word in text
    picture = ET.fromstring(ablation_picture(table))
    circles = [e for e in picture.iter() if e.tag.endswith("circle")]
    assert len(circles) == 3 and not any(
        "nan" in str(value) for e in picture.iter() for value in e.attrib.values()
    )
