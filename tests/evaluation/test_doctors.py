"""Doctors of a model: each catches a planted fault, none is alarmed by a healthy model, and each says
what it lacks."""

from __future__ import annotations

import copy
import json
import math
import random

import numpy as np
import pytest
import torch

from hanlin.cli.main import app
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import artifact
from hanlin.dataset import build_conversation_dataset, build_text_dataset
from hanlin.evaluation.doctors import calibration, eos, first_token, loops, memorisation
from hanlin.evaluation.doctors import context as context_module
from hanlin.evaluation.doctors.base import (
    DOCTORS,
    LEVELS,
    Finding,
    above,
    below,
    doctor_names,
    examine_model,
    examined,
)
from hanlin.evaluation.doctors.context import DoctorContext
from hanlin.evaluation.doctors.inputs import doctor_context
from hanlin.evaluation.doctors.table import findings_text
from hanlin.evaluation.statistics import Metric
from hanlin.model import init_weights
from hanlin.model.checkpoint_io import save_weights
from hanlin.model.kv_cache import KVCache
from tests.evaluation.doctor_models import (
    conversations,
    healthy_model,
    make_tokenizer,
    new_model,
    text,
    text_examples,
    texts,
    train,
)

torch.set_num_threads(1)
COUNT = 120
# the others need questions and canaries, and are tested with them in test_contamination
UNASKED = [name for name in doctor_names() if name not in ("contamination", "ordering")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("doctors")


@pytest.fixture(scope="module")
def tokenizer(folder):
    return make_tokenizer(folder / "tokenizer")


@pytest.fixture(scope="module")
def dataset(folder, tokenizer):
    return build_text_dataset([{"text": t} for t in texts(2, 1500)], tokenizer, folder / "dataset")


@pytest.fixture(scope="module")
def labelled(folder, tokenizer):
    return build_conversation_dataset(conversations(2, 500), tokenizer, folder / "labelled", max_length=128)


@pytest.fixture(scope="module")
def model(tokenizer):
    return healthy_model(tokenizer)


@pytest.fixture(scope="module")
def given(tokenizer, dataset, labelled):
    """A context for any model, with all that doctors need."""

    def make(model, **changed):
        settings = {
            "documents": texts(3, COUNT),
            "conversations": conversations(3, COUNT),
            "dataset": dataset,
            "labelled": labelled,
            "max_new_tokens": 48,
        }
        return DoctorContext(model, tokenizer, **(settings | changed))

    return make


def find(name: str, context: DoctorContext) -> Finding:
    return examined(DOCTORS.get(name)(), context)


@torch.no_grad()
def broken(model, change):
    """A copy of a model with a fault."""
    copied = copy.deepcopy(model)
    change(copied)
    return copied


# ---------------------------------------------------------------- healthy models


def test_no_doctor_is_alarmed_by_a_healthy_model(model, given):
    found = {doctor.name: finding for doctor, finding in examine_model(given(model))}
    assert list(found) == doctor_names()
    held_against = {
        name for name in found if {"against", "exports", "tasks", "questions"} & set(DOCTORS.get(name).needs)
    }
    levels = {name: "unknown" if name in held_against else "ok" for name in found}
    assert {name: finding.level for name, finding in found.items()} == levels, {
        name: finding.meaning.en for name, finding in found.items() if finding.level != "ok"
    }
    for finding in (finding for name, finding in found.items() if name not in held_against):
        assert finding.metrics and finding.meaning and not finding.advice


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(1, 9))
def test_no_doctor_is_alarmed_by_other_healthy_models(tokenizer, given, seed):
    context = given(healthy_model(tokenizer, seed), documents=texts(100 + seed, COUNT))
    found = {doctor.name: finding.level for doctor, finding in examine_model(context)}
    assert "yellow" not in found.values() and "red" not in found.values()


def test_a_pretrained_model_is_examined_by_texts(model, given):
    finding = find("eos", given(model, chat=False))
    assert finding.level == "ok" and "text_end_contrast" in finding.metrics
    assert "stopped" not in finding.metrics
    assert find("template", given(model, chat=False)).level == "unknown"


# ---------------------------------------------------------------- planted faults


def test_eos_a_damped_end_token_is_caught(model, given, tokenizer):
    def damp(copied):
        copied.decoder.embedding.weight[tokenizer.im_end_id] *= 0.0

    finding = find("eos", given(broken(model, damp)))
    assert finding.level == "red" and finding.advice
    assert finding.metrics["stopped"].high < 0.5
    assert finding.metrics["end_rank"].low > 1 and finding.metrics["end_share"].high < 0.5


def test_eos_texts_whose_end_was_never_learnt_are_caught(tokenizer, given):
    endless = [(ids[:-1], mask[:-1]) for ids, mask in text_examples(tokenizer, texts(2, 300, sentences=6))]
    model = train(new_model(tokenizer), endless, 60)
    finding = find("eos", given(model, chat=False, documents=texts(3, 60, sentences=6)))
    assert finding.level in ("yellow", "red") and finding.metrics["text_end_contrast"].high < 10


def test_eos_answers_without_a_learnt_end_are_caught(model, given, tokenizer, folder):
    data = build_conversation_dataset(conversations(4, 100), tokenizer, folder / "endless", max_length=128)
    data.mask = np.array(data.mask)
    data.mask[np.asarray(data.tokens) == tokenizer.im_end_id] = 0
    finding = find("eos", given(model, labelled=data))
    assert finding.level == "red" and finding.metrics["labels_end"].value == 0


def saved(model, tokenizer, path):
    path.mkdir()
    save_weights(model, path, im_end_id=tokenizer.im_end_id)
    tokenizer.save(path)
    return path


@pytest.mark.parametrize("ids", [0, [3, 4], None])
def test_eos_ids_that_disagree_are_caught(model, given, tokenizer, tmp_path, ids):
    path = saved(model, tokenizer, tmp_path / "model")
    assert find("eos", given(model, folder=path)).level == "ok"
    file = path / "generation_config.json"
    raw = json.loads(file.read_text())
    file.write_text(json.dumps({**raw, "eos_token_id": ids}))
    finding = find("eos", given(model, folder=path))
    assert finding.level == "red" and str(tokenizer.im_end_id) in finding.meaning.en


def test_eos_and_template_a_template_with_another_end_is_caught(model, given, tokenizer, tmp_path):
    path = saved(model, tokenizer, tmp_path / "model")
    assert find("template", given(model, folder=path)).level == "ok"
    file = path / "chat_template.jinja"
    file.write_text(file.read_text(encoding="utf-8").replace("<|im_end|>", "</s>"), encoding="utf-8")
    for name in ("eos", "template"):
        finding = find(name, given(model, folder=path))
        assert finding.level == "red" and "chat_template.jinja" in finding.meaning.en


def test_template_a_second_start_token_is_caught(model, given, tokenizer, tmp_path):
    path = saved(model, tokenizer, tmp_path / "model")
    file = path / "chat_template.jinja"
    file.write_text("<|endoftext|>" + file.read_text(encoding="utf-8"), encoding="utf-8")
    finding = find("template", given(model, folder=path))
    assert finding.level == "red" and "one more start token" in finding.meaning.en


def test_template_a_model_taught_with_none_is_caught(tokenizer, given):
    rows = []
    for record in conversations(2, 600):
        asked, answer = (message["content"] for message in record["messages"])
        ids, said = tokenizer.encode(asked + "\n"), [*tokenizer.encode(answer), tokenizer.im_end_id]
        rows.append(([*ids, *said], [0] * len(ids) + [1] * len(said)))
    model = train(new_model(tokenizer), rows, 120)
    finding = find("template", given(model))
    assert finding.level == "red" and finding.metrics["none"].high < 0


def test_template_data_of_other_ids_is_caught(model, given, tokenizer, folder):
    data = build_conversation_dataset(conversations(4, 60), tokenizer, folder / "ids", max_length=128)
    start = tokenizer.special["<|im_start|>"]
    spelt = tokenizer.encode("<|im_end|>")
    rows = [np.asarray(data.document(at)).tolist() for at in range(len(data))]
    rows = [[t for at in row for t in (spelt if at == tokenizer.im_end_id else [at])] for row in rows]
    data.tokens = np.concatenate([np.array(row) for row in rows])  # type: ignore[assignment]
    data.starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    data.mask = np.zeros(len(data.tokens), dtype=np.uint8)  # type: ignore[assignment]
    assert rows[0][0] == start
    finding = find("template", given(model, labelled=data))
    assert finding.level == "red" and finding.metrics["same_ids"].value == 0


def test_loops_a_model_that_says_the_same_again_is_caught(tokenizer, given):
    """Untrained, with tied embeddings and layers that add nothing, the likeliest token is the last one."""
    model = new_model(tokenizer)
    init_weights(model, 0)
    with torch.no_grad():
        model.decoder.embedding.weight *= 50
    for chat in (True, False):
        finding = find("loops", given(model, chat=chat))
        assert finding.level == "red" and finding.metrics["looping"].low > 0.2 and finding.advice
        assert finding.metrics["repeated_tokens"].low > 3 * finding.metrics["repeated_tokens"].control.high


def test_first_token_an_untrained_start_is_caught(model, given, tokenizer):
    def replace(copied):
        row = copied.decoder.embedding.weight[tokenizer.eos_id]
        row.copy_(torch.randn(row.shape, generator=torch.Generator().manual_seed(0)))

    finding = find("first_token", given(broken(model, replace)))
    assert finding.level == "red" and finding.metrics["ratio"].low > 1.5


def test_first_token_a_model_without_a_start_token_is_told_so(model, given):
    def forget(copied):
        object.__setattr__(copied.config, "bos_token_id", None)

    finding = find("first_token", given(broken(model, forget)))
    assert finding.level == "yellow" and "bos_token_id" in finding.meaning.en


def test_tokens_rows_that_were_never_trained_are_caught(model, given, tokenizer):
    chosen = [tokenizer.encode(character)[0] for character in "果球笔伞筝"]

    def reset(copied):
        weight = copied.decoder.embedding.weight
        reserved = weight[[at for name, at in tokenizer.special.items() if "reserved" in name]]
        weight[chosen] = reserved.mean(0)

    finding = find("tokens", given(broken(model, reset)))
    assert finding.level == "red"
    assert set("果球笔伞筝") <= set(finding.details["undertrained"])


def test_tokens_a_model_that_knows_none_is_not_judged(tokenizer, given):
    finding = find("tokens", given(new_model(tokenizer)))
    assert finding.level == "unknown" and "undertrained" not in finding.metrics
    assert finding.metrics["known_pass"].high < 0.8


def test_tokenizer_ids_that_no_text_has_are_caught(model, given, tokenizer, folder):
    narrow = [{"text": "小明去了学校。小红去了公园。" * 20}] * 200
    data = build_text_dataset(narrow, tokenizer, folder / "narrow")
    finding = find("tokenizer", given(model, dataset=data, labelled=None))
    assert finding.level == "red" and finding.metrics["unused"].value > 0.5


def test_positions_that_were_shuffled_are_caught(model, given):
    def shuffle(copied):
        order = torch.randperm(64, generator=torch.Generator().manual_seed(0)) + 64
        for table in (copied.decoder.cos, copied.decoder.sin):
            table[64:] = table[order] * -1

    finding = find("positions", given(broken(model, shuffle)))
    assert finding.level in ("yellow", "red") and finding.metrics["whole_to_near"].low > 1.02
    assert find("positions", given(model)).metrics["whole_to_near"].high < 1


def test_frequency_a_model_without_rare_tokens_is_caught(model, given, tokenizer, dataset):
    counts = np.bincount(dataset.tokens, minlength=tokenizer.vocab_size)
    rare = [at for at in np.argsort(counts) if counts[at] > 0][:25]

    def forget(copied):
        copied.decoder.embedding.weight[rare] *= 0.0

    finding = find("frequency", given(broken(model, forget)))
    assert finding.level == "red" and finding.metrics["rare_to_5gram"].low > 1


def test_invariance_a_batch_that_mixes_is_caught(model, given):
    def mix(copied):
        copied.decoder.blocks[0].register_forward_hook(
            lambda module, inputs, x: x + 1e-2 * x.mean(0, keepdim=True)
        )

    finding = find("invariance", given(broken(model, mix)))
    assert finding.level == "red" and finding.metrics["batch"].value > 1e-2


def test_invariance_a_cache_that_forgets_is_caught(model, given, monkeypatch):
    def forgetful(self, layer, keys, values, positions):
        update(self, layer, keys, values, positions)
        self.values[layer][:, :, 1] = 0

    update = KVCache.update
    monkeypatch.setattr(KVCache, "update", forgetful)
    finding = find("invariance", given(model))
    assert finding.level == "red" and finding.metrics["cache"].value > 1e-2
    assert finding.metrics["batch"].value < 1e-4


@pytest.mark.parametrize(("factor", "sign"), [(2.5, 1), (0.5, -1)])
def test_calibration_a_model_too_sure_or_too_unsure_is_caught(model, given, factor, sign):
    def scale(copied):
        copied.decoder.final_norm.weight *= factor

    finding = find("calibration", given(broken(model, scale)))
    assert finding.level in ("yellow", "red") and sign * finding.metrics["gap"].value > 0.1
    assert finding.metrics["error"].value > finding.metrics["error_null"].high
    assert ("surer than it is right" in finding.meaning.en) == (sign > 0)


def test_sinks_large_attention_logits_are_caught(model, given):
    def sharpen(copied):
        copied.decoder.blocks[1].self_attn.q_norm.weight *= 30

    finding = find("sinks", given(broken(model, sharpen)))
    assert finding.level == "red" and finding.metrics["logit"].value > 50


def test_sinks_growth_of_the_residual_stream_is_caught(model, given):
    def grow(copied):
        copied.decoder.blocks[1].mlp.down_proj.weight *= 1000

    finding = find("sinks", given(broken(model, grow)))
    assert finding.level == "red" and finding.metrics["growth"].value > 100


def test_sinks_numbers_that_are_not_finite_are_caught(model, given):
    def spoil(copied):
        copied.decoder.blocks[1].mlp.up_proj.weight[0, 0] = math.nan

    assert find("sinks", given(broken(model, spoil))).level == "red"


def test_sinks_heads_that_rest_on_the_first_token_are_counted(model, given):
    """Queries and keys without content: attention is even, and so on the first token in short texts alone."""

    def even(copied):
        copied.decoder.blocks[0].self_attn.q_norm.weight *= 0

    finding = find("sinks", given(broken(model, even)))
    assert max(finding.details["attention_to_first"][:4]) < 0.2
    assert len(finding.details["attention_to_first"]) == 8


def test_memorisation_a_model_that_recites_is_caught(tokenizer, given, folder):
    few = texts(7, 24)
    data = build_text_dataset([{"text": t} for t in few], tokenizer, folder / "few")
    model = train(new_model(tokenizer), text_examples(tokenizer, few), 220, rate=1e-2)
    finding = find("memorisation", given(model, dataset=data))
    assert finding.level == "red" and finding.metrics["training"].value > 0.3
    assert finding.metrics["unseen"].value < 0.05


# ---------------------------------------------------------------- the measures


def test_repetition_is_counted_as_published():
    assert loops.repeated_grams("abcdefg") == (0, 4)
    assert loops.repeated_grams("aaaaaaa") == (3, 4)  # four 4-grams, one kind
    assert loops.repeated_grams("abc") == (0, 0)


@pytest.mark.parametrize(
    ("sequence", "period"),
    [
        ([9, 8, 7] + [1, 2, 3, 4] * 3, 4),
        ([5] + [1] * 12, 1),
        ([5] + [1] * 11, 0),  # too few tokens
        (list(range(30)), 0),
        (list(range(64)) * 3, 64),
        (list(range(65)) * 3, 0),
        ([0] + list(range(64)) * 2, 0),  # seen twice
        ([1, 2, 3, 4] * 3 + [9], 0),  # it went on
        ([], 0),
    ],
)
def test_a_looping_tail_has_a_period(sequence, period):
    assert loops.looping_tail(sequence) == period


def test_random_tails_do_not_loop():
    rng = random.Random(0)
    assert not any(loops.looping_tail([rng.randrange(50) for _ in range(200)]) for _ in range(500))


def test_neighbouring_sentences_are_compared():
    assert loops.same_sentences("他走了。他走了。她来了！\n她来了！") == (2, 3)
    assert loops.same_sentences("一句") == (0, 0)


def test_calibration_error_of_known_numbers():
    sure = np.full(1000, 0.8)
    right = np.arange(1000) % 5 > 0  # four of five, in every bin
    assert calibration.calibration_error(sure, right) == pytest.approx(0, abs=1e-9)
    assert calibration.calibration_error(sure, np.ones(1000)) == pytest.approx(0.2)
    two = np.concatenate([np.full(500, 0.2), np.full(500, 0.9)])
    assert calibration.calibration_error(two, np.concatenate([np.ones(500), np.zeros(500)])) == pytest.approx(
        0.5 * 0.8 + 0.5 * 0.9
    )


def test_the_table_of_tokens_is_what_the_model_says(model, given):
    context = given(model, documents=texts(5, 3))
    table, row = context.table, context.rows[1]
    logs = model(torch.from_numpy(row[None, :-1]))[0].double().log_softmax(-1).detach()
    own = table.document == 1
    expected = -logs.gather(1, torch.from_numpy(row[1:])[:, None])[:, 0].numpy() / math.log(2)
    np.testing.assert_allclose(table.bits[own], expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(
        table.entropy[own], -(logs.exp() * logs).sum(-1).numpy() / math.log(2), rtol=1e-3, atol=1e-5
    )
    np.testing.assert_allclose(table.square[own], logs.exp().square().sum(-1).numpy(), rtol=1e-3)
    assert (table.correct[own] == (logs.argmax(-1).numpy() == row[1:])).all()
    assert table.position[own].tolist() == list(range(1, len(row)))


def test_first_tokens_cost_what_their_frequency_says():
    counted = np.array([1] * 90 + [2] * 10)
    bits = first_token.first_token_bits([1, 2, 3], counted, 100)
    kinds = 2
    expected = [(90 + kinds / 100) / 102, (10 + kinds / 100) / 102, (kinds / 100) / 102]
    np.testing.assert_allclose(2.0**-bits, expected)
    alone = first_token.first_token_bits([1, 1, 2], None, 100)
    # without the token itself: 1 of two others, of two kinds; 0 of two others, of one kind
    np.testing.assert_allclose(2.0**-alone, [1.02 / 4, 1.02 / 4, 0.01 / 3])


def test_differences_of_proportions_have_newcombes_interval():
    """Example (a) of Newcombe 1998, table II: 56/70 against 48/80, method 10: 0.0524 to 0.3339."""
    low, high = memorisation.difference_interval(Metric.proportion(56, 70), Metric.proportion(48, 80))
    assert low == pytest.approx(0.0524, abs=1e-4) and high == pytest.approx(0.3339, abs=1e-4)


def test_end_statistics_are_those_of_the_softmax(model, given, tokenizer):
    context = given(model)
    row = np.asarray(tokenizer.encode_conversation(conversations(9, 1)[0]["messages"])[0][:-1])
    ranks, shares, early = eos.end_statistics(context, [row], [5], tokenizer.im_end_id)
    share = model(torch.from_numpy(row[None, :-1]))[0].double().softmax(-1).detach().numpy()
    assert row[-1] == tokenizer.im_end_id
    assert ranks[0] == 1 + (share[-1] > share[-1, row[-1]]).sum()
    assert shares[0] == pytest.approx(share[-1, row[-1]], rel=1e-4)
    assert early[0] == pytest.approx(share[4:-1, row[-1]].mean(), rel=1e-4)


def test_alarms_need_the_whole_interval():
    assert above(Metric(0.06, 0.04, 0.1, 100), 0.05, 0.2) == "ok"
    assert above(Metric(0.08, 0.06, 0.1, 100), 0.05, 0.2) == "yellow"
    assert above(Metric(0.3, 0.21, 0.4, 100), 0.05, 0.2) == "red"
    assert above(Metric(0.3, 0.21, 0.4, 10), 0.05, 0.2) == "unknown"
    assert below(Metric(0.9, 0.8, 0.96, 100), 0.95, 0.8) == "ok"
    assert below(Metric(0.9, 0.8, 0.94, 100), 0.95, 0.8) == "yellow"
    assert below(Metric(0.5, 0.4, 0.6, 100), 0.95, 0.8) == "red"


# ---------------------------------------------------------------- inputs and output


def test_a_doctor_says_what_it_lacks(model, tokenizer):
    bare = DoctorContext(model, tokenizer, max_new_tokens=16)
    for name in doctor_names():
        finding = find(name, bare)
        needs = DOCTORS.get(name).needs
        if needs:
            assert finding.level == "unknown" and not finding.metrics
            assert all(f"--{need}" in finding.meaning.en for need in needs)
        else:
            assert finding.metrics, name


@pytest.mark.parametrize("name", ["first_token", "positions", "calibration", "frequency", "memorisation"])
def test_few_texts_are_too_few(model, given, name):
    finding = find(name, given(model, documents=texts(3, 5)))
    assert finding.level == "unknown" and "--text" in finding.meaning.en


def test_the_table_and_the_dictionary_say_the_same(model, given, monkeypatch):
    monkeypatch.setenv("HANLIN_LANG", "en")
    findings = list(examine_model(given(model), ["sinks", "invariance"]))
    shown = findings_text(findings)
    assert [doctor.name for doctor, _ in findings] == ["invariance", "sinks"]
    for doctor, finding in findings:
        raw = finding.to_dict()
        assert json.loads(json.dumps(raw)) == raw and raw["level"] in LEVELS
        assert finding.meaning.en in shown and doctor.name in shown
        assert set(raw["metrics"]) <= set(doctor.labels)
    assert shown.endswith("red 0 · yellow 0 · unknown 0 · ok 2")


def a_run(folder, model, tokenizer):
    """A directory like that of a run, with what doctors look for in it."""
    folder.mkdir()
    with artifact(folder / "model", "model", config={"kind": "sft", "seq_len": 100}) as written:
        save_weights(model, written.path, im_end_id=tokenizer.im_end_id)
        tokenizer.save(written.path)
    recipe = {"seed": 1, "corpus": {"kind": "tinyworld"}, "stages": [{"id": "sft", "kind": "sft"}]}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    build_text_dataset([{"text": t} for t in texts(2, 40)], tokenizer, folder / "dataset")
    build_conversation_dataset(conversations(2, 40), tokenizer, folder / "data" / "sft", max_length=128)
    return folder


def test_a_run_brings_what_doctors_need(model, tokenizer, tmp_path):
    run = a_run(tmp_path / "run", model, tokenizer)
    for path in (run, run / "model"):
        context = doctor_context(path, count=30)
        assert context.chat and context.seen == 100
        assert context.dataset is not None and context.labelled is not None
        assert len(context.conversations) == 30 and not context.documents
    alone = saved(model, tokenizer, tmp_path / "alone")
    context = doctor_context(alone)
    assert context.dataset is None and not context.conversations and context.seen == 128


def test_the_command_prints_a_table_or_json_and_fails_only_when_strict(
    model, tokenizer, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("HANLIN_LANG", "en")
    file = tmp_path / "unseen.txt"
    file.write_text("\n".join(texts(3, 30)), encoding="utf-8")

    def spoil(copied):
        copied.decoder.blocks[1].self_attn.q_norm.weight *= 30

    path = saved(broken(model, spoil), tokenizer, tmp_path / "model")
    app(["inspect", "model", str(path), "--doctors", "sinks,calibration", "--text", str(file)])
    assert "red" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        app(["inspect", "model", str(path), "--doctors", "sinks", "--strict", "--json"])
    assert stopped.value.code == 1
    raw = json.loads(capsys.readouterr().out)
    assert raw["sinks"]["level"] == "red" and raw["sinks"]["metrics"]["logit"]["value"] > 50


@pytest.mark.parametrize("name", ["eoss", "sinks,nothing"])
def test_an_unknown_doctor_is_refused_before_the_model_is_opened(tmp_path, name):
    with pytest.raises(HanlinError, match="There are: calibration, "):
        app(["inspect", "model", str(tmp_path), "--doctors", name])


def test_wrong_inputs_are_refused(model, tokenizer, tmp_path, dataset):
    path = saved(model, tokenizer, tmp_path / "model")
    with pytest.raises(HanlinError, match="--count"):
        doctor_context(path, count=0)
    with pytest.raises(HanlinError):
        doctor_context(path, text=[tmp_path / "none.txt"])
    with pytest.raises(HanlinError):
        doctor_context(path, dataset=tmp_path / "none")
    from tests.support import tiny_tokenizer

    other = tiny_tokenizer(tmp_path / "other", 300)
    data = build_text_dataset([{"text": text(random.Random(0))}], other, tmp_path / "data")
    with pytest.raises(HanlinError, match="another tokenizer"):
        doctor_context(path, dataset=data.path)


def test_replies_are_to_different_prompts(model, given):
    replies = given(model).replies
    assert sum(reply.greedy for reply in replies) == len(replies) // 2 == min(COUNT, 64)
    assert all(reply.room <= 48 and len(reply.ids) <= reply.room for reply in replies)
    assert context_module.PROMPT_TOKENS < 48
