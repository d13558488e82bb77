"""Tensors that several processes write and read together, by torch.distributed.checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from hanlin.common.errors import HanlinError
from hanlin.training.distributed.process_group import ProcessGroup


def shards_of(folder: Path) -> list[Path]:
    """Files of a checkpoint that several processes wrote together."""
    return sorted(folder.glob("shard-*.safetensors"))


def save_shards(tensors: dict[str, torch.Tensor], folder: Path, group: ProcessGroup) -> None:
    """Every process writes its part of `tensors` into `folder`, by torch.distributed.checkpoint as
    safetensors."""
    import torch.distributed.checkpoint as dcp

    try:
        writer = dcp.HuggingFaceStorageWriter(  # type: ignore[reportPrivateImportUsage]
            path=str(folder), save_distributed=True
        )
        dcp.save(  # type: ignore[reportPrivateImportUsage]
            tensors, storage_writer=writer, process_group=group.handle
        )
    except dcp.api.CheckpointException as error:  # every process has it, whichever failed
        reason = "; ".join(f"{rank}: {failure[0]}" for rank, failure in error.failures.items())
        raise HanlinError(
            "The checkpoint could not be written ({reason}). The earlier ones are whole. Check the disk "
            "and run the same command again.",
            reason=reason,
        ) from error


def load_shards(tensors: dict[str, torch.Tensor], folder: Path, group: ProcessGroup, sharded: bool) -> None:
    """Fill `tensors`, `sharded` over the group as they are here, from what any number of processes wrote, or
    from a checkpoint of one."""
    from torch.distributed.checkpoint import (
        HuggingFaceStorageReader,  # type: ignore[attr-defined]
        load,  # type: ignore[attr-defined]
    )

    reader = HuggingFaceStorageReader(str(folder))
    load(
        tensors,
        storage_reader=reader,
        no_dist=not sharded,
        process_group=group.handle,
    )


def names_in(folder: Path, but: set[str]) -> set[str]:
    """Names of the tensors in the safetensors files of a checkpoint, `but` some files."""
    from safetensors import safe_open

    names: set[str] = set()
    for file in folder.glob("*.safetensors"):
        if file.name in but:
            continue
        with safe_open(file, framework="pt") as handle:
            names |= set(handle.keys())
    return names
