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
from hanlin.evaluation.benchmarks.own import read_own
from hanlin.evaluation.doctors.context import DoctorContext, answered
from hanlin.inference import load_chat_model, resolve_model_dir, sampling_defaults

RECIPE_FILE = "recipe.json"  # of a run
_LABELLED = ("sft", "reasoning")  # data of a run that hold conversations


def doctor_context(
    path: Path | str,
    *,
    text: Sequence[Path | str] = (),
    chats: Sequence[Path | str] = (),
    dataset: Path | None = None,
    questions: Path | None = None,
    canary: Path | None = None,
    count: int = 200,
    device: str | None = None,
) -> DoctorContext:
    """Open a model with what it is examined with. What is not named is taken from the run that the model lies
    in: held-out texts of its corpus, the dataset it was pretrained on, the conversations it was fine-tuned
    on, and of a run on the embedded tinyworld, held-out conversations.

    Args:
        path: of a model, or of a run.
        text, chats: files of texts and of conversations that the model has not seen.
        dataset: tokens it was trained on; one with a mask holds conversations.
        questions: file of a test's questions, as `read_own` takes it.
        canary: record of canaries that were planted in its training texts.
        count: texts, conversations and replies used at most.

    Raises:
        HanlinError: no model, files without a usable record, a dataset of another tokenizer, or a count that
            is not positive.
    """
    if count < 1:
        raise HanlinError("--count is at least 1, not {count}.", count=count)
    folder = resolve_model_dir(path)
    run = run_of(folder)
    documents = [item["text"] for item in islice(read_documents(_names(text)), count)] if text else []
    conversations = list(islice(_answered(read_conversations(_names(chats))), count)) if chats else []
    opened = TokenDataset(dataset, verify=False) if dataset is not None else None
    labelled = opened if opened is not None and opened.mask is not None else None
    texts = opened if opened is not None and opened.mask is None else None
    if run is not None:
        held = run / "corpus" / "heldout.jsonl.zst"
        if not text and held.is_file():
            documents = [item["text"] for item in islice(read_documents([str(held)]), count)]
        if not chats:
            conversations = _tinyworld(run, count)
        if texts is None and (run / "dataset" / MANIFEST).is_file():
            texts = TokenDataset(run / "dataset", verify=False)
        found = next((run / "data" / n for n in _LABELLED if (run / "data" / n / MANIFEST).is_file()), None)
        if labelled is None and found is not None:
            labelled = TokenDataset(found, verify=False)
    model, tokenizer = load_chat_model(folder, device)
    said = read_manifest(folder, verify=False).config if (folder / MANIFEST).is_file() else {}
    return DoctorContext(
        model,
        tokenizer,
        folder=folder,
        documents=documents,
        conversations=conversations,
        dataset=texts,
        labelled=labelled,
        questions=read_own(questions)[0] if questions is not None else (),
        canaries=read_canaries(canary) if canary is not None else None,
        chat=said.get("kind") != "pretrain",
        seen=said.get("seq_len"),
        count=count,
        sampling=sampling_defaults(folder) or None,
    )


def run_of(folder: Path) -> Path | None:
    """The run that a model's directory lies in, `model` or `models/STAGE`; None for one that stands alone."""
    absolute = folder.resolve()
    return next((place for place in absolute.parents[:2] if (place / RECIPE_FILE).is_file()), None)


def _names(files: Sequence[Path | str]) -> list[str]:
    return [str(file) for file in files]


def _answered(records: Iterator[Any]) -> Iterator[Mapping[str, Any]]:
    """Conversations that doctors can use."""
    return (record for record in records if answered(record))


def _tinyworld(run: Path, count: int) -> list[Mapping[str, Any]]:
    """Held-out conversations of a run on the embedded tinyworld; none of another."""
    recipe = read_json(run / RECIPE_FILE)
    corpus = recipe.get("corpus") if isinstance(recipe, dict) else None
    if not isinstance(corpus, dict) or corpus.get("kind") != "tinyworld":
        return []
    held = tinyworld.chat_conversations(int(recipe.get("seed", 0)), 2 * count, "heldout")
    return list(islice(_answered(held), count))
