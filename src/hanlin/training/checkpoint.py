"""Checkpoints of a run in progress: verified directories, newest first, damaged ones put aside.

Protocol: temporary sibling → files → manifest with SHA-256 → fsync → rename → fsync of the parent → prune. A checkpoint
holds weights and optimiser state as safetensors and the rest as JSON; nothing in it can run code.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from ..common.atomic import read_json, write_json
from ..common.errors import HanlinError
from ..common.failpoints import failpoint
from ..common.manifest import artifact, read_manifest
from ..model import load_weights
from .optim import Optimizers

_STEP = re.compile(r"step-(\d+)$")


def save_checkpoint(folder: Path, step: int, model: nn.Module, optimizers: Optimizers, state: dict[str, Any], keep: int = 2) -> Path:
    """Write `folder/step-N` and prune all but the newest `keep` checkpoints.

    Args:
        state: JSON-able: data fingerprint, counters, guard history.
    """
    path = folder / f"step-{step:08d}"
    failpoint("checkpoint.before")
    with artifact(path, "checkpoint", config={"step": step}) as written:
        safetensors.torch.save_file({n: t.detach().cpu().contiguous() for n, t in model.state_dict().items()}, written.path / "model.safetensors")
        failpoint("checkpoint.after_model")
        safetensors.torch.save_file({n: t.detach().cpu().contiguous() for n, t in optimizers.state_tensors().items()}, written.path / "optimizer.safetensors")
        failpoint("checkpoint.after_optimizer")
        write_json(written.path / "state.json", state | {"step": step})
    failpoint("checkpoint.before_prune")
    for old in list_checkpoints(folder)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint directories, newest first; unfinished and quarantined ones do not count."""
    found = [(int(match[1]), path) for path in folder.glob("step-*") if (match := _STEP.search(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def load_latest(folder: Path, model: nn.Module, optimizers: Optimizers, warn) -> dict[str, Any] | None:
    """Restore the newest checkpoint that verifies and return its state; `None` when there is none.

    A damaged one is renamed to `NAME.damaged`, reported through `warn(zh, en)`, and the one before it is tried.
    """
    for path in list_checkpoints(folder):
        try:
            read_manifest(path, "checkpoint")
            load_weights(model, path / "model.safetensors")
            optimizers.load_state_tensors(safetensors.torch.load_file(path / "optimizer.safetensors"))
            return read_json(path / "state.json")
        except HanlinError as error:
            with contextlib.suppress(OSError):
                os.rename(path, path.with_name(path.name + ".damaged"))
            warn(f"检查点 {path} 不可用，改用更早的一个：{error.zh}", f"Checkpoint {path} is unusable, trying the one before it: {error.en}")
    return None
