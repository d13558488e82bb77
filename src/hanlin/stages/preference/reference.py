"""Log-probabilities under the reference, which is the model as it is when training begins.

They are computed by the policy itself before its first step, with the batches of the first epoch: the same
kernels, packing and precision, so that the first loss of a run is the one that its formula gives where policy
and reference agree, and no second model is kept. They are written to disk: later epochs and a resumed run
read them. In a later epoch the pairs of a batch are others, and matrix products of other shapes may round
differently. Measured here on a CPU, in float32 and in bfloat16, with pairs of tinyworld in two orders: not in
a single bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from hanlin.common.devices import to_device_async
from hanlin.common.manifest import artifact, hash_json
from hanlin.common.progress import Progress
from hanlin.dataset import Batch
from hanlin.stages.stage import is_artifact
from hanlin.training.distributed.process_group import ProcessGroup
from hanlin.training.memory import is_out_of_memory, release_memory
from hanlin.training.precision import train_autocast

_FILE = "log_probs.npy"
LogProbsOf = Callable[[Any, Batch], torch.Tensor]


class Reference(Protocol):
    """What an objective asks."""

    def log_probs(self, batch: Batch) -> torch.Tensor:
        """log π_ref of each document's answer, (documents,), without a gradient."""
        ...


class CachedReference:
    """Log-probabilities by the number of a document, (documents,) float32."""

    def __init__(self, values: np.ndarray):
        self.values = torch.from_numpy(values)

    def log_probs(self, batch: Batch) -> torch.Tensor:
        return to_device_async(self.values[torch.tensor(batch.documents)], batch.ids.device)


def cached_reference(
    model: Any,
    batches: Iterable[Batch],
    documents: int,
    folder: Path,
    key: Any,
    *,
    group: ProcessGroup,
    progress: Progress,
    log_probs: LogProbsOf,
) -> CachedReference:
    """The cache in `folder`, computed with the model unless it is there; called in every process.

    Args:
        batches: this process' share of what will be trained on, as the first epoch packs it.
        documents: of the data set; those that no batch has stay NaN.
        key: JSON-able: rows and packing, content of the model, precision.
    """
    digest = hash_json(key)
    path = folder / f"reference-{digest[:10]}"
    if not group.run_on_rank0(lambda: is_artifact(path, digest, progress)):
        progress.note("computing the log-probabilities of the reference, once for all epochs")
        parts = group.all_gather_object(_compute(model, batches, documents, log_probs))
        values = parts[0]
        for part in parts[1:]:
            values = np.where(np.isnan(values), part, values)
        group.run_on_rank0(lambda: _write(path, digest, values))
    return CachedReference(group.run_on_rank0(lambda: np.load(path / _FILE)))


def _write(path: Path, digest: str, values: np.ndarray) -> None:
    with artifact(path, "log_probs", key=digest) as written:
        np.save(written.path / _FILE, values)


@torch.no_grad()
def _compute(model: Any, batches: Iterable[Batch], documents: int, log_probs: LogProbsOf) -> np.ndarray:
    """Log-probability of each document of the batches; of one that comes twice, the first."""
    values = np.full(documents, np.nan, dtype=np.float32)
    for whole in batches:
        for batch, found in in_parts(model, whole, log_probs):
            numbers = np.asarray(batch.documents)
            new = np.isnan(values[numbers])
            values[numbers[new]] = found.cpu().numpy()[new]
    return values


@torch.no_grad()
def in_parts(model: Any, whole: Batch, log_probs: LogProbsOf) -> Iterator[tuple[Batch, torch.Tensor]]:
    """The log-probabilities of a batch on the model's device, in the precision of training; of its halves,
    each with its own, where memory runs out."""
    waiting = [whole]
    while waiting:
        batch = waiting.pop()
        try:
            with train_autocast(model.device):
                found = log_probs(model, batch.to(model.device)).float()
        except Exception as error:
            halves = batch.split()
            if not is_out_of_memory(error) or len(halves) == 1:
                raise
            release_memory(model.device)
            waiting += reversed(halves)
            continue
        yield batch, found
