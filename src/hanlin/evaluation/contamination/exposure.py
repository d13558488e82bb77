"""Canaries looked for: in the texts that a model was trained on, and in the model itself, by the rank of a
canary's number among numbers that it could as well have got (Carlini et al. 2019, exposure)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from statistics import median

import numpy as np

from hanlin.corpus.canaries import Canaries, Canary, twins
from hanlin.evaluation.benchmarks.items import Request
from hanlin.evaluation.contamination.lookup import Lookup, LookupText, Sighting, Texts
from hanlin.evaluation.loglikelihood import Sequencer, score_groups
from hanlin.evaluation.paired import holm
from hanlin.evaluation.statistics import Metric
from hanlin.model import CausalLM
from hanlin.tokenizer import Tokenizer

TWINS = 63  # so that the rank of a canary is one of 64, and its exposure at most 6 bits
LEVEL = 0.01  # of all groups together, by Holm's procedure


@dataclasses.dataclass(frozen=True)
class CanaryGroup:
    """Canaries that were planted equally often.

    Attributes:
        times: how often they were planted.
        count: canaries.
        in_texts: how many of them the training texts hold, question and answer; None where the texts are not
            known.
        copies: documents that hold one, the median over the canaries.
        exposure: log2 of the numbers less log2 of the rank among them, mean; None where no model was asked.
            1.4 bits of 6 by chance.
        p_value: that numbers never seen would rank as high.
        found: whether the model knows them.
    """

    times: int
    count: int
    in_texts: int | None = None
    copies: float = 0.0
    exposure: Metric | None = None
    p_value: float | None = None
    found: bool = False


def canary_texts(canaries: Sequence[Canary]) -> list[LookupText]:
    """What of canaries is looked for in texts: as items of a benchmark with written answers."""
    return [LookupText(canary.id, canary.question, canary.number) for canary in canaries]


def look_for_canaries(
    canaries: Canaries,
    texts: Sequence[Texts],
    model: CausalLM | None = None,
    tokenizer: Tokenizer | None = None,
) -> list[CanaryGroup]:
    """Groups of canaries with what was found of them, in the texts and in the model, as far as there are
    such."""
    lookup = Lookup({"canaries": canary_texts(canaries.drawn())})
    for part in texts:
        lookup.read(part)
    groups = canary_groups(canaries, lookup.found()["canaries"] if texts else None)
    return groups if model is None or tokenizer is None else with_exposure(groups, canaries, model, tokenizer)


def canary_groups(canaries: Canaries, found: Sequence[Sighting] | None) -> list[CanaryGroup]:
    """What a lookup found of canaries, one after another as they are drawn; nothing without one."""
    if found is None:
        return [CanaryGroup(times, canaries.each) for times in canaries.times]
    made = []
    for at, times in enumerate(canaries.times):
        group = found[at * canaries.each : (at + 1) * canaries.each]
        whole = sum(sighting.seen == "question+answer" for sighting in group)
        copies = median(sighting.documents for sighting in group)
        made.append(CanaryGroup(times, canaries.each, whole, float(copies)))
    return made


def with_exposure(
    groups: Sequence[CanaryGroup], canaries: Canaries, model: CausalLM, tokenizer: Tokenizer
) -> list[CanaryGroup]:
    """The groups with what the model knows of each."""
    ranks = canary_ranks(model, tokenizer, canaries.drawn()).reshape(len(groups), canaries.each)
    chances = [fisher(row / (TWINS + 1)) for row in ranks]
    rejected = holm(chances, LEVEL)
    return [
        dataclasses.replace(
            group,
            exposure=Metric.mean(math.log2(TWINS + 1) - np.log2(row)),
            p_value=chance,
            found=known,
        )
        for group, row, chance, known in zip(groups, ranks, chances, rejected, strict=True)
    ]


def canary_ranks(
    model: CausalLM, tokenizer: Tokenizer, canaries: Sequence[Canary], seed: int = 0
) -> np.ndarray:
    """Rank of each canary's number among it and its twins by their likelihood after the question, from 1, the
    likeliest; of equals the last, (canaries,)."""
    sequencer = Sequencer(
        tokenizer, "bytes", model.config.bos_token_id, model.config.max_position_embeddings + 1
    )
    groups = []
    for canary in canaries:
        numbers = [canary.number, *twins(canary, TWINS, seed)]
        groups.append(sequencer([Request(canary.prompt, f"{number}。", number) for number in numbers]))
    scored = score_groups(model, groups)
    totals = np.array([[value.total for value in group] for group in scored])  # (canaries, 1 + TWINS)
    return (totals >= totals[:, :1]).sum(axis=1)


def fisher(chances: np.ndarray) -> float:
    """p value of several at once (Fisher 1925): -Σ ln p beyond a gamma variable's tail. Of p values that are
    ranks over their number it is not too small, since those are uniform or larger."""
    total, count = float(-np.log(chances).sum()), len(chances)
    terms = [at * math.log(total) - math.lgamma(at + 1) if total > 0 else -math.inf for at in range(1, count)]
    return min(1.0, math.exp(-total) + sum(math.exp(term - total) for term in terms))
