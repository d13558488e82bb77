"""Documents, conversations and preferences from files of every layout people have.

`read_documents`, `read_conversations`, `read_preferences` take paths, directories and quoted globs, recognise
each record's layout, and stream. What cannot be used goes to a `Quarantine` with file, place and reason.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from hanlin._native import TextBatch
from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text, joined, tr
from hanlin.corpus.readers.archives import Member, members
from hanlin.corpus.readers.artefacts import verify_listed
from hanlin.corpus.readers.files import (
    BLOCK,
    DEFAULT_LIMITS,
    FileError,
    ReadLimits,
    Source,
    Unusable,
    blocks,
    expand,
    is_archive,
    stem,
)
from hanlin.corpus.readers.quarantine import Quarantine, Raw
from hanlin.corpus.readers.records import PlainText, Sourced, records
from hanlin.corpus.readers.schema_types import BadRecord, Conversation, Document, Labelled, Preference
from hanlin.corpus.readers.schemas import SCHEMAS, recognise_for, text_under

Paths = str | Path | Sequence[str | Path]
_LOOK = 100  # records without one of a known layout, from the start of a file, before it is refused
_HEAD = 2 << 20  # bytes of a file that tell what it is
_LISTED = 50  # bad files that a message names
Kind = Literal["documents", "conversations", "preferences"]
_TAKEN_BY = {
    "documents": Text("hanlin corpus build, hanlin dataset build or hanlin run --corpus"),
    "conversations": Text("hanlin sft, hanlin distill or hanlin run --sft"),
    "preferences": Text("hanlin dpo, hanlin reward or a recipe's dpo.files"),
}


def read_documents(
    paths: Paths,
    *,
    quarantine: Quarantine | None = None,
    limits: ReadLimits = DEFAULT_LIMITS,
    source: str = "record",
    may_be_empty: bool = False,
    text_key: str = "",
    skip_bad: bool = False,
) -> Iterator[Document]:
    """Stream `{"text", "source"}` from files of any layout, in the order given.

    Args:
        paths: files, directories (searched below) and globs such as `data/*.jsonl.zst`.
        quarantine: receives bad records; without one they are counted and reported in the log.
        source: `record` takes a record's own `source` where it has one, `file` always the file's name.
        may_be_empty: these are some files of many: that none of their records can be used is then no error.
        text_key: the key (or column) of the text; "" recognises it by the layout. Plain text has none.
        skip_bad: a file that cannot be used, or no farther, is counted as a bad record, and the next one
            read.

    Raises:
        HanlinError: nothing there, empty, binary, undecodable, damaged, an unknown layout (with the keys
            seen), no usable record.
    """
    return _read(
        paths,
        "documents",
        quarantine,
        limits,
        source,
        may_be_empty=may_be_empty,
        text_key=text_key,
        skip_bad=skip_bad,
    )


def read_texts(
    paths: Paths, *, quarantine: Quarantine | None = None, limits: ReadLimits = DEFAULT_LIMITS
) -> Iterator[TextBatch]:
    """Stream the texts of `read_documents`, many in one batch (of about a MiB) that the core can take;
    several times as fast from JSON lines.

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


def read_sourced_texts(
    paths: Paths, *, quarantine: Quarantine | None = None, limits: ReadLimits = DEFAULT_LIMITS
) -> Iterator[Sourced]:
    """`read_texts` with the source of each document: a record's own where it has one, the file's name
    elsewhere.

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
    paths: Paths,
    *,
    quarantine: Quarantine | None = None,
    limits: ReadLimits = DEFAULT_LIMITS,
    source: str = "record",
) -> Iterator[Conversation]:
    """Stream `{"messages", "tools"?, "source"}`; arguments and errors as `read_documents`."""
    return _read(paths, "conversations", quarantine, limits, source)


def read_preferences(
    paths: Paths,
    *,
    quarantine: Quarantine | None = None,
    limits: ReadLimits = DEFAULT_LIMITS,
    source: str = "record",
) -> Iterator[Preference | Labelled]:
    """Stream `{"prompt", "chosen", "rejected", "source"}`, all as messages, and of answers with a label
    `{"prompt", "completion", "label", "source"}`; arguments and errors as `read_documents`."""
    return _read(paths, "preferences", quarantine, limits, source)


def check_inputs(
    paths: Paths, kind: Kind, *, text_key: str = "", skip: str = "", limits: ReadLimits = DEFAULT_LIMITS
) -> None:
    """Open every file and read its first hundred records, so that what is wrong with them is known before
    any work is done.

    Of each file a few MiB are read at most; of an archive, the beginning of the first text in it.

    Args:
        text_key: as for `read_documents`.
        skip: how the reader may ask to go on without bad files, such as `--skip-bad`; named in the message.

    Raises:
        HanlinError: as the readers raise it; of several bad files, all at once.
    """
    files = expand(paths)
    head = dataclasses.replace(limits, head_bytes=_HEAD)
    bad = []
    for path in files:
        try:
            _look_into(path, kind, text_key, head, alone=len(files) == 1)
        except HanlinError as error:
            bad.append(error)
    if bad:
        raise _all_bad(bad, skip if len(files) > 1 else "") from bad[0]


def damaged_inputs(paths: Paths, skip: str = "", limits: ReadLimits = DEFAULT_LIMITS) -> HanlinError | None:
    """What is damaged in files that have been found so: each is read to its end, though not understood."""
    bad, files = [], expand(paths)
    for path in files:
        try:
            if is_archive(path):
                for member in members(path, limits, lambda name, why: None):
                    with member.open() as file:
                        while file.read(BLOCK):
                            pass
            else:
                verify_listed(path)
                for _ in blocks(path, limits):
                    pass
        except HanlinError as error:
            bad.append(error)
    return _all_bad(bad, skip if len(files) > 1 else "") if bad else None


def _look_into(path: Path, kind: Kind, text_key: str, limits: ReadLimits, *, alone: bool) -> None:
    quarantine = Quarantine()
    source = next(iter(_within([path], quarantine, limits)), path)
    if source is not path:
        with contextlib.suppress(Unusable):  # costs itself alone
            _first_records(source, kind, text_key, limits, quarantine)
        return
    if not _first_records(path, kind, text_key, limits, quarantine) and not quarantine.count and alone:
        raise HanlinError("{path} is empty.", path=path)


def _first_records(
    source: Path | Member, kind: Kind, text_key: str, limits: ReadLimits, quarantine: Quarantine
) -> int:
    found = records(source, kind, quarantine, limits, text_key=text_key)
    return sum(
        1 for _ in itertools.islice(_convert(source, found, kind, quarantine, "file", text_key), _LOOK)
    )


def _all_bad(errors: list[HanlinError], skip: str) -> HanlinError:
    """One error for all; a single one keeps its words."""
    if len(errors) == 1:
        if not skip:
            return HanlinError(errors[0].text)
        return HanlinError(
            "{error} Or pass {skip} to go on without it; it is counted and listed in the quarantine.",
            error=errors[0],
            skip=skip,
        )
    more = len(errors) - _LISTED
    lines = [
        Text("{count} files cannot be used:", count=len(errors)),
        *(Text("- {error}", error=error) for error in errors[:_LISTED]),
        *([Text("… and {more} more", more=more)] if more > 0 else []),
        Text("Mend them or move them away."),
    ]
    if not skip:
        return HanlinError(joined(lines, "\n"))
    return HanlinError(
        "{errors} Or pass {skip} to go on without them; they are counted and listed in the quarantine.",
        errors=joined(lines, "\n"),
        skip=skip,
    )


def _read(
    paths: Paths,
    schema: str,
    quarantine: Quarantine | None,
    limits: ReadLimits,
    source: str,
    *,
    texts: bool = False,
    sources: bool = False,
    may_be_empty: bool = False,
    text_key: str = "",
    skip_bad: bool = False,
) -> Iterator[Any]:
    files = expand(paths)  # here and not in the generator: a wrong path should be heard of at once
    return _stream(
        files,
        schema,
        quarantine or Quarantine(),
        limits,
        source,
        texts=texts,
        sources=sources,
        report=quarantine is None,
        may_be_empty=may_be_empty,
        text_key=text_key,
        skip_bad=skip_bad,
    )


def _stream(
    files: list[Path],
    schema: str,
    quarantine: Quarantine,
    limits: ReadLimits,
    source: str,
    *,
    texts: bool,
    sources: bool,
    report: bool,
    may_be_empty: bool,
    text_key: str,
    skip_bad: bool,
) -> Iterator[Any]:
    before, total = quarantine.count, 0
    for path in _within(files, quarantine, limits, skip_bad):
        read, earlier = 0, quarantine.count
        try:
            if isinstance(path, Path):
                verify_listed(path)
            found = records(path, schema, quarantine, limits, texts=texts, sources=sources, text_key=text_key)
            for item in _convert(path, found, schema, quarantine, source, text_key):
                read += len(item) if isinstance(item, (TextBatch, Sourced)) else 1
                yield item
        except HanlinError as error:
            if not skip_bad and not (isinstance(path, Member) and isinstance(error, Unusable)):
                raise
            quarantine.add(path, 0, -1, _reason(error))
        if not read and quarantine.count == earlier:
            if len(files) == 1 and path is files[0] and not may_be_empty:
                raise HanlinError("{path} is empty.", path=path)
            quarantine.add(path, 0, -1, tr("empty file"))
        total += read
    bad = quarantine.count - before
    if not total and not may_be_empty:
        raise HanlinError(
            "No usable record in {files}; {bad} were not usable: {summary}.",
            files=_names(files),
            bad=bad,
            summary=quarantine.summary(),
        )
    if bad and report:
        logging.getLogger("hanlin").warning(
            tr("{bad} records were not usable: {summary}", bad=bad, summary=quarantine.summary())
        )


def _within(
    files: list[Path], quarantine: Quarantine, limits: ReadLimits, skip_bad: bool = False
) -> Iterator[Path | Member]:
    """The files, and in place of an archive those inside it; what is passed over there is counted and
    shown."""
    for path in files:
        if not is_archive(path):
            yield path
            continue
        try:
            yield from members(path, limits, lambda name, why: quarantine.add(name, 0, -1, why))
        except HanlinError as error:
            if not skip_bad:
                raise
            quarantine.add(path, 0, -1, _reason(error))


def _reason(error: HanlinError) -> str:
    return error.reason if isinstance(error, FileError) else str(error)


def _convert(
    path: Path | Member,
    found: Iterator[Raw | TextBatch | Sourced],
    schema: str,
    quarantine: Quarantine,
    source: str,
    text_key: str = "",
) -> Iterator[Any]:
    """Records into the schema, batches of texts as they are; refuse the file when none of its first records
    has a known layout."""
    unknown: list[Raw] = []
    known = False
    chosen = text_under(text_key) if text_key else None
    name = stem(path.archive if isinstance(path, Member) else path)
    for raw in itertools.chain(found, [None]):
        if not known and unknown and (raw is None or len(unknown) >= _LOOK):
            raise _unrecognised(path, [item.value for item in unknown], schema, text_key)
        if raw is None:
            return
        if isinstance(raw, TextBatch):
            yield raw
            continue
        if isinstance(raw, Sourced):
            yield Sourced(raw.texts, [named or name for named in raw.names] or [name] * len(raw))
            continue
        if chosen is None or isinstance(raw.value, PlainText):
            layout = recognise_for(raw.value, schema)
        else:
            layout = chosen if isinstance(raw.value, Mapping) and text_key in raw.value else None
        if layout is None:
            reason = tr("unrecognised layout: {value}", value=_keys([raw.value]))
            if known or not raw.value:
                quarantine.add(path, raw.line, raw.offset, reason, raw.value)
            else:
                unknown.append(raw)
            continue
        known = True
        for early in unknown:
            quarantine.add(path, early.line, early.offset, tr("unrecognised layout"), early.value)
        unknown.clear()
        record = raw.value
        try:
            made = layout.convert({"[]": record} if isinstance(record, list) else record)
        except BadRecord as error:
            quarantine.add(path, raw.line, raw.offset, str(error), record)
            continue
        except (
            KeyError,
            TypeError,
            AttributeError,
            IndexError,
            ValueError,
        ) as error:  # the right keys over values of another shape
            quarantine.add(
                path,
                raw.line,
                raw.offset,
                tr("not quite the {layout} layout ({error!r})", layout=layout.name, error=error),
                record,
            )
            continue
        item = {"text": made} if schema == "documents" else made
        named = record.get("source") if source == "record" and isinstance(record, Mapping) else None
        item["source"] = named if isinstance(named, str) and named else name
        yield item


def _unrecognised(path: Source, values: list[Any], schema: str, text_key: str) -> HanlinError:
    if text_key:
        return Unusable(
            "{path}: no record has the key {text_key}; the keys are {values}. Change text_key, or leave it "
            "out and have the layout recognised.",
            reason=tr("no key {text_key}: {values}", text_key=text_key, values=_keys(values)),
            path=path,
            text_key=text_key,
            values=_keys(values),
        )
    fitting = [
        other for other in SCHEMAS if other != schema and any(recognise_for(value, other) for value in values)
    ]
    hint = Text("")
    if fitting:
        taker = _TAKEN_BY[fitting[0]]
        hint = Text("It looks like {kind}, which are for {taker}. ", kind=fitting[0], taker=taker)
    elif schema == "documents":
        hint = Text("Name the key of the text by --text-key (corpus.text_key in a recipe). ")
    known = ", ".join(" ".join(sorted(layout.keys)) for layout in SCHEMAS[schema][:6])
    return Unusable(
        "{path}: unrecognised layout, with the keys {values}. {hint}Rename them to a known set ({known} …).",
        reason=tr("unrecognised layout: {values}", values=_keys(values)),
        path=path,
        values=_keys(values),
        hint=hint,
        known=known,
    )


def _keys(values: Iterable[Any]) -> str:
    seen: dict[str, None] = {}
    for value in values:
        seen.update(
            dict.fromkeys(map(str, value)) if isinstance(value, Mapping) else {type(value).__name__: None}
        )
    return "{" + ", ".join(list(seen)[:20]) + "}"


def _names(files: list[Path]) -> str:
    return str(files[0]) if len(files) == 1 else f"{files[0]} … ({len(files)})"
