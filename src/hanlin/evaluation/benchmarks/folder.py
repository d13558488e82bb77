"""Files of a benchmark as its authors publish them, in a directory that the user downloaded: plain, or inside
zip and tar archives. Nothing is fetched."""

from __future__ import annotations

import csv
import fnmatch
import functools
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hanlin.common.errors import HanlinError

_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
_ENCODINGS = ("utf-8-sig", "gb18030")


class Folder:
    """Files below a directory, and those inside the archives there, found by the end of their paths.

    Args:
        path: the directory, or one archive.

    Raises:
        HanlinError: there is no such directory, or an archive in it is damaged.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        if not self.path.exists():
            raise HanlinError("There is no directory {path} with benchmarks.", path=self.path)
        self._files: dict[str, Callable[[], bytes]] = {}
        for file in [self.path] if self.path.is_file() else sorted(self.path.rglob("*")):
            if not file.is_file() or file.name.startswith("."):  # records and parts of downloads
                continue
            name = file.name if self.path.is_file() else file.relative_to(self.path).as_posix()
            if file.name.lower().endswith(_ARCHIVES):
                self._open_archive(name, file)
            else:
                self._files[name] = file.read_bytes

    def _open_archive(self, name: str, file: Path) -> None:
        """Index the members of an archive; they are read when they are asked for."""
        try:
            if file.name.lower().endswith(".zip"):
                with zipfile.ZipFile(file) as archive:
                    members = [info.filename for info in archive.infolist() if not info.is_dir()]
            else:
                with tarfile.open(file) as archive:
                    members = [info.name for info in archive if info.isfile()]
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
            raise HanlinError(
                "{path} can't be opened as an archive ({error}). Download it again.", path=file, error=error
            ) from error
        for member in sorted(members):
            self._files[f"{name}/{member}"] = lambda member=member: _member(file, member)

    def find(self, pattern: str) -> list[str]:
        """Paths whose end matches a pattern of `fnmatch` by whole parts: `test/*.csv` finds
        `cmmlu/data/test/arts.csv`. Those nearest to the top come first."""
        parts = pattern.count("/") + 1
        found = [
            name
            for name in self._files
            if fnmatch.fnmatchcase("/".join(name.split("/")[-parts:]), pattern)
            and not name.rpartition("/")[2].startswith("._")  # what macOS adds to archives
        ]
        return sorted(found, key=lambda name: (name.count("/"), name))

    def where(self, name: str) -> Path:
        """A file's path as the user knows it; that of an archive's member begins with the archive's."""
        return (self.path.parent if self.path.is_file() else self.path) / name

    def text(self, name: str) -> str:
        """A file's text: UTF-8, with or without a mark, else GB 18030.

        Raises:
            HanlinError: it is neither.
        """
        raw = self._files[name]()
        for encoding in _ENCODINGS:
            try:
                return raw.decode(encoding)
            except UnicodeDecodeError:
                continue
        raise HanlinError("{path} is neither UTF-8 nor GB 18030.", path=self.where(name))

    def json(self, name: str) -> Any:
        """A JSON file.

        Raises:
            HanlinError: it is none; the message says where.
        """
        try:
            return json.loads(self.text(name))
        except json.JSONDecodeError as error:
            raise HanlinError(
                "{path} is no JSON: line {line}, column {column}: {reason}.",
                path=self.where(name),
                line=error.lineno,
                column=error.colno,
                reason=error.msg,
            ) from error

    def rows(self, name: str, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """Records of a csv, tsv, jsonl, json (a list, or lines) or parquet file.

        Args:
            columns: names of the columns of a csv or tsv file without a header.

        Raises:
            HanlinError: a line is no record; the message says which.
        """
        ending = name.rpartition(".")[2].lower()
        if ending == "parquet":
            yield from self._parquet(name)
        elif ending in ("csv", "tsv") or columns is not None:
            yield from self._table(name, "," if ending == "csv" else "\t", columns)
        else:
            for number, record in self._records(name):
                if not isinstance(record, dict):
                    raise HanlinError(
                        "{path}, record {number} is no JSON object.", path=self.where(name), number=number
                    )
                yield record

    def _table(self, name: str, delimiter: str, columns: Sequence[str] | None) -> Iterator[dict[str, Any]]:
        reader = csv.DictReader(io.StringIO(self.text(name), newline=""), columns, delimiter=delimiter)
        try:
            yield from reader
        except csv.Error as error:
            raise HanlinError(
                "{path}, line {line} is no row of a table: {reason}.",
                path=self.where(name),
                line=reader.line_num,
                reason=error,
            ) from error

    def _records(self, name: str) -> Iterator[tuple[int, Any]]:
        text = self.text(name)
        if text.lstrip().startswith("["):
            yield from enumerate(self.json(name), start=1)
            return
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                if number == 1:  # one object over several lines
                    yield 1, self.json(name)
                    return
                raise HanlinError(
                    "{path}, line {line} is no JSON: {reason}.",
                    path=self.where(name),
                    line=number,
                    reason=error.msg,
                ) from error
            yield number, record

    def _parquet(self, name: str) -> Iterator[dict[str, Any]]:
        try:
            import pyarrow
            import pyarrow.parquet as parquet
        except ImportError as error:
            raise HanlinError(
                "{path} is a parquet file: pip install 'hanlin[data]' to read it, or take the csv or json "
                "files.",
                path=self.where(name),
            ) from error
        try:
            table = parquet.read_table(io.BytesIO(self._files[name]()))
        except pyarrow.ArrowException as error:
            raise HanlinError(
                "{path} can't be read as parquet ({error}). Download it again.",
                path=self.where(name),
                error=error,
            ) from error
        yield from table.to_pylist()


def _member(archive: Path, name: str) -> bytes:
    """Bytes of an archive's member."""
    if archive.name.lower().endswith(".zip"):
        with zipfile.ZipFile(archive) as opened:
            return opened.read(name)
    return _unpacked(archive)[name]


@functools.lru_cache(maxsize=1)
def _unpacked(archive: Path) -> dict[str, bytes]:
    """A tar archive's files, read in one go: a compressed one can't be entered in the middle."""
    with tarfile.open(archive) as opened:
        return {
            info.name: file.read() for info in opened if info.isfile() and (file := opened.extractfile(info))
        }
