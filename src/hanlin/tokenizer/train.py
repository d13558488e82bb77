"""Train a tokenizer and write it as an artefact.

Counting and learning are done by the C++ core; this file reads texts, checks what was asked for against what the corpus can give,
verifies the result and writes it.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import logging
import queue
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hanlin.common.errors import HanlinError, tr
from hanlin.common.manifest import artifact

from .chat import ROLES
from .files import build_vocabulary, write_files
from .special import BYTES, special_tokens
from .texts import utf8_batches
from .tokenizer import Tokenizer

BATCH_BYTES = 1 << 20
TABLE_SHARE = 4  # of the memory allowed, a quarter is for the table of pieces: it doubles when it grows
BYTES_PER_SYMBOL = 11  # of the distinct pieces, while merges are learnt: 9 measured here
COPY_BYTES = 32 << 20  # of an iterator's documents that are kept in memory; more go to a temporary file
BIGRAMS_PER_MERGE = 1.5  # kept whole: the rarest of them is then a third to three quarters as frequent as the last merge (measured here)
KIND = "tokenizer"

# Called with a phase ("count" or "merge"), how much of it is done, and of how much (0 if unknown): bytes, then tokens.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class TokenizerConfig:
    """What, besides the corpus, determines a tokenizer.

    Attributes:
        vocab_size: all ids: 256 bytes, what is learnt, and the control tokens.
        num_special: control tokens, the unnamed ones being reserves for later use.
        aligned: a token is a piece of one character or one or more whole characters; otherwise any bytes (as in Hugging Face's trainer).
        min_frequency: how often a pair must occur to be merged; words are never dropped.
        max_token_chars: longest token in characters; 0 for no limit.
    """

    vocab_size: int = 6400
    num_special: int = 16
    aligned: bool = True
    min_frequency: int = 2
    max_token_chars: int = 16

    def __post_init__(self) -> None:
        smallest = BYTES + len(special_tokens(self.num_special))
        if self.vocab_size < smallest:
            raise HanlinError(
                f"vocab_size={self.vocab_size} 太小：256 个字节加 {self.num_special} 个控制符已占 {smallest}。请传更大的值，例如 6400。",
                f"vocab_size={self.vocab_size} is too small: 256 bytes and {self.num_special} control tokens take {smallest}. Pass more, say 6400.",
            )
        if self.vocab_size > 1 << 20:
            raise HanlinError(
                f"vocab_size={self.vocab_size} 超过上限 1048576。", f"vocab_size={self.vocab_size} is over the limit of 1048576."
            )
        for name, least in (("min_frequency", 1), ("max_token_chars", 0)):
            if getattr(self, name) < least:
                value = getattr(self, name)
                raise HanlinError(f"{name}={value} 应至少为 {least}。", f"{name}={value} should be at least {least}.")

    @property
    def learnt_tokens(self) -> int:
        """Tokens to learn."""
        return self.vocab_size - BYTES - self.num_special


def train_tokenizer(
    source: Path | str | Sequence[Path | str] | Iterable[str],
    vocab_size: int,
    out: Path | str,
    *,
    num_special: int = 16,
    aligned: bool = True,
    min_frequency: int = 2,
    max_token_chars: int = 16,
    threads: int = 1,
    memory: int = 0,
    parents: Mapping[str, str] | None = None,
    key: str = "",
    progress: Progress | None = None,
) -> Tokenizer:
    """Train a tokenizer on a corpus and write it to the directory `out`; it depends only on the multiset of documents.

    Unless training is plain, each document also counts as the head of a message of every role, so that `assistant` costs one
    token in a chat and not nine where the corpus has no English.

    Args:
        source: a path, or a list or tuple of paths, of any files the corpus room reads; any other iterable is taken for the
            documents themselves.
        threads: to count with; the result does not depend on it.
        memory: bytes to stay within, 0 for no limit. Counts then go to disk (beside `out`) and stay exact; only where even the
            distinct pieces do not fit are rare ones thinned, without bias, and the manifest says so (`thinning`). Aligned only.
        parents, key: for the manifest, as in `hanlin.common.manifest.artifact`.
        progress: called now and then from the calling thread.
        The others: see `TokenizerConfig`.

    Raises:
        HanlinError: impossible sizes, an empty corpus, or one that cannot give the vocabulary (the message says what it can give).
    """
    config = TokenizerConfig(vocab_size, num_special, aligned, min_frequency, max_token_chars)
    wanted = config.learnt_tokens
    with _Texts(source, threads) as texts:
        learnt = _learn_aligned(texts, config, progress, memory, Path(out)) if config.aligned else _learn_plain(texts, config, progress)
    merges = learnt.merges
    if len(merges) < wanted:
        possible = config.vocab_size - wanted + len(merges)
        zh_hint = "或传 --min-frequency 1，" if config.min_frequency > 1 else ""
        en_hint = "or --min-frequency 1, " if config.min_frequency > 1 else ""
        raise HanlinError(
            f"语料（{texts.bytes} 字节）只够 {len(merges)} 次合并，vocab_size={config.vocab_size} 需要 {wanted} 次。请传 --vocab-size {possible}，{zh_hint}或增加语料。",
            f"The corpus ({texts.bytes} bytes) gives {len(merges)} merges, vocab_size={config.vocab_size} needs {wanted}. "
            f"Pass --vocab-size {possible}, {en_hint}or more text.",
        )

    vocabulary = build_vocabulary([(left, right) for left, right, _ in merges], special_tokens(config.num_special))
    tokenizer = Tokenizer(vocabulary, Path(out))
    unreachable = tokenizer.unreachable()
    if unreachable:
        shown = ", ".join(repr(vocabulary.tokens[index]) for index in unreachable[:10])
        _warn(
            f"{len(unreachable)} 个词没有找到能得到它的文本（见 manifest.json）：{shown}",
            f"{len(unreachable)} tokens for which no text was found that yields them (see manifest.json): {shown}",
        )
    with artifact(out, KIND, parents=parents, config=asdict(config), key=key) as writer:
        write_files(writer.path, vocabulary)
        writer.metrics = {
            "documents": texts.documents,
            "bytes": texts.bytes,
            "merges": len(merges),
            "last_merge_count": merges[-1][2] if merges else 0,
            "unreachable": len(unreachable),
        } | learnt.figures
        if unreachable:
            writer.metrics["unreachable_tokens"] = [vocabulary.tokens[index].hex() for index in unreachable]
    return tokenizer


@dataclass
class _Learnt:
    """Merges as (left, right, count), and figures about how they were found."""

    merges: list[tuple[bytes, bytes, int]]
    figures: dict[str, int]


def _learn_plain(texts: _Texts, config: TokenizerConfig, progress: Progress | None) -> _Learnt:
    from hanlin._native import PretokenCounter, train

    counter = texts.count(PretokenCounter, progress)
    figures = {"distinct_pretokens": counter.distinct}
    merges = train(counter, config.learnt_tokens, config.min_frequency, config.max_token_chars, False, _merging(progress, config))
    return _Learnt(merges, figures)


def _learn_aligned(texts: _Texts, config: TokenizerConfig, progress: Progress | None, memory: int, out: Path) -> _Learnt:
    """Cut pre-tokens where no merge can span and learn from the pieces: exact, see docs/*/tokenizer.md.

    The floor below which bigrams are cut is a guess at the count of the last merge, from the low side; were it too high, learning would
    stop there, and pieces are counted again with a lower one.
    """
    from hanlin._native import Census, PieceCounter, train_pieces

    floor = passes = 0
    while True:
        passes += 2
        census = texts.count(Census, progress)
        for role in ROLES:
            census.add_word(role, texts.documents)
        floor = floor or census.floor_that_leaves(int(BIGRAMS_PER_MERGE * config.learnt_tokens))
        with _runs_folder(out, memory) as folder:
            table_bytes = memory // TABLE_SHARE // texts.threads
            make_counter = functools.partial(PieceCounter, census, floor, table_bytes, memory // BYTES_PER_SYMBOL, folder)
            pieces = texts.count(make_counter, progress)
            del census, make_counter  # while merges are learnt the census is not needed
            for role in ROLES:
                pieces.add_word(role, texts.documents)
            merges, least, complete = train_pieces(
                pieces, config.learnt_tokens, config.min_frequency, config.max_token_chars, _merging(progress, config)
            )
        if complete:
            figures = {"distinct_pieces": pieces.distinct, "bigram_floor": floor, "passes": passes}
            if pieces.thinning > 1:
                figures["thinning"] = pieces.thinning
                _warn(
                    f"不同的片段太多，放不进 {memory / 1e9:.1f} GB：出现不到 {pieces.thinning} 次的按比例抽样，保留的以 {pieces.thinning} 次计（无偏）。",
                    f"The distinct pieces do not fit in {memory / 1e9:.1f} GB: of those that occur fewer than {pieces.thinning} times "
                    f"a proportional share was kept, counted as {pieces.thinning} each (unbiased).",
                )
            return _Learnt(merges, figures)
        floor = max(config.min_frequency, least // 4)


@contextlib.contextmanager
def _runs_folder(out: Path, memory: int) -> Iterator[str]:
    """Where counts go that do not fit in memory."""
    if not memory:
        yield ""
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        yield folder


def _warn(zh: str, en: str) -> None:
    logging.getLogger("hanlin").warning(tr(zh, en))


def _merging(progress: Progress | None, config: TokenizerConfig) -> Callable[[int], None] | None:
    return (lambda done: progress("merge", done, config.learnt_tokens)) if progress else None


class _Texts:
    """A source's documents as UTF-8, counted as often as need be; an iterator, which gives them once, is kept in a temporary file.

    Attributes:
        documents, bytes: of one reading.
    """

    def __init__(self, source: Path | str | Sequence[Path | str] | Iterable[str], threads: int):
        self._source, self.threads = source, threads
        self._copy = tempfile.SpooledTemporaryFile(COPY_BYTES) if isinstance(source, Iterator) else None  # noqa: SIM115
        self.documents = self.bytes = 0

    def __enter__(self) -> _Texts:
        return self

    def __exit__(self, *_: object) -> None:
        if self._copy is not None:
            self._copy.close()

    def count(self, make_counter: Callable[[], Any], progress: Progress | None) -> Any:
        """Count all documents; each thread has a counter of its own, and they are merged.

        Raises:
            HanlinError: there is nothing to read.
        """
        counters = [make_counter() for _ in range(self.threads)]
        free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for counter in counters:
            free.put(counter)

        def add(batch: list[bytes]) -> None:
            counter = free.get()
            try:
                counter.add(batch)
            except RuntimeError as error:  # a run that could not be written
                raise HanlinError(
                    f"计数写不到磁盘（{error}）。请在输出目录所在的磁盘腾出空间，或加大 --memory，再运行同一条命令。",
                    f"Counts could not be written to disk ({error}). Make room on the disk of the output directory, or raise --memory, and run "
                    "the same command again.",
                ) from None
            finally:
                free.put(counter)

        documents = size = 0
        running: collections.deque[Future[None]] = collections.deque()
        with ThreadPoolExecutor(self.threads) as pool:
            for batch in self._batches():
                running.append(pool.submit(add, batch))
                documents, size = documents + len(batch), size + sum(map(len, batch))
                while len(running) > self.threads:
                    running.popleft().result()
                if progress:
                    progress("count", size, 0)
            for future in running:
                future.result()
        self.documents, self.bytes = documents, size
        if size == 0:
            raise HanlinError(
                f"语料是空的（{documents} 篇文档，0 字节），无法训练分词器。请检查输入文件。",
                f"The corpus is empty ({documents} documents, 0 bytes): no tokenizer can be trained on it. Check the input files.",
            )
        for other in counters[1:]:
            counters[0].merge(other)
        return counters[0]

    def _batches(self) -> Iterator[list[bytes]]:
        if self._copy is not None and self.documents:
            self._copy.seek(0)
            while head := self._copy.read(8):
                yield [self._copy.read(int.from_bytes(head, "little"))]
            return
        for batch in utf8_batches(_documents(self._source), BATCH_BYTES):
            if self._copy is not None:
                for text in batch:
                    self._copy.write(len(text).to_bytes(8, "little") + text)
            yield batch


def _documents(source: Path | str | Sequence[Path | str] | Iterable[str]) -> Iterator[str]:
    if isinstance(source, (str, Path, list, tuple)):
        from hanlin.corpus.readers import read_documents  # not needed to open a tokenizer, which should be instant

        for document in read_documents(source):
            yield document.get("text", "")
    else:
        yield from (str(text) for text in source)
