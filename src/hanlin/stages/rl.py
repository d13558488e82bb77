"""Reinforcement learning as a stage of a recipe: problems, rewards, and an algorithm (`grpo`)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from hanlin.common.config import OutOfRange
from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text
from hanlin.evaluation import Metric
from hanlin.evaluation.item_scores import item_ids
from hanlin.inference import Engine, SamplingParams
from hanlin.model import CausalLM
from hanlin.rl.rewards.base import Reward, RewardSum, Sample
from hanlin.rl.rewards.numeric import NumericReward
from hanlin.stages.base import Job
from hanlin.stages.data.files import require_problems
from hanlin.stages.grpo import GRPOConfig, grpo
from hanlin.stages.stage import Stage, StageConfig, register_stage
from hanlin.tokenizer.chat import prompt_of
from hanlin.training import TrainResult


@dataclasses.dataclass(frozen=True)
class RLConfig(GRPOConfig, StageConfig):
    """Reinforcement learning.

    Attributes:
        rewards: what an answer is worth, added up.
    """

    algorithm: Literal["grpo"] = "grpo"
    rewards: tuple[Reward, ...] = (NumericReward(),)

    def __post_init__(self):
        super().__post_init__()
        if not self.rewards:
            raise OutOfRange("rewards is empty: without a reward there is nothing to learn")


@register_stage
class RLStage(Stage):
    """Reinforcement learning on problems."""

    kind = "rl"
    Config = RLConfig
    schema = "problems"
    title = Text("Reinforcement learning")
    does = Text(
        "The model tries each problem several times and what earned the reward is reinforced (GRPO); "
        "nobody shows it how."
    )

    def problems(self, heldout: bool = False) -> list[Any]:
        """Records that every reward can judge.

        Raises:
            HanlinError: the data have no checkable answer, where a reward needs one.
        """
        source, scope = self.config.data, self.inputs.scope
        records = list(source.heldout(scope) if heldout else source.train(scope))
        if heldout:
            judge = RewardSum(self.config.rewards)
            return [record for record in records if judge.can_judge(record)]
        require_problems(records, scope.stage)
        return records

    def prepare(self) -> None:
        """Nothing is encoded beforehand; who gave files is told what becomes of them."""
        self.say_counts()

    def train(self, job: Job) -> TrainResult:
        """Let the parent try."""
        assert self.inputs.parent is not None
        reward = self._reward(job.device)
        return grpo(self.inputs.parent, self.problems(), reward, self.config, job)

    def heldout_metric(self, model: CausalLM, seed: int) -> Metric:
        """Mean reward of answers to held-out problems, sampled at the temperature of training.

        Rewards of 0 and 1 are a proportion; others have a bootstrap interval.
        """
        config: RLConfig = self.config
        records = self.problems(heldout=True)
        tokenizer = self.tokenizer()
        prompts = [
            tokenizer.encode_conversation(
                prompt_of(record),
                add_generation_prompt=True,
                thinking=config.thinking,
                tools=record.get("tools"),
            )[0]
            for record in records
        ]
        engine = Engine(model, tokenizer)
        most = self.inputs.scope.evaluation.max_new_tokens
        sampling = SamplingParams(max_new_tokens=most, temperature=config.temperature, seed=seed)
        samples = [
            Sample(record, prompt, answer.ids, tokenizer.decode(answer.ids), config.thinking is True)
            for record, prompt, answer in zip(
                records, prompts, engine.generate(prompts, sampling), strict=True
            )
        ]
        values = self._reward(str(model.device)).score(samples)
        ids = item_ids(records)
        if set(values) <= {0.0, 1.0}:
            return Metric.share(values, ids=ids)
        return Metric.mean(values, ids=ids)

    def data_facts(self) -> dict[str, Any]:
        """Nothing is encoded."""
        return {}

    @classmethod
    def work(cls, config: RLConfig) -> float:
        """A token that is generated is taken to cost as much as three trained on."""
        answers = config.train.steps * config.prompts * config.group_size
        return 3.0 * answers * config.max_new_tokens

    @classmethod
    def stages_named(cls, config: RLConfig) -> tuple[str, ...]:
        """Those whose models are rewards."""
        return tuple(name for reward in config.rewards if (name := reward.needs()))

    @classmethod
    def check_named(cls, config: RLConfig, other: StageConfig) -> None:
        """Only a reward model can be a reward."""
        if other.stage.produces != "reward_model":
            raise HanlinError(
                "A reward of {stage} is the model of {other}, which writes answers and scores none. Name a "
                "stage of kind reward_model.",
                stage=config.id,
                other=other.id,
            )

    def _reward(self, device: str | None) -> RewardSum:
        for reward in self.config.rewards:
            if reward.needs() and self.inputs.stage_model is None:
                raise HanlinError(
                    "The reward of {stage} is the model of a stage ({name}): it needs a recipe that has "
                    "both.",
                    stage=self.inputs.scope.stage,
                    name=reward.needs(),
                )
            reward.load(self.inputs.stage_model or Path, device)
        return RewardSum(self.config.rewards)
