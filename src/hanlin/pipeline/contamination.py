"""`hanlin eval … --corpus`: what of the benchmarks stands in the model's training texts, and what that does
to the scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from hanlin.common.atomic import atomic_write, read_json, write_json
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import hash_json, sha256_file
from hanlin.common.messages import tr
from hanlin.common.progress import Progress
from hanlin.common.terminal import table
from hanlin.corpus.canaries import Canaries, read_canaries
from hanlin.evaluation.benchmarks.base import Benchmark
from hanlin.evaluation.benchmarks.items import Prompt
from hanlin.evaluation.benchmarks.run import Outcome, Question
from hanlin.evaluation.contamination.exposure import (
    CanaryGroup,
    canary_groups,
    canary_texts,
    with_exposure,
)
from hanlin.evaluation.contamination.lookup import Lookup, Sighting, Texts, lookup_text, texts_of_run
from hanlin.evaluation.contamination.ordering import item_text, ordering_test
from hanlin.evaluation.contamination.verdict import UNKNOWN, cluster_names, judge_sightings
from hanlin.evaluation.doctors.inputs import run_of
from hanlin.inference import load_chat_model, resolve_model_dir
from hanlin.pipeline.against import metric_of
from hanlin.tokenizer.foreign import open_any

ITEMS_SEEN, RECORD = "items_seen.jsonl", "contamination.json"
NOTHING = "none"  # as --corpus: nothing is looked up
_CANARIES = "(canaries)"  # no benchmark is called so
_ORDERED = 1000  # items that the ordering test reads at most, as in the paper


@dataclasses.dataclass(frozen=True)
class ContaminationConfig:
    """What is looked for.

    Attributes:
        corpus: training texts: corpora, token datasets, files; those of the model's run when absent.
        canary: record of canaries that were planted in them.
        ordering: also test whether the model knows the published order.
    """

    corpus: tuple[Path, ...] = ()
    canary: Path | None = None
    ordering: bool = False


@dataclasses.dataclass(frozen=True)
class ContaminationInputs:
    """What was found to look in, and for.

    Attributes:
        texts: that the model was trained on; none where they are not known.
    """

    model: Path
    texts: tuple[Texts, ...]
    canaries: Canaries | None
    ordering: bool


def open_inputs(config: ContaminationConfig, model: Path) -> ContaminationInputs:
    """Open what is named, before anything is asked of the model.

    Raises:
        HanlinError: no model, training texts or a record that can't be read, or a dataset of another
            tokenizer.
    """
    canaries = None if config.canary is None else read_canaries(config.canary)
    return ContaminationInputs(model, tuple(training_texts(config.corpus, model)), canaries, config.ordering)


def check_contamination(
    inputs: ContaminationInputs,
    questions: Sequence[Question],
    outcomes: Mapping[str, Outcome],
    out: Path | None,
    progress: Progress,
) -> tuple[dict[str, Outcome], list[CanaryGroup]]:
    """The outcomes with a note `contamination` each (`Contamination.to_dict`), and what was found of the
    canaries. With `out`, `items_seen.jsonl` and `contamination.json` are kept there, and what was looked up
    before in the same texts is not looked up again.
    """
    canaries, texts = inputs.canaries, inputs.texts
    wanted = {
        _items_of(question): [lookup_text(item, _prompt(question.benchmark)) for item in question.items]
        for question in questions
    }
    if canaries is not None:
        wanted[_CANARIES] = canary_texts(canaries.drawn())
    lookup = Lookup(wanted)
    found = _looked_up(lookup, texts, out, progress) if texts else None
    seen = None if found is None else found.get(_CANARIES)
    groups = _canaries(canaries, seen, inputs.model, progress)
    control = any(group.in_texts for group in groups)
    noted = {}
    for question in questions:
        outcome = outcomes[question.name]
        judged = UNKNOWN
        if found is not None:
            samples = outcome.samples
            scores = metric_of(samples, [str(sample["item_id"]) for sample in samples]).items
            assert scores is not None
            judged = judge_sightings(
                found[_items_of(question)],
                scores.values.tolist(),
                cluster_names(
                    [str(sample["cluster"]) for sample in samples],
                    [str(sample["subject"]) for sample in samples],
                ),
                control_found=control,
            )
        noted[question.name] = judged.to_dict()
    if inputs.ordering:
        _add_ordering(noted, questions, inputs.model, progress)
    if out is not None:
        _keep(out, {"benchmarks": noted, "canaries": [group_dict(group) for group in groups]})
    with_notes = {
        name: dataclasses.replace(outcome, notes=dict(outcome.notes) | {"contamination": noted[name]})
        for name, outcome in outcomes.items()
    }
    return with_notes, groups


def training_texts(corpus: Sequence[Path], model: Path) -> list[Texts]:
    """The training texts that are named, or else those of the run that the model lies in.

    Raises:
        HanlinError: nothing there, or a dataset of another tokenizer.
    """
    if [str(path) for path in corpus] == [NOTHING]:
        return []
    folder = resolve_model_dir(model)
    if corpus:
        tokenizer = open_any(folder)
        return [Texts.of(path, tokenizer) for path in corpus]
    run = run_of(folder)
    return [] if run is None else texts_of_run(run, open_any(folder))


def _items_of(question: Question) -> str:
    """Name of a question's items, which several forms of it share."""
    return f"{question.benchmark.name}/{question.sample or question.split}"


def _prompt(benchmark: Benchmark) -> Prompt:
    """A prompt under which the choices' own texts, or the answer, follow the question."""
    forms = [pair for known in benchmark.prompts.values() for pair in known.items()]
    return next((prompt for form, prompt in forms if form != "letters"), forms[0][1])


def _looked_up(
    lookup: Lookup, texts: Sequence[Texts], out: Path | None, progress: Progress
) -> dict[str, list[Sighting]]:
    """What of the items the texts hold; from `out` where it lies there for the same items and texts."""
    key = hash_json([lookup.key, [part.hash for part in texts]])
    kept = None if out is None else _kept(out, key)
    if kept is not None:
        return kept
    for part in texts:
        progress.note("Looking for the items in {name} …", name=part.name)
        lookup.read(part)
    found = lookup.found()
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        lines = [
            orjson.dumps({"benchmark": name, **sighting.to_dict()})
            for name, sightings in found.items()
            for sighting in sightings
        ]
        atomic_write(out / ITEMS_SEEN, b"".join(line + b"\n" for line in lines))
        looked = {"key": key, "sha256": sha256_file(out / ITEMS_SEEN), "documents": lookup.documents}
        looked["texts"] = [part.name for part in texts]
        write_json(out / RECORD, {"lookup": looked})
    return found


def _kept(out: Path, key: str) -> dict[str, list[Sighting]] | None:
    """What was looked up before, if it is of these items and texts, and whole."""
    file = out / ITEMS_SEEN
    looked = _record(out).get("lookup")
    if not isinstance(looked, dict) or looked.get("key") != key or not file.is_file():
        return None
    if sha256_file(file) != looked.get("sha256"):
        return None
    found: dict[str, list[Sighting]] = {}
    for line in file.read_bytes().splitlines():
        fields = orjson.loads(line)
        found.setdefault(fields.pop("benchmark"), []).append(Sighting(**fields))
    return found


def _record(out: Path) -> dict[str, Any]:
    if not (out / RECORD).is_file():
        return {}
    found = read_json(out / RECORD)
    if not isinstance(found, dict):
        raise HanlinError("{file} is not what hanlin eval writes. Give another --out.", file=out / RECORD)
    return found


def _keep(out: Path, found: Mapping[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / RECORD, {"lookup": _record(out).get("lookup"), **found})


# ------------------------------------------------------------------ the model itself


def _canaries(
    canaries: Canaries | None, sightings: Sequence[Sighting] | None, model: Path, progress: Progress
) -> list[CanaryGroup]:
    """What the training texts hold of the canaries, and what the model knows of them."""
    if canaries is None:
        return []
    progress.note("Looking for the canaries in the model …")
    return with_exposure(canary_groups(canaries, sightings), canaries, *load_chat_model(model))


def _add_ordering(
    noted: dict[str, dict[str, Any]], questions: Sequence[Question], model: Path, progress: Progress
) -> None:
    """The ordering test of each benchmark's items, once for all its forms. A sample has no published
    order."""
    loaded, tokenizer = load_chat_model(model)
    tested: dict[str, dict[str, Any] | None] = {}
    for question in questions:
        name = _items_of(question)
        if name not in tested:
            tested[name] = None
            if question.sample:
                progress.warn(
                    "{name} is a sample, whose items were not published in this order: no ordering test.",
                    name=question.name,
                )
            else:
                progress.note("Published order of {name} against shuffles …", name=question.benchmark.name)
                items = question.items[:_ORDERED]
                found = ordering_test(loaded, tokenizer, [item_text(item) for item in items])
                if found is None:
                    progress.warn("{name} has too few items for the ordering test.", name=question.name)
                else:
                    tested[name] = dataclasses.asdict(found) | {"gain": found.gain.to_dict()}
        noted[question.name]["ordering"] = tested[name]


# ------------------------------------------------------------------ words


def group_dict(group: CanaryGroup) -> dict[str, Any]:
    """For JSON."""
    exposure = None if group.exposure is None else group.exposure.to_dict()
    return {**dataclasses.asdict(group), "exposure": exposure}


def canary_table(groups: Sequence[CanaryGroup]) -> str:
    """What was found of canaries, as a person reads it."""
    rows = [
        [
            tr("planted times"),
            tr("canaries"),
            tr("in the training texts"),
            tr("documents with one (median)"),
            tr("exposure, bits of 6"),
            "p",
            tr("the model knows them"),
        ]
    ]
    for group in groups:
        exposure = group.exposure
        assert exposure is not None and group.p_value is not None
        rows.append(
            [
                str(group.times),
                str(group.count),
                tr("unknown") if group.in_texts is None else str(group.in_texts),
                "" if group.in_texts is None else f"{group.copies:g}",
                f"{exposure.value:.2f} [{exposure.low:.2f}, {exposure.high:.2f}]",
                f"{group.p_value:.2g}",
                tr("yes") if group.found else tr("no"),
            ]
        )
    return "\n".join(table(rows, right=(0, 1, 2, 3)))
