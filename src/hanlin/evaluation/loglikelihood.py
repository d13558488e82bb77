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
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch

from hanlin.common.errors import HanlinError
from hanlin.evaluation.benchmarks.items import Request
from hanlin.model import CausalLM
from hanlin.model.kv_cache import KVCache
from hanlin.tokenizer import Tokenizer

BATCH_TOKENS = 8192  # read at once, padding included
_WORTH_SHARING = 24  # tokens that a shared beginning must save to be read once; below, rows are cheaper
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
    begin with is read once where that spares enough.

    Args:
        on_batch: told how many groups are done by each batch.
    """
    training = model.training
    model.eval()
    found: list[list[LogLikelihood | None]] = [[None] * len(group) for group in groups]
    shared = [_shared(group) for group in groups]
    plain = [at for at, size in enumerate(shared) if not size]
    for batch in _batches(plain, lambda at: len(groups[at]) * max(len(row.ids) for row in groups[at])):
        rows = [(at, place) for at in batch for place in range(len(groups[at]))]
        scored = _score_rows(model, [groups[at][place] for at, place in rows])
        for (at, place), value in zip(rows, scored, strict=True):
            found[at][place] = value
        if on_batch is not None:
            on_batch(len(batch))
    together = [at for at, size in enumerate(shared) if size]
    for batch in _batches(together, lambda at: len(groups[at]) * max(len(row.ids) for row in groups[at])):
        for at, values in zip(
            batch, _score_shared(model, [(groups[at], shared[at]) for at in batch]), strict=True
        ):
            found[at] = list(values)
        if on_batch is not None:
            on_batch(len(batch))
    model.train(training)
    return [[value for value in group if value is not None] for group in found]


def _shared(group: Sequence[Sequenced]) -> int:
    """Tokens that all sequences of a group begin with, and that none of them scores; 0 where reading them
    once would not pay."""
    if len(group) < 2:
        return 0
    most = min(min(row.start, len(row.ids) - 1) for row in group)
    first = group[0].ids[:most]
    for row in group[1:]:
        differs = np.flatnonzero(first != row.ids[: len(first)])
        if len(differs):
            first = first[: int(differs[0])]
    return len(first) if len(first) * (len(group) - 1) >= _WORTH_SHARING and len(first) > 1 else 0


def _batches(indices: Sequence[int], cost: Callable[[int], int]) -> Iterator[list[int]]:
    """Groups of like cost together, of at most `BATCH_TOKENS` when padded to the largest."""
    ordered = sorted(indices, key=cost)
    batch: list[int] = []
    for index in ordered:
        if batch and (len(batch) + 1) * cost(index) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _score_rows(model: CausalLM, rows: Sequence[Sequenced]) -> list[LogLikelihood]:
    """Sequences read as padded rows."""
    width = max(len(row.ids) for row in rows) - 1
    ids = np.zeros((len(rows), width), dtype=np.int64)
    kept = np.zeros((len(rows), width), dtype=bool)
    for place, row in enumerate(rows):
        ids[place, : len(row.ids) - 1] = row.ids[:-1]
        kept[place, row.start - 1 : len(row.ids) - 1] = True
    hidden = model.hidden(torch.from_numpy(ids).to(model.device))
    states = hidden[torch.from_numpy(kept).to(model.device)]
    return _judge(model, states, rows)


def _score_shared(
    model: CausalLM, groups: Sequence[tuple[Sequence[Sequenced], int]]
) -> list[list[LogLikelihood]]:
    """Groups whose sequences begin alike: the beginnings are read once into a cache, its rows are repeated,
    and each sequence reads on from there."""
    config, device = model.config, model.device
    owner = [at for at, (group, _) in enumerate(groups) for _ in group]
    rows = [row for group, _ in groups for row in group]
    sizes = [size for _, size in groups]
    rests = [row.ids[sizes[at] : -1] for at, row in zip(owner, rows, strict=True)]
    longest = max(map(len, rests))
    if len(groups) > 1 and max(sizes) + longest > config.max_position_embeddings:
        # padding of the longest beginning by the longest rest would lie beyond the model's positions
        half = len(groups) // 2
        return _score_shared(model, groups[:half]) + _score_shared(model, groups[half:])
    first = KVCache(config, len(groups), max(sizes), device, model.dtype)
    begun = model.hidden(_padded([group[0].ids[:size] for group, size in groups], device), cache=first)
    cache = KVCache(config, len(rows), max(sizes) + longest, device, model.dtype)
    taken = torch.tensor(owner, device=device)
    for layer in range(config.num_hidden_layers):
        cache.keys[layer][:, :, : max(sizes)] = first.keys[layer][taken]
        cache.values[layer][:, :, : max(sizes)] = first.values[layer][taken]
    cache.set_lengths([sizes[at] for at in owner])
    hidden = (
        model.hidden(_padded(rests, device), cache=cache)
        if longest
        else torch.empty(len(rows), 0, begun.shape[-1], device=device, dtype=begun.dtype)
    )
    states = []
    for place, (at, row) in enumerate(zip(owner, rows, strict=True)):
        size = sizes[at]
        own = torch.cat([begun[at, size - 1 : size], hidden[place, : len(rests[place])]])
        states.append(own[row.start - size :])
    values = iter(_judge(model, torch.cat(states), rows))
    return [[next(values) for _ in group] for group, _ in groups]


def _padded(rows: Sequence[np.ndarray], device: torch.device) -> torch.Tensor:
    """Rows of ids as one array, padded at the end, where no real token looks."""
    ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
    return torch.from_numpy(ids).to(device)


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
