"""Doctors after each stage of a run: the cheap ones that `evaluation.doctors` names examine its model on what
the run holds out. They warn; they refuse nothing."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from hanlin.common.manifest import MANIFEST, read_manifest
from hanlin.common.messages import Text
from hanlin.corpus.builder.build import read_corpus
from hanlin.dataset import TokenDataset
from hanlin.evaluation.doctors.base import Doctor, Finding, examined, ordered_doctors, unknown
from hanlin.evaluation.doctors.context import DoctorContext, OtherModel, answered
from hanlin.inference import sampling_defaults
from hanlin.model import load_model
from hanlin.pipeline.lineage import Lineage
from hanlin.pipeline.run_context import RunContext
from hanlin.report.findings import alarms_text
from hanlin.stages.stage import StageConfig
from hanlin.tokenizer.foreign import open_any

COUNT = 40  # texts and conversations, and replies of either sort: some two seconds for a model of the demo


def examine_stage(run: RunContext, before: Lineage, after: Lineage) -> dict[str, Any]:
    """What the doctors of the recipe find of a model, said where it is yellow or red.

    Args:
        before, after: the model that its stage began with, and the stage's own.

    Returns:
        By the doctor's name a finding with its `title` and the `labels` of its metrics, JSON-able.
    """
    names = run.recipe.evaluation.doctors
    if not names:
        return {}
    context = _context(run, before, after)
    found = {}
    for doctor in ordered_doctors(names):
        finding = _finding(doctor, context)
        labels = {name: doctor.label(name).to_dict() for name in finding.metrics}
        said = {key: value for key, value in finding.to_dict().items() if key != "details"}
        found[doctor.name] = {"title": doctor.title.to_dict(), "labels": labels} | said
    warning = alarms_text(found)
    if warning is not None:
        run.progress.warn("{stage}, doctors: {found}", stage=after.stages[-1].id, found=warning)
    return found


def _finding(doctor: Doctor, context: DoctorContext) -> Finding:
    """A doctor's finding; that it failed, where it did: what may refuse nothing may not end a run either."""
    try:
        return examined(doctor, context)
    except Exception as error:
        return unknown(Text("The doctor failed: {error!r}.", error=error))


def _context(run: RunContext, before: Lineage, after: Lineage) -> DoctorContext:
    """The stage's model with the texts and conversations that the run holds out."""
    path = after.path
    assert path is not None
    held = [] if run.suite.corpus is None else list(islice(read_corpus(run.suite.corpus, "heldout"), COUNT))
    dataset = run.out / "dataset"
    last = _chat_stage(after)
    labelled = None if last is None else run.out / "data" / last.id
    return DoctorContext(
        run.suite.open(path),
        open_any(path),
        folder=path,
        documents=[document["text"] for document in held],
        sources=[str(document.get("source") or "") for document in held],
        conversations=[] if last is None else _conversations(run, last),
        dataset=_opened(dataset),
        labelled=None if labelled is None else _opened(labelled),
        previous=None if before.path is None else _previous(run, before.path, chat=before.chat),
        chat=after.chat,
        seen=read_manifest(path, verify=False).config.get("seq_len"),
        count=COUNT,
        sampling=sampling_defaults(path) or None,
        seed=run.recipe.seed,
    )


def _chat_stage(after: Lineage) -> StageConfig | None:
    """The last stage that taught the model conversations; None where none did."""
    taught = [stage for stage in after.stages if stage.stage.schema == "messages" and stage.data is not None]
    return taught[-1] if taught else None


def _conversations(run: RunContext, config: StageConfig) -> list[Any]:
    """Held-out conversations of a stage."""
    assert config.data is not None
    records = config.data.heldout(run.stage_of(config.id).inputs.scope)
    return list(islice((record for record in records if answered(record)), COUNT))


def _opened(path: Path) -> TokenDataset | None:
    return TokenDataset(path, verify=False) if (path / MANIFEST).is_file() else None


def _previous(run: RunContext, path: Path, *, chat: bool) -> OtherModel:
    return OtherModel(path.name, lambda: load_model(path, device=run.recipe.device), chat)
