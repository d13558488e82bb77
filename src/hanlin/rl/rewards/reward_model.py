"""The score of a reward model as a reward, in the unit in which its scores spread.

Scores of a reward model have no unit of their own: the Bradley-Terry likelihood knows their differences
alone. So the directory of a reward model says how its scores of known answers lie (`calibration.json`), and
(r - μ) / σ means the same of every one of them; β and weights of other rewards with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from hanlin.common.atomic import read_json, write_json
from hanlin.common.config import OutOfRange, Range, above, at_least
from hanlin.common.devices import resolve_device
from hanlin.common.errors import HanlinError
from hanlin.dataset import Batch, pack_sequences
from hanlin.model import ForwardContext, RewardModel, load_reward_model
from hanlin.rl.rewards.base import Reward, Sample, register_reward
from hanlin.tokenizer import Tokenizer
from hanlin.tokenizer.foreign import open_any

CALIBRATION = "calibration.json"


def scores(model: Any, batch: Batch, context: ForwardContext | None = None) -> torch.Tensor:
    """Score of each document of a batch, read at its last token, (documents,)."""
    context = context or model.context(batch.ids, **batch.attention_kwargs)
    values = model(batch.ids, context).flatten()
    owner = batch.doc_ids.flatten()
    place = torch.arange(len(owner), device=owner.device)
    last = torch.zeros(len(batch.documents), dtype=torch.int64, device=owner.device)
    last.scatter_reduce_(0, owner[owner >= 0], place[owner >= 0], "amax")
    return values[last]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How a reward model's scores of known answers lie.

    Attributes:
        mean, sd: of the scores.
        mean_tokens: of the answers.
        per_token: slope of the least-squares line of score over the answer's tokens.
        answers: their number.
    """

    mean: float
    sd: float
    mean_tokens: float
    per_token: float
    answers: int

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray, tokens: Sequence[int] | np.ndarray) -> Calibration:
        """From scores of answers and the tokens of each.

        Raises:
            HanlinError: the scores do not differ, so they have no unit; or are not finite.
        """
        known, sizes = np.asarray(values, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
        sd = float(known.std(ddof=1)) if len(known) > 1 else 0.0
        if not np.isfinite(known).all() or sd <= 1e-8 * max(1.0, float(np.abs(known).max(initial=0.0))):
            raise HanlinError(
                "The reward model gives {count} answers scores that do not differ, or are not finite: it has "
                "learnt nothing. Train it longer, with another learning rate, or on other pairs.",
                count=len(known),
            )
        spread = float(sizes.var())
        slope = float(np.cov(sizes, known, bias=True)[0, 1]) / spread if spread > 0 else 0.0
        return cls(float(known.mean()), sd, float(sizes.mean()), slope, len(known))

    def save(self, folder: Path) -> None:
        """Write it into a reward model's directory."""
        write_json(folder / CALIBRATION, dataclasses.asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Calibration | None:
        """Of a reward model's directory; None of one that says nothing.

        Raises:
            HanlinError: the file is damaged.
        """
        file = folder / CALIBRATION
        if not file.is_file():
            return None
        found = read_json(file)
        try:
            return cls(**found)
        except TypeError:
            raise HanlinError(
                "{file} is damaged: it should hold mean, sd, mean_tokens, per_token and answers. Train the "
                "reward model again, or remove the file and use its raw scores.",
                file=file,
            ) from None


@register_reward
@dataclasses.dataclass(frozen=True)
class ModelReward(Reward):
    """The score that a reward model gives an answer; `from` names the stage that trained it.

    Attributes:
        calibrated: (r - μ) / σ of the model's `calibration.json`; raw scores where it has none.
        clip: calibrated scores stay within ± this: what lies far outside the known answers is not to be
            trusted, and RL looks for it (Gao et al. 2022).
        without_length: take off what the answer's length alone explains, k · (tokens - mean), before that.
        scale: scores are divided by it at last.
    """

    kind: str = "model"
    source: str = dataclasses.field(default="", metadata={"key": "from"})
    calibrated: bool = True
    clip: float = 4.0
    without_length: bool = False
    scale: float = 1.0
    rows: int = 16

    RANGES: ClassVar[dict[str, Range]] = {"scale": above(0), "clip": above(0), "rows": at_least(1)}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.source:
            raise OutOfRange("from is empty: a reward of kind model names the stage that trains it")
        if self.without_length and not self.calibrated:
            raise OutOfRange("without_length needs calibrated: the slope stands in calibration.json")

    def needs(self) -> str:
        """The stage that trains it."""
        return self.source

    def load(self, models: Callable[[str], Path], device: str | None) -> None:
        """Open the reward model.

        Raises:
            HanlinError: `without_length`, and it has no `calibration.json`.
        """
        folder = models(self.source)
        model = load_reward_model(folder)
        calibration = Calibration.read(folder) if self.calibrated else None
        if self.without_length and calibration is None:
            raise HanlinError(
                "{folder} has no {file}, so what length explains of its scores is not known. Train it again, "
                "or leave without_length out.",
                folder=folder,
                file=CALIBRATION,
            )
        object.__setattr__(self, "_model", model.to(resolve_device(device)).eval())
        object.__setattr__(self, "_closing", closing(open_any(folder)))
        object.__setattr__(self, "_calibration", calibration)

    def score(self, samples: Sequence[Sample]) -> list[float]:
        """Score of each answer, read where the model was trained to be read: behind what the template puts
        after an answer that ended. Ids go in as they were written."""
        end, behind = self._closing  # type: ignore[attr-defined]
        pairs = [
            (sample.prompt, [*sample.ids, *behind] if list(sample.ids[-1:]) == [end] else sample.ids)
            for sample in samples
        ]
        values = score_answers(self._model, pairs, self.rows)  # type: ignore[attr-defined]
        calibration: Calibration | None = self._calibration  # type: ignore[attr-defined]
        if calibration is not None:
            if self.without_length:
                tokens = np.array([len(sample.ids) for sample in samples])
                values = values - calibration.per_token * (tokens - calibration.mean_tokens)
            values = np.clip((values - calibration.mean) / calibration.sd, -self.clip, self.clip)
        return (values / self.scale).tolist()


def closing(tokenizer: Tokenizer) -> tuple[int, list[int]]:
    """The token that ends an answer, and those that the template puts behind it: with them a conversation
    ends as it does in training."""
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "a"}]
    ids = list(tokenizer.encode_conversation(talk)[0])
    end = tokenizer.im_end_id
    return end, ids[len(ids) - ids[::-1].index(end) :] if end in ids else []


@torch.no_grad()
def score_answers(
    model: RewardModel, answers: Sequence[tuple[Sequence[int], Sequence[int]]], rows: int = 16
) -> np.ndarray:
    """Raw score of each answer, (answers,) float64.

    Args:
        answers: tokens of the prompt and of the answer, its end token among them.
        rows: answers in one pass.
    """
    found = []
    for start in range(0, len(answers), rows):
        part = answers[start : start + rows]
        sequences = [([*prompt, *ids], [0] * len(prompt) + [1] * len(ids)) for prompt, ids in part]
        longest = max(len(ids) for ids, _ in sequences)
        batch = pack_sequences(sequences, longest, list(range(len(part))))
        values = scores(model, batch.to(model.score.weight.device)).double().cpu().numpy()
        found.append(values[np.argsort(batch.documents)])
    return np.concatenate(found) if found else np.empty(0)
