"""The verbs of `hanlin inspect`. `cli` names them and loads this file when one is asked for; what is heavy
waits until one runs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from hanlin.cli.main import Files, Flag, Many, show
from hanlin.common.errors import HanlinError
from hanlin.common.messages import tr

_CHARACTERS = 200
_SHOWN = 8


def spike(run: Path, /, *, step: int | None = None, json: Flag = False) -> None:
    """Show the documents of the steps that were skipped, worst first, with their text.

    Parameters
    ----------
    run
        Directory of a run or of one stage, finished or not.
    step
        Only the bad steps of this number.
    """
    found = [entry for folder in _folders(run) for entry in _entries(folder, step)]
    if step is not None and not found:
        raise HanlinError(
            "{run} has no record of step {step}. Leave --step out to see all.", run=run, step=step
        )
    show(
        found,
        json,
        "\n\n".join(map(_render, found)) or tr("{run}: no step was skipped.", run=run),
    )


def model(
    model: Path,
    /,
    *,
    doctors: Many = (),
    text: Files = (),
    chats: Files = (),
    dataset: Path | None = None,
    questions: Path | None = None,
    canary: Path | None = None,
    against: Path | None = None,
    exports: Files = (),
    data: Path | None = None,
    tasks: Many = (),
    count: int = 200,
    device: str | None = None,
    strict: Flag = False,
    json: Flag = False,
) -> None:
    """Have doctors examine a model: each gives a number with its interval, what it means and what to do.

    Parameters
    ----------
    doctors
        Names, also with commas between; all when absent.
    text
        Texts that the model has not seen; those that its run held out when absent.
    chats
        Conversations that the model has not seen; of a run on the embedded corpus, those it held out.
    dataset
        Tokens that the model was trained on (hanlin dataset build); those of its run when absent.
    questions
        A table of a test's questions (csv, tsv, json, jsonl): was the model trained on them?
    canary
        Record of canaries that were planted in its training texts (hanlin corpus canary).
    against
        The model that it was trained from; the one its run began the stage with when absent.
    exports
        GGUF files and model directories made of it; those of its run when absent.
    data
        Directory of public benchmarks as they are published, for the doctor prompts.
    tasks
        A benchmark with choices in --data (c3); the held-out questions of a run on the embedded corpus when
        absent.
    count
        Texts, conversations and replies at most.
    strict
        Exit with 1 if anything is red.
    """
    from hanlin.common.progress import make_progress
    from hanlin.evaluation.doctors.base import DOCTORS, examine_model
    from hanlin.evaluation.doctors.inputs import doctor_context
    from hanlin.evaluation.doctors.table import findings_text

    names = [name for word in doctors for name in word.split(",") if name]
    for name in names:
        DOCTORS.get(name)
    progress = make_progress()
    asked = _asked(model, data, tasks, progress)
    context = doctor_context(
        model,
        text=text,
        chats=chats,
        dataset=dataset,
        questions=questions,
        canary=canary,
        against=against,
        exports=_exports(model, exports, device),
        items=asked[1],
        task=asked[0],
        count=count,
        device=device,
    )
    findings = list(examine_model(context, names, lambda name: progress.note("{name} …", name=name)))
    show(
        {doctor.name: finding.to_dict() for doctor, finding in findings},
        json,
        findings_text(findings),
    )
    if strict and any(finding.level == "red" for _, finding in findings):
        raise SystemExit(1)


def _asked(model: Path, data: Path | None, tasks: Many, progress: Any) -> tuple[str, Any]:
    """Name and items of the benchmark that was named; nothing where none was."""
    from hanlin.pipeline.benchmarks import Asked, questions_of

    if data is None and not tasks:
        return "", ()
    if data is None or len(tasks) != 1:
        raise HanlinError("Wordings are compared on one benchmark: --data DIR --tasks c3.")
    question = questions_of(Asked(model, data, names=tasks), progress)[0]
    return question.name, question.items


def _exports(model: Path, files: Files, device: str | None) -> list[Any]:
    """The exports that were named; else those of the run whose published model this is."""
    from hanlin.common.manifest import MANIFEST, read_manifest
    from hanlin.evaluation.doctors.context import OtherModel
    from hanlin.evaluation.doctors.inputs import run_of
    from hanlin.export.read_back import exports_of, read_export
    from hanlin.inference import resolve_model_dir

    for file in files:
        if not file.exists():
            raise HanlinError("No such file: {path}.", path=file)
    folder = resolve_model_dir(model)
    run = run_of(folder)
    if run is not None and not files:
        made = [place for place in (folder, run / "model") if (place / MANIFEST).is_file()]
        hashes = {read_manifest(place, verify=False).content_hash for place in made}
        files = tuple(exports_of(run)) if len(made) == 2 and len(hashes) == 1 else ()
    names = [file.name for file in files]
    titles = [file.name if names.count(file.name) == 1 else str(file) for file in files]
    return [
        OtherModel(title, partial(read_export, file, folder, device))
        for title, file in zip(titles, files, strict=True)
    ]


def _folders(run: Path) -> list[Path]:
    """Work directories under a run, or beside the output of a single stage."""
    from hanlin.training.spikes import RUN

    roots = [run, run.parent / f".{run.name}.work"]
    folders = sorted({file.parent for root in roots if root.is_dir() for file in root.rglob(RUN)})
    if not folders:
        raise HanlinError(
            "{run} holds no record of a training ({run_file}). Give the --out directory of hanlin run, or "
            "that of a single stage.",
            run=run,
            run_file=RUN,
        )
    return folders


def _entries(folder: Path, step: int | None) -> list[dict[str, Any]]:
    """The bad steps of one training, with the text of their worst documents."""
    from hanlin.common.atomic import read_json_lines
    from hanlin.training.spikes import SPIKES

    entries = [entry for entry in read_json_lines(folder / SPIKES) if step is None or entry["step"] == step]
    if not entries:
        return []
    reader, problem = _reader(folder)
    for entry in entries:
        entry["training"] = folder.name
        if problem is not None:
            entry["text_missing"] = problem
        for document in entry["documents"][:_SHOWN] if reader else ():
            document["text"] = reader(document["document"])
    return entries


def _reader(folder: Path) -> tuple[Any, str | None]:
    """A function from a document's index to the beginning of its text; or None and why there is none."""
    from hanlin import load_tokenizer
    from hanlin.common.atomic import read_json
    from hanlin.dataset import TokenDataset
    from hanlin.training.spikes import RUN

    places = read_json(folder / RUN)
    if not places.get("dataset") or not places.get("tokenizer"):
        return None, tr("this stage has no token dataset, only indices")
    try:
        dataset, tokenizer = (
            TokenDataset(places["dataset"], verify=False),
            load_tokenizer(places["tokenizer"]),
        )
    except HanlinError as error:
        return None, str(error)

    def read(document: int) -> str | None:
        return (
            tokenizer.decode(dataset.document(document)[: 4 * _CHARACTERS].tolist())[:_CHARACTERS]
            if document < len(dataset)
            else None
        )

    return read, None


def _render(entry: dict[str, Any]) -> str:
    def number(value: float | None) -> str:
        return "NaN" if value is None else f"{value:.3f}"

    reasons = {
        "loss not finite": tr("the loss is not finite"),
        "gradient not finite": tr("the gradient is not finite"),
        "loss": tr("the loss spiked"),
        "gradient": tr("the gradient spiked"),
    }
    sigmas = entry["sigmas"]
    head = tr(
        "{training} step {step}: {reasons} (loss {loss}, {loss_sigma} σ above; gradient norm {grad_norm}, "
        "{norm_sigma} σ above)",
        training=entry["training"],
        step=entry["step"],
        reasons=reasons.get(entry["reason"], entry["reason"]),
        loss=number(entry["loss"]),
        loss_sigma=number(sigmas["loss"]),
        grad_norm=number(entry["grad_norm"]),
        norm_sigma=number(sigmas["norm"]),
    )
    lines = [head]
    if "text_missing" in entry:
        lines.append("  " + tr("no text: ") + entry["text_missing"])
    for document in entry["documents"][:_SHOWN]:
        lines.append(
            f"  {document['document']:>8}  {number(document['loss'])}  {document.get('text') or ''!r}"
        )
    rest = len(entry["documents"]) - _SHOWN
    if rest > 0:
        lines.append(tr("  and {rest} more", rest=rest))
    return "\n".join(lines)
