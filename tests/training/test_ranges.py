"""Impossible settings are refused before anything runs, whichever field they are in."""

from __future__ import annotations

import dataclasses
import math
import random
import typing

import pytest

from hanlin.common.config import OutOfRange, Range, build, ranges_of
from hanlin.common.errors import HanlinError
from hanlin.model import ModelShape
from hanlin.recipe.recipe import TokenizerConfig
from hanlin.stages.grpo import GRPOConfig
from hanlin.stages.pairs import PairConfig
from hanlin.stages.preference.stage import PreferenceConfig
from hanlin.stages.reward_model import RewardConfig
from hanlin.stages.stage import STAGES
from hanlin.stages.supervised import SupervisedConfig
from hanlin.training import TrainConfig

CONFIGS = [
    TokenizerConfig,
    ModelShape,
    TrainConfig,
    SupervisedConfig,
    PairConfig,
    PreferenceConfig,
    RewardConfig,
    GRPOConfig,
    *(STAGES.get(kind).Config for kind in STAGES),
]


def numbers(cls) -> dict[str, type]:
    """Numeric fields and their types."""
    found = {}
    for name, hint in typing.get_type_hints(cls).items():
        kinds = {hint, *(() if typing.get_origin(hint) is dict else typing.get_args(hint))}
        if name in {field.name for field in dataclasses.fields(cls)} and kinds & {int, float}:
            found[name] = float if float in kinds else int
    return found


def required(cls) -> dict:
    """Arguments that have no default."""
    given = {"dataset": "d", "tokenizer": "t", "model": "m", "files": ("f",)}
    return {
        field.name: given[field.name]
        for field in dataclasses.fields(cls)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }


FIELDS = [(cls, name, kind) for cls in CONFIGS for name, kind in numbers(cls).items()]


@pytest.mark.parametrize("cls,name,kind", FIELDS, ids=[f"{cls.__name__}.{name}" for cls, name, _ in FIELDS])
def test_every_number_has_a_range_and_refuses_what_lies_outside(cls, name, kind):
    allowed = ranges_of(cls)[name]
    assert allowed != Range(), "no bound at all"
    outside = [math.nan, math.inf, -math.inf] if kind is float else []
    rng = random.Random(name)
    for bound, sign in ((allowed.low, -1), (allowed.high, 1)):
        if math.isfinite(bound):
            outside += [bound + sign, bound + sign * rng.randrange(1, 10**6)]
    outside += [allowed.low] if allowed.open_low else []
    outside += [allowed.high] if allowed.open_high else []
    for value in outside:
        with pytest.raises(OutOfRange) as caught:
            cls(**required(cls), **{name: value})
        assert f"{name} is {value}" in caught.value.en and f"{name} 是 {value}" in caught.value.zh


@pytest.mark.parametrize("cls", CONFIGS)
def test_defaults_and_what_the_bounds_include_are_accepted(cls):
    cls(**required(cls))
    for name, allowed in ranges_of(TrainConfig).items():
        if (
            math.isfinite(allowed.low)
            and not allowed.open_low
            and name not in ("warmup_ratio", "decay_ratio")
        ):
            TrainConfig(**{name: allowed.low})


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": 0},
        {"kl_coef": -5},
        {"train": {"max_grad_norm": -1}},
        {"train": {"max_grad_norm": 0}},
        {"train": {"spike_sigma": math.nan}},
        {"train": {"weight_decay": math.nan}},
        {"train": {"beta2": 1.5}},
        {"train": {"embedding_scale": 0}},
        {"train": {"warmup_ratio": math.nan}},
        {"max_new_tokens": 256},
        {"prompts": 0},
    ],
)
def test_a_file_says_where_the_impossible_value_stands(values):
    with pytest.raises(HanlinError) as caught:
        build(GRPOConfig, values, "grpo.yaml")
    ((name, value),) = values.items()
    path = name if not isinstance(value, dict) else f"train.{next(iter(value))}"
    assert f"{path} is " in caught.value.en and f"{path} 是 " in caught.value.zh
    assert caught.value.en.startswith("grpo.yaml: ") and caught.value.zh.startswith("grpo.yaml：")


def test_ranges_of_a_derived_section_are_those_of_its_bases():
    @dataclasses.dataclass(frozen=True)
    class Section(SupervisedConfig):
        share: float = 0.5

    with pytest.raises(OutOfRange, match="seq_len"):
        Section(seq_len=1)
    with pytest.raises(OutOfRange, match="share"):  # every number has to be finite, bounds or none
        Section(share=math.nan)


@pytest.mark.parametrize(
    "old, new",
    [
        ("clip", "max_grad_norm"),
        ("floor", "min_lr_ratio"),
        ("warmup", "warmup_ratio"),
        ("decay", "decay_ratio"),
        ("anchor_steps", "permanent_checkpoint_interval"),
    ],
)
def test_a_key_of_before_is_refused_with_its_new_name(old, new):
    with pytest.raises(HanlinError) as caught:
        build(GRPOConfig, {"train": {old: 0.5}}, "grpo.yaml")
    assert f"unknown key train.{old}. train.{old} is now train.{new}." in caught.value.en
    assert f"train.{old} 现在叫 train.{new}。" in caught.value.zh
