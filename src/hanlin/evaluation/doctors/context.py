"""What doctors are given of a model: its parts, text it has not seen, and measurements that several doctors
share, made when first asked for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hanlin.corpus.canaries import Canaries
from hanlin.dataset import TokenDataset
from hanlin.evaluation.batches import batches_of, padded
from hanlin.evaluation.benchmarks.items import Item
from hanlin.evaluation.doctors.prompts import BEGINNINGS, QUESTIONS
from hanlin.inference import Engine, SamplingParams, encode_prompt
from hanlin.model import CausalLM
from hanlin.tokenizer import Tokenizer
from hanlin.tokenizer.special import IM_START

MOST_TOKENS = 40_000  # of text that is read for the table: 200 documents of 200 tokens
_LOGITS = 1 << 24  # at once: 64 MiB
PROMPT_TOKENS = 16  # of a document's beginning that a model which only continues text is given


@dataclasses.dataclass(frozen=True)
class Reply:
    """What the model wrote to one prompt.

    Attributes:
        prompt: its ids.
        ids: new ids, the end token included where it stopped.
        stopped: whether it ended by itself.
        room: tokens it could have written.
        greedy: the likeliest token each time; otherwise sampled.
    """

    prompt: list[int]
    ids: list[int]
    stopped: bool
    room: int
    greedy: bool


@dataclasses.dataclass(frozen=True)
class OtherModel:
    """A model that the examined one is held against.

    Attributes:
        name: in tables and messages.
        open: reads it, with the tokenizer of the examined one; raises `HanlinError` where it cannot be read.
        chat: whether it has been taught to answer.
    """

    name: str
    open: Callable[[], CausalLM]
    chat: bool = True


@dataclasses.dataclass(frozen=True)
class TokenTable:
    """What the model said of each token of the texts, given those before it in its document, (tokens,) each.

    Attributes:
        document: index of the text.
        position: tokens that precede it, the start token included.
        token: its id.
        bits: -log2 of its probability.
        entropy: bits, of the whole prediction.
        confidence: probability of the likeliest token.
        correct: whether that was it.
        square: sum of the squares of all probabilities.
    """

    document: np.ndarray
    position: np.ndarray
    token: np.ndarray
    bits: np.ndarray
    entropy: np.ndarray
    confidence: np.ndarray
    correct: np.ndarray
    square: np.ndarray

    def by_document(self, values: np.ndarray, chosen: np.ndarray | None = None) -> np.ndarray:
        """Sums of values, over the chosen tokens, by document, (documents,)."""
        chosen = np.ones(len(values), dtype=bool) if chosen is None else chosen
        return np.bincount(
            self.document[chosen],
            weights=values[chosen].astype(np.float64),
            minlength=int(self.document.max()) + 1,
        )


class DoctorContext:
    """A model and what it is examined with.

    Args:
        folder: the model's directory; None for one in memory alone.
        documents: texts that the model has not seen.
        sources: of each text, where it is from; all of one source when absent.
        conversations: `{"messages"}` that it has not seen, each with an assistant's turn at its end.
        dataset: tokens of texts that it was trained on.
        labelled: tokens of conversations that it was trained on, with their mask.
        questions: of a test, in the order in which they were published.
        canaries: that were planted in its training texts.
        previous: the model that it was trained from.
        exports: forms of it for other programs.
        items: questions with choices, of `task`.
        chat: whether it has been taught to answer; otherwise it continues texts.
        seen: tokens it was trained at; its positions when absent.
        count: texts, conversations and replies that are used at most.
        sampling: settings for sampled replies, temperature 0.7 when absent.
        max_new_tokens: of a reply.
    """

    def __init__(
        self,
        model: CausalLM,
        tokenizer: Tokenizer,
        *,
        folder: Path | None = None,
        documents: Sequence[str] = (),
        sources: Sequence[str] = (),
        conversations: Sequence[Mapping[str, Any]] = (),
        dataset: TokenDataset | None = None,
        labelled: TokenDataset | None = None,
        questions: Sequence[Item] = (),
        canaries: Canaries | None = None,
        previous: OtherModel | None = None,
        exports: Sequence[OtherModel] = (),
        items: Sequence[Item] = (),
        task: str = "",
        chat: bool = True,
        seen: int | None = None,
        count: int = 200,
        sampling: Mapping[str, float] | None = None,
        max_new_tokens: int = 256,
        seed: int = 0,
    ):
        self.model, self.tokenizer, self.folder = model.eval(), tokenizer, folder
        self.documents = list(documents)[:count]
        self.sources = (list(sources) or [""] * len(self.documents))[:count]
        self.conversations = [record for record in conversations if answered(record)][:count]
        for tokens in (dataset, labelled):
            if tokens is not None:
                tokens.require_tokenizer(tokenizer)
        self.dataset, self.labelled = dataset, labelled
        self.questions, self.canaries = list(questions), canaries
        self.previous, self.exports = previous, tuple(exports)
        self.items, self.task = list(items)[:count], task
        self.chat, self.count, self.seed = chat, count, seed
        self.seen = min(seen or model.config.max_position_embeddings, model.config.max_position_embeddings)
        self.sampling = dict(sampling or {"temperature": 0.7})
        self.max_new_tokens = max_new_tokens

    def has(self, need: str) -> bool:
        """Whether an input is there, called as the option that brings it."""
        held: dict[str, bool] = {
            "text": bool(self.documents),
            "dataset": self.dataset is not None,
            "chats": bool(self.conversations),
            "questions": bool(self.questions),
            "against": self.previous is not None,
            "exports": bool(self.exports),
            "tasks": bool(self.items),
        }
        return held[need]

    @property
    def start(self) -> list[int]:
        """What the model reads before a text: its start token, where it has one."""
        bos = self.model.config.bos_token_id
        return [] if bos is None else [bos]

    @cached_property
    def rows(self) -> list[np.ndarray]:
        """Ids of each text, after the start token where the model has one, with its end; int64. What does not
        fit into the length the model was trained at is cut off, and then there is no end."""
        made = []
        total = 0
        for ids in self.tokenizer.encode_batch(self.documents):
            row = np.array([*self.start, *ids, self.tokenizer.eos_id], dtype=np.int64)[: self.seen + 1]
            made.append(row)
            total += len(row)
            if total > MOST_TOKENS:
                break
        return [row for row in made if len(row) > 1]

    @property
    def bare_rows(self) -> list[np.ndarray]:
        """The same without the start token."""
        return [row[len(self.start) :] for row in self.rows]

    def trained_conversations(self, most: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Ids of conversations that it was trained on, and which of them were learnt, bool; of the first
        `most` records of `labelled`, those that are no text mixed in."""
        data = self.labelled
        if data is None or data.mask is None:
            return
        begins = self.tokenizer.special[IM_START]
        for index in range(min(len(data), most)):
            ids = np.asarray(data.document(index), dtype=np.int64)
            if begins in ids[:2]:  # a start token may stand before it, which is a fault
                yield ids, np.asarray(data.mask[data.starts[index] : data.starts[index + 1]], dtype=bool)

    @cached_property
    def table(self) -> TokenTable:
        """What the model says of the tokens of `rows`."""
        return token_table(self.model, self.rows)

    @cached_property
    def replies(self) -> list[Reply]:
        """Greedy replies, and sampled ones to other prompts: answers of a model that chats, continuations of
        the others.

        Prompts are those of the conversations, of the texts' beginnings, or where there are none, embedded
        ones, each of which may be asked several times when sampling.
        """
        return self.replies_of(self.model)

    def replies_of(self, model: CausalLM) -> list[Reply]:
        """What another model replies to the same prompts under the same settings, in the same order."""
        greedy, sampled = self.prompts
        return self.answers(model, greedy, {"temperature": 0.0}) + self.answers(model, sampled, self.sampling)

    @cached_property
    def prompts(self) -> tuple[list[list[int]], list[list[int]]]:
        """Ids of the prompts that are answered greedily, and of those whose answers are sampled."""
        prompts = self._prompts()
        half = min(self.count, 64)
        if len(prompts) >= 2 * half:
            return prompts[:half], prompts[half : 2 * half]
        return prompts[:half], [prompts[at % len(prompts)] for at in range(half)]

    def _prompts(self) -> list[list[int]]:
        if self.chat:
            asked = [record["messages"][:-1] for record in self.conversations] or [
                [{"role": "user", "content": question}] for question in QUESTIONS
            ]
            made = [encode_prompt(self.tokenizer, messages) for messages in asked]
        else:
            encoded = self.tokenizer.encode_batch(self.documents or list(BEGINNINGS))
            made = [[*self.start, *ids[:PROMPT_TOKENS]] for ids in encoded if ids]
        longest = self.model.config.max_position_embeddings // 2
        return [ids for ids in made if len(ids) <= longest]

    def answers(
        self, model: CausalLM, prompts: list[list[int]], settings: Mapping[str, float]
    ) -> list[Reply]:
        """A model's replies to prompts under settings of sampling."""
        engine = Engine(model, self.tokenizer)
        limit = model.config.max_position_embeddings
        params = SamplingParams(max_new_tokens=self.max_new_tokens, seed=self.seed, **settings)  # type: ignore[arg-type]
        return [
            Reply(
                prompt,
                list(done.ids),
                done.finish_reason == "stop",
                min(self.max_new_tokens, limit - len(prompt)),
                settings.get("temperature") == 0,
            )
            for prompt, done in zip(prompts, engine.generate(prompts, params), strict=True)
        ]


def answered(record: Mapping[str, Any]) -> bool:
    """Whether a conversation ends with an answer in plain words, without a thought or a call of a tool."""
    messages = record["messages"]
    last = messages[-1] if messages else {}
    return (
        last.get("role") == "assistant"
        and len(messages) > 1
        and bool(last.get("content"))
        and not last.get("tool_calls")
        and last.get("reasoning_content") is None
    )


@torch.inference_mode()
def token_table(model: CausalLM, rows: Sequence[np.ndarray]) -> TokenTable:
    """Read each row's tokens but the first; rows are at most as long as the model's positions and one."""
    parts: dict[str, list[np.ndarray]] = {field.name: [] for field in dataclasses.fields(TokenTable)}
    for batch in batches_of(range(len(rows)), lambda at: len(rows[at]), model.device):
        hidden = model.hidden(padded([rows[at][:-1] for at in batch], model.device))
        for place, at in enumerate(batch):
            row = rows[at]
            states = hidden[place, : len(row) - 1]
            labels = torch.from_numpy(row[1:]).to(model.device)
            step = max(1, _LOGITS // model.config.vocab_size)
            for begin in range(0, len(labels), step):
                wanted = labels[begin : begin + step]
                logs = model.logits(states[begin : begin + step]).float().log_softmax(-1)
                shares = logs.exp()
                confidence, best = shares.max(-1)
                seen = {
                    "document": np.full(len(wanted), at),
                    "position": np.arange(begin + 1, begin + 1 + len(wanted)),
                    "token": wanted,
                    "bits": -logs.gather(1, wanted[:, None]).squeeze(1) / math.log(2),
                    # 0 · log 0 is 0
                    "entropy": -(shares * logs.clamp(min=-1e4)).sum(-1) / math.log(2),
                    "confidence": confidence,
                    "correct": best == wanted,
                    "square": shares.square().sum(-1),
                }
                for name, value in seen.items():
                    parts[name].append(
                        value if isinstance(value, np.ndarray) else value.cpu().numpy()  # type: ignore[union-attr]
                    )
    return TokenTable(**{name: np.concatenate(values) for name, values in parts.items()})
