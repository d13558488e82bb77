"""The verbs of experiments. `cli` names them and loads this file when one is asked for; what is heavy waits until one runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from .cli import Flag, Many, show
from .common.errors import HanlinError

Each = Annotated[tuple[str, ...], Parameter(negative=())]  # given once for each


def ablate(
    recipe: str, /, *overrides: str, out: Path, vary: Each = (), seeds: int = 3, steps: int | None = None, seconds: float | None = None,
    jobs: int = 1, grid: Flag = False, one_at_a_time: Flag = False, heldout: Many = (), keep_models: Flag = False, json: Flag = False,
) -> None:  # fmt: skip
    """Measure what each setting of a pretraining contributes: held-out bits per byte with intervals, a table and a picture.

    Killed or interrupted, the same command goes on where it was; finished cells are kept.

    Parameters
    ----------
    recipe
        A shipped recipe, a YAML file, or a file of hanlin pretrain (then with --heldout).
    overrides
        Dotted settings of every cell, such as corpus.documents=2000.
    out
        Directory of the ablation.
    vary
        key=value,value, once for each key; the first values are the baseline.
    seeds
        Runs of each setting. One seed ranks nothing.
    steps
        Of each cell, instead of the recipe's.
    seconds
        Wall-clock time of each cell instead: a short probe of each setting says how many steps fit.
    jobs
        Cells at once; each gets its share of the cores.
    grid
        Every combination.
    one_at_a_time
        One key at a time moved from the baseline, which is the default.
    heldout
        Corpus directory or text files to measure on, for a file of hanlin pretrain.
    keep_models
        Keep each cell's model.
    json
        Print the table on stdout.
    """
    from .evaluation.ablation import ablation_text
    from .pipeline.ablate import plan_ablation, run_ablation

    if grid and one_at_a_time:
        raise HanlinError("--grid 和 --one-at-a-time 只能给一个。", "Give --grid or --one-at-a-time, not both.")
    plan = plan_ablation(recipe, vary, overrides, seeds=seeds, steps=steps, seconds=seconds, grid=grid, heldout=heldout)
    table = run_ablation(plan, out, jobs=jobs, keep_models=keep_models)
    show(table, json, ablation_text(table) + f"\n{out / 'result'}")
