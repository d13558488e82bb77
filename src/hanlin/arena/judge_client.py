"""Asking a model behind an OpenAI-compatible URL, and the journal of its replies."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from hanlin.common.atomic import read_json_lines
from hanlin.common.errors import HanlinError

MAX_TOKENS = 200
ATTEMPTS = 3
LONGEST_WAIT = 30.0


@dataclasses.dataclass(frozen=True)
class Judge:
    """Who judges, and what it may cost.

    Attributes:
        url: up to and with /v1.
        key: sent as a bearer token, None for none.
        price_in, price_out: of a million tokens, in any currency.
        max_cost: no request is begun that could take the sum beyond this; None for no ceiling.
        timeout: seconds for one request.
        parallel: requests at a time.
    """

    url: str
    model: str
    key: str | None = None
    seed: int = 1
    price_in: float = 0.0
    price_out: float = 0.0
    max_cost: float | None = None
    timeout: float = 60.0
    parallel: int = 4

    def __post_init__(self):
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise HanlinError(
                "--url {url} is no address of an API; it looks like http://127.0.0.1:8000/v1.", url=self.url
            )
        if self.max_cost is not None and not (self.price_in or self.price_out):
            raise HanlinError("--max-cost needs --price-in and --price-out (of a million tokens).")
        if self.parallel < 1 or self.timeout <= 0:
            raise HanlinError("--parallel must be at least 1 and --timeout above 0.")

    def cost(self, tokens_in: float, tokens_out: float) -> float:
        """The price of so many tokens."""
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6


class Failed(Exception):
    """A request without a reply, however often it was tried.

    Attributes:
        request_only: the server refused this request, being too long for its context for example; others may
            fare better.
    """

    def __init__(self, said: str, request_only: bool = False):
        super().__init__(said)
        self.request_only = request_only


class Journal:
    """Replies by the hashes of their requests, one JSON object a line."""

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()
        self._known = {line["hash"]: line for line in read_json_lines(path) if "hash" in line}
        if path.is_file() and (content := path.read_bytes()) and not content.endswith(b"\n"):
            with open(path, "ab") as file:  # a kill cut the last line short
                file.write(b"\n")

    def get(self, key: str) -> dict[str, Any] | None:
        """What was replied to this request."""
        return self._known.get(key)

    def add(self, key: str, reply: str, tokens: tuple[int, int]) -> dict[str, Any]:
        """Keep a reply; it is on the disk when this returns."""
        line = {"hash": key, "reply": reply, "tokens_in": tokens[0], "tokens_out": tokens[1]}
        with self._lock, open(self.path, "ab") as file:
            file.write(orjson.dumps(line) + b"\n")
            file.flush()
            os.fsync(file.fileno())
            self._known[key] = line
        return line

    def spent(self, judge: Judge) -> float:
        """The price of all that was replied."""
        with self._lock:
            return sum(judge.cost(line["tokens_in"], line["tokens_out"]) for line in self._known.values())


def request_hash(judge: Judge, messages: Sequence[dict[str, str]], repeat: int) -> str:
    """What a request is known by: all that decides its reply, and which time it is asked."""
    body = {"url": judge.url, **_body(judge, messages), "repeat": repeat}
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _body(judge: Judge, messages: Sequence[dict[str, str]]) -> dict[str, Any]:
    return {
        "model": judge.model,
        "messages": list(messages),
        "temperature": 0,
        "seed": judge.seed,
        "max_tokens": MAX_TOKENS,
    }


def tokens_of(text: str) -> int:
    """About how many tokens a text has: one for a Chinese character, one for four others."""
    wide = sum(ord(c) > 0x2E7F for c in text)
    return wide + (len(text) - wide + 3) // 4


def request_reply(judge: Judge, messages: Sequence[dict[str, str]]) -> tuple[str, tuple[int, int]]:
    """One reply, and its tokens in and out.

    Raises:
        Failed: refused, or tried several times.
    """
    headers = {"content-type": "application/json", "user-agent": "hanlin"}
    if judge.key:
        headers["authorization"] = f"Bearer {judge.key}"
    data = json.dumps(_body(judge, messages), ensure_ascii=False).encode("utf-8", "replace")
    url = judge.url.rstrip("/") + "/chat/completions"
    said = ""
    for attempt in range(ATTEMPTS):
        wait = min(LONGEST_WAIT, 0.5 * 2**attempt)
        try:
            request = urllib.request.Request(url, data, headers)
            with urllib.request.urlopen(request, timeout=judge.timeout) as answer:  # noqa: S310 - checked
                found = orjson.loads(answer.read(1 << 20))
            reply = found["choices"][0]["message"]["content"] or ""
            usage = found.get("usage") or {}
            tokens_in = usage.get("prompt_tokens") or sum(tokens_of(m["content"]) for m in messages)
            return str(reply), (int(tokens_in), int(usage.get("completion_tokens") or tokens_of(str(reply))))
        except urllib.error.HTTPError as error:
            said = f"HTTP {error.code}{_message(error)}"
            if error.code not in (408, 409, 425, 429) and error.code < 500:
                raise Failed(said, error.code in (400, 413, 422)) from None
            after = error.headers.get("retry-after", "")
            wait = min(LONGEST_WAIT, float(after)) if re.fullmatch(r"\d+(\.\d+)?", after) else wait
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            said = str(getattr(error, "reason", error)) or type(error).__name__
        if attempt + 1 < ATTEMPTS:
            time.sleep(wait)
    raise Failed(said)


def _message(error: urllib.error.HTTPError) -> str:
    """What a refusal says of itself, in short; nothing where it says nothing readable."""
    try:
        said = orjson.loads(error.read(1 << 16))["error"]["message"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return ": " + " ".join(str(said).split())[:200].rstrip(".")
