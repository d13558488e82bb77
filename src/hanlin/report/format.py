"""Formats of report.json: what an older one says in the names of today's. No torch here.

Format 1 knew stages by their kind (`name`, each at most once) and called metrics by names of Hanlin's own;
format 2 knows them by `id` and `kind`, and says whose a metric's items are (`tinyworld/story_qa`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hanlin.common.messages import Text

FORMAT = 2

METRICS_OF_FORMAT_1 = {
    "dirt_removed": "cleaning/recall",
    "good_lost": "cleaning/false_positive_rate",
    "story_answers": "tinyworld/story_qa",
    "problems_solved": "tinyworld/math_word_problems",
    "preferred_manner": "tinyworld/politeness",
    "greetings": "tinyworld/greetings",
    "story_requests": "tinyworld/story_requests",
    "outside_declined": "tinyworld/outside_declined",
    "word_problems": "tinyworld/math_word_problems_free",
    "later_turns": "tinyworld/later_turns",
    "task_reward": "reward_mean/grpo",
    "pairs_preferred": "pairs_preferred/dpo",
}
_TARGETS = {
    "corpus": "cleaning/recall",
    "pretrain": "bits_per_byte",
    "sft": "tinyworld/story_qa",
    "distill": "tinyworld/math_word_problems",
    "dpo": "tinyworld/politeness",
    "reward": "pair_accuracy",
    "grpo": "reward_mean/grpo",
}
_KINDS = {"distill": "sft", "dpo": "preference", "reward": "reward_model", "grpo": "rl", "gguf": "export"}
_STAGES = ("pretrain", "sft", "distill", "dpo", "reward", "grpo")
_DISTILLATION = Text("Chain-of-thought distillation")


def export_steps(kinds: Sequence[str]) -> list[str]:
    """Names of the steps that write a run's exports: each its kind, a second of a kind with a number behind
    it."""
    names: list[str] = []
    for kind in kinds:
        count = sum(name.rpartition("-")[0] == kind or name == kind for name in names)
        names.append(kind if not count else f"{kind}-{count + 1}")
    return names


def as_current(report: Any) -> Any:
    """A report of format 1 as one of format 2; any other as it is."""
    if not isinstance(report, Mapping) or report.get("format") != 1:
        return report
    stages = report.get("stages")
    if not isinstance(stages, list) or not all(isinstance(stage, Mapping) for stage in stages):
        return report
    return {**report, "format": FORMAT, "stages": [_stage(stage) for stage in stages]}


def metric_of_format_1(name: str) -> str:
    """Today's name of a metric of format 1."""
    base, slash, part = name.partition("/")
    return METRICS_OF_FORMAT_1.get(base, base) + slash + part


def _stage(stage: Mapping[str, Any]) -> dict[str, Any]:
    name = str(stage.get("name"))
    new: dict[str, Any] = {key: value for key, value in stage.items() if key != "name"}
    new |= {"id": name, "kind": _KINDS.get(name, name)}
    if name == "distill":
        new["title"] = {"zh": _DISTILLATION.zh, "en": _DISTILLATION.en}
    if name in _STAGES:
        new["role"] = "stage"
    if name == "reward":
        new["produces"] = "reward_model"
    if name in _TARGETS:
        new["target"] = _TARGETS[name]
    metrics = stage.get("metrics")
    if isinstance(metrics, Mapping):
        new["metrics"] = {metric_of_format_1(str(key)): value for key, value in metrics.items()}
        if new.get("target") not in new["metrics"]:
            controlled = (
                key
                for key, value in new["metrics"].items()
                if isinstance(value, Mapping) and value.get("control")
            )
            new["target"] = next(controlled, new.get("target", ""))
    return new
