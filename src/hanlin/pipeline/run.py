"""`hanlin run`: a recipe in a directory, with everything looked at beforehand and a report at the end."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hanlin.common.atomic import read_json, write_json
from hanlin.common.config import to_dict
from hanlin.common.devices import resolve_device
from hanlin.common.errors import HanlinError
from hanlin.common.locks import directory_lock
from hanlin.common.manifest import MANIFEST, hash_json, package_versions, read_manifest
from hanlin.common.progress import Progress, make_progress
from hanlin.common.tracking import check_trackers
from hanlin.corpus.readers.read import Kind, check_inputs
from hanlin.evaluation import Metric
from hanlin.evaluation.kept_items import with_items
from hanlin.pipeline.card import write_card_of_run
from hanlin.pipeline.facts import about_model, examples, tokens_facts
from hanlin.pipeline.recipe_run import RecipeRun
from hanlin.pipeline.run_context import RunContext
from hanlin.recipe.recipe import Recipe
from hanlin.report.format import FORMAT
from hanlin.report.report import validate_report, write_report
from hanlin.training.distributed.launch import init_distributed
from hanlin.training.distributed.process_group import ProcessGroup

RECIPE_FILE = "recipe.json"
LONGEST_WORK_OF_RANK0 = datetime.timedelta(days=7)
_KINDS: dict[str, Kind] = {
    "messages": "conversations",
    "preferences": "preferences",
    "problems": "conversations",
}


def run_recipe(recipe: Recipe, out: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Run a recipe in `out`, going on with whatever is there, and write `report.json` and `report.html`.

    Started by torchrun, all its processes call this; they train together, and rank 0 does the rest.

    Returns:
        The report.

    Raises:
        HanlinError: `out` is in use, or holds something else than a run; an input is missing; or what a
            stage says.
    """
    for stage in recipe.stages:
        if stage.train.parallel == "deepspeed":
            raise HanlinError(
                "{stage}.train.parallel=deepspeed is for the commands of one stage (hanlin pretrain, sft, "
                "…, with torchrun or without), not for hanlin run. Take ddp or fsdp, or train stage by "
                "stage.",
                stage=stage.id,
            )
    with init_distributed("ddp", recipe.device) as (strategy, device):
        # what rank 0 does alone may take hours (a corpus, an exam); when it dies, torchrun ends the others
        group = strategy.group.new_group(timeout=LONGEST_WORK_OF_RANK0)
        own_progress = progress is None
        if progress is None:
            progress = make_progress() if group.is_rank0 else Progress()
        try:
            return _run(recipe, out, progress, group, device)
        finally:
            if own_progress:
                progress.close()


def _run(
    recipe: Recipe, out: Path, progress: Progress, group: ProcessGroup, device: str | None
) -> dict[str, Any]:
    """The run, in each process."""
    context = RunContext(recipe, out, progress, group, device)

    with contextlib.ExitStack() as held:

        def prepare() -> None:
            refuse_foreign(out)
            context.suite.check()
            check_inputs_of(recipe)
            held.enter_context(directory_lock(out))
            write_json(out / RECIPE_FILE, to_dict(recipe))

        group.run_on_rank0(prepare)
        began = time.monotonic()
        progress.expect(expected_work(recipe))
        RecipeRun(context).run()
        return group.run_on_rank0(lambda: _report(context, time.monotonic() - began))


def expected_work(recipe: Recipe) -> dict[str, float]:
    """Work of each stage, in tokens trained on, roughly. A control of equal time is as much as its subject,
    whatever steps it is given."""
    work = {}
    for stage in recipe.stages:
        timed = recipe.stage(stage.of) if stage.equal_time else stage
        work[stage.id] = stage.seeds * timed.stage.work(timed)
    return work


def _report(context: RunContext, seconds: float) -> dict[str, Any]:
    """The report of a finished run: the standing one where nothing was done anew."""
    recipe, out, records = context.recipe, context.out, context.runner.records
    digest = hash_json(read_json(out / RECIPE_FILE))
    stages = stage_entries(context)
    standing = _standing_report(out, stages) if len(context.runner.reused) == len(records) else None
    if standing is not None:
        if standing.get("recipe_hash") != digest:  # what was changed touches no figure
            standing["recipe_hash"] = digest
            write_json(out / "report.json", standing)
        return standing
    here = machine()
    report = {
        "format": FORMAT,
        "recipe": recipe.name,
        "recipe_hash": digest,
        "seed": recipe.seed,
        "machine": here,
        "processes": context.group.world_size,
        "seconds": round(sum(record.seconds for record in records.values()), 1),
        "wall_seconds": round(seconds, 1),
        "peak_rss_mb": max(record.peak_rss_mb for record in records.values()),
        "model": "model",
        "about": about_model(recipe, out, here["device"]),
        "stages": stages,
    }
    write_report(out, report, _extras(context))
    write_card_of_run(out, context.progress)
    return report


def stage_entries(context: RunContext) -> list[dict[str, Any]]:
    """The steps of a run as report.json has them: what each is and is judged by, its figures, and beside the
    target its control."""
    configs = {stage.id: stage for stage in context.recipe.stages}
    entries = []
    for name, record in context.runner.records.items():
        entry: dict[str, Any] = {"id": name, "kind": record.kind or name}
        entry |= {key: getattr(record, key) for key in ("title", "does", "target") if getattr(record, key)}
        config = configs.get(name)
        if config is not None:
            entry |= {"role": config.role, "produces": config.stage.produces}
        if config is not None and config.of:
            entry["of"] = config.of
        entry |= {
            "seconds": record.seconds,
            "peak_rss_mb": record.peak_rss_mb,
            "kept": record.kept,
            "metrics": dict(record.metrics),
            "samples": record.samples,
        }
        entry |= {key: record.notes[key] for key in ("gate", "scores", "doctors") if record.notes.get(key)}
        entries.append(entry)
    by_id = {entry["id"]: entry for entry in entries}
    for entry in entries:
        subject = by_id.get(entry.get("of", ""))
        measured = None if subject is None else _measured(context.out, entry)
        beside = None if subject is None else _measured(context.out, subject)
        if subject is not None and measured is not None and beside is not None:
            subject["metrics"][subject["target"]] = beside.with_control(entry["id"], measured).to_dict()
    return entries


def _measured(out: Path, entry: Mapping[str, Any]) -> Metric | None:
    """The target of an entry, with its items."""
    name = entry["target"]
    if name not in entry["metrics"]:
        return None
    metric = {name: Metric.from_dict(entry["metrics"][name])}
    return with_items(metric, out, entry.get("scores") or {})[name]


def _standing_report(out: Path, stages: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The report of an earlier start, if it is whole and says what the steps' records say; another is
    written anew."""
    try:
        found = read_json(out / "report.json")
        validate_report(found)
        return found if found["stages"] == stages and (out / "report.html").is_file() else None
    except (HanlinError, OSError, KeyError, TypeError, ValueError, AttributeError):
        return None


def check_inputs_of(recipe: Recipe) -> None:
    """Look at all that a run will need before its first stage begins, so that the last stage does not fail
    for a misspelt name.

    Raises:
        HanlinError: a device or tracker is not there; a file is missing, or its first records are not what
            its stage reads.
    """
    resolve_device(recipe.device)
    check_trackers(recipe.track)
    corpus = recipe.corpus
    if corpus is not None and corpus.patterns() and not corpus.skip_bad:
        check_inputs(corpus.patterns(), "documents", text_key=corpus.text_key, skip="corpus.skip_bad=true")
    for stage in recipe.stages:
        if stage.data is not None and stage.data.patterns() and stage.stage.schema is not None:
            check_inputs(stage.data.patterns(), _KINDS[stage.stage.schema])


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


def _extras(context: RunContext) -> dict[str, Any]:
    """What only the page of the report shows."""
    recipe, out, records = context.recipe, context.out, context.runner.records
    artifacts = {}
    models = sorted((out / "models").iterdir()) if (out / "models").is_dir() else []
    for folder in (out / "corpus", out / "tokenizer", out / "dataset", *models):
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
    problems = {
        stage.id: next(iter(stage.data.train(context.stage_of(stage.id).inputs.scope)))
        for stage in recipe.stages
        if stage.stage.schema == "problems" and stage.data is not None
    }
    return {
        "tokens": tokens_facts(out) if recipe.begins_from_text else None,
        "examples": examples(recipe, out, problems),
        "corpus_page": page.relative_to(out).as_posix() if page.is_file() else None,
        "recipe_resolved": to_dict(recipe),
        "versions": package_versions(),
        "artifacts": artifacts,
        "curves": {file.stem: str(file) for file in sorted((out / "curves").glob("*.jsonl"))},
        "drops": read_json(drops) if drops.is_file() else {},
        "samples": {name: record.samples for name, record in records.items()},
        "notes": {name: record.notes for name, record in records.items()},
    }
