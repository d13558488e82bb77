"""The verbs of `hanlin tokenizer`. `cli` names them and loads this file when one is asked for; what is heavy
waits until one runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hanlin.cli.main import Files, Flag, bytes_of, show
from hanlin.common.errors import HanlinError
from hanlin.common.messages import tr

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hanlin.tokenizer import Tokenizer


def tokenizer_train(
    *files: Path,
    vocab_size: int,
    out: Path,
    max_token_chars: int = 16,
    min_frequency: int = 2,
    threads: int = 0,
    memory: str = "",
    plain: Flag = False,
    json: Flag = False,
) -> None:
    """Learn a byte-level BPE vocabulary from text files or a corpus directory.

    Parameters
    ----------
    vocab_size
        Entries, with 256 bytes and the control tokens.
    max_token_chars
        Longest token in characters.
    min_frequency
        Least count of a merge (never of a word).
    memory
        To stay within, such as 4GiB; half of the machine's when absent.
    plain
        Unaligned merges, as Hugging Face trains them.
    """
    from hanlin.common.manifest import read_manifest
    from hanlin.tokenizer import train_tokenizer

    train_tokenizer(
        list(files),
        vocab_size=vocab_size,
        out=out,
        max_token_chars=max_token_chars,
        min_frequency=min_frequency,
        aligned=not plain,
        threads=threads if threads > 0 else os.cpu_count() or 1,
        memory=bytes_of(memory),
        parents=corpus_of(files),
        progress=show_progress(),
    )
    show(read_manifest(out, verify=False).metrics, True)


def show_progress() -> Callable[..., None]:
    """Megabytes read and tokens learnt, shown on stderr every now and then with the time that is left."""
    import time

    from hanlin.common.progress import format_seconds

    shown = began = time.monotonic()
    before, first = ("", 0), 0

    def show_progress(phase: str, done: int, total: int = 0) -> None:
        nonlocal shown, began, before, first
        now = time.monotonic()
        if phase != before[0] or done < before[1]:  # a phase begins, or the files are read once more
            began, first = now, done
        before = (phase, done)
        if now - shown < 2 and done != total:
            return
        shown = now
        spent = now - began
        left = (
            f"  ETA {format_seconds(spent / (done - first) * (total - done))}"
            if total > done > first and spent > 1
            else ""
        )
        if phase == "count":
            size = f"{done / 1e6:,.0f} MB" if not total else f"{done / 1e6:,.0f}/{total / 1e6:,.0f} MB"
            print(tr("{size} read{left}", size=size, left=left), file=sys.stderr, flush=True)
        else:
            print(
                tr("{done}/{total} learnt{left}", done=done, total=total, left=left),
                file=sys.stderr,
                flush=True,
            )

    return show_progress


def tokenizer_encode(tokenizer: Path, text: str | None = None, /, *, json: Flag = False) -> None:
    """Show the tokens of a text (or of stdin).

    Parameters
    ----------
    text
        The text; stdin when absent.
    """
    from hanlin.tokenizer.show import piece_text

    opened = open_tokenizer(tokenizer)
    ids = opened.encode(sys.stdin.read() if text is None else text)
    pieces = [opened.decode([token]) for token in ids]
    shown = [piece_text(opened.decode_bytes([token])) for token in ids]
    show(
        {"ids": ids, "tokens": pieces},
        json,
        " ".join(f"{piece}:{token}" for piece, token in zip(shown, ids, strict=True)),
    )


def tokenizer_inspect(tokenizer: Path, /, *, on: Files = (), limit: int = 20, json: Flag = False) -> None:
    """Show a vocabulary as people read it: shares of scripts, longest, rarest and suspicious tokens.

    Parameters
    ----------
    on
        Files on which to count the use of each token.
    """
    from hanlin.tokenizer import inspect
    from hanlin.tokenizer.show import vocabulary_text

    found = inspect(open_tokenizer(tokenizer), max(limit, 1), on or None)
    show(found, json, vocabulary_text(found, max(limit, 1)))


def tokenizer_compare(
    *tokenizers: Path, on: Files, picture: Path | None = None, max_bytes: str = "", json: Flag = False
) -> None:
    """Compare tokenizers on files: bytes and characters per token, by class of text; unused and unreachable
    tokens.

    Parameters
    ----------
    tokenizers
        Directories of Hanlin's tokenizers or models, or a tokenizer.json of anyone's.
    on
        Text or corpus files.
    max_bytes
        To read of each file, such as 20MB; all of it when absent.
    """
    from hanlin.tokenizer import compare as compare_tokenizers
    from hanlin.tokenizer import resolve_tokenizer_dir
    from hanlin.tokenizer.foreign import open_any
    from hanlin.tokenizer.show import class_names, comparison_text, short_names

    if not tokenizers:
        raise HanlinError(
            "Name at least one tokenizer. Example: hanlin tokenizer compare a b --on text.jsonl"
        )
    result = compare_tokenizers(
        [open_any(resolve_tokenizer_dir(path)) for path in tokenizers],
        list(on),
        bytes_of(max_bytes) if max_bytes else None,
    )
    if picture is not None:
        from hanlin.common.atomic import atomic_write
        from hanlin.report.tokenizer_page import comparison_picture

        atomic_write(
            picture,
            comparison_picture(
                result, short_names([found["path"] for found in result["tokenizers"]]), class_names()
            ),
        )
    show(result, json, comparison_text(result))


def tokenizer_advise(*, params: str, hidden_size: int | None = None, json: Flag = False) -> None:
    """Advise on a vocabulary size for a model of so many parameters, such as 26m.

    Parameters
    ----------
    params
        Parameters of the model, such as 26m.
    hidden_size
        Width of the model; guessed from the parameters when absent.
    """
    import dataclasses

    from hanlin.tokenizer.advise import advise

    advice = advise(params, hidden_size)
    reason = {
        "law": tr(
            "the scaling law of vocabularies, times 1.6 (small models read far more text than its optimum)"
        ),
        "floor": tr("room for the common characters; the law alone asks for less"),
        "share": tr("the model is small, and its embedding should not take more than a third"),
    }[advice.why]
    text = tr(
        "--vocab-size {vocab_size}: at width {hidden_size} the embedding is {embedding_share:.0%} of all "
        "parameters. Because of {reason} (the law: {law}).",
        vocab_size=advice.vocab_size,
        hidden_size=advice.hidden_size,
        embedding_share=advice.embedding_share,
        reason=reason,
        law=advice.law,
    )
    show(dataclasses.asdict(advice), json, text)


def open_tokenizer(path: Path) -> Tokenizer:
    from hanlin import load_tokenizer

    return load_tokenizer(path)


def corpus_of(sources: Sequence[Path]) -> dict[str, str]:
    """The corpus that is read, for a manifest's `parents`: of a single directory or of its documents; its
    other files stay unread."""
    from hanlin.common.manifest import read_manifest
    from hanlin.corpus.readers.artefacts import CORPUS, DOCUMENTS, kind_of

    if len(sources) != 1:
        return {}
    folder = sources[0].parent if sources[0].name == DOCUMENTS else sources[0]
    return {"corpus": read_manifest(folder, verify=False).content_hash} if kind_of(folder) == CORPUS else {}
