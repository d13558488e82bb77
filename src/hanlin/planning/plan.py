"""What a recipe will take before it runs: memory, speed, time and money of each stage, and what it may be
expected to reach."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from hanlin.common.errors import HanlinError
from hanlin.common.hardware import (
    find_hardware,
    unknown_card,
)
from hanlin.common.messages import listing, tr
from hanlin.common.progress import Progress, format_seconds
from hanlin.common.terminal import memory_size, table
from hanlin.model import ModelConfig
from hanlin.planning.communication import (
    Cluster,
)
from hanlin.planning.estimators import MeasuredEstimator, SpecSheetEstimator
from hanlin.planning.measure_step import STEPS
from hanlin.recipe.recipe import Recipe
from hanlin.stages.stage import StageConfig
from hanlin.stages.supervised import SupervisedConfig

# Runs on real Chinese text in the lab log: parameters, tokens read, bits per byte on held-out text.
_RUNS = ((3.2e6, 0.49e6, 2.854), (3.2e6, 1.84e6, 2.535), (3.6e6, 1.23e6, 2.659), (3.6e6, 6.55e6, 2.199))


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """One stage. What is None is not known, and `why` says why.

    Attributes:
        steps: None where a stage ends by the clock.
        seconds: of training; reading the data, judging and saving come on top.
        peak: bytes at the worst moment, on each device.
        money: CNY, None without a price.
        sent: bytes that each device sends to others in a step.
        communication: share of a step that this takes.
    """

    name: str
    steps: int | None
    tokens: int | None = None
    micro_tokens: int | None = None
    peak: float | None = None
    tokens_per_second: float | None = None
    seconds: float | None = None
    money: float | None = None
    sent: float = 0.0
    communication: float = 0.0
    why: str = ""


@dataclasses.dataclass(frozen=True)
class Plan:
    """A recipe's plan.

    Attributes:
        memory: bytes of the pretraining step by part.
        bits_per_byte: expected on held-out text, (value, ±), or None.
        notes: what the figures rest on.
    """

    recipe: str
    device: str
    workers: int
    parameters: int
    stages: tuple[StagePlan, ...]
    memory: dict[str, float]
    bits_per_byte: tuple[float, float] | None
    notes: tuple[str, ...]


def plan_recipe(
    recipe: Recipe,
    device: str = "this",
    *,
    nodes: int = 1,
    gpus: int = 1,
    network: float = 25.0,
    price: float | None = None,
    vram: float | None = None,
    steps: int = STEPS,
    progress: Progress | None = None,
) -> Plan:
    """Plan the training stages of a recipe.

    Args:
        device: a name of the table in `common.hardware`, or `this` for the machine at hand, which is
            measured.
        nodes, gpus: machines, and devices in each; the batch is shared among them by the stage's
            `train.parallel`.
        network: Gbit/s between machines.
        price: CNY for an hour of one device instead of the table's.
        vram: GiB of a card that is not in the table; instead of `device`.
        steps: of the measurement.

    Raises:
        HanlinError: the device is not known, a step does not fit, or the batch cannot be shared among so
            many devices.
    """
    if nodes < 1 or gpus < 1 or not network > 0:
        raise HanlinError("--nodes and --gpus are at least 1, --network is above 0.")
    workers = nodes * gpus
    shape = recipe.model.config(recipe.tokenizer.vocab_size, 0)
    if vram is not None and device != "this":
        raise HanlinError("Give --device or --vram, not both.")
    hardware = unknown_card(vram) if vram is not None else None if device == "this" else find_hardware(device)
    if hardware is None and workers > 1:
        raise HanlinError("Several devices can only be reckoned by the table: give --device.")
    if hardware is not None and gpus > 1 and not hardware.link:
        raise HanlinError("A {title} has one accelerator: leave --gpus out.", title=hardware.title)
    per_hour = price if price is not None else hardware.price if hardware is not None else 0.0
    planner = (
        SpecSheetEstimator(hardware, Cluster(nodes, gpus, network, hardware.link), recipe.pretrain.id)
        if hardware is not None
        else MeasuredEstimator(recipe.device, steps, progress or Progress())
    )
    stages: list[StagePlan] = []
    for section in recipe.stages:
        if not isinstance(section, SupervisedConfig):
            why = tr("depends on the lengths of the data and on generation")
            stages.append(StagePlan(section.id, section.train.steps, why=why))
        elif section.equal_time:
            subject = next(stage for stage in stages if stage.name == section.of)
            stages.append(_equal_time(section, subject))
        else:
            stages.append(_supervised(section.id, section, shape, planner, workers, per_hour))
    pretrain = recipe.pretrain
    expected = (
        None
        if recipe.generated
        else expected_bits_per_byte(shape.parameters(), pretrain.train.steps * pretrain.batch_tokens)
    )
    cost = planner.costs[pretrain.id]
    memory = {
        part: float(getattr(cost, part))
        for part in ("weights", "gradients", "optimizer", "activations", "temporary")
    }
    for part in ("weights", "gradients", "optimizer"):
        memory[part] /= planner.shards(pretrain)
    peak = next(stage.peak for stage in stages if stage.name == pretrain.id)
    memory["framework"] = max(0.0, (peak or 0.0) - sum(memory.values()))
    notes = [*planner.notes(), _about_bits(recipe, expected)]
    if hardware is not None and pretrain.train.compile is not False:
        notes.append(tr("reckoned without torch.compile, which takes less memory and time"))
    if hardware is not None and not hardware.price:
        notes.append(tr("the device's figures: {source}", source=hardware.source))
    if hardware is not None and price is None and hardware.price:
        notes.append(
            tr(
                "CNY {price:g} an hour: {source} (--price changes it)",
                price=hardware.price,
                source=hardware.source,
            )
        )
    return Plan(
        recipe.name,
        hardware.title if hardware else tr("this machine"),
        workers,
        shape.parameters(),
        tuple(stages),
        memory,
        expected,
        tuple(notes),
    )


def _equal_time(section: StageConfig, subject: StagePlan) -> StagePlan:
    """A control that stops when the time of its subject is over, however many steps it has."""
    if subject.seconds is None:
        return StagePlan(section.id, None, why=tr("takes as long as {of}", of=subject.name))
    return StagePlan(section.id, None, seconds=subject.seconds, money=subject.money)


def _supervised(
    name: str, section: SupervisedConfig, shape: ModelConfig, planner: Any, workers: int, per_hour: float
) -> StagePlan:
    if section.rows < workers:
        raise HanlinError(
            "{name}: a step has {rows} rows, too few for {workers} devices. Raise {name}.batch_tokens, or "
            "take fewer devices.",
            name=name,
            rows=section.rows,
            workers=workers,
        )
    rows = -(-section.rows // workers)  # of the device that has most, for which the others wait
    mine = section if workers == 1 else dataclasses.replace(section, batch_tokens=rows * section.seq_len)
    micro_rows, peak, step_seconds, traffic = planner.plan(name, mine, shape)
    tokens = section.train.steps * section.rows * section.seq_len
    seconds = step_seconds * section.train.steps
    money = per_hour * workers * seconds / 3600 if per_hour else None
    share = traffic.seconds / step_seconds
    return StagePlan(
        name,
        section.train.steps,
        tokens,
        micro_rows * section.seq_len,
        peak,
        tokens / seconds,
        seconds,
        money,
        traffic.sent,
        share,
    )


def expected_bits_per_byte(parameters: float, tokens: float) -> tuple[float, float] | None:
    """Bits per byte on held-out Chinese text by a power law in tokens, with ±; None where our own runs say
    nothing.

    The runs have 3.2M to 3.6M parameters and 0.5M to 6.6M tokens, so the law speaks of half to twice that
    and of nothing else. It knows no corpus: the runs' held-out texts differ, and the ± is at least what they
    scatter.
    """
    if not (1.6e6 <= parameters <= 7.2e6 and 0.25e6 <= tokens <= 13.2e6):
        return None
    xs, ys = [math.log(run[1]) for run in _RUNS], [math.log(run[2]) for run in _RUNS]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / sum(
        (x - mean_x) ** 2 for x in xs
    )
    rest = sum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in zip(xs, ys, strict=True)) / (len(xs) - 2)
    value = math.exp(mean_y + slope * (math.log(tokens) - mean_x))
    return value, value * max(0.1, 4.3 * math.sqrt(rest))  # Student's t at 95 %, two degrees of freedom


def _about_bits(recipe: Recipe, expected: tuple[float, float] | None) -> str:
    if expected is not None:
        return tr("bits per byte: fitted on 4 runs of small models here; another corpus may differ by more")
    if recipe.generated:
        return tr("bits per byte: not known (the embedded corpus is not to be compared with real text)")
    return tr(
        "bits per byte: not known (the runs there are end at 3.6M parameters and 6.6M tokens; nothing "
        "supports more than twice that)"
    )


def plan_text(plan: Plan) -> str:
    """The plan as a person reads it."""
    unknown = tr("not known")
    head = [
        tr("stage"),
        tr("steps"),
        tr("tokens"),
        tr("micro"),
        tr("peak memory"),
        tr("tok/s"),
        tr("time"),
        tr("cost"),
    ]
    rows = [head]
    for stage in plan.stages:
        steps = "" if stage.steps is None else f"{stage.steps:,}"
        if stage.seconds is None:
            rows.append([stage.name, steps, "", "", unknown, unknown, unknown, ""])
            continue
        money = "" if stage.money is None else f"¥{stage.money:.2f}"
        if stage.tokens is None:
            rows.append([stage.name, "", "", "", "", "", format_seconds(stage.seconds), money])
            continue
        rows.append(
            [
                stage.name,
                steps,
                f"{(stage.tokens or 0) / 1e6:,.1f}M",
                f"{stage.micro_tokens:,}",
                memory_size(stage.peak or 0.0),
                f"{stage.tokens_per_second:,.0f}",
                format_seconds(stage.seconds),
                money,
            ]
        )
    names = {
        "weights": tr("weights"),
        "gradients": tr("gradients"),
        "optimizer": tr("optimiser"),
        "activations": tr("activations"),
        "temporary": tr("temporary"),
        "framework": tr("framework and allocator"),
    }
    devices = f"{plan.device} × {plan.workers}" if plan.workers > 1 else plan.device
    title = tr(
        "{recipe}: {parameters:.2f}M parameters on {devices}",
        recipe=plan.recipe,
        parameters=plan.parameters / 1e6,
        devices=devices,
    )
    parts = tr("memory of pretraining: ") + "  ".join(
        f"{names[part]} {memory_size(size)}" for part, size in plan.memory.items()
    )
    lines = [title, "", *table(rows, right=range(1, len(head))), "", parts]
    if plan.bits_per_byte is not None:
        value, around = plan.bits_per_byte
        lines.append(
            tr(
                "expected on held-out text: {value:.2f} ± {around:.2f} bits per byte",
                value=value,
                around=around,
            )
        )
    lines += [f"· {note}" for note in (*plan.notes, *_unplanned(plan))]
    return "\n".join(lines)


def _unplanned(plan: Plan) -> list[str]:
    """A line for every reason."""
    reasons = dict.fromkeys(stage.why for stage in plan.stages if stage.why)
    return [
        tr(
            "{names}: not reckoned; {why}",
            names=listing([stage.name for stage in plan.stages if stage.why == why]),
            why=why,
        )
        for why in reasons
    ]
