"""From logits to tokens: every row of a batch with its own settings and its own reproducible randomness.

A row's token is a function of its logits, its seed and how many tokens it has drawn: never of its neighbours,
so a request gives the same text alone and in company. Everything runs over the whole batch; nothing loops
over rows.
"""

from __future__ import annotations

import dataclasses
import math
import secrets
from collections.abc import Mapping, Sequence

import torch

from hanlin.common.errors import ConfigError
from hanlin.common.messages import Text
from hanlin.common.random import GOLDEN_GAMMA, MASK64, as_int64, shift_right, splitmix64, splitmix64_tensor

# Enough for almost every nucleus of a trained model; a flatter row falls back to a full sort. Sorting 64
# rows of 6,400 costs 20 times as much as taking their 128 largest.
_NUCLEUS_CANDIDATES = 128


class SettingOutOfRange(ConfigError):
    """A sampling setting that makes no sense."""


@dataclasses.dataclass(frozen=True)
class SamplingParams:
    """How one prompt is continued.

    Attributes:
        max_new_tokens: at most this many tokens, the stop token included.
        temperature: logits are divided by it; 0 takes the most likely token.
        top_k: keep the k most likely tokens (0: all).
        top_p: keep the smallest set of tokens, of those left by `top_k`, with at least this share of
            probability.
        min_p: drop tokens less likely than this times the most likely one.
        repetition_penalty: logits of tokens in prompt or reply are divided (positive) or multiplied
            (negative) by it (Keskar et al. 2019).
        presence_penalty, frequency_penalty: subtracted once per token in the reply, and once per occurrence.
        logit_bias: added to the logits of these token ids.
        seed: the draw's seed; random when absent.
        stop_ids: tokens that end the reply, besides the engine's end-of-text tokens.
        ignore_eos: do not stop at the engine's end-of-text tokens.
        logprobs: report every token's log-probability under the model (temperature 1, before penalties and
            truncation).
        top_logprobs: also report this many most likely tokens at each position.

    Raises:
        SettingOutOfRange: a number out of range.
    """

    max_new_tokens: int = 256
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = dataclasses.field(default_factory=dict)
    seed: int | None = None
    stop_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: bool = False
    top_logprobs: int = 0

    def __post_init__(self):
        def require(condition: bool, name: str, expected: Text) -> None:
            if not condition:
                raise SettingOutOfRange(
                    "{name} must be {expected}, not {value!r}.",
                    name=name,
                    expected=expected,
                    value=getattr(self, name),
                )

        positive = 0 < self.repetition_penalty < math.inf
        biases = all(not math.isnan(bias) and bias < math.inf for bias in self.logit_bias.values())
        require(self.max_new_tokens >= 0, "max_new_tokens", Text("at least 0"))
        require(
            0 <= self.temperature < math.inf, "temperature", Text.in_context("must be", "a number from 0")
        )
        require(self.top_k >= 0, "top_k", Text("at least 0 (0: all)"))
        require(0 <= self.top_p <= 1, "top_p", Text("between 0 and 1"))
        require(0 <= self.min_p <= 1, "min_p", Text("between 0 and 1"))
        require(positive, "repetition_penalty", Text("above 0"))
        require(math.isfinite(self.presence_penalty), "presence_penalty", Text("finite"))
        require(math.isfinite(self.frequency_penalty), "frequency_penalty", Text("finite"))
        require(biases, "logit_bias", Text("numbers below infinity"))
        require(self.top_logprobs >= 0, "top_logprobs", Text("at least 0"))

    @property
    def penalised(self) -> bool:
        """Whether the tokens already written change the distribution."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0

    @property
    def truncated(self) -> bool:
        """Whether unlikely tokens are cut off."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


def derive_seed(seed: int, index: int) -> int:
    """The seed of the `index`-th row of a batch that was given one seed."""
    return splitmix64((seed + (index + 1) * GOLDEN_GAMMA) & MASK64)


def counter_uniform(seeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Uniform numbers in [0, 1), each a hash (SplitMix64, Steele et al. 2014) of its seed and position.

    Args:
        seeds, positions: (B,) int64.

    Returns:
        (B,) float32, multiples of 2^-23, so that u * total < total whatever the rounding.
    """
    bits = splitmix64_tensor(seeds + (positions + 1) * as_int64(GOLDEN_GAMMA))
    return shift_right(bits, 41).to(torch.float32) * 2.0**-23


class Sampler:
    """The sampling settings of up to `capacity` rows, held as columns so that one pass serves them all."""

    def __init__(self, capacity: int, vocab_size: int, device: torch.device | str = "cpu"):
        self.vocab_size = vocab_size
        self.device = torch.device(device)
        self.rows: list[SamplingParams] = []
        self._capacity = capacity
        # temperature, top_p, min_p, repetition, presence, frequency
        self._floats = torch.ones(capacity, 6, device=device)
        # seed (already mixed), tokens drawn, top_k
        self._ints = torch.zeros(capacity, 3, dtype=torch.int64, device=device)
        self._counts: torch.Tensor | None = None  # (capacity, V) occurrences in the reply
        self._seen: torch.Tensor | None = None  # (capacity, V) whether in prompt or reply
        self._bias: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    def append(self, rows: Sequence[SamplingParams], prompts: Sequence[Sequence[int]]) -> None:
        """Add rows after the present ones.

        Args:
            prompts: their prompts' token ids, which the repetition penalty counts.
        """
        start = len(self.rows)
        stop = start + len(rows)
        self.rows.extend(rows)
        floats = [
            [p.temperature, p.top_p, p.min_p, p.repetition_penalty, p.presence_penalty, p.frequency_penalty]
            for p in rows
        ]
        ints = [
            [
                as_int64(splitmix64((secrets.randbits(64) if p.seed is None else p.seed) & MASK64)),
                0,
                p.top_k or self.vocab_size,
            ]
            for p in rows
        ]
        self._floats[start:stop] = torch.tensor(floats, dtype=torch.float32).to(self.device)
        self._ints[start:stop] = torch.tensor(ints, dtype=torch.int64).to(self.device)
        if self._counts is None and any(p.penalised for p in rows):
            self._counts = torch.zeros(self._capacity, self.vocab_size, dtype=torch.int32, device=self.device)
            self._seen = torch.zeros(self._capacity, self.vocab_size, dtype=torch.bool, device=self.device)
        if self._counts is not None and self._seen is not None:
            self._counts[start:stop] = 0
            self._seen[start:stop] = False
            for row, (params, prompt) in enumerate(zip(rows, prompts, strict=True), start):
                if params.repetition_penalty != 1:
                    self._seen[
                        row, torch.tensor(sorted(set(prompt)), dtype=torch.int64, device=self.device)
                    ] = True
        self._changed()

    def move(self, sources: Sequence[int], targets: Sequence[int], remaining: int) -> None:
        """Copy rows `sources` over rows `targets`, then keep the first `remaining` rows."""
        for source, target in zip(sources, targets, strict=True):
            self.rows[target] = self.rows[source]
        del self.rows[remaining:]
        if sources:
            for table in (self._floats, self._ints, self._counts, self._seen):
                if table is not None:
                    table[list(targets)] = table[list(sources)]
        self._changed()

    def __call__(self, logits: torch.Tensor, start: int = 0) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Draw one token for each of the rows start … start+n-1.

        Args:
            logits: (n, V), any floating type.

        Returns:
            Token ids (n,) int64, -1 where the logits were not finite; and, if any of all rows wants them,
            the tokens' log-probabilities under the model itself (n,) float32.
        """
        stop = start + logits.shape[0]
        logits = logits.float()
        scores = logits
        if self._any_bias or self._any_penalty:
            scores = self._adjust(logits.clone(), start, stop)
        if self._all_greedy:
            best, tokens = scores.max(dim=-1)
            finite = best.isfinite()
            chosen = None
        else:
            tokens, chosen, finite = self._draw(scores, start, stop)
        logprobs = None
        if self._any_logprobs:
            if chosen is not None and self._all_plain and scores is logits:
                logprobs = chosen.log()
            else:
                logprobs = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(dim=-1)
        self._ints[start:stop, 1] += 1
        if self._counts is not None and self._seen is not None:
            rows = torch.arange(start, stop, device=self.device)
            self._counts.index_put_(
                (rows, tokens), torch.ones_like(tokens, dtype=torch.int32), accumulate=True
            )
            self._seen[rows, tokens] = True
        return tokens.masked_fill(~finite, -1), logprobs

    def _draw(
        self, scores: torch.Tensor, start: int, stop: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Sample rows by inverting their cumulative distribution at one hashed uniform number each.

        Inversion needs one hash per row where Gumbel noise needs one per vocabulary entry; both are
        functions of (seed, position) alone.
        """
        temperature, top_p, min_p = self._floats[start:stop, :3].unbind(dim=1)
        scaled = scores if self._all_plain else scores / temperature.clamp_min(1e-5)[:, None]
        probabilities = scaled.softmax(dim=-1)
        if self._any_truncated:
            cut = _threshold(probabilities, self._ints[start:stop, 2], top_p, min_p)
            kept = probabilities.masked_fill(probabilities < cut[:, None], 0.0)
        else:
            kept = probabilities
        cumulative = kept.cumsum(dim=-1)
        total = cumulative[:, -1]
        finite = total.isfinite()
        point = counter_uniform(self._ints[start:stop, 0], self._ints[start:stop, 1]) * total
        tokens = torch.searchsorted(cumulative, point[:, None], right=True)[:, 0].clamp_max(
            self.vocab_size - 1
        )
        if self._any_greedy:
            tokens = torch.where(temperature == 0, scores.argmax(dim=-1), tokens)
        return tokens, probabilities.gather(1, tokens[:, None])[:, 0], finite

    def _adjust(self, scores: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Apply penalties and biases in place."""
        if self._any_penalty and self._counts is not None and self._seen is not None:
            repetition, presence, frequency = self._floats[start:stop, 3:6].split(1, dim=1)
            counts = self._counts[start:stop]
            penalised = torch.where(scores > 0, scores / repetition, scores * repetition)
            scores = torch.where(self._seen[start:stop], penalised, scores)
            scores -= presence * (counts > 0) + frequency * counts
        if self._bias is not None:
            rows, tokens, values = self._bias
            inside = (rows >= start) & (rows < stop)
            scores.index_put_((rows[inside] - start, tokens[inside]), values[inside], accumulate=True)
        return scores

    def _changed(self) -> None:
        """Which steps the present rows need at all; once per change of the batch, not per token."""
        rows = self.rows
        self._all_greedy = all(p.temperature == 0 for p in rows)
        self._any_greedy = any(p.temperature == 0 for p in rows)
        self._all_plain = all(p.temperature == 1 for p in rows)
        self._any_truncated = any(p.truncated for p in rows)
        self._any_penalty = any(p.penalised for p in rows)
        self._any_bias = any(p.logit_bias for p in rows)
        self._any_logprobs = any(p.logprobs for p in rows)
        self._bias = None
        if self._any_bias:
            entries = [
                (row, token, bias) for row, p in enumerate(rows) for token, bias in p.logit_bias.items()
            ]
            indices = torch.tensor([entry[:2] for entry in entries], dtype=torch.int64, device=self.device)
            self._bias = (
                indices[:, 0],
                indices[:, 1],
                torch.tensor([entry[2] for entry in entries], dtype=torch.float32, device=self.device),
            )


def _threshold(
    probabilities: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor, min_p: torch.Tensor
) -> torch.Tensor:
    """The least probability each row keeps, (n,); ties with it are kept.

    Args:
        probabilities: (n, V), rows sum to 1.
        top_k: (n,) int64, V for all.
    """
    size = probabilities.shape[1]
    nucleus = top_p < 1
    width = min(size, _NUCLEUS_CANDIDATES)
    limited = top_k < size
    if limited.any():
        width = min(size, max(width, int(top_k[limited].max())))
    largest = probabilities.topk(width, dim=-1).values  # sorted, descending
    covered = (largest.sum(dim=-1) >= top_p) | limited
    if width < size and not bool((covered | ~nucleus).all()):
        largest = probabilities.sort(dim=-1, descending=True).values
    ranks = torch.arange(largest.shape[1], device=largest.device)
    by_rank = ranks < top_k[:, None]
    cumulative = (largest * by_rank).cumsum(dim=-1)
    mass = torch.where(limited, cumulative[:, -1], 1.0)
    inside = by_rank & (cumulative - largest < (top_p * mass)[:, None])
    inside[:, 0] = True
    last = (inside.sum(dim=-1, keepdim=True) - 1).clamp_min(0)
    cut = largest.gather(1, last)[:, 0].masked_fill(~(nucleus | limited), 0.0)
    return torch.maximum(cut, min_p * largest[:, 0])
