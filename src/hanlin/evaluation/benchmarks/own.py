"""Questions of one's own: a table or JSON with or without choices, whose columns are known by their names."""

from __future__ import annotations

import itertools
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text, listing
from hanlin.evaluation.benchmarks.base import CLOZE, LETTERED, letter_index
from hanlin.evaluation.benchmarks.folder import Folder
from hanlin.evaluation.benchmarks.items import LETTERS, Form, Item, Prompt

Kind = Literal["choices", "answer"]
"""Whether the answer is chosen or written."""

PROMPTS: Mapping[Kind, Mapping[Form, Prompt]] = {
    "choices": {"cloze": CLOZE, "letters": LETTERED},
    "answer": {
        "answer": Prompt(
            "{given}问题：{question}\n答案：", "{answer}", stop=("\n问题：",), max_new_tokens=256
        )
    },
}
"""How they are asked; `written.judge` tells whether a written answer is right."""

_ENDINGS = ("csv", "tsv", "jsonl", "json")
_NAMES = {
    "question": ("question", "query", "problem", "题目", "问题", "题干", "提问"),
    "answer": ("answer", "answers", "label", "gold", "答案", "正确答案", "参考答案", "标准答案", "正确选项"),
    "choices": ("choices", "options", "candidates", "选项", "备选答案"),
    "passage": ("passage", "context", "材料", "文章", "短文", "阅读材料"),
    "subject": ("subject", "category", "科目", "学科", "类别"),
    "id": ("id", "编号", "序号", "题号"),
}
_CHOICE = re.compile(r"(?:选项|option|choice)?([a-z]|[1-9]|1[0-9]|2[0-6])")
_MARKED_LETTER = re.compile(r"[(\[【]?([A-Z])[)\]】]?[.、。:]?")


def read_own(path: Path | str) -> tuple[list[Item], Kind]:
    """The questions of a csv, tsv, jsonl or json file, and whether they have choices.

    Columns may be named in English or Chinese: question/题目/问题, answer/答案; the choices are in columns
    A, B, … or 选项A, 选项B, … or 选项1, …, or in a list `choices`/选项. The right one is given by its letter,
    by its text, or by its number from 1 where choices are in a list or have numbers. Further columns that are
    known: passage/材料, subject/科目, id/编号.

    Raises:
        HanlinError: the file can't be read, a column is missing, or a question can't be asked as it stands;
            the message says which, and which columns were seen.
    """
    path = Path(path)
    ending = path.suffix.lower().removeprefix(".")
    if ending in ("xlsx", "xls", "ods", "et", "numbers"):
        raise HanlinError(
            "{path} is a spreadsheet. Save it as CSV (UTF-8) in your spreadsheet program, and take that "
            "file.",
            path=path,
        )
    if ending not in _ENDINGS:
        raise HanlinError(
            "{path}: questions are read from files that end in {endings}.",
            path=path,
            endings=listing(_ENDINGS),
        )
    if not path.is_file():
        raise HanlinError("No such file: {path}.", path=path)
    rows = [row for row in Folder(path).rows(path.name) if any(_text(value) for value in row.values())]
    if not rows:
        raise HanlinError("{path} holds no questions.", path=path)
    columns = _columns(path, list(dict.fromkeys(column for row in rows for column in row)))
    kind: Kind = "choices" if "choices" in columns or "A" in columns or "1" in columns else "answer"
    items = [_item(path, number, row, columns, kind) for number, row in enumerate(rows, start=1)]
    ids: dict[str, int] = {}
    for number, item in enumerate(items, start=1):
        if ids.setdefault(item.id, number) != number:
            _refuse(
                path,
                number,
                Text("its id {id} is that of question {other} too", id=item.id, other=ids[item.id]),
            )
    return items, kind


def _columns(path: Path, columns: Sequence[str | None]) -> dict[str, str]:
    """The columns that are known: `question`, `answer`, `choices`, `A` or `1` … → their names in the file."""
    found: dict[str, str] = {}
    for column in columns:
        if column is None:
            continue  # cells beyond the header
        plain = re.sub(r"[\s_\-.:]", "", unicodedata.normalize("NFKC", str(column)).casefold())
        name = next((name for name, known in _NAMES.items() if plain in known), None)
        choice = _CHOICE.fullmatch(plain)
        if name is None and choice:
            name = choice[1].upper()
        if name is not None:
            found.setdefault(name, column)
    for name in ("question", "answer"):
        if name not in found:
            raise HanlinError(
                "{path} has no column for the {name}, such as {known}; its columns are: {columns}.",
                path=path,
                name=Text("question") if name == "question" else Text("answer"),
                known=listing(_NAMES[name]),
                columns=listing(str(column) for column in columns if column is not None),
            )
    return found


def _item(path: Path, number: int, row: Mapping[str, Any], columns: Mapping[str, str], kind: Kind) -> Item:
    """One question."""
    if row.get(None):  # type: ignore[call-overload]  # where the table's reader puts them
        _refuse(path, number, Text("it has more cells than there are columns; quote texts that hold commas"))
    fields = {name: _text(row.get(column)) for name, column in columns.items() if name != "choices"}
    if not fields["question"]:
        _refuse(path, number, Text("it has no text"))
    if not fields["answer"]:
        _refuse(path, number, Text("it has no answer"))
    choices: tuple[str, ...] = ()
    gold = None
    if kind == "choices":
        choices = _choices(path, number, row, columns)
        gold = _gold(path, number, fields["answer"], choices, "A" not in columns)
    return Item(
        fields.get("id") or str(number),
        fields["question"],
        choices,
        gold,
        "" if choices else fields["answer"],
        passage=fields.get("passage", ""),
        subject=fields.get("subject", ""),
    )


def _choices(path: Path, number: int, row: Mapping[str, Any], columns: Mapping[str, str]) -> tuple[str, ...]:
    """A question's choices; empty cells at the end are none."""
    if "choices" in columns:
        value = row.get(columns["choices"])
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except json.JSONDecodeError:
                _refuse(path, number, Text('its choices are no list, as in ["…", "…"]'))
        value = list(value.values()) if isinstance(value, dict) else value
        if not isinstance(value, list):
            _refuse(path, number, Text('its choices are no list, as in ["…", "…"]'))
        texts = [_text(each) for each in value]
    else:
        names = LETTERS if "A" in columns else map(str, range(1, len(LETTERS) + 1))
        there = itertools.takewhile(columns.__contains__, names)
        texts = [_text(row.get(columns[name])) for name in there]
    while texts and not texts[-1]:
        texts.pop()
    if not 2 <= len(texts) <= len(LETTERS) or not all(texts):
        _refuse(path, number, Text("it has {count} choices, or an empty one among them", count=len(texts)))
    if len(set(texts)) < len(texts):
        twice = next(text for text in texts if texts.count(text) > 1)
        _refuse(path, number, Text("two of its choices are the same: {choice}", choice=twice))
    return tuple(texts)


def _gold(path: Path, number: int, answer: str, choices: tuple[str, ...], numbered: bool) -> int:
    """The place of the right choice.

    Args:
        numbered: the answer may be the choice's number.
    """
    plain = unicodedata.normalize("NFKC", answer).strip().upper()
    letter = _MARKED_LETTER.fullmatch(plain)
    readings = {choices.index(answer)} if answer in choices else set()
    if letter:
        readings.add(letter_index(letter[1]) or 0)
    if numbered and plain.isdigit():
        readings.add(int(plain) - 1)
    inside = {at for at in readings if 0 <= at < len(choices)}
    if len(inside) > 1:
        _refuse(
            path,
            number,
            Text(
                "its answer {answer!r} is one choice by its text and another by its letter or number",
                answer=answer,
            ),
        )
    if not inside:
        _refuse(
            path,
            number,
            Text(
                "its answer {answer!r} is none of its choices: neither a letter up to {last}, nor the text "
                "of one",
                answer=answer,
                last=LETTERS[len(choices) - 1],
            ),
        )
    return inside.pop()


def _text(value: Any) -> str:
    """A cell as text; numbers that JSON has as floats but are whole lose their point."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def _refuse(path: Path, number: int, reason: Text) -> NoReturn:
    raise HanlinError(
        "{path}, question {number} can't be asked: {reason}.", path=path, number=number, reason=reason
    )
