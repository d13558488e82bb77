"""The verbs of experiments. `cli` names them and loads this file when one is asked for; what is heavy waits
until one runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from hanlin.cli.main import Flag, Many, show
from hanlin.common.errors import HanlinError

Each = Annotated[tuple[str, ...], Parameter(negative=())]  # given once for each


def ablate(
    recipe: str,
    /,
    *overrides: str,
    out: Path,
    vary: Each = (),
    seeds: int = 3,
    steps: int | None = None,
    seconds: float | None = None,
    jobs: int = 1,
    grid: Flag = False,
    one_at_a_time: Flag = False,
    heldout: Many = (),
    keep_models: Flag = False,
    json: Flag = False,
) -> None:
    """Measure what each setting of a pretraining contributes: held-out bits per byte with intervals, a table
    and a picture.

    Killed or interrupted, the same command goes on where it was; finished trials are kept.

    Parameters
    ----------
    recipe
        A shipped recipe, a YAML file, or a file of hanlin pretrain (then with --heldout).
    overrides
        Dotted settings of every trial, such as corpus.documents=2000.
    out
        Directory of the ablation.
    vary
        key=value,value, once for each key; the first values are the baseline.
    seeds
        Runs of each setting. One seed ranks nothing.
    steps
        Of each trial, instead of the recipe's.
    seconds
        Wall-clock time of each trial instead: a short measurement of each setting says how many steps fit.
    jobs
        Trials at once; each gets its share of the cores.
    grid
        Every combination.
    one_at_a_time
        One key at a time moved from the baseline, which is the default.
    keep_models
        Keep each trial's model.
    json
        Print the table on stdout.
    """
    from hanlin.experiments.ablation import plan_ablation, run_ablation
    from hanlin.report.ablation_page import ablation_text

    if grid and one_at_a_time:
        raise HanlinError("Give --grid or --one-at-a-time, not both.")
    plan = plan_ablation(
        recipe, vary, overrides, seeds=seeds, steps=steps, seconds=seconds, grid=grid, heldout=heldout
    )
    table = run_ablation(plan, out, jobs=jobs, keep_models=keep_models)
    show(table, json, ablation_text(table) + f"\n{out / 'result'}")


def scaling(
    recipe: str,
    /,
    *overrides: str,
    out: Path,
    params: str,
    tokens_per_param: str = "5,10,20,40",
    budget: Each = (),
    seeds: int = 1,
    jobs: int = 1,
    heldout: Many = (),
    json: Flag = False,
) -> None:
    """Train a miniseries of sizes and lengths, fit L(N, D) = E + A/N^α + B/D^β, and advise on the size for a
    budget.

    The lengths of a size are branches of one run, so each costs its own decay only. The same command goes on
    where it was.

    Parameters
    ----------
    recipe
        A shipped recipe, a YAML file, or a file of hanlin pretrain (then with --heldout).
    overrides
        Dotted settings of every run.
    out
        Directory of the series.
    params
        Sizes with embeddings, such as 0.3m,0.6m,1.2m,2.4m.
    tokens_per_param
        Lengths, in tokens for each parameter.
    budget
        90s, 30m, 1h, 2d on this machine, or FLOPs such as 1e16; once for each.
    seeds
        Runs of each size.
    jobs
        Runs at once; each gets its share of the cores.
    json
        Print the law on stdout.
    """
    from hanlin.experiments.scaling import plan_scaling, run_scaling
    from hanlin.report.scaling_page import scaling_text

    try:
        lengths = [float(text) for text in tokens_per_param.split(",")]
    except ValueError:
        raise HanlinError(
            "--tokens-per-param {tokens_per_param!r} should be numbers such as 5,10,20.",
            tokens_per_param=tokens_per_param,
        ) from None
    plan = plan_scaling(
        recipe, params.split(","), lengths, overrides, budgets=budget, seeds=seeds, heldout=heldout
    )
    found = run_scaling(plan, out, jobs=jobs)
    show(found, json, scaling_text(found) + f"\n{out / 'result'}")
