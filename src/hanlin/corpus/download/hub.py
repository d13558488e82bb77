"""The two hubs of data sets and their mirrors, and GitHub: what is in a repository, and where its files are.

The requests are those of the hubs' own clients (huggingface_hub 2.4, modelscope-hub 0.5) and of GitHub's REST
API. `web.py` does the downloading.
"""

from __future__ import annotations

import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from hanlin.common.errors import HanlinError
from hanlin.common.messages import prefers_chinese
from hanlin.corpus.download.web import RemoteFile, Web

_MOST_PAGES = 1000  # of a listing; hubs put up to a thousand files on one
_MOST_FILES = 200_000
HUGGING_FACE, HF_MIRROR, MODELSCOPE = (
    "https://huggingface.co",
    "https://hf-mirror.com",
    "https://www.modelscope.cn",
)
GITHUB_API, GITHUB_FILES = "https://api.github.com", "https://raw.githubusercontent.com"


@dataclass(frozen=True)
class Repository:
    """What a hub says of a data set before its files: a fixed commit, its licence tag and whether terms must
    be accepted there."""

    commit: str
    licence: str = ""
    gated: bool = False


class Hub(ABC):
    """One data set on one hub.

    Args:
        dataset: `owner/name` there.
        endpoint: the hub's address, or a mirror's.
        token: sent to this host alone; "" for none.
        wait: called with seconds between attempts.
    """

    token_variable: str
    revision: str  # when none is asked for

    def __init__(
        self, dataset: str, endpoint: str, token: str = "", wait: Callable[[float], None] = time.sleep
    ):
        self.dataset, self.endpoint, token = dataset, endpoint.rstrip("/"), token.strip()
        self.page = f"{self.endpoint}/datasets/{quote(dataset)}"
        self.web = Web(self.endpoint, self._credentials(token) if token else {}, wait)
        self.web.terms(self.page, self.token_variable)
        self.files_web = self.web  # where the files come from

    @abstractmethod
    def repository(self, revision: str) -> Repository:
        """The commit that `revision` (a branch, tag or commit) names, and the stated licence."""

    @abstractmethod
    def files(self, commit: str) -> Iterator[RemoteFile]:
        """All files of a commit."""

    @abstractmethod
    def address(self, commit: str, path: str) -> str:
        """Where a file is downloaded from."""

    def _credentials(self, token: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {token}"}

    def _entries(self, found: Any) -> list[dict[str, Any]]:
        if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
            raise self._odd()
        return found

    def _endless(self) -> HanlinError:
        return HanlinError(
            "{host} lists files of {dataset} without end (more than {most_pages:,} pages or {most_files:,} "
            "files): refused. Try another --from, or download by hand and use --from file.",
            host=self.web.host,
            dataset=self.dataset,
            most_pages=_MOST_PAGES,
            most_files=_MOST_FILES,
        )

    def _odd(self) -> HanlinError:
        return HanlinError(
            "The answer of {host} about {dataset} cannot be understood; its interface may have changed. "
            "Try another --from, or download by hand and use --from file.",
            host=self.web.host,
            dataset=self.dataset,
        )


class HuggingFace(Hub):
    """huggingface.co, or whatever speaks its protocol."""

    token_variable, revision = "HF_TOKEN", "main"

    def repository(self, revision: str) -> Repository:
        found, _ = self.web.json(
            f"{self.endpoint}/api/datasets/{quote(self.dataset)}/revision/{quote(revision, safe='')}",
            self.dataset,
        )
        if not isinstance(found, dict) or not _hex(found.get("sha"), 40):
            raise self._odd()
        tags = found.get("tags")
        licences = (
            [str(tag).partition(":")[2] for tag in tags if str(tag).startswith("license:")]
            if isinstance(tags, list)
            else []
        )
        return Repository(found["sha"], ", ".join(licences), bool(found.get("gated")))

    def files(self, commit: str) -> Iterator[RemoteFile]:
        base, query = (
            f"{self.endpoint}/api/datasets/{quote(self.dataset)}/tree/{quote(commit, safe='')}",
            "recursive=true",
        )
        seen: set[str] = set()
        listed = 0
        while query and query not in seen:
            seen.add(query)
            if len(seen) > _MOST_PAGES or listed > _MOST_FILES:
                raise self._endless()
            found, following = self.web.json(f"{base}?{query}", self.dataset)
            entries = self._entries(found)
            listed += len(entries)
            for entry in entries:
                if entry.get("type") == "file":
                    lfs = entry.get("lfs")
                    sha256 = _hex(lfs.get("oid"), 64) if isinstance(lfs, dict) else ""
                    yield RemoteFile(
                        str(entry.get("path")),
                        _size(entry.get("size")),
                        sha256,
                        "" if lfs else _hex(entry.get("oid"), 40),
                    )
            query = urlencode(parse_qsl(following))

    def address(self, commit: str, path: str) -> str:
        return (
            f"{self.endpoint}/datasets/{quote(self.dataset)}/resolve/{quote(commit, safe='')}/{quote(path)}"
        )


class ModelScope(Hub):
    """modelscope.cn, where a revision is a branch or tag and no commit is named."""

    token_variable, revision = "MODELSCOPE_API_TOKEN", "master"
    _PAGE = 200

    def repository(self, revision: str) -> Repository:
        return Repository(revision)

    def files(self, commit: str) -> Iterator[RemoteFile]:
        seen: set[str] = set()
        entries, page = [{}] * self._PAGE, 0
        while len(entries) >= self._PAGE:
            page += 1
            if page > _MOST_PAGES or len(seen) > _MOST_FILES:
                raise self._endless()
            query = urlencode(
                {"Revision": commit, "Recursive": "True", "PageNumber": page, "PageSize": self._PAGE}
            )
            found, _ = self.web.json(
                f"{self.endpoint}/api/v1/datasets/{quote(self.dataset)}/repo/tree?{query}", self.dataset
            )
            data = found.get("Data") if isinstance(found, dict) else None
            entries = self._entries(data.get("Files") if isinstance(data, dict) else data)
            new = [entry for entry in entries if str(entry.get("Path")) not in seen]
            if not new:  # a server that knows no pages
                return
            for entry in new:
                seen.add(str(entry.get("Path")))
                if entry.get("Type") != "tree":
                    yield RemoteFile(
                        str(entry.get("Path")), _size(entry.get("Size")), _hex(entry.get("Sha256"), 64)
                    )

    def address(self, commit: str, path: str) -> str:
        return (
            f"{self.endpoint}/api/v1/datasets/{quote(self.dataset)}/repo"
            f"?{urlencode({'Revision': commit, 'FilePath': path})}"
        )

    def _credentials(self, token: str) -> dict[str, str]:
        return {**super()._credentials(token), "Cookie": f"m_session_id={token}"}


class GitHub(Hub):
    """A repository on github.com. Its listing and its files come from two servers, and a token goes to the
    first alone.

    Args:
        files: address of the server of files, or of a mirror of it.
    """

    token_variable, revision = "GITHUB_TOKEN", "HEAD"

    def __init__(
        self,
        dataset: str,
        endpoint: str = GITHUB_API,
        token: str = "",
        wait: Callable[[float], None] = time.sleep,
        *,
        files: str = GITHUB_FILES,
    ):
        super().__init__(dataset, endpoint, token, wait)
        self.page = f"https://github.com/{quote(dataset)}"
        self.web.terms(self.page, self.token_variable)
        self._files = files.rstrip("/")
        self.files_web = Web(self._files, {}, wait)
        self.files_web.terms(self.page, self.token_variable)

    def repository(self, revision: str) -> Repository:
        about, _ = self.web.json(f"{self.endpoint}/repos/{quote(self.dataset)}", self.dataset)
        found, _ = self.web.json(
            f"{self.endpoint}/repos/{quote(self.dataset)}/commits/{quote(revision, safe='')}", self.dataset
        )
        if not isinstance(found, dict) or not _hex(found.get("sha"), 40):
            raise self._odd()
        licence = about.get("license") if isinstance(about, dict) else None
        spdx = str(licence.get("spdx_id") or "") if isinstance(licence, dict) else ""
        return Repository(found["sha"], "" if spdx == "NOASSERTION" else spdx)

    def files(self, commit: str) -> Iterator[RemoteFile]:
        found, _ = self.web.json(
            f"{self.endpoint}/repos/{quote(self.dataset)}/git/trees/{quote(commit, safe='')}?recursive=1",
            self.dataset,
        )
        if not isinstance(found, dict):
            raise self._odd()
        entries = self._entries(found.get("tree"))
        if found.get("truncated") or len(entries) > _MOST_FILES:
            raise HanlinError(
                "{host} lists only a part of {dataset}: it has too many files. Download by hand from {page} "
                "and use --from file.",
                host=self.web.host,
                dataset=self.dataset,
                page=self.page,
            )
        for entry in entries:
            if entry.get("type") == "blob":
                yield RemoteFile(
                    str(entry.get("path")), _size(entry.get("size")), "", _hex(entry.get("sha"), 40)
                )

    def address(self, commit: str, path: str) -> str:
        return f"{self._files}/{quote(self.dataset)}/{quote(commit, safe='')}/{quote(path)}"


def open_hub(
    source: str,
    huggingface: str,
    modelscope: str,
    wait: Callable[[float], None] = time.sleep,
    *,
    github: str = "",
) -> Hub:
    """The hub called `hf`, `hf-mirror`, `modelscope` or `github`, with addresses and tokens from the
    environment.

    `HF_ENDPOINT` replaces huggingface.co for `hf`. `HF_TOKEN` goes to that address, and to a mirror only if
    `HF_ENDPOINT` names it.

    Raises:
        HanlinError: the data set is not known to be there, or an unknown hub.
    """
    ids = {"hf": huggingface, "hf-mirror": huggingface, "modelscope": modelscope, "github": github}
    if source not in ids:
        raise HanlinError(
            "--from is hf, hf-mirror, modelscope, github or file, and not {source!r}.", source=source
        )
    dataset = ids[source]
    if not dataset:
        other = next(name for name, there in ids.items() if there)
        raise HanlinError(
            "This data set is not known to be on {source}; use --from {other}.", source=source, other=other
        )
    if source == "modelscope":
        return ModelScope(
            dataset,
            os.environ.get("MODELSCOPE_ENDPOINT") or MODELSCOPE,
            os.environ.get("MODELSCOPE_API_TOKEN", ""),
            wait,
        )
    if source == "github":
        return GitHub(
            dataset,
            os.environ.get("GITHUB_API_URL") or GITHUB_API,
            os.environ.get("GITHUB_TOKEN", ""),
            wait,
            files=os.environ.get("GITHUB_RAW_URL") or GITHUB_FILES,
        )
    endpoint, token = os.environ.get("HF_ENDPOINT") or HUGGING_FACE, os.environ.get("HF_TOKEN", "")
    if source == "hf" or endpoint.rstrip("/") == HF_MIRROR:
        return HuggingFace(dataset, endpoint, token, wait)
    mirror = HuggingFace(dataset, HF_MIRROR, wait=wait)
    mirror.web.terms(f"{HUGGING_FACE}/datasets/{quote(dataset)}", f"HF_ENDPOINT={HF_MIRROR} HF_TOKEN")
    return mirror


def sources(huggingface: str, modelscope: str, github: str = "") -> list[str]:
    """The hubs that have a data set, in the order in which they are best tried: first those that are quick
    in China where the reader is Chinese.

    A `HF_ENDPOINT` of the reader's own comes first; GitHub, whose files are slow in China, last.
    """
    own = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    order = ["hf", "hf-mirror", "modelscope"]
    if own and own != HUGGING_FACE:
        order = ["hf", "modelscope"] if own == HF_MIRROR else order
    elif prefers_chinese():
        order = ["modelscope", "hf-mirror", "hf"]
    there = [name for name in order if (modelscope if name == "modelscope" else huggingface)]
    return [*there, *(["github"] if github else [])]


def safe_path(path: str) -> bool:
    """Whether a hub's name for a file stays below the directory it is put in, and can be one there, on any
    system."""
    parts = path.split("/")
    if re.search(r"[\\:\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", path):
        return False
    # 255 bytes are what file systems allow; a part on the way has 20 more in its name
    return all(part.strip(". ") and len(part.encode()) <= 230 for part in parts) and len(path.encode()) < 1000


def _hex(value: Any, digits: int) -> str:
    """A checksum as the hub gives it, "" for anything else: it becomes part of a file's name."""
    return str(value).lower() if re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", str(value)) else ""


def _size(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0
