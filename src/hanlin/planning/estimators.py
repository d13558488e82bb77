"""What a stage's step takes on a device: reckoned from its data sheet, or measured on the machine at hand."""

from __future__ import annotations

import dataclasses
from typing import Any

from hanlin.common.devices import device_capabilities, is_discrete, resolve_device
from hanlin.common.errors import HanlinError
from hanlin.common.hardware import (
    BANDWIDTH_EFFICIENCY,
    GPU_ALLOCATOR,
    GPU_BASELINE_GIB,
    MATRIX_EFFICIENCY,
    Hardware,
)
from hanlin.common.messages import tr
from hanlin.common.progress import Progress
from hanlin.common.terminal import memory_size
from hanlin.model import ModelConfig
from hanlin.planning.communication import (
    STRATEGIES,
    Cluster,
    ShardedMemoryBudget,
    Strategy,
    Traffic,
    about_memory,
    about_traffic,
    sharded_budget,
    step_traffic,
)
from hanlin.planning.measure_step import StepMeasurement, compiles, measure_step
from hanlin.stages.supervised import SupervisedConfig
from hanlin.training.checkpoint.writer import saves_in_background
from hanlin.training.step_estimate import (
    MemoryBudget,
    MicroBatchFit,
    StepCost,
    Work,
    fit_step,
    trace_step,
    training_memory_budget,
)


class SpecSheetEstimator:
    """Reckons by a device's data sheet: every kernel takes its arithmetic, its traffic or its launch,
    whichever is longest."""

    def __init__(self, hardware: Hardware, cluster: Cluster, pretraining: str):
        self.hardware = hardware
        self.cluster = cluster
        self.pretraining = pretraining  # id of the stage whose memory and traffic are told in detail
        self.costs: dict[str, StepCost] = {}
        self.fits: dict[Any, MicroBatchFit] = {}  # stages of the same shape share one
        self.over_budget: list[str] = []
        self.remarks: list[str] = []
        self.use = 0.0

    def strategy(self, section: SupervisedConfig) -> Strategy:
        """`train.parallel`."""
        if section.train.parallel == "deepspeed":
            raise HanlinError(
                "hanlin plan does not reckon deepspeed. For ZeRO-3 reckon with train.parallel=fsdp, which "
                "is close where nothing is offloaded."
            )
        return section.train.parallel

    def shards(self, section: SupervisedConfig) -> int:
        """Devices that share one copy of the state."""
        return self.cluster.shards(self.strategy(section))

    def plan(
        self, name: str, section: SupervisedConfig, shape: ModelConfig
    ) -> tuple[int, float, float, Traffic]:
        h, strategy = self.hardware, self.strategy(section)
        plain = MemoryBudget(
            0.95 * h.memory * 2**30, GPU_BASELINE_GIB * 2**30, GPU_ALLOCATOR, 65536, h.bus > 0
        )
        budgets: dict[Strategy, ShardedMemoryBudget] = {
            one: sharded_budget(plain, shape, self.cluster, one) for one in STRATEGIES
        }
        step = section.step_spec(h.dtype, plain.own)
        key = (step, section.micro_tokens, section.rows, section.train.muon, strategy)
        try:
            fit = (
                self.fits[key]
                if key in self.fits
                else _fit_micro_batch(section, shape, h.dtype, budgets[strategy])
            )
        except HanlinError as error:
            raise (
                _offer_sharding(error, section, shape, h.dtype, budgets["fsdp"])
                if strategy == "ddp" and self.cluster.workers > 1
                else error
            ) from None
        self.fits[key] = fit
        if fit.peak > fit.memory:
            self.over_budget.append(name)
        self.costs[name] = fit.cost
        micros = -(-section.rows // fit.rows)
        seconds = micros * self._seconds(fit.cost.forward_backward) + self._seconds(fit.cost.update)
        if fit.cost.host:
            seconds += 2 * fit.cost.host / (self.hardware.bus * 1e9)
        traffic = (
            Traffic()
            if self.cluster.workers == 1
            else step_traffic(self.cluster, strategy, shape.parameters(), micros)
        )
        seconds += traffic.seconds
        if name == self.pretraining and self.cluster.workers > 1:
            peaks: dict[Strategy, float] = {
                one: budget.peak(fit.cost)
                for one, budget in budgets.items()
                if one != "hsdp" or 1 < self.cluster.gpus < self.cluster.workers
            }
            whole = section.batch_tokens * self.cluster.workers
            self.remarks = [
                about_memory(peaks, fit.memory, strategy),
                *about_traffic(self.cluster, strategy, traffic, seconds, whole),
            ]
        if name == self.pretraining and saves_in_background(
            section.train.async_save, plain.own, self.cluster.workers
        ):
            copy = (fit.cost.weights + fit.cost.optimizer + fit.cost.host) / self.shards(section)
            self.remarks.append(
                tr(
                    "checkpoints are written in the background: a copy of weights and optimiser state in "
                    "host memory, {copy} (by ddp in the first process, by fsdp and hsdp in each)",
                    copy=memory_size(copy),
                )
            )
        self.use = self.use or shape.flops_per_token(
            section.seq_len
        ) * section.rows * section.seq_len / seconds / (self.hardware.tflops * 1e12)
        return fit.rows, fit.peak, seconds, traffic

    def _seconds(self, kernels: tuple[Work, ...]) -> float:
        h = self.hardware
        return sum(
            max(
                flops / (h.tflops * 1e12 * MATRIX_EFFICIENCY),
                moved / (h.bandwidth * 1e9 * BANDWIDTH_EFFICIENCY),
                h.launch,
            )
            for flops, moved in kernels
        )

    def notes(self) -> list[str]:
        found = [
            tr(
                "reckoned kernel by kernel from the data sheet (not measured on such a device): {use:.0%} "
                "of its matrix peak in use; times may be off by half",
                use=self.use,
            )
        ]
        found += self.remarks
        for name in self.over_budget:
            found.append(
                tr("{name} does not fit: set {name}.micro_tokens=auto, or take a smaller model", name=name)
            )
        return found


class MeasuredEstimator:
    """Measures: a few real steps in a process of their own; stages of the same shape share them."""

    def __init__(self, device: str, steps: int, progress: Progress):
        self.device, self.steps, self.progress = resolve_device(device), steps, progress
        self.costs: dict[str, StepCost] = {}
        self.measured: dict[Any, StepMeasurement] = {}
        self.seen: list[StepMeasurement] = []

    def shards(self, section: SupervisedConfig) -> int:
        """One device has all of it."""
        return 1

    def plan(
        self, name: str, section: SupervisedConfig, shape: ModelConfig
    ) -> tuple[int, float, float, Traffic]:
        fit = _fit_micro_batch(
            section, shape, device_capabilities(self.device).train_dtype, training_memory_budget(self.device)
        )
        self.costs[name] = fit.cost
        fitted = dataclasses.replace(section, micro_tokens=fit.rows * section.seq_len)
        step = fitted.step_spec(device_capabilities(self.device).train_dtype, is_discrete(self.device))
        key = (step, fitted.train.muon, compiles(shape, fitted.train, step, str(self.device)))
        if key not in self.measured:
            self.progress.note("measuring {name}: {steps} steps", name=name, steps=self.steps)
            self.measured[key] = measure_step(shape, fitted.train, step, str(self.device), self.steps)
            self.seen.append(self.measured[key])
        found = self.measured[key]
        return fit.rows, found.peak_mb * 2**20, found.seconds, Traffic()

    def notes(self) -> list[str]:
        steps, spread = min(p.steps for p in self.seen), max(p.spread for p in self.seen)
        return [
            tr(
                "measured here ({steps} steps on random tokens), ±{spread:.0%} from step to step; as busy "
                "as the machine is, so long it takes",
                steps=steps,
                spread=spread,
            )
        ]


def _fit_micro_batch(
    section: SupervisedConfig, shape: ModelConfig, dtype: str, budget: MemoryBudget
) -> MicroBatchFit:
    """The given micro-batch, checked against the budget, or the one that fits."""
    step = section.step_spec(dtype, budget.own)
    if section.micro_tokens != "auto":
        cost = trace_step(shape, section.train, step)
        return MicroBatchFit(section.micro_rows, cost, budget.peak(cost), budget.memory)
    if isinstance(budget, ShardedMemoryBudget) and budget.shards > 1:
        rows = 1 << (max(1, min(step.rows, budget.most_tokens // step.seq_len)).bit_length() - 1)
        while (
            rows > 1
            and budget.peak(
                trace_step(
                    shape,
                    section.train,
                    dataclasses.replace(step, rows=rows, micros=-(-section.rows // rows)),
                )
            )
            > budget.memory
        ):
            rows //= 2
        step = dataclasses.replace(step, rows=rows)
    return fit_step(shape, section.train, step, section.rows, budget)


def _offer_sharding(
    error: HanlinError, section: SupervisedConfig, shape: ModelConfig, dtype: str, budget: MemoryBudget
) -> HanlinError:
    """The error of a step that does not fit a device, with FSDP offered where that would."""
    try:
        fit = _fit_micro_batch(section, shape, dtype, budget)
    except HanlinError:
        return error
    return HanlinError(
        "{error} Or share the state among the devices: train.parallel=fsdp ({peak} on each).",
        error=error,
        peak=memory_size(fit.peak),
    )
