"""What several devices cost besides the work: bytes on the wires in a step, the seconds they take, and the
memory that is shared out.

Ring collectives (Patarasuk and Yuan 2009): an all-reduce of B bytes over W ranks sends 2·(W-1)/W·B from each,
a gather or a scatter half of that, and one ring crosses each machine's wire once in each direction. Nothing
is taken to overlap with computing, though DDP begins to send before the last backward pass has ended.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from hanlin.common.messages import Text, tr
from hanlin.model import ModelConfig
from hanlin.training.step_estimate import MemoryBudget, StepCost

Strategy = Literal["ddp", "fsdp", "hsdp"]
STRATEGIES: tuple[Strategy, ...] = ("ddp", "fsdp", "hsdp")
NETWORK_EFFICIENCY = 0.8  # of a network's nominal rate that TCP reaches, recalled
MUCH = 0.3  # of a step: from here on communication is worth doing something about
_WIDTH = 4  # bytes of a weight or a gradient on the wire: both are float32


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Devices that train together.

    Attributes:
        nodes, gpus: machines, and devices in each.
        network: Gbit/s between machines.
        link: GB/s between the devices of a machine.
    """

    nodes: int
    gpus: int
    network: float
    link: float

    @property
    def workers(self) -> int:
        """Devices in all."""
        return self.nodes * self.gpus

    def shards(self, strategy: Strategy) -> int:
        """Devices that share one copy of weights, gradients and optimiser state."""
        return {"ddp": 1, "fsdp": self.workers, "hsdp": self.gpus}[strategy]


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Of one step: bytes each device sends to others, bytes that leave a machine, and seconds."""

    sent: float = 0.0
    leaving: float = 0.0
    seconds: float = 0.0


def step_traffic(cluster: Cluster, strategy: Strategy, parameters: int, micros: int) -> Traffic:
    """Collectives of one optimiser step of `micros` forward passes, in float32 as `training.parallel` has
    them.

    DDP reduces gradients once. FSDP gathers the weights for each forward and each backward pass and scatters
    gradients after it. HSDP does that within a machine, and reduces each device's part of the gradients
    among machines each time.
    """
    size = float(_WIDTH * parameters)
    if strategy == "hsdp":
        inside = 3.0 * micros * _ring_share(cluster.gpus) * size
        between = (
            2.0 * micros * _ring_share(cluster.nodes) * size
        )  # of a machine: its devices hold a part each
        return Traffic(
            inside + between / cluster.gpus, between, inside / _bytes(cluster.link) + between / _wire(cluster)
        )
    sent = _ring_share(cluster.workers) * size * (2.0 if strategy == "ddp" else 3.0 * micros)
    leaving = sent if cluster.nodes > 1 else 0.0
    inside_seconds = sent / _bytes(cluster.link) if cluster.gpus > 1 else 0.0
    return Traffic(sent, leaving, max(inside_seconds, leaving / _wire(cluster)))


def _ring_share(ranks: int) -> float:
    return (ranks - 1) / ranks


def _bytes(gigabytes: float) -> float:
    return gigabytes * 1e9


def _wire(cluster: Cluster) -> float:
    return cluster.network * 1e9 / 8 * NETWORK_EFFICIENCY


@dataclasses.dataclass(frozen=True)
class ShardedMemoryBudget(MemoryBudget):
    """A device's memory where `shards` devices share the state.

    Attributes:
        besides: bytes that several devices need and one does not: by DDP the buckets in which gradients
            travel, otherwise weights and gradients that are whole for a moment, those of embeddings and head
            and of two layers.
    """

    shards: int = 1
    besides: float = 0.0

    def peak(self, cost: StepCost) -> float:
        """As `MemoryBudget.peak`, with a share of what lasts and what comes besides."""
        lasting = cost.weights + cost.gradients + cost.optimizer + cost.copy
        return self.baseline + self.allocator * (
            cost.peak - lasting * (1.0 - 1.0 / self.shards) + self.besides
        )


def sharded_budget(
    budget: MemoryBudget, shape: ModelConfig, cluster: Cluster, strategy: Strategy
) -> ShardedMemoryBudget:
    """The same memory, for one device of a cluster."""
    plain = {field.name: getattr(budget, field.name) for field in dataclasses.fields(MemoryBudget)}
    shards = cluster.shards(strategy)
    if shards == 1:
        return ShardedMemoryBudget(
            **plain, besides=_WIDTH * shape.parameters() if cluster.workers > 1 else 0.0
        )
    layers = shape.num_hidden_layers
    layer = dataclasses.replace(shape, num_hidden_layers=layers + 1).parameters() - shape.parameters()
    root = shape.parameters() - layers * layer
    return ShardedMemoryBudget(**plain, shards=shards, besides=_WIDTH * (root + 2 * layer + max(root, layer)))


def about_traffic(
    cluster: Cluster, strategy: Strategy, traffic: Traffic, step_seconds: float, batch_tokens: int
) -> list[str]:
    """Notes on a stage's communication; a warning, with what to do, where it takes much of a step."""
    share = traffic.seconds / step_seconds
    rates = tr("{link:g} GB/s within a machine", link=cluster.link) if cluster.gpus > 1 else ""
    if cluster.nodes > 1:
        wire = tr(
            "{network_efficiency:.0%} of {network:g} Gbit/s between machines",
            network_efficiency=NETWORK_EFFICIENCY,
            network=cluster.network,
        )
        rates = str(Text.in_context("between clauses", ", ")).join(part for part in (rates, wire) if part)
    notes = [
        tr(
            "communication ({strategy}, {rates}): each device sends {sent} a step of pretraining, "
            "{leaving} leave each machine, {seconds:,.3g} ms, {share:.0%} of a step; taken not to overlap "
            "with computing",
            strategy=strategy,
            rates=rates,
            sent=_size(traffic.sent),
            leaving=_size(traffic.leaving),
            seconds=traffic.seconds * 1e3,
            share=share,
        )
    ]
    if share >= MUCH:
        notes.append(_what_to_do(cluster, strategy, share, batch_tokens))
    return notes


def _what_to_do(cluster: Cluster, strategy: Strategy, share: float, batch_tokens: int) -> str:
    if strategy == "fsdp" and cluster.nodes > 1 and cluster.gpus > 1:
        remedy = Text("Try train.parallel=hsdp first (weights are gathered within a machine alone)")
    elif strategy != "ddp":
        remedy = Text(
            "Take train.parallel=ddp where it fits, or larger micro_tokens (weights are gathered for each "
            "micro-batch)"
        )
    else:
        more = 1 << max(1, (max(1, round(share * (1 - 0.2) / ((1 - share) * 0.2))) - 1).bit_length())
        remedy = Text(
            "Raise pretrain.batch_tokens to about {batch_tokens:,} (more work a step, the same traffic; a "
            "larger batch asks for another learning rate)",
            batch_tokens=more * batch_tokens,
        )
    return tr(
        "note: communication takes {share:.0%} of a step. {remedy}; or take fewer machines, or a faster "
        "network (--network)",
        share=share,
        remedy=remedy,
    )


def about_memory(peaks: dict[Strategy, float], memory: float, strategy: Strategy) -> str:
    """A line of each strategy's peak on a device, and the one to take where the one asked for does not
    fit."""
    sizes = str(Text.in_context("between clauses", ", ")).join(
        f"{name} {peak / 2**30:.2f} GiB" for name, peak in peaks.items()
    )
    line = tr("memory of each device in pretraining: {sizes}", sizes=sizes)
    fitting = next((name for name in STRATEGIES if name in peaks and peaks[name] <= memory), None)
    if peaks[strategy] > memory and fitting is not None:
        line += tr("; take train.parallel={fitting}", fitting=fitting)
    return line


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 5e8 else f"{count / 1e6:,.3g} MB"
