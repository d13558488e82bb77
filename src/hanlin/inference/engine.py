"""Batched generation with continuous batching: a finished row leaves at once and a waiting prompt takes its
place.

Rows live in slots 0 … n-1 of one preallocated cache, always without holes, so a decode step works on a view
of the first n rows: no gather, no allocation, no work for rows that are done. When a row ends, the last row
moves into its slot. Prompts are read in right-padded groups of similar length straight into the free slots; a
prompt that occurs several times (samples of one GRPO group, `n` choices of one request) is read once and its
keys and values are copied.

`Engine` is not thread-safe: one thread owns it.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch

from hanlin.common.errors import HanlinError
from hanlin.inference.generation import Completion, FinishReason, Generation
from hanlin.inference.sampling import Sampler, SamplingParams, derive_seed
from hanlin.inference.scoring import PromptScores, score_prompts
from hanlin.model import CausalLM, KVCache

# Padded tokens read in one pass; bounds the activations' memory and how long running rows wait for newcomers.
PREFILL_TOKENS = 8192

# Rows x parameters up to which a decode step runs on one thread. Measured with two cores, 64 rows: a second
# thread brings 14 % for a 1M model and 41 % for a 6M model. But each operation ends in a barrier that spins,
# and beside another busy process every barrier waits for a time slice: 486 answers of a 1M model took 62 s
# on two threads, 1.3 s on one.
SINGLE_THREAD_WORK = 64_000_000
SINGLE_THREAD_PREFILL = 1_000_000_000  # tokens x parameters, about 20 ms on one core


@runtime_checkable
class EndTokens(Protocol):
    """What knows the ids that end a reply: a tokenizer."""

    @property
    def im_end_id(self) -> int:
        """The end of a turn."""
        ...

    @property
    def eos_id(self) -> int:
        """The end of a document."""
        ...


class Engine:
    """Continues prompts with one model, up to `max_batch` at a time.

    Args:
        model: its present weights are used at every step, so the model may be trained between calls.
        eos_ids: a tokenizer (its `im_end_id` and `eos_id`) or the ids that end a reply.
        max_length: positions per row, prompt and reply together; the model's own limit when absent.
        cache_dtype: type of keys and values; the model's when absent.
    """

    def __init__(
        self,
        model: CausalLM,
        eos_ids: Iterable[int] | EndTokens,
        *,
        max_batch: int = 64,
        max_length: int | None = None,
        cache_dtype: torch.dtype | None = None,
    ):
        if max_batch < 1:
            raise ValueError(f"max_batch must be at least 1, not {max_batch}")
        self.model = model
        self.device = model.device
        self.eos_ids = eos_of(eos_ids)
        self._parameters = model.config.parameters()
        self.max_batch = max_batch
        self.max_length = min(
            max_length or model.config.max_position_embeddings, model.config.max_position_embeddings
        )
        self._cache_dtype = cache_dtype or model.dtype
        self._waiting: collections.deque[Generation] = collections.deque()
        self._reset()

    @property
    def active(self) -> int:
        """Rows being generated now."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Prompts that have no slot yet."""
        return len(self._waiting)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        on_token: Callable[[int, int], None] | None = None,
    ) -> list[Completion]:
        """Continue all prompts; results come in the order of the prompts.

        Args:
            prompts: token ids, of any lengths.
            params: for all, or one per prompt. One set with a seed gives every prompt its own stream of that
                seed.
            on_token: called with (prompt index, token id) as tokens are drawn.

        Raises:
            HanlinError: an empty prompt, an id outside the vocabulary, logits that are not finite.
        """
        if self._running or self._waiting:
            raise RuntimeError(
                "generate() needs an idle engine; use submit() and step() beside other requests"
            )
        if params is None or isinstance(params, SamplingParams):
            shared = params or SamplingParams()
            every = [
                shared
                if shared.seed is None
                else dataclasses.replace(shared, seed=derive_seed(shared.seed, i))
                for i in range(len(prompts))
            ]
        else:
            every = list(params)
        index: dict[int, int] = {}
        listener = (
            None if on_token is None else (lambda generation, token: on_token(index[id(generation)], token))
        )
        generations = [Generation(prompt, p, listener) for prompt, p in zip(prompts, every, strict=True)]
        index.update((id(generation), i) for i, generation in enumerate(generations))
        # Long prompts first: groups of similar length waste little padding, equal prompts meet, and the last
        # rows to run are short.
        for generation in sorted(generations, key=lambda g: (len(g.prompt), g.prompt), reverse=True):
            self.submit(generation)
        admit_at = max(1, self.max_batch // 8)
        try:
            while self.step(admit_at):
                pass
        except BaseException:
            self.abort()
            raise
        if any(g.finish_reason == "error" for g in generations):
            raise HanlinError(
                "The model's logits are not finite (NaN or infinity), so nothing can be generated. Its "
                "weights have probably diverged; use an earlier checkpoint, or train again with a lower "
                "learning rate."
            )
        return [
            Completion(g.ids, g.finish_reason or "length", g.logprobs if g.params.logprobs else None)
            for g in generations
        ]

    def submit(self, generation: Generation) -> Generation:
        """Queue a prompt; it runs during the following calls of `step`.

        Raises:
            HanlinError: the prompt is empty or has an id outside the vocabulary.
        """
        self._check_prompt(generation.prompt)
        generation.limit = self._limit(generation)
        if generation.limit <= 0:
            self._finish(generation, "length")
        else:
            self._waiting.append(generation)
        return generation

    def cancel(self, generation: Generation) -> None:
        """End a generation; its slot is free from the next `step` on. No effect on a finished one."""
        if generation.finish_reason is None:
            generation.finish_reason = "cancelled"
            self._cancelled = True

    def step(self, admit_at: int = 1) -> bool:
        """Read waiting prompts if there is room, then draw one token for every running row.

        Args:
            admit_at: free slots to wait for before reading prompts; larger groups read faster, 1 answers
                soonest.

        Returns:
            Whether anything is left to do.
        """
        with torch.inference_mode():
            self._evict_cancelled()
            if self._waiting and self.max_batch - self.active >= min(admit_at, len(self._waiting)):
                self._schedule_prefill()
                self._evict_cancelled()
            if self._running:
                with self._threads_for(self.active, SINGLE_THREAD_WORK):
                    self._decode()
        return bool(self._running or self._waiting)

    def abort(self, reason: FinishReason = "error") -> list[Generation]:
        """End everything, as after a failed step, and start anew; returns what was ended."""
        ended = [*self._running, *self._waiting]
        self._waiting.clear()
        self._reset()
        for generation in ended:
            self._finish(generation, generation.finish_reason or reason)
        return ended

    def score(
        self, prompts: Sequence[Sequence[int]], top: Sequence[int]
    ) -> tuple[list[PromptScores], torch.Tensor]:
        """Score prompts in one pass, beside what is being generated; see `score_prompts`.

        Raises:
            HanlinError: a prompt is empty or has an id outside the vocabulary.
        """
        for prompt in prompts:
            self._check_prompt(prompt)
        with self._threads_for(len(prompts) * max(map(len, prompts)), SINGLE_THREAD_PREFILL):
            return score_prompts(self.model, prompts, top)

    @torch.inference_mode()
    def submit_scored(self, generations: Sequence[Generation], hidden: torch.Tensor) -> None:
        """Continue prompts that `score` has read. Who wants one token gets it from there at once; the others
        are queued as by `submit`.

        Args:
            hidden: what `score` returned for each one's prompt, (generations, hidden_size).

        Raises:
            HanlinError: as `submit` does.
        """
        single = [row for row, generation in enumerate(generations) if self._limit(generation) == 1]
        if single:
            self._draw_only([generations[row] for row in single], hidden[single])
        for generation in generations:
            if generation.finish_reason is None:
                self.submit(generation)

    def _draw_only(self, group: list[Generation], hidden: torch.Tensor) -> None:
        """Give each of a group its only token, after hidden states (group, hidden_size)."""
        sampler = Sampler(len(group), self.model.config.vocab_size, self.device)
        sampler.append([g.params for g in group], [g.prompt for g in group])
        with self._threads_for(len(group), SINGLE_THREAD_WORK):
            logits = self.model.logits(hidden)
            tokens, logprobs = sampler(logits)
            failed = tokens < 0
            self._publish_tokens(group, tokens.clamp_min(0), logprobs, logits, failed)
        chosen, bad = tokens.tolist(), failed.tolist()
        for row, generation in enumerate(group):
            if generation.on_token is None and not bad[row]:
                generation.ids = [chosen[row]]
                generation.logprobs = (
                    [float(logprobs[row])] if generation.params.logprobs and logprobs is not None else []
                )
            reason: FinishReason = "stop" if chosen[row] in self._stop_ids(generation.params) else "length"
            self._finish(generation, "error" if bad[row] else generation.finish_reason or reason)

    def _check_prompt(self, prompt: Sequence[int]) -> None:
        size = self.model.config.vocab_size
        if not prompt:
            raise HanlinError("The prompt is empty: there is nothing to continue. Give at least one token.")
        if min(prompt) < 0 or max(prompt) >= size:
            raise HanlinError(
                "The prompt has a token id outside the vocabulary (0 … {size}). Tokenizer and model may "
                "not belong together.",
                size=size - 1,
            )

    def _limit(self, generation: Generation) -> int:
        """Tokens a generation may write: what it asks for, as far as the context goes."""
        return min(generation.params.max_new_tokens, self.max_length - len(generation.prompt))

    def _stop_ids(self, params: SamplingParams) -> tuple[int, ...]:
        return tuple(params.stop_ids) + (() if params.ignore_eos else self.eos_ids)

    def _reset(self) -> None:
        """Forget all rows and release the cache."""
        self._running: list[Generation] = []
        self._cancelled = False
        self._cache: KVCache | None = None
        self._views: dict[tuple[int, int], KVCache] = {}
        self._sampler = Sampler(self.max_batch, self.model.config.vocab_size, self.device)
        self._tokens = torch.zeros(self.max_batch, dtype=torch.int64, device=self.device)
        self._drawn = torch.zeros(self.max_batch, dtype=torch.int64, device=self.device)
        self._limits = torch.zeros(self.max_batch, dtype=torch.int64, device=self.device)
        self._stops = torch.full((self.max_batch, 1), -2, dtype=torch.int64, device=self.device)
        self._written = torch.zeros(self.max_batch, 0, dtype=torch.int64, device=self.device)
        self._logprobs = torch.zeros(self.max_batch, 0, device=self.device)

    def _rows(self, start: int, stop: int) -> KVCache:
        """A cache that is slots start … stop-1 of the big one, sharing its memory."""
        view = self._views.get((start, stop))
        if view is None:
            assert self._cache is not None
            if len(self._views) > 4 * self.max_batch:
                self._views.clear()
            view = self._cache.rows(start, stop)
            self._views[start, stop] = view
        return view

    def _reserve(self, length: int, written: int, stops: int) -> None:
        """Grow the cache to `length` positions, the token record to `written` and the stop table to `stops`
        columns."""
        if self._cache is None or self._cache.max_length < length:
            old = self._cache
            size = 0 if self._cache is None else self._cache.max_length
            size = min(self.max_length, max(length, 2 * size, 64))
            self._cache = KVCache(self.model.config, self.max_batch, size, self.device, self._cache_dtype)
            self._views = {}
            if old is not None:
                n = self.active
                filled = old.max_length
                self._cache.lengths[:n] = old.lengths[:n]
                self._cache.host_lengths[:n] = old.host_lengths[:n]
                for new_table, old_table in zip(
                    self._cache.keys + self._cache.values, old.keys + old.values, strict=True
                ):
                    new_table[:n, :, :filled] = old_table[:n]
        self._written = _widen(self._written, written, 0)
        self._logprobs = _widen(self._logprobs, written, 0)
        self._stops = _widen(self._stops, stops, -2)

    def _schedule_prefill(self) -> None:
        """Read as many waiting prompts as fit, and draw their first tokens."""
        group: list[Generation] = []
        slots: list[int] = []  # which distinct prompt each row of the group continues
        distinct: dict[tuple[int, ...], int] = {}
        longest = 0
        for generation in itertools.islice(self._waiting, self.max_batch - self.active):
            key = tuple(generation.prompt)
            if (
                group
                and key not in distinct
                and max(longest, len(key)) * (len(distinct) + 1) > PREFILL_TOKENS
            ):
                break
            longest = max(longest, len(key))
            group.append(generation)
            slots.append(distinct.setdefault(key, len(distinct)))
        start = self.active
        stop = self.active + len(group)
        stop_ids = [self._stop_ids(g.params) for g in group]
        self._reserve(
            max(len(g.prompt) + g.limit for g in group),
            max(g.limit for g in group),
            max(1, *map(len, stop_ids)),
        )
        lengths = torch.tensor([len(key) for key in distinct], dtype=torch.int64, device=self.device)
        ids = torch.tensor(
            [[*key, *[0] * (longest - len(key))] for key in distinct], dtype=torch.int64, device=self.device
        )
        rows = self._rows(start, start + len(distinct))
        rows.set_lengths(0)
        with self._threads_for(ids.numel(), SINGLE_THREAD_PREFILL):
            hidden = self.model.hidden(ids, cache=rows)
            logits = self.model.logits(hidden[torch.arange(len(distinct), device=self.device), lengths - 1])
        rows.advance([len(key) for key in distinct])
        if len(distinct) < len(group):
            chosen = torch.tensor(slots, dtype=torch.int64, device=self.device)
            copies = self._rows(start, stop)
            copies.set_lengths([len(g.prompt) for g in group])
            for table, whole in zip(rows.keys + rows.values, copies.keys + copies.values, strict=True):
                whole[:, :, :longest] = table[chosen, :, :longest]
            logits = logits[chosen]
        for generation in group:  # only now, so that a pass that fails loses nobody
            self._running.append(generation)
            self._waiting.popleft()
        self._sampler.append([g.params for g in group], [g.prompt for g in group])
        self._limits[start:stop] = torch.tensor([g.limit for g in group], device=self.device)
        self._drawn[start:stop] = 0
        width = self._stops.shape[1]
        self._stops[start:stop] = torch.tensor(
            [[*ids, *[-2] * (width - len(ids))] for ids in stop_ids], device=self.device
        )
        with self._threads_for(len(group), SINGLE_THREAD_WORK):
            self._sample(logits, start)

    def _decode(self) -> None:
        """One token for every running row."""
        rows = self._rows(0, self.active)
        hidden = self.model.hidden(self._tokens[: self.active, None], cache=rows)
        rows.advance(1)
        self._sample(self.model.logits(hidden[:, -1]), 0)

    @contextlib.contextmanager
    def _threads_for(self, tokens: int, limit: int) -> Iterator[None]:
        """One thread for a pass too small to share; switching back and forth costs 0.2 µs (measured)."""
        threads = torch.get_num_threads()
        alone = self.device.type == "cpu" and threads > 1 and tokens * self._parameters <= limit
        if alone:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            if alone:
                torch.set_num_threads(threads)

    def _sample(self, logits: torch.Tensor, start: int) -> None:
        """Sample the rows from `start` on, record the tokens, tell the listeners, retire what is done."""
        stop = start + logits.shape[0]
        tokens, logprobs = self._sampler(logits, start)
        failed = tokens < 0
        tokens = tokens.clamp_min(0)
        drawn = self._drawn[start:stop]
        self._tokens[start:stop] = tokens
        self._written[start:stop].scatter_(1, drawn[:, None], tokens[:, None])
        if logprobs is not None:
            self._logprobs[start:stop].scatter_(1, drawn[:, None], logprobs[:, None])
        drawn += 1
        stopped = (tokens[:, None] == self._stops[start:stop]).any(dim=1)
        done = stopped | failed | (drawn >= self._limits[start:stop])
        self._publish_tokens(self._running[start:], tokens, logprobs, logits, failed)
        if bool(done.any()):
            state = (
                done.long() + stopped.long() + 2 * failed.long()
            ).tolist()  # 0 runs, 1 length, 2 stop, 3 or more failed
            ended = [start + i for i, s in enumerate(state) if s]
            self._collect(ended)
            for slot in ended:
                generation = self._running[slot]
                reason = ("length", "stop")[state[slot - start] - 1] if state[slot - start] < 3 else "error"
                self._finish(generation, generation.finish_reason or reason)
            self._remove(ended)

    def _publish_tokens(
        self,
        group: Sequence[Generation],
        tokens: torch.Tensor,
        logprobs: torch.Tensor | None,
        logits: torch.Tensor,
        failed: torch.Tensor,
    ) -> None:
        """Hand new tokens to the rows that listen; rows that only want the end cost nothing here."""
        most = max((g.params.top_logprobs for g in group), default=0)
        if most:
            table = logits.float().log_softmax(dim=-1)
            logprobs = table.gather(1, tokens[:, None])[
                :, 0
            ]  # to the last bit what it is among the likeliest
            for generation, top in zip(group, _top_pairs(table, most), strict=True):
                if generation.params.top_logprobs:
                    generation.top.append(top[: generation.params.top_logprobs])
        if not any(g.on_token for g in group):
            return
        token_list = tokens.tolist()
        bad = failed.tolist()
        logprob_list = None if logprobs is None else logprobs.tolist()
        for i, generation in enumerate(group):
            if generation.on_token is not None and generation.finish_reason is None and not bad[i]:
                generation.ids.append(token_list[i])
                if logprob_list is not None and generation.params.logprobs:
                    generation.logprobs.append(logprob_list[i])
                generation.on_token(generation, token_list[i])

    def _collect(self, slots: list[int]) -> None:
        """Give finished rows without a listener their tokens."""
        for slot in slots:
            generation = self._running[slot]
            if generation.on_token is None:
                count = int(self._drawn[slot])
                generation.ids = self._written[slot, :count].tolist()
                if generation.params.logprobs:
                    generation.logprobs = self._logprobs[slot, :count].tolist()

    def _finish(self, generation: Generation, reason: FinishReason) -> None:
        generation.finish_reason = reason
        if generation.on_finish is not None:
            generation.on_finish(generation)

    def _evict_cancelled(self) -> None:
        """Free the slots and queue places of cancelled generations."""
        if not self._cancelled:
            return
        self._cancelled = False
        gone = [g for g in [*self._running, *self._waiting] if g.finish_reason == "cancelled"]
        self._waiting = collections.deque(g for g in self._waiting if g.finish_reason is None)
        self._remove([slot for slot, g in enumerate(self._running) if g.finish_reason is not None])
        for generation in gone:
            self._finish(generation, "cancelled")

    def _remove(self, slots: list[int]) -> None:
        """Take rows out; the last rows move into the holes, so that slots 0 … n-1 stay full."""
        if not slots:
            return
        remaining = self.active - len(slots)
        gone = set(slots)
        holes = [slot for slot in slots if slot < remaining]
        movers = [slot for slot in range(remaining, self.active) if slot not in gone]
        if holes and self._cache is not None:
            filled = int(self._cache.host_lengths[movers].max())
            self._cache.host_lengths[holes] = self._cache.host_lengths[movers]
            for table in self._cache.keys + self._cache.values:
                table[holes, :, :filled] = table[movers, :, :filled]
            for column in (
                self._cache.lengths,
                self._tokens,
                self._drawn,
                self._limits,
                self._stops,
                self._written,
                self._logprobs,
            ):
                column[holes] = column[movers]
        for hole, mover in zip(holes, movers, strict=True):
            self._running[hole] = self._running[mover]
        del self._running[remaining:]
        self._sampler.move(movers, holes, remaining)


def eos_of(source: Iterable[int] | EndTokens) -> tuple[int, ...]:
    """The ids that end a reply: a tokenizer's end-of-turn and end-of-document tokens, or the given ids."""
    if isinstance(source, EndTokens):
        return (int(source.im_end_id), int(source.eos_id))
    return tuple(int(token) for token in source)


def _widen(table: torch.Tensor, width: int, fill: int) -> torch.Tensor:
    """The table with at least `width` columns, new ones filled with `fill`."""
    if table.shape[1] >= width:
        return table
    wider = table.new_full((table.shape[0], max(width, 2 * table.shape[1])), fill)
    wider[:, : table.shape[1]] = table
    return wider


def _top_pairs(logprobs: torch.Tensor, top: int) -> list[list[tuple[int, float]]]:
    """The `top` most likely (id, log-probability) of each row."""
    best = logprobs.topk(min(top, logprobs.shape[-1]), dim=-1)
    return [
        list(zip(ids, values, strict=True))
        for ids, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
