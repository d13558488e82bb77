"""Train a tokenizer and write it as an artefact.

Counting and learning are done by the C++ core; this file reads texts, checks what was asked for against what the corpus can give,
verifies the result and writes it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hanlin.common.errors import HanlinError, tr
from hanlin.common.manifest import artifact

from .chat import ROLES
from .files import build_vocabulary, write_files
from .special import BYTES, special_tokens
from .tokenizer import Tokenizer, load_tokenizer

BATCH_BYTES = 1 << 22
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
        parents, key: for the manifest, as in `hanlin.common.manifest.artifact`.
        progress: called now and then from the calling thread.
        The others: see `TokenizerConfig`.

    Raises:
        HanlinError: impossible sizes, an empty corpus, or one that cannot give the vocabulary (the message says what it can give).
    """
    config = TokenizerConfig(vocab_size, num_special, aligned, min_frequency, max_token_chars)
    from hanlin._native import PretokenCounter, train

    counter = PretokenCounter()
    documents = 0
    for batch in _batches(_documents(source)):
        counter.add(batch)
        documents += len(batch)
        if progress:
            progress("count", counter.bytes, 0)
    if counter.bytes == 0:
        raise HanlinError(
            f"语料是空的（{documents} 篇文档，0 字节），无法训练分词器。请检查输入文件。",
            f"The corpus is empty ({documents} documents, 0 bytes): no tokenizer can be trained on it. Check the input files.",
        )
    if config.aligned:  # plain training is to be what Hugging Face's trainer does, and no more
        for role in ROLES:
            counter.add_word(role, documents)

    wanted = config.learnt_tokens
    merges = train(
        counter,
        wanted,
        config.min_frequency,
        config.max_token_chars,
        config.aligned,
        (lambda done: progress("merge", done, wanted)) if progress else None,
    )
    if len(merges) < wanted:
        possible = config.vocab_size - wanted + len(merges)
        zh_hint = "或传 --min-frequency 1，" if config.min_frequency > 1 else ""
        en_hint = "or --min-frequency 1, " if config.min_frequency > 1 else ""
        raise HanlinError(
            f"语料（{counter.bytes} 字节）只够 {len(merges)} 次合并，vocab_size={config.vocab_size} 需要 {wanted} 次。请传 --vocab-size {possible}，{zh_hint}或增加语料。",
            f"The corpus ({counter.bytes} bytes) gives {len(merges)} merges, vocab_size={config.vocab_size} needs {wanted}. "
            f"Pass --vocab-size {possible}, {en_hint}or more text.",
        )

    vocabulary = build_vocabulary([(left, right) for left, right, _ in merges], special_tokens(config.num_special))
    unreachable = Tokenizer(vocabulary, Path(out)).unreachable()
    if unreachable:
        shown = ", ".join(repr(vocabulary.tokens[index]) for index in unreachable[:10])
        logging.getLogger("hanlin").warning(
            tr(
                f"{len(unreachable)} 个词没有找到能得到它的文本（见 manifest.json）：{shown}",
                f"{len(unreachable)} tokens for which no text was found that yields them (see manifest.json): {shown}",
            )
        )
    with artifact(out, KIND, parents=parents, config=asdict(config), key=key) as writer:
        write_files(writer.path, vocabulary)
        writer.metrics = {
            "documents": documents,
            "bytes": counter.bytes,
            "pretokens": counter.total,
            "distinct_pretokens": counter.distinct,
            "merges": len(merges),
            "last_merge_count": merges[-1][2] if merges else 0,
            "unreachable": len(unreachable),
        }
        if unreachable:
            writer.metrics["unreachable_tokens"] = [vocabulary.tokens[index].hex() for index in unreachable]
    return load_tokenizer(out)


def _documents(source: Path | str | Sequence[Path | str] | Iterable[str]) -> Iterator[str]:
    if isinstance(source, (str, Path, list, tuple)):
        from hanlin.corpus.readers import read_documents  # not needed to open a tokenizer, which should be instant

        for document in read_documents(source):
            yield document.get("text", "")
    else:
        yield from (str(text) for text in source)


def _batches(documents: Iterable[str]) -> Iterator[list[bytes]]:
    """Documents as UTF-8, a few megabytes at a time; a lone surrogate becomes its three bytes, which no merge touches if aligned."""
    batch: list[bytes] = []
    size = 0
    for document in documents:
        data = document.encode("utf-8", "surrogatepass")
        batch.append(data)
        size += len(data)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
