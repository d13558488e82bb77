"""Answers with a label as packed rows: their data set, its order, and the objective of losses such as KTO's.

Documents 2i and 2i+1 are answer i to its own prompt, which is learnt, and the answer of another row to the
same prompt, which only measures how far the policy has moved.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hanlin.common.devices import to_device_async
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import artifact
from hanlin.dataset import Batch, TokenDataset, TokenDatasetWriter, TooLong, permutation
from hanlin.stages.pairs import PairConfig, PairSource, conversation
from hanlin.stages.preference.log_probs import answer_log_probs
from hanlin.stages.preference.loss import Answers, LabelledLoss
from hanlin.stages.preference.reference import Reference, in_parts
from hanlin.tokenizer import Tokenizer
from hanlin.training import Objective
from hanlin.training.distributed.shard import FULL, DataShard

_LABELS = "labels.npy"
_TRIES = 8  # answers of other rows that are tried with a prompt before its row is left out as too long

Encoded = tuple[list[int], list[int]]


def build_labelled_dataset(
    records: Iterable[Mapping[str, Any]],
    tokenizer: Tokenizer,
    out: Path | str,
    *,
    max_length: int,
    key: str = "",
) -> TokenDataset:
    """Encode `{"prompt", "completion", "label"}`, and pairs as two of these. Rows longer than `max_length`
    are left out and counted.

    Raises:
        HanlinError: no row is left, all have the same label, or there is one prompt only.
    """
    rows = [row for record in records for row in _rows(record)]
    labels: list[bool] = []
    config = {"tokenizer": tokenizer.content_hash, "masked": True, "labelled": True, "max_length": max_length}
    with artifact(out, "dataset", config=config, key=key) as written:
        writer = TokenDatasetWriter(written.path, tokenizer.vocab_size, masked=True)
        too_long = TooLong(max_length)

        def encode(prompt: Any, answer: Any) -> Encoded:
            messages = conversation(prompt, answer)
            return tokenizer.encode_conversation(messages, learn_from=len(messages) - 1)

        order = permutation(len(rows), 0, 0)
        place = np.argsort(order)
        for index, (prompt, answer, label) in enumerate(rows):
            others = (rows[order[(place[index] + step) % len(rows)]] for step in range(1, len(rows)))
            foreign = (encode(prompt, other) for asked, other, _ in others if asked != prompt)
            both = [encode(prompt, answer), _first_fitting(foreign, max_length)]
            longest = max(len(ids) for ids, _ in both)
            if longest > max_length:
                too_long.add(conversation(prompt, answer), longest)
                continue
            for ids, mask in both:
                writer.add(ids, mask)
            labels.append(label)
        writer.close()
        _require_both(labels, too_long.count, max_length)
        np.save(written.path / _LABELS, np.asarray(labels))
        good = sum(labels)
        written.metrics = {"answers": len(labels), "good": good, "bad": len(labels) - good}
        written.metrics |= {"tokens": writer.tokens} | too_long.metrics
    return TokenDataset(out, verify=False)


def good_documents(data: TokenDataset) -> list[int]:
    """Numbers of the documents whose answers are labelled good."""
    return (2 * np.flatnonzero(np.load(data.path / _LABELS))).tolist()


def _rows(record: Mapping[str, Any]) -> Iterator[tuple[Any, Any, bool]]:
    """Prompt, answer and label of what a record holds."""
    if "label" in record:
        yield record["prompt"], record["completion"], record["label"]
    else:
        yield record["prompt"], record["chosen"], True
        yield record["prompt"], record["rejected"], False


def _first_fitting(foreign: Iterator[Encoded], max_length: int) -> Encoded:
    """The first of a few conversations that is no longer than `max_length`; the last tried, where none is.

    Raises:
        HanlinError: there is none: all rows have the same prompt.
    """
    tried: Encoded | None = None
    for tried in itertools.islice(foreign, _TRIES):
        if len(tried[0]) <= max_length:
            break
    if tried is None:
        raise HanlinError(
            "All answers belong to one prompt. KTO holds each against answers to other prompts: give more "
            "prompts, or pairs to another loss."
        )
    return tried


def _require_both(labels: list[bool], too_long: int, max_length: int) -> None:
    """Refuse what has nothing to tell apart."""
    if not labels or all(labels) or not any(labels):
        raise HanlinError(
            "Of {count} usable answers {good} are labelled true ({too_long} are longer than {max_length} "
            "tokens). Good and bad ones are needed; check the labels, or raise seq_len.",
            count=len(labels),
            good=sum(labels),
            too_long=too_long,
            max_length=max_length,
        )


@dataclasses.dataclass
class LabelledBatch(Batch):
    """Packed answers.

    Attributes:
        good: label of each document, (documents,) bool.
        kl: z of the whole step, 0-d.
        pack: makes a batch of some of the documents.
    """

    good: torch.Tensor
    kl: torch.Tensor
    pack: Callable[[list[int], torch.Tensor], LabelledBatch]

    def to(self, device: torch.device) -> LabelledBatch:
        """On a device."""
        moved = super().to(device)
        moved.good, moved.kl = to_device_async(self.good, device), to_device_async(self.kl, device)
        return moved

    def split(self) -> list[Batch]:
        """Two batches of half the answers each, with the same z; itself when it is one answer."""
        half = len(self.documents) // 2
        ordered = sorted(self.documents)
        return [self.pack(part, self.kl) for part in (ordered[:half], ordered[half:])] if half else [self]


class LabelledSource(PairSource):
    """Answers in a seeded order, `pairs` of them a step, with the step's z.

    Every process measures z over all answers of the step, not its own alone: it is one number, the same in
    every bit however many processes there are.
    """

    generates = True  # z needs whole weights, as answers do

    def __init__(self, dataset: TokenDataset, config: PairConfig, seed: int):
        super().__init__(dataset, config, seed)
        self.good = torch.from_numpy(np.load(dataset.path / _LABELS))
        self.reference: Reference | None = None

    def micro_batches(self, step: int, model: nn.Module, shard: DataShard = FULL) -> list[Batch]:
        """The shard's answers of a step, as one packed batch."""
        own = [2 * row for row in self.numbers(step, shard)]
        return [self.pack_labelled(own, self._kl(step, model))]

    def mismatched(self, step: int) -> Batch:
        """The answers of other rows to the prompts of a step, all shards together."""
        return self.pack_documents([2 * row + 1 for row in self.numbers(step)])

    def pack_labelled(self, documents: list[int], kl: torch.Tensor) -> LabelledBatch:
        """A batch of answers to their own prompts."""
        packed = self.pack_documents(documents)
        good = self.good[[document // 2 for document in packed.documents]]
        return LabelledBatch(
            packed.ids,
            packed.labels,
            packed.positions,
            packed.doc_ids,
            packed.documents,
            good,
            kl,
            self.pack_labelled,
        )

    def _kl(self, step: int, model: Any) -> torch.Tensor:
        """z of a step, 0-d, on the model's device."""
        assert self.reference is not None
        whole = self.mismatched(step)
        total = torch.zeros((), device=model.device)
        for batch, found in in_parts(model, whole, lambda policy, part: answer_log_probs(policy, part)[0]):
            total += (found - self.reference.log_probs(batch.to(model.device))).sum()
        return (total / len(whole.documents)).clamp(min=0.0)


class LabelledObjective(Objective):
    """Sum of a loss over answers; its curves are those of pairs, and `kl`, which is z."""

    def __init__(self, loss: LabelledLoss, reference: Reference):
        self.loss, self.reference = loss, reference

    def num_items(self, batch: Batch) -> float:
        """Answers."""
        return len(batch.documents)

    def __call__(
        self, model: Any, batch: LabelledBatch
    ) -> tuple[torch.Tensor, Mapping[str, float | torch.Tensor]]:
        """Summed loss over the answers of a micro-batch."""
        context = model.context(batch.ids, **batch.attention_kwargs)
        policy, lengths = answer_log_probs(model, batch, context=context)
        answers = Answers(policy, self.reference.log_probs(batch), lengths)
        loss, margin = self.loss(answers, batch.good, batch.kl)
        count = self.num_items(batch)
        curves: dict[str, float | torch.Tensor] = {
            "accuracy": (margin > 0).sum(),
            "margin": margin.sum(),
            "kl": batch.kl * count,
        }
        curves |= {f"{name}_count": count for name in curves}
        for name, side in (("chosen", batch.good), ("rejected", ~batch.good)):
            ratio = (answers.log_ratio / answers.length).detach()
            curves[f"{name}_log_ratio"] = torch.where(side, ratio, 0.0).sum()
            curves[f"{name}_logp"] = torch.where(side, answers.mean.detach(), 0.0).sum()
            curves |= {f"{name}_{part}_count": side.sum() for part in ("log_ratio", "logp")}
        return context.with_aux(loss.sum(), curves, count)

    def per_sequence_loss(self, model: Any, batch: Batch) -> torch.Tensor:
        """Mean loss per token of each answer, good and bad alike, (documents,)."""
        log_probs, lengths = answer_log_probs(model, batch)
        return -log_probs / lengths
