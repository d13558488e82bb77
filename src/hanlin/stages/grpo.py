"""Group-relative policy optimisation, in the unbiased form of Dr. GRPO (Liu et al. 2025), strictly on-policy.

For every prompt the model writes a group of answers; each answer's advantage is its reward less the group's
mean, not divided by the deviation (which favours prompts that are too easy or too hard), and token losses are
summed and divided by a constant, not by each answer's length (which favours long wrong answers):

    L = - 1/(P·G·L_max) · Σ_answers A · Σ_tokens log π(token)   [+ kl_coef · k3(π‖π_ref)]

With one update per rollout the importance ratio is one and clipping would never act, so there is none.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import nn

from hanlin.common.config import OutOfRange, Range, above, at_least, require_ranges
from hanlin.common.devices import to_device_async
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import hash_json
from hanlin.common.messages import Text
from hanlin.common.progress import Progress
from hanlin.dataset import Batch, pack_sequences, permutation
from hanlin.inference import Completion, Engine, SamplingParams, derive_seed
from hanlin.model import CausalLM, ForwardContext
from hanlin.rl.rewards.base import FunctionReward, Reward, RewardSum, Sample
from hanlin.stages.base import Job, content_hash
from hanlin.stages.pairs import sum_by_document
from hanlin.tokenizer import Tokenizer
from hanlin.tokenizer.chat import prompt_of
from hanlin.training import BatchSource, Objective, TrainConfig, TrainResult
from hanlin.training.contract import config_hash
from hanlin.training.distributed.shard import FULL, DataShard
from hanlin.training.memory import is_out_of_memory, out_of_memory_error, release_memory

RewardFunction = Callable[[Mapping[str, Any], str, bool], float]
"""(record, what the model wrote, whether the prompt ended inside a block of thought) → reward:
`FunctionReward` wraps one."""


@dataclasses.dataclass(frozen=True)
class GRPOConfig:
    """How to roll out and learn.

    Attributes:
        prompts: prompts per step, each answered `group_size` times.
        max_new_tokens: longest answer; an answer that does not end by then gets what its text is worth.
        kl_coef: weight of the k3 estimate of KL to the starting model; 0 leaves the reference out.
        thinking: `None` lets the model decide whether to think, true and false decide for it.
    """

    train: TrainConfig = dataclasses.field(
        default_factory=lambda: TrainConfig(learning_rate=2e-4, muon=False)
    )
    seq_len: int = 256
    prompts: int = 16
    group_size: int = 8
    max_new_tokens: int = 96
    temperature: float = 1.0
    kl_coef: float = 0.0
    thinking: bool | None = None

    RANGES: ClassVar[dict[str, Range]] = {
        "seq_len": at_least(2),
        "prompts": at_least(1),
        "group_size": at_least(2),  # the mean of a group of one teaches nothing
        "max_new_tokens": at_least(1),
        "temperature": above(0),  # at 0 all answers of a group are the same
        "kl_coef": at_least(0),
    }

    def __post_init__(self):
        require_ranges(self)
        if self.max_new_tokens >= self.seq_len:
            raise OutOfRange(
                "max_new_tokens is {max_new_tokens}, which leaves no room for a prompt in seq_len={seq_len}",
                max_new_tokens=self.max_new_tokens,
                seq_len=self.seq_len,
            )


@dataclasses.dataclass
class RolloutBatch:
    """Packed answers with their advantages, (documents,).

    Attributes:
        answers: of the whole rollout, those that teach nothing and are not in `rows` included.
    """

    rows: Batch
    advantages: torch.Tensor
    answers: int

    @property
    def ids(self) -> torch.Tensor:
        """Of the packed rows."""
        return self.rows.ids

    @property
    def documents(self) -> list[int]:
        """Prompt indices of the answers."""
        return self.rows.documents

    def split(self) -> list[RolloutBatch]:
        """Two halves of the rows whose `answers` add up to this one's; itself when there is one row."""
        parts, first, count = [], 0, len(self.documents)
        for rows in self.rows.split():
            end = first + len(rows.documents)
            answers = self.answers * end // count - self.answers * first // count
            parts.append(RolloutBatch(rows, self.advantages[first:end], answers))
            first = end
        return parts if len(parts) > 1 else [self]

    def to(self, device: torch.device) -> RolloutBatch:
        """On a device."""
        return dataclasses.replace(
            self, rows=self.rows.to(device), advantages=to_device_async(self.advantages, device)
        )


class RolloutSource(BatchSource):
    """Answers of the model as it is now, judged by the reward function: a pure function of step, seed and
    weights."""

    generates = True  # so the loop brings sharded weights together

    def __init__(
        self,
        records: Sequence[Mapping[str, Any]],
        reward: Reward | RewardSum | RewardFunction,
        tokenizer: Tokenizer,
        config: GRPOConfig,
        seed: int,
        progress: Progress | None = None,
    ):
        self.reward = reward if isinstance(reward, (Reward, RewardSum)) else FunctionReward(function=reward)
        self.tokenizer, self.config, self.seed = tokenizer, config, seed
        self.progress = progress or Progress()
        self.records = judgeable(records, self.reward, self.progress)
        self.records, self.prompts = fitting(self.records, tokenizer, config, self.progress)
        self.at_once = config.prompts * config.group_size  # answers written side by side
        # whole: what the reward reads besides the messages counts as well
        self._metrics: dict[str, float] = {}
        self._digest = hash_json([dict(record) for record in self.records])

    def identity(self) -> dict[str, Any]:
        """The prompts, their order and the rollout's shape."""
        return {
            "prompts": self._digest,
            "prompts_per_step": self.config.prompts,
            "group_size": self.config.group_size,
            "seed": self.seed,
        }

    def micro_batches(self, step: int, model: nn.Module, shard: DataShard = FULL) -> list[RolloutBatch]:
        """Generate, judge, and pack the answers of the groups that disagree among themselves: those of the
        shard's prompts.

        Where none does, the batch is empty.
        """
        config = self.config
        chosen, repeated, completions = self._answers(step, model, shard)
        texts = [self.tokenizer.decode(completion.ids) for completion in completions]
        opened = config.thinking is True
        samples = [
            Sample(
                self.records[chosen[i // config.group_size]], repeated[i], completions[i].ids, text, opened
            )
            for i, text in enumerate(texts)
        ]
        rewards = torch.tensor(self.reward.score(samples))
        groups = rewards.view(len(chosen), config.group_size)
        # By comparison: the mean of equal rewards need not be their value (0.1 eight times), and what is
        # left would be an advantage.
        disagree = groups.amax(1, keepdim=True) > groups.amin(1, keepdim=True)
        advantages = torch.where(disagree, groups - groups.mean(1, keepdim=True), 0.0).flatten()
        # without KL, others teach nothing
        useful = [i for i in range(len(repeated)) if config.kl_coef or float(advantages[i]) != 0.0]
        self._metrics = {
            "reward": float(rewards.mean()) * len(repeated),
            "reward_count": float(len(repeated)),
            "answer_length": float(sum(len(completion.ids) for completion in completions)),
            "answer_length_count": float(len(repeated)),
        }
        if not useful:
            return [RolloutBatch(Batch.empty(config.seq_len), torch.zeros(0), len(repeated))]
        sequences = [
            (
                list(repeated[i]) + list(completions[i].ids),
                [0] * len(repeated[i]) + [1] * len(completions[i].ids),
            )
            for i in useful
        ]
        rows = pack_sequences(sequences, config.seq_len, useful)
        ordered = advantages[rows.documents]
        rows.documents = [chosen[i // config.group_size] for i in rows.documents]
        return [RolloutBatch(rows, ordered, len(repeated))]

    def _answers(
        self, step: int, model: nn.Module, shard: DataShard
    ) -> tuple[list[int], list[list[int]], list[Completion]]:
        """The shard's records of a step; their prompts, each as often as it is answered; and the answers."""
        config, count = self.config, len(self.records)
        own = shard.slice(config.prompts)
        places = [step * config.prompts + index for index in own]
        chosen = [int(permutation(count, self.seed, at // count)[at % count]) for at in places]
        repeated = [self.prompts[index] for index in chosen for _ in range(config.group_size)]
        model.eval()
        # each answer has a stream of its own, by its place in the whole step
        seed = self.seed * 1_000_003 + step
        streams = [derive_seed(seed, own.start * config.group_size + i) for i in range(len(repeated))]
        sampling = [
            SamplingParams(temperature=config.temperature, max_new_tokens=config.max_new_tokens, seed=stream)
            for stream in streams
        ]
        completions = self._generate(cast(CausalLM, model), repeated, sampling)
        model.train()
        return chosen, repeated, completions

    def metrics(self) -> dict[str, float]:
        """`reward` and `answer_length` of the rollout made last, all its answers counted."""
        return self._metrics

    def _generate(
        self, model: CausalLM, prompts: list[list[int]], sampling: list[SamplingParams]
    ) -> list[Completion]:
        """An answer to each prompt. When memory runs out, all of them again with half as many at a time:
        each has a stream of its own."""
        while True:
            try:
                engine = Engine(
                    model, [self.tokenizer.im_end_id, self.tokenizer.eos_id], max_batch=self.at_once
                )
                return engine.generate(prompts, sampling)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                message = str(error).splitlines()[0]
            release_memory(model.device)
            if self.at_once == 1:
                raise out_of_memory_error(message)
            self.at_once = -(-self.at_once // 2)
            self.progress.warn(
                "out of memory while answers were written; from here on {at_once} at a time, drawn from "
                "the same random streams",
                at_once=self.at_once,
            )


def judgeable(
    records: Sequence[Mapping[str, Any]], reward: Reward | RewardSum, progress: Progress
) -> list[Mapping[str, Any]]:
    """The records that the reward can judge; the others are counted and one of them is shown, before
    anything is computed.

    Raises:
        HanlinError: none is left.
    """
    judges = reward.can_judge
    kept = [record for record in records if judges(record)]
    if len(kept) < len(records):
        example = next(record for record in records if not judges(record))
        shown = f"{str(example.get('answer'))[:40]!r} ({_beginning(example)})"
        if not kept:
            raise HanlinError(
                "Not one `answer` of {count} problems is a number, so none can be checked, for example "
                "{shown}. Write answers as one number (12, -3.5, 15/2, 12%, 1,200), without units or words.",
                count=len(records),
                shown=shown,
            )
        progress.warn(
            "left out {count} of {records_count} problems: their `answer` is no number and cannot be "
            "checked, for example {shown}",
            count=len(records) - len(kept),
            records_count=len(records),
            shown=shown,
        )
    return kept


def fitting(
    records: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, config: GRPOConfig, progress: Progress
) -> tuple[list[Mapping[str, Any]], list[list[int]]]:
    """The records whose prompt leaves room for an answer, and their prompts; the others are counted and one
    of them is shown.

    Raises:
        HanlinError: none is left.
    """
    room = config.seq_len - config.max_new_tokens
    prompts = [
        tokenizer.encode_conversation(
            prompt_of(record), add_generation_prompt=True, thinking=config.thinking, tools=record.get("tools")
        )[0]
        for record in records
    ]
    fit = [len(prompt) <= room for prompt in prompts]
    if not all(fit):
        longest = max(range(len(prompts)), key=lambda index: len(prompts[index]))
        shown = _beginning(records[longest])
        why = Text(
            "a prompt of more than seq_len - max_new_tokens = {room} tokens; the longest has {longest} "
            "({shown}). Raise seq_len, or lower max_new_tokens.",
            room=room,
            longest=len(prompts[longest]),
            shown=shown,
        )
        if not any(fit):
            raise HanlinError("None of {count} problems fits: {why}", count=len(records), why=why)
        progress.warn(
            "left out {left_out} of {count} problems: {why}",
            left_out=fit.count(False),
            count=len(records),
            why=why,
        )
    kept = [index for index, fits in enumerate(fit) if fits]
    return [records[index] for index in kept], [prompts[index] for index in kept]


def _beginning(record: Mapping[str, Any]) -> str:
    """The first words of a problem."""
    text = next(
        (str(message.get("content")) for message in record["messages"] if message["role"] == "user"), ""
    )
    return text if len(text) <= 30 else text[:30] + "…"


class GRPOLoss(Objective):
    """The objective."""

    def __init__(self, config: GRPOConfig, reference: CausalLM | None):
        self.config, self.reference = config, reference

    def num_items(self, batch: RolloutBatch) -> float:
        """The constant P·G·L_max."""
        return float(batch.answers * self.config.max_new_tokens)

    def __call__(
        self, model: Any, batch: RolloutBatch
    ) -> tuple[torch.Tensor, Mapping[str, float | torch.Tensor]]:
        """Summed loss over the answers' tokens."""
        rows = batch.rows
        context = model.context(rows.ids, **rows.attention_kwargs)
        now = self._log_probs(model, rows, context)
        loss = -(batch.advantages[rows.gather_loss_tokens(rows.doc_ids)] * now).sum()
        metrics: dict[str, float | torch.Tensor] = {}
        if self.reference is not None:
            with torch.no_grad():
                before = self._log_probs(self.reference, rows)
            difference = before - now
            k3 = (difference.exp() - difference - 1).sum()  # Schulman 2020
            loss = loss + self.config.kl_coef * k3
            metrics |= {"kl": k3.detach(), "kl_count": float(rows.num_loss_tokens)}
        return context.with_aux(loss, metrics, self.num_items(batch))

    def per_sequence_loss(self, model: Any, batch: RolloutBatch) -> torch.Tensor:
        """-advantage · mean log π of each answer, (documents,)."""
        sums, lengths = sum_by_document(self._log_probs(model, batch.rows), batch.rows)
        return -batch.advantages * sums / lengths.clamp(min=1)

    def _log_probs(self, policy: Any, rows: Batch, context: ForwardContext | None = None) -> torch.Tensor:
        """log π of the answers' tokens, (loss tokens,)."""
        context = context or policy.context(rows.ids, **rows.attention_kwargs)
        hidden = rows.gather_loss_tokens(policy.hidden(rows.ids, context))
        return policy.head.token_log_probs(
            hidden, rows.gather_loss_tokens(rows.labels), self.config.temperature
        )


def grpo(
    parent: Path | str,
    records: Sequence[Mapping[str, Any]],
    reward: Reward | RewardSum | RewardFunction,
    config: GRPOConfig,
    job: Job,
) -> TrainResult:
    """Let a model improve by trying, and publish it.

    Args:
        records: conversations whose last user turn is the prompt; whatever else they hold goes to `reward`.
            Those that it cannot judge, or whose prompt leaves no room for an answer, are left out, with a
            warning, before anything is computed.
        reward: judges one answer's text (special tokens included).

    Raises:
        HanlinError: no record is left.
    """
    model, tokenizer = job.load(parent, config.seq_len)
    reference = copy.deepcopy(model).requires_grad_(False) if config.kl_coef else None
    source = RolloutSource(records, reward, tokenizer, config, job.seed, job.progress)
    parents = {"model": content_hash(parent), "prompts": config_hash(source.identity())}
    result = job.train(model, source, GRPOLoss(config, reference), config, origin=parents)
    if result.idle:
        job.progress.note(
            "in {idle} steps the answers to each problem all earned the same; these steps changed no weight",
            idle=result.idle,
        )
    figures = {
        "reward": result.last.get("reward"),
        "problems": len(source.records),
        "left_out": len(records) - len(source.records),
        "idle": result.idle,
    }
    return job.publish(model, tokenizer, result, config, parents, **figures)
