"""The verbs of `hanlin data`. `cli` names them and loads this file when one is asked for; what is heavy waits
until one runs."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from hanlin.cli.main import Flag, Many, show
from hanlin.common.errors import HanlinError
from hanlin.common.messages import tr


def list_sets(*, stage: str = "", commercial: Flag = False, json: Flag = False) -> None:
    """List public data sets: where they are, their fields and licences.

    Parameters
    ----------
    stage
        Only those for pretrain, sft, reasoning, preference or evaluation.
    commercial
        Only those whose stated terms allow commercial use.
    """
    import dataclasses
    import typing

    from hanlin.corpus.download.catalogue import DATASETS, catalogue_text
    from hanlin.corpus.download.data_set import Stage

    if stage not in ("", *typing.get_args(Stage)):
        names = ", ".join(typing.get_args(Stage))
        raise HanlinError("There is no stage {stage!r}; choose from {names}.", stage=stage, names=names)
    chosen = [
        entry
        for entry in DATASETS
        if (not stage or entry.is_for(typing.cast(Any, stage)))
        and (not commercial or entry.commercial == "yes")
    ]
    show(
        [dataclasses.asdict(entry) for entry in chosen],
        json,
        catalogue_text(typing.cast(Any, stage or None), commercial),
    )


def fetch_set(
    name: str,
    /,
    *,
    out: Path | None = None,
    source: Annotated[str, Parameter(name="--from")] = "",
    path: Path | None = None,
    files: Many = (),
    revision: str | None = None,
    yes: Flag = False,
    json: Flag = False,
) -> None:
    """Download a public data set, checked and resumed; its licence is shown first and has to be accepted.

    Parameters
    ----------
    name
        As hanlin data list has it, or the name of a benchmark of hanlin eval.
    out
        Directory for the files; data/NAME when absent.
    source
        hf, hf-mirror, modelscope, github, or file for files that are already here (see --path); when
        absent, the first of them that has it and can be reached.
    path
        File or directory for --from file.
    files
        Only files that match these, such as '*00000*.parquet'.
    revision
        Branch, tag or commit.
    yes
        Accept the licence without being asked.
    """
    from hanlin.corpus.download.catalogue import find
    from hanlin.corpus.download.fetch import (
        PROVENANCE,
        describe,
        fetch,
        fetch_local,
        plan_anywhere,
        plan_fetch,
        size_text,
        terms,
    )
    from hanlin.corpus.download.hub import open_hub, sources

    data = find(name)
    out = out or Path("data") / data.name
    if source == "file" or (path is not None and not source):
        if path is None:
            raise HanlinError("--from file needs --path, a file or directory you have.")
        print("\n".join(terms(data)), file=sys.stderr)
        _accept(yes)
        record = fetch_local(data, path, out, files)
    else:
        if source or revision:  # a revision is one hub's own
            source = source or next(
                name
                for name in ("hf", "modelscope", "github")
                if name in sources(data.huggingface, data.modelscope, data.github)
            )
            hub = open_hub(source, data.huggingface, data.modelscope, github=data.github)
            plan = plan_fetch(data, hub, out, files, revision)
        else:
            plan = plan_anywhere(data, out, files, say=lambda text: print(text, file=sys.stderr, flush=True))
        print(describe(plan), file=sys.stderr)
        _accept(yes)
        with _show_bytes() as progress:
            record = fetch(plan, progress)
    total = sum(entry["bytes"] for entry in record["files"].values())
    text = tr(
        "{out}: {count} files, {total}; origin and checksums are in {provenance}.",
        out=out,
        count=len(record["files"]),
        total=size_text(total),
        provenance=out / PROVENANCE,
    )
    if data.measures:
        command = f"hanlin eval MODEL --tasks {' '.join(data.measures)} --data {shlex.quote(str(out))}"
        text += "\n" + tr("To measure a model on it: {command}", command=command)
    show(record, json, text)


def _accept(yes: bool) -> None:
    """Ask for consent to the terms that have been shown."""
    if yes:
        return
    if sys.stdin.isatty():
        print(
            tr("Accept these terms and go on? [y/N] "),
            end="",
            file=sys.stderr,
            flush=True,
        )
        if sys.stdin.readline().strip().lower() in ("y", "yes", "是"):
            return
        raise HanlinError("The terms were not accepted; nothing was downloaded.")
    raise HanlinError("The terms above have to be accepted before the download. In a script, add --yes.")


@contextlib.contextmanager
def _show_bytes() -> Iterator[Callable[[str, int, int], None]]:
    """Bytes of a download on stderr: a bar on a terminal, a line every ten seconds elsewhere."""
    if not sys.stderr.isatty():
        import time

        shown = time.monotonic()

        def line(name: str, have: int, total: int) -> None:
            nonlocal shown
            if time.monotonic() - shown >= 10:
                shown = time.monotonic()
                print(f"{have / 1e6:,.0f}/{total / 1e6:,.0f} MB  {name}", file=sys.stderr, flush=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bars:
        task = bars.add_task("", total=None)
        yield lambda name, have, total: bars.update(task, description=name[-40:], completed=have, total=total)
