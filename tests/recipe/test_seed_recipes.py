"""The recipes that ship with the package: each can be planned, made small and run, and says truly how it is
run.

By night every one of the seeds' recipes is run from end to end in small, on real text.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from hanlin.common.progress import Progress
from hanlin.corpus.download.catalogue import find
from hanlin.corpus.readers.read import read_conversations, read_preferences
from hanlin.model import CausalLM, load_model
from hanlin.pipeline import load_recipe, recipe_names, run_recipe
from hanlin.planning.plan import plan_recipe, plan_text
from hanlin.recipe.recipe import RECIPES, Recipe
from tests.pipeline.test_own_files import own_files
from tests.support import shared

# What each seed is: stages in order, tokens in a step of pretraining, positions.
SEEDS = {
    "rain-100m": (["pretrain", "sft", "reward_model", "rl", "sft"], 131072, 2048),
    "nanozhgpt-10m": (["pretrain"], 32 * 1024, 1024),
    "nanozhgpt-100m": (["pretrain"], 32 * 1024, 1024),
    "nanozhgpt-100m-v2": (["pretrain"], 32 * 2048, 2048),
    "nanozhgpt-300m": (["pretrain"], 65536, 2048),
    "tinystories-zh": (["pretrain", "sft", "preference"], 512 * 512, 512),
    "llm-zhe-100m": (["pretrain", "sft", "reward_model", "rl"], 32 * 1024, 1024),
    "xiaoxin": (["pretrain", "sft", "sft", "sft"], 2 * 84 * 512, 1024),
}


def parameters(recipe: Recipe) -> int:
    return recipe.model.config(recipe.tokenizer.vocab_size, 0).parameters()


# ---------------------------------------------------------------- what is said


def test_every_seed_has_its_recipe():
    assert set(SEEDS) <= set(recipe_names())


@pytest.mark.parametrize("name", SEEDS)
def test_a_seed_keeps_its_stages_its_step_and_its_positions(name):
    recipe = load_recipe(name)
    kinds, tokens, positions = SEEDS[name]
    assert [stage.kind for stage in recipe.stages] == kinds
    assert recipe.pretrain.batch_tokens == tokens
    assert recipe.model.max_position_embeddings == positions


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_named_by_its_size_has_it(name):
    size = re.search(r"-(\d+)m\b", name)
    if size:
        assert abs(parameters(load_recipe(name)) / 1e6 / int(size[1]) - 1) < 0.25


@pytest.mark.parametrize("name", recipe_names())
def test_its_model_can_exist_and_it_is_described_in_both_languages(name):
    recipe = load_recipe(name)
    with torch.device("meta"):
        model = CausalLM(recipe.model.config(recipe.tokenizer.vocab_size, 0))
    assert sum(p.numel() for p in model.parameters()) == parameters(recipe)
    assert set(recipe.description) == {"zh", "en"} and recipe.export
    assert recipe.steps()[:3] == ["corpus", "tokenizer", "dataset"]


def commands(name: str) -> Iterator[list[str]]:
    """Commands in the comments of a recipe, as a shell cuts them."""
    for line in (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        if found := re.match(r"#\s+(hanlin .+)", line):
            yield shlex.split(re.split(r"\s{3,}", found[1])[0])


@pytest.mark.parametrize("name", SEEDS)
def test_the_commands_in_its_comments_are_true(name, monkeypatch, tmp_path):
    from hanlin.cli.main import app

    found = list(commands(name))
    assert ["hanlin", "run", name] in [command[:3] for command in found]
    for command in found:
        _, bound, _ = app.parse_args(command[1:], print_error=False, exit_on_error=False)
        if command[1] == "run":
            load_recipe(command[2], [word for word in bound.args[1:] if "=" in word])
        if command[1:3] == ["data", "fetch"]:
            find(command[3])


@pytest.mark.parametrize("name", SEEDS)
def test_what_its_comments_fetch_is_what_it_reads(name):
    recipe = load_recipe(name)
    patterns = [*recipe.corpus.patterns(), *(p for s in recipe.stages if s.data for p in s.data.patterns())]
    fetched = {command[3] for command in commands(name) if command[1:3] == ["data", "fetch"]}
    read = {pattern.split("/")[1] for pattern in patterns if pattern.startswith("data/")}
    assert fetched <= read
    assert all(pattern.startswith("data/") for pattern in patterns)


# ---------------------------------------------------------------- what it takes


@pytest.mark.parametrize("name", recipe_names())
def test_what_it_takes_is_planned_for_a_card(name):
    recipe = load_recipe(name)
    plan = plan_recipe(recipe, "rtx3090" if name == "tinystories-zh" else "rtx4090")
    assert [stage.name for stage in plan.stages] == [stage.id for stage in recipe.stages]
    assert plan.parameters == parameters(recipe)
    for stage in plan.stages:
        assert stage.seconds is not None or stage.why
        assert stage.peak is None or stage.peak < 24 * 2**30
    assert all(stage.name in plan_text(plan) for stage in plan.stages)


@pytest.mark.parametrize("name", recipe_names())
@pytest.mark.parametrize("factor", [0.01, 0.1])
def test_in_small_it_has_its_share_of_the_parameters(name, factor):
    whole, small = load_recipe(name), load_recipe(name, scale=factor)
    assert 0.7 < parameters(small) / (factor * parameters(whole)) < 1.5
    with torch.device("meta"):
        CausalLM(small.model.config(small.tokenizer.vocab_size, 0))
    for stage, full in zip(small.stages, whole.stages, strict=True):
        assert stage.seq_len == full.seq_len
        assert stage.train.learning_rate == full.train.learning_rate
        if not stage.equal_time:
            assert stage.train.steps == max(2, round(factor * full.train.steps))
        if stage.kind in ("pretrain", "sft"):
            assert stage.batch_tokens <= max(2 * stage.seq_len, full.batch_tokens * factor + stage.seq_len)
    assert load_recipe(name, scale=1.0) == whole


# ---------------------------------------------------------------- from end to end


def require_finished(recipe: Recipe, out: Path, report: Mapping[str, Any]) -> dict[str, Any]:
    """What every finished run shows; returns the figures of each step."""
    entries = {entry["id"]: entry for entry in report["stages"]}
    assert list(entries) == recipe.steps()
    for stage in recipe.stages:
        entry = entries[stage.id]
        curve = [json.loads(line) for line in (out / "curves" / f"{stage.id}.jsonl").open()]
        assert len(curve) == stage.train.steps or stage.equal_time, stage.id
        assert entry["target"] in entry["metrics"] or stage.kind == "pretrain", stage.id
    losses = [json.loads(line)["loss"] for line in (out / "curves" / "pretrain.jsonl").open()]
    assert losses[-1] < losses[0]  # nats a token: bits per byte depend on the text of a step
    bits = entries["evaluation"]["metrics"]["bits_per_byte"]
    assert bits["n"] > 0 and bits["value"] > 0
    for export in recipe.export:
        assert (out / export.name()).stat().st_size > 1000
    assert sum(p.numel() for p in load_model(out / "model").parameters()) == parameters_of(out)
    return {name: entry["metrics"] for name, entry in entries.items()}


def parameters_of(out: Path) -> int:
    return json.loads((out / "report.json").read_text())["about"]["parameters"]


SMALL = [
    "evaluation.count=20",
    "evaluation.max_new_tokens=8",
    "corpus.preset=none",
    "corpus.heldout_fraction=0.1",
]


def test_a_life_with_every_kind_of_stage_runs_in_small(tmp_path):
    files = own_files(tmp_path / "files").parent
    overrides = [
        f"corpus.files=[{files}/text.jsonl]",
        f"sft.data.files=[{files}/chats.jsonl]",
        f"reward.data.files=[{files}/pairs.jsonl]",
        f"grpo.data.files=[{files}/problems.jsonl]",
        f"equal-time-sft.data.files=[{files}/chats.jsonl]",
        "pretrain.train.steps=20",
        "sft.train.steps=6",
        "grpo.train.steps=1",
        *SMALL,
    ]
    recipe = load_recipe("rain-100m", overrides, scale=0.01)
    metrics = require_finished(recipe, tmp_path / "run", run_recipe(recipe, tmp_path / "run", Progress()))
    assert metrics["grpo"]["reward_mean/grpo"]["n"] > 0
    assert metrics["equal-time-sft"]["reward_mean/grpo"]["n"] == metrics["grpo"]["reward_mean/grpo"]["n"]


def test_a_life_of_pretraining_alone_runs_in_small(tmp_path):
    files = own_files(tmp_path / "files").parent
    overrides = [f"corpus.files=[{files}/text.jsonl]", "pretrain.train.steps=20", *SMALL]
    recipe = load_recipe("nanozhgpt-10m", overrides, scale=0.01)
    require_finished(recipe, tmp_path / "run", run_recipe(recipe, tmp_path / "run", Progress()))


# ---------------------------------------------------------------- by night, on real text

NIGHTLY = ["corpus.heldout_fraction=0.02", "corpus.heldout_max=40", "corpus.max_documents=3000"]
TEXT = {
    "rain-100m": ["pretrain_zh/web_encyclopedia.jsonl.zst"],
    "tinystories-zh": ["fixtures/TinyStoriesChinese_data00.41.jsonl", "stories_zh.jsonl.zst"],
    "llm-zhe-100m": [
        "fixtures/c4-train.00000-of-01024.30.json.gz",
        "fixtures/wikipedia-cn-20230720-filtered_sample.json",
        "pretrain_zh/code_python.jsonl.zst",
    ],
    "xiaoxin": ["fixtures/minimind_pretrain_hq_layout.30.jsonl", "pretrain_zh/weekly_essays.jsonl.zst"],
}
C4 = ["fixtures/c4-train.00000-of-01024.30.json.gz", "pretrain_zh/web_encyclopedia.jsonl.zst"]
# Steps of pretraining where a hundredth of them would take minutes.
STEPS = {
    "rain-100m": ["pretrain.train.steps=60"],
    "nanozhgpt-100m": ["pretrain.train.steps=60"],
    "nanozhgpt-100m-v2": ["pretrain.train.steps=40"],
    "nanozhgpt-300m": ["pretrain.train.steps=15"],
    "llm-zhe-100m": ["pretrain.train.steps=60"],
}


def first(records: Iterable[Any], count: int, every: int = 1) -> list[Any]:
    return list(itertools.islice(records, 0, count * every, every))


@pytest.fixture(scope="module")
def extracts(tmp_path_factory) -> dict[str, Path]:
    """A few hundred records of each kind of the real data, as a user's files."""
    folder = tmp_path_factory.mktemp("extracts")
    problems = [
        {
            "messages": [
                {"role": "user", "content": r["question"]},
                {"role": "assistant", "content": r["answer"]},
            ]
        }
        | {"answer": r["answer"]}
        for r in first(_lines(shared("data/math_zh.jsonl.zst")), 400)
    ]
    kinds = {
        "chats": first(read_conversations([shared("data/sft_zh.jsonl.zst")]), 1500, 50),
        "pairs": first(read_preferences([shared("data/preference_zh.jsonl.zst")]), 400),
        "thoughts": first(read_conversations([shared("data/reasoning_zh.jsonl.zst")]), 600),
        "problems": problems,
    }
    files = {}
    for name, records in kinds.items():
        files[name] = folder / f"{name}.jsonl"
        files[name].write_text(
            "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8"
        )
    return files


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    import zstandard

    with zstandard.open(path, "rt", encoding="utf-8") as stream:
        yield from map(json.loads, stream)


def _data_of(recipe: Recipe, files: Mapping[str, Path]) -> list[str]:
    kinds = {"messages": "chats", "preferences": "pairs", "problems": "problems"}
    return [
        f"{stage.id}.data.files=[{files['thoughts' if stage.id == 'think' else kinds[stage.stage.schema]]}]"
        for stage in recipe.stages
        if stage.stage.schema
    ]


@pytest.mark.nightly
@pytest.mark.parametrize("name", SEEDS)
def test_a_seed_lives_a_hundredth_of_its_life_on_real_text(name, extracts, tmp_path):
    text = [str(shared(f"data/{file}")) for file in TEXT.get(name, C4)]
    overrides = [f"corpus.files=[{','.join(text)}]", *_data_of(load_recipe(name), extracts), *NIGHTLY]
    recipe = load_recipe(name, [*overrides, *STEPS.get(name, [])], scale=0.01)
    metrics = require_finished(recipe, tmp_path / "run", run_recipe(recipe, tmp_path / "run", Progress()))
    for stage in recipe.stages:
        assert all(metric["n"] > 0 for metric in metrics[stage.id].values()), stage.id
