"""Documents, conversations and preferences from files of every layout people have.

`read_documents`, `read_conversations`, `read_preferences` take paths, directories and quoted globs, recognise each
record's layout, and stream. What cannot be used goes to a `Quarantine` with file, place and reason.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hanlin._native import TextBatch

from ..common.errors import HanlinError, tr
from .archives import Member, members
from .files import BLOCK, DEFAULT_LIMITS, ReadLimits, Source, Unusable, expand, is_archive, stem
from .layouts import SCHEMAS, recognise_for
from .messages import BadRecord, Conversation, Document, Preference
from .records import Quarantine, Raw, Sourced, records

Paths = str | Path | Sequence[str | Path]
_LOOK = 100  # records without one of a known layout, from the start of a file, before it is refused
_TAKEN_BY = {
    "documents": ("hanlin corpus build、hanlin dataset build 或 hanlin run --corpus", "hanlin corpus build, hanlin dataset build or hanlin run --corpus"),
    "conversations": ("hanlin sft、hanlin distill 或 hanlin run --sft", "hanlin sft, hanlin distill or hanlin run --sft"),
    "preferences": ("hanlin dpo、hanlin reward 或配方里的 dpo.files", "hanlin dpo, hanlin reward or a recipe's dpo.files"),
}


def read_documents(
    paths: Paths, *, quarantine: Quarantine | None = None, limits: ReadLimits = DEFAULT_LIMITS, source: str = "record",
    may_be_empty: bool = False,
) -> Iterator[Document]:  # fmt: skip
    """Stream `{"text", "source"}` from files of any layout, in the order given.

    Args:
        paths: files, directories (searched below) and globs such as `data/*.jsonl.zst`.
        quarantine: receives bad records; without one they are counted and reported in the log.
        source: `record` takes a record's own `source` where it has one, `file` always the file's name.
        may_be_empty: these are some files of many: that none of their records can be used is then no error.

    Raises:
        HanlinError: nothing there, empty, binary, undecodable, damaged, an unknown layout (with the keys seen), no usable record.
    """
    return _read(paths, "documents", quarantine, limits, source, may_be_empty=may_be_empty)


def read_texts(paths: Paths, *, quarantine: Quarantine | None = None, limits: ReadLimits = DEFAULT_LIMITS) -> Iterator[TextBatch]:
    """Stream the texts of `read_documents`, many in one batch (of about a MiB) that the core can take; several times as fast from JSON lines.

    Raises:
        HanlinError: as `read_documents`.
    """
    batch = TextBatch()
    for item in _read(paths, "documents", quarantine, limits, "file", texts=True):
        if isinstance(item, TextBatch):
            if len(batch):
                yield batch
                batch = TextBatch()
            yield item
        else:
            batch.append(item["text"])
            if batch.bytes >= BLOCK:
                yield batch
                batch = TextBatch()
    if len(batch):
        yield batch


def read_sourced_texts(paths: Paths, *, quarantine: Quarantine | None = None, limits: ReadLimits = DEFAULT_LIMITS) -> Iterator[Sourced]:
    """`read_texts` with the source of each document: a record's own where it has one, the file's name elsewhere.

    Raises:
        HanlinError: as `read_documents`.
    """
    batch, names = TextBatch(), list[str]()
    for item in _read(paths, "documents", quarantine, limits, "record", texts=True, sources=True):
        if isinstance(item, Sourced):
            if len(batch):
                yield Sourced(batch, names)
                batch, names = TextBatch(), []
            yield item
        else:
            batch.append(item["text"])
            names.append(item["source"])
            if batch.bytes >= BLOCK:
                yield Sourced(batch, names)
                batch, names = TextBatch(), []
    if len(batch):
        yield Sourced(batch, names)


def read_conversations(
    paths: Paths, *, quarantine: Quarantine | None = None, limits: ReadLimits = DEFAULT_LIMITS, source: str = "record"
) -> Iterator[Conversation]:
    """Stream `{"messages", "tools"?, "source"}`; arguments and errors as `read_documents`."""
    return _read(paths, "conversations", quarantine, limits, source)


def read_preferences(
    paths: Paths, *, quarantine: Quarantine | None = None, limits: ReadLimits = DEFAULT_LIMITS, source: str = "record"
) -> Iterator[Preference]:
    """Stream `{"prompt", "chosen", "rejected", "source"}`, all as messages; arguments and errors as `read_documents`."""
    return _read(paths, "preferences", quarantine, limits, source)


def _read(
    paths: Paths, schema: str, quarantine: Quarantine | None, limits: ReadLimits, source: str, *, texts: bool = False, sources: bool = False,
    may_be_empty: bool = False,
) -> Iterator[Any]:
    files = expand(paths)  # here and not in the generator: a wrong path should be heard of at once
    return _stream(files, schema, quarantine or Quarantine(), limits, source, texts=texts, sources=sources, report=quarantine is None, may_be_empty=may_be_empty)


def _stream(
    files: list[Path], schema: str, quarantine: Quarantine, limits: ReadLimits, source: str, *, texts: bool, sources: bool, report: bool,
    may_be_empty: bool,
) -> Iterator[Any]:
    before, total = quarantine.count, 0
    for path in _within(files, quarantine, limits):
        read, earlier = 0, quarantine.count
        try:
            for item in _convert(path, records(path, schema, quarantine, limits, texts=texts, sources=sources), schema, quarantine, source):
                read += len(item) if isinstance(item, (TextBatch, Sourced)) else 1
                yield item
        except Unusable as error:
            if not isinstance(path, Member):
                raise
            quarantine.add(path, 0, -1, error.reason)
        if not read and quarantine.count == earlier:
            if len(files) == 1 and path is files[0] and not may_be_empty:
                raise HanlinError(f"{path} 是空文件。", f"{path} is empty.")
            quarantine.add(path, 0, -1, tr("空文件", "empty file"))
        total += read
    bad = quarantine.count - before
    if not total and not may_be_empty:
        raise HanlinError(
            f"{_names(files)} 里没有一条可用的记录；{bad} 条不可用：{quarantine.summary()}。",
            f"No usable record in {_names(files)}; {bad} were not usable: {quarantine.summary()}.",
        )
    if bad and report:
        logging.getLogger("hanlin").warning(
            tr(f"{bad} 条记录不可用：{quarantine.summary()}", f"{bad} records were not usable: {quarantine.summary()}")
        )


def _within(files: list[Path], quarantine: Quarantine, limits: ReadLimits) -> Iterator[Path | Member]:
    """The files, and in place of an archive those inside it; what is passed over there is counted and shown."""
    for path in files:
        if is_archive(path):
            yield from members(path, limits, lambda name, why: quarantine.add(name, 0, -1, why))
        else:
            yield path


def _convert(path: Path | Member, found: Iterator[Raw | TextBatch | Sourced], schema: str, quarantine: Quarantine, source: str) -> Iterator[Any]:
    """Records into the schema, batches of texts as they are; refuse the file when none of its first records has a known layout."""
    unknown: list[Raw] = []
    known = False
    name = stem(path.archive if isinstance(path, Member) else path)
    for raw in itertools.chain(found, [None]):
        if not known and unknown and (raw is None or len(unknown) >= _LOOK):
            raise _unrecognised(path, [item.value for item in unknown], schema)
        if raw is None:
            return
        if isinstance(raw, TextBatch):
            yield raw
            continue
        if isinstance(raw, Sourced):
            yield Sourced(raw.texts, [named or name for named in raw.names] or [name] * len(raw))
            continue
        layout = recognise_for(raw.value, schema)
        if layout is None:
            reason = tr(f"不认识的布局：{_keys([raw.value])}", f"unrecognised layout: {_keys([raw.value])}")
            if known or not raw.value:
                quarantine.add(path, raw.line, raw.offset, reason, raw.value)
            else:
                unknown.append(raw)
            continue
        known = True
        for early in unknown:
            quarantine.add(path, early.line, early.offset, tr("不认识的布局", "unrecognised layout"), early.value)
        unknown.clear()
        record = raw.value
        try:
            made = layout.convert({"[]": record} if isinstance(record, list) else record)
        except BadRecord as error:
            quarantine.add(path, raw.line, raw.offset, str(error), record)
            continue
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:  # the right keys over values of another shape
            quarantine.add(
                path,
                raw.line,
                raw.offset,
                tr(f"不符合 {layout.name} 布局（{error!r}）", f"not quite the {layout.name} layout ({error!r})"),
                record,
            )
            continue
        item = {"text": made} if schema == "documents" else made
        named = record.get("source") if source == "record" and isinstance(record, Mapping) else None
        item["source"] = named if isinstance(named, str) and named else name
        yield item


def _unrecognised(path: Source, values: list[Any], schema: str) -> HanlinError:
    fitting = [other for other in SCHEMAS if other != schema and any(recognise_for(value, other) for value in values)]
    zh_hint, en_hint = "", ""
    if fitting:
        zh_hint = f"它看起来是 {fitting[0]}，那是给 {_TAKEN_BY[fitting[0]][0]} 的。"
        en_hint = f"It looks like {fitting[0]}, which are for {_TAKEN_BY[fitting[0]][1]}. "
    known = ", ".join(" ".join(sorted(layout.keys)) for layout in SCHEMAS[schema][:6])
    return Unusable(
        f"{path}：认不出记录的布局，看到的键是 {_keys(values)}。{zh_hint}请改成已知的键之一（{known} ……）。",
        f"{path}: unrecognised layout, with the keys {_keys(values)}. {en_hint}Rename them to a known set ({known} …).",
        tr(f"不认识的布局：{_keys(values)}", f"unrecognised layout: {_keys(values)}"),
    )


def _keys(values: Iterable[Any]) -> str:
    seen: dict[str, None] = {}
    for value in values:
        seen.update(dict.fromkeys(map(str, value)) if isinstance(value, Mapping) else {type(value).__name__: None})
    return "{" + ", ".join(list(seen)[:20]) + "}"


def _names(files: list[Path]) -> str:
    return str(files[0]) if len(files) == 1 else f"{files[0]} … ({len(files)})"
