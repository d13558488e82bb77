"""Zip and tar archives as the text files inside them, one after another, never unpacked to the disk.

An archive may lie: about its sizes, the number of its members, its headers. Every limit is checked on the
bytes that come out. Nothing here knows records; a `Member` goes where a path goes.
"""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text, listing, tr
from hanlin.corpus.readers.files import (
    READABLE,
    Damaged,
    ReadLimits,
    blocks,
    inner_suffix,
    is_archive,
    readable_name,
)

Skip = Callable[[str, str], None]  # name of a member that is not read, and why
_HEADERS = 4 << 20  # bytes of tar headers between two members
_DIRECTORY = 64 << 20  # bytes of a zip's table of members
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,
    struct.error,
)


class Member:
    """A file within an archive, read where a path is read: `str()` is `archive.zip!inner.jsonl`.

    Attributes:
        archive: the file it is in.
        name: the last part of its own name.
    """

    def __init__(self, archive: Path, inner: str, stream: Callable[[], io.RawIOBase]):
        self.archive, self._inner, self._stream = archive, inner, stream
        path = PurePosixPath(inner)
        self.name, self.suffixes = path.name, path.suffixes

    def __str__(self) -> str:
        return f"{self.archive}!{self._inner}"

    def open(self, mode: str = "rb") -> IO[bytes]:
        """The bytes of this member; of a tar's, once, and before the next member."""
        return io.BufferedReader(self._stream(), 1 << 16)


def members(path: Path, limits: ReadLimits, skip: Skip) -> Iterator[Member]:
    """The text files in an archive, in its own order; each is to be read before the next is asked for.

    Args:
        skip: told of every member that is not read: no text by its name, an archive itself, a link.

    Raises:
        HanlinError: damaged, encrypted, a decompression bomb, too many members, or nothing in it that could
            be read.
    """
    used, names = 0, []

    def pass_over(name: str, why: str) -> None:
        names.append(name)
        if why:
            skip(f"{path}!{name}", why)

    for member in (_zip if path.name.lower().endswith(".zip") else _tar)(path, limits, pass_over):
        used += 1
        yield member
    if not used:
        raise HanlinError(
            "{path} holds no text file that can be read{detail}. Known extensions: {readable}.",
            path=path,
            detail=Text(" (but {names} …)", names=listing(names[:5])) if names else Text(": it is empty"),
            readable=" ".join(READABLE),
        )


def refusal(name: str) -> str | None:
    """Why a member of this name is not read ("" for a hidden one), or None.

    The rule is that for directories, but names without any extension are looked into.
    """
    path = PurePosixPath(name)
    if any(part.startswith(".") or part == "__MACOSX" for part in path.parts):
        return ""
    if is_archive(path):
        return tr("an archive within the archive: unpack the outer one first")
    if inner_suffix(path) == ".parquet":
        return tr("parquet within an archive: unpack it first")
    if inner_suffix(path) or not path.suffix:
        return None
    return tr("no text file ({suffix})", suffix=path.suffix)


class _Bounded(io.RawIOBase):
    """A member's bytes, with every accident in words and the member held to `limit` bytes in all."""

    def __init__(self, name: str, stream: IO[bytes], grow: Callable[[int, int], None]):
        self._name, self._source, self._grow, self._at = name, stream, grow, 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer) -> int:
        try:
            data = self._source.read(len(buffer))
        except _DAMAGED as error:
            raise _damaged(self._name, error) from error
        self._at += len(data)
        self._grow(len(data), self._at)
        buffer[: len(data)] = data
        return len(data)


def _zip(path: Path, limits: ReadLimits, skip: Skip) -> Iterator[Member]:
    packed, total = path.stat().st_size, 0
    try:
        if _directory_bytes(path) > _DIRECTORY:
            raise _too_many(path, limits)
        archive = zipfile.ZipFile(path)
    except _DAMAGED as error:
        raise _damaged(path, error) from error
    with archive:
        infos = archive.infolist()
        if len(infos) > limits.members:
            raise _too_many(path, limits)
        if {"[Content_Types].xml", "mimetype"} & {info.filename for info in infos}:
            raise HanlinError(
                "{path} is an office document or e-book, and no archive. Convert it to text first.", path=path
            )
        for info in infos:
            name = _zip_name(info)
            if info.is_dir():
                continue
            why = refusal(name)
            if why is not None:
                skip(name, why)
                continue
            if info.flag_bits & 0x2041:
                raise HanlinError(
                    "{name} in {path} is encrypted. Unpack it with its password first, and read the files.",
                    name=name,
                    path=path,
                )

            def grow(more: int, size: int, name: str = name, compressed: int = info.compress_size) -> None:
                nonlocal total
                total += more
                _check(f"{path}!{name}", size, compressed, limits)
                _check(str(path), total, packed, limits)

            try:
                stream = archive.open(info)
            except NotImplementedError:  # deflate64, which Windows uses above 2 GB
                skip(
                    name,
                    tr(
                        "compression method {compress_type}: unpack it first",
                        compress_type=info.compress_type,
                    ),
                )
                continue
            except _DAMAGED as error:
                raise _damaged(f"{path}!{name}", error) from error
            with stream:
                yield Member(
                    path,
                    name,
                    lambda stream=stream, name=name, grow=grow: _Bounded(f"{path}!{name}", stream, grow),
                )


def _tar(path: Path, limits: ReadLimits, skip: Skip) -> Iterator[Member]:
    source = _Blocks(path, blocks(path, limits))  # decompressed and held to the limits there
    try:
        archive = tarfile.open(  # noqa: SIM115
            fileobj=cast(Any, source), mode="r|", encoding="utf-8", errors="surrogateescape"
        )
        count = 0
        while True:
            source.budget = _HEADERS
            info = archive.next()
            source.budget = None
            if info is None:
                return
            archive.members = []  # type: ignore[assignment] - it keeps every header otherwise
            count += 1
            if count > limits.members:
                raise _too_many(path, limits)
            name = readable_name(info.name.encode("utf-8", "surrogateescape"))
            if info.isdir():
                continue
            why = refusal(name) if info.isfile() and not info.issparse() else tr("a link or special file")
            stream = archive.extractfile(info) if info.isfile() else None
            if why is not None or stream is None:
                skip(name, why or "")
            else:
                yield Member(
                    path,
                    name,
                    lambda stream=stream, name=name: _Bounded(
                        f"{path}!{name}", stream, lambda more, size: None
                    ),
                )
            if stream is not None and not info.issparse():
                while stream.read(1 << 20):  # so that what `next` reads is headers alone
                    pass
    except tarfile.TarError as error:
        raise _damaged(path, error) from error


class _Blocks:
    """Blocks as a file that can only be read on; `budget` bounds how much a header may ask for."""

    def __init__(self, path: Path, stream: Iterator[bytes]):
        self._path, self._stream, self._block, self._at = path, stream, b"", 0
        self.budget: int | None = _HEADERS

    def read(self, size: int) -> bytes:
        data = self._block[self._at : self._at + size]
        self._at += len(data)
        while len(data) < size:
            self._block = next(self._stream, b"")
            if not self._block:
                break
            self._at = size - len(data)
            data += self._block[: self._at]
        if self.budget is not None:
            self.budget -= len(data)
            if self.budget < 0:
                raise HanlinError(
                    "{path} has headers beyond reason and may be a decompression bomb: refused.",
                    path=self._path,
                )
        return data


def _directory_bytes(path: Path) -> int:
    """Size of a zip's table of members, which `zipfile` reads at once."""
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        start = max(0, size - (1 << 16) - 22 - 20)
        file.seek(start)
        tail = file.read()
        end = tail.rfind(b"PK\5\6")
        if end < 0:
            raise zipfile.BadZipFile(tr("no directory at its end"))
        (length,) = struct.unpack_from("<I", tail, end + 12)
        if length == 0xFFFFFFFF and tail[end - 20 : end - 16] == b"PK\6\7":
            (offset,) = struct.unpack_from("<Q", tail, end - 12)
            file.seek(offset)
            (length,) = struct.unpack_from("<Q", file.read(56), 40)
        return length


def _zip_name(info: zipfile.ZipInfo) -> str:
    """The name as written: `zipfile` takes for CP437 what is not marked as UTF-8."""
    try:
        return info.filename if info.flag_bits & 0x800 else readable_name(info.filename.encode("cp437"))
    except UnicodeEncodeError:  # it had a second, Unicode name
        return info.filename


def _check(name: str, size: int, packed: int, limits: ReadLimits) -> None:
    if size > limits.output_bytes or (size > limits.ratio_from and size > limits.ratio * max(1, packed)):
        raise HanlinError(
            "{name} expands beyond the limit ({size:,} bytes, ratio {factor:.0f}) and may be a "
            "decompression bomb. If it is genuine, unpack it yourself first.",
            name=name,
            size=size,
            factor=size / max(1, packed),
        )


def _too_many(path: Path, limits: ReadLimits) -> HanlinError:
    return HanlinError(
        "{path} holds more than {members:,} files: refused. Unpack it into a directory first.",
        path=path,
        members=limits.members,
    )


def _damaged(what: Path | str, error: Exception) -> Damaged:
    return Damaged(
        "{what} is truncated or damaged ({error}). Download or pack it again.",
        reason=tr("truncated or damaged archive"),
        what=what,
        error=error,
    )
