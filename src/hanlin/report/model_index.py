"""Scores as a model card gives them: none without n, interval, control, protocol and data hash; and the block
of YAML at the card's head, which Hugging Face and ModelScope read. No torch here."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from hanlin.common.messages import Text, listing
from hanlin.evaluation.benchmarks.base import BENCHMARKS
from hanlin.evaluation.statistics import Control, Metric
from hanlin.report.text import metric_text

# Licences that Hugging Face knows by these names; another is `other`, with its name beside it.
_LICENCES = frozenset(
    [
        *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "gpl-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0"),
        *("mpl-2.0", "unlicense", "cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0"),
        *("cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0"),
        *("cc-by-nc-nd-4.0", "openrail", "odc-by", "cdla-sharing-1.0"),
    ]
)
_CHOSEN = ("cloze", "letters", "pairs")  # forms of benchmarks in which the model chooses


@dataclasses.dataclass(frozen=True)
class Score:
    """One score with all that decides it.

    Attributes:
        name: of the metric, `c3/cloze`.
        protocol: whose prompts.
        split: of the data; that of a sample has the sample's name.
        data: SHA-256 of the items, or a part of it.
        prompt: digest of the prompt, "" where items are no prompts.
        missing: what its record lacks besides, such as the model's hash.
    """

    name: str
    metric: Metric
    protocol: str = ""
    split: str = ""
    data: str = ""
    prompt: str = ""
    shots: int = 0
    missing: tuple[Text, ...] = ()

    @property
    def control(self) -> Control | None:
        """What the score is held against; what guessing would score, where nothing better is known."""
        if self.metric.control is None and self.metric.chance is not None:
            return Control("chance", self.metric.chance, self.metric.chance, self.metric.chance)
        return self.metric.control

    @property
    def share(self) -> bool:
        """Whether it is a share of items: that of any benchmark is, of one's own questions too."""
        return metric_text(self.name).share or self.form in (*_CHOSEN, "answer")

    @property
    def form(self) -> str:
        """How a benchmark's items were asked: what follows its name."""
        return self.name.partition("/")[2].partition("/")[0]

    def lacks(self) -> tuple[Text, ...]:
        """What is missing for a card to give it: of n, interval, control, protocol and data hash. A metric
        always has n."""
        parts = (
            (math.isfinite(self.metric.low) and math.isfinite(self.metric.high), Text("no interval")),
            (self.control is not None, Text("no control")),
            (bool(self.protocol), Text("no protocol")),
            (bool(self.data), Text("no data hash")),
        )
        return (*(reason for there, reason in parts if not there), *self.missing)


def given(scores: Iterable[Score]) -> list[Score]:
    """Those that lack nothing."""
    return [score for score in scores if not score.lacks()]


def left_out(scores: Iterable[Score]) -> list[Text]:
    """How many are not given and why, a sentence for each reason."""
    counted = Counter(lacks for score in scores if (lacks := score.lacks()))
    return [
        Text("1 score left out: {reasons}.", reasons=listing(reasons))
        if count == 1
        else Text("{count} scores left out: {reasons}.", count=count, reasons=listing(reasons))
        for reasons, count in counted.most_common()
    ]


def front_matter(
    name: str,
    scores: Sequence[Score],
    *,
    licence: str = "",
    base_model: str = "",
    tags: Sequence[str] = (),
    pipeline_tag: str = "text-generation",
) -> str:
    """The block of YAML, with the lines of dashes around it.

    Args:
        name: of the model.
        scores: those that lack something are left out.
        licence: as it is stated; the key is left out for an empty one.
        base_model: `owner/name` on a hub.
    """
    said: dict[str, Any] = {"language": ["zh"], "library_name": "transformers"}
    said |= licence_keys(licence)
    said |= {"tags": list(dict.fromkeys(["hanlin", *tags])), "pipeline_tag": pipeline_tag}
    if base_model:
        said["base_model"] = base_model
    results = [result(score) for score in given(scores)]
    if results:
        said["model-index"] = [{"name": " ".join(name.split()), "results": results}]
    return f"---\n{yaml.safe_dump(said, allow_unicode=True, sort_keys=False)}---\n"


def licence_keys(licence: str) -> dict[str, str]:
    """`license`, and `license_name` beside it for one that Hugging Face has no name for; nothing for none."""
    name = re.sub(r"[\s_]+", "-", licence.strip().lower())
    if not name:
        return {}
    return {"license": name} if name in _LICENCES else {"license": "other", "license_name": name}


def result(score: Score) -> dict[str, Any]:
    """One entry of `model-index`: a metric on a data set, and in its `args` what it means nothing without."""
    metric, control = score.metric, score.control
    assert control is not None
    dataset = score.name.partition("/")[0]
    title = BENCHMARKS.get(dataset).title if dataset in BENCHMARKS else metric_text(score.name).name
    args: dict[str, Any] = {
        "n": metric.n,
        "interval": [float(metric.low), float(metric.high)],
        "confidence": 0.95,
        "higher_is_better": metric.higher_is_better,
        "control": {
            "name": control.name,
            "value": float(control.value),
            "interval": [float(control.low), float(control.high)],
        },
        "protocol": score.protocol,
        "shots": score.shots,
        "data_sha256": score.data,
    }
    if control.difference is not None:
        args["control"]["difference"] = [float(end) for end in control.difference]
    if score.prompt:
        args["prompt_sha256"] = score.prompt
    task = (
        ("multiple-choice", "Multiple Choice")
        if score.form in _CHOSEN
        else ("text-generation", "Text Generation")
    )
    named: Mapping[str, Any] = {"type": dataset, "name": title.en}
    return {
        "task": dict(zip(("type", "name"), task, strict=True)),
        "dataset": {**named, **({"split": score.split} if score.split else {}), "revision": score.data},
        "metrics": [
            {
                "type": "accuracy" if score.share else dataset,
                "name": score.name,
                "value": float(metric.value),
                "config": score.protocol,
                "args": args,
                "verified": False,
            }
        ],
    }
