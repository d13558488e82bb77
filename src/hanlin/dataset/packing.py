"""Rows of packed documents, as a pure function of (seed, sample index): one integer resumes the data order.

Text is a stream: documents in a seeded order, cut every `seq_len` tokens, nothing padded but the last row of
an epoch. Each document is read after a start token, so that its first token is learnt like any other.
Conversations stay whole: best-fit packing in windows of the seeded order. In both, `doc_ids` keep documents
apart.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from hanlin.common.devices import to_device_async
from hanlin.common.documents import document_starts
from hanlin.common.errors import HanlinError
from hanlin.common.random import GOLDEN_GAMMA, splitmix64_array
from hanlin.dataset.shards import TokenDataset

IGNORE_INDEX = -100
BatchT = TypeVar("BatchT", bound="Batch")


@dataclasses.dataclass
class Batch:
    """Packed rows, all (B, T) int64.

    Attributes:
        ids: tokens read.
        labels: the token to predict at each place, `IGNORE_INDEX` where none is.
        positions: place of each token in its document (or in the part of it that this row holds).
        doc_ids: equal within a document.
        documents: for the error report of a bad step: dataset indices of the documents in these rows.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor
    doc_ids: torch.Tensor
    documents: list[int]

    @functools.cached_property
    def loss_indices(self) -> torch.Tensor:
        """Indices of the tokens to predict in the flattened rows, (loss tokens,) int64.

        Computed where the batch was made: on an accelerator the host would have to wait for it.
        """
        return (self.labels.flatten() != IGNORE_INDEX).nonzero().squeeze(1)

    @functools.cached_property
    def doc_starts(self) -> torch.Tensor:
        """`document_starts` of the rows, found where the batch was made for the same reason."""
        return document_starts(self.doc_ids)

    @property
    def attention_kwargs(self) -> dict[str, torch.Tensor]:
        """Keyword arguments of a model's `hidden` that keep the documents of a row from attending to each
        other."""
        return {"positions": self.positions, "doc_ids": self.doc_ids, "doc_starts": self.doc_starts}

    @property
    def num_loss_tokens(self) -> int:
        """Number of tokens to predict."""
        return len(self.loss_indices)

    def gather_loss_tokens(self, values: torch.Tensor) -> torch.Tensor:
        """(B, T, …) → (loss tokens, …): what belongs to the tokens to predict."""
        return values.flatten(0, 1).index_select(0, self.loss_indices)

    def to(self: BatchT, device: torch.device) -> BatchT:
        """The same rows on a device; a batch of a derived class stays one, with its fields."""
        if device == self.ids.device:
            return self
        moved = dataclasses.replace(
            self,
            ids=to_device_async(self.ids, device),
            labels=to_device_async(self.labels, device),
            positions=to_device_async(self.positions, device),
            doc_ids=to_device_async(self.doc_ids, device),
        )
        moved.loss_indices = to_device_async(self.loss_indices, device)
        moved.doc_starts = to_device_async(self.doc_starts, device)
        return moved

    @classmethod
    def empty(cls, seq_len: int) -> Batch:
        """A batch of no rows, for a step in which there is nothing to learn."""
        return _BatchWriter(0, seq_len).finish()

    def split(self) -> list[Batch]:
        """The upper and the lower half of the rows, each with its own documents; itself when there is one
        row."""
        rows = self.ids.shape[0]
        if rows < 2:
            return [self]
        parts = []
        for part in (slice(0, rows // 2), slice(rows // 2, rows)):
            owners, doc_ids = torch.unique(self.doc_ids[part], return_inverse=True)
            padded = int(bool(len(owners)) and int(owners[0]) < 0)  # padding comes first and stays at -1
            documents = [self.documents[owner] for owner in owners[padded:].tolist()]
            parts.append(
                Batch(self.ids[part], self.labels[part], self.positions[part], doc_ids - padded, documents)
            )
        return parts


def permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of 0 … count-1, int64, that depends on seed and epoch alone."""
    start = np.asarray([seed * 1_000_003 + epoch + 1], dtype=np.uint64)
    with np.errstate(over="ignore"):
        counters = np.arange(count, dtype=np.uint64) * np.uint64(GOLDEN_GAMMA) + splitmix64_array(start)
    return np.argsort(splitmix64_array(counters), kind="stable")


class _Rows(abc.ABC):
    """What both kinds of packing share: sample index → (epoch, row), and rows → batches."""

    def __init__(self, dataset: TokenDataset, seq_len: int, seed: int):
        if not len(dataset):
            raise HanlinError("Dataset {dataset} is empty.", dataset=dataset.path)
        self.dataset = dataset
        self.seq_len = seq_len
        self.seed = seed
        self._plan = functools.lru_cache(maxsize=2)(self._plan_epoch)
        self._first: list[int] = [0]  # sample index at which each epoch begins

    def identity(self) -> dict[str, Any]:
        """What the rows depend on, by name."""
        return {
            "dataset": self.dataset.manifest.content_hash,
            "packing": type(self).__name__,
            "seq_len": self.seq_len,
            "seed": self.seed,
        }

    @abc.abstractmethod
    def _plan_epoch(self, epoch: int) -> Any:
        """The order of an epoch, as `_pieces` needs it; computed once and kept."""

    @abc.abstractmethod
    def _epoch_rows(self, epoch: int) -> int:
        """Rows of an epoch."""

    @abc.abstractmethod
    def _pieces(self, epoch: int, row: int) -> list[tuple[int, int, int]]:
        """(document, first token, end) of what a row holds, tokens counted within the document."""

    def rows_in_epoch(self, epoch: int = 0) -> int:
        """Number of rows one pass over the data takes."""
        return self._epoch_rows(epoch)

    def locate(self, sample: int) -> tuple[int, int]:
        """Epoch and row of a global sample index."""
        while self._first[-1] <= sample:
            self._first.append(self._first[-1] + self._epoch_rows(len(self._first) - 1))
        epoch = int(np.searchsorted(self._first, sample, side="right")) - 1
        return epoch, sample - self._first[epoch]

    def batch(self, samples: list[int]) -> Batch:
        """Rows of the given global sample indices."""
        writer = _BatchWriter(len(samples), self.seq_len)
        for row, sample in enumerate(samples):
            for document, first, end in self._pieces(*self.locate(sample)):
                writer.add(row, document, *self._read(document, first, end))
        return writer.finish()

    def _read(self, document: int, first: int, end: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Tokens `first … end-1` of a document, what follows each (nothing follows the last one), and which
        of those are learnt."""
        tokens, mask, starts = self.dataset.tokens, self.dataset.mask, self.dataset.starts
        begin, stop, last = starts[document] + first, starts[document] + end, starts[document + 1]
        following = slice(begin + 1, min(stop + 1, last))
        return tokens[begin:stop], tokens[following], None if mask is None else mask[following]


class _BatchWriter:
    """Fills the arrays of a `Batch`, one piece of a document after another."""

    def __init__(self, rows: int, seq_len: int):
        shape = (rows, seq_len)
        self.ids, self.labels = np.zeros(shape, np.int64), np.full(shape, IGNORE_INDEX, np.int64)
        self.positions, self.doc_ids = np.zeros(shape, np.int64), np.full(shape, -1, np.int64)
        self.documents: list[int] = []
        self._used = [0] * rows

    def add(
        self, row: int, document: int, ids: np.ndarray, following: np.ndarray, mask: np.ndarray | None
    ) -> None:
        """Put `ids` after what the row holds; `following` are their next tokens, learned where `mask` is
        set."""
        at, size = self._used[row], len(ids)
        self.ids[row, at : at + size] = ids
        labels = np.asarray(following, dtype=np.int64)
        self.labels[row, at : at + len(following)] = (
            labels if mask is None else np.where(mask, labels, IGNORE_INDEX)
        )
        self.positions[row, at : at + size] = np.arange(size)
        self.doc_ids[row, at : at + size] = len(self.documents)
        self.documents.append(int(document))
        self._used[row] += size

    def finish(self) -> Batch:
        """The batch as tensors."""
        ids, labels, positions, doc_ids = map(
            torch.from_numpy, (self.ids, self.labels, self.positions, self.doc_ids)
        )
        return Batch(ids, labels, positions, doc_ids, self.documents)


def pack_sequences(
    sequences: Sequence[tuple[Sequence[int] | np.ndarray, Sequence[int] | np.ndarray]],
    seq_len: int,
    numbers: Sequence[int] | None = None,
) -> Batch:
    """Pack whole (ids, mask) sequences into as few rows as best fit finds.

    Args:
        numbers: what `Batch.documents` calls each sequence; its index when absent.

    Raises:
        ValueError: a sequence is longer than `seq_len`.
    """
    lengths = np.asarray([len(ids) for ids, _ in sequences])
    if lengths.max() > seq_len:
        raise ValueError(f"a sequence has {lengths.max()} tokens, more than seq_len {seq_len}")
    rows = pack_best_fit(np.arange(len(sequences)), lengths, seq_len)
    writer = _BatchWriter(len(rows), seq_len)
    for row, members in enumerate(rows):
        for index in members:
            ids, mask = (np.asarray(part) for part in sequences[index])
            writer.add(row, index if numbers is None else numbers[index], ids, ids[1:], mask[1:])
    return writer.finish()


class TextRows(_Rows):
    """Pretraining rows: a seeded stream of documents cut every `seq_len` tokens; no token is lost or padded
    away.

    Where a document spans several rows, the rows are permuted as well: else one long novel fills many steps
    in a row (measured here: the loss rises by two nats when it begins).

    Args:
        bos_id: what precedes a document: `[bos, t₁ … tₙ₋₁]` is read and `[t₁ … tₙ]` learnt, tₙ being the
            end-of-document token, which needs no place of its own as an input. Without one, `[t₁ … tₙ]` is
            read and `[t₂ … tₙ]` learnt: a document's first token never is.
    """

    def __init__(self, dataset: TokenDataset, seq_len: int, seed: int, bos_id: int | None = None):
        super().__init__(dataset, seq_len, seed)
        self.bos_id = bos_id

    def identity(self) -> dict[str, Any]:
        """With what precedes a document, where anything does."""
        return super().identity() | ({} if self.bos_id is None else {"bos_id": self.bos_id})

    def _read(self, document: int, first: int, end: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        if self.bos_id is None:
            return super()._read(document, first, end)
        begin, stop = self.dataset.starts[document] + first, self.dataset.starts[document] + end
        following = self.dataset.tokens[begin:stop]
        if first:
            return self.dataset.tokens[begin - 1 : stop - 1], following, None
        bos = np.asarray([self.bos_id], dtype=following.dtype)
        return np.concatenate([bos, following[:-1]]), following, None

    def _plan_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        order = permutation(len(self.dataset), self.seed, epoch)
        offsets = np.concatenate([[0], np.cumsum(self.dataset.lengths[order])])
        scattered = (
            permutation(self._epoch_rows(epoch), self.seed + 1, epoch)
            if self.dataset.lengths.max() > self.seq_len
            else None
        )
        return order, offsets, scattered

    def _epoch_rows(self, epoch: int) -> int:
        return -(-int(self.dataset.starts[-1]) // self.seq_len)

    def _pieces(self, epoch: int, row: int) -> list[tuple[int, int, int]]:
        order, offsets, scattered = self._plan(epoch)
        row = row if scattered is None else int(scattered[row])
        begin, end = row * self.seq_len, min((row + 1) * self.seq_len, int(offsets[-1]))
        index = int(np.searchsorted(offsets, begin, side="right")) - 1
        pieces = []
        while begin < end:
            stop = min(end, int(offsets[index + 1]))
            if stop > begin:
                pieces.append((order[index], begin - int(offsets[index]), stop - int(offsets[index])))
            begin, index = stop, index + 1
        return pieces


class ConversationRows(_Rows):
    """Fine-tuning rows: whole conversations, best-fit packed within windows of the seeded order.

    Raises:
        HanlinError: a conversation is longer than a row.
    """

    window = 2048

    def __init__(self, dataset: TokenDataset, seq_len: int, seed: int):
        super().__init__(dataset, seq_len, seed)
        longest = int(dataset.lengths.max())
        if longest > seq_len:
            raise HanlinError(
                "The longest conversation in {dataset} has {longest} tokens, more than seq_len={seq_len}. "
                "Raise seq_len or rebuild with a smaller max_length.",
                dataset=dataset.path,
                longest=longest,
                seq_len=seq_len,
            )

    def _plan_epoch(self, epoch: int) -> list[list[int]]:
        order = permutation(len(self.dataset), self.seed, epoch)
        lengths = self.dataset.lengths
        rows: list[list[int]] = []
        for start in range(0, len(order), self.window):
            window = order[start : start + self.window]
            rows += pack_best_fit(window, lengths[window], self.seq_len)
        shuffled = permutation(len(rows), self.seed + 1, epoch)  # best fit leaves the rows sorted by length
        return [rows[index] for index in shuffled]

    def _epoch_rows(self, epoch: int) -> int:
        return len(self._plan(epoch))

    def _pieces(self, epoch: int, row: int) -> list[tuple[int, int, int]]:
        lengths = self.dataset.lengths
        return [(document, 0, int(lengths[document])) for document in self._plan(epoch)[row]]


def pack_best_fit(items: np.ndarray, lengths: np.ndarray, capacity: int) -> list[list[int]]:
    """Best-fit decreasing: each item, longest first, goes to the fullest bin that still has room for it."""
    bins: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]  # bins with exactly that much room
    for index in np.argsort(-lengths, kind="stable"):
        length = int(lengths[index])
        room = next((room for room in range(length, capacity) if by_room[room]), capacity)
        target = by_room[room].pop() if by_room[room] else len(bins)
        if target == len(bins):
            bins.append([])
        bins[target].append(int(items[index]))
        by_room[room - length].append(target)
    return bins
