"""`hanlin judge`: a model behind an OpenAI-compatible URL judges an arena's battles, each in both orders.

Every reply is written to a journal under the hash of its request before it is used, so an interrupted run
goes on without asking, or paying, twice, and verdicts can be computed again without any call.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import hmac
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from hanlin.arena.analysis import share_of
from hanlin.arena.judge_client import (
    MAX_TOKENS,
    Failed,
    Journal,
    Judge,
    request_hash,
    request_reply,
    tokens_of,
)
from hanlin.arena.rubric import AGAIN, HARMLESS, ORDER, RUBRIC, Choice, question, read_choice
from hanlin.arena.rules import read_arena, read_secret
from hanlin.arena.schedule import Matchup
from hanlin.arena.store import Outcome, Store
from hanlin.common.errors import HanlinError
from hanlin.common.locks import directory_lock
from hanlin.common.messages import Text, tr
from hanlin.common.progress import Progress

REPLY_TOKENS = 40  # that a reply takes, for the estimate
PROBED = 10  # battles in which an order is put into the losing answer, and harmless words in its place
REPEATED = 0.05  # of the battles are asked a second time in the same order
IN_A_ROW = 8  # requests that fail one after another end the run


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


def _file_name(judge: Judge) -> str:
    """A directory's name for a judge: readable, and different for different judges."""
    plain = re.sub(r"[^0-9A-Za-z._-]+", "-", judge.model).strip("-.")[:40] or "judge"
    return f"{plain}-{hashlib.sha256(f'{judge.url} {judge.model}'.encode()).hexdigest()[:8]}"


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
            reply, tokens = request_reply(judge, messages)
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
