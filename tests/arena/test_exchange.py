"""Votes as files, paper, and raters who are forgotten."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import random
import shutil
import sqlite3

import pytest

from hanlin.arena import store as store_module
from hanlin.arena.analysis import analyse
from hanlin.arena.exchange import export_votes, forget_rater, import_votes
from hanlin.arena.paper import export_paper
from hanlin.arena.rules import read_arena
from hanlin.common.errors import HanlinError
from tests.arena.arenas import NAMES, count, honest, make_arena, opened, vote_all


@pytest.fixture
def voted(tmp_path):
    folder = tmp_path / "arena"
    store = make_arena(folder)
    rng = random.Random(4)
    vote_all(store, read_arena(folder), [honest([0.5, 0.0, -0.5], rng, 0.2) for _ in range(4)])
    store.close()
    return folder


def table(path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"))))


def test_an_export_read_into_the_arena_before_the_votes_gives_the_same_report(tmp_path):
    folder, empty = tmp_path / "arena", tmp_path / "empty"
    store = make_arena(folder)
    store.ensure_raters(5)
    store.close()
    shutil.copytree(folder, empty)
    store, config = opened(folder)
    rng = random.Random(1)
    vote_all(store, config, [honest([1.0, 0.0, -1.0], rng, 0.2) for _ in range(5)])
    store.close()
    assert export_votes(folder, tmp_path / "votes.csv", "csv") == 100
    assert import_votes(empty, tmp_path / "votes.csv") == {"new": 100, "known": 0, "empty": 0}
    assert import_votes(empty, tmp_path / "votes.csv") == {"new": 0, "known": 100, "empty": 0}
    one, other = analyse(folder), analyse(empty)
    for key in ("scores", "matrix", "funnel", "agreement", "repeats", "gold", "sides"):
        assert one[key] == other[key], key


def test_formats_say_the_same(voted, tmp_path):
    for form in ("csv", "jsonl", "lmarena"):
        export_votes(voted, tmp_path / f"votes.{form}", form)
    rows = table(tmp_path / "votes.csv")
    records = [json.loads(line) for line in (tmp_path / "votes.jsonl").read_text("utf-8").splitlines()]
    assert [row["winner"] for row in rows] == [record["winner"] for record in records]
    assert {record["kind"] for record in records} == {"normal", "shared", "repeat", "gold"}
    battles = [json.loads(line) for line in (tmp_path / "votes.lmarena").read_text("utf-8").splitlines()]
    assert len(battles) == len([record for record in records if record["kind"] != "gold"])
    by_id = {f"{record['rater']}-{record['battle']}": record for record in records}
    for battle in battles:
        record = by_id[battle["question_id"]]
        assert {battle["model_a"], battle["model_b"]} <= set(NAMES)
        assert battle["winner"] in ("model_a", "model_b", "tie", "tie (bothbad)")
        assert (battle["model_a"], battle["winner"]) == (record["model_a"], record["winner"])
        assert battle["conversation_a"][1]["content"] == record["answer_a"]
        number = NAMES.index(record["model_a"])
        assert record["answer_a"] == f"第{record['prompt_id']}题的回答，写法{number}。" + "好" * number


def test_paper_is_filled_in_and_read(tmp_path):
    folder = tmp_path / "arena"
    make_arena(folder).close()
    export_paper(folder, tmp_path / "sheets.html", 3)
    page = (tmp_path / "sheets.html").read_text(encoding="utf-8")
    rows = table(tmp_path / "sheets.csv")
    assert len(rows) == 60 and not any(row["outcome"] for row in rows)
    codes = list(dict.fromkeys(row["rater"] for row in rows))
    assert all(f"<code>{code}</code>" in page for code in codes)
    assert not any(name in page for name in NAMES)
    said = ["1", "2", "3", "4", "0", "左", "B", "平", "都不好", ""]
    lines = ["outcome,rater,battle,name"]  # the order of columns and others do not matter
    lines += [f"{said[i % 10]},{row['rater'].lower()},{row['battle']},小明" for i, row in enumerate(rows)]
    filled = tmp_path / "filled.csv"
    filled.write_bytes("\n".join(lines).encode("gb18030"))  # as spreadsheets save in China
    assert import_votes(folder, filled) == {"new": 54, "known": 0, "empty": 6}
    store, _ = opened(folder)
    outcomes = [vote.outcome for vote in store.votes()][:9]
    store.close()
    assert outcomes == ["left", "right", "tie", "bad", "skip", "left", "right", "tie", "bad"]
    # a second sheet export keeps plans and codes
    export_paper(folder, tmp_path / "again.html", 3)
    assert table(tmp_path / "again.csv") == rows


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("who,what\na,b\n", "who, what"),
        ("", "–"),
        ("rater,battle,outcome\nZZZZZZ,1,1\n", "ZZZZZZ"),
        ("rater,battle,outcome\nr1,1,left\nr999,1,1\n", "r999"),
        ("rater,battle,outcome\nr1,1,left\nr1,99,1\n", "99"),
        ("rater,battle,outcome\nr1,1,left\nr1,two,1\n", "two"),
        ("rater,battle,outcome\nr1,1,left\nr1,2,better\n", "better"),
    ],
)
def test_a_wrong_file_is_named_and_nothing_of_it_is_read(tmp_path, content, words):
    folder = tmp_path / "arena"
    store = make_arena(folder)
    store.ensure_raters(1)
    store.close()
    file = tmp_path / "votes.csv"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(HanlinError) as caught:
        import_votes(folder, file)
    for text in (caught.value.en, caught.value.zh):
        assert words in text.replace("、", ", ") and "\n" not in text
    assert count(folder, "vote") == 0


def test_a_vote_that_is_there_stays(voted, tmp_path):
    before = table_of(voted, tmp_path)
    (tmp_path / "other.csv").write_text(
        "rater,battle,outcome\n" + "".join(f"r1,{i},tie\n" for i in range(1, 21)), encoding="utf-8"
    )
    assert import_votes(voted, tmp_path / "other.csv")["known"] == 20
    assert table_of(voted, tmp_path) == before


def table_of(folder, tmp_path):
    export_votes(folder, tmp_path / "now.csv", "csv")
    return table(tmp_path / "now.csv")


def test_forget_deletes_by_code_or_number(voted, tmp_path):
    store, _ = opened(voted)
    code = store.codes()[1]
    store.close()
    assert forget_rater(voted, "r1") == 20 and forget_rater(voted, code.lower()) == 20
    assert {row["rater"] for row in table_of(voted, tmp_path)} == {"r3", "r4"}
    for gone in ("r1", code, "nobody"):
        with pytest.raises(HanlinError):
            forget_rater(voted, gone)
    assert analyse(voted)["raters"] == 2


def test_a_file_locked_by_another_process_is_said_and_nothing_is_lost(voted, tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "PATIENCE", 0.05)
    before = table_of(voted, tmp_path)
    with contextlib.closing(sqlite3.connect(voted / "arena.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(HanlinError, match="locked"):
            forget_rater(voted, "r1")
        assert analyse(voted)["raters"] == 4  # reading is not held up
        other.execute("ROLLBACK")
    assert table_of(voted, tmp_path) == before
