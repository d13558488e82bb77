"""The prompts of an arena, from JSONL, CSV or plain text."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from hanlin.common.errors import HanlinError
from hanlin.common.messages import listing

TEXT_COLUMNS = ("prompt", "question", "text", "instruction")
LONGEST = 4000  # characters of a prompt


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A question for every model."""

    text: str
    category: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 of the text."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a file, each once: objects with `prompt` (and perhaps `category`) on the lines of
    `.jsonl`, columns of the same names in `.csv` or `.tsv`, or one prompt a line of `.txt`.

    Raises:
        HanlinError: no such file, no text in it, or other columns; those seen are said.
    """
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise HanlinError("No such file: {path}. Check the path.", path=path) from None
    except IsADirectoryError:
        raise HanlinError("{path} is a directory; --prompts wants a file.", path=path) from None
    except UnicodeDecodeError:
        raise HanlinError("{path} is not UTF-8. Save it as UTF-8 and try again.", path=path) from None
    kind = path.suffix.lower()
    if kind in (".csv", ".tsv"):
        records: Iterator[tuple[int, Any]] = _table(content, "\t" if kind == ".tsv" else ",")
    elif kind in (".jsonl", ".json", ".ndjson"):
        records = _lines_of_json(path, content)
    else:
        records = ((n, {"prompt": line}) for n, line in enumerate(content.splitlines(), start=1))
    found: dict[str, Prompt] = {}
    for number, record in records:
        prompt = _prompt(path, number, record)
        if prompt is not None:
            found.setdefault(prompt.text, prompt)
    if not found:
        raise HanlinError("{path} holds no prompts.", path=path)
    return list(found.values())


def prompts_digest(prompts: list[Prompt]) -> str:
    """SHA-256 of all prompts in their order."""
    return hashlib.sha256("".join(prompt.digest for prompt in prompts).encode()).hexdigest()


def _table(content: str, delimiter: str) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(io.StringIO(content), delimiter=delimiter)
    for record in reader:
        yield reader.line_num, {(key or "").strip(): value for key, value in record.items()}


def _lines_of_json(path: Path, content: str) -> Iterator[tuple[int, Any]]:
    if content.lstrip().startswith("["):
        try:
            yield from enumerate(orjson.loads(content), start=1)
            return
        except orjson.JSONDecodeError as error:
            raise HanlinError("{path} is not whole JSON: {error}.", path=path, error=error) from None
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield number, orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise HanlinError(
                "{path}, line {number}: not JSON ({error}).", path=path, number=number, error=error
            ) from None


def _prompt(path: Path, number: int, record: Any) -> Prompt | None:
    if isinstance(record, str):
        record = {"prompt": record}
    if not isinstance(record, Mapping):
        raise HanlinError("{path}, line {number}: neither an object nor a text.", path=path, number=number)
    name = next((name for name in TEXT_COLUMNS if isinstance(record.get(name), str)), None)
    if name is None:
        raise HanlinError(
            "{path}, line {number}: no column with the prompt. Columns seen: {seen}. It should be called "
            "{wanted}; category may stand beside it.",
            path=path,
            number=number,
            seen=listing(record) if record else "–",
            wanted=listing(TEXT_COLUMNS),
        )
    text = record[name].strip()
    if len(text) > LONGEST:
        raise HanlinError(
            "{path}, line {number}: a prompt of {length} characters; {longest} at most.",
            path=path,
            number=number,
            length=len(text),
            longest=LONGEST,
        )
    category = record.get("category")
    return Prompt(text, str(category).strip() if category is not None else "") if text else None
