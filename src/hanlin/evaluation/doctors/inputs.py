"""What a model is examined with: what the user names, and what the run around the model holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from hanlin.common.atomic import read_json
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import MANIFEST, read_manifest
from hanlin.corpus import tinyworld
from hanlin.corpus.canaries import read_canaries
from hanlin.corpus.readers.read import read_conversations, read_documents
from hanlin.dataset import TokenDataset
from hanlin.evaluation.benchmarks.items import Item
from hanlin.evaluation.benchmarks.own import read_own
from hanlin.evaluation.doctors.context import DoctorContext, OtherModel, answered
from hanlin.evaluation.doctors.questions import tinyworld_items
from hanlin.inference import load_chat_model, resolve_model_dir, sampling_defaults
from hanlin.tokenizer import Tokenizer
from hanlin.tokenizer.foreign import open_any

RECIPE_FILE = "recipe.json"  # of a run


def doctor_context(
    path: Path | str,
    *,
    text: Sequence[Path | str] = (),
    chats: Sequence[Path | str] = (),
    dataset: Path | None = None,
    questions: Path | None = None,
    canary: Path | None = None,
    against: Path | None = None,
    exports: Sequence[OtherModel] = (),
    items: Sequence[Item] = (),
    task: str = "",
    count: int = 200,
    device: str | None = None,
) -> DoctorContext:
    """Open a model with what it is examined with. What is not named is taken from the run that the model lies
    in: held-out texts of its corpus, the dataset it was pretrained on, the conversations it was fine-tuned
    on, the model it was trained from, and of a run on the embedded tinyworld, held-out conversations and
    questions.

    Args:
        path: of a model, or of a run.
        text, chats: files of texts and of conversations that the model has not seen.
        dataset: tokens it was trained on; one with a mask holds conversations.
        questions: file of a test's questions, as `read_own` takes it.
        canary: record of canaries that were planted in its training texts.
        against: the model that it was trained from.
        exports: forms of it for other programs.
        items: questions with choices, of `task`.
        count: texts, conversations and replies used at most.

    Raises:
        HanlinError: no model, files without a usable record, a dataset of another tokenizer, or a count that
            is not positive.
    """
    if count < 1:
        raise HanlinError("--count is at least 1, not {count}.", count=count)
    folder = resolve_model_dir(path)
    run = run_of(folder)
    documents = list(islice(read_documents(_names(text)), count)) if text else []
    conversations = list(islice(_answered(read_conversations(_names(chats))), count)) if chats else []
    opened = TokenDataset(dataset, verify=False) if dataset is not None else None
    labelled = opened if opened is not None and opened.mask is not None else None
    texts = opened if opened is not None and opened.mask is None else None
    if run is not None:
        held = run / "corpus" / "heldout.jsonl.zst"
        if not text and held.is_file():
            documents = list(islice(read_documents([str(held)]), count))
        if not chats:
            conversations = _tinyworld(run, count)
        if not items and (seed := _tinyworld_seed(run)) is not None:
            items, task = tinyworld_items(seed, count), "tinyworld/story_qa"
        if against is None:
            against = parent_of(folder, run)
        if texts is None and (run / "dataset" / MANIFEST).is_file():
            texts = TokenDataset(run / "dataset", verify=False)
        if labelled is None and (found := _conversations_of(run, folder)) is not None:
            labelled = TokenDataset(found, verify=False)
    model, tokenizer = load_chat_model(folder, device)
    said = _said(folder)
    return DoctorContext(
        model,
        tokenizer,
        folder=folder,
        documents=[str(item["text"]) for item in documents],
        sources=[str(item.get("source") or "") for item in documents],
        conversations=conversations,
        dataset=texts,
        labelled=labelled,
        questions=read_own(questions)[0] if questions is not None else (),
        canaries=read_canaries(canary) if canary is not None else None,
        previous=None if against is None else previous_model(against, tokenizer, device),
        exports=exports,
        items=items,
        task=task,
        chat=tokenizer.converses and said.get("kind") != "pretrain",
        seen=said.get("seq_len"),
        count=count,
        sampling=sampling_defaults(folder) or None,
    )


def run_of(folder: Path) -> Path | None:
    """The run that a model's directory lies in, `model` or `models/STAGE`; None for one that stands alone."""
    absolute = folder.resolve()
    return next((place for place in absolute.parents[:2] if (place / RECIPE_FILE).is_file()), None)


def _conversations_of(run: Path, folder: Path) -> Path | None:
    """Tokens of the conversations that a model of a run was fine-tuned on: its own stage's, else those of the
    run's first stage of that kind."""
    stages = read_json(run / RECIPE_FILE).get("stages") or ()
    made = [run / "data" / stage["id"] for stage in stages if stage.get("kind") == "sft"]
    there = [place for place in made if (place / MANIFEST).is_file()]
    parents = read_manifest(folder, verify=False).parents if (folder / MANIFEST).is_file() else {}
    own = (p for p in there if read_manifest(p, verify=False).content_hash == parents.get("dataset"))
    return next(own, there[0] if there else None)


def parent_of(folder: Path, run: Path) -> Path | None:
    """The directory of the model that a model of a run was trained from, by its content hash; None for one
    from nothing, and where it is gone."""
    if not (folder / MANIFEST).is_file():
        return None
    wanted = read_manifest(folder, verify=False).parents.get("model")
    recipe = read_json(run / RECIPE_FILE)
    outside = [Path(str(stage.get("from") or "")) for stage in recipe.get("stages") or ()]
    candidates = [*sorted((run / "models").glob("*")), *sorted((run / "controls").glob("*")), *outside]
    made = (place for place in candidates if (place / MANIFEST).is_file())
    return next((p for p in made if read_manifest(p, verify=False).content_hash == wanted), None)


def previous_model(path: Path, tokenizer: Tokenizer, device: str | None) -> OtherModel:
    """The model before, which has to have the same tokenizer.

    Raises:
        HanlinError: no model there, or one of another tokenizer.
    """
    folder = resolve_model_dir(path)
    theirs = open_any(folder)
    if theirs.content_hash != tokenizer.content_hash:
        raise HanlinError(
            "{path} has another tokenizer than the model, so that their predictions cannot be compared. "
            "Name the model that it was trained from.",
            path=path,
        )
    return OtherModel(
        folder.name, lambda: load_chat_model(folder, device)[0], _said(folder).get("kind") != "pretrain"
    )


def _said(folder: Path) -> Mapping[str, Any]:
    """The configuration that a model's manifest names; nothing of a model that came from elsewhere."""
    return read_manifest(folder, verify=False).config if (folder / MANIFEST).is_file() else {}


def _names(files: Sequence[Path | str]) -> list[str]:
    return [str(file) for file in files]


def _answered(records: Iterator[Any]) -> Iterator[Mapping[str, Any]]:
    """Conversations that doctors can use."""
    return (record for record in records if answered(record))


def _tinyworld(run: Path, count: int) -> list[Mapping[str, Any]]:
    """Held-out conversations of a run on the embedded tinyworld; none of another."""
    seed = _tinyworld_seed(run)
    if seed is None:
        return []
    return list(islice(_answered(tinyworld.chat_conversations(seed, 2 * count, "heldout")), count))


def _tinyworld_seed(run: Path) -> int | None:
    """The seed of a run on the embedded tinyworld; None of another."""
    recipe = read_json(run / RECIPE_FILE)
    corpus = recipe.get("corpus") if isinstance(recipe, dict) else None
    if not isinstance(corpus, dict) or corpus.get("kind") != "tinyworld":
        return None
    return int(recipe.get("seed", 0))
