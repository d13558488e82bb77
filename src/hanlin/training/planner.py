"""What a training step will take, found by running it on tensors without data: memory, kernels, work and traffic.

The model, the loss, the clipping and the optimisers are the real ones, on fake tensors (shapes and storages, no numbers), so the
answer follows the code as it changes and costs a second whatever the size. Every storage that is born or dies is counted.
"""

from __future__ import annotations

import dataclasses
import weakref
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ..model import CausalLM, ModelConfig, linear_cross_entropy
from .loop import TrainConfig
from .optim import Optimizers


@dataclasses.dataclass(frozen=True)
class StepShape:
    """What decides the memory of a step besides the model.

    Attributes:
        seq_len: tokens in a row.
        rows: rows in one forward pass.
        micros: forward passes in a step; from the second on, the gradients of the first lie beside the activations.
        dtype: type of the matrix products, `float32` or an autocast type such as `bfloat16`.
        document_mask: whether rows carry an attention mask per document.
        checkpoint_activations: whether layers are computed again in the backward pass instead of being kept.
    """

    seq_len: int
    rows: int
    micros: int = 1
    dtype: str = "float32"
    document_mask: bool = True
    checkpoint_activations: bool = False


Work = tuple[float, float]  # floating-point operations and bytes moved of one kernel


@dataclasses.dataclass(frozen=True)
class StepCost:
    """Memory in bytes and work of a step in a steady state (the optimiser's state exists).

    Attributes:
        weights, gradients, optimizer: what lies there for good, or from backward to update.
        activations: what the forward pass of one micro-batch leaves for its backward pass, the batch itself included.
        backward_peak: most that is alive at once while gradients are computed; `update_peak`: while weights are updated.
        forward_backward: kernels of one micro-batch.
        update: kernels of clipping and update.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    backward_peak: int
    update_peak: int
    forward_backward: tuple[Work, ...]
    update: tuple[Work, ...]

    @property
    def peak(self) -> int:
        """Most bytes alive at once, without the framework's own."""
        return max(self.backward_peak, self.update_peak)

    @property
    def temporary(self) -> int:
        """The part of the peak that is none of the four lasting ones."""
        return max(0, self.peak - self.weights - self.gradients - self.optimizer - self.activations)


class _Ledger(TorchDispatchMode):
    """Counts the bytes of all storages made under it, and the work of every kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.kernels: list[Work] = []
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        new = sum(self.note(tensor) for tensor in made)
        if new or func._schema.is_mutable:
            read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
            moved = sum(t.numel() * t.element_size() for t in (*read, *made))
            self.kernels.append((_flops(func, args, kwargs or {}, result), float(moved)))
        return result

    def note(self, tensor: torch.Tensor) -> bool:
        """Enter a tensor's storage if it is new; whether it was."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._sizes:
            return False
        self._sizes[key] = storage.nbytes()
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key)
        return True

    def _forget(self, key: int) -> None:
        self.live -= self._sizes.pop(key)

    def take(self) -> tuple[int, tuple[Work, ...]]:
        """Peak and kernels since the last call."""
        peak, kernels = self.peak, tuple(self.kernels)
        self.peak, self.kernels = self.live, []
        return peak, kernels


def _flops(func: Any, args: Any, kwargs: dict[str, Any], result: Any) -> float:
    name = func._schema.name
    if "scaled_dot_product" in name:  # not all of them are in torch's table: two products forward, five backward
        q, k = (args[1], args[2]) if "backward" in name else (args[0], args[1])
        return (10.0 if "backward" in name else 4.0) * q.numel() * k.shape[-2]
    count = flop_registry.get(func.overloadpacket)
    return float(count(*args, **kwargs, out_val=result)) if count is not None else 0.0


def trace_step(config: ModelConfig, train: TrainConfig, shape: StepShape) -> StepCost:
    """Cost of a training step on next tokens.

    Args:
        config: the model; its weights are never made.
        train: decides the optimisers.
    """
    with FakeTensorMode(), _Ledger() as ledger:
        model: Any = CausalLM(config)
        if shape.checkpoint_activations:
            model.checkpoint_activations = True
        model.train()
        optimizers = Optimizers(
            model, learning_rate=train.learning_rate, muon=train.muon, embedding_scale=train.embedding_scale, weight_decay=train.weight_decay,
            betas=(0.9, train.beta2),
        )  # fmt: skip
        weights = ledger.live
        _forward_backward(model, shape, shape.rows)
        gradients = sum(p.numel() * p.element_size() for p in model.parameters() if p.grad is not None)
        optimizers.step(1.0)
        optimizer = ledger.live - weights
        ledger.take()
        activations, backward_peak, kernels = 0, 0, ()
        for _ in range(min(2, shape.micros)):  # the third micro-batch is like the second
            activations = _forward_backward(model, shape, shape.rows * shape.micros, ledger)
            peak, kernels = ledger.take()
            backward_peak = max(backward_peak, peak)
        nn.utils.clip_grad_norm_(model.parameters(), train.clip)
        optimizers.step(1.0)
        update_peak, update = ledger.take()
    return StepCost(weights, gradients, optimizer, activations, backward_peak, update_peak, kernels, update)


def _forward_backward(model: Any, shape: StepShape, rows_of_step: int, ledger: _Ledger | None = None) -> int:
    """One micro-batch as `stages.supervised.NextToken` computes it, every token learnt; bytes alive between forward and backward."""
    before = ledger.live if ledger is not None else 0
    held = [torch.zeros(rows_of_step, shape.seq_len, dtype=torch.int64) for _ in range(4)]  # a batch source makes the step's rows at once
    ids, labels, positions, doc_ids = (tensor[: shape.rows] for tensor in held)
    place = torch.zeros(shape.rows * shape.seq_len, dtype=torch.int64)
    with torch.autocast("cpu", getattr(torch, shape.dtype), enabled=shape.dtype != "float32"):
        hidden = model.hidden(ids, **({"positions": positions, "doc_ids": doc_ids} if shape.document_mask else {}))
        loss, _ = linear_cross_entropy(hidden[place, place], model.head_weight, labels[place, place], z_loss=1e-4)
    del hidden
    kept = ledger.live - before if ledger is not None else 0
    (loss / 2.0).backward()
    return kept


def fitting_rows(config: ModelConfig, train: TrainConfig, shape: StepShape, rows_of_step: int, memory: float) -> tuple[int, StepCost]:
    """The largest power-of-two number of rows whose step stays within `memory` bytes, `shape.rows` at most; 1 even if it does not.

    Returns:
        The rows, and the cost with them.
    """

    def cost_of(rows: int) -> StepCost:
        return trace_step(config, train, dataclasses.replace(shape, rows=rows, micros=-(-rows_of_step // rows)))

    rows = 1 << (max(1, min(shape.rows, rows_of_step)).bit_length() - 1)
    cost = cost_of(rows)
    while rows > 1 and cost.peak > memory:
        lasting = cost.weights + cost.gradients + cost.optimizer
        room = (memory - lasting) / max(1, cost.peak - lasting) * rows  # what is not lasting grows with the rows
        rows = max(1, min(rows // 2, 1 << max(0, int(room).bit_length() - 1))) if room >= 1 else 1
        cost = cost_of(rows)
    return rows, cost
