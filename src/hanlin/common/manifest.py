"""Artefacts: directories that explain themselves by a `manifest.json`, and are checked before they are
used."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import platform
import time
from collections.abc import Collection, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import orjson

from hanlin.common.atomic import atomic_directory, read_json, write_json
from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text
from hanlin.common.target import MANIFEST

FORMAT_VERSION = 1
_PACKAGES = ("hanlin", "torch", "numpy", "tokenizers", "safetensors")


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hash_json(value: Any) -> str:
    """Hex SHA-256 of a JSON-able value with sorted keys."""
    return hashlib.sha256(
        orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY)
    ).hexdigest()


def write_digested(path: Path | str, value: Mapping[str, Any]) -> None:
    """Write a JSON object with a digest of itself, atomically; `read_digested` knows whether it was
    altered."""
    write_json(path, {**value, "digest": hash_json(value)})


def read_digested(path: Path | str) -> dict[str, Any]:
    """What `write_digested` wrote, without the digest.

    Raises:
        HanlinError: not there, cut short, altered, or without a digest.
    """
    said = read_json(path)
    digest = said.pop("digest", None) if isinstance(said, dict) else None
    if digest is None or digest != hash_json(said):
        raise HanlinError("{path} is not whole, or was altered.", path=path)
    return said


@functools.cache
def package_versions() -> dict[str, str]:
    """Versions of what the result may depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What an artefact says of itself.

    Attributes:
        kind: corpus, tokenizer, dataset, model, reward_model …
        parents: content hash of every artefact this one was made from, by role.
        config: the resolved configuration it was made with.
        files: size and SHA-256 by relative path; `"view": true` marks those that only show the others.
        metrics: headline figures.
        key: hash of everything that determines the content; a pipeline compares it to know what may be kept.
    """

    kind: str
    parents: dict[str, str]
    config: dict[str, Any]
    seed: int | None
    files: dict[str, dict[str, Any]]
    metrics: dict[str, Any]
    versions: dict[str, str]
    created: float
    key: str = ""
    format: int = FORMAT_VERSION

    @property
    def content_hash(self) -> str:
        """Hash of kind and file contents alone: equal content, equal hash, whenever and wherever it was
        made, however it is shown."""
        return hash_json(
            [
                self.kind,
                {name: entry["sha256"] for name, entry in self.files.items() if not entry.get("view")},
            ]
        )


class ArtifactWriter:
    """The open side of `artifact`: a temporary directory, and what the manifest will say."""

    def __init__(self, path: Path):
        self.path = path
        self.metrics: dict[str, Any] = {}


@contextlib.contextmanager
def artifact(
    path: Path | str,
    kind: str,
    *,
    parents: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
    seed: int | None = None,
    key: str = "",
    views: Collection[str] = (),
) -> Iterator[ArtifactWriter]:
    """Write an artefact atomically: fill `writer.path`, set `writer.metrics`; the manifest is added at the
    end.

    Args:
        views: files made from the others to look at. They are checked as all are but count nothing in
            `content_hash`, so a page may say how long the work took.

    Raises:
        HanlinError: `path` holds what an artefact of this kind must not replace (`refuse_foreign_target`),
            or cannot be written.

    Example:
        with artifact(out, "tokenizer", config=config) as writer:
            (writer.path / "tokenizer.json").write_bytes(data)
    """
    with atomic_directory(path, kind) as temporary:
        writer = ArtifactWriter(temporary)
        yield writer
        files = {
            str(file.relative_to(temporary)): {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
            | ({"view": True} if str(file.relative_to(temporary)) in views else {})
            for file in sorted(temporary.rglob("*"))
            if file.is_file()
        }
        manifest = Manifest(
            kind,
            dict(parents or {}),
            dict(config or {}),
            seed,
            files,
            writer.metrics,
            package_versions(),
            time.time(),
            key,
        )
        said = dataclasses.asdict(manifest)
        write_json(temporary / MANIFEST, said | {"digest": hash_json(said)})


def read_manifest(
    path: Path | str, kind: str | tuple[str, ...] | None = None, *, verify: bool = True
) -> Manifest:
    """Read an artefact's manifest and, unless `verify` is false, check every file's size and SHA-256.

    Raises:
        HanlinError: no artefact there, another kind, an unknown format, a missing, truncated or altered file.
    """
    path = Path(path)
    if not (path / MANIFEST).is_file():
        raise HanlinError(
            "{path} holds no {manifest}: it is not a Hanlin artefact, or was never finished. Check the "
            "path or run the command that makes it.",
            path=path,
            manifest=MANIFEST,
        )
    raw = read_json(path / MANIFEST)
    if not isinstance(raw, dict) or raw.get("format") != FORMAT_VERSION:
        raise HanlinError(
            "{manifest_path} is not of format {format_version}. Use the Hanlin version that wrote it, or "
            "make it again.",
            manifest_path=path / MANIFEST,
            format_version=FORMAT_VERSION,
        )
    names = {field.name for field in dataclasses.fields(Manifest)}
    said = {name: value for name, value in raw.items() if name in names}
    entries = said["files"].values() if isinstance(said.get("files"), dict) else [None]
    whole = (
        all(isinstance(entry, dict) and {"bytes", "sha256"} <= entry.keys() for entry in entries)
        and names - {"key", "format"} <= said.keys()
    )
    if not whole or raw.get("digest") != hash_json(said):
        raise HanlinError(
            "{manifest_path} is damaged or was edited. Stopped rather than go on with bad data. Remove "
            "{path} and run the command that makes it.",
            manifest_path=path / MANIFEST,
            path=path,
        )
    manifest = Manifest(**said)
    kinds = (kind,) if isinstance(kind, str) else kind
    if kinds and manifest.kind not in kinds:
        raise HanlinError(
            "{path} is a {kind}; a {kinds} is needed here. Was another directory meant?",
            path=path,
            kind=manifest.kind,
            kinds="/".join(kinds),
        )
    if verify:
        verify_files(path, manifest)
    return manifest


def verify_files(path: Path, manifest: Manifest) -> None:
    """Raise `HanlinError` unless every file of the manifest is there, whole and unaltered."""
    for name, entry in manifest.files.items():
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise HanlinError(
                "{manifest_path} names {name!r}, outside its directory: refused.",
                manifest_path=path / MANIFEST,
                name=name,
            )
        file = path / name
        if not file.is_file():
            problem = Text("is missing")
        elif file.stat().st_size != entry["bytes"]:
            size = file.stat().st_size
            problem = Text("has {size} bytes, should have {bytes}", size=size, bytes=entry["bytes"])
        elif sha256_file(file) != entry["sha256"]:
            problem = Text("differs from its recorded SHA-256")
        else:
            continue
        raise HanlinError(
            "Damaged artefact: {file} {problem}. Stopped rather than go on with bad data. Remove {path} "
            "and run the command that makes it.",
            file=file,
            problem=problem,
            path=path,
        )


def content_hash(path: Path | str) -> str:
    """Content hash of an artefact already verified; of a model that is not ours, hash of its weights,
    configuration and tokenizer."""
    folder = Path(path)
    if (folder / MANIFEST).is_file():
        return read_manifest(folder, verify=False).content_hash
    files = sorted(
        file
        for file in folder.iterdir()
        if file.name == "config.json" or file.suffix == ".safetensors" or file.name.startswith("tokenizer")
    )
    return hash_json(["external", {file.name: sha256_file(file) for file in files if file.is_file()}])
