"""A tiny base model with its data, and stages of every kind on it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from hanlin.model import CausalLM
from hanlin.model.low_rank import low_rank_maps
from hanlin.rl.rewards.base import Reward, Sample, register_reward
from hanlin.stages.base import write_model
from tests.support import tiny_model, tiny_tokenizer

TALKS = [
    {
        "messages": [
            {"role": "user", "content": f"{n}加1等于几？"},
            {"role": "assistant", "content": f"{n + 1}"},
        ],
        "answer": n + 1,
    }
    for n in range(24)
]
PAIRS = [
    {
        "prompt": f"小明{n}在学校吗？",
        "chosen": "小明在学校。" * (1 + n % 3),
        "rejected": "12345" * (1 + n % 2),
    }
    for n in range(12)
]
TRAIN = {"steps": 3, "learning_rate": 1e-2, "muon": False, "checkpoint_seconds": 0}
STAGES: dict[str, dict[str, Any]] = {
    "sft": {"seq_len": 64, "batch_tokens": 256, "micro_tokens": 256},
    "preference": {"seq_len": 64, "pairs": 4},
    "reward_model": {"seq_len": 64, "pairs": 4},
    "rl": {"seq_len": 64, "prompts": 2, "group_size": 3, "max_new_tokens": 6, "kl_coef": 0.1}
    | {"rewards": [{"kind": "remainder"}]},
}
IDS = torch.randint(0, 300, (2, 24), generator=torch.Generator().manual_seed(0))


@register_reward
@dataclasses.dataclass(frozen=True)
class RemainderReward(Reward):
    """Answers are worth something, whatever they say: a model this small is never right."""

    kind: str = "remainder"

    def score(self, samples: Sequence[Sample]) -> list[float]:
        """Of the sum of the ids."""
        return [float(sum(sample.ids) % 7) for sample in samples]


def make_base(folder: Path, family: str = "qwen3") -> Path:
    """`base` in a folder, with `talks.jsonl` and `pairs.jsonl` beside it."""
    tokenizer = tiny_tokenizer(folder / "tokenizer")
    model = tiny_model(family, tokenizer, hidden_size=32)
    write_model(folder / "base", model, tokenizer, parents={}, config=model.config, seed=0, metrics={})
    for name, records in (("talks", TALKS), ("pairs", PAIRS)):
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder / "base"


def write_stage(folder: Path, kind: str, adapter: dict[str, Any] | None, **changes: Any) -> Path:
    """The YAML of a stage, beginning from `base` unless told otherwise."""
    data = "pairs" if kind in ("preference", "reward_model") else "talks"
    section = {
        "from": str(folder / "base"),
        "data": {"files": [str(folder / f"{data}.jsonl")]},
        "train": TRAIN,
        **STAGES[kind],
        **changes,
    }
    if adapter is not None:
        section["adapter"] = adapter
    path = folder / f"{kind}.yaml"
    path.write_text(yaml.safe_dump(section, allow_unicode=True), encoding="utf-8")
    return path


def stir(model: CausalLM, seed: int = 0) -> CausalLM:
    """The model with additions that add something, and magnitudes away from where they begin."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, module in low_rank_maps(model):
            module.lora_B.copy_(torch.randn(module.lora_B.shape, generator=generator) * 0.05)
            magnitude = getattr(module, "magnitude", None)
            if magnitude is not None:
                magnitude.mul_(1 + 0.1 * torch.randn(magnitude.shape, generator=generator))
    return model
