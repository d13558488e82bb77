"""What a training step will take, found by running it on tensors without data: memory, kernels, work and
traffic.

The model, the loss, the clipping and the optimisers are the real ones, on fake tensors (shapes and storages,
no numbers), so the answer follows the code as it changes and costs a second whatever the size. Every storage
that is born or dies is counted.
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

from hanlin.common.devices import free_memory, is_discrete
from hanlin.common.errors import HanlinError
from hanlin.common.hardware import GPU_ALLOCATOR
from hanlin.common.messages import Text, joined
from hanlin.common.terminal import memory_size
from hanlin.model import CausalLM, ModelConfig
from hanlin.training.config import TrainConfig
from hanlin.training.optim.optimizers import Optimizers

# Bytes that glibc's heap takes for each one in use, measured here on four shapes: 1.5 to 1.7. Blocks below 32
# MiB stay in the heap when they are freed, and the holes do not fit the next ones. Returning them at once
# would cost half of the speed (docs/*/lab-log.md).
CPU_ALLOCATOR = 1.55


@dataclasses.dataclass(frozen=True)
class StepSpec:
    """What decides the memory of a step besides the model.

    Attributes:
        seq_len: tokens in a row.
        rows: rows in one forward pass.
        micros: forward passes in a step; from the second on, the gradients of the first lie beside the
            activations.
        dtype: type of the matrix products, `float32` or an autocast type such as `bfloat16`.
        document_mask: whether rows carry an attention mask per document.
        checkpoint_activations: whether layers are computed again in the backward pass instead of being kept.
        offload: whether the optimiser's state is on the host but for the piece that is being updated.
        copied: whether checkpoints are written from a copy of the state that lies in the same memory.
        recompute_qk: whether wide layers make queries and keys again in the backward pass, as on a CPU.
    """

    seq_len: int
    rows: int
    micros: int = 1
    dtype: str = "float32"
    document_mask: bool = True
    checkpoint_activations: bool = False
    offload: bool = False
    copied: bool = False
    recompute_qk: bool = True


Work = tuple[float, float]  # floating-point operations and bytes moved of one kernel


@dataclasses.dataclass(frozen=True)
class StepCost:
    """Memory in bytes and work of a step in a steady state (the optimiser's state exists).

    Attributes:
        weights, gradients, optimizer: what lies there for good, or from backward to update.
        activations: what the forward pass of one micro-batch leaves for its backward pass, the batch itself
            included.
        backward_peak: most that is alive at once while gradients are computed; `update_peak`: while weights
            are updated.
        forward_backward: kernels of one micro-batch.
        update: kernels of clipping and update.
        host: state of the optimiser that lies in host memory.
        copy: of weights and optimiser's state, to write checkpoints from, in the memory that is counted.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    backward_peak: int
    update_peak: int
    forward_backward: tuple[Work, ...]
    update: tuple[Work, ...]
    host: int = 0
    copy: int = 0

    @property
    def peak(self) -> int:
        """Most bytes alive at once, without the framework's own."""
        return max(self.backward_peak, self.update_peak) + self.copy

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
    if (
        "attention" in name
    ):  # not in torch's table, or not all of them: two products forward, five backward, masked ones included
        q = args[1] if "backward" in name else args[0]
        length = q.shape[1] if "document_attention" in name else q.shape[-2]  # (B, T, H, D) or (B, H, T, D)
        return (10.0 if "backward" in name else 4.0) * q.numel() * length
    # addmm_ is addmm
    plain = (
        getattr(torch.ops.aten, name.removeprefix("aten::").removesuffix("_"), None)
        if name.startswith("aten::")
        else None
    )
    count = flop_registry.get(func.overloadpacket) or flop_registry.get(plain)
    return float(count(*args, **kwargs, out_val=result)) if count is not None else 0.0


def trace_step(config: ModelConfig, train: TrainConfig, spec: StepSpec) -> StepCost:
    """Cost of a training step on next tokens.

    Args:
        config: the model; its weights are never made.
        train: decides the optimisers.
    """
    with FakeTensorMode(), _Ledger() as ledger:
        model: Any = CausalLM(config)
        model.recompute_qk = spec.recompute_qk
        if spec.checkpoint_activations:
            model.checkpoint_activations = True
        model.train()
        weights = ledger.live
        optimizers = Optimizers(
            model,
            learning_rate=train.learning_rate,
            muon=train.muon,
            embedding_scale=train.embedding_scale,
            weight_decay=train.weight_decay,
            betas=(0.9, train.beta2),
            offload=spec.offload,
        )
        _forward_backward(model, spec, spec.rows)
        gradients = sum(p.numel() * p.element_size() for p in model.parameters() if p.grad is not None)
        optimizers.step(1.0)
        optimizer = ledger.live - weights
        ledger.take()
        activations, backward_peak, kernels = 0, 0, ()
        for _ in range(min(2, spec.micros)):  # the third micro-batch is like the second
            activations = _forward_backward(model, spec, spec.rows * spec.micros, ledger)
            peak, kernels = ledger.take()
            backward_peak = max(backward_peak, peak)
        nn.utils.clip_grad_norm_(model.parameters(), train.max_grad_norm)
        optimizers.step(1.0)
        update_peak, update = ledger.take()
    if spec.offload:  # the trace has one memory, in which the host's copy was alive throughout
        return StepCost(
            weights,
            gradients,
            0,
            activations,
            backward_peak - optimizer,
            update_peak - optimizer,
            kernels,
            update,
            optimizer,
        )
    copy = weights + optimizer if spec.copied else 0
    return StepCost(
        weights, gradients, optimizer, activations, backward_peak, update_peak, kernels, update, copy=copy
    )


def _forward_backward(model: Any, spec: StepSpec, rows_of_step: int, ledger: _Ledger | None = None) -> int:
    """One micro-batch as `stages.supervised.NextTokenLoss` computes it, every token learnt; bytes alive
    between forward and backward."""
    before = ledger.live if ledger is not None else 0
    # a batch source makes the step's rows at once
    held = [torch.zeros(rows_of_step, spec.seq_len, dtype=torch.int64) for _ in range(4)]
    ids, labels, positions, doc_ids = (tensor[: spec.rows] for tensor in held)
    place = torch.zeros(spec.rows * spec.seq_len, dtype=torch.int64)
    with torch.autocast("cpu", getattr(torch, spec.dtype), enabled=spec.dtype != "float32"):
        hidden = model.hidden(
            ids, **({"positions": positions, "doc_ids": doc_ids} if spec.document_mask else {})
        )
        loss, _ = model.head.cross_entropy(
            hidden.flatten(0, 1).index_select(0, place), labels.flatten().index_select(0, place), z_loss=1e-4
        )
    del hidden
    kept = ledger.live - before if ledger is not None else 0
    (loss / 2.0).backward()
    return kept


@dataclasses.dataclass(frozen=True)
class MicroBatchFit:
    """A micro-batch that fits: its rows, the cost of the step, the expected peak and the memory there was, in
    bytes."""

    rows: int
    cost: StepCost
    peak: float
    memory: float


@dataclasses.dataclass(frozen=True)
class MemoryBudget:
    """Memory for a training.

    Attributes:
        memory: bytes that are free.
        baseline: bytes of them that the framework takes for itself.
        allocator: bytes taken from the system for each byte in use.
        most_tokens: of a micro-batch; beyond it nothing is gained.
        own: whether it is the device's own memory, beside which the host's can be used.
    """

    memory: float
    baseline: float = 0.0
    allocator: float = CPU_ALLOCATOR
    most_tokens: int = 8192
    own: bool = False

    def peak(self, cost: StepCost) -> float:
        """Bytes that the step will have taken from the system."""
        return self.baseline + self.allocator * cost.peak


def training_memory_budget(device: torch.device) -> MemoryBudget:
    """What is free on a device now, for this process, with a tenth left to others."""
    if device.type == "cpu":
        return MemoryBudget(0.9 * free_memory(device))
    return MemoryBudget(0.9 * free_memory(device), 0.0, GPU_ALLOCATOR, 65536, is_discrete(device))


def fit_step(
    config: ModelConfig, train: TrainConfig, spec: StepSpec, rows_of_step: int, budget: MemoryBudget
) -> MicroBatchFit:
    """The largest power of two of rows, `spec.rows` at most, whose step stays within the budget.

    Raises:
        HanlinError: not even one row fits; names what would help, cheapest first, with the memory each would
            take.
    """

    def cost_of(rows: int) -> StepCost:
        return trace_step(
            config, train, dataclasses.replace(spec, rows=rows, micros=-(-rows_of_step // rows))
        )

    rows = 1 << (max(1, min(spec.rows, rows_of_step, budget.most_tokens // spec.seq_len)).bit_length() - 1)
    cost = cost_of(rows)
    while rows > 1 and budget.peak(cost) > budget.memory:
        lasting = budget.baseline + budget.allocator * (cost.weights + cost.gradients + cost.optimizer)
        # the rest grows with the rows
        fitting = int((budget.memory - lasting) / max(1.0, budget.peak(cost) - lasting) * rows)
        rows = min(rows // 2, 1 << (fitting.bit_length() - 1)) if fitting >= 1 else 1
        cost = cost_of(rows)
    if budget.peak(cost) > budget.memory:
        raise _too_large(config, train, spec, budget, cost)
    return MicroBatchFit(rows, cost, budget.peak(cost), budget.memory)


def _too_large(
    config: ModelConfig, train: TrainConfig, spec: StepSpec, budget: MemoryBudget, cost: StepCost
) -> HanlinError:
    """What to do, cheapest first: recompute activations, keep the optimiser's state on the host, shorter
    rows, a smaller model."""
    one = dataclasses.replace(spec, rows=1, micros=2)
    offers: list[Text] = []
    if not spec.checkpoint_activations:
        less = budget.peak(trace_step(config, train, dataclasses.replace(one, checkpoint_activations=True)))
        if less < 0.95 * budget.peak(cost):
            offers.append(
                Text("checkpoint_activations: true ({less}, slower by a third or so)", less=memory_size(less))
            )
    if budget.own and not spec.offload:
        less = budget.peak(
            trace_step(config, train, dataclasses.replace(one, checkpoint_activations=True, offload=True))
        )
        moved = memory_size(2.0 * cost.optimizer)
        offers.append(
            Text(
                "train.offload_optimizer: true besides ({less}, {moved} over the bus at each step)",
                less=memory_size(less),
                moved=moved,
            )
        )
    if spec.seq_len >= 256:
        less = budget.peak(trace_step(config, train, dataclasses.replace(one, seq_len=spec.seq_len // 2)))
        offers.append(Text("seq_len: {seq_len} ({less})", seq_len=spec.seq_len // 2, less=memory_size(less)))
    offers.append(Text("a smaller model (--params)"))
    return HanlinError(
        "Training on one row of {seq_len} tokens takes {peak}, and there is {memory}. To try, in this order: "
        "{offers}.",
        seq_len=spec.seq_len,
        peak=memory_size(budget.peak(cost)),
        memory=memory_size(budget.memory),
        offers=joined(offers, Text("; ")),
    )
