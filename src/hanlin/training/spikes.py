"""The record of bad steps: which documents were in them, worst first. `hanlin inspect spike` reads it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import orjson
import torch

from hanlin.common.atomic import read_json_lines, write_json

SPIKES = "spikes.jsonl"
RUN = "run.json"


class SpikeLog:
    """Appends one line per bad step to `spikes.jsonl`; a resumed run that meets the same step again adds
    none."""

    def __init__(self, folder: Path):
        self.file = folder / SPIKES
        self._known = {(entry["step"], entry["data"]) for entry in read_json_lines(self.file)}

    def write(self, entry: dict[str, Any], documents: list[tuple[int, float | None]]) -> None:
        """Add the line of a bad step; `step` and `data` (its place in the order of samples) say which."""
        if (entry["step"], entry["data"]) in self._known:
            return
        self._known.add((entry["step"], entry["data"]))
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with open(self.file, "ab") as file:
            file.write(
                orjson.dumps(
                    entry
                    | {"documents": [{"document": document, "loss": loss} for document, loss in documents]}
                )
                + b"\n"
            )


@torch.no_grad()
def document_losses(
    per_sequence_loss: Callable[[Any], torch.Tensor | None], batches: Iterable[Any], device: torch.device
) -> list[tuple[int, float | None]]:
    """The documents of micro-batches with the loss of each by the weights as they are, worst first.

    Args:
        per_sequence_loss: micro-batch on the device → losses (documents,), or None where the objective has
            none.
    """
    pairs: list[tuple[int, float | None]] = []
    for batch in batches:
        documents = getattr(batch, "documents", [])
        losses = per_sequence_loss(batch.to(device))
        pairs += zip(documents, [None] * len(documents) if losses is None else losses.tolist(), strict=True)
    return worst_first(pairs)


def worst_first(losses: Iterable[tuple[int, float | None]]) -> list[tuple[int, float | None]]:
    """Documents by their losses, not finite before all; one with several has the worst of them."""
    worst: dict[int, float | None] = {}
    for document, loss in losses:
        if document not in worst or _badness(loss) > _badness(worst[document]):
            worst[document] = loss
    return sorted(worst.items(), key=lambda item: (-_badness(item[1]), item[0]))


def brief(documents: list[tuple[int, float | None]], most: int = 6) -> str:
    """The first of `document_losses` on one line."""
    shown = ", ".join(
        str(document) if loss is None else f"{document} ({loss:.2f})" for document, loss in documents[:most]
    )
    return shown + (" …" if len(documents) > most else "")


def _badness(loss: float | None) -> float:
    if loss is None:
        return -math.inf
    return loss if math.isfinite(loss) else math.inf


def keep_spikes(checkpoint_dir: Path, target: Path) -> None:
    """Move the record of bad steps, if there are any, to where it outlives the work directory."""
    if (checkpoint_dir / SPIKES).is_file():
        target.mkdir(parents=True, exist_ok=True)
        for name in (SPIKES, RUN):
            os.replace(checkpoint_dir / name, target / name)


def write_run_file(checkpoint_dir: Path, dataset: Path | str | None, tokenizer: Path | str | None) -> None:
    """Note in `checkpoint_dir/run.json` where the documents' text is to be found."""
    write_json(
        checkpoint_dir / RUN,
        {
            "dataset": dataset and str(Path(dataset).resolve()),
            "tokenizer": tokenizer and str(Path(tokenizer).resolve()),
        },
    )
