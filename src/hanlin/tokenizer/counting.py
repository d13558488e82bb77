"""Count what a tokenizer is learnt from: all documents, on several threads, in bounded memory, and going on
where a killed run stopped."""

from __future__ import annotations

import collections
import contextlib
import logging
import queue
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hanlin._native import BigramCounts, PieceCounter, TextBatch
from hanlin.common.errors import HanlinError
from hanlin.common.failpoints import failpoint
from hanlin.common.messages import tr
from hanlin.common.savepoint import Savepoint
from hanlin.tokenizer.chat import ROLES
from hanlin.tokenizer.texts import Source, expected_bytes, text_batches

TABLE_SHARE = 4  # of the memory allowed, a quarter is for the table of pieces: it doubles when it grows
BYTES_PER_SYMBOL = 11  # of the distinct pieces, while merges are learnt: 9 measured here
WAITING_BATCHES = 2  # for each thread, counted or about to be: one that is slow leaves no other without work
COPY_BYTES = 32 << 20  # of an iterator's documents that are kept in memory; more go to a temporary file
SAVED = 2  # version of what a killed counting leaves; another one begins anew

# Called with a phase ("count" or "merge"), how much of it is done, and of how much (0 if unknown; a guess
# the first time that files are read): bytes, then tokens.
Progress = Callable[[str, int, int], None]


class Texts:
    """A source's documents as UTF-8, counted as often as need be; an iterator, which gives them once, is
    kept in a temporary file.

    Attributes:
        documents, bytes: of one reading.
    """

    def __init__(self, source: Source, threads: int, progress: Progress | None):
        self._source, self.threads, self._progress = source, threads, progress
        self._copy = tempfile.SpooledTemporaryFile(COPY_BYTES) if isinstance(source, Iterator) else None  # noqa: SIM115
        self._copied = False
        self.documents = self.bytes = 0
        self._expected = expected_bytes(source)

    def __enter__(self) -> Texts:
        return self

    def __exit__(self, *_: object) -> None:
        if self._copy is not None:
            self._copy.close()

    def count(
        self, counters: Sequence[Any], savepoint: Savepoint, save: Callable[[int], None], skip: int = 0
    ) -> None:
        """Let the counters, one for each thread, count all documents but those of the first `skip` batches.

        One counter counts in the calling thread; several do while that one reads.

        Args:
            save: called, while nobody counts, with the number of batches counted so far, whenever the
                savepoint is due; may replace counters.

        Raises:
            HanlinError: there is nothing to read.
        """
        free: queue.SimpleQueue[int] = queue.SimpleQueue()  # counters that nobody uses
        for index in range(len(counters)):
            free.put(index)

        def add(batch: TextBatch) -> None:
            index = free.get()
            try:
                counters[index].add(batch)
            finally:
                free.put(index)

        running: collections.deque[Future[None]] = collections.deque()

        def wait_until(left: int) -> None:
            while len(running) > left:
                running.popleft().result()

        self.documents = self.bytes = 0
        alone = len(counters) == 1
        with ThreadPoolExecutor(len(counters)) as pool:  # which starts no thread before there is work
            for number, batch in enumerate(self._batches(), 1):
                self.documents, self.bytes = self.documents + len(batch), self.bytes + batch.bytes
                if number <= skip:
                    continue
                if alone:
                    add(batch)
                else:
                    running.append(pool.submit(add, batch))
                    wait_until(WAITING_BATCHES * len(counters))
                if savepoint.due:
                    wait_until(0)
                    save(number)
                if self._progress:
                    self._progress(
                        "count", self.bytes, max(self._expected, self.bytes + 1) if self._expected else 0
                    )
            wait_until(0)
        self._expected = self.bytes
        if self._progress:
            self._progress("count", self.bytes, self.bytes)
        if self.bytes == 0:
            raise HanlinError(
                "The corpus is empty ({documents} documents, 0 bytes): no tokenizer can be trained on it. "
                "Check the input files.",
                documents=self.documents,
            )

    def _batches(self) -> Iterator[TextBatch]:
        if self._copy is not None and self._copied:
            self._copy.seek(0)
            while head := self._copy.read(8):
                batch = TextBatch()
                batch.append(self._copy.read(int.from_bytes(head, "little")))
                yield batch
            return
        for batch in text_batches(self._source):
            if self._copy is not None:
                for index in range(len(batch)):
                    text = batch[index]
                    self._copy.write(len(text).to_bytes(8, "little") + text)
            yield batch
        self._copied = True


@contextlib.contextmanager
def explained_disk() -> Iterator[None]:
    """Turn the core's errors of reading and writing files into one that says what to do."""
    try:
        yield
    except RuntimeError as error:
        raise HanlinError(
            "Counts could not be written to disk or read back ({error}). Make room on the disk of the "
            "output directory, or raise --memory, and run the same command again.",
            error=error,
        ) from None


class AlignedCounts:
    """The two passes of aligned training: bigram counts, then pieces. What a killed run saved is not counted
    again.

    Attributes:
        floor: of the pieces saved, 0 if there are none.
        passes: over the documents, begun so far.

    Args:
        memory: bytes to stay within, 0 for no limit.
    """

    def __init__(self, texts: Texts, savepoint: Savepoint, memory: int):
        self._texts, self._savepoint, self._memory = texts, savepoint, memory
        self._runs = ""  # the folder of this process's runs
        state = savepoint.state or {}
        self.floor: int = state.get("floor", 0)
        self.passes: int = state.get("passes", 0)
        self._forget(state)
        if state:
            logging.getLogger("hanlin").info(tr("Going on from the counts saved last."))

    def bigram_counts(self) -> BigramCounts:
        """Characters and bigrams of all documents."""
        state = self._savepoint.state or {}
        if state.get("stage") == "pieces":
            self._texts.documents, self._texts.bytes = state["documents"], state["bytes"]
            return self._load(state["bigram_counts"])
        counters = [BigramCounts() for _ in range(self._texts.threads)]
        if state:
            counters[0] = self._load(state["bigram_counts"])
        else:
            self.passes += 1

        def save(batches: int) -> None:
            _gather(counters, BigramCounts)
            self._save("bigram_counts", counters[0], batches=batches)

        self._texts.count(counters, self._savepoint, save, state.get("batches", 0))
        bigram_counts = _gather(counters, BigramCounts)
        for role in ROLES:
            bigram_counts.add_word(role, self._texts.documents)
        if self._savepoint.state is not None:
            self._save("pieces", bigram_counts, batches=0, floor=0, runs=[], finished=False)
        return bigram_counts

    def pieces(self, bigram_counts: BigramCounts, floor: int) -> PieceCounter:
        """Pieces of all documents, cut at bigrams rarer than `floor`."""
        state = self._savepoint.state or {}
        if state and state["floor"] != floor:
            state = state | {"floor": floor, "batches": 0, "runs": [], "finished": False}
            self._savepoint.save(state)
            self._forget(state)
        runs = tempfile.mkdtemp(prefix="runs-", dir=self._savepoint.folder)
        self._runs = Path(runs).name
        table_bytes = self._memory // TABLE_SHARE // self._texts.threads
        counters = [
            PieceCounter(bigram_counts, floor, table_bytes, self._memory // BYTES_PER_SYMBOL, runs)
            for _ in range(self._texts.threads)
        ]
        for run in state.get("runs", []):
            counters[0].adopt(str(self._savepoint.folder / run))
        if not (state.get("batches") or state.get("finished")):
            self.passes += 1

        def save(batches: int, finished: bool = False) -> None:
            folder = self._savepoint.folder
            saved = [str(Path(run).relative_to(folder)) for counter in counters for run in counter.save()]
            self._save("pieces", bigram_counts, batches=batches, floor=floor, runs=saved, finished=finished)

        if not state.get("finished"):
            self._texts.count(counters, self._savepoint, save, state.get("batches", 0))
            if self._savepoint.state is not None:
                save(0, finished=True)
        for other in counters[1:]:
            counters[0].merge(other)
        for role in ROLES:
            counters[0].add_word(role, self._texts.documents)
        return counters[0]

    def _load(self, name: str) -> BigramCounts:
        return BigramCounts.load(str(self._savepoint.folder / name))

    def _save(self, stage: str, bigram_counts: BigramCounts, **progress: Any) -> None:
        """Save the stage; the bigram counts go to a new file as long as they change."""
        before = self._savepoint.state or {}
        name = before.get("bigram_counts", "")
        if before.get("stage") != "pieces":
            name = f"bigram_counts-{int(name.partition('-')[2] or 0) + 1}"
            bigram_counts.save(str(self._savepoint.folder / name))
        totals = {"documents": self._texts.documents, "bytes": self._texts.bytes, "passes": self.passes}
        self._savepoint.save({"stage": stage, "bigram_counts": name, **totals, **progress})
        self._forget(self._savepoint.state or {})
        failpoint("counting.saved")

    def _forget(self, state: dict[str, Any]) -> None:
        """Remove files that `state` does not name."""
        self._savepoint.clear(
            keep=[
                self._runs,
                state.get("bigram_counts", ""),
                *(str(Path(run).parent) for run in state.get("runs", [])),
            ]
        )


def _gather(counters: list[Any], make: Callable[[], Any]) -> Any:
    """Everything into the first counter; the others are new ones then."""
    for index in range(1, len(counters)):
        counters[0].merge(counters[index])
        counters[index] = make()
    return counters[0]
