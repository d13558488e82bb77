"""The recipe language: what is refused and why, overrides, sizing and the scale as patches, and recipes of
the shape before."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.common.config import flatten, to_dict
from hanlin.common.errors import HanlinError
from hanlin.pipeline.stage_command import load_stage_file
from hanlin.recipe import patch
from hanlin.recipe.recipe import RESERVED, Recipe, load_recipe, read_recipe
from hanlin.recipe.upgrade import is_old_recipe, is_old_stage_file, upgrade_file, upgraded
from hanlin.stages.stage import STAGES

PRETRAIN = {"kind": "pretrain", "seq_len": 128}
FILES = {"files": ["chats.jsonl"]}
SFT = {"kind": "sft", "data": FILES, "seq_len": 128}
PAIRS = {"files": ["pairs.jsonl"]}
JUDGE = {"id": "judge", "kind": "reward_model", "data": PAIRS}


@pytest.fixture(autouse=True)
def english(monkeypatch):
    monkeypatch.setenv("HANLIN_LANG", "en")


def write(folder: Path, *stages: Any, name: str = "mine", **sections: Any) -> Path:
    file = folder / f"{name}.yaml"
    values = {"corpus": {"files": ["text.jsonl"]}} | sections | {"stages": list(stages)}
    file.write_text(yaml.safe_dump(values, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return file


def refused(file: Path, overrides: tuple[str, ...] = (), **flags: Any) -> str:
    with pytest.raises(HanlinError) as caught:
        load_recipe(file, overrides, **flags)
    assert caught.value.zh != caught.value.en
    return caught.value.en


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ({"kind": "pretain"}, "no kind of stage 'pretain'. Did you mean pretrain? There are: distill, "),
        ({"kind": "alchemy"}, "no kind of stage 'alchemy'. There are: distill, "),
        ({"id": "one"}, "one: `kind` is missing. There are: distill, "),
        ({}, "a stage has neither `kind` nor `id`"),
        ("pretrain", "`stages` should be a list, each entry with a kind"),
        (
            SFT | {"data": {"kind": "tinywrld"}},
            "no kind of data 'tinywrld'. Did you mean tinyworld? There are: files",
        ),
        (
            {"kind": "rl", "data": FILES, "rewards": [{"kind": "numerc"}]},
            "rl.rewards[0]: there is no kind of reward 'numerc'. Did you mean numeric?",
        ),
        (SFT | {"adapter": {"kind": "alchemy"}}, "sft.adapter: there is no kind of adapter 'alchemy'"),
        (SFT | {"seqlen": 3}, "unknown key sft.seqlen. Did you mean sft.seq_len?"),
        (
            SFT | {"train": {"learning_rte": 3}},
            "unknown key sft.train.learning_rte. Did you mean sft.train.learning_rate?",
        ),
        (SFT | {"train": {"warmup": 0.1}}, "sft.train.warmup is now sft.train.warmup_ratio"),
        (SFT | {"group_size": 3}, "unknown key sft.group_size. Known keys: id, kind, from"),
        (SFT | {"seq_len": 1}, "sft.seq_len is 1, should be"),
        (SFT | {"seq_len": "long"}, "sft.seq_len should be an integer"),
    ],
)
def test_a_stage_that_is_none_is_refused_with_what_there_is(tmp_path, stage, said):
    assert said in refused(write(tmp_path, PRETRAIN, stage))


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ([SFT], "sft has no model to begin with: no stage before it makes one"),
        ([JUDGE, SFT], "judge has no model to begin with"),
        (
            [PRETRAIN, SFT | {"from": "later"}, SFT | {"id": "later"}],
            "sft begins from later, which comes after it",
        ),
        (
            [PRETRAIN, SFT | {"from": "sft"}],
            "sft begins from 'sft', which is neither a stage before it (pretrain)",
        ),
        ([PRETRAIN, SFT | {"from": "elsewhere"}], "nor a model's directory"),
        (
            [PRETRAIN, JUDGE, SFT | {"from": "judge"}],
            "sft cannot begin from judge: a reward model scores answers",
        ),
        ([PRETRAIN, SFT | {"role": "control"}], "sft is a control `of` '', which is not a stage before it"),
        ([PRETRAIN, SFT | {"role": "control", "of": "dpo"}], "Before it are: pretrain."),
        (
            [PRETRAIN, SFT | {"role": "control", "of": "sft"}],
            "sft is a control `of` 'sft', which is not a stage before",
        ),
        (
            [
                PRETRAIN,
                SFT,
                SFT | {"id": "c", "role": "control", "of": "sft", "equal_time": True, "seeds": 2},
            ],
            "c is a control of equal time with 2 seeds, and sft has 1",
        ),
        ([PRETRAIN, SFT | {"of": "pretrain"}], "`of` and `equal_time` are for stages with role: control"),
        ([PRETRAIN, SFT | {"equal_time": True}], "`of` and `equal_time` are for stages with role: control"),
        (
            [PRETRAIN, SFT | {"mix": {"later": 0.2}}, SFT | {"id": "later"}],
            "sft names the stage 'later', which is not before it. Before it are: pretrain.",
        ),
        (
            [PRETRAIN, SFT | {"mix": {"pretrain": 0.2}}],
            "sft mixes in the data of pretrain, which are no conversations",
        ),
        (
            [PRETRAIN, {"kind": "rl", "data": FILES, "rewards": [{"kind": "model", "from": "judge"}]}, JUDGE],
            "rl names the stage 'judge', which is not before it",
        ),
        (
            [PRETRAIN, SFT, {"kind": "rl", "data": FILES, "rewards": [{"kind": "model", "from": "sft"}]}],
            "A reward of rl is the model of sft, which writes answers and scores none",
        ),
        (
            [PRETRAIN, {"kind": "rl", "data": FILES, "rewards": [{"kind": "model"}]}],
            "rl.rewards[0].from is empty: a reward of kind model names the stage that trains it",
        ),
        (
            [PRETRAIN, SFT, SFT],
            "two stages are called sft. Give one of them another id: - {id: sft-2, kind: …}",
        ),
        ([PRETRAIN | {"id": "two words"}], "a stage cannot be called 'two words'"),
        ([PRETRAIN | {"seq_len": 1024}], "pretrain.seq_len 1024 exceeds model.max_position_embeddings 512"),
        (
            [PRETRAIN, {"kind": "sft"}],
            "sft has no data. Give it some: data: {files: [FILES]}, or leave the stage out",
        ),
        ([PRETRAIN, SFT | {"data": {"files": []}}], "sft.data.files is empty"),
        (
            [PRETRAIN, SFT | {"data": {"kind": "tinyworld", "task": "manner"}}],
            "sft reads messages, and its data are preferences",
        ),
        ([], "The recipe mine has no stage that makes a model"),
    ],
)
def test_an_impossible_order_is_refused_with_its_reason(tmp_path, stages, said):
    assert said in refused(write(tmp_path, *stages))


@pytest.mark.parametrize("name", RESERVED)
def test_a_section_s_name_is_no_stage_s(tmp_path, name):
    assert f"a stage cannot be called {name!r}" in refused(write(tmp_path, PRETRAIN | {"id": name}))


def test_a_family_without_a_format_for_scores_is_refused_a_reward_model(tmp_path):
    assert "A reward model can't have family gpt2" in refused(
        write(tmp_path, PRETRAIN, JUDGE, model={"family": "gpt2"})
    )


def test_two_exports_to_one_file_are_refused(tmp_path):
    exports = [{"kind": "gguf"}, {"kind": "gguf", "dtype": "f32"}]
    assert "Two exports would write model.gguf" in refused(write(tmp_path, PRETRAIN, export=exports))
    exports[1]["file"] = "other.gguf"
    assert len(load_recipe(write(tmp_path, PRETRAIN, export=exports)).export) == 2


def test_without_text_a_recipe_begins_with_a_model_there_is(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"stages": [PRETRAIN]}))
    assert "pretrain makes a model from text, and the recipe has no corpus" in refused(file)
    (tmp_path / "model").mkdir()
    file.write_text(yaml.safe_dump({"stages": [SFT | {"from": str(tmp_path / "model")}]}))
    assert load_recipe(file).steps() == ["sft", "evaluation", "gguf"]


def test_the_file_is_blamed_for_its_own_keys_and_the_command_line_for_those_it_gave(tmp_path):
    file = write(tmp_path, PRETRAIN, SFT)
    assert refused(file, ("sft.seqlen=3",)).startswith("command line: unknown key sft.seqlen")
    assert refused(write(tmp_path, PRETRAIN, SFT | {"seqlen": 3}), ("seed=2",)).startswith(
        f"{file}: unknown key"
    )


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("seq_len", "Did you mean pretrain.seq_len, sft.seq_len, long.seq_len?"),
        ("mix", "Did you mean sft.mix, long.mix?"),
        ("preset", "Did you mean corpus.preset?"),
        ("sed", "Did you mean seed?"),
    ],
)
def test_a_key_at_the_top_that_belongs_below_is_told_its_places(tmp_path, key, said):
    stages = [PRETRAIN, SFT, SFT | {"id": "long"}, SFT | {"id": "longer"}]
    if key == "mix":
        stages.pop()
    assert said in refused(write(tmp_path, *stages), (f"{key}=1",))


# ---------------------------------------------------------------- overrides

LIFE = [
    PRETRAIN,
    SFT,
    SFT | {"id": "control", "role": "control", "of": "sft"},
    JUDGE,
    {"kind": "rl", "data": FILES, "rewards": [{"kind": "model", "from": "judge"}]},
]


def test_an_override_reaches_a_stage_by_its_id_with_and_without_the_list_s_name(tmp_path):
    file = write(tmp_path, *LIFE)
    plain = load_recipe(file, ["sft.train.steps=7", "sft.data.files=[a, b]", "control.seq_len=64"])
    listed = load_recipe(
        file, ["stages.sft.train.steps=7", "stages.sft.data.files=[a, b]", "stages.control.seq_len=64"]
    )
    assert plain == listed
    assert plain.stage("sft").train.steps == 7 and plain.stage("sft").data.files == ("a", "b")
    assert plain.stage("control").seq_len == 64 and plain.stage("sft").seq_len == 128


def test_a_stage_that_is_set_to_nothing_takes_its_controls_along(tmp_path):
    assert [s.id for s in load_recipe(write(tmp_path, *LIFE), ["sft=null"]).stages] == [
        "pretrain",
        "judge",
        "rl",
    ]
    assert "rl names the stage 'judge'" in refused(write(tmp_path, *LIFE), ("judge=null",))


def test_settings_of_flags_win_over_everything(tmp_path):
    recipe = load_recipe(
        write(tmp_path, PRETRAIN, SFT),
        ["corpus.files=[x]", "seed=3"],
        {"corpus": {"files": ("y",)}, "seed": 4},
    )
    assert recipe.corpus.files == ("y",) and recipe.seed == 4


def test_a_flag_for_a_stage_that_there_is_not_names_the_settings_of_those_there_are(tmp_path):
    file = write(tmp_path, PRETRAIN, SFT | {"id": "sft-short"}, SFT | {"id": "sft-long"})
    said = refused(file, extra={"sft": {"data": {"files": ("x",)}}})
    assert "--sft: the recipe mine has no stage called sft" in said
    assert "sft-short.data.files=[FILES], sft-long.data.files=[FILES]" in said
    left_out = refused(
        write(tmp_path, PRETRAIN, SFT), ("sft=null",), extra={"sft": {"data": {"files": ("x",)}}}
    )
    assert "no stage called sft" in left_out


def test_a_setting_behind_a_flag_that_takes_files_is_known_by_any_stage_s_id():
    from hanlin.cli.main import _settings_among_files

    words = ("a.jsonl", "sft-short.data.files=[b.jsonl]", "sft.train.steps=3", "seed=4")
    overrides, (files,) = _settings_among_files((), words)
    assert files == ("a.jsonl",) and overrides == words[1:]


def test_what_is_not_said_has_its_default(tmp_path):
    recipe = load_recipe(write(tmp_path, {"kind": "pretrain"}, {"kind": "preference", "data": PAIRS}))
    assert recipe.name == "mine" and recipe.seed == 1
    assert [s.id for s in recipe.stages] == ["pretrain", "preference"]
    assert recipe.stage("preference").train.learning_rate == 3e-4  # the kind's own, not that of every stage
    partly = load_recipe(
        write(tmp_path, {"kind": "pretrain"}, {"kind": "preference", "data": PAIRS, "train": {"steps": 5}})
    )
    assert (
        dataclasses.replace(partly.stage("preference").train, steps=100) == recipe.stage("preference").train
    )
    assert recipe.steps() == [
        "corpus",
        "tokenizer",
        "dataset",
        "pretrain",
        "preference",
        "evaluation",
        "gguf",
    ]


names = st.from_regex(r"[a-z][a-z0-9]{0,5}(-[a-z0-9]{1,3})?", fullmatch=True).filter(
    lambda name: name not in RESERVED
)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        names, st.fixed_dictionaries({"kind": st.sampled_from(list(STAGES)), "steps": st.integers()})
    )
)
def test_by_id_and_as_a_list_are_inverse(stages):
    listed = [{"id": name, **stage} for name, stage in stages.items()]
    named = patch.by_id({"seed": 1, "stages": listed}, "here", RESERVED)
    assert list(named["stages"]) == list(stages)
    assert patch.as_list(named) == {"seed": 1, "stages": listed}


def a_stage(kind: str, draw: Any) -> dict[str, Any]:
    """A stage of a kind with settings that it may have."""
    stage: dict[str, Any] = {"kind": kind, "seq_len": draw(st.sampled_from([64, 128, 256]))}
    stage["train"] = {
        "steps": draw(st.integers(1, 10**6)),
        "learning_rate": draw(st.floats(1e-7, 1e-1)),
        "schedule": draw(st.sampled_from(["wsd", "cosine", "constant"])),
        "muon": draw(st.booleans()),
    }
    if kind == "sft":
        stage["text_share"] = draw(st.floats(0, 0.9))
        stage["max_tokens"] = draw(st.integers(0, 64))
    if kind == "preference":
        stage["beta"] = draw(st.floats(1e-3, 10))
    if kind == "rl":
        stage |= {
            "group_size": draw(st.integers(2, 64)),
            "max_new_tokens": 32,
            "kl_coef": draw(st.floats(0, 1)),
        }
    if kind != "pretrain":
        stage["data"] = {"files": draw(st.lists(st.text("abc/*.", min_size=1), min_size=1, max_size=2))}
    return stage


@st.composite
def lives(draw):
    kinds = draw(st.lists(st.sampled_from(["sft", "preference", "reward_model", "rl"]), max_size=4))
    stages = [{"id": "base", **a_stage("pretrain", draw)}]
    stages += [{"id": f"{kind}{index}", **a_stage(kind, draw)} for index, kind in enumerate(kinds)]
    corpus = draw(st.sampled_from([{"files": ["x"]}, {"kind": "tinyworld", "documents": 9, "dirt": 0.5}]))
    return {"corpus": corpus, "seed": draw(st.integers(0, 2**32 - 1)), "stages": stages}


@settings(max_examples=60, deadline=None)
@given(lives())
def test_a_recipe_kept_by_a_run_is_the_same_when_it_is_read(tmp_path_factory, values):
    file = tmp_path_factory.mktemp("kept") / "mine.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    recipe = load_recipe(file)
    kept = json.loads(json.dumps(to_dict(recipe)))
    assert read_recipe(file, kept) == recipe
    assert to_dict(read_recipe(file, kept)) == kept


@pytest.mark.parametrize("name", ["demo", "rain-100m", "xiaoxin", "llm-zhe-100m"])
def test_a_shipped_recipe_kept_by_a_run_is_the_same_when_it_is_read(name, tmp_path):
    recipe = load_recipe(name)
    assert read_recipe(tmp_path / "recipe.json", json.loads(json.dumps(to_dict(recipe)))) == recipe


# ---------------------------------------------------------------- sizes as patches


def test_the_dial_sets_the_first_pretraining_whatever_it_is_called(tmp_path):
    base = PRETRAIN | {"train": {"learning_rate": 1e-3}}
    again = {
        "id": "again",
        "kind": "pretrain",
        "from": "base",
        "seq_len": 128,
        "train": {"learning_rate": 1e-4, "steps": 5},
    }
    told = []
    recipe = load_recipe(
        write(tmp_path, base | {"id": "base"}, again, SFT | {"train": {"learning_rate": 5e-4}}),
        params="5m",
        on_sizing=told.append,
    )
    twin = load_recipe(write(tmp_path, base, name="twin"), params="5m")
    assert recipe.pretrain.id == "base"
    assert dataclasses.replace(recipe.pretrain, id="pretrain") == twin.pretrain
    assert recipe.model == twin.model and recipe.tokenizer == twin.tokenizer
    assert recipe.stage("again").train.steps == 5
    for name, ratio in (("again", 0.1), ("sft", 0.5)):
        found = recipe.stage(name).train.learning_rate / recipe.pretrain.train.learning_rate
        assert found == pytest.approx(ratio, rel=0.06)
    assert all(
        key.split(".")[0] in ("model", "tokenizer", "base") for key in (s.key for s in told[0].settings)
    )


def test_an_override_wins_over_the_dial_by_the_stage_s_own_id(tmp_path):
    file = write(tmp_path, PRETRAIN | {"id": "base"})
    recipe = load_recipe(file, ["base.train.steps=9", "stages.base.train.learning_rate=1e-2"], params="5m")
    assert (recipe.pretrain.train.steps, recipe.pretrain.train.learning_rate) == (9, 1e-2)


def test_sizes_in_the_file_are_read_and_what_it_says_besides_stands(tmp_path):
    file = write(tmp_path, PRETRAIN | {"train": {"steps": 9}}, params="5m", model={"num_hidden_layers": 7})
    recipe = load_recipe(file)
    assert recipe.model.num_hidden_layers == 7 and recipe.pretrain.train.steps == 9
    assert abs(recipe.model.config(recipe.tokenizer.vocab_size, 0).parameters() / 5e6 - 1) < 0.05


@settings(max_examples=30, deadline=None)
@given(
    st.floats(0.002, 1.0),
    st.sampled_from([("qwen3", 256, 4, 2), ("llama", 384, 6, 6), ("gpt2", 320, 5, 5), ("qwen3", 768, 12, 4)]),
    st.integers(2, 24),
    st.integers(600, 60000),
)
def test_any_recipe_in_small_can_be_built(tmp_path_factory, factor, shape, layers, vocabulary):
    family, width, heads, groups = shape
    model = {
        "family": family,
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
    }
    model |= {"num_key_value_heads": groups}
    file = write(
        tmp_path_factory.mktemp("small"), PRETRAIN, SFT, model=model, tokenizer={"vocab_size": vocabulary}
    )
    whole, small = load_recipe(file), load_recipe(file, scale=factor)
    counts = [r.model.config(r.tokenizer.vocab_size, 0).parameters() for r in (whole, small)]
    assert counts[1] <= counts[0]
    assert small.tokenizer.vocab_size <= whole.tokenizer.vocab_size
    if factor * counts[0] > 300_000:  # below, sixteen wide and two deep is what there is
        assert 0.6 < counts[1] / (factor * counts[0]) < 1.7


def test_an_override_stands_in_small_and_an_impossible_scale_is_refused(tmp_path):
    file = write(tmp_path, *LIFE)
    recipe = load_recipe(
        file, ["pretrain.train.steps=77", "tokenizer.vocab_size=5000", "sft.batch_tokens=4096"], scale=0.05
    )
    assert recipe.pretrain.train.steps == 77 and recipe.tokenizer.vocab_size == 5000
    assert recipe.stage("sft").batch_tokens == 4096
    assert recipe.stage("rl").group_size == 2 and recipe.stage("rl").max_new_tokens == 32
    for factor in (0.0, -1.0, 1.5):
        assert "should be above 0 and at most 1" in refused(file, scale=factor)
    assert "unknown key model.hiden_size" in refused(file, ("model.hiden_size=3",), scale=0.1)
    assert "sft.batch_tokens should be an integer" in refused(file, ("sft.batch_tokens=many",), scale=0.1)


# ---------------------------------------------------------------- the shape before

OLD_FILES = """
name: own
description: {zh: 自己的, en: own}
seed: 5
corpus: {files: [text.jsonl], preset: none}
tokenizer: {vocab_size: 700}
model: {hidden_size: 64, max_position_embeddings: 256}
pretrain: {seq_len: 128, batch_tokens: 2048,\
 train: {steps: 60, learning_rate: 5e-3, warmup: 0.02, decay: 0.4, clip: 0.5}}
sft: {files: [chats.jsonl], limit: 900, text_share: 0.07,\
 train: {steps: 40, learning_rate: 2.5e-3, floor: 0.1}}
distill: {files: [thoughts.jsonl], train: {steps: 30, learning_rate: 2e-3}}
dpo: {files: [pairs.jsonl], pairs: 8, beta: 1.5, train: {steps: 20, learning_rate: 8e-5, muon: false}}
reward: {files: [pairs.jsonl], train: {steps: 10, anchor_steps: 5, muon: false, learning_rate: 1e-3}}
grpo: {files: [problems.jsonl], seeds: 2, control_learning_rate: 7e-5, group_size: 4,\
 train: {steps: 6, learning_rate: 1e-4, muon: false}}
evaluation: {count: 33}
track: [tensorboard]
"""
OLD_TINYWORLD = """
corpus: {documents: 480, dirt: 0.05, preset: zh-short}
sft: {examples: 420}
distill: {examples: 160, think_share: 0.4}
dpo: {examples: 24}
reward: {examples: 15}
grpo: {examples: 20}
"""


def old(folder: Path, text: str) -> Path:
    file = folder / "old.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def anew(folder: Path, file: Path) -> Path:
    new = folder / "new.yaml"
    new.write_text(upgrade_file(file), encoding="utf-8")
    return new


def test_an_old_recipe_on_files_says_the_same_in_the_new_shape(tmp_path):
    recipe = load_recipe(anew(tmp_path, old(tmp_path, OLD_FILES)))
    assert (recipe.name, recipe.seed, recipe.description["en"], recipe.track) == (
        "own",
        5,
        "own",
        ("tensorboard",),
    )
    assert recipe.corpus.files == ("text.jsonl",) and recipe.tokenizer.vocab_size == 700
    assert recipe.model.hidden_size == 64 and recipe.evaluation.count == 33
    assert [(s.id, s.kind, s.role) for s in recipe.stages] == [
        ("pretrain", "pretrain", "stage"),
        ("sft", "sft", "stage"),
        ("distill", "sft", "stage"),
        ("direct", "sft", "control"),
        ("dpo", "preference", "stage"),
        ("reward", "reward_model", "stage"),
        ("grpo", "rl", "stage"),
        ("equal-time-sft", "sft", "control"),
    ]
    said = {key: value for key, value in flatten({s.id: to_dict(s) for s in recipe.stages}).items()}
    wanted = {
        "pretrain.seq_len": 128,
        "pretrain.batch_tokens": 2048,
        "pretrain.train.steps": 60,
        "pretrain.train.learning_rate": 5e-3,
        "pretrain.train.warmup_ratio": 0.02,
        "pretrain.train.decay_ratio": 0.4,
        "pretrain.train.max_grad_norm": 0.5,
        "sft.data.files": ["chats.jsonl"],
        "sft.data.limit": 900,
        "sft.text_share": 0.07,
        "sft.train.min_lr_ratio": 0.1,
        "distill.data.files": ["thoughts.jsonl"],
        "distill.train.steps": 30,
        "direct.of": "distill",
        "direct.data.reasoning": "drop",
        "direct.train.steps": 30,
        "dpo.data.files": ["pairs.jsonl"],
        "dpo.pairs": 8,
        "dpo.beta": 1.5,
        "dpo.train.muon": False,
        "reward.train.permanent_checkpoint_interval": 5,
        "grpo.data.files": ["problems.jsonl"],
        "grpo.seeds": 2,
        "grpo.group_size": 4,
        "grpo.train.steps": 6,
        "equal-time-sft.of": "grpo",
        "equal-time-sft.equal_time": True,
        "equal-time-sft.seeds": 2,
        "equal-time-sft.train.learning_rate": 7e-5,
        "equal-time-sft.data.files": ["thoughts.jsonl"],
    }
    assert {key: said[key] for key in wanted} == wanted


def test_an_old_recipe_on_tinyworld_says_the_same_in_the_new_shape(tmp_path):
    recipe = load_recipe(anew(tmp_path, old(tmp_path, OLD_TINYWORLD)))
    assert recipe.corpus.kind == "tinyworld" and (recipe.corpus.documents, recipe.corpus.dirt) == (480, 0.05)
    data = {stage.id: stage.data for stage in recipe.stages if stage.data is not None}
    assert {name: (source.task, source.examples) for name, source in data.items()} == {
        "sft": ("chat", 420),
        "distill": ("reasoning", 160),
        "direct": ("reasoning", 160),
        "dpo": ("manner", 24),
        "reward": ("manner", 15),
        "grpo": ("problems", 20),
        "equal-time-sft": ("reasoning", 160),
    }
    assert (
        data["distill"].think_share == 0.4
        and data["dpo"].anchors == "reasoning"
        and data["reward"].offset == 1
    )
    assert recipe.stage("grpo").seeds == 3  # what grpo had when it said nothing


TRAIN = "train: {steps: 7, learning_rate: 3e-4, warmup: 0.1, decay: 0.2}"
OLD_STAGES = {
    "sft": (
        "model: a/model\nfiles: [f.jsonl]\nlimit: 50\nseed: 3\n"
        f"config: {{seq_len: 64, batch_tokens: 640, {TRAIN}}}\n"
    ),
    "preference": f"model: a/model\nfiles: [f.jsonl]\nconfig: {{pairs: 4, beta: 0.5, {TRAIN}}}\n",
    "reward_model": f"model: a/model\nfiles: [f.jsonl]\nconfig: {{pairs: 4, {TRAIN}}}\n",
    "rl": (
        "model: a/model\nfiles: [f.jsonl]\ndevice: cpu\n"
        f"config: {{prompts: 4, group_size: 2, max_new_tokens: 8, {TRAIN}}}\n"
    ),
    "pretrain": (
        f"dataset: d\ntokenizer: t\nmodel: {{hidden_size: 64}}\n"
        f"pretrain: {{seq_len: 64, batch_tokens: 640, {TRAIN}}}\n"
    ),
}


@pytest.mark.parametrize("kind", OLD_STAGES)
def test_an_old_file_of_a_single_stage_says_the_same_in_the_new_shape(tmp_path, kind):
    file = old(tmp_path, OLD_STAGES[kind])
    written = yaml.safe_load(OLD_STAGES[kind])
    with pytest.raises(HanlinError) as caught:
        load_stage_file(kind, file)
    assert upgrade_file(file) in caught.value.en and upgrade_file(file) in caught.value.zh
    new = load_stage_file(kind, anew(tmp_path, file))
    assert new.seed == written.get("seed", 1) and new.device == written.get("device", "auto")
    section = written.get("pretrain") or written["config"]
    stage = to_dict(new.stage)
    assert {key: stage[key] for key in section if key != "train"} == {
        k: v for k, v in section.items() if k != "train"
    }
    train = {"steps": 7, "learning_rate": 3e-4, "warmup_ratio": 0.1, "decay_ratio": 0.2}
    assert {key: stage["train"][key] for key in train} == train
    if kind == "pretrain":
        assert (str(new.dataset), str(new.tokenizer), new.model.hidden_size) == ("d", "t", 64)
    else:
        assert stage["from"] == "a/model" and stage["data"]["files"] == ["f.jsonl"]
        assert stage["data"]["limit"] == written.get("limit", 0)


@pytest.mark.parametrize("text", [OLD_FILES, OLD_TINYWORLD])
def test_an_old_recipe_is_refused_with_its_new_text(tmp_path, text):
    file = old(tmp_path, text)
    with pytest.raises(HanlinError) as caught:
        load_recipe(file)
    for message in (caught.value.en, caught.value.zh):
        assert upgrade_file(file) in message and f"hanlin recipe upgrade {file}" in message


def test_what_has_the_new_shape_has_nothing_to_do(tmp_path):
    for file in (write(tmp_path, PRETRAIN, SFT), anew(tmp_path, old(tmp_path, OLD_FILES))):
        with pytest.raises(HanlinError, match="has the new shape already: there is nothing to do"):
            upgrade_file(file)
    stage = old(tmp_path, "from: a/model\ndata: {files: [f.jsonl]}\ntrain: {steps: 3}\n")
    with pytest.raises(HanlinError, match="nothing to do"):
        upgrade_file(stage)


def test_the_command_writes_to_stdout_or_to_a_file_and_leaves_the_old_one(tmp_path, capsys):
    from hanlin.cli.recipe import upgrade

    file = old(tmp_path, OLD_FILES)
    upgrade(file)
    shown = capsys.readouterr().out
    upgrade(file, out=tmp_path / "out.yaml")
    assert shown == (tmp_path / "out.yaml").read_text(encoding="utf-8") == upgrade_file(file)
    assert file.read_text(encoding="utf-8") == OLD_FILES
    assert max(map(len, shown.splitlines())) <= 110


sections = {
    "sft": {"files": ["a.jsonl"]},
    "distill": {"files": ["b.jsonl"]},
    "dpo": {"files": ["c.jsonl"]},
    "reward": {"files": ["c.jsonl"]},
    "grpo": {"files": ["d.jsonl"]},
}


@settings(max_examples=60, deadline=None)
@given(
    st.sets(st.sampled_from(list(sections)), min_size=1),
    st.integers(1, 10**5),
    st.floats(1e-6, 1e-2),
    st.booleans(),
)
def test_any_old_recipe_becomes_one_that_loads(tmp_path_factory, chosen, steps, rate, with_pretrain):
    values: dict[str, Any] = {"corpus": {"files": ["t.jsonl"]}, "seed": 3}
    if with_pretrain:
        values["pretrain"] = {"train": {"steps": steps, "learning_rate": rate}}
    values |= {
        name: sections[name] | {"train": {"steps": steps, "learning_rate": rate}}
        for name in sections
        if name in chosen
    }
    folder = tmp_path_factory.mktemp("old")
    assert is_old_recipe(values) and not is_old_stage_file(values)
    file = old(folder, yaml.safe_dump(values))
    recipe = load_recipe(anew(folder, file))
    assert isinstance(recipe, Recipe) and recipe.seed == 3
    for name in chosen:
        assert recipe.stage(name).train.steps == steps and recipe.stage(name).train.learning_rate == rate
    assert upgraded(upgraded(values)) == upgraded(values)
