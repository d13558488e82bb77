"""Checkpoints of a run in progress: verified directories, newest first, damaged ones put aside.

Protocol: room looked for → temporary sibling → files → manifest with SHA-256 → fsync → rename → fsync of the
parent → read back → prune. A checkpoint holds weights, optimiser and generator state as safetensors and the
rest as JSON; nothing in it can run code.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from hanlin.common.atomic import disk_full, sweep_temporaries, write_json
from hanlin.common.errors import HanlinError
from hanlin.common.failpoints import failpoint
from hanlin.common.locks import require_held
from hanlin.common.manifest import MANIFEST, artifact, read_manifest
from hanlin.training.checkpoint.generators import generator_tensors
from hanlin.training.checkpoint.shards import save_shards, shards_of
from hanlin.training.checkpoint.source_state import SOURCE_TENSORS, split_tensors
from hanlin.training.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from hanlin.training.distributed.strategy import SingleProcess, Strategy
from hanlin.training.optim.optimizers import Optimizers

FORMAT = 3  # of state.json and the files beside it
KEEP = 2
_STEP = re.compile(r"step-(\d+)$")
_SYSTEM_ERROR = re.compile(r"os error (\d+)")


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """What a checkpoint holds, as it was between two steps.

    Attributes:
        weights, moments: of model and optimisers, by name.
        generators: state of the random generators.
        state: JSON-able: what the samples depend on, counters, guard history, what the source remembers.
        source: tensors that the source remembers, by the name that stands for them in `state`.
    """

    step: int
    weights: dict[str, torch.Tensor]
    moments: dict[str, torch.Tensor]
    generators: dict[str, torch.Tensor]
    state: dict[str, Any]
    source: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)


def take_snapshot(
    step: int,
    model: nn.Module,
    optimizers: Optimizers,
    state: dict[str, Any],
    strategy: Strategy | None = None,
) -> Snapshot:
    """The state of now; its tensors are the training's own, which the next step changes. Sharded, every
    process has to ask."""
    weights = (strategy or SingleProcess()).checkpoint_weights(model)
    source, source_tensors = split_tensors(state.get("source"))
    return Snapshot(
        step,
        weights,
        optimizers.state_tensors(),
        generator_tensors(model),
        state | {"source": source},
        source_tensors,
    )


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizers: Optimizers,
    state: dict[str, Any],
    *,
    permanent_interval: int = 0,
    strategy: Strategy | None = None,
) -> Path:
    """Write the state of now; see `write_checkpoint`."""
    strategy = strategy or SingleProcess()
    return write_checkpoint(
        folder,
        take_snapshot(step, model, optimizers, state, strategy),
        permanent_interval=permanent_interval,
        group=strategy.group,
        in_shards=strategy.writes_shards,
    )


def write_checkpoint(
    folder: Path,
    snapshot: Snapshot,
    *,
    permanent_interval: int = 0,
    group: ProcessGroup = SINGLE_PROCESS,
    in_shards: bool = False,
) -> Path:
    """Write `folder/step-N`, read it back, and prune all but the newest. Call it in every process of `group`.

    Args:
        permanent_interval: of checkpoints at a multiple of it, the newest are kept besides the newest of all.
        in_shards: every process writes its part; else rank 0 writes for all.

    Raises:
        HanlinError: there is no room for it, the disk failed, or what can be read is not what was written.
            The checkpoints before it are untouched.
    """
    path = folder / f"step-{snapshot.step:08d}"
    if not in_shards:
        return group.run_on_rank0(lambda: _publish(path, snapshot, permanent_interval, None))
    tensors = snapshot.weights | snapshot.moments
    shards = group.run_on_rank0(lambda: _new_shard_folder(path, tensors))
    try:
        save_shards(tensors, shards, group)
        failpoint("checkpoint.after_shards")
        return group.run_on_rank0(lambda: _publish(path, snapshot, permanent_interval, shards))
    except HanlinError:
        if group.is_rank0:
            shutil.rmtree(shards, ignore_errors=True)
        raise


def _new_shard_folder(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """A directory for this one attempt: a process that was given up and comes back later writes nowhere near
    another's shards."""
    _require_room(path, [tensors])
    return Path(tempfile.mkdtemp(prefix=f".shards-{step_of(path):08d}.", dir=path.parent))


def _publish(path: Path, snapshot: Snapshot, permanent_interval: int, shards: Path | None) -> Path:
    """Write the checkpoint, with the snapshot's tensors or what lies in `shards`."""
    folder, step = path.parent, snapshot.step
    failpoint("checkpoint.before")
    weights, moments = {}, {}
    if shards is None:
        weights, moments = _on_cpu(snapshot.weights), _on_cpu(snapshot.moments)
        _require_room(path, [weights, moments, snapshot.generators, snapshot.source])
    with artifact(path, "checkpoint", config={"step": step, "format": FORMAT}) as written:
        if shards is None:
            _write(weights, written.path / "model.safetensors")
        else:
            for file in shards_of(shards):
                os.rename(file, written.path / file.name)
            shutil.rmtree(shards)
        failpoint("checkpoint.after_model")
        if shards is None:
            _write(moments, written.path / "optimizer.safetensors")
        _write(snapshot.generators, written.path / "generators.safetensors")
        if snapshot.source:
            _write(snapshot.source, written.path / SOURCE_TENSORS)
        failpoint("checkpoint.after_optimizer")
        write_json(written.path / "state.json", snapshot.state | {"step": step, "format": FORMAT})
        failpoint("checkpoint.after_state")
        failpoint("checkpoint.before_manifest")
    failpoint("checkpoint.after_rename")
    _read_back(path)
    failpoint("checkpoint.before_prune")
    require_held(path)
    prune(folder, permanent_interval)
    failpoint("checkpoint.after_prune")
    return path


def step_of(path: Path) -> int:
    """The step a checkpoint directory is of."""
    match = _STEP.search(path.name)
    assert match
    return int(match[1])


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint directories, newest first; unfinished and quarantined ones do not count."""
    return sorted(
        (path for path in folder.glob("step-*") if _STEP.search(path.name)), key=step_of, reverse=True
    )


def prune(folder: Path, permanent_interval: int = 0) -> None:
    """Remove checkpoints but the newest `KEEP` that look whole, and the newest `KEEP` such anchors."""
    whole = [path for path in list_checkpoints(folder) if _looks_whole(path)]
    anchors = [path for path in whole if permanent_interval and step_of(path) % permanent_interval == 0]
    kept = {*whole[:KEEP], *anchors[:KEEP]}
    for path in list_checkpoints(folder):
        if kept and path not in kept:
            shutil.rmtree(path, ignore_errors=True)


def discard_after(folder: Path, step: int) -> None:
    """Remove the checkpoints of steps beyond `step`, newest first: the run does not go that way."""
    require_held(folder)
    for path in list_checkpoints(folder):
        if step_of(path) > step:
            shutil.rmtree(path, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what a killed run left half-written, and put back a checkpoint that was just being replaced."""
    for leftover in folder.glob(".shards-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for leftover in folder.glob(".step-*.*.*"):
        sweep_temporaries(folder / leftover.name[1:].split(".")[0])


def _on_cpu(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _require_room(path: Path, parts: list[dict[str, torch.Tensor]]) -> None:
    """Refuse to begin what cannot be finished."""
    needed = sum(
        tensor.numel() * tensor.element_size() for tensors in parts for tensor in tensors.values()
    ) + (1 << 20)
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise HanlinError(
            "No room for the checkpoint {path}: {needed:,} bytes are needed, {free:,} are free. The "
            "earlier checkpoints are untouched. Free some space and run the same command: it goes on from "
            "there.",
            path=path,
            needed=needed,
            free=free,
        )


def _write(tensors: dict[str, torch.Tensor], file: Path) -> None:
    """Write one file of tensors; trouble of the disk is an `OSError`, as everywhere else."""
    try:
        safetensors.torch.save_file(tensors, file)
    except safetensors.SafetensorError as error:
        number = _SYSTEM_ERROR.search(str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(file)) from error


def _read_back(path: Path) -> None:
    """Check what was written by its hashes, past the page cache where the system lets us."""
    try:
        if hasattr(os, "posix_fadvise"):
            for file in path.iterdir():
                descriptor = os.open(file, os.O_RDONLY)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)
        read_manifest(path, "checkpoint")
    except (HanlinError, OSError) as error:
        with contextlib.suppress(OSError):
            os.rename(path, path.with_name(path.name + ".damaged"))
        raise error if isinstance(error, HanlinError) else disk_full(path, error) from error


def _looks_whole(path: Path) -> bool:
    """Whether a checkpoint has its manifest and files of the right sizes; hashes are for those who load
    it."""
    try:
        manifest = read_manifest(path, "checkpoint", verify=False)
        return (path / MANIFEST).is_file() and all(
            (path / name).stat().st_size == entry["bytes"] for name, entry in manifest.files.items()
        )
    except (HanlinError, OSError, KeyError, TypeError):
        return False
