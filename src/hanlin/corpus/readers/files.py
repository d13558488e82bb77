"""Bytes of a file as UTF-8 lines, whatever its compression and encoding, in bounded memory.

Nothing here knows what a line means; `read.py` does.
"""

from __future__ import annotations

import bz2
import codecs
import glob
import lzma
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING, Any, Literal, Protocol

import zstandard

from hanlin.common.errors import HanlinError
from hanlin.common.manifest import MANIFEST
from hanlin.common.messages import Text, tr
from hanlin.corpus.readers.artefacts import CORPUS, DOCUMENTS, documents_of, kind_of
from hanlin.corpus.text.characters import plausibility

if TYPE_CHECKING:
    from typing_extensions import LiteralString

try:  # Intel's inflate, 2.6 times as fast as zlib's (measured here), where there is a wheel for it
    from isal import isal_zlib as gzip_zlib
except ImportError:
    gzip_zlib = zlib

BLOCK = 1 << 20
# bytes for zstd's decoder, which knows no bound on its output: a block of 128 KiB can stand in four bytes
_FEED = 1 << 11
_DAMAGED: tuple[type[Exception], ...] = (
    zlib.error,
    gzip_zlib.error,  # type: ignore[list-item]
    lzma.LZMAError,
    zstandard.ZstdError,
    EOFError,
    ValueError,
)
READABLE = (
    ".jsonl",
    ".ndjson",
    ".json",
    ".txt",
    ".text",
    ".md",
    ".markdown",
    ".csv",
    ".tsv",
    ".parquet",
    ".html",
    ".htm",
    ".xml",
)
COMPRESSED = (".gz", ".zst", ".xz", ".bz2")
ARCHIVES = (".zip", ".tgz", ".tbz2", ".txz", ".tar", *(".tar" + suffix for suffix in COMPRESSED))
_MAGIC = {b"\x1f\x8b": "gz", b"\x28\xb5\x2f\xfd": "zst", b"\xfd7zXZ\x00": "xz", b"BZh": "bz2"}
_FOREIGN = {
    b"PK\x03\x04": "zip",
    b"%PDF": "PDF",
    b"\x7fELF": "ELF",
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"SQLite": "SQLite",
    b"Rar!": "RAR",
    b"7z\xbc\xaf": "7z",
}
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class ReadLimits:
    """What a file may do to this machine.

    Attributes:
        record_bytes: a longer line, row or JSON value is quarantined unread.
        record_values: so is a JSON value of more lists, objects and commas, or a row of more columns; each
            takes about 100 bytes of memory.
        output_bytes: how much one compressed file may expand to.
        ratio: expanded ÷ compressed bytes allowed, looked at once `ratio_from` bytes have come out. Real
            text stays below 30.
        members: files that one archive may hold.
        head_bytes: of a file no more than about so many are read, where that is enough; 0 for all.
    """

    record_bytes: int = 32 << 20
    record_values: int = 1 << 19
    output_bytes: int = 1 << 40
    ratio: float = 200.0
    ratio_from: int = 8 << 20
    members: int = 1_000_000
    head_bytes: int = 0


DEFAULT_LIMITS = ReadLimits()


class Source(Protocol):
    """What can be read: a path, or a file within an archive (`archives.Member`)."""

    @property
    def name(self) -> str: ...
    @property
    def suffixes(self) -> list[str]: ...
    def open(self, mode: Literal["rb"]) -> IO[bytes]: ...


class FileError(HanlinError):
    """What is wrong with one file.

    Attributes:
        reason: the same without the file's name, for counting.
    """

    def __init__(self, message: LiteralString | Text, /, *, reason: str, **fields: Any):
        super().__init__(message, **fields)
        self.reason = reason


class Unusable(FileError):
    """A file that is whole but of no use here: binary data, an unknown encoding or layout. Within an archive
    it costs only itself."""


class Damaged(FileError):
    """A file that is not whole, or that cannot be read."""


def expand(paths: str | os.PathLike | Sequence[str | os.PathLike]) -> list[Path]:
    """Files named by paths, directories (searched below, known extensions only) and quoted globs, sorted
    within each.

    A corpus directory, also one below a directory that is searched, stands for its training documents.

    Raises:
        HanlinError: a path is missing, a glob matches nothing, a directory holds nothing readable or is
            another artefact.
    """
    found: dict[Path, None] = {}
    for item in [paths] if isinstance(paths, (str, os.PathLike)) else list(paths):
        path = Path(item)
        if path.is_dir():
            files = documents_of(path) or _below(path)
            if not files:
                raise HanlinError(
                    "Directory {path} holds no readable file. Known extensions: {readable}, also "
                    "compressed as {compressed}, and zip and tar archives.",
                    path=path,
                    readable=" ".join(READABLE),
                    compressed=" ".join(COMPRESSED),
                )
        elif path.is_file():
            files = [path]
        elif glob.has_magic(str(item)):
            files = sorted(
                Path(name) for name in glob.glob(str(item), recursive=True) if os.path.isfile(name)
            )
            if not files:
                raise HanlinError("No file matches {item}. Check the path and the pattern.", item=item)
        else:
            raise HanlinError("No such file: {path}. Check the path.", path=path)
        found.update(dict.fromkeys(files))
    if not found:
        raise HanlinError("No input file was given.")
    return list(found)


def _below(folder: Path) -> list[Path]:
    """The readable files below a directory; of a corpus among them the documents alone, and not what
    accounts for them."""
    files = sorted(
        file for file in folder.rglob("*") if file.is_file() and _known(file) and not _hidden(file, folder)
    )
    corpora = {file.parent for file in files if file.name == MANIFEST and kind_of(file.parent) == CORPUS}
    return (
        [file for file in files if file.name == DOCUMENTS or not corpora.intersection(file.parents)]
        if corpora
        else files
    )


def expected_bytes(path: Path) -> int:
    """About how much text a file holds: compressed Chinese is about a third of it, a guess that is good
    enough for bars and tasks."""
    return path.stat().st_size * (3 if path.suffix.lower() in COMPRESSED else 1)


def is_archive(path: PurePath) -> bool:
    """Whether the name is that of a zip or tar archive, compressed or not."""
    return path.name.lower().endswith(ARCHIVES)


def inner_suffix(path: Source | PurePath) -> str:
    """The extension below the compression's: `.jsonl` of `a.jsonl.zst`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in READABLE else ""


def stem(path: PurePath) -> str:
    """The file's name without directory, compression and type: the default name of a source."""
    name = readable_name(path.name)
    for suffix in (*COMPRESSED, *READABLE, *ARCHIVES):
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
    return name or path.name


def readable_name(name: str | bytes) -> str:
    """A file's name as a person would read it: UTF-8 where it is, else GB18030, as Chinese Windows writes it.

    Python keeps the bytes of a name that is not UTF-8 as lone surrogates, which no file and no JSON can hold.
    """
    raw = name.encode("utf-8", "surrogateescape") if isinstance(name, str) else name
    for encoding in ("utf-8", "gb18030"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    return raw.decode("cp437")


def blocks(path: Source, limits: ReadLimits) -> Iterator[bytes]:
    """The file's bytes, decompressed, in pieces of about 1 MiB.

    Raises:
        HanlinError: truncated or damaged compressed data, or expansion beyond `limits`.
    """
    at = 0
    try:
        with path.open("rb") as file:
            head = file.peek(8)  # type: ignore[attr-defined] - not every source can seek
            kind = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)
            if kind is None:
                while block := file.read(BLOCK):
                    yield block
                return
            total = 0
            for block in _decompress(file, kind):
                at = file.tell()
                total += len(block)
                if total > limits.output_bytes or (
                    total > limits.ratio_from and total > limits.ratio * file.tell()
                ):
                    raise HanlinError(
                        "{path} expands beyond the limit ({total:,} bytes, ratio {factor:.0f}) and may be "
                        "a decompression bomb. If it is genuine, decompress it yourself first.",
                        path=path,
                        total=total,
                        factor=total / file.tell(),
                    )
                yield block
    except _DAMAGED as error:
        raise Damaged(
            "{path} is truncated or damaged ({error}, after byte {at:,} of the compressed file). Download "
            "or compress it again.",
            reason=tr("truncated or damaged compressed data"),
            path=path,
            error=error,
            at=at,
        ) from error
    except OSError as error:
        why = error.strerror or error
        raise Damaged(
            "Cannot read {path}: {why}.", reason=tr("cannot be read: {why}", why=why), path=path, why=why
        ) from error


def _decompress(file, kind: str) -> Iterator[bytes]:
    """Bounded pieces of a gz, xz, bz2 or zstd stream of one or more members; EOFError when it stops inside
    one."""
    make = {
        "gz": lambda: gzip_zlib.decompressobj(31),
        "xz": lzma.LZMADecompressor,
        "bz2": bz2.BZ2Decompressor,
        "zst": lambda: zstandard.ZstdDecompressor().decompressobj(),
    }[kind]
    decoder, data, feed = make(), b"", _FEED if kind == "zst" else BLOCK
    held: list[bytes] = []  # of zstd's small outputs
    waiting = 0
    while True:
        if not data:
            data = file.read(feed)
            if not data:
                break
        if kind == "zst":
            out, data = decoder.decompress(data), b""
            held.append(out)
            waiting += len(out)
            out = b""
            if waiting >= BLOCK // 2:
                yield b"".join(held)
                held, waiting = [], 0
        elif kind == "gz":
            out, data = decoder.decompress(data, BLOCK), decoder.unconsumed_tail
        else:
            out, data = decoder.decompress(data, BLOCK), b""
            while out and not decoder.eof and not decoder.needs_input:
                yield out
                out = decoder.decompress(b"", BLOCK)
        if out:
            yield out
        if decoder.eof:
            if waiting:
                yield b"".join(held)
                held, waiting = [], 0
            data = decoder.unused_data
            while data[:1] == b"\0":  # some tools pad members with zeros
                data = data.lstrip(b"\0")
            if not data:
                data = file.read(feed)
                if not data:
                    return
            decoder = make()
    if waiting:
        yield b"".join(held)
    raise EOFError("unexpected end")


def detect_encoding(sample: bytes, path: Source, *, whole: bool) -> str:
    """Name the encoding of `sample`: byte-order mark, then strict UTF-8, then the more plausible of GB18030
    and Big5.

    Args:
        whole: the sample is the entire file; otherwise its last character may be cut.

    Raises:
        Unusable: binary data, or text that is plausible in none of them.
    """
    for mark, name in _MARKS:
        if sample.startswith(mark):
            return name
    foreign = next((kind for magic, kind in _FOREIGN.items() if sample.startswith(magic)), None)
    if sample[257:262] == b"ustar":
        foreign = "tar"
    if foreign or sample.count(0) > len(sample) // 1000:
        what = foreign or Text("binary data")
        raise Unusable(
            "{path} is {what}, not text. Convert or unpack it to text or JSON first.",
            reason=tr("no text, but {what}", what=what),
            path=path,
            what=what,
        )
    if _decodes(sample, "utf-8", whole):
        return "utf-8"
    scores = {}
    for name in ("gb18030", "big5hkscs"):
        text = sample.decode(name, "replace")
        # A wrong reading of Chinese shows as undecodable bytes or as characters hardly anybody uses.
        scores[name] = plausibility(text) - 20 * text.count("\ufffd") / max(1, len(text))
    damaged = sample.decode("utf-8", "replace")
    if damaged.count("\ufffd") < len(damaged) / 50 and plausibility(damaged) >= max(scores.values()):
        return "utf-8"  # with a few bad bytes: the records that hold them are quarantined
    best = max(scores, key=lambda name: scores[name])
    if scores[best] < 0.25:
        raise Unusable(
            "The encoding of {path} is none of UTF-8, UTF-16, GB18030, Big5. Convert it to UTF-8 first, "
            "e.g. iconv -f ENCODING -t UTF-8.",
            reason=tr("unknown encoding"),
            path=path,
        )
    return best


def utf8_blocks(path: Source, limits: ReadLimits) -> tuple[str, Iterator[bytes]]:
    """The encoding found, and the file's bytes without byte-order mark; UTF-16 and UTF-32 already turned
    into UTF-8.

    GB18030 and Big5 stay as they are: a newline is never part of one of their characters, so lines can be
    cut first and decoded one by one, and a bad byte costs one record.

    Raises:
        HanlinError: see `blocks` and `detect_encoding`.
    """
    stream = blocks(path, limits)
    sample = b""
    for block in stream:
        sample += block
        if len(sample) >= BLOCK:
            break
    encoding = detect_encoding(sample, path, whole=len(sample) < BLOCK) if sample else "utf-8"

    def chained() -> Iterator[bytes]:
        yield sample
        read = len(sample)
        for block in stream:
            if limits.head_bytes and read >= limits.head_bytes:
                return
            yield block
            read += len(block)

    if encoding in ("utf-16", "utf-32"):
        return encoding, _recoded(chained(), encoding)
    if encoding == "utf-8-sig":
        sample = sample[len(codecs.BOM_UTF8) :]
        return "utf-8", chained()
    return encoding, chained()


def line_blocks(stream: Iterator[bytes], limits: ReadLimits) -> Iterator[tuple[int, int, bytes | None]]:
    """(number of the first line from 1, its byte offset, some whole lines); None in place of a single line
    above `limits.record_bytes`.

    Only lines that cross the stream's blocks are looked at for their length.
    """
    number, offset, length = 1, 0, 0
    held: list[bytes] = []  # the beginning of a line, unless it is too long already
    for block in stream:
        end = block.rfind(b"\n") + 1
        if not end:
            length += len(block)
            if length <= limits.record_bytes:
                held.append(block)
            else:
                held.clear()
            continue
        start = block.find(b"\n") + 1 if length else 0
        if length + start - 1 > limits.record_bytes:
            yield number, offset, None
            number, offset = number + 1, offset + length + start
            held.clear()
        else:
            start = 0
        whole = b"".join([*held, block[start:end]])
        if whole:
            yield number, offset, whole
            number, offset = number + whole.count(b"\n"), offset + len(whole)
        held = [block[end:]] if 0 < len(block) - end <= limits.record_bytes else []
        length = len(block) - end
    if length:
        yield number, offset, b"".join(held) if held else None


def lines(stream: Iterator[bytes], limits: ReadLimits) -> Iterator[tuple[int, int, bytes | None]]:
    """(line number from 1, byte offset, line without its end); the line is None when longer than
    `limits.record_bytes`."""
    for number, offset, block in line_blocks(stream, limits):
        if block is None:
            yield number, offset, None
            continue
        found = block.split(b"\n")
        if not found[-1]:  # what is behind the last line's end
            found.pop()
        for line in found:
            yield number, offset, None if len(line) > limits.record_bytes else line.rstrip(b"\r")
            number, offset = number + 1, offset + len(line) + 1


def _recoded(stream: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    for block in stream:
        yield decoder.decode(block).encode("utf-8", "replace")
    yield decoder.decode(b"", True).encode("utf-8", "replace")


def _decodes(sample: bytes, encoding: str, whole: bool) -> bool:
    try:
        codecs.getincrementaldecoder(encoding)().decode(sample, whole)
    except UnicodeDecodeError:
        return False
    return True


def _known(path: Path) -> bool:
    return bool(inner_suffix(path)) or is_archive(path)


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)
