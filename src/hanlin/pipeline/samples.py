"""The model's own words on fixed prompts, beside its predecessor's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hanlin.common.progress import Progress
from hanlin.inference import generate_text
from hanlin.model import load_model
from hanlin.recipe.recipe import Recipe
from hanlin.tokenizer.foreign import open_any

TEMPERATURE = 0.7


def sample_prompts(recipe: Recipe) -> list[dict[str, Any]]:
    """Prompts of the recipe, or those that its text suggests: `text` to go on from, `messages` to answer."""
    if recipe.evaluation.prompts:
        return [
            {"text": prompt, "messages": [{"role": "user", "content": prompt}]}
            for prompt in recipe.evaluation.prompts
        ]
    return recipe.corpus.sample_prompts() if recipe.corpus is not None else []


def speak_samples(
    recipe: Recipe, before: Path | None, after: Path, progress: Progress, *, answers: bool
) -> list[dict[str, Any]]:
    """Both models on the prompts of the recipe; two answers are shown to whoever watches.

    Args:
        answers: the model has been taught to answer; one that has not goes on with bare text.

    Returns:
        `{"prompt", "before", "after"}` each.
    """
    kind = "messages" if answers else "text"
    prompts = [prompt for prompt in sample_prompts(recipe) if kind in prompt]
    if not prompts:
        return []

    def speak(path: Path) -> list[str]:
        return generate_text(
            load_model(path, device=recipe.device),
            open_any(path),
            [prompt[kind] for prompt in prompts],
            max_new_tokens=recipe.evaluation.max_new_tokens,
            temperature=TEMPERATURE,
            seed=recipe.seed,
        )

    new = speak(after)
    old = speak(before) if before is not None else [""] * len(prompts)
    shown = [prompt["messages"][-1]["content"] if answers else prompt["text"] for prompt in prompts]
    for index in (0, -1):
        progress.sample(shown[index], new[index])
    return [{"prompt": p, "before": b, "after": a} for p, b, a in zip(shown, old, new, strict=True)]
