"""Log probabilities of texts after other texts: what every multiple-choice score is made of.

Two ways to tell the tokens of a continuation from those of its context:

* `tokens`, lm-evaluation-harness's (`_encode_pair`): the context is encoded alone, and what the ids of both
  together have beyond its number is the continuation. Where the tokenizer joins the last character of the
  context with the first of the continuation, the count is off by one, and nobody is told.
* `bytes`: of the ids of both together, those that hold a byte of the continuation. One that straddles the
  boundary counts whole, and is counted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch

from hanlin.common.errors import HanlinError
from hanlin.evaluation.batches import batches_of, padded
from hanlin.evaluation.benchmarks.items import Request
from hanlin.model import CausalLM
from hanlin.tokenizer import Tokenizer

Boundary = Literal["bytes", "tokens"]


@dataclasses.dataclass(frozen=True)
class Sequenced:
    """A request as token ids.

    Attributes:
        ids: of context and continuation, with what precedes them; int64.
        start: index of the first token that is scored.
        straddles: whether a token holds bytes of both.
        cut: tokens of the context that did not fit in the model and were left out, from its beginning.
    """

    ids: np.ndarray
    start: int
    straddles: bool
    cut: int


@dataclasses.dataclass(frozen=True)
class LogLikelihood:
    """Of one continuation.

    Attributes:
        total: natural log probability of its tokens, summed in float32 or better.
        tokens: their number.
        greedy: whether each of them is the likeliest.
        straddles, cut: see `Sequenced`.
    """

    total: float
    tokens: int
    greedy: bool
    straddles: bool
    cut: int


class Sequencer:
    """Turns requests into token ids.

    Args:
        prefix_id: precedes every text (`bytes`), or an empty context alone (`tokens`).
        limit: tokens that the model can be asked about: its positions and one more, which is not read.
    """

    def __init__(self, tokenizer: Tokenizer, boundary: Boundary, prefix_id: int | None, limit: int):
        self.tokenizer, self.boundary, self.prefix_id, self.limit = tokenizer, boundary, prefix_id, limit

    def __call__(self, requests: Sequence[Request]) -> list[Sequenced]:
        """All requests.

        Raises:
            HanlinError: a continuation without a token, or one that is longer than the model.
        """
        pairs = [self._moved(request) for request in requests]
        texts = [context + said for context, said in pairs]
        if self.boundary == "tokens":
            whole = self.tokenizer.encode_batch(texts)
            contexts = self.tokenizer.encode_batch([context for context, _ in pairs])
            return [self._by_tokens(ids, alone) for ids, alone in zip(whole, contexts, strict=True)]
        placed = self.tokenizer.encode_places(texts)
        return [
            self._by_bytes(ids, starts, ends, len(context.encode()))
            for (context, _), (ids, starts, ends) in zip(pairs, placed, strict=True)
        ]

    def _moved(self, request: Request) -> tuple[str, str]:
        """Context and continuation; by tokens, blanks at the context's end belong to the continuation."""
        if self.boundary == "bytes":
            return request.context, request.continuation
        context = request.context.rstrip()
        return context, request.context[len(context) :] + request.continuation

    def _by_tokens(self, ids: list[int], context: list[int]) -> Sequenced:
        straddles = ids[: len(context)] != context
        if context:  # read as it is alone, even where that is not how the whole begins
            return self._cut([*context, *ids[len(context) :]], len(context), straddles)
        assert self.prefix_id is not None
        if ids and ids[0] == self.prefix_id:
            return self._cut(ids, 1, straddles)
        return self._cut([self.prefix_id, *ids], 1, straddles)

    def _by_bytes(self, ids: list[int], starts: np.ndarray, ends: np.ndarray, context: int) -> Sequenced:
        """
        Args:
            starts, ends: of each id, in bytes of the text.
            context: bytes of the context.
        """
        first = int(np.searchsorted(ends, context, side="right"))
        straddles = bool(first < len(ids) and starts[first] < context)
        if self.prefix_id is not None:
            return self._cut([self.prefix_id, *ids], first + 1, straddles)
        # a first token that nothing precedes has no probability to tell; all others have
        return self._cut(ids, max(first, 1), straddles)

    def _cut(self, ids: list[int], start: int, straddles: bool) -> Sequenced:
        scored = len(ids) - start
        if not 1 <= scored < self.limit:
            raise HanlinError(
                "A continuation of {scored} tokens can't be scored: the model takes from 1 to {most}.",
                scored=scored,
                most=self.limit - 1,
            )
        over = max(0, len(ids) - self.limit)
        return Sequenced(np.asarray(ids[over:], dtype=np.int64), start - over, straddles, over)


@torch.inference_mode()
def score_groups(
    model: CausalLM,
    groups: Sequence[Sequence[Sequenced]],
    on_batch: Callable[[int], None] | None = None,
) -> list[list[LogLikelihood]]:
    """Log likelihoods of groups of sequences, such as the choices of an item. What the sequences of a group
    begin with is read once.

    Args:
        on_batch: told how many groups are done by each batch.
    """
    training = model.training
    model.eval()
    rows = [_Row.of(group) for group in groups]
    found: list[list[LogLikelihood]] = [[] for _ in groups]
    for batch in batches_of(range(len(groups)), lambda at: len(rows[at].ids), model.device):
        states = _read(model, [rows[at] for at in batch])
        values = iter(_judge(model, states, [sequence for at in batch for sequence in groups[at]]))
        for at in batch:
            found[at] = [next(values) for _ in groups[at]]
        if on_batch is not None:
            on_batch(len(batch))
    model.train(training)
    return found


class _Row(NamedTuple):
    """A group in one row of the model: what its sequences begin with, then what each goes on with, as
    branches that don't see one another. Nothing is read twice, and only rows of other lengths are padded for.

    Attributes:
        ids, positions, branches: (tokens,) int64; see `AttentionInputs`.
        scored: places of the states that predict the scored tokens, sequence after sequence.
    """

    ids: np.ndarray
    positions: np.ndarray
    branches: np.ndarray
    scored: np.ndarray

    @classmethod
    def of(cls, group: Sequence[Sequenced]) -> _Row:
        """The row of a group."""
        trunk = _shared(group)
        ids, positions, branches, scored = [group[0].ids[:trunk]], [np.arange(trunk)], [np.zeros(trunk)], []
        end = trunk
        for number, row in enumerate(group, start=1):
            own = len(row.ids) - 1 - trunk
            places = np.concatenate([np.arange(trunk), np.arange(end, end + own)])
            scored.append(places[row.start - 1 :])
            ids.append(row.ids[trunk:-1])
            positions.append(np.arange(trunk, trunk + own))
            branches.append(np.full(own, number))
            end += own
        columns = (np.concatenate(part).astype(np.int64) for part in (ids, positions, branches, scored))
        return cls(*columns)


def _shared(group: Sequence[Sequenced]) -> int:
    """Tokens that all sequences of a group begin with, and that none of them scores."""
    most = min(min(row.start, len(row.ids) - 1) for row in group)
    first = group[0].ids[:most]
    for row in group[1:]:
        differs = np.flatnonzero(first != row.ids[: len(first)])
        if len(differs):
            first = first[: int(differs[0])]
    return len(first)


def _read(model: CausalLM, rows: Sequence[_Row]) -> torch.Tensor:
    """The states that predict the scored tokens of the rows, (tokens, hidden_size), row after row."""
    device = model.device
    branched = any(row.branches[-1] > 1 for row in rows)
    hidden = model.hidden(
        padded([row.ids for row in rows], device),
        positions=padded([row.positions for row in rows], device),
        branches=padded([row.branches for row in rows], device) if branched else None,
    )
    width = hidden.shape[1]
    places = np.concatenate([at * width + row.scored for at, row in enumerate(rows)])
    return hidden.flatten(0, 1)[torch.from_numpy(places).to(device)]


def _judge(model: CausalLM, states: torch.Tensor, rows: Sequence[Sequenced]) -> list[LogLikelihood]:
    """Log likelihood of each row from the states that predict its scored tokens, (tokens, hidden_size), row
    after row."""
    labels = torch.from_numpy(np.concatenate([row.ids[row.start :] for row in rows])).to(model.device)
    logs, best = [], []
    step = max(1, (1 << 25) // model.config.vocab_size)  # 128 MiB of logits at most
    for at in range(0, len(labels), step):
        logits = model.head.logits(states[at : at + step]).float()
        wanted = labels[at : at + step]
        logs.append(logits.log_softmax(-1).gather(1, wanted[:, None]).squeeze(1))
        best.append(logits.argmax(-1) == wanted)
    values, greedy = torch.cat(logs).double().cpu().numpy(), torch.cat(best).cpu().numpy()
    found, begin = [], 0
    for row in rows:
        end = begin + len(row.ids) - row.start
        found.append(
            LogLikelihood(
                float(values[begin:end].sum()),
                end - begin,
                bool(greedy[begin:end].all()),
                row.straddles,
                row.cut,
            )
        )
        begin = end
    return found
