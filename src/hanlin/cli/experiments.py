"""The verbs of experiments. `cli` names them and loads this file when one is asked for; what is heavy waits until one runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from hanlin.cli.main import Flag, Many, show
from hanlin.common.errors import HanlinError
from hanlin.common.messages import listing, tr

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
    """Measure what each setting of a pretraining contributes: held-out bits per byte with intervals, a table and a picture.

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
    """Train a miniseries of sizes and lengths, fit L(N, D) = E + A/N^α + B/D^β, and advise on the size for a budget.

    The lengths of a size are branches of one run, so each costs its own decay only. The same command goes on where it was.

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


def compare(*runs: Path, picture: Path | None = None, stage: str = "pretrain", json: Flag = False) -> None:
    """Compare runs: figures of their reports, none ranked whose intervals overlap, and their training curves.

    Parameters
    ----------
    runs
        Run directories, models, trials of an ablation, or metrics.jsonl files; finished or not.
    stage
        Whose curve, for runs of several stages.
    """
    from hanlin.report.compare import compare_runs, comparison_table
    from hanlin.report.curves import compare_curves, curves_picture, curves_text, find_metrics

    if len(runs) < 2:
        compare_runs(list(runs))  # says what is missing
    reports = all(run.name == "report.json" or (run / "report.json").is_file() for run in runs)
    folders = [run.parent if run.name == "report.json" else run for run in runs]
    result: dict[str, Any] = compare_runs(list(runs)) if reports else {}
    texts = [comparison_table(result)] if reports else []
    bare = [str(folder) for folder in folders if find_metrics(folder, stage) is None]
    if reports and picture is None and bare:
        texts.append(tr("No training curve of {stage}: {bare}", stage=stage, bare=listing(bare)))
    else:
        found = compare_curves(folders, stage)
        texts.append(curves_text(found))
        if picture is not None:
            from hanlin.common.atomic import atomic_write

            atomic_write(picture, curves_picture(found))
        result["curves"] = {name: value for name, value in found.items() if name != "curves"}
    show(result, json, "\n\n".join(texts))


def tail(dataset: Path, /, *, json: Flag = False) -> None:
    """Compare the last documents of each source with the rest of it; say which are twice as surprising, or half as much.

    Parameters
    ----------
    dataset
        From hanlin dataset build, in the order its texts came; that of a shuffled corpus has no ends to look at.
    """
    import dataclasses

    from hanlin.dataset import TokenDataset, tail_alarm
    from hanlin.dataset.tail import tail_text

    found = tail_alarm(TokenDataset(dataset))
    show([dataclasses.asdict(entry) | {"ratio": entry.ratio} for entry in found], json, tail_text(found))
