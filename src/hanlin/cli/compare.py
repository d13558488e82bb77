"""The verb `hanlin compare`. `cli` names it and loads this file when it is asked for; what is heavy waits
until it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hanlin.cli.main import Flag, show
from hanlin.common.messages import listing, tr


def compare(*runs: Path, picture: Path | None = None, stage: str = "pretrain", json: Flag = False) -> None:
    """Compare runs: figures of their reports, item by item where they had the same items, and their curves.

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
