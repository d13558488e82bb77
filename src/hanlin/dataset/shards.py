"""Token datasets on disk: Megatron `.bin/.idx` (format 1), an optional loss mask beside it, and a manifest.

`tokens.bin` holds the ids of all documents one after another (uint16, or int32 for vocabularies above
65,536); `tokens.idx` says where each begins; `mask.bin`, for conversations, has one byte per token: 1 where
the assistant speaks; `sources.bin`, where texts name their sources, two bytes per document: the place of its
name in the manifest's `metrics["sources"]`.
"""

from __future__ import annotations

import collections
import itertools
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from hanlin._native import TextBatch
from hanlin.common.errors import HanlinError
from hanlin.common.failpoints import failpoint
from hanlin.common.manifest import Manifest, artifact, read_manifest
from hanlin.common.messages import Text
from hanlin.common.savepoint import Savepoint, files_key
from hanlin.common.target import refuse_foreign_target
from hanlin.corpus.readers.files import expand
from hanlin.corpus.readers.read import read_sourced_texts
from hanlin.tokenizer import Tokenizer, chat
from hanlin.tokenizer.texts import text_batches

_LENGTHS = "lengths.bin"  # of the documents, while a dataset is written
_SOURCES, _MOST_SOURCES = "sources.bin", 1 << 16
_MAGIC = b"MMIDIDX\x00\x00"
_DTYPES: dict[int, type] = {8: np.uint16, 4: np.int32}  # Megatron's codes


class TokenDatasetWriter:
    """Appends documents to `tokens.bin` (and `mask.bin`); `close` writes the index.

    Attributes:
        documents, tokens: written so far.

    Args:
        documents: that an earlier writer has flushed to the same folder, to go on behind them; for a dataset
            without a mask.
    """

    def __init__(self, folder: Path, vocab_size: int, *, masked: bool = False, documents: int = 0):
        self.code = 8 if vocab_size <= 1 << 16 else 4
        self.dtype = np.dtype(_DTYPES[self.code])
        self._folder = folder
        lengths = (
            np.fromfile(folder / _LENGTHS, dtype=np.int32, count=documents)
            if documents
            else np.empty(0, np.int32)
        )
        self.documents, self.tokens = documents, int(lengths.sum(dtype=np.int64))
        self._tokens = _reopened(folder / "tokens.bin", self.tokens * self.dtype.itemsize)
        self._lengths = _reopened(folder / _LENGTHS, documents * lengths.itemsize)
        self._mask = open(folder / "mask.bin", "wb") if masked else None  # noqa: SIM115

    def add(self, ids: Iterable[int] | np.ndarray, mask: Iterable[int] | np.ndarray | None = None) -> None:
        """Append one document, with its loss mask when the dataset has one."""
        array = np.asarray(ids, dtype=self.dtype)
        self.add_many(array, np.asarray([len(array)]))
        if self._mask is not None:
            self._mask.write(np.asarray(mask, dtype=np.uint8).tobytes())

    def add_many(self, ids: np.ndarray, lengths: np.ndarray) -> None:
        """Append documents that lie behind one another in `ids`, without a mask."""
        self._tokens.write(ids.astype(self.dtype).tobytes())
        self._lengths.write(lengths.astype(np.int32).tobytes())
        self.documents, self.tokens = self.documents + len(lengths), self.tokens + len(ids)

    def flush(self) -> None:
        """Bring all that was appended to the disk."""
        for file in (self._tokens, self._lengths):
            file.flush()
            os.fsync(file.fileno())

    def close(self, folder: Path | None = None) -> None:
        """Finish the files, and move them to `folder` if it is another one."""
        for file in (self._tokens, self._lengths, self._mask):
            if file is not None:
                file.close()
        sizes = np.fromfile(self._folder / _LENGTHS, dtype=np.int32)
        pointers = np.zeros(len(sizes), dtype=np.int64)
        np.cumsum(sizes[:-1].astype(np.int64) * self.dtype.itemsize, out=pointers[1:])
        with open(self._folder / "tokens.idx", "wb") as file:
            file.write(_MAGIC)
            file.write(struct.pack("<QBQQ", 1, self.code, len(sizes), len(sizes) + 1))
            file.write(sizes.tobytes())
            file.write(pointers.tobytes())
            file.write(np.arange(len(sizes) + 1, dtype=np.int64).tobytes())
        (self._folder / _LENGTHS).unlink()
        if folder is not None:
            for name in ("tokens.bin", "tokens.idx"):
                os.replace(self._folder / name, folder / name)


def _reopened(path: Path, size: int) -> BinaryIO:
    """The file, to go on writing behind its first `size` bytes."""
    file = open(path, "r+b" if size else "wb")  # noqa: SIM115
    file.truncate(size)
    file.seek(size)
    return file


class DocumentSources:
    """The source of each document, as it is written; `names` is what a resumed job has saved."""

    def __init__(self, folder: Path, documents: int = 0, names: Sequence[str] = ()):
        self._path = folder / _SOURCES
        self._file = _reopened(self._path, 2 * documents)
        self._numbers = {name: number for number, name in enumerate(names)}

    @property
    def names(self) -> list[str]:
        """In the order of their numbers."""
        return list(self._numbers)

    def add(self, names: Sequence[str]) -> None:
        """Append the source of each of some documents; sources past the 65,535th share one number, `…`."""
        numbers = self._numbers
        for name in dict.fromkeys(names):
            if name not in numbers and len(numbers) < _MOST_SOURCES:
                numbers[name if len(numbers) < _MOST_SOURCES - 1 else "…"] = len(numbers)
        other = numbers.get("…", 0)
        self._file.write(
            np.fromiter(
                (numbers.get(name, other) for name in names), dtype=np.uint16, count=len(names)
            ).tobytes()
        )

    def flush(self) -> None:
        """Bring all that was appended to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self, folder: Path) -> dict[str, int]:
        """Finish the file in `folder`, and count documents by name; nothing is left where no document named
        a source."""
        self._file.close()
        if self.names in ([], [""]):
            self._path.unlink()
            return {}
        counts = np.bincount(np.fromfile(self._path, dtype=np.uint16), minlength=len(self._numbers))
        os.replace(self._path, folder / _SOURCES)
        return dict(zip(self.names, counts.tolist(), strict=True))


class TokenDataset:
    """A dataset opened for reading; tokens are memory-mapped.

    Attributes:
        tokens: all ids, (total,).
        starts: first token of each document, and the total at the end, int64 (documents + 1,).
        mask: 1 where the loss counts, (total,), or None when all of it does.
        sources: number of each document's source in `source_names`, uint16 (documents,), or None when texts
            named none.
        manifest: what the dataset says of itself; `config["tokenizer"]` is the content hash of its tokenizer.
    """

    def __init__(self, path: Path | str, *, verify: bool = True):
        self.path = Path(path)
        self.manifest: Manifest = read_manifest(self.path, "dataset", verify=verify)
        data = (self.path / "tokens.idx").read_bytes()
        version, code, count, _ = struct.unpack_from("<QBQQ", data, len(_MAGIC))
        if data[: len(_MAGIC)] != _MAGIC or version != 1 or code not in _DTYPES:
            raise HanlinError("{path}/tokens.idx is not a Megatron index of format 1.", path=self.path)
        sizes = np.frombuffer(data, dtype=np.int32, count=count, offset=len(_MAGIC) + 25)
        self.starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self.tokens = np.memmap(self.path / "tokens.bin", dtype=_DTYPES[code], mode="r")
        mask = self.path / "mask.bin"
        self.mask = np.memmap(mask, dtype=np.uint8, mode="r") if mask.is_file() else None
        sources = self.path / _SOURCES
        self.sources = np.memmap(sources, dtype=np.uint16, mode="r") if sources.is_file() else None

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def source_names(self) -> list[str]:
        """Names by number; empty where `sources` is None."""
        return list(self.manifest.metrics.get("sources", {})) if self.sources is not None else []

    @property
    def lengths(self) -> np.ndarray:
        """Tokens in each document, (documents,)."""
        return np.diff(self.starts)

    @property
    def targets(self) -> np.ndarray:
        """Tokens whose loss counts in each document of a dataset with a mask, (documents,) int64."""
        assert self.mask is not None
        return np.add.reduceat(self.mask.astype(np.int64), self.starts[:-1])

    def document(self, index: int) -> np.ndarray:
        """Ids of one document."""
        return self.tokens[self.starts[index] : self.starts[index + 1]]

    def require_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Refuse a tokenizer other than the one these tokens came from."""
        mine = self.manifest.config.get("tokenizer")
        if mine != tokenizer.content_hash:
            raise HanlinError(
                "Dataset {path} was made with another tokenizer ({mine}…, given now: {content_hash}…). "
                "Mixing them teaches the wrong characters. Use the same tokenizer, or run hanlin dataset "
                "build again.",
                path=self.path,
                mine=str(mine)[:12],
                content_hash=tokenizer.content_hash[:12],
            )


def build_text_dataset(
    source: Path | str | Sequence[Path | str] | Iterable[Mapping[str, Any]],
    tokenizer: Tokenizer,
    out: Path | str,
    *,
    threads: int = 1,
    parents: dict[str, str] | None = None,
    key: str = "",
    progress: Callable[[int], None] | None = None,
) -> TokenDataset:
    """Encode documents, each ended by the end-of-document token, into a dataset directory.

    What is encoded is saved every minute (beside `out`, removed at the end): after a kill, the same call on
    the same files goes on from there.

    Args:
        source: one path or several, of any files the corpus room reads; or documents `{"text", "source"?}`.
        threads: that encode; the files are the same for any number of them.
        progress: called with the bytes of text encoded so far.

    Raises:
        HanlinError: there is no document.
    """
    config = {"tokenizer": tokenizer.content_hash, "masked": False}
    paths = _paths(source)
    refuse_foreign_target(out, "dataset", [tokenizer.path, *(paths or ())])
    batches = (
        _sourced(cast(Any, source))
        if paths is None
        else ((batch.texts, batch.names) for batch in read_sourced_texts(paths))
    )
    with (
        Savepoint(Path(out), files_key(paths, [config, _SOURCES]) if paths is not None else "") as savepoint,
        artifact(out, "dataset", parents=parents, config=config, key=key) as written,
    ):
        state = savepoint.state or {"documents": 0, "batches": 0, "bytes": 0}
        done, size = state["batches"], state["bytes"]
        writer = TokenDatasetWriter(savepoint.folder, tokenizer.vocab_size, documents=state["documents"])
        sources = DocumentSources(savepoint.folder, state["documents"], state.get("sources", ()))
        for ids, lengths, read, names in _encoded(itertools.islice(batches, done, None), tokenizer, threads):
            writer.add_many(ids, lengths)
            sources.add(names)
            done, size = done + 1, size + read
            if savepoint.due:
                writer.flush()
                sources.flush()
                savepoint.save(
                    {"documents": writer.documents, "batches": done, "bytes": size, "sources": sources.names}
                )
                failpoint("dataset.saved")
            if progress:
                progress(size)
        _refuse_empty(writer, out)
        writer.close(written.path)
        counts = sources.close(written.path)
        written.metrics = {"documents": writer.documents, "tokens": writer.tokens, "bytes": size} | (
            {"sources": counts} if counts else {}
        )
    return TokenDataset(out, verify=False)


def _paths(source: Any) -> list[Path] | None:
    """The files of a source, or None if it is documents."""
    if isinstance(source, (str, Path)):
        return expand(source)
    return (
        expand(source)
        if isinstance(source, (list, tuple)) and source and isinstance(source[0], (str, Path))
        else None
    )


def _sourced(documents: Iterable[Mapping[str, Any]]) -> Iterator[tuple[TextBatch, list[str]]]:
    """Texts in batches, with the sources of each batch."""
    names: list[str] = []

    def texts() -> Iterator[str]:
        for document in documents:
            names.append(str(document.get("source") or ""))
            yield document["text"]

    for batch in text_batches(texts()):
        count = len(batch)
        yield batch, names[:count]
        del names[:count]


_Encoded = tuple[np.ndarray, np.ndarray, int, list[str]]


def _encoded(
    batches: Iterable[tuple[TextBatch, list[str]]], tokenizer: Tokenizer, threads: int
) -> Iterator[_Encoded]:
    """Ids of each batch with their ends, each document's length, bytes of text, and sources; in order, a few
    batches ahead."""

    def encode(batch: TextBatch, names: list[str]) -> _Encoded:
        ids, offsets = tokenizer.encode_arrays(batch)
        lengths = np.diff(offsets.astype(np.int64)) + 1
        ended = np.full(len(ids) + len(batch), tokenizer.eos_id, dtype=ids.dtype)
        ends = np.cumsum(lengths) - 1
        inside = np.ones(len(ended), dtype=bool)
        inside[ends] = False
        ended[inside] = ids
        return ended, lengths, batch.bytes, names

    running: collections.deque[Future[_Encoded]] = collections.deque()
    with ThreadPoolExecutor(threads) as pool:
        for batch, names in batches:
            running.append(pool.submit(encode, batch, names))
            if len(running) > threads + 1:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def build_conversation_dataset(
    records: Iterable[Mapping[str, Any]],
    tokenizer: Tokenizer,
    out: Path | str,
    *,
    max_length: int,
    parents: dict[str, str] | None = None,
    inputs: Any = None,
    key: str = "",
    text: Iterator[np.ndarray] | None = None,
    text_share: float = 0.0,
    min_length: int = 0,
    mixed: Sequence[tuple[float, Iterator[tuple[np.ndarray, np.ndarray]]]] = (),
) -> TokenDataset:
    """Encode conversations `{"messages", "tools"?}` through the one chat template, with a mask on what the
    assistant says.

    A conversation is one document. Of each earlier round whose reasoning the template drops from the whole
    there is one more, which ends with that round and learns it alone: its answer is never learnt without the
    thought it came from (`rounds_apart` of them).

    Documents longer than `max_length` tokens, and conversations in which the assistant says nothing, are
    left out whole and counted (`too_long`, of which some are in `too_long_examples`; `nothing_to_learn`): a
    cut one would teach the model never to stop.

    Args:
        inputs: JSON-able note of where the records came from, kept in the manifest for a pipeline to compare.
        text: ids of bare documents to mix in, so that a model which learns to talk keeps its language; all
            their tokens are learnt, of long ones the first `max_length`. It must not end before the
            conversations do.
        text_share: these documents' share of all.
        min_length: documents of fewer tokens are left out as well and counted (`too_short`).
        mixed: further documents as (share of all, ids and mask without end).

    Raises:
        HanlinError: nothing is left.
    """
    config = {"tokenizer": tokenizer.content_hash, "masked": True, "max_length": max_length, "inputs": inputs}
    with artifact(out, "dataset", parents=parents, config=config, key=key) as written:
        writer = TokenDatasetWriter(written.path, tokenizer.vocab_size, masked=True)
        conversations = apart = nothing = targets = texts = too_short = 0
        from_others = [0] * len(mixed)
        too_long = TooLong(max_length)
        for record in records:
            if text is not None and texts < text_share * (writer.documents + 1):
                document = next(text)[:max_length]
                writer.add(document, [0] + [1] * (len(document) - 1))
                texts += 1
            for index, (share, others) in enumerate(mixed):
                if from_others[index] < share * (writer.documents + 1):
                    writer.add(*_cut(next(others), max_length))
                    from_others[index] += 1
            messages, tools = record["messages"], record.get("tools")
            conversations += 1
            learnt = 0
            for start, end in [*chat.cut_short(messages), (0, len(messages))]:
                ids, mask = tokenizer.encode_conversation(messages[:end], tools=tools, learn_from=start)
                if not any(mask):
                    continue
                learnt += sum(mask)
                if len(ids) > max_length:
                    too_long.add(messages, len(ids))
                    continue
                if len(ids) < min_length:
                    too_short += 1
                    continue
                writer.add(ids, mask)
                targets += sum(mask)
                apart += end < len(messages)
            nothing += not learnt
        writer.close()
        if too_long.count and not writer.documents:
            raise HanlinError(
                "All {count} conversations are longer than {max_length} tokens, for example {examples}. "
                "Raise seq_len (and the model's max_position_embeddings).",
                count=too_long.count,
                max_length=max_length,
                examples=too_long.examples[0],
            )
        _refuse_empty(writer, out)
        written.metrics = {
            "conversations": conversations,
            "documents": writer.documents,
            "rounds_apart": apart,
            "tokens": writer.tokens,
            "target_tokens": targets,
            "nothing_to_learn": nothing,
            "texts": texts,
        } | too_long.metrics
        if min_length:
            written.metrics |= {"too_short": too_short}
        if mixed:
            written.metrics |= {"mixed_in": sum(from_others)}
    return TokenDataset(out, verify=False)


def _cut(document: tuple[np.ndarray, np.ndarray], length: int) -> tuple[np.ndarray, np.ndarray]:
    ids, mask = document
    return ids[:length], mask[:length]


class TooLong:
    """Conversations that are longer than a row: how many, and the beginnings of the first few with their
    tokens, to be shown to whoever gave them."""

    kept = 3

    def __init__(self, max_length: int):
        self.max_length, self.count = max_length, 0
        self.examples: list[str] = []

    def add(self, messages: Sequence[Mapping[str, Any]], tokens: int) -> None:
        """Count one."""
        self.count += 1
        if len(self.examples) < self.kept:
            text = next(
                (str(message.get("content")) for message in messages if message.get("role") == "user"), ""
            )
            self.examples.append(f"{text[:40]!r}… ({tokens:,})")

    @property
    def metrics(self) -> dict[str, Any]:
        """For the manifest."""
        return {"too_long": self.count} | ({"too_long_examples": self.examples} if self.examples else {})


def too_long_warning(dataset: TokenDataset) -> Text | None:
    """What to tell whoever gave the conversations or pairs of a dataset; None where all of them were used."""
    metrics = dataset.manifest.metrics
    if not metrics.get("too_long"):
        return None
    return Text(
        "{too_long:,} were longer than seq_len={limit} tokens and were left out whole, for example "
        "{shown}. A larger seq_len would take them",
        too_long=metrics["too_long"],
        limit=dataset.manifest.config.get("max_length"),
        shown=metrics["too_long_examples"][0],
    )


def _refuse_empty(writer: TokenDatasetWriter, out: Path | str) -> None:
    if not writer.documents:
        raise HanlinError("There is no document to write to {out}. Is the corpus empty?", out=out)
