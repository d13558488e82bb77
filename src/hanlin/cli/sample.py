"""`hanlin data sample`: training data that a model writes itself."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from hanlin.cli.main import Flag, Many, show
from hanlin.common.config import OutOfRange
from hanlin.common.errors import HanlinError
from hanlin.common.messages import tr
from hanlin.common.progress import make_progress


def sample(
    model: Path,
    /,
    *,
    prompts: Many,
    out: Path,
    n: int = 8,
    make: Literal["raw", "sft", "pairs", "spin"] = "sft",
    verify: str = "",
    temperature: float = 1.0,
    max_new_tokens: int = 256,
    keep: int = 4,
    ratio: float = 1.5,
    thinking: Literal["on", "off", "auto"] = "auto",
    seed: int = 1,
    json: Flag = False,
) -> None:
    """Let a model answer prompts, and make training data of it.

    Parameters
    ----------
    prompts
        Files of conversations: what comes before the last answer is the prompt.
    out
        Directory for records.jsonl.
    n
        Samples of each prompt.
    make
        raw: every sample with its score; sft: conversations with right answers; pairs: the best answer
        against the worst; spin: the given answer against the model's own.
    verify
        numeric (the record's `answer`), reward:DIR (a reward model), or python:FILE (its function
        score(record, text)).
    keep
        Conversations kept of one prompt (sft).
    ratio
        How many times as long as the other one side of a pair may be (pairs).
    thinking
        Think first, never, or as the model likes.
    """
    from hanlin.pipeline.sample_data import RECORDS, SampleConfig, sample_data

    thinks = {"on": True, "off": False, "auto": None}[thinking]
    try:
        config = SampleConfig(n, temperature, max_new_tokens, seed, make, verify, keep, ratio, thinks)
    except OutOfRange as error:
        raise HanlinError("hanlin data sample: {error}.", error=error) from None
    found = sample_data(model, prompts, out, config, make_progress())
    lines = [tr("{file}: {records:,} records", file=out / RECORDS, records=found["records"])]
    lines += [f"  {name:<18}{value:,.4g}" for name, value in found.items() if name != "records"]
    show(found, json, "\n".join(lines))
