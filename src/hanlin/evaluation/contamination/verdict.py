"""What a lookup says of a score: how much of a benchmark was seen, and how the model does on what it has and
what it has not seen. No torch here.

`clean` is said only where canaries that somebody planted were found by the same lookup: who never found
anything may be looking in the wrong place.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from hanlin.common.messages import Text, joined
from hanlin.evaluation.contamination.lookup import Seen, Sighting
from hanlin.evaluation.paired import Difference
from hanlin.evaluation.statistics import Metric, difference

Verdict = Literal["unknown", "seen", "unproven", "clean"]
"""The training texts, or all items, could not be looked at; items were seen; nothing was found, and nobody
showed that it would have been; nothing was found, and canaries were."""

VERDICTS: dict[Verdict, Text] = {
    "unknown": Text("Whether the model was trained on these items is unknown."),
    "seen": Text("The model was trained on texts that hold these items."),
    "unproven": Text(
        "Nothing was found in the training texts, but nobody has shown that it would have been: no planted "
        "canary was found there (hanlin corpus canary)."
    ),
    "clean": Text("Nothing was found in the training texts, in which planted canaries were found."),
}


@dataclasses.dataclass(frozen=True)
class Contamination:
    """How much of a benchmark was seen, and what that does to its score.

    Attributes:
        counts: items of each kind.
        share: items seen, of those that could be looked up; None where there are none.
        dirty, clean: the score on items that were seen, and on those that were not; None without such items.
        gap: dirty less clean, of different items, clusters drawn whole. Above 0 where what was seen is known
            better; items that are common knowledge can do that too.
    """

    verdict: Verdict
    counts: Mapping[Seen, int]
    share: Metric | None = None
    dirty: Metric | None = None
    clean: Metric | None = None
    gap: Difference | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        found: dict[str, Any] = {"verdict": self.verdict, "items": dict(self.counts)}
        for name in ("share", "dirty", "clean"):
            metric = getattr(self, name)
            found[name] = None if metric is None else metric.to_dict()
        found["difference"] = None
        if self.gap is not None and math.isfinite(self.gap.low):
            found["difference"] = {"value": self.gap.value, "low": self.gap.low, "high": self.gap.high}
        return found


UNKNOWN = Contamination("unknown", {})


def judge_sightings(
    sightings: Sequence[Sighting],
    scores: Sequence[float] | None,
    clusters: Sequence[str],
    *,
    control_found: bool,
) -> Contamination:
    """The verdict on a benchmark.

    Args:
        scores: of the items, 0 to 1, in their order; None where there are none.
        clusters: of the items, which depend on each other within one.
        control_found: canaries were planted in the same texts, and this lookup found some.
    """
    counts: Counter[Seen] = Counter(sighting.seen for sighting in sightings)
    known = np.array([sighting.seen != "short" for sighting in sightings])
    seen = np.array([sighting.seen in ("question", "question+answer") for sighting in sightings])
    if not known.any():
        return Contamination("unknown", counts)
    verdict: Verdict = "seen" if seen.any() else "clean" if control_found else "unproven"
    named: dict[str, Any] = {"ids": [sighting.id for sighting in sightings], "clusters": list(clusters)}
    share = Metric.share(seen.astype(float), counted=known, **named, higher_is_better=False)
    if scores is None:
        return Contamination(verdict, counts, share)
    parts = [
        Metric.share(scores, counted=part, **named) if part.any() else None for part in (seen, known & ~seen)
    ]
    dirty, clean = parts
    gap = difference(dirty, clean) if dirty is not None and clean is not None else None
    return Contamination(verdict, counts, share, dirty, clean, gap)


def cluster_names(clusters: Sequence[str], subjects: Sequence[str]) -> list[str]:
    """What depends on each other: the items' clusters, or, where each item is its own, those of a subject,
    which are found and known together."""
    if len(set(clusters)) < len(clusters) or not any(subjects):
        return list(clusters)
    return [subject or cluster for subject, cluster in zip(subjects, clusters, strict=True)]


def contamination_line(found: Mapping[str, Any]) -> str:
    """A benchmark's verdict as one line, from `Contamination.to_dict`."""
    verdict, counts, share = found["verdict"], found["items"], found.get("share")
    said = [VERDICTS[verdict]]
    if verdict == "seen" and share is not None:
        said = [
            Text(
                "In the training texts: {share:.1%} of {items} items, {answers} of them with the answer.",
                share=share["value"],
                items=f"{share['n']:,}",
                answers=f"{counts.get('question+answer', 0):,}",
            )
        ]
        dirty, clean, gap = found.get("dirty"), found.get("clean"), found.get("difference")
        if dirty is not None and clean is not None:
            said.append(
                Text(
                    "Score there {dirty:.1%}, elsewhere {clean:.1%}.",
                    dirty=dirty["value"],
                    clean=clean["value"],
                )
            )
        if gap is not None:
            said.append(
                Text(
                    "Difference {value:+.1f} points, {low:+.1f} to {high:+.1f}.",
                    value=100 * gap["value"],
                    low=100 * gap["low"],
                    high=100 * gap["high"],
                )
            )
    if counts.get("short"):
        said.append(Text("Too short to look up: {short}.", short=f"{counts['short']:,}"))
    order = found.get("ordering")
    if order is not None:
        said.append(
            Text(
                "Published order against shuffles: p = {p}, {bits:+.2f} bits in each of {shards} shards.",
                p=f"{order['p_value']:.2g}",
                bits=order["gain"]["value"],
                shards=order["shards"],
            )
        )
    return str(joined(said, Text.rendered(en=" ", zh="")))
