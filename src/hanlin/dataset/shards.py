"""Token datasets on disk: Megatron `.bin/.idx` (format 1), an optional loss mask beside it, and a manifest.

`tokens.bin` holds the ids of all documents one after another (uint16, or int32 for vocabularies above 65,536);
`tokens.idx` says where each begins; `mask.bin`, for conversations, has one byte per token: 1 where the assistant speaks.
"""

from __future__ import annotations

import collections
import struct
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ..common.errors import HanlinError
from ..common.manifest import Manifest, artifact, read_manifest
from ..tokenizer import Tokenizer
from ..tokenizer.texts import utf8_batches

BATCH_BYTES = 1 << 22  # of text, encoded by one thread at a time
_MAGIC = b"MMIDIDX\x00\x00"
_DTYPES: dict[int, type] = {8: np.uint16, 4: np.int32}  # Megatron's codes


class TokenDatasetWriter:
    """Appends documents to `tokens.bin` (and `mask.bin`); `close` writes the index."""

    def __init__(self, folder: Path, vocab_size: int, *, masked: bool = False):
        self.code = 8 if vocab_size <= 1 << 16 else 4
        self.dtype = np.dtype(_DTYPES[self.code])
        self._folder = folder
        self._tokens = open(folder / "tokens.bin", "wb")  # noqa: SIM115 - closed by close()
        self._mask = open(folder / "mask.bin", "wb") if masked else None  # noqa: SIM115
        self.lengths: list[int] = []

    def add(self, ids: Iterable[int] | np.ndarray, mask: Iterable[int] | np.ndarray | None = None) -> None:
        """Append one document, with its loss mask when the dataset has one."""
        array = np.asarray(ids, dtype=self.dtype)
        self._tokens.write(array.tobytes())
        if self._mask is not None:
            self._mask.write(np.asarray(mask, dtype=np.uint8).tobytes())
        self.lengths.append(len(array))

    def add_many(self, ids: np.ndarray, lengths: np.ndarray) -> None:
        """Append documents that lie behind one another in `ids`, without a mask."""
        self._tokens.write(ids.astype(self.dtype).tobytes())
        self.lengths += lengths.tolist()

    def close(self) -> None:
        """Finish the files."""
        self._tokens.close()
        if self._mask is not None:
            self._mask.close()
        sizes = np.asarray(self.lengths, dtype=np.int32)
        pointers = np.zeros(len(sizes), dtype=np.int64)
        np.cumsum(sizes[:-1].astype(np.int64) * self.dtype.itemsize, out=pointers[1:])
        with open(self._folder / "tokens.idx", "wb") as file:
            file.write(_MAGIC)
            file.write(struct.pack("<QBQQ", 1, self.code, len(sizes), len(sizes) + 1))
            file.write(sizes.tobytes())
            file.write(pointers.tobytes())
            file.write(np.arange(len(sizes) + 1, dtype=np.int64).tobytes())


class TokenDataset:
    """A dataset opened for reading; tokens are memory-mapped.

    Attributes:
        tokens: all ids, (total,).
        starts: first token of each document, and the total at the end, int64 (documents + 1,).
        mask: 1 where the loss counts, (total,), or None when all of it does.
        manifest: what the dataset says of itself; `config["tokenizer"]` is the content hash of its tokenizer.
    """

    def __init__(self, path: Path | str, *, verify: bool = True):
        self.path = Path(path)
        self.manifest: Manifest = read_manifest(self.path, "dataset", verify=verify)
        data = (self.path / "tokens.idx").read_bytes()
        version, code, count, _ = struct.unpack_from("<QBQQ", data, len(_MAGIC))
        if data[: len(_MAGIC)] != _MAGIC or version != 1 or code not in _DTYPES:
            raise HanlinError(f"{self.path}/tokens.idx 不是 Megatron 格式 1 的索引。", f"{self.path}/tokens.idx is not a Megatron index of format 1.")
        sizes = np.frombuffer(data, dtype=np.int32, count=count, offset=len(_MAGIC) + 25)
        self.starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self.tokens = np.memmap(self.path / "tokens.bin", dtype=_DTYPES[code], mode="r")
        mask = self.path / "mask.bin"
        self.mask = np.memmap(mask, dtype=np.uint8, mode="r") if mask.is_file() else None

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens in each document, (documents,)."""
        return np.diff(self.starts)

    def document(self, index: int) -> np.ndarray:
        """Ids of one document."""
        return self.tokens[self.starts[index] : self.starts[index + 1]]

    def require_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Refuse a tokenizer other than the one these tokens came from."""
        mine = self.manifest.config.get("tokenizer")
        if mine != tokenizer.content_hash:
            raise HanlinError(
                f"数据集 {self.path} 是用另一个分词器做的（{str(mine)[:12]}…，现在给的是 {tokenizer.content_hash[:12]}…）。"
                "混用会让模型学到错误的字。请用原来的分词器，或重新运行 hanlin dataset build。",
                f"Dataset {self.path} was made with another tokenizer ({str(mine)[:12]}…, given now: {tokenizer.content_hash[:12]}…). "
                "Mixing them teaches the wrong characters. Use the same tokenizer, or run hanlin dataset build again.",
            )


def build_text_dataset(
    documents: Iterable[Mapping[str, Any]],
    tokenizer: Tokenizer,
    out: Path | str,
    *,
    threads: int = 1,
    parents: dict[str, str] | None = None,
    key: str = "",
) -> TokenDataset:
    """Encode documents `{"text"}`, each ended by the end-of-document token, into a dataset directory.

    Args:
        threads: that encode; the files are the same for any number of them.

    Raises:
        HanlinError: there is no document.
    """
    config = {"tokenizer": tokenizer.content_hash, "masked": False}
    with artifact(out, "dataset", parents=parents, config=config, key=key) as written:
        writer = TokenDatasetWriter(written.path, tokenizer.vocab_size)
        text_bytes = 0
        for ids, lengths, size in _encoded(documents, tokenizer, threads):
            writer.add_many(ids, lengths)
            text_bytes += size
        writer.close()
        _refuse_empty(writer, out)
        written.metrics = {"documents": len(writer.lengths), "tokens": sum(writer.lengths), "bytes": text_bytes}
    return TokenDataset(out, verify=False)


def _encoded(documents: Iterable[Mapping[str, Any]], tokenizer: Tokenizer, threads: int) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Ids of some documents at a time with their ends, each document's length, and bytes of text; in order, a few batches ahead."""

    def encode(batch: list[bytes]) -> tuple[np.ndarray, np.ndarray, int]:
        ids, offsets = tokenizer.encode_arrays(batch)
        lengths = np.diff(offsets.astype(np.int64)) + 1
        ended = np.full(len(ids) + len(batch), tokenizer.eos_id, dtype=ids.dtype)
        ends = np.cumsum(lengths) - 1
        inside = np.ones(len(ended), dtype=bool)
        inside[ends] = False
        ended[inside] = ids
        return ended, lengths, sum(map(len, batch))

    running: collections.deque[Future[tuple[np.ndarray, np.ndarray, int]]] = collections.deque()
    with ThreadPoolExecutor(threads) as pool:
        for batch in utf8_batches((document["text"] for document in documents), BATCH_BYTES):
            running.append(pool.submit(encode, batch))
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
) -> TokenDataset:
    """Encode conversations `{"messages"}` through the one chat template, with a mask on what the assistant says.

    Conversations longer than `max_length` tokens, or in which the assistant says nothing, are left out whole and counted
    (`too_long`, `nothing_to_learn`): a cut one would teach the model never to stop.

    Args:
        inputs: JSON-able note of where the records came from, kept in the manifest for a pipeline to compare.

    Raises:
        HanlinError: nothing is left.
    """
    config = {"tokenizer": tokenizer.content_hash, "masked": True, "max_length": max_length, "inputs": inputs}
    with artifact(out, "dataset", parents=parents, config=config, key=key) as written:
        writer = TokenDatasetWriter(written.path, tokenizer.vocab_size, masked=True)
        too_long = nothing = targets = 0
        for record in records:
            ids, mask = tokenizer.encode_conversation(record["messages"])
            if len(ids) > max_length:
                too_long += 1
            elif not any(mask):
                nothing += 1
            else:
                writer.add(ids, mask)
                targets += sum(mask)
        writer.close()
        if too_long and not writer.lengths:
            raise HanlinError(
                f"全部 {too_long} 段对话都长于 {max_length} 个词元。请加大 seq_len（以及模型的 max_position_embeddings）。",
                f"All {too_long} conversations are longer than {max_length} tokens. Raise seq_len (and the model's max_position_embeddings).",
            )
        _refuse_empty(writer, out)
        written.metrics = {
            "documents": len(writer.lengths), "tokens": sum(writer.lengths), "target_tokens": targets,
            "too_long": too_long, "nothing_to_learn": nothing,
        }  # fmt: skip
    return TokenDataset(out, verify=False)


def _refuse_empty(writer: TokenDatasetWriter, out: Path | str) -> None:
    if not writer.lengths:
        raise HanlinError(f"没有任何文档可写入 {out}。请检查语料是否为空。", f"There is no document to write to {out}. Is the corpus empty?")
