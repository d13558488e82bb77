"""Tensors that several processes write and read together, by torch.distributed.checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from hanlin.common.errors import HanlinError
from hanlin.training.distributed.strategy import Team


def shards_of(folder: Path) -> list[Path]:
    """Files of a checkpoint that several processes wrote together."""
    return sorted(folder.glob("shard-*.safetensors"))


def save_shards(tensors: dict[str, torch.Tensor], folder: Path, team: Team) -> None:
    """Every process writes its part of `tensors` into `folder`, by torch.distributed.checkpoint as safetensors."""
    import torch.distributed.checkpoint as dcp

    try:
        writer = dcp.HuggingFaceStorageWriter(  # type: ignore[reportPrivateImportUsage]
            path=str(folder), save_distributed=True
        )
        control = team._control  # type: ignore[attr-defined]
        dcp.save(  # type: ignore[reportPrivateImportUsage]
            tensors, storage_writer=writer, process_group=control
        )
    except dcp.api.CheckpointException as error:  # every process has it, whichever failed
        reason = "; ".join(f"{rank}: {failure[0]}" for rank, failure in error.failures.items())
        raise HanlinError(
            f"检查点没有写成（{reason}）。先前的检查点完好。请检查磁盘，再运行同一条命令。",
            f"The checkpoint could not be written ({reason}). The earlier ones are whole. Check the disk and run the same command again.",
        ) from error


def load_shards(tensors: dict[str, torch.Tensor], folder: Path, team: Team) -> None:
    """Fill `tensors`, sharded as they are here, from what any number of processes wrote, or from a checkpoint of one."""
    from torch.distributed.checkpoint import (
        HuggingFaceStorageReader,  # type: ignore[attr-defined]
        load,  # type: ignore[attr-defined]
    )

    reader = HuggingFaceStorageReader(str(folder))
    load(
        tensors,
        storage_reader=reader,
        no_dist=not team.sharded,
        process_group=getattr(team, "_control", None),
    )


def names_in(folder: Path, but: str) -> set[str]:
    """Names of the tensors in the safetensors files of a checkpoint, `but` one."""
    from safetensors import safe_open

    found: set[str] = set()
    for file in folder.glob("*.safetensors"):
        if file.name == but:
            continue
        with safe_open(file, framework="pt") as handle:
            found |= set(handle.keys())
    return found
