"""Doctors that hold a model against another or against its tokenizer and its questions: drift, export,
tokenizer, prompts. Each catches a planted fault, and a healthy model passes."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
import torch

from hanlin.cli.main import app
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import artifact, read_manifest
from hanlin.dataset import build_text_dataset
from hanlin.evaluation.benchmarks.items import Item
from hanlin.evaluation.doctors.base import DOCTORS, examined
from hanlin.evaluation.doctors.beside import read_beside
from hanlin.evaluation.doctors.context import DoctorContext, OtherModel, Reply
from hanlin.evaluation.doctors.exported import first_differences
from hanlin.evaluation.doctors.inputs import doctor_context
from hanlin.evaluation.doctors.prompts import WORDINGS
from hanlin.evaluation.doctors.questions import tinyworld_items
from hanlin.evaluation.doctors.tokenizer_use import split_characters
from hanlin.evaluation.doctors.wording import spread_over_wordings
from hanlin.export.gguf import export_gguf
from hanlin.export.gguf_read import read_gguf
from hanlin.model import load_model
from hanlin.model.checkpoint_io import save_weights
from hanlin.pipeline.stage_run import publish
from tests.evaluation.doctor_models import (
    NAMES,
    PLACES,
    conversations,
    healthy_model,
    make_tokenizer,
    new_model,
    texts,
    train,
)
from tests.evaluation.test_doctors import broken, saved
from tests.support import FAMILIES, tiny_model, tiny_tokenizer

torch.set_num_threads(1)
COUNT = 60


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("more") / "tokenizer")


@pytest.fixture(scope="module")
def model(tokenizer):
    return healthy_model(tokenizer, steps=100)


@pytest.fixture
def given(tokenizer):
    def make(model, **changed):
        settings = {
            "documents": texts(3, COUNT),
            "conversations": conversations(3, COUNT),
            "max_new_tokens": 24,
        }
        return DoctorContext(model, tokenizer, **(settings | changed))

    return make


def find(name, context):
    return examined(DOCTORS.get(name)(), context)


def noisy(model, scale, seed=0):
    """A copy with noise on every matrix."""

    def change(copied):
        generator = torch.Generator().manual_seed(seed)
        for weight in copied.parameters():
            if weight.dim() == 2:
                weight += scale * weight.std() * torch.randn(weight.shape, generator=generator)

    return broken(model, change)


def other(model, name="other", chat=True):
    return OtherModel(name, lambda: model, chat)


# ---------------------------------------------------------------- two models on the same tokens


def test_two_models_are_compared_token_by_token(model, given):
    context = given(model, documents=texts(5, 4, sentences=5))
    second = noisy(model, 0.5)
    both = read_beside(context, second)
    for at, row in enumerate(context.rows):
        ours, theirs = (
            each(torch.from_numpy(row[None, :-1]))[0].double().log_softmax(-1).detach()
            for each in (model, second)
        )
        wanted = torch.from_numpy(row[1:])[:, None]
        bits = [-float(logs.gather(1, wanted).sum()) / math.log(2) for logs in (ours, theirs)]
        assert both.bits[at] == pytest.approx(bits[0], rel=1e-4)
        assert both.other[at] == pytest.approx(bits[1], rel=1e-4)
        kl = float((theirs.exp() * (theirs - ours)).sum()) / math.log(2)
        assert both.divergence[at] == pytest.approx(kl, rel=1e-3)
        assert both.agree[at] == int((ours.argmax(-1) == theirs.argmax(-1)).sum())
        assert both.tokens[at] == len(row) - 1
        assert both.bytes[at] == len(context.documents[at].encode())


# ---------------------------------------------------------------- drift


def test_drift_a_model_that_stayed_is_not_alarmed_about(model, given):
    finding = find("drift", given(model, previous=other(noisy(model, 1e-3))))
    assert finding.level == "ok" and not finding.advice
    assert finding.metrics["kl"].value < 0.01
    assert finding.metrics["length_ratio"].value == pytest.approx(1, abs=0.1)


def test_drift_forgotten_text_is_caught(model, given):
    finding = find("drift", given(noisy(model, 1.0), previous=other(model)))
    assert finding.level == "red" and finding.metrics["bits_ratio"].low > 1.05
    assert finding.metrics["bits_per_byte"].control.name == "previous"
    assert finding.metrics["kl"].low > 0.01


def test_drift_replies_that_have_grown_are_caught(model, given, tokenizer):
    def endless(copied):
        copied.decoder.embedding.weight[tokenizer.im_end_id] *= 0.0

    finding = find("drift", given(broken(model, endless), previous=other(model)))
    assert finding.metrics["length_ratio"].low > 1.5
    assert "times as long" in finding.meaning.en and finding.level in ("yellow", "red")


def test_drift_lengths_of_a_model_that_only_continues_are_not_compared(model, given):
    finding = find("drift", given(model, previous=other(model, chat=False)))
    assert "length_ratio" not in finding.metrics and finding.level == "ok"


# ---------------------------------------------------------------- exports


@pytest.fixture(scope="module")
def folder(model, tokenizer, tmp_path_factory):
    return saved(model, tokenizer, tmp_path_factory.mktemp("export") / "model")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_gguf_file_is_read_back_to_the_weights_it_was_made_of(family, tmp_path):
    words = tiny_tokenizer(tmp_path / "tokenizer")
    path = saved(tiny_model(family, words), words, tmp_path / "model")
    original = load_model(path)
    for dtype, error in (("f32", 0), ("f16", 1e-3), ("q8_0", 1e-2)):
        read = read_gguf(export_gguf(path, tmp_path / f"{dtype}.gguf", dtype), original.config)
        for name, weight in original.state_dict().items():
            apart = (read.state_dict()[name] - weight).abs().max()
            assert apart <= error * weight.abs().max(), (dtype, name)


def test_export_the_forms_that_are_written_pass(model, given, folder, tmp_path):
    exports = []
    for dtype in ("f32", "q8_0"):
        file = export_gguf(folder, tmp_path / f"{dtype}.gguf", dtype)
        exports.append(other(read_gguf(file, model.config), file.name))
    finding = find("export", given(model, exports=exports))
    assert finding.level == "ok", finding.meaning.en
    assert finding.metrics["same_replies/f32.gguf"].value == 1
    assert finding.metrics["bits_ratio/f32.gguf"].value == pytest.approx(1, abs=1e-6)
    assert finding.metrics["agreement/q8_0.gguf"].value > 0.98


def test_export_one_that_lost_too_much_is_caught_and_named(model, given):
    good, bad = other(model, "good.gguf"), other(noisy(model, 0.6), "bad.gguf")
    finding = find("export", given(model, exports=[good, bad]))
    assert finding.level == "red" and "bad.gguf" in finding.meaning.en
    assert "good.gguf" not in finding.meaning.en
    assert finding.metrics["divergence/bad.gguf"].value >= 1
    assert "divergence/good.gguf" not in finding.metrics


def test_export_what_cannot_be_read_is_said_and_the_rest_is_measured(model, given, tmp_path):
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"GGUF" + b"\0" * 40)
    unread = OtherModel(file.name, lambda: read_gguf(file, model.config))
    finding = find("export", given(model, exports=[unread, other(model, "good")]))
    assert finding.level == "unknown" and "broken.gguf" in finding.meaning.en
    assert finding.metrics["bits_ratio/good"].value == 1


def test_a_gguf_file_of_another_shape_is_refused(model, tmp_path):
    words = tiny_tokenizer(tmp_path / "tokenizer")
    path = saved(tiny_model("qwen3", words), words, tmp_path / "model")
    file = export_gguf(path, tmp_path / "model.gguf")
    with pytest.raises(HanlinError, match="exported from another"):
        read_gguf(file, model.config)


def test_first_differences_are_counted_from_one():
    def reply(ids):
        return Reply([0], ids, False, 8, True)

    ours = [reply([1, 2, 3]), reply([1, 2, 3]), reply([1, 2]), reply([4])]
    theirs = [reply([1, 2, 3]), reply([1, 5, 3]), reply([1, 2, 3]), reply([5])]
    assert first_differences(ours, theirs).tolist() == [2, 3, 1]


# ---------------------------------------------------------------- use of the tokenizer


def test_tokenizer_text_it_was_learnt_from_passes(model, given, tokenizer, tmp_path):
    said = [message["content"] for record in conversations(2, 200) for message in record["messages"]]
    data = build_text_dataset([{"text": t} for t in texts(2, 500) + said], tokenizer, tmp_path / "data")
    finding = find("tokenizer", given(model, dataset=data))
    assert finding.level == "ok", finding.meaning.en
    assert finding.metrics["split"].value == 0 and finding.metrics["unused"].value < 0.02
    assert list(finding.metrics)[0] == "unused"


def test_tokenizer_characters_that_it_does_not_know_are_caught(model, given):
    strange = [text.replace("小", "饕").replace("去", "餮") for text in texts(3, COUNT)]
    finding = find("tokenizer", given(model, documents=strange))
    assert finding.level == "red" and finding.metrics["split"].low > 0.02
    characters = sum(map(len, strange))
    unknown = sum(text.count("饕") + text.count("餮") for text in strange)
    assert finding.metrics["split"].value == pytest.approx(unknown / characters)


def test_tokenizer_a_source_that_it_was_not_learnt_from_is_named(model, given):
    strange = ["饕餮貔貅魑魅魍魉" * 6] * 40
    known = texts(3, 120)
    finding = find(
        "tokenizer",
        given(model, documents=known + strange, sources=["web"] * 120 + ["myths"] * 40, count=160),
    )
    assert "myths" in finding.meaning.en and "web" not in finding.meaning.en
    ratio = finding.metrics["bytes_per_token/myths"]
    assert ratio.value == pytest.approx(1) and finding.metrics["bytes_per_token/web"].value > 2.5


def test_split_characters_are_those_with_a_boundary_inside():
    text = "中a文".encode()
    assert split_characters(text, np.array([3, 1, 3])) == (0, 3)
    assert split_characters(text, np.array([1, 1, 1, 1, 3])) == (1, 3)
    assert split_characters(text, np.array([2, 3, 2])) == (2, 3)
    assert split_characters(b"", np.array([], dtype=int)) == (0, 0)


# ---------------------------------------------------------------- wording


def place_items(count, seed=11):
    """Where somebody is, with the place in the passage and three others to choose from."""
    rng = random.Random(seed)
    items = []
    for number in range(count):
        name, places = rng.choice(NAMES), rng.sample(PLACES, 4)
        gold = rng.randrange(4)
        items.append(
            Item(
                id=str(number),
                question=f"{name}在哪里？",
                choices=tuple(f"{name}在{place}。" for place in places),
                gold=gold,
                passage=f"{name}在{places[gold]}。",
            )
        )
    return items


@pytest.fixture(scope="module")
def answering(tokenizer):
    """A model taught to answer questions that are put in all of the ways."""
    rng = random.Random(1)
    rows = []
    for item in place_items(600, seed=5):
        record = [
            {"role": "user", "content": rng.choice(WORDINGS).format_map(item.fields())},
            {"role": "assistant", "content": item.choices[item.gold]},
        ]
        rows.append(tokenizer.encode_conversation(record))
    return train(new_model(tokenizer), rows, 110)


def test_prompts_a_model_that_takes_any_wording_passes(answering, given):
    finding = find("prompts", given(answering, items=place_items(COUNT), task="places"))
    assert finding.level == "ok" and finding.metrics["score"].value > 0.9
    assert "says nothing" in finding.meaning.en


def test_prompts_a_model_that_one_wording_confuses_is_caught(answering, given, tokenizer):
    ids = [set(tokenizer.encode(wording)) for wording in WORDINGS]
    confusing = torch.tensor(sorted(ids[-1] - set().union(*ids[:-1])))

    def confused(copied):
        def forget(module, inputs, states):
            return states * ~torch.isin(inputs[0], confusing).any(1)[:, None, None]

        copied.decoder.embedding.register_forward_hook(forget)

    finding = find("prompts", given(broken(answering, confused), items=place_items(COUNT), task="places"))
    assert finding.level == "red" and finding.metrics["spread"].low > 0.05
    assert "places" in finding.meaning.en
    shares = [finding.metrics[f"wording/{number + 1}"].value for number in range(len(WORDINGS))]
    assert finding.metrics["spread"].value == pytest.approx(np.std(shares, ddof=1))


def test_wordings_that_differ_by_chance_raise_no_alarm():
    """Of wordings that are all as good: the lower end passes 2 points at most now and then."""
    rng = np.random.default_rng(0)
    alarms = 0
    for trial in range(60):
        easy = rng.random(200)[:, None]
        hits = (rng.random((200, 5)) < 0.15 + 0.7 * (easy > 0.5)).astype(float)
        metric = spread_over_wordings(hits, trial)
        assert metric.low <= metric.value <= metric.high
        alarms += metric.low > 0.02
    assert alarms <= 3
    one = (rng.random((200, 5)) < np.array([0.9, 0.9, 0.9, 0.9, 0.5])).astype(float)
    assert spread_over_wordings(one).low > 0.05


def test_embedded_questions_have_one_right_answer_among_four():
    items = tinyworld_items(1, 30)
    assert len(items) == 30 and items == tinyworld_items(1, 30)
    places = {item.gold for item in items}
    assert len(places) == 4
    told = 0
    for item in items:
        assert len(set(item.choices)) == 4 and item.passage and item.question
        told += any(
            choice.strip("。") != item.choices[item.gold].strip("。") and choice[-3:-1] in item.passage
            for choice in item.choices
        )
    assert told > 5  # what is right cannot be told from the words in the story alone


# ---------------------------------------------------------------- the command


def a_run(folder, models, tokenizer):
    """A run with the models of two stages, the second trained from the first, and an export."""
    (folder / "models").mkdir(parents=True)
    parents: dict[str, str] = {}
    for name, model in models.items():
        with artifact(
            folder / "models" / name, "model", parents=parents, config={"kind": name, "seq_len": 100}
        ) as written:
            save_weights(model, written.path, im_end_id=tokenizer.im_end_id)
            tokenizer.save(written.path)
        parents = {"model": read_manifest(folder / "models" / name).content_hash}
    last = folder / "models" / list(models)[-1]
    publish(last, folder / "model")
    recipe = {"seed": 1, "corpus": {"kind": "tinyworld"}, "stages": [{"id": n, "kind": n} for n in models]}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    (folder / "steps").mkdir()
    export_gguf(last, folder / "model.gguf", "q8_0")
    record = {"kind": "export", "notes": {"file": "model.gguf"}}
    (folder / "steps" / "gguf.json").write_text(json.dumps(record))
    return folder


def test_a_run_brings_the_model_before_its_exports_and_questions(
    model, tokenizer, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("HANLIN_LANG", "en")
    run = a_run(tmp_path / "run", {"pretrain": noisy(model, 0.2), "sft": model}, tokenizer)
    context = doctor_context(run / "models" / "sft")
    assert context.previous is not None and context.previous.name == "pretrain"
    assert not context.previous.chat and context.task == "tinyworld/story_qa" and context.items
    assert doctor_context(run / "models" / "pretrain").previous is None
    file = tmp_path / "unseen.jsonl"
    file.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts(3, 30)), encoding="utf-8")
    arguments = ["--text", str(file), "--doctors", "export,drift", "--json"]
    app(["inspect", "model", str(run), *arguments])
    found = json.loads(capsys.readouterr().out)
    assert found["export"]["level"] == "ok", found["export"]["meaning"]["en"]
    assert found["export"]["metrics"]["bits_ratio/model.gguf"]["value"] == pytest.approx(1, abs=0.01)
    assert found["drift"]["metrics"]["bits_ratio"]["high"] < 1  # better than the noisy one before
    app(["inspect", "model", str(run / "models" / "pretrain"), *arguments])
    assert (
        json.loads(capsys.readouterr().out)["export"]["level"] == "unknown"
    )  # its exports are none of these


def test_what_cannot_be_compared_is_refused(model, tokenizer, tmp_path):
    path = saved(model, tokenizer, tmp_path / "model")
    words = tiny_tokenizer(tmp_path / "words")
    strange = saved(tiny_model("qwen3", words), words, tmp_path / "strange")
    with pytest.raises(HanlinError, match="another tokenizer"):
        doctor_context(path, against=strange)
    with pytest.raises(HanlinError, match="No such file"):
        app(["inspect", "model", str(path), "--exports", str(tmp_path / "none.gguf")])
    with pytest.raises(HanlinError, match="one benchmark"):
        app(["inspect", "model", str(path), "--tasks", "c3"])
