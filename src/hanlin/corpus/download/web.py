"""Downloads from a stranger: HTTP GET with nothing but the standard library, resumed, bounded and checked.

Redirects to other schemes and bodies longer than announced are refused, and a token goes to no host but its
own. Nothing here knows a hub's interface; `hub.py` does.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hanlin.common.atomic import disk_full, fsync_path
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import sha256_file
from hanlin.common.messages import tr

BLOCK = 1 << 20
_ATTEMPTS = 6  # in a row without progress: 1 + 2 + 4 + 8 + 16 s of waiting
_JSON_ATTEMPTS = 3
_TIMEOUT = 30.0  # seconds
_PROGRESS = 1 << 16  # bytes that make an attempt a success
_JSON_LIMIT = 64 << 20
_PASSING = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repository.

    Attributes:
        path: relative, with `/`.
        size: bytes.
        sha256: hex, "" when the hub gives none.
        blob: git's SHA-1 of the content, "" when unknown; what Hugging Face gives for small files.
    """

    path: str
    size: int
    sha256: str = ""
    blob: str = ""


class Unreachable(HanlinError):
    """A server that cannot be reached, or does not answer as one should: another one may."""


class _Dropped(Exception):
    """The connection failed, not the disk; `__cause__` says how."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirects stay on HTTP(S), never fall from HTTPS, and take no token to another host."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if new.scheme != "https" and not (old.scheme == new.scheme == "http"):
            raise urllib.error.HTTPError(newurl, code, msg, headers, fp)
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and (new.scheme, new.netloc) == (old.scheme, old.netloc):
            for name, value in req.unredirected_hdrs.items():
                request.add_unredirected_header(name, value)
        return request


class Web:
    """One server.

    Args:
        endpoint: its address, http(s) only.
        credentials: headers that go to this server alone.
        wait: called with seconds between attempts.

    Raises:
        HanlinError: `endpoint` is no address.
    """

    def __init__(
        self, endpoint: str, credentials: Mapping[str, str], wait: Callable[[float], None] = time.sleep
    ):
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise HanlinError(
                "{endpoint!r} is no address; it should look like https://hf-mirror.com. Check HF_ENDPOINT.",
                endpoint=endpoint,
            )
        self.host = parts.netloc.rpartition("@")[2]
        self._credentials, self._wait = credentials, wait
        self._page = self._token_variable = ""
        self.attempts, self.timeout = _JSON_ATTEMPTS, _TIMEOUT  # of one request for JSON
        # and not build_opener: no file:, ftp: or data: address can be opened
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(),
            _Redirects(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
        ):
            self._opener.add_handler(handler)

    def terms(self, page: str, token_variable: str) -> None:
        """Where a person accepts the terms and which environment variable holds the token, for the message
        about a refusal."""
        self._page, self._token_variable = page, token_variable

    def json(self, url: str, what: str) -> tuple[Any, str]:
        """The JSON at `url`, and the query of the page that follows it ("" for none).

        Raises:
            HanlinError: whatever went wrong, in words.
        """
        for failures in range(1, _ATTEMPTS + 1):
            try:
                with self._open(url) as answer:
                    data = answer.read(_JSON_LIMIT)
                    if len(data) < int(answer.headers.get("Content-Length") or 0):
                        raise http.client.IncompleteRead(b"")
                    link = re.search(r'<([^>]*)>\s*;\s*rel="?next"?', answer.headers.get("Link", ""))
                # of the next page only the query: a mirror hands out its original's address
                return json.loads(data), urlsplit(link[1]).query if link else ""
            except (ValueError, RecursionError) as error:
                raise Unreachable(
                    "{host} did not answer with JSON ({url}): perhaps it is no hub, or a login page stands "
                    "before it. Check the network and HF_ENDPOINT, or try another --from.",
                    host=self.host,
                    url=url,
                ) from error
            except (OSError, http.client.HTTPException) as error:
                self._pause(error, failures, what, most=self.attempts)
        raise AssertionError("unreachable: the last _pause raises")

    def download(
        self, url: str, file: RemoteFile, target: Path, progress: Callable[[int], None] = lambda have: None
    ) -> None:
        """Download one file to `target`, going on from an earlier part, and check it before it gets its name.

        Args:
            progress: called with the bytes that are there.

        Raises:
            HanlinError: whatever went wrong, in words; what has been received stays for the next time unless
                it is wrong.
        """
        part = part_of(target, file)
        for last in (False, True):
            self._receive(url, file, part, progress)
            problem = difference(part, file)
            if problem is None:
                break
            part.unlink()  # perhaps only the part from last time was bad: once more from the beginning
            if last:
                raise HanlinError(
                    "{file} came whole but with another checksum ({problem}): it was altered at {host} or "
                    "on the way, and has been removed. Try again later, or with another --from.",
                    file=file.path,
                    problem=problem,
                    host=self.host,
                )
        fsync_path(part)
        os.replace(part, target)

    def _receive(self, url: str, file: RemoteFile, part: Path, progress: Callable[[int], None]) -> None:
        failures = 0
        while True:
            have = part.stat().st_size if part.exists() else 0
            if have > file.size:
                part.unlink()
                have = 0
            if have == file.size and have:
                progress(have)
                return
            try:
                body = self._body(url, file, have)
                with _writing(part):
                    offset = next(body)
                    with open(part, "r+b" if part.exists() else "w+b") as out:
                        out.truncate(offset)
                        out.seek(offset)
                        reached = offset
                        for block in body:
                            out.write(block)
                            reached += len(block)
                            progress(reached)
                return
            except _Dropped as dropped:
                now = part.stat().st_size if part.exists() else 0
                failures = 0 if now - have >= _PROGRESS else failures + 1
                self._pause(dropped.__cause__ or dropped, max(1, failures), file.path)

    def _body(self, url: str, file: RemoteFile, have: int) -> Iterator[Any]:
        """First the offset at which the server begins, then the bytes, exactly as many as were announced."""
        headers = {"Range": f"bytes={have}-"} if have else {}
        try:
            with self._open(url, headers) as answer:
                offset = 0
                if answer.status == 206:
                    match = re.fullmatch(
                        r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", "").strip()
                    )
                    offset = int(match[1]) if match else -1
                    if offset != have or (match and match[2] not in ("*", str(file.size))):
                        raise self._lies(file, answer.headers.get("Content-Range", "–"))
                length = answer.headers.get("Content-Length")
                if length is not None and length.strip() != str(file.size - offset):
                    raise self._lies(file, length)
                yield offset
                while True:
                    block = answer.read(BLOCK)
                    offset += len(block)
                    if offset > file.size:
                        raise self._lies(file, f"> {file.size:,}")
                    if not block:
                        break
                    yield block
                if offset < file.size:
                    raise http.client.IncompleteRead(b"", file.size - offset)
        except urllib.error.HTTPError as error:
            if error.code == 416 and have:  # the server's file ends before our part does: begin anew
                yield 0
            raise _Dropped from error
        except (OSError, http.client.HTTPException) as error:
            raise _Dropped from error

    def _lies(self, file: RemoteFile, said: str) -> HanlinError:
        return HanlinError(
            "{host} lists {file} with {size:,} bytes but sends {said}: refused. It may have just been "
            "changed; try again later, or with another --from.",
            host=self.host,
            file=file.path,
            size=file.size,
            said=said,
        )

    def _open(self, url: str, headers: dict[str, str] | None = None):
        request = urllib.request.Request(
            url, headers={"User-Agent": "hanlin", "Accept-Encoding": "identity", **(headers or {})}
        )
        for name, value in self._credentials.items():
            request.add_unredirected_header(name, value)
        return self._opener.open(request, timeout=self.timeout)

    def _pause(self, error: BaseException, failures: int, what: str, most: int = _ATTEMPTS) -> None:
        """Wait before another attempt, or raise what the user should know."""
        code = error.code if isinstance(error, urllib.error.HTTPError) else 0
        reason = error.reason if isinstance(error, urllib.error.URLError) and not code else error
        hopeless = (code and code not in (*_PASSING, 416)) or isinstance(reason, ssl.SSLCertVerificationError)
        if hopeless or failures >= most:
            raise self._explained(code, reason, what) from error
        asked = (
            error.headers.get("Retry-After", "")
            if isinstance(error, urllib.error.HTTPError) and error.headers
            else ""
        )
        self._wait(min(60, int(asked)) if asked.isdigit() else 2.0 ** (failures - 1))

    def _explained(self, code: int, reason: Any, what: str) -> HanlinError:
        page, host = self._page, self.host
        if code in (401, 403):
            return HanlinError(
                "{host} does not let you have {what} (HTTP {code}). Log in at {page}, accept the terms "
                "there, set {token_variable} to your access token, and run again.",
                host=host,
                what=what,
                code=code,
                page=page,
                token_variable=self._token_variable,
            )
        if code == 404:
            return HanlinError(
                "{host} has no {what} (HTTP 404). It may have been renamed, removed or made private: see "
                "{page}, or try another --from.",
                host=host,
                what=what,
                page=page,
            )
        if 300 <= code < 400:
            return HanlinError(
                "{host} redirects {what} to an address that is not safe: refused. Try another --from.",
                host=host,
                what=what,
            )
        if code:
            return Unreachable(
                "{host} cannot serve {what} now (HTTP {code}). What was received is kept; run the same "
                "command later, or with another --from.",
                host=host,
                what=what,
                code=code,
            )
        if isinstance(reason, ssl.SSLCertVerificationError):
            return Unreachable(
                "The certificate of {host} cannot be trusted ({verify_message}). Check the clock and the "
                "proxy; nothing is downloaded without it.",
                host=host,
                verify_message=reason.verify_message,
            )
        if isinstance(reason, socket.gaierror):
            return Unreachable(
                "Host {host} cannot be found: there is no network, or no name service. Check the network "
                "and the proxy (HTTPS_PROXY); without huggingface.co try --from hf-mirror or modelscope, "
                "and --from file for files you have.",
                host=host,
            )
        return Unreachable(
            "{host} cannot be reached, or keeps dropping the connection ({reason}). What was received is "
            "kept; check the network and the proxy (HTTPS_PROXY) and run the same command, or try another "
            "--from.",
            host=host,
            reason=reason,
        )


def part_of(target: Path, file: RemoteFile) -> Path:
    """Where `target` grows: named after its content where that is known, so that parts of two versions never
    mix."""
    version = (file.sha256 or file.blob)[:12]
    return target.with_name(f".{target.name}.{version}.part" if version else f".{target.name}.part")


def difference(path: Path, file: RemoteFile) -> str | None:
    """How a local file differs from what the hub lists, or None; the checksum is compared when the hub gave
    one."""
    size = path.stat().st_size
    if size != file.size:
        return tr("{size:,} bytes, should be {size2:,}", size=size, size2=file.size)
    if file.sha256:
        return _differs(sha256_file(path), file.sha256)
    if file.blob:
        digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        with open(path, "rb") as source:
            while block := source.read(BLOCK):
                digest.update(block)
        return _differs(digest.hexdigest(), file.blob)
    return None


def _differs(have: str, want: str) -> str | None:
    return None if have == want else tr("{have}…, should be {want}…", have=have[:16], want=want[:16])


@contextlib.contextmanager
def _writing(part: Path) -> Iterator[None]:
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:  # of the disk: those of the connection are `_Dropped` by now
        raise disk_full(part, error) from error
