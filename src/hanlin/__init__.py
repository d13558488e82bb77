"""Hanlin: from raw Chinese text to a language model you can talk to. Importing this does not import torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanlin.common.version import __version__ as __version__

if TYPE_CHECKING:
    import torch

    from hanlin.model import CausalLM
    from hanlin.tokenizer import Tokenizer

__all__ = ["evaluate", "generate", "load_model", "load_tokenizer", "run", "train_tokenizer"]


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Open a tokenizer directory, or the tokenizer inside a model or run directory."""
    from hanlin.tokenizer import load_tokenizer, resolve_tokenizer_dir

    return load_tokenizer(resolve_tokenizer_dir(path))


def load_model(path: str | Path, device: str | None = None, dtype: torch.dtype | None = None) -> CausalLM:
    """Open a model directory, or the model of a run; `model(ids)` maps ids (B, T) int64 to logits (B, T,
    V)."""
    from hanlin.inference import resolve_model_dir
    from hanlin.model import load_model

    return load_model(resolve_model_dir(path), device=device, dtype=dtype)


def generate(
    model: CausalLM | str | Path,
    prompts: list[Any],
    *,
    tokenizer: Tokenizer | None = None,
    max_new_tokens: int = 128,
    temperature: float = 0.7,
    seed: int = 0,
) -> list[str]:
    """Continue texts (str) or answer conversations (lists of messages).

    Args:
        model: a loaded model (then `tokenizer` is needed), or the path of one.
        temperature: 0 is greedy.
    """
    from hanlin.inference import generate_text

    if isinstance(model, (str, Path)):
        tokenizer = tokenizer or load_tokenizer(model)
        model = load_model(model)
    if tokenizer is None:
        raise TypeError("generate() needs tokenizer=… when it is given a loaded model")
    return generate_text(
        model, tokenizer, prompts, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed
    )


def train_tokenizer(files: Any, *, vocab_size: int, out: str | Path, **options: Any) -> Tokenizer:
    """Learn a byte-level BPE vocabulary from files (paths) or texts; see
    `hanlin.tokenizer.train_tokenizer`."""
    from hanlin.tokenizer import train_tokenizer

    return train_tokenizer(files, vocab_size=vocab_size, out=out, **options)


def run(recipe: str | Path = "demo", *, out: str | Path, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    """Run a recipe and return its report."""
    from hanlin.pipeline import load_recipe, run_recipe

    return run_recipe(load_recipe(recipe, overrides), Path(out))


def evaluate(path: str | Path, tasks: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Measure a model on held-out tasks; see `hanlin eval`. Returns metrics by name as in report.json."""
    from hanlin.pipeline.evaluate import evaluate_model

    return evaluate_model(Path(path), tasks)
