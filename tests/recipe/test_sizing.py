"""Sizing: a size decides a whole recipe; what is given stands."""

import pytest

from hanlin.common.errors import HanlinError
from hanlin.model import CausalLM, ModelShape
from hanlin.recipe.recipe import load_recipe
from hanlin.recipe.sizing import batch_tokens, derive_sizes, learning_rate, sizing_text
from hanlin.tokenizer.advise import advise

SIZES = [
    "0.5m",
    "1m",
    "3.6m",
    "5m",
    "8m",
    "12m",
    "26m",
    "64m",
    "100m",
    "135m",
    "200m",
    "300m",
    "500m",
    "700m",
    "1b",
]


def count(text: str) -> float:
    return float(text[:-1]) * {"m": 1e6, "b": 1e9}[text[-1]]


def shape_of(values: dict) -> ModelShape:
    return ModelShape(
        **{key.removeprefix("model."): value for key, value in values.items() if key.startswith("model.")}
    )


@pytest.mark.parametrize("size", SIZES)
def test_the_model_has_the_parameters_that_were_asked_for(size):
    sizing = derive_sizes(params=size)
    values = sizing.values()
    config = shape_of(values).config(values["tokenizer.vocab_size"], 0)
    assert config.parameters() == sizing.parameters
    assert abs(sizing.parameters / count(size) - 1) <= 0.05
    assert config.num_attention_heads * config.head_dim == config.hidden_size
    if sizing.parameters < 2e7:
        assert sum(p.numel() for p in CausalLM(config).parameters()) == sizing.parameters


def test_every_size_in_between_has_a_model_too():
    for step in range(60):
        size = 0.5e6 * 2000 ** (step / 59)
        assert abs(derive_sizes(params=size).parameters / size - 1) <= 0.05


@pytest.mark.parametrize(
    "name, weights, tokens",
    [("demo", 0.94e6 - 1536 * 128, 1080 * 4096), ("zh-mini", 3.59e6 - 6400 * 192, 800 * 8192)],
)
def test_the_rate_agrees_with_the_measured_recipes_within_a_factor_of_two(name, weights, tokens):
    used = load_recipe(name, ["corpus.files=[x]"] if name == "zh-mini" else []).pretrain.train.learning_rate
    assert 0.5 <= learning_rate(weights, tokens) / used <= 2


def test_the_batch_rule_says_what_was_measured_on_the_demo():
    assert batch_tokens(1080 * 4096, 256) == 4096


def test_rates_fall_and_batches_grow_with_size():
    sizings = [derive_sizes(params=size).values() for size in SIZES]
    rates = [d["pretrain.train.learning_rate"] for d in sizings]
    batches = [d["pretrain.batch_tokens"] for d in sizings]
    assert rates == sorted(rates, reverse=True) and rates[-1] < rates[0]
    assert batches == sorted(batches) and all(b & (b - 1) == 0 for b in batches)


def test_twenty_tokens_a_parameter_and_no_more_than_four_passes():
    free, bound = derive_sizes(params="5m"), derive_sizes(params="5m", data_tokens=10_000_000)
    assert free.tokens == pytest.approx(20 * free.parameters, rel=0.01)
    assert bound.tokens == pytest.approx(40_000_000, rel=0.01)
    assert any("→" in note.zh for note in bound.notes)
    assert derive_sizes(params="5m", tokens="30m").tokens == pytest.approx(30e6, rel=0.01)


def test_what_is_given_stands_and_the_rest_is_derived_around_it():
    sizing = derive_sizes(
        params="26m",
        given={"model.hidden_size": 512, "tokenizer.vocab_size": 6400, "pretrain.train.learning_rate": 1e-3},
    )
    values = sizing.values()
    assert (
        values["model.hidden_size"],
        values["tokenizer.vocab_size"],
        values["pretrain.train.learning_rate"],
    ) == (512, 6400, 1e-3)
    assert abs(sizing.parameters / 26e6 - 1) <= 0.05
    assert {s.key for s in sizing.settings if s.basis == "given"} == {
        "model.hidden_size",
        "tokenizer.vocab_size",
        "pretrain.train.learning_rate",
    }


def test_depth_is_kept():
    sizings = [derive_sizes(depth=depth) for depth in (2, 4, 8, 12, 20, 28)]
    assert [d.values()["model.num_hidden_layers"] for d in sizings] == [2, 4, 8, 12, 20, 28]
    assert [d.parameters for d in sizings] == sorted(d.parameters for d in sizings)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"params": "1m", "depth": 4},
        {"params": "2b"},
        {"params": "200k"},
        {"params": "many"},
        {"depth": 1},
        {"params": "1m", "tokens": "lots"},
        {"params": "26m", "given": {"model.hidden_size": 2048}},
        {"params": "26m", "given": {"model.hiden_size": 2048}},
    ],
)
def test_the_impossible_is_refused_with_a_message(arguments):
    with pytest.raises(HanlinError) as caught:
        derive_sizes(**arguments)
    assert caught.value.zh and caught.value.en


def test_the_flag_turns_a_recipe_and_overrides_win_over_it():
    said = []
    recipe = load_recipe(
        "zh-mini", ["corpus.files=[x]", "pretrain.train.steps=7"], params="12m", on_sizing=said.append
    )
    parameters = recipe.model.config(recipe.tokenizer.vocab_size, 0).parameters()
    assert abs(parameters / 12e6 - 1) <= 0.05
    assert recipe.pretrain.train.steps == 7
    assert recipe.pretrain.seq_len == 512
    assert recipe.pretrain.micro_tokens == recipe.stage("sft").micro_tokens == "auto"
    plain = load_recipe("zh-mini", ["corpus.files=[x]"])
    ratios = [r.stage("sft").train.learning_rate / r.pretrain.train.learning_rate for r in (recipe, plain)]
    assert ratios[0] == pytest.approx(ratios[1], rel=0.1)
    assert any("model.hidden_size 192" in note.en for note in said[0].notes)


def test_a_file_may_hold_the_dial_and_what_it_says_besides_wins(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "params: 5m\ncorpus: {files: [x]}\nmodel: {num_hidden_layers: 7}\n"
        "stages: [{kind: pretrain, train: {learning_rate: 1e-3}}]\n"
    )
    recipe = load_recipe(file)
    assert (recipe.model.num_hidden_layers, recipe.pretrain.train.learning_rate) == (7, 1e-3)
    assert abs(recipe.model.config(recipe.tokenizer.vocab_size, 0).parameters() / 5e6 - 1) <= 0.05


def test_tokens_alone_are_refused():
    with pytest.raises(HanlinError):
        load_recipe("demo", tokens="5m")


def test_every_setting_is_shown_with_a_reason(monkeypatch):
    for language in ("zh", "en"):
        monkeypatch.setenv("HANLIN_LANG", language)
        sizing = derive_sizes(params="26m")
        text = sizing_text(sizing)
        assert all(s.key in text and getattr(s.why, language) in text for s in sizing.settings)


@pytest.mark.parametrize("params", ["0.5m", "3.6m", "12m", "26m", "67m", "0.3b", "1b"])
def test_the_vocabulary_is_what_the_tokenizer_command_advises(params):
    assert derive_sizes(params=params).values()["tokenizer.vocab_size"] == advise(params).vocab_size
    given = derive_sizes(
        params=params,
        given={"model.hidden_size": (width := derive_sizes(params=params).values()["model.hidden_size"])},
    )
    assert given.values()["tokenizer.vocab_size"] == advise(params, width).vocab_size
