"""Reading checkpoints back: the newest that verifies, whatever number of processes wrote it; damaged ones put
aside."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
from torch import nn

from hanlin.common.atomic import read_json
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import read_manifest
from hanlin.training.checkpoint.format import FORMAT, list_checkpoints, step_of
from hanlin.training.checkpoint.generators import restore_generators
from hanlin.training.checkpoint.shards import load_shards, names_in, shards_of
from hanlin.training.checkpoint.source_state import SOURCE_TENSORS, join_tensors
from hanlin.training.distributed.strategy import SingleProcess, Strategy, trained_weights
from hanlin.training.optim.optimizers import Optimizers

_RENAMED_IN_3 = {"offset": "data_offset", "halvings": "microbatch_halvings", "bad": "bad_steps"}

Warn = Callable[..., None]  # takes a message and its fields
T = TypeVar("T")


def load_latest(
    folder: Path,
    model: nn.Module,
    optimizers: Optimizers,
    warn: Warn,
    *,
    at_most: int | None = None,
    multiple_of: int = 1,
    strategy: Strategy | None = None,
) -> dict[str, Any] | None:
    """Restore the newest checkpoint that verifies and return its state; `None` when there is none.

    A damaged one is renamed to `NAME.damaged`, reported through `warn`, and the one before it is
    tried.

    Args:
        at_most: only steps up to this one; multiple_of: only steps that are a multiple of it.
        strategy: every process takes the same one, by whatever number of processes it was written.
    """
    strategy = strategy or SingleProcess()
    if strategy.group.world_size == 1 and not strategy.sharded:
        return _newest(
            folder, lambda path: _load(path, model, optimizers, strategy), warn, at_most, multiple_of
        )
    path = strategy.group.run_on_rank0(lambda: _newest(folder, _verified, warn, at_most, multiple_of))
    return None if path is None else _load(path, model, optimizers, strategy, verify=False)


def data_mismatch_error(folder: Path, state: dict[str, Any], now: dict[str, Any]) -> HanlinError:
    """The error of a resume from another origin or with other samples: what differs, the checkpoint's value
    first."""
    before = state["identity"]
    changed = [
        (name, before.get(name), now.get(name))
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]
    shown = "; ".join(f"{name}: {_short(old)} → {_short(new)}" for name, old, new in changed) or "config_hash"
    return HanlinError(
        "The checkpoints in {folder} come from another start or from other data ({shown}). Restore the "
        "model, data and settings, or remove {folder} to start over.",
        folder=folder,
        shown=shown,
    )


def _newest(
    folder: Path, load: Callable[[Path], T], warn: Warn, at_most: int | None, multiple_of: int
) -> T | None:
    """What `load` makes of the newest checkpoint that it can load."""
    for path in list_checkpoints(folder):
        if (at_most is not None and step_of(path) > at_most) or step_of(path) % multiple_of:
            continue
        try:
            return load(path)
        except HanlinError as error:
            with contextlib.suppress(OSError):
                aside = path.with_name(path.name + ".damaged")
                shutil.rmtree(aside, ignore_errors=True)
                os.rename(path, aside)
            warn("Checkpoint {path} is unusable, trying the one before it: {error}", path=path, error=error)
    return None


def _verified(path: Path) -> Path:
    read_manifest(path, "checkpoint")
    _read_state(path)
    return path


def _read_state(path: Path) -> dict[str, Any]:
    """The state of a checkpoint, in the words of today's format.

    Raises:
        HanlinError: its format is another one.
    """
    state = read_json(path / "state.json")
    if state.get("format") == 2:
        state = {_RENAMED_IN_3.get(str(name), str(name)): value for name, value in state.items()}
    elif state.get("format") != FORMAT:
        raise HanlinError(
            "another version of Hanlin wrote it (format {format}).", format=state.get("format", 1)
        )
    tensors = path / SOURCE_TENSORS
    if tensors.is_file():
        state["source"] = join_tensors(state["source"], safetensors.torch.load_file(tensors))
    return state


def _load(
    path: Path, model: nn.Module, optimizers: Optimizers, strategy: Strategy, verify: bool = True
) -> dict[str, Any]:
    if verify:
        read_manifest(path, "checkpoint")
    state = _read_state(path)
    optimizers.forget()  # what the checkpoint does not know was zero then
    if strategy.writes_shards or shards_of(path):
        _load_shards(path, model, optimizers, strategy)
        restore_generators(safetensors.torch.load_file(path / "generators.safetensors"))
        return state
    strategy.load_weights(model, path / "model.safetensors")
    try:
        optimizers.load_state_tensors(safetensors.torch.load_file(path / "optimizer.safetensors"))
    except KeyError as error:
        raise HanlinError("its optimiser state is not this model's ({error}).", error=error) from None
    restore_generators(safetensors.torch.load_file(path / "generators.safetensors"))
    return state


def _load_shards(path: Path, model: nn.Module, optimizers: Optimizers, strategy: Strategy) -> None:
    """Weights and optimiser state, however they were cut when they were written and however they are to be
    cut here."""
    if strategy.sharded and not strategy.writes_shards:
        raise HanlinError(
            "The processes of fsdp or hsdp wrote the checkpoint {path} together, and deepspeed cannot read "
            "it. Go on with fsdp or one process, or remove {parent} to start over.",
            path=path,
            parent=path.parent,
        )
    weights = trained_weights(model)
    names = {name for name in names_in(path, but={"generators.safetensors", SOURCE_TENSORS}) if "/" in name}
    moments = optimizers.empty_state(names)
    load_shards(weights | moments, path, strategy.group, strategy.sharded)
    optimizers.load_state_tensors(moments)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else text[:12] + "…"
