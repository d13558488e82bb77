"""Prompts that wait to be scored, read in passes of bounded work between the steps of those who generate."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence

from hanlin.inference import Engine, Generation, PromptScores
from hanlin.inference.engine import PREFILL_TOKENS
from hanlin.inference.generation import FinishReason

logger = logging.getLogger("hanlin.serving")

# Seconds a pass may take, as far as its speed is known. While somebody generates, each of his tokens waits
# for one; otherwise only a newcomer does.
PATIENCE_OF_STREAMS = 0.025
PATIENCE = 0.2
FIRST_TOKENS = 256  # in the first pass, before any speed is known
# What a pass costs besides its tokens, in tokens: on one core 20 (8M parameters) to 80 (0.1M, both measured);
# on an accelerator more, but there a pass should take less time than its requests' HTTP.
PASS_TOKENS = 128


@dataclasses.dataclass
class Scoring:
    """A prompt to be scored, and the choices that continue it once that is done.

    Attributes:
        top: how many of the likeliest tokens are wanted in each place.
        generations: the choices by their numbers.
        tell: called with a choice's number and the scores, before the choice goes on.
    """

    prompt: list[int]
    top: int
    generations: dict[int, Generation]
    tell: Callable[[int, PromptScores], None]


class ScoringQueue:
    """Scores prompts of all requests together, those of similar length in one pass.

    Each pass has the prompt that has waited longest in it, so none is left behind, and takes about
    `PATIENCE_OF_STREAMS` or `PATIENCE` (one prompt is never divided), so none is kept from generating.

    Args:
        end: called with a choice that the engine does not have, and why it ends.
        clock: seconds.
    """

    def __init__(
        self,
        engine: Engine,
        end: Callable[[Generation, FinishReason], None],
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._engine = engine
        self._end = end
        self._clock = clock
        self._waiting: list[Scoring] = []  # oldest first
        self._speed: float | None = None  # tokens a second, padding included

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, scorings: Iterable[Scoring]) -> None:
        """Queue prompts."""
        self._waiting.extend(scorings)

    def step(self) -> None:
        """One pass over prompts that somebody still waits for; then their choices go on."""
        self._evict_cancelled()
        if not self._waiting:
            return
        chosen = choose([len(scoring.prompt) for scoring in self._waiting], self._budget())
        batch = [self._waiting[index] for index in chosen]
        taken = set(chosen)
        self._waiting = [scoring for index, scoring in enumerate(self._waiting) if index not in taken]
        try:
            self._score(batch)
        except Exception:
            logger.exception("scoring prompts failed; their requests end with an error")
            for scoring in batch:
                for generation in scoring.generations.values():
                    if generation.finish_reason is None:
                        self._end(generation, "error")

    def close(self) -> None:
        """End all that wait."""
        for scoring in self._waiting:
            for generation in scoring.generations.values():
                self._end(generation, "cancelled")
        self._waiting = []

    def _score(self, batch: list[Scoring]) -> None:
        began = self._clock()
        scores, hidden = self._engine.score(
            [scoring.prompt for scoring in batch], [scoring.top for scoring in batch]
        )
        tokens = len(batch) * max(len(scoring.prompt) for scoring in batch)
        speed = tokens / max(self._clock() - began, 1e-6)
        self._speed = speed if self._speed is None else (self._speed + speed) / 2
        rows: list[int] = []
        generations: list[Generation] = []
        for row, (scoring, found) in enumerate(zip(batch, scores, strict=True)):
            finite = all(map(math.isfinite, found.logprobs))
            for choice, generation in scoring.generations.items():
                if not finite:
                    self._end(generation, "error")
                    continue
                scoring.tell(choice, found)
                rows.append(row)
                generations.append(generation)
        if generations:
            self._engine.submit_scored(generations, hidden[rows])

    def _budget(self) -> int:
        """Tokens the next pass may read, padding included."""
        if self._speed is None:
            return FIRST_TOKENS
        streams = self._engine.active or self._engine.waiting
        return min(PREFILL_TOKENS, int(self._speed * (PATIENCE_OF_STREAMS if streams else PATIENCE)))

    def _evict_cancelled(self) -> None:
        for scoring in self._waiting:
            for choice, generation in list(scoring.generations.items()):
                if generation.finish_reason is not None:
                    del scoring.generations[choice]
                    self._end(generation, "cancelled")
        self._waiting = [scoring for scoring in self._waiting if scoring.generations]


def choose(lengths: Sequence[int], budget: int) -> list[int]:
    """Which prompts to read in one pass: the first, and the neighbours in the order of lengths with which
    the pass does the most for its cost, (prompts' tokens) / (padded tokens + `PASS_TOKENS`), without its
    padded tokens exceeding `budget`.

    Returns:
        Their indices, shortest prompt first; the first prompt alone where it exceeds the budget.
    """
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    ascending = [lengths[index] for index in order]
    sums = [0, *itertools.accumulate(ascending)]
    first = order.index(0)
    best = range(first, first + 1)
    gain = 0.0
    for last in range(first, len(order)):
        longest, reached = ascending[last], 0.0
        for start in range(first, max(0, last + 1 - budget // longest) - 1, -1):
            done = (sums[last + 1] - sums[start]) / (longest * (last + 1 - start) + PASS_TOKENS)
            if done < reached:
                break  # those that come now are shorter still
            reached = done
            if done > gain:
                best, gain = range(start, last + 1), done
    return [order[place] for place in best]
