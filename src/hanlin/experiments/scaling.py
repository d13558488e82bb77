"""`hanlin scaling`: a miniseries of sizes and lengths, the law that fits it, and the size it advises for a
budget."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hanlin.common.atomic import write_json
from hanlin.common.config import to_dict
from hanlin.common.devices import matmul_peak, resolve_device
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import artifact
from hanlin.common.progress import Progress
from hanlin.evaluation.scaling_law import Fit, advise, fit_law
from hanlin.evaluation.statistics import Metric
from hanlin.experiments.ablation import load_subject
from hanlin.experiments.trial_pool import TrialPool, TrialSpec, file_data, recipe_data
from hanlin.experiments.working_directory import TRIALS, locked_run
from hanlin.model import ModelShape, family_of
from hanlin.pipeline.stage_command import StageFile
from hanlin.recipe.recipe import Recipe
from hanlin.report.scaling_page import scaling_markdown, scaling_picture
from hanlin.tokenizer.advise import parameter_count

_WIDTH_PER_LAYER = 32  # width of a layer divided by the number of layers
_HEAD = 32
_OFF = 0.2  # share by which a shape may miss the parameters asked for
_FEWEST_STEPS = 20
_LOOK = 64.0  # how many times beyond the sizes that were trained advice is sought


def shape_for(params: float, vocab: int, base: ModelShape | None = None) -> ModelShape:
    """A shape of about `params` parameters, embedding included: width about 32 times the depth, heads of 32.

    Args:
        base: what else the shape is like (family, positions, initialisation).
    """
    base = base or ModelShape()
    found: list[tuple[float, float, ModelShape]] = []
    for width in range(_HEAD, 4096 + 1, _HEAD):
        if vocab * width > params and found:
            break
        heads = width // _HEAD
        shared = heads // 2 if heads % 2 == 0 and family_of(base.family).grouped_query else heads
        one, two = (
            _sized(base, width, layers, heads, shared).config(vocab, 0).parameters() for layers in (1, 2)
        )
        layers = max(1, round((params - one) / (two - one)) + 1)
        shape = _sized(base, width, layers, heads, shared)
        off = abs(shape.config(vocab, 0).parameters() / params - 1)
        found.append((off, abs(np.log(width / (layers * _WIDTH_PER_LAYER))), shape))
    near = [entry for entry in found if entry[0] <= 0.05]
    return min(near, key=lambda entry: entry[1])[2] if near else min(found, key=lambda entry: entry[0])[2]


def _sized(base: ModelShape, width: int, layers: int, heads: int, shared: int) -> ModelShape:
    return dataclasses.replace(
        base,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=shared,
        head_dim=None,
        intermediate_size=None,
    )


@dataclasses.dataclass(frozen=True)
class Budget:
    """What advice is asked for: `seconds` on this machine, or `flops`."""

    text: str
    seconds: float | None = None
    flops: float | None = None


@dataclasses.dataclass(frozen=True)
class SeriesPlan:
    """A miniseries, checked.

    Attributes:
        shapes: one for each size.
        steps: of each size, the lengths it is trained for.
    """

    name: str
    config: Recipe | StageFile
    shapes: list[ModelShape]
    steps: list[list[int]]
    seeds: list[int]
    vocab_size: int
    budgets: list[Budget]
    heldout: tuple[str, ...]


def plan_scaling(
    name: str,
    params: Sequence[str],
    tokens_per_param: Sequence[float],
    overrides: Sequence[str] = (),
    *,
    budgets: Sequence[str] = (),
    seeds: int = 1,
    heldout: Sequence[str] = (),
) -> SeriesPlan:
    """Check a miniseries before anything runs.

    Args:
        params: sizes such as `0.3m`, embeddings included.
        tokens_per_param: lengths, in tokens per parameter.
        budgets: `90s`, `1h`, `2d`, or a number of FLOPs such as `1e16`.

    Raises:
        HanlinError: too few points for a law; a size the vocabulary leaves no room for; a length of hardly a
            step.
    """
    config = load_subject(name, overrides)
    counts = sorted({parameter_count(text) for text in params})
    lengths = sorted(set(tokens_per_param))
    if len(counts) < 3 or len(lengths) < 2 or len(counts) * len(lengths) < 6 or lengths[0] <= 0:
        raise HanlinError(
            "A law of five coefficients needs three sizes, two lengths and six points at least. Example: "
            "--params 0.3m,0.6m,1.2m --tokens-per-param 5,10,20"
        )
    vocab = config.tokenizer.vocab_size if isinstance(config, Recipe) else _vocabulary(config.text[1])
    shapes, steps = [], []
    rows = config.pretrain.rows * config.pretrain.seq_len
    for count in counts:
        shape = shape_for(count, vocab, config.model)
        parameters = shape.config(vocab, 0).parameters()
        if abs(parameters / count - 1) > _OFF:
            raise HanlinError(
                "With a vocabulary of {vocab} there is no model of {count:g}M parameters (the nearest has "
                "{parameters:.2f}M). Use a smaller vocabulary (tokenizer.vocab_size) or larger models.",
                vocab=vocab,
                count=count / 1e6,
                parameters=parameters / 1e6,
            )
        lengths_in_steps = [round(ratio * parameters / rows) for ratio in lengths]
        if lengths_in_steps[0] < _FEWEST_STEPS:
            raise HanlinError(
                "{count:g}M parameters at {lengths:g} tokens each are {lengths_in_steps} steps, fewer than "
                "{fewest_steps}, which says nothing. Raise --tokens-per-param, or lower "
                "pretrain.batch_tokens ({rows}).",
                count=count / 1e6,
                lengths=lengths[0],
                lengths_in_steps=lengths_in_steps[0],
                fewest_steps=_FEWEST_STEPS,
                rows=rows,
            )
        shapes.append(shape)
        steps.append(lengths_in_steps)
    seed_list = [config.seed + index for index in range(max(1, seeds))]
    title = config.name if isinstance(config, Recipe) else Path(name).stem
    return SeriesPlan(
        title,
        config,
        shapes,
        steps,
        seed_list,
        vocab,
        [read_budget(text) for text in budgets],
        tuple(heldout),
    )


def read_budget(text: str) -> Budget:
    """`90s`, `1.5h`, `2d` or `30m` (minutes) of this machine, or a number of FLOPs."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", text.strip())
    if match is not None:
        return Budget(text, seconds=float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]])
    try:
        flops = float(text)
    except ValueError:
        flops = 0.0
    if not 1e9 <= flops < float("inf"):
        raise HanlinError(
            "Not a budget: {text!r}. Give a time (90s, 30m, 1h, 2d) or a number of FLOPs (1e16).", text=text
        )
    return Budget(text, flops=flops)


def _vocabulary(tokenizer: Path) -> int:
    from hanlin.tokenizer import load_tokenizer

    return load_tokenizer(tokenizer).vocab_size


def run_scaling(
    plan: SeriesPlan, out: Path, *, jobs: int = 1, progress: Progress | None = None
) -> dict[str, Any]:
    """Run what is not done yet, fit the law, and write `result/` below `out`: law.json, law.md, law.svg and
    a manifest.

    Returns:
        The content of law.json.

    Raises:
        HanlinError: `out` is in use; or what a trial says. Finished trials are kept.
    """
    with locked_run(out, progress) as progress:
        config = plan.config
        shared_data = (
            recipe_data(config, out / "data", progress)
            if isinstance(config, Recipe)
            else file_data(config, plan.heldout)
        )
        trials = []
        for shape, steps in zip(plan.shapes, plan.steps, strict=True):
            shared_data.check(shape)
            section = dataclasses.replace(
                config.pretrain, train=dataclasses.replace(config.pretrain.train, steps=max(steps))
            )
            size = f"{shape.config(plan.vocab_size, 0).parameters() / 1e6:.2f}m"
            trials += [
                TrialSpec(
                    f"{size}-seed{seed}",
                    shared_data,
                    shape,
                    section,
                    seed,
                    config.device,
                    "series",
                    {"branches": steps},
                )
                for seed in plan.seeds
            ]
        progress.stage(1, 1, "scaling")
        results = TrialPool(out / TRIALS, jobs, progress).run(trials)
        found = _law(plan, trials, results)
        with artifact(
            out / "result", "scaling", parents={"shared_data": shared_data.key}, config=_config(plan)
        ) as written:
            write_json(written.path / "law.json", found)
            (written.path / "law.md").write_text(scaling_markdown(found), encoding="utf-8")
            (written.path / "law.svg").write_text(scaling_picture(found), encoding="utf-8")
            written.metrics = found["law"]
        return found


def _law(plan: SeriesPlan, trials: Sequence[TrialSpec], results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    points = []
    for trial in trials:
        for branch in results[trial.name]["branches"]:
            metric = Metric.ratio(branch["bits"], branch["bytes"], higher_is_better=False)
            points.append(
                {
                    "parameters": branch["parameters"],
                    "tokens": branch["tokens"],
                    "steps": branch["steps"],
                    "seed": trial.seed,
                    "hidden_size": trial.model.hidden_size,
                    "layers": trial.model.num_hidden_layers,
                    "bits_per_byte": metric.to_dict(),
                    "tokens_per_second": branch["tokens_per_second"],
                    "flops": branch["flops_per_token"] * branch["tokens"],
                    "skipped": branch["skipped"],
                }
            )
    fit = fit_law(
        [p["parameters"] for p in points],
        [p["tokens"] for p in points],
        [p["bits_per_byte"]["value"] for p in points],
    )
    for point, residual in zip(points, fit.residuals, strict=True):
        point["law"] = float(fit.law(point["parameters"], point["tokens"]))
        point["residual"] = float(residual)
    names = [field.name for field in dataclasses.fields(fit.law)]
    return {
        "format": 1,
        "recipe": plan.name,
        "vocab_size": plan.vocab_size,
        "documents": points[0]["bits_per_byte"]["n"],
        "law": {name: getattr(fit.law, name) for name in names},
        "intervals": {name: list(fit.interval(lambda law, name=name: getattr(law, name))) for name in names},
        "points": points,
        "advice": [_advice(budget, plan, points, fit) for budget in plan.budgets],
    }


def _advice(budget: Budget, plan: SeriesPlan, points: Sequence[dict[str, Any]], fit: Fit) -> dict[str, Any]:
    """The best size for a budget, with how far it lies outside the trainings that were made."""
    known = np.array([point["parameters"] for point in points], dtype=float)
    low, high = float(known.min()) / _LOOK, float(known.max()) * _LOOK
    tokens_for = _affordable(budget, plan, points)
    smallest = shape_for(1.0, plan.vocab_size, plan.config.model).config(plan.vocab_size, 0).parameters()
    found = advise(fit, tokens_for, max(low, float(smallest)), high)
    shape = shape_for(found.parameters, plan.vocab_size, plan.config.model)
    return {
        "budget": budget.text,
        "seconds": budget.seconds,
        "flops": budget.flops,
        "shape": to_dict(shape),
    } | dataclasses.asdict(found)


def _affordable(
    budget: Budget, plan: SeriesPlan, points: Sequence[dict[str, Any]]
) -> Callable[[np.ndarray], np.ndarray]:
    """Tokens that a budget pays for, by size: by a model's own FLOPs, or by the FLOPs a second that were
    measured.

    Of several speeds of one size the best counts: what else runs on a machine only slows a training. Where
    lines lead beyond the sizes that were trained, nothing gets faster than plain matrix products are on the
    device.
    """
    by_size = {point["parameters"]: point["flops"] / point["tokens"] for point in points}
    cost = _line(by_size)
    if budget.seconds is None:
        flops = budget.flops or 0.0
        return lambda n: flops / cost(n)
    best = {
        n: max(point["tokens_per_second"] for point in points if point["parameters"] == n) * by_size[n]
        for n in by_size
    }
    seconds, rate, ceiling = (
        budget.seconds,
        _line(best),
        max(matmul_peak(resolve_device(plan.config.device)), *best.values()),
    )
    return lambda n: seconds * np.minimum(rate(n), ceiling) / cost(n)


def _line(values: dict[float, float]) -> Callable[[np.ndarray], np.ndarray]:
    """Straight between neighbours in log-log coordinates, and beyond the ends as the ends lie to one
    another."""
    x, y = np.log(np.array(sorted(values.items()), dtype=float)).T
    slope = (y[-1] - y[0]) / (x[-1] - x[0])

    def at(n: np.ndarray) -> np.ndarray:
        log_n = np.log(n)
        outside = np.minimum(log_n - x[0], 0.0) + np.maximum(log_n - x[-1], 0.0)
        return np.exp(np.interp(log_n, x, y) + slope * outside)

    return at


def _config(plan: SeriesPlan) -> dict[str, Any]:
    return {
        "config": to_dict(plan.config),
        "shapes": [to_dict(shape) for shape in plan.shapes],
        "steps": plan.steps,
        "seeds": plan.seeds,
    }
