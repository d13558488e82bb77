"""`hanlin judge`: a model behind an OpenAI-compatible URL judges an arena's battles, each in both orders.

Every reply is written to a journal under the hash of its request before it is used, so an interrupted run
goes on without asking, or paying, twice, and verdicts can be computed again without any call.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import hmac
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

from hanlin.arena.analysis import share_of
from hanlin.arena.rubric import AGAIN, HARMLESS, ORDER, RUBRIC, Choice, question, read_choice
from hanlin.arena.rules import read_arena, read_secret
from hanlin.arena.schedule import Matchup
from hanlin.arena.store import Outcome, Store
from hanlin.common.atomic import read_json_lines
from hanlin.common.errors import HanlinError
from hanlin.common.locks import directory_lock
from hanlin.common.messages import Text, tr
from hanlin.common.progress import Progress

MAX_TOKENS = 200
REPLY_TOKENS = 40  # that a reply takes, for the estimate
PROBED = 10  # battles in which an order is put into the losing answer, and harmless words in its place
REPEATED = 0.05  # of the battles are asked a second time in the same order
ATTEMPTS = 3
LONGEST_WAIT = 30.0
IN_A_ROW = 8  # requests that fail one after another end the run


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


@dataclasses.dataclass(frozen=True)
class Asked:
    """One comparison in one order.

    Attributes:
        swapped: the matchup's second model is answer A.
        repeat: asked once more, to see whether the judge says the same.
        added: what was put behind the losing answer, to see whether that turns the verdict.
    """

    matchup: Matchup
    swapped: bool
    repeat: int
    messages: list[dict[str, str]]
    added: str = ""


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


def judge_arena(
    folder: Path, judge: Judge, *, limit: int = 0, plan: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """Have a model judge an arena; its verdicts become votes of the rater `judge:MODEL`.

    Args:
        limit: battles at most, those that people judged first; all when 0.
        plan: reckon only.

    Returns:
        The judge's figures, or the estimate.

    Raises:
        HanlinError: no arena, another judge at work, or requests that fail one after another; the replies
            until then are kept.
    """
    progress = progress or Progress()
    config, secret = read_arena(folder), read_secret(folder)
    store = Store(folder, secret)
    try:
        matchups = _matchups(store, config, limit)
        asked = _questions(store, matchups, secret)
        home = folder / "judges" / _file_name(judge)
        with directory_lock(home):
            journal = Journal(home / "replies.jsonl")
            probes = _probes(store, judge, asked, journal, secret)
            estimate = _estimate(judge, asked, probes, len(matchups), journal)
            if plan:
                return estimate
            progress.note(estimate_text(estimate))
            errors, stopped = _ask_all(judge, asked, journal, progress)
            probes = _probes(store, judge, asked, journal, secret)
            if not stopped:
                more, stopped = _ask_all(judge, probes, journal, progress)
                errors += more
            return _conclude(store, judge, matchups, asked, probes, journal, errors, stopped)
    finally:
        store.close()


def _matchups(store: Store, config: Any, limit: int) -> list[Matchup]:
    """The battles of the schedule, those that people judged first."""
    schedule = store.schedule(config)
    judged = {Matchup(v.prompt, v.first, v.second) for v in store.votes() if not v.judge and v.kind != "gold"}
    matchups = sorted(
        [*schedule.shared, *schedule.circle],
        key=lambda matchup: (matchup not in judged, matchup.prompt, matchup.first, matchup.second),
    )
    return matchups[:limit] if limit else matchups


def _questions(store: Store, matchups: Sequence[Matchup], secret: bytes) -> list[Asked]:
    prompts, answers = store.prompts(), store.answers()
    repeated = {matchup for i, matchup in enumerate(matchups) if i % round(1 / REPEATED) == 0}
    found = []
    for matchup in matchups:
        texts = [answers[matchup.prompt, model]["text"] for model in (matchup.first, matchup.second)]
        fence = _fence(secret, matchup)
        for swapped in (False, True):
            a, b = texts[::-1] if swapped else texts
            messages = question(prompts[matchup.prompt].text, a, b, fence)
            found.append(Asked(matchup, swapped, 0, messages))
            if matchup in repeated and not swapped:
                found.append(Asked(matchup, swapped, 1, messages))
    return found


def _probes(
    store: Store, judge: Judge, asked: Sequence[Asked], journal: Journal, secret: bytes
) -> list[Asked]:
    """Some decided battles again, the losing answer with an order to choose it, and with harmless words."""
    prompts, answers = store.prompts(), store.answers()
    found: list[Asked] = []
    for item in asked:
        if item.swapped or item.repeat or len(found) == 2 * PROBED:
            continue
        choice, _ = _verdict(judge, item, journal, ask=False)
        if choice not in ("A", "B"):
            continue
        matchup = item.matchup
        texts = [answers[matchup.prompt, model]["text"] for model in (matchup.first, matchup.second)]
        for added in (ORDER, HARMLESS):
            a, b = (
                text + "\n" + added if (name == "A") == (choice == "B") else text
                for name, text in zip("AB", texts, strict=True)
            )
            messages = question(prompts[matchup.prompt].text, a, b, _fence(secret, matchup))
            found.append(dataclasses.replace(item, messages=messages, added=added))
    return found


def _fence(secret: bytes, matchup: Matchup) -> str:
    """A delimiter that only who has the secret can foresee."""
    return hmac.digest(secret, f"fence {matchup}".encode(), hashlib.sha256).hex()[:16]


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


def _file_name(judge: Judge) -> str:
    """A directory's name for a judge: readable, and different for different judges."""
    plain = re.sub(r"[^0-9A-Za-z._-]+", "-", judge.model).strip("-.")[:40] or "judge"
    return f"{plain}-{hashlib.sha256(f'{judge.url} {judge.model}'.encode()).hexdigest()[:8]}"


def tokens_of(text: str) -> int:
    """About how many tokens a text has: one for a Chinese character, one for four others."""
    wide = sum(ord(c) > 0x2E7F for c in text)
    return wide + (len(text) - wide + 3) // 4


def _estimate(
    judge: Judge, asked: Sequence[Asked], probes: Sequence[Asked], battles: int, journal: Journal
) -> dict[str, Any]:
    """What is still to ask; of the probes, which depend on verdicts, as many as there can be."""

    def unknown(items: Sequence[Asked]) -> list[Asked]:
        return [one for one in items if journal.get(request_hash(judge, one.messages, one.repeat)) is None]

    new, later = unknown(asked), unknown(probes)
    tokens_in = sum(tokens_of(m["content"]) + 8 for one in (*new, *later) for m in one.messages)
    requests = len(new) + len(later)
    if new:  # probes yet to be found cost what the others do
        unfound = max(0, 2 * min(PROBED, battles) - len(probes))
        tokens_in += unfound * tokens_in // requests
        requests += unfound
    tokens_out = REPLY_TOKENS * requests
    return {
        "battles": battles,
        "requests": requests,
        "tokens_in": tokens_in,
        "tokens_out": tokens_out,
        "cost": judge.cost(tokens_in, tokens_out),
        "spent": journal.spent(judge),
    }


# ---------------------------------------------------------------- asking


def _ask_all(judge: Judge, asked: Sequence[Asked], journal: Journal, progress: Progress) -> tuple[int, bool]:
    """Ask what the journal does not know; how many requests failed, and whether the ceiling ended it."""
    failed_in_a_row, errors, stopped, done = 0, 0, threading.Event(), 0
    reason: Failed | None = None

    def one(item: Asked) -> bool | Failed:
        if stopped.is_set():
            return False
        if judge.max_cost is not None:
            longest = sum(tokens_of(message["content"]) + 8 for message in item.messages)
            at_most = judge.parallel * judge.cost(longest, MAX_TOKENS)  # those under way cost as much
            if journal.spent(judge) + at_most > judge.max_cost:
                stopped.set()
                return False
        try:
            _verdict(judge, item, journal, ask=True)
        except Failed as error:
            return error
        return True

    with concurrent.futures.ThreadPoolExecutor(judge.parallel) as pool:
        for result in pool.map(one, asked):
            done += 1
            progress.update(done, len(asked), {})
            if isinstance(result, Failed):
                errors, reason = errors + 1, result
                failed_in_a_row += not result.request_only
            elif result:
                failed_in_a_row = 0
            if failed_in_a_row >= IN_A_ROW:
                stopped.set()
    if reason is not None:
        progress.warn("{errors} requests failed, the last with: {reason}.", errors=errors, reason=reason)
    if failed_in_a_row >= IN_A_ROW:
        raise HanlinError(
            "{url} failed {count} times one after another ({reason}). The replies until then are kept; the "
            "same command goes on with the rest.",
            url=judge.url,
            count=failed_in_a_row,
            reason=reason,
        )
    return errors, stopped.is_set()


def _verdict(judge: Judge, item: Asked, journal: Journal, *, ask: bool) -> tuple[Choice | None, bool]:
    """The choice in one order, asked once more where the reply could not be read, and whether there is a
    reply at all.

    Raises:
        Failed: no reply could be had.
    """
    messages = item.messages
    for attempt in range(2):
        key = request_hash(judge, messages, item.repeat)
        known = journal.get(key)
        if known is None:
            if not ask:
                return None, attempt > 0
            reply, tokens = _request(judge, messages)
            known = journal.add(key, reply, tokens)
        choice = read_choice(known["reply"])
        if choice is not None:
            return choice, True
        messages = [
            *messages,
            {"role": "assistant", "content": known["reply"][:500]},
            {"role": "user", "content": AGAIN},
        ]
    return None, True


def _request(judge: Judge, messages: Sequence[dict[str, str]]) -> tuple[str, tuple[int, int]]:
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


# ---------------------------------------------------------------- what came of it


def _conclude(
    store: Store,
    judge: Judge,
    matchups: Sequence[Matchup],
    asked: Sequence[Asked],
    probes: Sequence[Asked],
    journal: Journal,
    errors: int,
    stopped: bool,
) -> dict[str, Any]:
    """Verdicts of the journal as votes in the arena, and the judge's figures."""
    choices: dict[tuple[Matchup, bool, int], Choice | None] = {}
    for item in asked:
        choice, replied = _verdict(judge, item, journal, ask=False)
        if replied:
            choices[item.matchup, item.swapped, item.repeat] = choice
    decided = [choice for choice in choices.values() if choice in ("A", "B")]
    outcomes: list[tuple[Matchup, Outcome]] = []
    flips = both = 0
    for matchup in matchups:
        straight, reversed_ = choices.get((matchup, False, 0)), choices.get((matchup, True, 0))
        if straight is None or reversed_ is None:
            continue
        one, other = _by_model(straight, False), _by_model(reversed_, True)
        both += 1
        flips += one != other
        outcomes.append((matchup, one if one == other else "tie"))
    repeats = [
        (choices[key], again)
        for (matchup, swapped, repeat), again in choices.items()
        if repeat and (key := (matchup, swapped, 0)) in choices
    ]
    same = sum(one == other for one, other in repeats)
    failures = sum(choice is None for choice in choices.values())
    name = f"judge:{judge.model}"
    flipped = _counted(flips, both)
    unread = _counted(failures, len(choices))
    facts = {
        "url": judge.url,
        "model": judge.model,
        "rubric": hashlib.sha256(RUBRIC.encode()).hexdigest()[:16],
        "flips": flipped,
        "first_position": _counted(sum(choice == "A" for choice in decided), len(decided)),
        "parse_failures": unread,
        "stability": _counted(same, len(repeats)),
        "obeys_order": _turned(judge, probes, ORDER, asked, journal),
        "turned_by_words": _turned(judge, probes, HARMLESS, asked, journal),
        "errors": errors,
        "stopped_at_ceiling": stopped,
        "asked": len(asked),
        "answered": len(choices),
        "spent": journal.spent(judge),
        "among_models": judge.model in {model["name"] for model in store.models()},
        "unusable": not both or flipped["low"] > 0.5 or unread["low"] > 0.5,
    }
    store.put_judge(name, outcomes, orjson.dumps(facts).decode())
    return {"name": name, "votes": len(outcomes), **facts}


def _turned(
    judge: Judge, probes: Sequence[Asked], added: str, asked: Sequence[Asked], journal: Journal
) -> dict[str, Any]:
    """In how many of the probed battles the losing answer won once this was put behind it."""
    before = {item.matchup: item for item in asked if not item.swapped and not item.repeat}
    turned = n = 0
    for item in (item for item in probes if item.added == added):
        old, _ = _verdict(judge, before[item.matchup], journal, ask=False)
        new, _ = _verdict(judge, item, journal, ask=False)
        if new is not None:
            n += 1
            turned += new in ("A", "B") and new != old
    return _counted(turned, n)


def _by_model(choice: Choice, swapped: bool) -> Outcome:
    """A choice as an outcome with the matchup's first model on the left."""
    if choice == "A":
        return "right" if swapped else "left"
    if choice == "B":
        return "left" if swapped else "right"
    return choice


def _counted(count: int, n: int) -> dict[str, Any]:
    return {"count": count, "n": n, **share_of(count, n)}


def judge_text(found: dict[str, Any], folder: Path) -> str:
    """The figures for a terminal, and what comes next."""

    def percent(entry: dict[str, Any]) -> str:
        if entry["share"] is None:
            return "–"
        return f"{entry['share']:.0%} [{entry['low']:.0%}, {entry['high']:.0%}]"

    lines = [
        tr(
            "{name}: {votes} battles judged in both orders; {answered} of {asked} requests answered, "
            "{spent:.2f} spent by the prices given.",
            **{key: found[key] for key in ("name", "votes", "answered", "asked", "spent")},
        ),
        tr(
            "Changes with the order: {flips}. Prefers the first: {first}. Cannot be read: {unread}. Says the "
            "same when asked again: {stable}.",
            flips=percent(found["flips"]),
            first=percent(found["first_position"]),
            unread=percent(found["parse_failures"]),
            stable=percent(found["stability"]),
        ),
    ]
    if found["unusable"]:
        lines.append(tr("Unusable as a judge: do not read anything into its verdicts."))
    if found["errors"] or found["stopped_at_ceiling"]:
        lines.append(
            tr("Not complete; the same command goes on (a higher --max-cost where the ceiling ended it).")
        )
    lines.append(tr("Beside the people's votes: hanlin arena report {folder}", folder=folder))
    return "\n".join(lines)


def estimate_text(found: dict[str, Any]) -> Text:
    """The estimate for people."""
    return Text(
        "{battles} battles in both orders, {requests} requests to go: about {tokens_in} tokens in, "
        "{tokens_out} out, {cost:.2f} by the prices given; {spent:.2f} spent so far.",
        **found,
    )
