"""Tasks with an exact judge, and preference pairs with the control of length alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..inference import Engine, generate_text
from ..model import CausalLM
from ..stages.grpo import prompt_of
from ..tokenizer import Tokenizer
from .intervals import Metric

Judge = Callable[[dict[str, Any], str], bool]


def evaluate_generation(
    model: CausalLM | Engine,
    tokenizer: Tokenizer,
    records: Sequence[dict[str, Any]],
    check: Judge,
    *,
    thinking: bool | None = None,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    seed: int = 0,
    chance: float | None = None,
) -> tuple[Metric, list[dict[str, Any]]]:
    """Share of prompts answered rightly.

    Args:
        records: `{"messages"}`, of which a last assistant turn is left out and has to be found; or `{"prompt_text"}`, plain
            text a base model continues, whose answer is the first line it writes.
        check: whether a text answers a record; it gets reasoning and answer as they were written.
        thinking: see `Tokenizer.render`.

    Returns:
        the metric, and for every record in order `{"prompt", "output", "correct"}`.

    Raises:
        ValueError: no records.
    """
    if not records:
        raise ValueError("there are no records to evaluate on")
    prompts = [record.get("prompt_text") or prompt_of(record) for record in records]
    outputs = generate_text(
        model, tokenizer, prompts, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, thinking=thinking
    )  # fmt: skip
    outputs = [text.lstrip().partition("\n")[0] if isinstance(prompt, str) else text for prompt, text in zip(prompts, outputs, strict=True)]
    correct = [bool(check(record, output)) for record, output in zip(records, outputs, strict=True)]
    samples = [
        {"prompt": prompt if isinstance(prompt, str) else prompt[-1]["content"], "output": output, "correct": right}
        for prompt, output, right in zip(prompts, outputs, correct, strict=True)
    ]
    return Metric.proportion(sum(correct), len(correct), chance=chance), samples


def pair_accuracy(chosen: np.ndarray, rejected: np.ndarray) -> Metric:
    """Share of pairs whose chosen side scores higher; equal scores count half.

    Args:
        chosen, rejected: scores, (pairs,).
    """
    chosen, rejected = np.asarray(chosen), np.asarray(rejected)
    return Metric.proportion(float((chosen > rejected).sum() + 0.5 * (chosen == rejected).sum()), len(chosen), chance=0.5)


def length_control(training: np.ndarray, heldout: np.ndarray) -> Metric:
    """Pair accuracy of length alone: whether longer or shorter is preferred is learned from the training pairs.

    Args:
        training, heldout: lengths of the chosen and the rejected side, (pairs, 2).
    """
    training, heldout = np.asarray(training, dtype=np.int64), np.asarray(heldout, dtype=np.int64)
    sign = 1 if np.sign(training[:, 0] - training[:, 1]).sum() >= 0 else -1
    return pair_accuracy(sign * heldout[:, 0], sign * heldout[:, 1])
