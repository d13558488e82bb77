"""Preference pairs as packed rows: what preference optimisation and the reward model read."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from hanlin.common.config import Range, at_least, require_ranges
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import artifact, read_manifest
from hanlin.common.progress import Progress
from hanlin.dataset import (
    Batch,
    DocumentSources,
    TokenDataset,
    TokenDatasetWriter,
    TooLong,
    pack_sequences,
    permutation,
)
from hanlin.evaluation import Metric
from hanlin.evaluation.likelihood import pairs_preferred
from hanlin.model import CausalLM
from hanlin.stages.data.base import DataSource
from hanlin.stages.stage import Stage
from hanlin.tokenizer import Tokenizer
from hanlin.training import BatchSource
from hanlin.training.distributed.shard import FULL, DataShard


@dataclasses.dataclass(frozen=True)
class PairConfig:
    """Rows and batches of preference pairs: `pairs` per step, packed into rows of `seq_len` tokens."""

    seq_len: int = 256
    pairs: int = 32

    RANGES: ClassVar[dict[str, Range]] = {"seq_len": at_least(2), "pairs": at_least(1)}

    def __post_init__(self):
        require_ranges(self)


def build_pair_dataset(
    records: Iterable[Mapping[str, Any]],
    tokenizer: Tokenizer,
    out: Path | str,
    *,
    max_length: int,
    parents: dict[str, str] | None = None,
    key: str = "",
) -> TokenDataset:
    """Encode `{"prompt", "chosen", "rejected"}`: documents 2i and 2i+1 are the chosen and the rejected
    conversation of pair i.

    Only the answer is learnt: what the assistant says in the prompt is the same on both sides, but would
    count in the length that DPO divides by and in its anchor. Pairs of which a side is longer than
    `max_length` are left out whole and counted; no answer is ever cut. Pairs with the same answer on both
    sides stay and are counted: there is nothing to prefer, but the anchor learns of them.

    Args:
        records: with `rejected_prompt` as well where the rejected answer is one to another prompt.

    Raises:
        HanlinError: no pair is left, or the answers are not in pairs.
    """
    equal = 0
    config = {"tokenizer": tokenizer.content_hash, "masked": True, "pairs": True, "max_length": max_length}
    with artifact(out, "dataset", parents=parents, config=config, key=key) as written:
        writer = TokenDatasetWriter(written.path, tokenizer.vocab_size, masked=True)
        sources = DocumentSources(written.path)
        too_long = TooLong(max_length)
        for record in records:
            if "chosen" not in record:
                raise HanlinError(
                    "The data have answers with a label (true or false), and this stage compares two answers "
                    "to one prompt. Take `loss: kto` of a preference stage, or give pairs: prompt, chosen, "
                    "rejected."
                )
            both = [
                conversation(record.get(f"{side}_prompt", record["prompt"]), record[side])
                for side in ("chosen", "rejected")
            ]
            sides = [
                tokenizer.encode_conversation(messages, learn_from=len(messages) - 1) for messages in both
            ]
            if max(len(ids) for ids, _ in sides) > max_length:
                too_long.add(both[0], max(len(ids) for ids, _ in sides))
                continue
            equal += sides[0] == sides[1]
            for ids, mask in sides:
                writer.add(ids, mask)
            sources.add([str(record.get("source") or "")] * 2)
        writer.close()
        named = sources.close(written.path)
        if not writer.documents:
            raise HanlinError(
                "No usable preference pair ({count} longer than {max_length} tokens). Check the data, or "
                "raise seq_len.",
                count=too_long.count,
                max_length=max_length,
            )
        written.metrics = {"pairs": writer.documents // 2, "tokens": writer.tokens} | too_long.metrics
        written.metrics |= {"sources": named} if named else {}
        written.metrics |= {"equal_pairs": equal} if equal else {}
    return TokenDataset(out, verify=False)


def pairs_by_source(pairs: TokenDataset) -> dict[str, np.ndarray]:
    """Which pairs are whose: `pair_accuracy` for all, and `pair_accuracy/SOURCE` where there are several
    sources; indices of pairs, ascending."""
    found = {"pair_accuracy": np.arange(len(pairs) // 2)}
    if pairs.sources is not None and len(pairs.source_names) > 1:
        owner = pairs.sources[0::2]
        for number, name in enumerate(pairs.source_names):
            found[f"pair_accuracy/{name}"] = np.flatnonzero(owner == number)
    return {name: kept for name, kept in found.items() if len(kept)}


def pair_prompts(pairs: TokenDataset) -> list[str]:
    """A name for each pair's prompt, the same for pairs that answer the same."""
    assert pairs.mask is not None
    names = []
    for index in range(0, len(pairs), 2):
        learnt = pairs.mask[pairs.starts[index] : pairs.starts[index + 1]]
        prompt = pairs.document(index)[: int(np.argmax(learnt))]
        names.append(hashlib.sha256(prompt.tobytes()).hexdigest()[:16])
    return names


def build_heldout_pairs(
    records: Iterable[Mapping[str, Any]], *arguments: Any, **options: Any
) -> TokenDataset:
    """`build_pair_dataset` of pairs to be judged by; of answers with a label, each good one beside the next
    bad one, whatever the prompts are."""
    return build_pair_dataset(_matched(records), *arguments, **options)


def _matched(records: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    waiting: dict[bool, list[Mapping[str, Any]]] = {True: [], False: []}
    for record in records:
        if "label" not in record:
            yield record
            continue
        waiting[record["label"]].append(record)
        if waiting[True] and waiting[False]:
            good, bad = waiting[True].pop(0), waiting[False].pop(0)
            yield {
                "prompt": good["prompt"],
                "chosen": good["completion"],
                "rejected_prompt": bad["prompt"],
                "rejected": bad["completion"],
            }


def say_equal_pairs(data: TokenDataset, progress: Progress, *, anchored: bool) -> None:
    """Tell how many pairs have the same answer on both sides.

    Args:
        anchored: the loss has a term for the chosen answer alone.

    Raises:
        HanlinError: all of them, and nothing else is learnt from them.
    """
    equal, count = data.manifest.metrics.get("equal_pairs", 0), data.manifest.metrics["pairs"]
    if equal == count and not anchored:
        raise HanlinError(
            "All {count} pairs have the same answer on both sides: there is nothing to prefer, and without "
            "an anchor (sft_weight) nothing to learn. Give pairs that differ.",
            count=count,
        )
    if equal:
        progress.note(
            "{equal:,} of {count:,} pairs have the same answer on both sides: of these only the likelihood "
            "of the answer is learnt, as far as the loss has an anchor",
            equal=equal,
            count=count,
        )


def conversation(prompt: str | list[dict[str, Any]], answer: str | dict[str, Any]) -> list[dict[str, Any]]:
    """A prompt (text or messages) with one answer, as messages."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    return [*messages, {"role": "assistant", "content": answer} if isinstance(answer, str) else answer]


@dataclasses.dataclass
class PairBatch(Batch):
    """Packed pairs; `pairs` are their indices, and `pack` makes a batch of some of them."""

    pairs: list[int]
    pack: Callable[[list[int]], PairBatch]

    def split(self) -> list[Batch]:
        """Two batches of half the pairs each, both sides of a pair together; itself when it is one pair."""
        half = len(self.pairs) // 2
        return [self.pack(self.pairs[:half]), self.pack(self.pairs[half:])] if half else [self]


class PairSource(BatchSource):
    """Pairs in a seeded order, both sides of a pair always in the same micro-batch.

    Attributes:
        period: steps after which the order begins again; None, once all pairs were read, in another order. A
            run that was rolled back reads on beyond its last step, where a cache may know nothing.
    """

    period: int | None = None

    def __init__(self, dataset: TokenDataset, config: PairConfig, seed: int):
        self.dataset, self.config, self.seed = dataset, config, seed
        self.count = len(dataset) // 2

    def identity(self) -> dict[str, Any]:
        """The data, their order and the batch."""
        return {
            "dataset": self.dataset.manifest.content_hash,
            "seq_len": self.config.seq_len,
            "pairs": self.config.pairs,
            "seed": self.seed,
        }

    def numbers(self, step: int, shard: DataShard = FULL) -> list[int]:
        """The shard's pairs of a step."""
        step = step % self.period if self.period else step
        positions = [step * self.config.pairs + place for place in shard.slice(self.config.pairs)]
        return [
            int(permutation(self.count, self.seed, at // self.count)[at % self.count]) for at in positions
        ]

    def micro_batches(self, step: int, model: nn.Module, shard: DataShard = FULL) -> list[Batch]:
        """The shard's pairs of a step, as one packed batch."""
        return [self.pack(self.numbers(step, shard))]

    def pack(self, pairs: Iterable[int]) -> PairBatch:
        """Both sides of the given pairs; `Batch.documents` holds dataset indices, even for chosen."""
        pairs = list(pairs)
        packed = self.pack_documents([document for pair in pairs for document in (2 * pair, 2 * pair + 1)])
        return PairBatch(
            packed.ids, packed.labels, packed.positions, packed.doc_ids, packed.documents, pairs, self.pack
        )

    def pack_documents(self, documents: list[int]) -> Batch:
        """Documents of the dataset, by their indices."""
        starts, mask = self.dataset.starts, self.dataset.mask
        assert mask is not None
        sequences = [(self.dataset.document(d), mask[starts[d] : starts[d + 1]]) for d in documents]
        return pack_sequences(sequences, self.config.seq_len, documents)


def sum_by_document(values: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum per-target values over each document of a batch.

    Args:
        values: (loss tokens,), as `Batch.gather_loss_tokens` gives them.

    Returns:
        sums and numbers of targets, both (documents,).
    """
    owner = batch.gather_loss_tokens(batch.doc_ids)
    count = len(batch.documents)
    sums = torch.zeros(count, device=values.device).index_add(0, owner, values)
    return sums, torch.zeros(count, device=values.device).index_add(0, owner, torch.ones_like(values))


def split_pairs(values: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Per-document values (documents,) as (chosen, rejected), each (pairs,), aligned."""
    place = {document: index for index, document in enumerate(batch.documents)}
    chosen = sorted(document for document in batch.documents if document % 2 == 0)
    return values[[place[d] for d in chosen]], values[[place[d + 1] for d in chosen]]


class PairStage(Stage):
    """What stages on preference pairs share: their encoding."""

    schema = "preferences"

    def prepare(self) -> None:
        """Encode the pairs."""

        def build(path: Path, key: str) -> TokenDataset:
            self.say_counts()
            source: DataSource = self.config.data
            return self.build(
                source.train(self.inputs.scope),
                self.tokenizer(),
                path,
                max_length=self.config.seq_len,
                key=key,
            )

        self.encoded(self.data_key(self.config.seq_len), build)

    def build(self, *arguments: Any, **options: Any) -> TokenDataset:
        """Encode what is trained on, as `build_pair_dataset` does."""
        return build_pair_dataset(*arguments, **options)

    def heldout_metric(self, model: CausalLM, seed: int) -> Metric:
        """Pairs whose better answer the model finds more likely."""
        return pairs_preferred(model, self.tokenizer(), self.encoded_heldout(build_heldout_pairs))

    def data_facts(self) -> dict[str, Any]:
        """Counts of the encoded pairs."""
        return dict(read_manifest(self.data, verify=False).metrics)

    @classmethod
    def work(cls, config: Any) -> float:
        """Pairs are taken to be a quarter of a row long, and to cost half more than a token of text: the
        reference's pass."""
        return 1.5 * config.train.steps * config.pairs * 2 * config.seq_len / 4
