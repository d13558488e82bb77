"""A data set by its name into a directory: what it costs and under which terms first, then every file,
checked.

The directory gets a `.hanlin.json` that says where the files are from, under which licence, and their
SHA-256; its name keeps it out of what `expand` reads.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hanlin.common.atomic import disk_full, read_json, write_json
from hanlin.common.errors import HanlinError
from hanlin.common.locks import directory_lock
from hanlin.common.manifest import sha256_file
from hanlin.common.messages import Text, joined, listing, tr
from hanlin.corpus.download.catalogue import commercial_text
from hanlin.corpus.download.data_set import DataSet
from hanlin.corpus.download.hub import Hub, Repository, open_hub, safe_path, sources
from hanlin.corpus.download.web import RemoteFile, Unreachable, difference, part_of
from hanlin.corpus.readers.files import COMPRESSED, READABLE

PROVENANCE = ".hanlin.json"
_DATA = (*READABLE, *COMPRESSED, ".zip", ".tar", ".tgz", ".arrow", ".bin", ".idx")
_NOT_DATA = ("readme", "license", "licence", "dataset_info", "dataset_infos", "configuration.json")
_QUICK = 10.0  # seconds to wait for a hub where another may have the data set
_SPARE = 256 << 20  # bytes that stay free on the disk

Progress = Callable[[str, int, int], None]  # file, bytes of all files that are there, bytes of all files


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a fetch will do.

    Attributes:
        missing: files to download; `kept` those that are there and whole.
        received: bytes of the missing files that earlier attempts left.
        free: bytes on the disk.
    """

    data: DataSet
    hub: Hub
    repository: Repository
    out: Path
    missing: tuple[RemoteFile, ...]
    kept: tuple[RemoteFile, ...]
    received: int
    free: int

    @property
    def total(self) -> int:
        """Bytes still to come."""
        return sum(file.size for file in self.missing) - self.received


def plan_fetch(
    data: DataSet, hub: Hub, out: Path | str, patterns: Sequence[str] = (), revision: str | None = None
) -> Plan:
    """Ask the hub what there is and choose the files; nothing is downloaded or written.

    Args:
        patterns: file names or paths with `*` and `?`; the registered ones, else all that look like data,
            when empty.

    Raises:
        HanlinError: the hub cannot be asked, a name leaves the directory, nothing matches, too little room
            on the disk.
    """
    out = Path(out)
    repository = hub.repository(revision or hub.revision)
    listed = list(hub.files(repository.commit))
    for file in listed:
        if not safe_path(file.path):
            raise HanlinError(
                "{host} lists a file called {file!r}, which leaves the directory or is malformed: the "
                "whole data set is refused.",
                host=hub.web.host,
                file=file.path,
            )
    wanted = choose(listed, patterns or data.files)
    if not wanted:
        shown = [_visible(file.path) for file in listed[:8]]
        raise HanlinError(
            "None of the {count} files of {data} matches {patterns}; name some with --files. There are: "
            "{shown} …",
            count=len(listed),
            data=data.name,
            patterns=" ".join(patterns or data.files) or Text("a data file"),
            shown=listing(shown),
        )
    kept = tuple(
        file for file in wanted if (out / file.path).is_file() and difference(out / file.path, file) is None
    )
    missing = tuple(file for file in wanted if file not in kept)
    parts = [part_of(out / file.path, file) for file in missing]
    received = sum(
        min(part.stat().st_size, file.size)
        for part, file in zip(parts, missing, strict=True)
        if part.is_file()
    )
    free = shutil.disk_usage(
        next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    ).free
    plan = Plan(data, hub, repository, out, missing, kept, received, free)
    if missing and plan.total + _SPARE > free:
        raise HanlinError(
            "{total} are to be downloaded, but the disk of {out} has only {free} left. Choose another "
            "--out, or take a part with --files.",
            total=size_text(plan.total),
            out=out,
            free=size_text(free),
        )
    return plan


def plan_anywhere(
    data: DataSet,
    out: Path | str,
    patterns: Sequence[str] = (),
    *,
    say: Callable[[str], None] = lambda text: None,
    open_: Callable[..., Hub] = open_hub,
) -> Plan:
    """`plan_fetch` with the first hub that can be reached of those that have the data set.

    Args:
        say: told which hub is passed over, and why.
        open_: makes a hub of its name and the set's names.

    Raises:
        HanlinError: none can be reached; or what `plan_fetch` raises of the one that can.
    """
    names = sources(data.huggingface, data.modelscope, data.github)
    beside = {"github": data.github} if data.github else {}
    errors: dict[str, Unreachable] = {}
    for index, name in enumerate(names):
        hub = open_(name, data.huggingface, data.modelscope, **beside)
        attempts, timeout = hub.web.attempts, hub.web.timeout
        if index + 1 < len(names):  # there is another one: no use waiting long
            hub.web.attempts, hub.web.timeout = 1, _QUICK
        try:
            plan = plan_fetch(data, hub, out, patterns)
        except Unreachable as error:
            errors[name] = error
            if index + 1 < len(names):
                say(
                    tr("{host} cannot be reached; trying {names}.", host=hub.web.host, names=names[index + 1])
                )
            continue
        hub.web.attempts, hub.web.timeout = attempts, timeout
        return plan
    *_, last = errors.values()
    if len(errors) == 1:
        raise last
    raise HanlinError(
        "None of {count} sources can be reached:\n{errors}",
        count=len(errors),
        errors=joined(
            [Text("- {name}: {error}", name=name, error=error) for name, error in errors.items()], "\n"
        ),
    ) from last


def choose(listed: Sequence[RemoteFile], patterns: Sequence[str]) -> list[RemoteFile]:
    """The files that match a pattern by path or name, or without patterns those that look like data; hidden
    ones never."""

    def wanted(path: str) -> bool:
        name = path.rpartition("/")[2]
        if any(part.startswith(".") for part in path.split("/")):
            return False
        if patterns:
            return any(
                fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(name, pattern)
                for pattern in patterns
            )
        return name.lower().endswith(_DATA) and not name.lower().startswith(_NOT_DATA)

    return [file for file in listed if wanted(file.path)]


def describe(plan: Plan) -> str:
    """What a person should know before the download: terms, sizes, place."""
    data, repository = plan.data, plan.repository
    files = [*plan.missing, *plan.kept]
    lines = [
        tr("data set    {data} ({stage})", data=data.name, stage=data.stage),
        tr("from        {page}  revision {commit}", page=plan.hub.page, commit=repository.commit[:12]),
        *terms(data, repository.licence),
        tr(
            "files       {count}, {files} in all",
            count=len(files),
            files=size_text(sum(file.size for file in files)),
        ),
        *(
            f"            {size_text(file.size):>9}  {_visible(file.path)}"
            for file in sorted(files, key=lambda file: -file.size)[:8]
        ),
        *([tr("            … and {count} more", count=len(files) - 8)] if len(files) > 8 else []),
        tr(
            "to download {count}, {total} ({kept_count} are here and whole; {free} free on the disk)",
            count=len(plan.missing),
            total=size_text(plan.total),
            kept_count=len(plan.kept),
            free=size_text(plan.free),
        ),
        tr("to          {out}", out=plan.out),
    ]
    if repository.gated:
        lines.append(
            tr(
                "note        the publisher wants consent on the page first, and a token of yours for the "
                "download"
            )
        )
    unchecked = sum(1 for file in files if not (file.sha256 or file.blob))
    if unchecked:
        lines.append(
            tr(
                "note        the hub gives no checksum for {unchecked} files: only their size is checked",
                unchecked=unchecked,
            )
        )
    return "\n".join(lines)


def terms(data: DataSet, tag: str = "") -> list[str]:
    """The lines about licence and commercial use."""
    commercial, tag = commercial_text(data), _visible(tag)[:200]
    beside = tr(" (tag on the hub: {tag})", tag=tag) if tag else ""
    return [
        tr("licence     {licence}{beside}", licence=data.licence, beside=beside),
        tr("commercial  use: {commercial} (what the publisher says is binding)", commercial=commercial),
    ]


def fetch(plan: Plan, progress: Progress = lambda name, have, total: None) -> dict[str, Any]:
    """Download what the plan lacks; run it again after an interruption and it goes on.

    Returns:
        What `.hanlin.json` says.

    Raises:
        HanlinError: see `Web.download`; another process fetches into the same directory.
    """
    total, before = sum(file.size for file in plan.missing), 0
    with directory_lock(plan.out):
        for file in plan.missing:
            target = plan.out / file.path
            address = plan.hub.address(plan.repository.commit, file.path)

            def report(have: int, name: str = file.path, before: int = before) -> None:
                progress(_visible(name), before + have, total)

            plan.hub.files_web.download(address, file, target, report)
            before += file.size
        where = {"page": plan.hub.page, "revision": plan.repository.commit}
        return _record(
            plan.data,
            plan.out,
            where,
            [file.path for file in (*plan.kept, *plan.missing)],
            plan.repository.licence,
        )


def fetch_local(data: DataSet, source: Path, out: Path | str, patterns: Sequence[str] = ()) -> dict[str, Any]:
    """Take a data set from a file or directory that is already here; hard links where the disk allows, else
    copies.

    A `.hanlin.json` in the directory (from a fetch on another machine) gives the checksums to compare with.

    Raises:
        HanlinError: nothing there, nothing matches, a checksum differs, the disk is full.
    """
    out = Path(out)
    root = source if source.is_dir() else source.parent
    if not source.exists():
        raise HanlinError(
            "No such file: {source}. --from file needs --path, a file or directory you have.", source=source
        )
    found = [path for path in sorted(root.rglob("*")) if path.is_file()] if source.is_dir() else [source]
    here = [RemoteFile(path.relative_to(root).as_posix(), path.stat().st_size) for path in found]
    wanted = choose(here, patterns or (data.files if source.is_dir() else ("*",))) or choose(here, patterns)
    if not wanted:
        raise HanlinError(
            "{source} holds no data file of {data}. Name some with --files.", source=source, data=data.name
        )
    known: dict[str, Any] = (
        read_json(root / PROVENANCE).get("files", {}) if (root / PROVENANCE).is_file() else {}
    )
    with directory_lock(out):
        for file in wanted:
            expected = known.get(file.path)
            if expected and expected.get("sha256") != sha256_file(root / file.path):
                raise HanlinError(
                    "{root} differs from the SHA-256 that {provenance} records; perhaps it was not copied "
                    "whole. Copy it again.",
                    root=root / file.path,
                    provenance=root / PROVENANCE,
                )
            _link_or_copy(root / file.path, out / file.path)
        return _record(data, out, {"page": str(source), "revision": ""}, [file.path for file in wanted], "")


def _link_or_copy(source: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.part")
    try:
        if target.exists() and os.path.samefile(source, target):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:  # another disk, or one without hard links
            shutil.copyfile(source, temporary)
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise disk_full(target, error) from error


def _record(
    data: DataSet, out: Path, where: dict[str, str], paths: Sequence[str], tag: str
) -> dict[str, Any]:
    """Write `.hanlin.json`; entries of earlier fetches into the same directory stay."""
    earlier = read_json(out / PROVENANCE) if (out / PROVENANCE).is_file() else {}
    files = dict(earlier.get("files", {})) if earlier.get("name") == data.name else {}
    files |= {
        path: {"bytes": (out / path).stat().st_size, "sha256": sha256_file(out / path)} for path in paths
    }
    record = {
        "name": data.name,
        **where,
        "licence": data.licence,
        "licence_tag": tag,
        "commercial": data.commercial,
        "fetched": time.time(),
        "files": dict(sorted(files.items())),
    }
    write_json(out / PROVENANCE, record)
    return record


def _visible(text: str) -> str:
    """A stranger's text with control, direction and other invisible characters as escapes: it can neither
    move the cursor nor forge a line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def size_text(size: float) -> str:
    """Bytes for people: `1.4 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
