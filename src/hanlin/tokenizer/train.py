"""Train a tokenizer and write it as an artefact.

Counting and learning are done by the C++ core; this file reads texts, checks what was asked for against what
the corpus can give, verifies the result and writes it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from hanlin._native import PretokenCounter, train_pieces, train_plain
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import artifact
from hanlin.common.messages import Text
from hanlin.common.savepoint import Savepoint, files_key
from hanlin.common.target import refuse_foreign_target
from hanlin.tokenizer.counting import SAVED, AlignedCounts, Progress, Texts, explained_disk
from hanlin.tokenizer.files import build_vocabulary, write_files
from hanlin.tokenizer.special import BYTES, special_tokens
from hanlin.tokenizer.texts import Source, paths_of
from hanlin.tokenizer.tokenizer import Tokenizer

# kept whole: the rarest of them is then a third to three quarters as frequent as the last merge (measured
# here)
BIGRAMS_PER_MERGE = 1.5
KIND = "tokenizer"


@dataclass(frozen=True)
class TokenizerConfig:
    """What, besides the corpus, determines a tokenizer.

    Attributes:
        vocab_size: all ids: 256 bytes, what is learnt, and the control tokens.
        num_special: control tokens, the unnamed ones being reserves for later use.
        aligned: a token is a piece of one character or one or more whole characters; otherwise any bytes (as
            in Hugging Face's trainer).
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
                "vocab_size={vocab_size} is too small: 256 bytes and {num_special} control tokens take "
                "{smallest}. Pass more, say 6400.",
                vocab_size=self.vocab_size,
                num_special=self.num_special,
                smallest=smallest,
            )
        if self.vocab_size > 1 << 20:
            raise HanlinError(
                "vocab_size={vocab_size} is over the limit of 1048576.", vocab_size=self.vocab_size
            )
        for name, least in (("min_frequency", 1), ("max_token_chars", 0)):
            if getattr(self, name) < least:
                value = getattr(self, name)
                raise HanlinError(
                    "{name}={value} should be at least {least}.", name=name, value=value, least=least
                )

    @property
    def learnt_tokens(self) -> int:
        """Tokens to learn."""
        return self.vocab_size - BYTES - self.num_special


def train_tokenizer(
    source: Source,
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
    """Train a tokenizer on a corpus and write it to the directory `out`; it depends only on the multiset of
    documents.

    Counts are saved every minute (beside `out`, removed at the end): after a kill, the same call on the same
    files goes on from there. Unless training is plain, each document also counts as the head of a message of
    every role, so that `assistant` costs one token in a chat and not nine where the corpus has no English.

    Args:
        source: a path, or a list or tuple of paths, of any files the corpus room reads; any other iterable
            is taken for the documents themselves.
        threads: to work with, 1 for the calling one alone; the result does not depend on it.
        memory: bytes to stay within, 0 for no limit. Counts then go to disk (beside `out`) and stay exact;
            only where even the distinct pieces do not fit are rare ones thinned, without bias, and the
            manifest says so (`thinning`). Aligned only.
        parents, key: for the manifest, as in `hanlin.common.manifest.artifact`.
        progress: called now and then from the calling thread.
        The others: see `TokenizerConfig`.

    Raises:
        HanlinError: impossible sizes, an empty corpus, or one that cannot give the vocabulary (the message
            says what it can give).
    """
    config = TokenizerConfig(vocab_size, num_special, aligned, min_frequency, max_token_chars)
    wanted = config.learnt_tokens
    paths = paths_of(source)
    refuse_foreign_target(out, KIND, paths or ())
    job = files_key(paths, [asdict(config), SAVED]) if paths is not None and config.aligned else ""
    with Savepoint(Path(out), job) as savepoint, Texts(source, threads, progress) as texts, explained_disk():
        if config.aligned:
            learnt = _learn_aligned(texts, config, savepoint, memory, progress)
        else:
            learnt = _learn_plain(texts, config, savepoint, progress)
    merges = learnt.merges
    if len(merges) < wanted:
        possible = config.vocab_size - wanted + len(merges)
        hint = Text("or --min-frequency 1, ") if config.min_frequency > 1 else ""
        raise HanlinError(
            "The corpus ({bytes} bytes) gives {count} merges, vocab_size={vocab_size} needs {wanted}. Pass "
            "--vocab-size {possible}, {hint}or more text.",
            bytes=texts.bytes,
            count=len(merges),
            vocab_size=config.vocab_size,
            wanted=wanted,
            possible=possible,
            hint=hint,
        )

    vocabulary = build_vocabulary(
        [(left, right) for left, right, _ in merges], special_tokens(config.num_special)
    )
    tokenizer = Tokenizer(vocabulary, Path(out))
    unreachable = tokenizer.unreachable()
    if unreachable:
        shown = ", ".join(repr(vocabulary.tokens[index]) for index in unreachable[:10])
        _warn(
            Text(
                "{count} tokens for which no text was found that yields them (see manifest.json): {shown}",
                count=len(unreachable),
                shown=shown,
            )
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


def _learn_plain(
    texts: Texts, config: TokenizerConfig, savepoint: Savepoint, progress: Progress | None
) -> _Learnt:
    counters = [PretokenCounter() for _ in range(texts.threads)]
    texts.count(counters, savepoint, lambda batches: None)
    for other in counters[1:]:
        counters[0].merge(other)
    figures = {"distinct_pretokens": counters[0].distinct}
    merges = train_plain(
        counters[0],
        config.learnt_tokens,
        config.min_frequency,
        config.max_token_chars,
        _merging(progress, config),
        texts.threads,
    )
    return _Learnt(merges, figures)


def _learn_aligned(
    texts: Texts, config: TokenizerConfig, savepoint: Savepoint, memory: int, progress: Progress | None
) -> _Learnt:
    """Cut pre-tokens where no merge can span and learn from the pieces: exact, see docs/*/tokenizer.md.

    The floor below which bigrams are cut is a guess at the count of the last merge, from the low side; were
    it too high, learning would stop there, and pieces are counted again with a lower one.
    """
    counts = AlignedCounts(texts, savepoint, memory)
    floor = counts.floor
    while True:
        bigram_counts = counts.bigram_counts()
        floor = floor or bigram_counts.floor_that_leaves(int(BIGRAMS_PER_MERGE * config.learnt_tokens))
        pieces = counts.pieces(bigram_counts, floor)
        del bigram_counts  # not needed while merges are learnt
        merges, least, complete = train_pieces(
            pieces,
            config.learnt_tokens,
            config.min_frequency,
            config.max_token_chars,
            _merging(progress, config),
            texts.threads,
        )
        if complete:
            figures = {"distinct_pieces": pieces.distinct, "bigram_floor": floor, "passes": counts.passes}
            if pieces.thinning > 1:
                certified = _certified(merges, pieces.thinning)
                figures |= {"thinning": pieces.thinning, "certified_merges": certified}
                _warn(
                    Text(
                        "The distinct pieces do not fit in {memory:.1f} GB: of those that occur fewer than "
                        "{thinning} times a proportional share was kept, counted as {thinning} each "
                        "(unbiased). The first {certified} merges do not depend on the draw; the {count} "
                        "after them might be others within its error.",
                        memory=memory / 1e9,
                        thinning=pieces.thinning,
                        certified=certified,
                        count=len(merges) - certified,
                    )
                )
            return _Learnt(merges, figures)
        floor = max(config.min_frequency, least // 4)


def _certified(merges: list[tuple[bytes, bytes, int]], thinning: int) -> int:
    """How many merges, from the first, are learnt whatever pieces the thinning draws.

    Their counts lie more than four deviations, √(thinning · count) each (native/pieces.hpp), above the last
    merge's. Counts never rise from merge to merge, so these are the first ones, and the others are all that
    follow.
    """
    last = merges[-1][2] if merges else 0
    return sum(count - 4 * math.sqrt(thinning * count) > last for _, _, count in merges)


def _warn(message: Text) -> None:
    logging.getLogger("hanlin").warning("%s", message)


def _merging(progress: Progress | None, config: TokenizerConfig) -> Callable[[int], None] | None:
    return (lambda done: progress("merge", done, config.learnt_tokens)) if progress else None
