"""The verbs of `hanlin dataset`. `cli` names them and loads this file when one is asked for; what is heavy
waits until one runs."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

from hanlin.cli.main import Flag, show
from hanlin.cli.tokenizer import corpus_of, open_tokenizer, show_progress


def build(*corpus: Path, tokenizer: Path, out: Path, threads: int = 0, json: Flag = False) -> None:
    """Encode a corpus directory, or files of any layout, into token shards (Megatron .bin/.idx).

    Parameters
    ----------
    """
    from hanlin.common.manifest import read_manifest
    from hanlin.dataset import build_text_dataset, tail_alarm
    from hanlin.dataset.tail import tail_text

    made = build_text_dataset(
        list(corpus),
        open_tokenizer(tokenizer),
        out,
        threads=threads if threads > 0 else os.cpu_count() or 1,
        parents=corpus_of(corpus),
        progress=functools.partial(show_progress(), "count"),
    )
    print(tail_text(tail_alarm(made)), file=sys.stderr)
    show(read_manifest(out, verify=False).metrics, True)


def tail(dataset: Path, /, *, json: Flag = False) -> None:
    """Compare the last documents of each source with the rest of it; say which are twice as surprising, or
    half as much.

    Parameters
    ----------
    dataset
        From hanlin dataset build, in the order its texts came; that of a shuffled corpus has no ends to look
        at.
    """
    import dataclasses

    from hanlin.dataset import TokenDataset, tail_alarm
    from hanlin.dataset.tail import tail_text

    found = tail_alarm(TokenDataset(dataset))
    show([dataclasses.asdict(entry) | {"ratio": entry.ratio} for entry in found], json, tail_text(found))
