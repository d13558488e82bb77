"""`hanlin ablate`: what each ingredient of a recipe contributes, as differences in held-out bits per byte
with their intervals."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from hanlin.common.atomic import write_json
from hanlin.common.config import load_yaml, to_dict
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import artifact
from hanlin.common.messages import Text, listing
from hanlin.common.progress import Progress
from hanlin.experiments.trial_pool import SharedData, TrialPool, TrialSpec, file_data, recipe_data
from hanlin.experiments.working_directory import TRIALS, locked_run
from hanlin.pipeline.stage_command import StageFile, load_stage_file
from hanlin.recipe.recipe import Recipe, load_recipe
from hanlin.report.ablation_page import ablation_markdown, ablation_picture, ablation_table

_CLOCK_TOLERANCE = 0.1  # share by which a trial's seconds may miss what was asked before it is said


@dataclasses.dataclass(frozen=True)
class Variant:
    """One setting: the value of every key, the configuration they give, and the keys that are not the
    baseline's (all, for the baseline)."""

    settings: dict[str, str]
    config: Recipe | StageFile
    keys: tuple[str, ...]

    @property
    def name(self) -> str:
        """`key=value` of what differs, the sections left out."""
        return " ".join(f"{key.rpartition('.')[2]}={self.settings[key]}" for key in self.keys)


@dataclasses.dataclass(frozen=True)
class AblationPlan:
    """What is to be run, every setting checked.

    Attributes:
        variants: the baseline first.
        seconds: wall-clock time of each trial; None for equal steps.
    """

    name: str
    variants: list[Variant]
    seeds: list[int]
    grid: bool
    seconds: float | None
    heldout: tuple[str, ...] = ()

    @property
    def baseline(self) -> Variant:
        """What the others are compared with: the first value of every key."""
        return self.variants[0]


def plan_ablation(
    name: str,
    vary: Sequence[str],
    overrides: Sequence[str] = (),
    *,
    seeds: int = 3,
    steps: int | None = None,
    seconds: float | None = None,
    grid: bool = False,
    heldout: Sequence[str] = (),
) -> AblationPlan:
    """Check every setting of an ablation before anything runs.

    Args:
        name: a recipe (shipped or a file), or a file of `hanlin pretrain`.
        vary: `key=value,value`; the first value of each is the baseline's.
        grid: every combination; otherwise one key at a time is moved from the baseline.

    Raises:
        HanlinError: an unknown key (with a suggestion), an impossible value, a key that pretraining does not
            depend on.
    """
    if steps is not None and seconds is not None:
        raise HanlinError("Give --steps or --seconds, not both.")
    if seeds < 1 or (seconds is not None and seconds <= 0):
        raise HanlinError("--seeds must be at least 1, and --seconds more than 0.")
    axes = [_axis(item) for item in vary]
    if not axes:
        raise HanlinError("Say with --vary what to compare. Example: --vary model.qk_norm=true,false")
    keys = [key for key, _ in axes]
    for key in keys:
        if keys.count(key) > 1:
            raise HanlinError("--vary {key} is given twice; write its values together.", key=key)
    section = load_subject(name, overrides).pretrain.id
    fixed = [*overrides, *([f"{section}.train.steps={steps}"] if steps is not None else [])]
    if seconds is not None:
        # what pays depends on the steps, and the steps on the speed: so only who asks for it gets it
        fixed.insert(0, f"{section}.train.compile=false")
    if f"{section}.train.steps" in keys and (steps is not None or seconds is not None):
        raise HanlinError(
            "The length is fixed by --steps or --seconds, so {key} cannot vary.", key=f"{section}.train.steps"
        )
    variants: list[Variant] = []
    for settings in _combinations(axes, grid):
        base = variants[0].settings if variants else {}
        changed = tuple(key for key in keys if settings[key] != base.get(key))
        config = load_subject(name, [*fixed, *(f"{key}={value}" for key, value in settings.items())])
        datasets = ("dataset",) if isinstance(config, StageFile) else ()
        _refuse_idle(keys, (*datasets, "tokenizer", "model", section))
        twin = next((other for other in variants if other.config == config), None)
        if twin is not None:
            twice = Variant(settings, config, tuple(keys)).name
            raise HanlinError(
                "{twin} and {twice} are the same setting. Leave out the value that repeats another.",
                twin=twin.name,
                twice=twice,
            )
        variants.append(Variant(settings, config, changed or tuple(keys)))
    first = variants[0].config
    title = first.name if isinstance(first, Recipe) else Path(name).stem
    return AblationPlan(
        title, variants, [first.seed + index for index in range(seeds)], grid, seconds, tuple(heldout)
    )


def load_subject(name: str, overrides: Sequence[str]) -> Recipe | StageFile:
    """A recipe, or a file of `hanlin pretrain` (one that names a dataset)."""
    path = Path(name)
    if path.is_file() and "dataset" in load_yaml(path):
        return load_stage_file("pretrain", path, overrides)
    return load_recipe(name, overrides)


def run_ablation(
    plan: AblationPlan,
    out: Path,
    *,
    jobs: int = 1,
    keep_models: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run what is not done yet, and write `result/` below `out`: table.json, table.md, differences.svg and a
    manifest.

    Returns:
        The table.

    Raises:
        HanlinError: `out` is in use; or what a trial says. Finished trials are kept.
    """
    with locked_run(out, progress) as progress:
        pool = TrialPool(out / TRIALS, jobs, progress)
        shared = _shared_data_of(plan, out, progress)
        for variant, shared_data in zip(plan.variants, shared, strict=True):
            shared_data.check(variant.config.model)
        lengths = _lengths(plan, shared, pool)
        trials = [
            [
                _trial_spec(variant, shared_data, seed, steps, {"keep": True} if keep_models else {})
                for seed in plan.seeds
            ]
            for variant, shared_data, steps in zip(plan.variants, shared, lengths, strict=True)
        ]
        progress.stage(2, 2, "trials")
        # Seed by seed, so that what disturbs the machine for a while disturbs every setting.
        results = pool.run([row[index] for index in range(len(plan.seeds)) for row in trials])
        table = _table(plan, [[results[trial.name] for trial in row] for row in trials], jobs, pool.threads)
        with artifact(
            out / "result", "ablation", parents={"shared_data": shared[0].key}, config=_config(plan)
        ) as written:
            write_json(written.path / "table.json", table)
            (written.path / "table.md").write_text(ablation_markdown(table), encoding="utf-8")
            (written.path / "differences.svg").write_text(ablation_picture(table), encoding="utf-8")
            written.metrics = {row["name"]: row["bits_per_byte"]["value"] for row in table["variants"]}
        return table


def _axis(item: str) -> tuple[str, list[str]]:
    """`key=a,b` as key and values; commas within brackets belong to a value."""
    key, equals, text = item.partition("=")
    values, depth = [""], 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0:
            values.append("")
        else:
            values[-1] += character
    values = [value.strip() for value in values]
    if not equals or not key or not all(values):
        raise HanlinError(
            "--vary {item!r} should read key.key=value,value, such as model.qk_norm=true,false.", item=item
        )
    if len(values) < 2:
        raise HanlinError("--vary {item} has one value: there is nothing to compare.", item=item)
    for value in values:
        try:
            yaml.safe_load(value)
        except yaml.YAMLError:
            raise HanlinError(
                "--vary {key}: cannot read the value {value!r}.", key=key, value=value
            ) from None
    return key, values


def _combinations(axes: Sequence[tuple[str, list[str]]], grid: bool) -> list[dict[str, str]]:
    if grid:
        return [
            dict(zip([key for key, _ in axes], values, strict=True))
            for values in itertools.product(*(values for _, values in axes))
        ]
    baseline = {key: values[0] for key, values in axes}
    return [baseline] + [baseline | {key: value} for key, values in axes for value in values[1:]]


def _refuse_idle(keys: Sequence[str], sections: Sequence[str]) -> None:
    """Refuse keys that change nothing about a pretraining, or that take away what the comparison is made
    on."""
    for key in keys:
        section = key.partition(".")[0]
        if section == "corpus":
            raise HanlinError(
                "{key} changes which documents are held out, so there would be no common ruler. Build the "
                "corpora apart and compare on one --heldout.",
                key=key,
            )
        if section == "seed":
            raise HanlinError("Seeds are set by --seeds and cannot be varied.")
        if section not in sections:
            raise HanlinError(
                "{key} has no part in pretraining, so there is nothing to compare. Sections that can vary: "
                "{sections}.",
                key=key,
                sections=listing(sections),
            )


def _shared_data_of(plan: AblationPlan, out: Path, progress: Progress) -> list[SharedData]:
    """The data of each variant; equal ones are built once."""
    found: dict[Any, SharedData] = {}
    shared = []
    for variant in plan.variants:
        config = variant.config
        if isinstance(config, Recipe):
            key = str([to_dict(config.corpus), to_dict(config.tokenizer)])
            shared_data = found.get(key) or recipe_data(config, out / "data", progress)
        else:
            key = (config.dataset, config.tokenizer)
            shared_data = found.get(key) or file_data(config, plan.heldout)
        found[key] = shared_data
        shared.append(shared_data)
    return shared


def _trial_spec(
    variant: Variant,
    shared_data: SharedData,
    seed: int,
    steps: int,
    more: dict[str, Any],
    task: str = "train",
) -> TrialSpec:
    config = variant.config
    section = dataclasses.replace(
        config.pretrain, train=dataclasses.replace(config.pretrain.train, steps=steps)
    )
    slug = "".join(
        character if character.isalnum() or character in "=.-_" else "_" for character in variant.name
    )[:80]
    name = f"measure-{slug}" if task == "measure" else f"{slug}-seed{seed}"
    return TrialSpec(name, shared_data, config.model, section, seed, config.device, task, more)


def _lengths(plan: AblationPlan, shared: Sequence[SharedData], pool: TrialPool) -> list[int]:
    """Steps of each variant: the configuration's own, or as many as fill the seconds by a short measurement
    of each.

    As many measurements run at once as trials will, so that they share the machine as trials do.
    """
    if plan.seconds is None:
        return [variant.config.pretrain.train.steps for variant in plan.variants]
    short = min(20.0, max(3.0, 0.1 * plan.seconds))
    pool.progress.stage(1, 2, "measure")
    more = {"seconds": short, "jobs": pool.jobs, "threads": pool.threads}
    measurements = [
        _trial_spec(variant, shared_data, plan.seeds[0], 1_000_000, more, "measure")
        for variant, shared_data in zip(plan.variants, shared, strict=True)
    ]
    results = pool.run(measurements)
    found = [results[measured.name] for measured in measurements]
    return [
        max(1, int((plan.seconds - measured["first_seconds"]) / measured["step_seconds"]))
        for measured in found
    ]


def _table(
    plan: AblationPlan, results: Sequence[Sequence[dict[str, Any]]], jobs: int, threads: int
) -> dict[str, Any]:
    rows = ablation_table(
        [
            {"name": variant.name, "settings": variant.settings, "results": found}
            for variant, found in zip(plan.variants, results, strict=True)
        ]
    )
    notes = []
    if plan.seconds is not None:
        off = [
            (row["name"], row["seconds"])
            for row in rows
            if abs(row["seconds"] / plan.seconds - 1) > _CLOCK_TOLERANCE
        ]
        for name, seconds in off:
            notes.append(
                Text(
                    "{name} took {seconds:.0f} seconds, more than {clock_tolerance:.0%} off: the machine's "
                    "speed changed, so the comparison is not quite fair.",
                    name=name,
                    seconds=seconds,
                    clock_tolerance=_CLOCK_TOLERANCE,
                )
            )
    equal = {"seconds": plan.seconds} if plan.seconds is not None else {"steps": int(rows[0]["steps"])}
    return {
        "format": 1,
        "recipe": plan.name,
        "mode": "grid" if plan.grid else "one_at_a_time",
        "seeds": plan.seeds,
        "equal": equal,
        "documents": len(results[0][0]["bytes"]),
        "jobs": jobs,
        "threads": threads,
        "variants": rows,
        "notes": [[note.zh, note.en] for note in notes],
    }


def _config(plan: AblationPlan) -> dict[str, Any]:
    return {
        "baseline": to_dict(plan.baseline.config),
        "variants": [variant.settings for variant in plan.variants],
        "seeds": plan.seeds,
        "seconds": plan.seconds,
        "grid": plan.grid,
    }
