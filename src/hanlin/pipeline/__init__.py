"""Runs a recipe: stages in order, what is done already kept, a gate after each, a report at the end."""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import Any

from hanlin.common.atomic import atomic_write, read_json, write_json
from hanlin.common.config import to_dict
from hanlin.common.devices import resolve_device
from hanlin.common.errors import HanlinError, require_one_process
from hanlin.common.locks import directory_lock
from hanlin.common.manifest import MANIFEST, hash_json, package_versions, read_manifest
from hanlin.common.messages import listing
from hanlin.common.progress import Progress, make_progress
from hanlin.common.tracking import check_trackers
from hanlin.corpus.readers.read import Kind, check_inputs
from hanlin.pipeline.facts import about_model, examples, tokens_facts
from hanlin.pipeline.life import Life
from hanlin.planning.plan import work_of
from hanlin.recipe.recipe import Recipe, load_recipe, recipe_names

__all__ = ["Life", "Recipe", "evaluate_model", "load_recipe", "recipe_names", "run_recipe"]

RECIPE_FILE = "recipe.json"
STAGE_DATA: dict[str, Kind] = {  # what each stage reads
    "corpus": "documents",
    "sft": "conversations",
    "distill": "conversations",
    "dpo": "preferences",
    "reward": "preferences",
    "grpo": "conversations",
}


def run_recipe(recipe: Recipe, out: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Run a recipe in `out`, going on with whatever is there, and write `report.json` and `report.html`.

    Returns:
        The report.

    Raises:
        HanlinError: `out` is in use, or holds something else than a run; torchrun started several processes; or what a stage says.
    """
    from hanlin.report.model_card import model_card
    from hanlin.report.report import write_report

    require_one_process("hanlin run")
    own_progress = progress is None
    progress = progress or make_progress()
    refuse_foreign(out)
    check_inputs_of(recipe)
    try:
        with directory_lock(out):
            write_json(out / RECIPE_FILE, to_dict(recipe))
            life = Life(recipe, out, progress)
            began = time.monotonic()
            progress.expect(work_of(recipe))
            life.run()
            records = life.runner.records
            digest = hash_json(read_json(out / RECIPE_FILE))
            stages = [
                {
                    "name": name,
                    "seconds": r.seconds,
                    "peak_rss_mb": r.peak_rss_mb,
                    "kept": r.kept,
                    "metrics": r.metrics,
                    "samples": r.samples,
                }
                for name, r in records.items()
            ]
            found = _standing_report(out, stages) if len(life.runner.reused) == len(records) else None
            if found is not None:
                if found.get("recipe_hash") != digest:  # what was changed touches no figure
                    found["recipe_hash"] = digest
                    write_json(out / "report.json", found)
                return found
            report = {
                "format": 1,
                "recipe": recipe.name,
                "recipe_hash": digest,
                "seed": recipe.seed,
                "machine": machine(),
                "seconds": round(sum(record.seconds for record in records.values()), 1),
                "wall_seconds": round(time.monotonic() - began, 1),
                "peak_rss_mb": max(record.peak_rss_mb for record in records.values()),
                "model": "model",
                "about": about_model(recipe, out, machine()["device"]),
                "stages": stages,
            }
            write_report(out, report, _extras(recipe, out, life))
            card = model_card(report | {"hash": read_manifest(out / "model", verify=False).content_hash})
            atomic_write(out / "model" / "README.md", card.encode())
            return report
    finally:
        if own_progress:
            progress.close()


def _standing_report(out: Path, stages: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The report of an earlier start, if it is whole and says what the steps' records say; another is written anew."""
    from hanlin.report.report import validate_report

    try:
        found = read_json(out / "report.json")
        validate_report(found)
        return found if found["stages"] == stages and (out / "report.html").is_file() else None
    except (HanlinError, OSError, KeyError, TypeError, ValueError, AttributeError):
        return None


def check_inputs_of(recipe: Recipe) -> None:
    """Look at all that a run will need before its first stage begins, so that the last stage does not fail for a misspelt name.

    Raises:
        HanlinError: a device or tracker is not there; a file is missing, or its first records are not what its stage reads.
    """
    resolve_device(recipe.device)
    check_trackers(recipe.track)
    if recipe.tinyworld:
        return
    for stage, kind in STAGE_DATA.items():
        section = getattr(recipe, stage)
        if section is None or getattr(section, "skip_bad", False):
            continue
        skip = "corpus.skip_bad=true" if stage == "corpus" else ""
        check_inputs(section.files, kind, text_key=getattr(section, "text_key", ""), skip=skip)


def refuse_foreign(out: Path) -> None:
    """Refuse a directory that holds something, but no run of ours."""
    if (
        out.is_dir()
        and any(not entry.name.startswith(".") for entry in out.iterdir())
        and not (out / RECIPE_FILE).is_file()
    ):
        raise HanlinError(
            "{out} holds other files and is not a run of Hanlin's. Choose an empty directory as --out, so "
            "that nothing gets mixed up.",
            out=out,
        )


def machine() -> dict[str, Any]:
    """The machine a run was made on."""
    import os

    import torch

    memory = (
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else None
    )
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return {
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(memory, 1) if memory else None,
        "device": str(accelerator or "cpu"),
    }


def _extras(recipe: Recipe, out: Path, life: Life) -> dict[str, Any]:
    artifacts = {}
    for folder in (out / "corpus", out / "tokenizer", out / "dataset", *sorted((out / "models").iterdir())):
        if (folder / MANIFEST).is_file():
            manifest = read_manifest(folder, verify=False)
            artifacts[folder.name] = {
                "kind": manifest.kind,
                "hash": manifest.content_hash,
                "parents": manifest.parents,
                "path": str(folder.relative_to(out)),
            }
    drops = out / "corpus" / "report.json"
    page = out / "corpus" / "report.html"
    return {
        "tokens": tokens_facts(out),
        "examples": examples(out, life.source.problems() if recipe.grpo is not None else None),
        "corpus_page": page.relative_to(out).as_posix() if page.is_file() else None,
        "recipe_resolved": to_dict(recipe),
        "versions": package_versions(),
        "artifacts": artifacts,
        "curves": {file.stem: str(file) for file in sorted((out / "curves").glob("*.jsonl"))},
        "drops": read_json(drops) if drops.is_file() else {},
        "samples": {name: record.samples for name, record in life.runner.records.items()},
        "notes": {name: record.notes for name, record in life.runner.records.items()},
    }


def evaluate_model(
    path: Path | str, tasks: tuple[str, ...] | None = None, count: int = 500
) -> dict[str, Any]:
    """Measure a model on the embedded tinyworld's held-out tasks.

    Args:
        tasks: names among those of `TASKS` and `later_turns`; all of them when absent.
        count: items per task, at least 1.

    Returns:
        Metrics by name, as in report.json; over all answers also `ends_by_itself`, `thinking_closes`, `inside_answered`.
    """
    from hanlin.inference import load_chat_model
    from hanlin.pipeline.exam import Exam
    from hanlin.pipeline.sources import TASKS, TURNS, TinyworldSource

    known = (*TASKS, TURNS)
    unknown = sorted(set(tasks or ()) - set(known))
    if unknown:
        raise HanlinError(
            "There is no task {unknown!r}. Known: {known}.", unknown=unknown[0], known=listing(known)
        )
    if count < 1:
        raise HanlinError("count must be at least 1, not {count}.", count=count)
    model, tokenizer = load_chat_model(path)
    recipe = load_recipe("demo", [f"evaluation.count={count}"])
    exam = Exam(recipe, TinyworldSource(recipe), tokenizer)
    return {
        name: metric.to_dict()
        for name, metric in exam(model, list(tasks or known), with_problems=True).items()
    }
