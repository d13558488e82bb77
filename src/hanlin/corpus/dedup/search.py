"""The search for duplicates over the sketches of all tasks, on disk and within the memory given.

Three steps, each of which leaves files that appear whole or not at all, so that a killed search goes on where
it was:

1. equal digests: of equal comparison keys the earliest document stays;
2. candidate pairs: documents that share the key of a band. Ranges of keys are independent of one another: any
  number of workers;
3. decisions, in the order of documents: one goes only when a pair whose similarity was verified ties it to an
  earlier one that stays. So every dropped text has a kept duplicate of Jaccard ≥ threshold, and no chain of
  small changes pulls unlike documents into one cluster.

What is found hangs on the documents and their order alone: neither on tasks, workers and memory nor on where
a run was killed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from hanlin._native import DuplicateVerifier, KeyReader, TextBatch
from hanlin.common.atomic import atomic_write, fsync_path, read_json, write_json
from hanlin.common.config import to_dict
from hanlin.common.errors import HanlinError
from hanlin.corpus.dedup.fingerprints import DedupConfig, comparison_keys
from hanlin.corpus.dedup.sketches import Sketch, SketchWriter

Texts = Callable[[np.ndarray], Iterable[str | bytes]]
MEMORY = 512 << 20
LEAST_MEMORY = 16 << 20
DUPLICATE = np.dtype([("document", "<u4"), ("keeper", "<u4"), ("similarity", "<f4"), ("exact", "<u4")])

# In a group of documents that share a band's key, each is paired with so many of the earliest, and so many
# of those next to it once the group is sorted by another band's key; so a crowd of n costs n pairs and not
# n². Up to 65 documents that is everyone with everyone.
_EARLIEST, _NEIGHBOURS = 32, 32
_HALF, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)  # a pair is (later document << 32 | earlier one)
_RECORD_BYTES = 48  # of a key while it is sorted
_SAMPLED = 256
_TEXTS = 1 << 20  # bytes of text that are made shingles of at once


def find_duplicates(
    sketches: Sequence[Path | str],
    texts: Texts,
    config: DedupConfig,
    folder: Path | str,
    *,
    memory: int = MEMORY,
    workers: int = 1,
) -> Path:
    """Search the documents of `sketches`, numbered through in that order.

    Args:
        texts: called with ascending document numbers, uint32, and gives their texts (not yet comparison
            keys) in that order; may be lazy.
        folder: where the search works and where its result stays; if it holds an unfinished search of the
            same sketches, that is gone on with.
        memory: bytes for keys, pairs and shingles; three bytes a document and the two largest of the
            documents compared come on top.
        workers: threads that look for candidate pairs, each with its share of the memory.

    Returns:
        The file for `read_duplicates` and `clusters`.

    Raises:
        HanlinError: a sketch is missing or does not fit `config`, the memory is below 16 MiB, or the disk is
            full.
    """
    search = DuplicateSearch(sketches, config, folder, memory=memory // workers)
    if search.result.is_file():
        return search.result
    search.find_exact()
    if config.near:
        with ThreadPoolExecutor(workers) as pool:
            for _ in pool.map(search.find_pairs, range(len(search.ranges()))):
                pass
    return search.decide(texts, memory)


class DuplicateSearch:
    """The steps of `find_duplicates`, for engines that run them as tasks of their own: `find_exact`, then
    every `find_pairs`, then `decide`.

    Args and errors as there; `memory` is that of one task.
    """

    def __init__(
        self, sketches: Sequence[Path | str], config: DedupConfig, folder: Path | str, *, memory: int = MEMORY
    ) -> None:
        if memory < LEAST_MEMORY:
            raise HanlinError(
                "Deduplication needs {least_memory} MiB of memory at least, {memory:.1f} MiB were given.",
                least_memory=LEAST_MEMORY >> 20,
                memory=memory / 2**20,
            )
        self.config, self.folder, self.memory = config, Path(folder), memory
        self.result = self.folder / "duplicates"
        self._sketches = [Sketch(path, config) for path in sketches]
        self._firsts = np.cumsum([0, *(sketch.documents for sketch in self._sketches)]).tolist()
        self.documents: int = self._firsts[-1]
        if self.documents >= 1 << 32:
            raise HanlinError("One search takes 2³² − 1 documents at most.")
        self._claim([[str(sketch.path), sketch.documents, sketch.content] for sketch in self._sketches])

    def _claim(self, sketches: list[list[object]]) -> None:
        """Make the folder this search's: what another one left in it goes."""
        key = orjson.loads(
            orjson.dumps({"sketches": sketches, "config": to_dict(self.config), "memory": self.memory})
        )
        state = self.folder / "search.json"
        if not state.is_file() or read_json(state) != key:
            state.unlink(missing_ok=True)
            for pattern in ("exact-*", "pairs-*", "duplicates"):
                for path in self.folder.glob(pattern):
                    path.unlink()
            write_json(state, key)

    def find_exact(self) -> None:
        """Pair every document whose digest occurred before with the first that has it, in as many passes as
        the memory makes necessary."""
        passes = 1
        while self.documents * 96 > passes * self.memory:
            passes *= 2
        for number in range(passes):
            path = self.folder / f"exact-{number:04}"
            if not path.is_file():
                atomic_write(
                    path,
                    (self._exact(number, passes) if self.config.exact else np.empty(0, np.uint64)).tobytes(),
                )

    def _exact(self, number: int, passes: int) -> np.ndarray:
        rows, documents = [np.empty((0, 2), np.uint64)], [np.empty(0, np.uint64)]
        for sketch, first in zip(self._sketches, self._firsts, strict=False):
            for block in sketch.digests():
                taken = np.flatnonzero(block[:, 0] % np.uint64(passes) == number)
                rows.append(block[taken])
                documents.append((taken + first).astype(np.uint64))
                first += len(block)
        digest, document = np.concatenate(rows), np.concatenate(documents)
        del rows, documents
        if not len(document):
            return document
        order = np.argsort(digest[:, 0], kind="stable")
        same = digest[order[1:], 0] == digest[order[:-1], 0]
        # few, in the order of documents
        order = np.sort(order[np.append(same, False) | np.append(False, same)])
        digest, document = digest[order], document[order]
        order = np.lexsort((digest[:, 1], digest[:, 0]))
        digest, document = digest[order], document[order]
        begins = np.append(True, (digest[1:] != digest[:-1]).any(axis=1))[: len(digest)]
        keeper = document[begins][np.cumsum(begins) - 1]
        return np.sort((document << np.uint64(32) | keeper)[~begins])

    def ranges(self) -> list[tuple[int, int]]:
        """Ranges of keys (first, last) whose records fit in the memory each."""
        return key_ranges(self._reader().sizes, self.memory // 2)

    def _reader(self) -> KeyReader:
        return KeyReader(
            [
                (str(sketch.path / "bands"), first)
                for sketch, first in zip(self._sketches, self._firsts, strict=False)
            ]
        )

    def find_pairs(self, number: int) -> None:
        """Find the candidate pairs of `ranges()[number]`, if that has not been done."""
        done = self.folder / f"pairs-{number:04}.done"
        if done.is_file():
            return
        parts = 0

        def write(pairs: np.ndarray) -> None:
            nonlocal parts
            atomic_write(self.folder / f"pairs-{number:04}-{parts:04}", pairs.tobytes())
            parts += 1

        first, last = self.ranges()[number]
        self._reader().pairs(first, last, self._gone(), _EARLIEST, _NEIGHBOURS, self.memory // 4 // 16, write)
        atomic_write(done, b"")

    def _gone(self) -> np.ndarray:
        """Which documents are exact duplicates, (documents,) uint8."""
        gone = np.zeros(self.documents, np.uint8)
        for block in _merged(self._files("exact-*"), self.memory // 4):
            gone[(block >> _HALF).astype(np.int64)] = 1
        return gone

    def _files(self, pattern: str) -> list[Path]:
        return sorted(path for path in self.folder.glob(pattern) if path.suffix != ".done")

    def decide(self, texts: Texts, memory: int | None = None, scratch: Path | None = None) -> Path:
        """Verify pairs and write the result; the files of the other steps go.

        Args:
            scratch: folder of this call alone, on the same file system: with it, another process may be
                deciding too.
        """
        memory, scratch = memory or self.memory, scratch or self.folder
        near, similarities = scratch / "near", scratch / "similarities"
        stays = np.uint8(1) - self._gone()
        decisions = _Decisions(texts, self.config, memory // 2)
        with open(near, "wb") as pairs, open(similarities, "wb") as values:
            for found, similarity in decisions(_merged(self._files("pairs-*"), memory // 4), stays):
                pairs.write((found[:, 0].astype(np.uint64) << _HALF | found[:, 1]).tobytes())
                values.write(similarity.tobytes())
        self._write_result(near, similarities)
        for path in (near, similarities, *self.folder.glob("pairs-*"), *self.folder.glob("exact-*")):
            path.unlink(missing_ok=True)
        return self.result

    def _write_result(self, near: Path, similarities: Path) -> None:
        """Exact and near duplicates by document; what equals a document that went by similarity has that
        one's keeper."""
        pairs, values = _mapped(near, np.uint64), _mapped(similarities, np.float32)

        def near_duplicate_of(documents: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            """Whether they went by similarity; if so their keepers and similarities, else themselves and
            1."""
            if not len(pairs):
                return np.zeros(len(documents), bool), documents, np.ones(len(documents), np.float32)
            at = np.minimum(np.searchsorted(pairs, documents << _HALF), len(pairs) - 1)
            went = pairs[at] >> _HALF == documents
            return (
                went,
                np.where(went, pairs[at] & _LOW, documents),
                np.where(went, values[at], np.float32(1)),
            )

        temporary = near.parent / ".duplicates"
        with open(temporary, "wb") as file:
            for block in _merged([near, *self._files("exact-*")], self.memory // 4):
                went, _, similarity = near_duplicate_of(block >> _HALF)
                _, keeper, inherited = near_duplicate_of(block & _LOW)
                found = np.empty(len(block), DUPLICATE)
                found["document"], found["keeper"], found["exact"] = block >> _HALF, keeper, ~went
                found["similarity"] = np.where(went, similarity, inherited)
                file.write(found.tobytes())
        fsync_path(temporary)
        if (
            self.result.is_file()
        ):  # of another process, which may have removed the pairs before this one saw them
            temporary.unlink()
            return
        os.replace(temporary, self.result)
        fsync_path(self.folder)


def key_ranges(sizes: Sequence[int], memory: int) -> list[tuple[int, int]]:
    """Ranges of 64-bit keys (first, last), given how many records are in each 256th, such that the records
    of one can be sorted in `memory`."""
    most = memory // _RECORD_BYTES
    part = (1 << 64) // len(sizes)
    found: list[tuple[int, int]] = []
    begin = size = 0
    for index, records in enumerate(sizes):
        if size and size + records > most:
            found.append((begin, index * part - 1))
            begin, size = index * part, 0
        pieces = 1
        while (
            records > pieces * most and pieces < 1 << 16
        ):  # keys are hashes: half of a range has about half of its records
            pieces *= 2
        if pieces > 1:
            step = part // pieces
            found += [(begin + piece * step, begin + (piece + 1) * step - 1) for piece in range(pieces)]
            begin = (index + 1) * part
        else:
            size += records
    return [*found, (begin, (1 << 64) - 1)] if size else found


class _Decisions:
    """Fetches texts for a stretch of pairs at a time, in the order of documents, and has the core decide as
    far as they reach."""

    def __init__(self, texts: Texts, config: DedupConfig, memory: int) -> None:
        self._texts, self._memory = texts, memory
        self._verifier = DuplicateVerifier(config.shingle, config.threshold)
        self._stretch = 1 << 14  # pairs

    def __call__(
        self, blocks: Iterable[np.ndarray], stays: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for block in blocks:
            position, found, similarity = self._verifier.decide(block, 0, stays)
            yield found, similarity
            while position < len(block):
                self._load(block[position : position + self._stretch], stays)
                position, found, similarity = self._verifier.decide(block, position, stays)
                yield found, similarity

    def _load(self, pairs: np.ndarray, stays: np.ndarray) -> None:
        """Have the documents of these pairs at hand, those of the first at any rate."""
        pairs = pairs[
            (stays[(pairs >> _HALF).astype(np.int64)] & stays[(pairs & _LOW).astype(np.int64)]).astype(bool)
        ]
        self._verifier.clear()
        self._fetch(np.array([pairs[0] & _LOW, pairs[0] >> _HALF], np.uint32), always=True)
        if self._fetch(np.unique(np.concatenate([pairs >> _HALF, pairs & _LOW])).astype(np.uint32)):
            self._stretch = (
                min(self._stretch * 2, 1 << 20) if self._verifier.bytes < self._memory // 4 else self._stretch
            )
        else:
            self._stretch = max(self._stretch // 2, 1)

    def _fetch(self, documents: np.ndarray, always: bool = False) -> bool:
        """Whether all of them found room."""
        batch = TextBatch()
        begin = 0
        for end, text in enumerate(self._texts(documents), 1):
            batch.append(text if isinstance(text, bytes) else text.encode("utf-8", "ignore"))
            if end == len(documents) or batch.bytes >= _TEXTS:
                self._verifier.add(documents[begin:end], comparison_keys(batch))
                begin, batch = end, TextBatch()
                if self._verifier.bytes > self._memory and not always:
                    return end == len(documents)
        return True


def _mapped(path: Path, kind: type[np.generic]) -> np.ndarray:
    """A file's numbers; an empty file cannot be mapped."""
    return np.memmap(path, kind, "r") if path.stat().st_size else np.empty(0, kind)


def _merged(files: Sequence[Path], memory: int) -> Iterator[np.ndarray]:
    """The numbers of files that are sorted each, ascending, each once; uint64 arrays of about memory / 4
    bytes at a time."""
    chunks = [_mapped(file, np.uint64) for file in files]
    samples = np.sort(np.concatenate([np.empty(0, np.uint64), *(chunk[::_SAMPLED] for chunk in chunks)]))
    step = max(memory // 4 // 8 // _SAMPLED, 1)
    cuts = np.unique(samples[step::step])
    bounds = [[0, *np.searchsorted(chunk, cuts).tolist(), len(chunk)] for chunk in chunks]
    for index in range(len(cuts) + 1):
        parts = []
        for file, bound in zip(files, bounds, strict=True):
            if (
                bound[index + 1] > bound[index]
            ):  # read, not taken from the map: pages that are mapped count as memory
                parts.append(
                    np.fromfile(file, np.uint64, bound[index + 1] - bound[index], offset=8 * bound[index])
                )
        if parts:
            yield np.unique(np.concatenate(parts))


def read_duplicates(path: Path | str, rows: int = 1 << 16) -> Iterator[np.ndarray]:
    """What `find_duplicates` found, ascending by document, as (≤ rows,) arrays of type DUPLICATE.

    `keeper` stays; `similarity` to it is the Jaccard similarity of shingle sets; `exact` is 1 where another
    document has the same comparison key.
    """
    with open(path, "rb") as file:
        while data := file.read(rows * DUPLICATE.itemsize):
            yield np.frombuffer(data, DUPLICATE)


@dataclass(frozen=True)
class Cluster:
    """A document that stays and those that went for it.

    Attributes:
        keeper: its number.
        members: (number, similarity to the keeper, whether a document before it has just its comparison
            key), ascending.
    """

    keeper: int
    members: tuple[tuple[int, float, bool], ...]


def clusters(path: Path | str, memory: int = MEMORY) -> Iterator[Cluster]:
    """Clusters of a result file, ascending by keeper.

    Args:
        memory: bytes; a file too large for them is read several times, for some of the keepers each time.
    """
    passes = max(1, -(-os.path.getsize(path) * 4 // memory))
    highest = max((int(block["keeper"].max()) for block in read_duplicates(path)), default=0)
    width = -(-(highest + 1) // passes)
    for first in range(0, highest + 1, width):
        taken = [
            block[(block["keeper"] >= first) & (block["keeper"] < first + width)]
            for block in read_duplicates(path)
        ]
        found = np.concatenate([np.empty(0, DUPLICATE), *taken])
        found = found[np.argsort(found["keeper"], kind="stable")]
        begins = np.flatnonzero(np.append(True, found["keeper"][1:] != found["keeper"][:-1])[: len(found)])
        for begin, end in zip(begins, [*begins[1:], len(found)], strict=False):
            members = (
                (int(item["document"]), float(item["similarity"]), bool(item["exact"]))
                for item in found[begin:end]
            )
            yield Cluster(int(found["keeper"][begin]), tuple(members))


def write_clusters(path: Path | str, out: Path | str, memory: int = MEMORY) -> int:
    """Write clusters as JSON lines `{"keeper", "members": [[number, similarity, exact], …]}`, ascending by
    keeper; how many there are."""
    out = Path(out)
    temporary = out.parent / f".{out.name}.tmp.{os.getpid()}"
    count = 0
    with open(temporary, "wb") as file:
        for cluster in clusters(path, memory):
            members = [(number, round(similarity, 4), exact) for number, similarity, exact in cluster.members]
            file.write(orjson.dumps({"keeper": cluster.keeper, "members": members}) + b"\n")
            count += 1
    fsync_path(temporary)
    os.replace(temporary, out)
    return count


def read_cluster(path: Path | str, document: int) -> Cluster | None:
    """The cluster in a file of `write_clusters` that a document keeps or is a member of; None if it is in
    none."""
    with open(path, "rb") as file:
        for line in file:
            if str(document).encode() not in line:
                continue
            found = orjson.loads(line)
            if document == found["keeper"] or any(document == member[0] for member in found["members"]):
                return Cluster(found["keeper"], tuple(tuple(member) for member in found["members"]))
    return None


def near_duplicates(texts: Sequence[str], config: DedupConfig, *, memory: int = MEMORY) -> np.ndarray:
    """For each text the number of the earliest that stays for it, its own if it stays, (N,) int64:
    `find_duplicates` for what is in memory."""
    keeper = np.arange(len(texts))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with SketchWriter(folder / "sketch", config) as sketch:
            sketch.add(texts)

        def fetch(numbers: np.ndarray) -> Iterator[str]:
            yield from (texts[int(number)] for number in numbers)

        result = find_duplicates([folder / "sketch"], fetch, config, folder / "search", memory=memory)
        for block in read_duplicates(result):
            keeper[block["document"]] = block["keeper"]
    return keeper
