"""What becomes of answers that a model has written: conversations, pairs, or pairs against itself."""

from __future__ import annotations

import dataclasses
import itertools
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

Make = Literal["raw", "sft", "pairs", "spin"]
RIGHT = 0.5  # a verified answer scores 1, another 0


@dataclasses.dataclass(frozen=True)
class Sampled:
    """An answer.

    Attributes:
        content, reasoning: what the model said, and thought before.
        score: by the verifier; None without one.
        ended: whether it ended by itself.
        tokens: that it took.
    """

    content: str
    reasoning: str
    score: float | None
    ended: bool
    tokens: int

    @property
    def message(self) -> dict[str, str]:
        """As a conversation has it."""
        thought = {"reasoning_content": self.reasoning} if self.reasoning else {}
        return {"role": "assistant", "content": self.content} | thought

    @property
    def key(self) -> str:
        """Equal for answers that differ in width and white space alone."""
        return "".join(unicodedata.normalize("NFKC", self.content).split())


class Selection:
    """Records made of samples; `counts` says what was left out, and why.

    Args:
        keep: conversations kept of one prompt, each with another text.
        ratio: how many times as long as the other one side of a pair may be, in tokens.
    """

    def __init__(self, make: Make, keep: int = 4, ratio: float = 1.5):
        self.make, self.keep, self.ratio = make, keep, ratio
        self.counts: Counter[str] = Counter()

    def __call__(
        self, record: Mapping[str, Any], prompt: list[Any], samples: Sequence[Sampled]
    ) -> Iterator[Any]:
        """Of one prompt.

        Args:
            record: what the prompt came from, with its own answer where it has one.
        """
        for made in getattr(self, f"_{self.make}")(record, prompt, samples):
            self.counts["records"] += 1
            yield made

    def _raw(self, record: Mapping[str, Any], prompt: list[Any], samples: Sequence[Sampled]) -> Iterator[Any]:
        """Every sample as it is."""
        for sample in samples:
            told = {"score": sample.score, "ended": sample.ended, "tokens": sample.tokens}
            yield {"messages": [*prompt, sample.message]} | _answer(record) | told

    def _sft(self, record: Mapping[str, Any], prompt: list[Any], samples: Sequence[Sampled]) -> Iterator[Any]:
        """Rejection sampling (Yuan et al. 2023): right answers, each text once."""
        seen: set[str] = set()
        for sample in self._whole(samples):
            if sample.score is not None and sample.score < RIGHT:
                self.counts["not_right"] += 1
            elif sample.key in seen:
                self.counts["repeated"] += 1
            elif len(seen) == self.keep:
                self.counts["more_than_kept"] += 1
            else:
                seen.add(sample.key)
                yield {"messages": [*prompt, sample.message]} | _answer(record)

    def _pairs(
        self, record: Mapping[str, Any], prompt: list[Any], samples: Sequence[Sampled]
    ) -> Iterator[Any]:
        """The best answer against the worst: of those of like length, the two furthest apart in score."""
        best: tuple[float, Sampled, Sampled] | None = None
        whole = list(self._whole(samples))
        differ = False
        for chosen, rejected in itertools.permutations(whole, 2):
            if chosen.score is None or rejected.score is None or chosen.score <= rejected.score:
                continue
            differ = True
            lengths = sorted((max(1, chosen.tokens), max(1, rejected.tokens)))
            gain = chosen.score - rejected.score
            if lengths[1] <= self.ratio * lengths[0] and (best is None or gain > best[0]):
                best = gain, chosen, rejected
        if best is None:
            self.counts["unlike_lengths" if differ else "no_difference"] += 1
            return
        yield {"prompt": prompt, "chosen": best[1].message, "rejected": best[2].message}

    def _spin(
        self, record: Mapping[str, Any], prompt: list[Any], samples: Sequence[Sampled]
    ) -> Iterator[Any]:
        """Self-play (SPIN, Chen et al. 2024): the given answer against the model's own."""
        given = record["messages"][-1]
        if given["role"] != "assistant" or not given.get("content"):
            self.counts["no_given_answer"] += 1
            return
        gold = Sampled(given["content"], "", None, True, 0).key
        for sample in self._whole(samples):
            if sample.key != gold:
                yield {"prompt": prompt, "chosen": dict(given), "rejected": sample.message}
                return
        self.counts["no_difference"] += 1

    def _whole(self, samples: Sequence[Sampled]) -> Iterator[Sampled]:
        """Those that ended by themselves and say something."""
        for sample in samples:
            if sample.ended and sample.content.strip():
                yield sample
            else:
                self.counts["cut_off" if not sample.ended else "empty"] += 1


def _answer(record: Mapping[str, Any]) -> dict[str, Any]:
    return {"answer": record["answer"]} if record.get("answer") is not None else {}
