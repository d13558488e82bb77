"""Artefacts of Hanlin's own as input: a corpus directory stands for its documents, and a file that a manifest
names is checked by it."""

from __future__ import annotations

import dataclasses
import functools
import os
from pathlib import Path

import orjson

from hanlin.common.errors import HanlinError
from hanlin.common.manifest import MANIFEST, Manifest, read_manifest, verify_files

CORPUS = "corpus"
DOCUMENTS = "documents.jsonl.zst"
_LARGEST = 64 << 20  # bytes of a manifest


def kind_of(directory: Path) -> str:
    """The kind of artefact that a directory is, "" for none; a `manifest.json` of other programs is none."""
    found = _manifest_of(str(directory), *_stamp(directory / MANIFEST))
    return found.kind if found else ""


def documents_of(directory: Path) -> list[Path] | None:
    """The training documents of a corpus directory, or None where there is no artefact.

    Raises:
        HanlinError: an artefact of another kind, or a damaged manifest.
    """
    kind = kind_of(directory)
    if not kind:
        return None
    if kind != CORPUS:
        raise HanlinError(
            "{directory} is a {kind} and holds no text to read; a corpus directory or text files are "
            "needed here. Was another directory meant?",
            directory=directory,
            kind=kind,
        )
    return [directory / DOCUMENTS]


def verify_listed(path: Path) -> None:
    """Compare a file with the manifest beside it, where there is one that names it; once in a process,
    unless it changes.

    It is read once more for that: 3 % of the time that reading its texts takes (measured here).

    Raises:
        HanlinError: size or SHA-256 differ, or the manifest is damaged.
    """
    found = _manifest_of(str(path.parent), *_stamp(path.parent / MANIFEST))
    if found is not None and path.name in found.files:
        _verify(str(path), *_stamp(path), tuple(sorted(found.files[path.name].items())))


@functools.lru_cache(4096)
def _verify(path: str, size: int, changed: int, number: int, entry: tuple[tuple[str, object], ...]) -> None:
    file = Path(path)
    verify_files(file.parent, dataclasses.replace(_NOTHING, files={file.name: dict(entry)}))


@functools.lru_cache(256)
def _manifest_of(directory: str, size: int, changed: int, number: int) -> Manifest | None:
    """A directory's manifest as Hanlin wrote it; the other arguments tell when to look again."""
    if not 0 < size <= _LARGEST:
        return None
    try:
        raw = orjson.loads((Path(directory) / MANIFEST).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    if not isinstance(raw, dict) or not {"kind", "format", "files", "parents", "versions"} <= raw.keys():
        return None
    return read_manifest(directory, verify=False)


_NOTHING = Manifest("", {}, {}, None, {}, {}, {}, 0.0)


def _stamp(path: Path) -> tuple[int, int, int]:
    """Size, time of change and number of a file; zeros where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0, 0
    return found.st_size, found.st_mtime_ns, found.st_ino
