"""A function of whole matrices, where every process has some rows of each: the matrices are dealt out, and
nobody does another's.

The rows travel to the owner of their matrix and the owner's result travels back, by one exchange each way for
all matrices of a
shape: what the public implementations of Muon for sharded training do (Ahn et al., "Dion: Distributed
Orthonormalized Updates", 2025, and its code base). Gathering every matrix in every process, the other way,
sends half as many times again as there are processes and repeats the work in each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist


def distributed_muon(
    function: Callable[[torch.Tensor], torch.Tensor], matrices: Sequence[Any], first: int = 0
) -> torch.Tensor | None:
    """Apply `function` to matrices of one shape that are sharded by rows over one group of processes (and may
    be repeated on others).

    Args:
        function: (N, rows, columns) → the same shape, each matrix on its own.
        matrices: DTensors. Every process of the group calls this with the same ones.
        first: the group's member that takes the first matrix; the next takes the second.

    Returns:
        This process' rows of each result, (N, its rows, columns); None where the matrices are not sharded
        like that.
    """
    group = _group_by_rows(matrices[0])
    if group is None:
        return None
    size, me = dist.get_world_size(group), dist.get_rank(group)
    rows, columns = matrices[0].shape
    # as torch.chunk cuts
    heights = [len(range(rows)[member * -(-rows // size) :][: -(-rows // size)]) for member in range(size)]
    owned = [
        [place for place in range(len(matrices)) if (place + first) % size == member]
        for member in range(size)
    ]
    local = [matrix.to_local() for matrix in matrices]
    of_owner = [len(places) * heights[me] * columns for places in owned]  # my rows of each member's matrices
    of_member = [len(owned[me]) * height * columns for height in heights]  # each member's rows of my matrices
    sent = torch.cat([local[place].reshape(-1) for places in owned for place in places])
    received = sent.new_empty(sum(of_member))
    dist.all_to_all_single(received, sent, of_member, of_owner, group=group)
    if owned[me]:
        whole = torch.cat(
            [
                part.view(len(owned[me]), height, columns)
                for part, height in zip(received.split(of_member), heights, strict=True)
            ],
            dim=1,
        )
        received = torch.cat([part.reshape(-1) for part in function(whole).split(heights, dim=1)])
    dist.all_to_all_single(sent, received, of_owner, of_member, group=group)
    order = torch.tensor([place for places in owned for place in places], device=sent.device)
    return sent.view(len(matrices), heights[me], columns).index_select(0, order.argsort())


def _group_by_rows(matrix: Any) -> Any:
    """The processes over which a DTensor's rows are sharded; None where it is cut in any other way."""
    from torch.distributed.tensor import Shard

    dimensions = [place for place, kind in enumerate(matrix.placements) if not kind.is_replicate()]
    if len(dimensions) != 1 or matrix.placements[dimensions[0]] != Shard(0):
        return None
    return matrix.device_mesh.get_group(dimensions[0])
