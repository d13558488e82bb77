"""Votes as files: written for other programs, read from paper."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from hanlin.arena.gold import checks
from hanlin.arena.rules import ArenaConfig, read_arena, read_secret
from hanlin.arena.store import REASONS, Outcome, Store, Voted
from hanlin.common.atomic import atomic_write
from hanlin.common.errors import HanlinError
from hanlin.common.messages import listing

COLUMNS = ("rater", "battle", "outcome")
_WORDS: dict[str, Outcome] = {
    "1": "left",
    "a": "left",
    "左": "left",
    "一": "left",
    "2": "right",
    "b": "right",
    "右": "right",
    "二": "right",
    "3": "tie",
    "=": "tie",
    "平": "tie",
    "一样好": "tie",
    "4": "bad",
    "x": "bad",
    "都不好": "bad",
    "都差": "bad",
    "0": "skip",
    "跳过": "skip",
    "left": "left",
    "right": "right",
    "tie": "tie",
    "bad": "bad",
    "skip": "skip",
}
_WINNER = {
    "left": "model_a",
    "right": "model_b",
    "tie": "tie",
    "bad": "tie (bothbad)",
}


def export_votes(folder: Path, out: Path, form: str) -> int:
    """Write all votes, checks and repeats among them; the number written.

    Raises:
        HanlinError: no arena, or the file cannot be written.
    """
    config = read_arena(folder)
    store = Store(folder)
    try:
        records = list(_records(store, config))
    finally:
        store.close()
    if form == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(_FIELDS), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: record[name] for name in _FIELDS} for record in records)
        atomic_write(out, "\ufeff" + text.getvalue())  # the mark makes spreadsheets read it as UTF-8
        return len(records)
    if form == "lmarena":
        records = [_lmarena(record) for record in records if record["kind"] != "gold"]
        records = [record for record in records if record["winner"]]
    atomic_write(out, b"".join(orjson.dumps(record) + b"\n" for record in records))
    return len(records)


_FIELDS = (
    *COLUMNS,
    "reasons",
    "kind",
    "prompt_id",
    "category",
    "prompt",
    "model_a",
    "model_b",
    "winner",
    "answer_a",
    "answer_b",
    "ms",
    "at",
    "source",
    "judge",
)


def _records(store: Store, config: ArenaConfig) -> Iterator[dict[str, Any]]:
    models, prompts, answers = store.models(), store.prompts(), store.answers()
    gold = checks(config.seed)
    for vote in store.votes():
        if vote.kind == "gold":
            check = gold[vote.prompt]
            prompt, category = check.prompt, ""
            sides = [("(good)", check.good), ("(broken)", check.broken)]
        else:
            prompt, category = prompts[vote.prompt].text, prompts[vote.prompt].category
            sides = [
                (models[model]["name"], answers[vote.prompt, model]["text"])
                for model in (vote.first, vote.second)
            ]
        (model_a, answer_a), (model_b, answer_b) = sides[::-1] if vote.swapped else sides
        yield {
            "rater": f"r{vote.rater}",
            "battle": vote.position,
            "outcome": vote.outcome,
            "reasons": " ".join(vote.reasons),
            "kind": vote.kind,
            "prompt_id": vote.prompt,
            "category": category,
            "prompt": prompt,
            "model_a": model_a,
            "model_b": model_b,
            "winner": _winner(vote),
            "answer_a": answer_a,
            "answer_b": answer_b,
            "ms": vote.ms,
            "at": round(vote.at, 3),
            "source": vote.source,
            "judge": vote.judge,
        }


def _winner(vote: Voted) -> str:
    return _WINNER.get(vote.outcome, "")


def _lmarena(record: dict[str, Any]) -> dict[str, Any]:
    """The fields of FastChat's battles; model_a was on the left."""

    def conversation(answer: str) -> list[dict[str, str]]:
        return [
            {"role": "user", "content": record["prompt"]},
            {"role": "assistant", "content": answer},
        ]

    return {
        "question_id": f"{record['rater']}-{record['battle']}",
        "model_a": record["model_a"],
        "model_b": record["model_b"],
        "winner": record["winner"],
        "judge": record["judge"] or record["rater"],
        "conversation_a": conversation(record["answer_a"]),
        "conversation_b": conversation(record["answer_b"]),
        "turn": 1,
        "anony": True,
        "language": "Chinese",
        "tstamp": record["at"],
        "conv_metadata": {"kind": record["kind"], "category": record["category"]},
    }


def import_votes(folder: Path, path: Path) -> dict[str, int]:
    """Read votes of `rater, battle, outcome` from a CSV file: all of it, or nothing where a line is wrong. A
    battle that has a vote keeps it.

    Raises:
        HanlinError: other columns, an unknown rater, battle or outcome; nothing was read then.
    """
    config = read_arena(folder)
    secret = read_secret(folder)
    rows = list(_read_rows(path))
    store = Store(folder, secret)
    try:
        schedule = store.schedule(config)
        found = {"new": 0, "known": 0, "empty": 0}
        parsed = []
        for number, row in rows:
            said = row["outcome"].strip().lower()
            if not said:
                found["empty"] += 1
                continue
            if said not in _WORDS:
                raise HanlinError(
                    "{path}, line {number}: {outcome!r} is no outcome. Write 1 (first better), 2 (second "
                    "better), 3 (equal), 4 (both bad) or 0 (skipped). Nothing of the file was read.",
                    path=path,
                    number=number,
                    outcome=row["outcome"],
                )
            rater = find_rater(store, row["rater"])
            if rater is None:
                raise HanlinError(
                    "{path}, line {number}: {rater!r} is no rater of this arena. Nothing of the file was "
                    "read; correct the code and import it again.",
                    path=path,
                    number=number,
                    rater=row["rater"],
                )
            if not re.fullmatch(r"[0-9]{1,6}", row["battle"].strip()):
                raise _no_battle(path, number, row["battle"])
            reasons = [reason for reason in REASONS if reason in (row.get("reasons") or "").split()]
            parsed.append((number, rater, int(row["battle"]), _WORDS[said], reasons))
        for rater in dict.fromkeys(entry[1] for entry in parsed):
            store.join(rater, schedule)
        with store.transaction() as db:
            for number, rater, battle, outcome, reasons in parsed:
                try:
                    new = store.record(rater, battle, outcome, reasons, "import", db)
                except KeyError:
                    raise _no_battle(path, number, str(battle)) from None
                found["new" if new else "known"] += 1
        return found
    finally:
        store.close()


def _no_battle(path: Path, number: int, battle: str) -> HanlinError:
    return HanlinError(
        "{path}, line {number}: this rater has no battle {battle!r}. Nothing of the file was read.",
        path=path,
        number=number,
        battle=battle,
    )


def _read_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise HanlinError("No such file: {path}. Check the path.", path=path) from None
    try:
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        content = raw.decode("gb18030", "replace")  # what spreadsheets save in China
    reader = csv.DictReader(io.StringIO(content))
    seen = [(name or "").strip() for name in reader.fieldnames or ()]
    reader.fieldnames = seen
    if not set(COLUMNS) <= set(seen):
        raise HanlinError(
            "{path} should have the columns {wanted}; it has {seen}. Nothing was read.",
            path=path,
            wanted=listing(COLUMNS),
            seen=listing(seen) if seen else "–",
        )
    for row in reader:
        yield reader.line_num, {key: value or "" for key, value in row.items() if isinstance(key, str)}


def find_rater(store: Store, said: str) -> int | None:
    """The rater of a code, or of r and a number as exports call raters; None if there is none."""
    number = re.fullmatch(r"r([0-9]{1,9})", said.strip())
    if number:
        found = store.rows("SELECT id FROM rater WHERE id = ? AND forgotten = 0", (int(number[1]),))
        return found[0]["id"] if found else None
    return store.rater_of(said)


def forget_rater(folder: Path, said: str) -> int:
    """Delete a rater's votes and code; how many votes there were.

    Raises:
        HanlinError: there is no such rater.
    """
    read_arena(folder)
    store = Store(folder, read_secret(folder))
    try:
        rater = find_rater(store, said)
        if rater is None:
            raise HanlinError(
                "{rater!r} is no rater of {folder}: neither a code nor r and a number. Nothing was deleted.",
                rater=said,
                folder=folder,
            )
        return store.forget(rater)
    finally:
        store.close()
