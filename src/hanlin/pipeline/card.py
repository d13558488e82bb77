"""`hanlin card`: what a model's directory, its run, its scores and its doctors say, in one README.md that
hubs read."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hanlin.common.atomic import atomic_write, read_json
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import MANIFEST, Manifest, read_manifest, sha256_file
from hanlin.common.messages import Text, verbatim
from hanlin.common.progress import Progress
from hanlin.evaluation.kept_items import with_items
from hanlin.evaluation.statistics import Metric
from hanlin.inference import resolve_model_dir
from hanlin.model import ModelConfig
from hanlin.pipeline.benchmarks import RESULTS, read_results, samples_file
from hanlin.pipeline.facts import about_shape
from hanlin.report.model_card import Card, DoctorRow, card_state, model_card, reported
from hanlin.report.model_index import Score
from hanlin.report.report import read_report
from hanlin.report.text import STEPS, stage_text
from hanlin.stages.base import content_hash

README = "README.md"
OWN = "hanlin"  # protocol of the measures that come with the package
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# key in config.json → fact, for architectures that are not computed here
_SHAPE = {
    "model_type": "family",
    "num_hidden_layers": "layers",
    "hidden_size": "hidden_size",
    "num_attention_heads": "heads",
    "num_key_value_heads": "key_value_heads",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "context",
}
_MOST_HEADER = 100 << 20  # bytes of a safetensors file's header


def card_of(
    model: Path,
    *,
    scores: Sequence[Path] = (),
    doctors: Path | None = None,
    name: str = "",
    licence: str = "",
) -> Card:
    """What a card says of a model.

    Args:
        model: its directory, or that of its run.
        scores: directories that `hanlin eval --out` wrote.
        doctors: what `hanlin inspect model --json` printed.
        name: instead of the recipe's or the directory's.
        licence: as it is to be stated.

    Raises:
        HanlinError: no model, no scores, scores of another model, no findings.
    """
    folder = resolve_model_dir(model)
    digest = content_hash(folder)
    manifest = read_manifest(folder, verify=False) if (folder / MANIFEST).is_file() else None
    about, opens_here = _about(folder)
    card = Card(
        name or folder.resolve().name,
        about,
        origin=_origin(manifest),
        hash=digest,
        parents=manifest.parents if manifest is not None else {},
        licence=licence,
        base_model=base_model_of(folder),
        opens_here=opens_here,
    )
    if manifest is not None and manifest.kind == "reward_model":
        card = dataclasses.replace(card, pipeline_tag="text-classification", opens_here=False)
    run = _run_of(folder, digest)
    if run is not None:
        report = read_report(run / "report.json")
        card = _with_report(card, report, run, name)
    found = {(score.name, score.data, score.shots): score for score in card.scores}
    for directory in scores:
        for score in recorded_scores(directory, digest, folder):
            found[score.name, score.data, score.shots] = score  # says more than the run's own report
    findings = () if doctors is None else doctor_rows(doctors)
    return dataclasses.replace(card, scores=tuple(found.values()), doctors=findings)


def write_card(card: Card, out: Path, *, force: bool = False) -> Path:
    """Write README.md into a directory, whole or not at all.

    Args:
        force: also in place of a README.md that is not a card as we wrote it.

    Raises:
        HanlinError: there is such a one; `out` is a file.
    """
    if out.is_file():
        raise HanlinError("{path} is a file, not a directory. Choose another --out.", path=out)
    file = out / README
    state = None if force else readme_state(file)
    if state == "edited":
        raise HanlinError(
            "{file} is a card of Hanlin's that was edited since. Add --force to overwrite it, or write "
            "elsewhere with --out.",
            file=file,
        )
    if state == "foreign":
        raise HanlinError(
            "{file} was not written by Hanlin. Add --force to overwrite it, or write elsewhere with --out.",
            file=file,
        )
    atomic_write(file, model_card(card))
    return file


def readme_state(file: Path) -> str | None:
    """See `card_state`; None where there is no file."""
    return card_state(file.read_bytes().decode("utf-8", "replace")) if file.is_file() else None


def write_card_of_run(run: Path, progress: Progress) -> None:
    """The card of the model that a finished run ends with. One that was edited since stays."""
    folder = run / "model"
    if readme_state(folder / README) == "edited":
        progress.warn("{file} was edited and stays as it is.", file=folder / README)
        return
    write_card(card_of(run), folder, force=True)


def base_model_of(folder: Path) -> str:
    """`owner/name` of the model that this one was made from, where its files name one; else ""."""
    for file, key in (
        ("adapter_config.json", "base_model_name_or_path"),
        ("config.json", "_name_or_path"),
    ):
        raw = read_json(folder / file) if (folder / file).is_file() else None
        named = raw.get(key) if isinstance(raw, dict) else None
        if isinstance(named, str) and _HUB_NAME.fullmatch(named) and not Path(named).exists():
            return named
    return ""


# ------------------------------------------------------------------ a run's


def _run_of(folder: Path, digest: str) -> Path | None:
    """The finished run whose model this is."""
    for run in folder.resolve().parents[:2]:
        model = run / "model"
        if (run / "report.json").is_file() and (model / MANIFEST).is_file():
            return run if content_hash(model) == digest else None
    return None


def _with_report(card: Card, report: Mapping[str, Any], run: Path, name: str) -> Card:
    """With what a run's report says of its model."""
    return dataclasses.replace(
        card,
        name=name or str(report["recipe"]),
        about=report.get("about") or card.about,
        report=report,
        origin=None,
        parents={},
        scores=tuple(_reported_scores(report, run)),
    )


def _reported_scores(report: Mapping[str, Any], run: Path) -> list[Score]:
    """A run's own scores; the digest of what was asked is that of the items it kept."""
    found = []
    for name, (metric, stage) in reported(report).items():
        items = with_items({name: metric}, run, stage.get("scores") or {})[name].items
        parts = name.split("/")
        benchmark = len(parts) > 1 and parts[1] in ("cloze", "letters", "pairs", "answer")
        protocol = (parts[2] if len(parts) > 2 else "hanlin-zh") if benchmark else OWN
        found.append(Score(name, metric, protocol, data="" if items is None else items.data))
    return found


# ------------------------------------------------------------------ what `hanlin eval` kept


@dataclasses.dataclass(frozen=True)
class Recorded:
    """What a directory of `hanlin eval --out` says of one benchmark.

    Attributes:
        model: content hash of the model that was asked; "" in records of before.
        whole: whether the items' records are there and as they were written.
    """

    metric: Metric
    notes: Mapping[str, Any]
    model: str
    whole: bool


def recorded(out: Path) -> dict[str, Recorded]:
    """The scores in a directory that `hanlin eval --out` wrote, by name.

    Raises:
        HanlinError: there are none, or they are damaged.
    """
    if not (out / RESULTS).is_file():
        raise HanlinError(
            "{out} has no scores ({results}). Give the --out directory of hanlin eval --data.",
            out=out,
            results=RESULTS,
        )
    found = {}
    for name, entry in read_results(out).items():
        try:
            file = samples_file(out, name)
            whole = file.is_file() and sha256_file(file) == entry["samples_sha256"]
            metric = Metric.from_dict(entry["metrics"][name])
            found[name] = Recorded(metric, dict(entry["notes"]), str(entry.get("model") or ""), whole)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise HanlinError(
                "{file} is not what hanlin eval writes: {name}: {reason!r}. Measure again into another "
                "--out.",
                file=out / RESULTS,
                name=name,
                reason=error,
            ) from error
    return found


def recorded_scores(directory: Path, digest: str, model: Path) -> list[Score]:
    """Scores that `hanlin eval --out` kept of this model.

    Raises:
        HanlinError: there are none, or one is another model's.
    """
    return [_score(name, entry, directory, digest, model) for name, entry in recorded(directory).items()]


def _score(name: str, entry: Recorded, directory: Path, digest: str, model: Path) -> Score:
    if entry.model and entry.model != digest:
        raise HanlinError(
            "{directory}: {name} was scored by another model (content hash {found}; that of {model} is "
            "{expected}). A card has its own model's scores alone: leave that directory out, or measure this "
            "model.",
            directory=directory,
            name=name,
            found=entry.model[:16],
            model=model,
            expected=digest[:16],
        )
    known = (
        (bool(entry.model), Text("no model hash")),
        (entry.whole, Text("its items are missing or altered")),
    )
    notes = entry.notes
    return Score(
        name,
        entry.metric,
        str(notes.get("protocol") or ""),
        str(notes.get("sample") or notes.get("split") or ""),
        str(notes.get("data_sha256") or ""),
        str(notes.get("prompt_sha256") or ""),
        int(notes.get("shots") or 0),
        tuple(reason for there, reason in known if not there),
    )


# ------------------------------------------------------------------ doctors


def doctor_rows(file: Path) -> tuple[DoctorRow, ...]:
    """What `hanlin inspect model --json` printed, the worst first.

    Raises:
        HanlinError: the file is none of those.
    """
    from hanlin.evaluation.doctors.base import DOCTORS, LEVELS
    from hanlin.evaluation.doctors.table import LEVEL_NAMES

    raw = read_json(file)
    rows = []
    try:
        for name, finding in raw.items():
            level, meaning = finding["level"], Text.from_dict(finding["meaning"])
            title = DOCTORS.get(name).title if name in DOCTORS else verbatim(name)
            rows.append((-LEVELS.index(level), DoctorRow(title, LEVEL_NAMES[level], meaning)))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise HanlinError(
            "{file} holds no findings of doctors. Save them with: hanlin inspect model MODEL --json > {file}",
            file=file,
        ) from error
    return tuple(row for _, row in sorted(rows, key=lambda entry: entry[0]))


# ------------------------------------------------------------------ the model's files


def _origin(manifest: Manifest | None) -> Text:
    """A sentence on where a model without a run is from."""
    if manifest is None:
        return Text(
            "A model in the layout of transformers. How it was trained is not recorded in its directory; "
            "this card was written from its files."
        )
    kind, stage = manifest.config.get("kind"), manifest.config.get("id")
    if not isinstance(kind, str) or kind in STEPS:
        return Text("Made with Hanlin 翰林.")
    title = stage_text({"kind": kind, "id": stage or kind}).title.lower()
    if manifest.seed is None:
        return Text("Made with Hanlin 翰林; its last stage: {title}.", title=title)
    return Text(
        "Made with Hanlin 翰林; its last stage: {title}, seed {seed}.", title=title, seed=manifest.seed
    )


def _about(folder: Path) -> tuple[dict[str, Any], bool]:
    """A model's shape, and whether it can be run here; of an architecture that is not computed here what its
    files say."""
    try:
        return about_shape(ModelConfig.from_hf(folder)), True
    except HanlinError:
        raw = read_json(folder / "config.json")
    if not isinstance(raw, dict):
        return {}, False
    about = {fact: raw[key] for key, fact in _SHAPE.items() if isinstance(raw.get(key), (int, str))}
    return {"parameters": _parameters(folder)} | about, False


def _parameters(folder: Path) -> int | None:
    """Entries of all tensors, from the headers of the safetensors files; None where there are none or one
    cannot be read."""
    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with open(file, "rb") as opened:
                (size,) = struct.unpack("<Q", opened.read(8))
                header = json.loads(opened.read(min(size, _MOST_HEADER)))
            header.pop("__metadata__", None)
            total += sum(math.prod(entry["shape"]) for entry in header.values())
        except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError):
            return None
    return total or None
