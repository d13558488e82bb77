"""Where an artefact may be written: what a user has there is never replaced, only what is absent, empty, or
an artefact of ours of the same kind."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import orjson

from hanlin.common.errors import HanlinError
from hanlin.common.locks import owned
from hanlin.common.messages import Text

MANIFEST = "manifest.json"
# What file managers and our own locks leave in a directory; nobody misses it.
_CHAFF = {MANIFEST, ".lock", ".DS_Store", "Thumbs.db", "desktop.ini"}
# What is laid beside a finished artefact, no part of it: a training's curve and its bad steps, with the data
# they are from, suggestions for the chat page, the model card.
_BESIDE = {"metrics.jsonl", "run.json", "spikes.jsonl", "suggestions.json", "README.md"}


def real_target(path: Path | str) -> Path:
    """The place itself where `path` is a symbolic link to it: a link stays, and what it points to is judged
    and replaced."""
    path = Path(path)
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def refuse_foreign_target(
    path: Path | str, kind: str | None = None, inputs: Iterable[Path | str] = ()
) -> None:
    """Refuse, before any work, a place whose content an artefact of `kind` must not replace.

    Below a directory that this process has locked as its own (a run, a state folder) whatever is damaged may
    be replaced; anywhere else only nothing, an empty directory, or an artefact of the same kind with no file
    besides its own.

    Args:
        kind: of the artefact to be written; any kind of ours when None.
        inputs: files and directories that are read; one at or below `path` would be lost with it.

    Raises:
        HanlinError: a file, a device, somebody's directory, an artefact of another kind, or an input.
    """
    shown, path = Path(path), real_target(path)
    _refuse_inputs(shown, path, inputs)
    if not os.path.lexists(path):
        above = next((folder for folder in path.parents if os.path.lexists(folder)), Path("."))
        if not above.is_dir():
            raise HanlinError(
                "Cannot write to {shown}: {above} is not a directory. Choose another --out.",
                shown=shown,
                above=above,
            )
        return
    if owned(path) and (path.is_dir() or path.is_file()):
        return
    if not path.is_dir():
        what = Text("a file") if path.is_file() else Text("a device or another special file")
        raise HanlinError(
            "{shown} is {what}, not a directory. Nothing was done, so that it is not lost. Choose another "
            "--out.",
            shown=shown,
            what=what,
        )
    try:
        names = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        raise HanlinError(
            "Cannot read {shown}: {error}. Choose another --out.", shown=shown, error=error.strerror
        ) from None
    if not names:
        return
    found, files = _artefact(path / MANIFEST)
    if found is None:
        raise HanlinError(
            "{shown} holds what is no artefact of Hanlin's ({names}), and writing there would replace all "
            "of it. Nothing was done. Choose a new or an empty directory as --out.",
            shown=shown,
            names=_some(names),
        )
    if kind is not None and found != kind:
        raise HanlinError(
            "{shown} is a {found}, and a {kind} is to be written. Nothing was done, so that it is not "
            "lost. Choose another --out, or remove {shown} first.",
            shown=shown,
            found=found,
            kind=kind,
        )
    ours = files | _BESIDE | {f"data/{name}" for name in _artefact(path / "data" / MANIFEST)[1]}
    added = [name for name in _below(path) if name not in ours and name.rsplit("/", 1)[-1] not in _CHAFF]
    if added:
        raise HanlinError(
            "{shown} holds files besides those Hanlin wrote ({added}), which writing it anew would replace "
            "as well. Nothing was done. Move them away first, or choose another --out.",
            shown=shown,
            added=_some(added),
        )


def refuse_foreign_directory(path: Path | str, marker: str) -> None:
    """Refuse as a working directory one that holds something but not `marker`, by which an earlier start of
    the same work is known.

    Raises:
        HanlinError: it is somebody else's.
    """
    path = Path(path)
    if (
        path.is_dir()
        and any(not entry.name.startswith(".") for entry in path.iterdir())
        and not os.path.lexists(path / marker)
    ):
        raise HanlinError(
            "{path} holds other files. Choose a new or an empty directory as --out, so that nothing gets "
            "mixed up.",
            path=path,
        )


def _refuse_inputs(shown: Path, path: Path, inputs: Iterable[Path | str]) -> None:
    place = Path(os.path.realpath(path))
    for item in inputs:
        read = Path(os.path.realpath(item))
        if place in (read, *read.parents):
            raise HanlinError(
                "The input {item} lies in --out {shown} and would be gone once that is written. Nothing "
                "was done. Choose another --out.",
                item=item,
                shown=shown,
            )


def _artefact(manifest: Path) -> tuple[str | None, set[str]]:
    """Kind and files that a manifest of ours names, whole or not; no kind where there is none."""
    try:
        said = orjson.loads(manifest.read_bytes())
        if {"kind", "files", "parents", "versions"} <= said.keys():
            return str(said["kind"]), set(said["files"])
    except (OSError, ValueError, TypeError, AttributeError):
        pass
    return None, set()


def _below(path: Path) -> list[str]:
    """Relative paths of everything in a directory that is no directory."""
    return sorted(
        os.path.relpath(os.path.join(folder, name), path).replace(os.sep, "/")
        for folder, _, names in os.walk(path)
        for name in names
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
