"""What batch sources remember, of every process, in a checkpoint.

A source's state is nested dicts and lists of tensors and JSON-able values. In a checkpoint the tensors lie in
`source.safetensors`, and `state.json` has, by rank, the rest with a reference in each tensor's place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hanlin.training.contract import BatchSource
from hanlin.training.distributed.process_group import ProcessGroup
from hanlin.training.distributed.shard import DataShard

SOURCE_TENSORS = "source.safetensors"
_REFERENCE = "$tensor"


def gather_source_state(source: BatchSource, group: ProcessGroup) -> list[Any] | None:
    """What the source remembers in each process, by rank, in rank 0; None elsewhere, and where it remembers
    nothing.

    Call it in every process. The tensors are copies on the host: the source may go on while they are written.
    """
    state = source.state_dict()
    states = group.gather_object(None if state is None else _map_tensors(state, _host_copy))
    return None if all(state is None for state in states) else states


def restore_source_state(source: BatchSource, states: list[Any] | None, shard: DataShard) -> None:
    """Give the source back what it remembered in this process.

    Raises:
        HanlinError: another number of processes wrote the checkpoint, and the source cannot make one state of
            several.
    """
    if states is None:
        return
    same_number = len(states) == shard.world_size
    source.load_state_dict(states[shard.rank] if same_number else source.merge_state_dicts(states, shard))


def split_tensors(states: list[Any] | None) -> tuple[Any, dict[str, torch.Tensor]]:
    """The JSON-able part of states, and their tensors by the name that stands in their place."""
    tensors: dict[str, torch.Tensor] = {}

    def refer(tensor: torch.Tensor) -> dict[str, str]:
        name = f"source.{len(tensors)}"
        tensors[name] = tensor.contiguous()
        return {_REFERENCE: name}

    return _map_tensors(states, refer), tensors


def join_tensors(states: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """The states again that `split_tensors` was given."""
    if isinstance(states, dict):
        if states.keys() == {_REFERENCE}:
            return tensors[states[_REFERENCE]]
        return {name: join_tensors(value, tensors) for name, value in states.items()}
    return [join_tensors(value, tensors) for value in states] if isinstance(states, list) else states


def _map_tensors(value: Any, function: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {str(name): _map_tensors(item, function) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_map_tensors(item, function) for item in value]
    return value


def _host_copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True)
