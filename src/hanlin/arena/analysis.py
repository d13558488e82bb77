"""What an arena's votes say: who is better and how sure one may be, and whether the raters can be trusted. No
torch here.

The result is plain JSON; the page and the terminal draw it.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from hanlin.arena.agreement import alpha_interval, binomial_test, krippendorff_alpha, pairwise_agreement
from hanlin.arena.bradley_terry import (
    ELO,
    Scores,
    Votes,
    ranks,
    score,
    score_with_covariates,
    votes_needed,
    win_matrix,
)
from hanlin.arena.rules import Rules, read_arena
from hanlin.arena.store import Store, Voted
from hanlin.evaluation.intervals import UNKNOWN, wilson

STYLES = ("length", "lists", "headings", "bold")
MOST_DISPUTED = 6
VALIDATED = 50  # battles rated by people that a judge needs to be believed at all
_LIST = re.compile(r"^\s*(?:[-*+]|\d+[.)、])\s+", re.MULTILINE)
_HEADING = re.compile(r"^#{1,6}\s", re.MULTILINE)
_BOLD = re.compile(r"\*\*[^*\n]+\*\*")
_OUTCOME = {"first": 1.0, "second": 0.0, "tie": 0.5, "bad": 0.5}


def analyse(folder: Path) -> dict[str, Any]:
    """The report of an arena.

    Raises:
        HanlinError: no arena, or its file is damaged or locked.
    """
    config = read_arena(folder)
    store = Store(folder)
    try:
        votes = store.votes()
        models = [model["name"] for model in store.models()]
        prompts = store.prompts()
        answers = store.answers()
        planned = store.rows("SELECT COUNT(*) AS n FROM battle WHERE kind <> 'judge'")[0]["n"]
        undone = store.rows("SELECT COUNT(*) AS n FROM event WHERE kind = 'undo'")[0]["n"]
        judges = {row["name"]: orjson.loads(row["value"]) for row in _judge_rows(store)}
        sampling = {model["name"]: orjson.loads(model["sampling"]) for model in store.models()}
        noted = store.meta("rules")
    finally:
        store.close()
    people = [vote for vote in votes if not vote.judge]
    excluded = exclusions(people, config.rules)
    used, funnel = funnel_of(people, excluded)
    ready = _Arena(models, [p.text for p in prompts], [p.category for p in prompts], answers, config.seed)
    ranking = ready.ranking(used)
    return {
        "format": 1,
        "arena": str(folder),
        "models": models,
        "prompts": len(prompts),
        "seed": config.seed,
        "sampling": sampling,
        "answers": ready.answer_facts(),
        "identical": ready.identical(),
        "rules": dataclasses.asdict(config.rules),
        "rules_changed": noted is not None and noted != config.rules.digest(),
        "raters": len({vote.rater for vote in people}),
        "battles_planned": planned,
        "undone": undone,
        "funnel": funnel,
        "excluded": [
            {"rater": f"r{rater}", "reason": reason, **facts} for rater, (reason, facts) in excluded.items()
        ],
        **ranking,
        "needed": needed(ranking, config.rules, len(models)),
        "sides": sides_of(people, excluded, config.rules),
        "ties": _ties(used),
        "agreement": agreement_of(people, excluded),
        "repeats": repeats_of(people, excluded),
        "gold": gold_of(people),
        "categories": ready.categories(used),
        "longer_wins": ready.longer_wins(used),
        "reasons": ready.reasons(used),
        "disputed": ready.disputed(people, excluded),
        "judges": {
            name: ready.judge(name, facts, [v for v in votes if v.judge == name], people, excluded)
            for name, facts in judges.items()
        },
    }


def _judge_rows(store: Store) -> list[dict[str, Any]]:
    return [
        {"name": row["key"], "value": row["value"]}
        for row in store.rows("SELECT * FROM meta WHERE key LIKE 'judge:%'")
    ]


# ---------------------------------------------------------------- which votes count


def exclusions(votes: Sequence[Voted], rules: Rules) -> dict[int, tuple[str, dict[str, Any]]]:
    """Raters whom a rule leaves out: the rule's name and the figures it looked at."""
    found: dict[int, tuple[str, dict[str, Any]]] = {}
    for rater, own in by_rater(votes).items():
        gold = [vote for vote in own if vote.kind == "gold" and vote.outcome != "skip"]
        failed = sum(vote.verdict != "first" for vote in gold)
        left, decided = left_of(own)
        p = binomial_test(left, decided)
        timed = [vote.ms for vote in own if vote.ms is not None and vote.outcome != "skip"]
        fast = sum(ms < 1000 * rules.fast_seconds for ms in timed)
        if rules.gold_failures and failed >= rules.gold_failures:
            found[rater] = ("gold", {"failed": failed, "checks": len(gold)})
        elif decided >= rules.side_votes and p < rules.side_p:
            found[rater] = ("side", {"left": left, "decided": decided, "p": p})
        elif timed and fast / len(timed) > rules.fast_share:
            found[rater] = ("fast", {"fast": fast, "votes": len(timed)})
    return found


def funnel_of(
    votes: Sequence[Voted], excluded: Mapping[int, Any]
) -> tuple[list[Voted], list[dict[str, Any]]]:
    """The votes that the ranking uses, and how many each step took out, in order."""
    left = list(votes)
    steps: list[dict[str, Any]] = [{"step": "settled", "left": len(left)}]

    def without(step: str, out: Iterable[Voted]) -> None:
        nonlocal left
        gone = set(map(id, out))
        left = [vote for vote in left if id(vote) not in gone]
        steps.append({"step": step, "out": len(gone), "left": len(left)})

    without("skipped", [vote for vote in left if vote.outcome == "skip"])
    for reason in ("gold", "side", "fast"):
        raters = {rater for rater, (why, _) in excluded.items() if why == reason}
        without(f"excluded_{reason}", [vote for vote in left if vote.rater in raters])
    without("gold", [vote for vote in left if vote.kind == "gold"])
    without("repeat", [vote for vote in left if vote.kind == "repeat"])
    without("shared", [vote for vote in left if vote.kind == "shared"])
    return left, steps


def by_rater(votes: Iterable[Voted]) -> dict[int, list[Voted]]:
    """Votes by rater."""
    found: dict[int, list[Voted]] = defaultdict(list)
    for vote in votes:
        found[vote.rater].append(vote)
    return dict(found)


# ---------------------------------------------------------------- the raters


def left_of(votes: Iterable[Voted]) -> tuple[int, int]:
    """Votes for the left side, and votes for either; checks are left out, their answer is known."""
    decided = [vote for vote in votes if vote.kind != "gold" and vote.outcome in ("left", "right")]
    return sum(vote.outcome == "left" for vote in decided), len(decided)


def sides_of(votes: Sequence[Voted], excluded: Mapping[int, Any], rules: Rules) -> dict[str, Any]:
    """How often the left side won, before and after the exclusions, and who cannot be explained by chance."""

    def share(chosen: Sequence[Voted]) -> dict[str, Any]:
        left, decided = left_of(chosen)
        return {"n": decided, "left": left, "p": binomial_test(left, decided), **share_of(left, decided)}

    raters = []
    for rater, own in by_rater(votes).items():
        left, decided = left_of(own)
        p = binomial_test(left, decided)
        if decided >= rules.side_votes and p < rules.side_p:
            raters.append({"rater": f"r{rater}", "left": left, "decided": decided, "p": p})
    return {
        "all": share(votes),
        "kept": share([vote for vote in votes if vote.rater not in excluded]),
        "raters": sorted(raters, key=lambda entry: entry["p"]),
    }


def agreement_of(votes: Sequence[Voted], excluded: Mapping[int, Any]) -> dict[str, Any]:
    """Whether raters agree on battles that several of them judged."""
    units = [[vote.verdict for vote in unit] for unit in _units(votes, excluded).values()]
    several = [unit for unit in units if len(unit) > 1]
    decided = [[verdict for verdict in unit if verdict in ("first", "second")] for unit in several]
    alpha = krippendorff_alpha(several)
    agreeing, pairs = pairwise_agreement(decided)
    low, high = alpha_interval(several) if alpha is not None else UNKNOWN
    return {
        "battles": len(several),
        "judgements": sum(map(len, several)),
        "alpha": alpha,
        "alpha_low": _finite(low),
        "alpha_high": _finite(high),
        "pairs": pairs,
        "agreement": agreeing / pairs if pairs else None,
    }


def _units(votes: Sequence[Voted], excluded: Mapping[int, Any]) -> dict[tuple[int, int, int], list[Voted]]:
    """Votes by what was compared: normal and shared battles of raters who count."""
    units: dict[tuple[int, int, int], list[Voted]] = defaultdict(list)
    for vote in votes:
        if vote.rater not in excluded and vote.kind in ("normal", "shared") and vote.outcome != "skip":
            units[vote.prompt, vote.first, vote.second].append(vote)
    return units


def repeats_of(votes: Sequence[Voted], excluded: Mapping[int, Any]) -> dict[str, Any]:
    """How often a rater said the same of a battle shown again with its sides swapped."""
    same = n = 0
    for rater, own in by_rater(votes).items():
        if rater in excluded:
            continue
        first = {(v.prompt, v.first, v.second): v for v in own if v.kind in ("normal", "shared")}
        for vote in own:
            before = first.get((vote.prompt, vote.first, vote.second))
            if vote.kind == "repeat" and before and "skip" not in (vote.outcome, before.outcome):
                n += 1
                same += vote.verdict == before.verdict
    return {"n": n, "same": same, **share_of(same, n)}


def gold_of(votes: Sequence[Voted]) -> dict[str, Any]:
    """Attention checks taken wrong, of all raters."""
    gold = [vote for vote in votes if vote.kind == "gold" and vote.outcome != "skip"]
    failed = [vote for vote in gold if vote.verdict != "first"]
    return {
        "n": len(gold),
        "failed": len(failed),
        "raters_failing": len({vote.rater for vote in failed}),
        **share_of(len(failed), len(gold)),
    }


def _ties(votes: Sequence[Voted]) -> dict[str, Any]:
    counts = Counter(vote.outcome for vote in votes)
    return {
        "n": len(votes),
        "tie": {"count": counts["tie"], **share_of(counts["tie"], len(votes))},
        "bad": {"count": counts["bad"], **share_of(counts["bad"], len(votes))},
    }


# ---------------------------------------------------------------- the models


@dataclasses.dataclass(frozen=True)
class _Arena:
    """What was compared, for what is computed of votes."""

    models: list[str]
    prompts: list[str]
    categories_of: list[str]
    answers: Mapping[tuple[int, int], Any]
    seed: int

    def arrays(self, votes: Sequence[Voted]) -> Votes:
        """The votes as arrays, with the covariates of style."""
        return Votes(
            np.array([vote.first for vote in votes], dtype=np.int64),
            np.array([vote.second for vote in votes], dtype=np.int64),
            np.array([_OUTCOME[vote.verdict] for vote in votes], dtype=np.float64),
            np.array([vote.rater for vote in votes], dtype=np.int64),
            np.array([self._covariates(vote) for vote in votes]).reshape(len(votes), len(STYLES)),
        )

    def _covariates(self, vote: Voted) -> list[float]:
        """(a − b) / (a + b + 1) of length, list items, headings and bold passages (LMSYS 2024)."""
        a, b = (style_of(self.answers[vote.prompt, model]["text"]) for model in (vote.first, vote.second))
        return [(x - y) / (x + y + 1) for x, y in zip(a, b, strict=True)]

    def ranking(self, votes: Sequence[Voted]) -> dict[str, Any]:
        """Scores, the matrix of wins, and the scores with style held equal."""
        count = len(self.models)
        arrays = self.arrays(votes)
        wins = win_matrix(arrays.first, arrays.second, arrays.outcome, count)
        found: dict[str, Any] = {"n": len(votes), "matrix": self._matrix(wins), "scores": None}
        if not len(votes):
            return found | {"finite": False, "parts": [[name] for name in self.models], "style": None}
        scores = score(arrays, count, seed=self.seed)
        found |= {
            "finite": scores.finite,
            "parts": [[self.models[i] for i in part] for part in scores.parts],
            "unconnected_draws": scores.unconnected,
            "by_rater": scores.by_rater,
            "groups": scores.groups,
            "win_rates": self._win_rates(wins),
            "style": self._style(arrays) if scores.finite else None,
        }
        if not scores.finite or scores.groups < 2:
            return found
        order = sorted(range(count), key=lambda i: -scores.theta[i])
        places = ranks(scores)
        found["scores"] = [{"model": self.models[i], "rank": places[i], **_elo(scores, i)} for i in order]
        above = scores.superiority()
        found["superiority"] = [[None if i == j else float(above[i, j]) for j in order] for i in order]
        top = scores.draws[:, order[0]] - scores.draws[:, order[1]]
        gap = float(scores.theta[order[0]] - scores.theta[order[1]])
        low, high = scores.interval(top, gap)
        found["top_two"] = {
            "models": [self.models[order[0]], self.models[order[1]]],
            "gap": ELO * gap,
            "low": ELO * low,
            "high": ELO * high,
            "share": 1 / (1 + math.exp(-gap)),
            "votes": int(wins[order[0], order[1]] + wins[order[1], order[0]]),
        }
        return found

    def _matrix(self, wins: np.ndarray) -> list[list[dict[str, Any] | None]]:
        count = len(self.models)
        return [
            [None if i == j else _won(wins[i, j], wins[i, j] + wins[j, i]) for j in range(count)]
            for i in range(count)
        ]

    def _win_rates(self, wins: np.ndarray) -> list[dict[str, Any]]:
        games = wins + wins.T
        return [{"model": name, **_won(wins[i].sum(), games[i].sum())} for i, name in enumerate(self.models)]

    def _style(self, arrays: Votes) -> dict[str, Any] | None:
        """Scores with length, lists, headings and bold held equal, and what each of them is worth."""
        spread = arrays.covariates.std(axis=0)
        kept = [i for i in range(len(STYLES)) if spread[i] > 1e-9]
        if not kept or len(arrays) < 2:
            return None
        scaled = dataclasses.replace(arrays, covariates=arrays.covariates[:, kept] / spread[kept])
        fitted = score_with_covariates(scaled, len(self.models), seed=self.seed)
        coefficients = {}
        for place, i in enumerate(kept):
            value = float(fitted.beta[place])
            low, high = fitted.scores.interval(fitted.beta_draws[:, place], value)
            coefficients[STYLES[i]] = {"value": value, "low": low, "high": high, "spread": float(spread[i])}
        found: dict[str, Any] = {"coefficients": coefficients, "scores": None}
        if fitted.scores.groups > 1:
            order = sorted(range(len(self.models)), key=lambda i: -fitted.scores.theta[i])
            found["scores"] = [{"model": self.models[i], **_elo(fitted.scores, i)} for i in order]
        if "length" in coefficients:  # an answer twice as long differs by (2 − 1) / (2 + 1)
            length = coefficients["length"]
            found["twice_as_long"] = {
                end: _sigmoid(length[end] / length["spread"] / 3) for end in ("value", "low", "high")
            }
        return found

    def longer_wins(self, votes: Sequence[Voted]) -> dict[str, Any]:
        """How often the longer of two answers won, where one did."""
        longer = n = 0
        for vote in votes:
            lengths = [len(self.answers[vote.prompt, model]["text"]) for model in (vote.first, vote.second)]
            if vote.verdict in ("first", "second") and lengths[0] != lengths[1]:
                n += 1
                longer += (vote.verdict == "first") == (lengths[0] > lengths[1])
        return {"n": n, "longer": longer, **share_of(longer, n)}

    def categories(self, votes: Sequence[Voted]) -> list[dict[str, Any]]:
        """Shares of wins of each model in each category, ties as halves."""
        names = sorted({name for name in self.categories_of if name})
        found = []
        for name in names:
            own = [vote for vote in votes if self.categories_of[vote.prompt] == name]
            if not own:
                continue
            arrays = self.arrays(own)
            wins = win_matrix(arrays.first, arrays.second, arrays.outcome, len(self.models))
            found.append({"category": name, "n": len(own), "models": self._win_rates(wins)})
        return found

    def reasons(self, votes: Sequence[Voted]) -> list[dict[str, Any]]:
        """How often each reason was given against each model: the loser of a battle, or both where both were
        bad."""
        found = {name: Counter() for name in self.models}
        for vote in votes:
            losers = {"first": [vote.second], "second": [vote.first]}.get(vote.verdict, [])
            for model in losers or ([vote.first, vote.second] if vote.verdict == "bad" else []):
                found[self.models[model]].update(vote.reasons)
        return [{"model": name, "reasons": dict(counts)} for name, counts in found.items()]

    def disputed(self, votes: Sequence[Voted], excluded: Mapping[int, Any]) -> list[dict[str, Any]]:
        """Battles that several raters judged most differently, by the entropy of their verdicts."""
        found = []
        for (prompt, first, second), unit in _units(votes, excluded).items():
            counts = Counter(vote.verdict for vote in unit)
            if len(unit) < 2 or len(counts) < 2:
                continue
            shares = [count / len(unit) for count in counts.values()]
            found.append(
                {
                    "prompt": self.prompts[prompt],
                    "first": self.models[first],
                    "second": self.models[second],
                    "answers": [self.answers[prompt, model]["text"] for model in (first, second)],
                    "verdicts": dict(counts),
                    "entropy": -sum(share * math.log2(share) for share in shares),
                }
            )
        found.sort(key=lambda entry: (-entry["entropy"], -sum(entry["verdicts"].values())))
        return found[:MOST_DISPUTED]

    def answer_facts(self) -> list[dict[str, Any]]:
        """Of each model: how long its answers are, how many are cut off or empty, names hidden."""
        found = []
        for number, name in enumerate(self.models):
            own = [row for (_, model), row in self.answers.items() if model == number]
            lengths = [len(row["text"]) for row in own]
            found.append(
                {
                    "model": name,
                    "answers": len(own),
                    "median_characters": float(np.median(lengths)) if own else 0.0,
                    "empty": sum(not row["text"] for row in own),
                    "cut_off": sum(row["finish_reason"] == "length" for row in own),
                    "reasoning_removed": sum(row["thought"] for row in own),
                    "names_hidden": sum(row["hidden"] for row in own),
                }
            )
        return found

    def identical(self) -> list[dict[str, Any]]:
        """Of each pair of models: to how many prompts both gave the same text, which nobody is asked
        about."""
        found = []
        for first in range(len(self.models)):
            for second in range(first + 1, len(self.models)):
                same = sum(
                    self.answers[prompt, first]["text"] == self.answers[prompt, second]["text"]
                    for prompt in range(len(self.prompts))
                )
                found.append(
                    {
                        "models": [self.models[first], self.models[second]],
                        "same": same,
                        "n": len(self.prompts),
                    }
                )
        return found

    def judge(
        self,
        name: str,
        facts: dict[str, Any],
        votes: Sequence[Voted],
        people: Sequence[Voted],
        excluded: Mapping[int, Any],
    ) -> dict[str, Any]:
        """What a judge decided, and whether people decided the same."""
        used = [vote for vote in votes if vote.outcome != "skip"]
        ranking = self.ranking(used)
        units = _units(people, excluded)
        pairs, by_category = [], defaultdict(list)
        for vote in used:
            unit = units.get((vote.prompt, vote.first, vote.second))
            if unit:
                pair = [majority([other.verdict for other in unit]), vote.verdict]
                pairs.append(pair)
                by_category[self.categories_of[vote.prompt]].append(pair)
        alpha = krippendorff_alpha(pairs)
        low, high = alpha_interval(pairs) if alpha is not None else UNKNOWN
        return {
            **facts,
            "votes": len(used),
            "win_rates": ranking.get("win_rates"),
            "longer_wins": self.longer_wins(used),
            "with_people": len(pairs),
            "validated": len(pairs) >= VALIDATED,
            "alpha": alpha,
            "alpha_low": _finite(low),
            "alpha_high": _finite(high),
            "agreement": _agreeing(pairs),
            "categories": [
                {"category": category, **_agreeing(own)}
                for category, own in sorted(by_category.items())
                if category
            ],
        }


def majority(verdicts: Sequence[str]) -> str:
    """The commonest verdict; `tie` where two are as common."""
    (first, count), *rest = Counter(verdicts).most_common()
    return "tie" if rest and rest[0][1] == count else first


def _agreeing(pairs: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Of battles that both decided: how many alike."""
    decided = [pair for pair in pairs if all(verdict in ("first", "second") for verdict in pair)]
    same = sum(one == other for one, other in decided)
    return {"n": len(decided), "same": same, **share_of(same, len(decided))}


def style_of(text: str) -> list[int]:
    """Characters, list items, headings and bold passages of an answer."""
    return [len(text), len(_LIST.findall(text)), len(_HEADING.findall(text)), len(_BOLD.findall(text))]


def needed(ranking: Mapping[str, Any], rules: Rules, models: int) -> dict[str, Any]:
    """Whether more votes are worth asking for, and how many would tell the two best models apart."""
    top = ranking.get("top_two")
    if top is None:
        return {"state": "unknown"}
    if top["low"] > 0:
        return {"state": "separated"}
    if -rules.equivalent < top["low"] and top["high"] < rules.equivalent:
        return {"state": "equivalent", "within": rules.equivalent}
    wanted = votes_needed(top["share"])
    pairs = models * (models - 1) // 2
    if math.isinf(wanted) or wanted > 20_000:
        return {"state": "open", "votes": None}
    more = max(0, math.ceil(wanted) - top["votes"])
    return {"state": "open", "between": math.ceil(wanted), "more_between": more, "votes": more * pairs}


def _elo(scores: Scores, model: int) -> dict[str, float]:
    value = float(scores.theta[model])
    low, high = scores.interval(scores.draws[:, model], value)
    return {"elo": 1000 + ELO * value, "low": 1000 + ELO * low, "high": 1000 + ELO * high}


def _won(wins: float, games: float) -> dict[str, Any]:
    """A share of wins of so many battles."""
    n = round(float(games))
    return {"wins": float(wins), "n": n, **share_of(min(float(wins), n), n)}


def share_of(successes: float, n: int) -> dict[str, Any]:
    """A share with its 95 % interval; null without items."""
    if n < 1:
        return {"share": None, "low": None, "high": None}
    low, high = wilson(successes, n)
    return {"share": successes / n, "low": low, "high": high}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
