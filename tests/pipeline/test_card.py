"""`hanlin card` as it is used: from a model's directory and what was measured of it to a README.md."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import yaml

from hanlin.cli.main import main
from hanlin.common.errors import HanlinError
from hanlin.common.progress import Progress
from hanlin.evaluation.item_scores import item_ids
from hanlin.evaluation.kept_items import keep_items
from hanlin.evaluation.statistics import Metric
from hanlin.pipeline.benchmarks import RESULTS, Asked, evaluate_benchmarks
from hanlin.pipeline.card import base_model_of, card_of, write_card, write_card_of_run
from hanlin.report.model_card import card_state
from hanlin.report.model_index import given
from hanlin.stages.base import content_hash, write_model
from tests.benchmark_files import write
from tests.support import tiny_model, tiny_tokenizer

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two models, and what hanlin eval kept of the first."""
    folder = tmp_path_factory.mktemp("card")
    tokenizer = tiny_tokenizer(folder / "tokenizer")
    for seed in (1, 2):
        model = tiny_model("qwen3", tokenizer, seed=seed)
        config = {"kind": "sft", "id": "chat"}
        write_model(
            folder / str(seed),
            model,
            tokenizer,
            parents={"model": "ef" * 32},
            config=config,
            seed=7,
            metrics={},
        )
    for name in ("c3", "zhoblimp", "cmath"):
        write(name, folder / "data")
    asked = Asked(folder / "1", folder / "data", names=("c3", "zhoblimp", "cmath"))
    evaluate_benchmarks(asked, folder / "scores", Progress())
    return folder


@pytest.fixture
def model(place, tmp_path):
    """A copy of the first model, to write into."""
    return shutil.copytree(place / "1", tmp_path / "tiny_chat")


@pytest.fixture
def hanlin(monkeypatch, capsys):
    """The command: its output, or what it said where it failed."""

    def run(*arguments) -> str:
        monkeypatch.setattr("sys.argv", ["hanlin", *map(str, arguments)])
        try:
            main()
        except SystemExit as ended:
            assert ended.code == 1
            return capsys.readouterr().err
        return capsys.readouterr().out

    return run


def test_scores_come_from_what_eval_kept_and_one_without_a_control_is_counted(place, model, hanlin):
    said = hanlin("card", model, "--scores", place / "scores", "--licence", "apache-2.0")
    assert "scores: 2" in said and "1 score left out: no control." in said
    text = (model / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(text.split("---\n")[1])
    results = {result["dataset"]["type"]: result for result in head["model-index"][0]["results"]}
    kept = json.loads((place / "scores" / RESULTS).read_text())
    assert set(results) == {"c3", "zhoblimp"} and head["license"] == "apache-2.0"
    for name in ("c3/cloze", "zhoblimp/pairs"):
        metric = results[name.partition("/")[0]]["metrics"][0]
        assert metric["value"] == kept[name]["metrics"][name]["value"]
        assert metric["args"]["n"] == kept[name]["notes"]["items"]
        assert metric["args"]["data_sha256"] == kept[name]["notes"]["data_sha256"]
        assert metric["args"]["prompt_sha256"] == kept[name]["notes"]["prompt_sha256"]
    assert "由翰林" not in text and "用 Hanlin 翰林制作" in text and "`efefefefefefefef`" in text
    assert content_hash(model)[:16] in text and "tiny\\_chat" in text and "CMATH" not in text
    assert not [file.name for file in model.iterdir() if file.name.startswith(".")]


def test_scores_of_another_model_are_refused(place, tmp_path, hanlin):
    other = shutil.copytree(place / "2", tmp_path / "other")
    said = hanlin("card", other, "--scores", place / "scores")
    assert "c3/cloze was scored by another model" in said and content_hash(other)[:16] in said
    assert not (other / "README.md").exists()


def test_a_record_that_does_not_say_its_model_or_was_touched_is_counted(place, model, tmp_path):
    scores = shutil.copytree(place / "scores", tmp_path / "scores")
    kept = json.loads((scores / RESULTS).read_text())
    del kept["c3/cloze"]["model"]
    (scores / RESULTS).write_text(json.dumps(kept))
    (scores / "samples_zhoblimp_pairs.jsonl").write_text("{}\n")
    card = card_of(model, scores=[scores])
    assert given(card.scores) == []
    reasons = {score.name: [why.en for why in score.lacks()] for score in card.scores}
    assert reasons["c3/cloze"] == ["no model hash"]
    assert reasons["zhoblimp/pairs"] == ["its items are missing or altered"]
    (scores / RESULTS).write_text('{"c3/cloze": {"metrics": {}}}')
    with pytest.raises(HanlinError, match="is not what hanlin eval writes: c3/cloze"):
        card_of(model, scores=[scores])
    with pytest.raises(HanlinError, match="has no scores"):
        card_of(model, scores=[tmp_path])


def test_what_hanlin_did_not_write_stays(model, tmp_path, hanlin):
    readme = model / "README.md"
    readme.write_text("# mine\n")
    assert "was not written by Hanlin" in hanlin("card", model)
    assert readme.read_text() == "# mine\n"
    hanlin("card", model, "--out", tmp_path / "cards")
    assert card_state((tmp_path / "cards" / "README.md").read_text(encoding="utf-8")) == "ours"
    assert "is a file, not a directory" in hanlin("card", model, "--out", model / "config.json")
    hanlin("card", model, "--force")
    again = json.loads(hanlin("card", model, "--name", "小新", "--json"))  # our own is written over
    assert again["name"] == "小新" and "# 小新" in readme.read_text(encoding="utf-8")
    readme.write_text(readme.read_text(encoding="utf-8").replace("小新", "大新"), encoding="utf-8")
    assert "was edited since" in hanlin("card", model)
    assert "大新" in readme.read_text(encoding="utf-8")


def test_a_model_of_elsewhere_has_a_card_of_its_files(tmp_path, hanlin):
    safetensors = pytest.importorskip("safetensors.torch")
    config = {"model_type": "mamba", "vocab_size": 32000, "num_hidden_layers": 3, "_name_or_path": "who/base"}
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["MambaForCausalLM"]}))
    safetensors.save_file({"a": torch.zeros(1000, 30), "b": torch.zeros(7)}, tmp_path / "m.safetensors")
    hanlin("card", tmp_path, "--name", "x")
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "30k" in text and "32,000" in text and "mamba" in text and "hanlin chat" not in text
    assert yaml.safe_load(text.split("---\n")[1])["base_model"] == "who/base"
    assert "hanlin card" not in text.replace("<!-- hanlin card", "")
    (tmp_path / "config.json").write_text(json.dumps(config | {"_name_or_path": "/home/me/base"}))
    assert base_model_of(tmp_path) == ""


def test_doctors_findings_are_shown_worst_first(model, tmp_path, hanlin):
    def finding(level, zh, en):
        return {
            "level": level,
            "metrics": {},
            "meaning": {"zh": zh, "en": en},
            "advice": {"zh": "", "en": ""},
        }

    findings = {"sinks": finding("ok", "正常。", "Fine."), "eos": finding("red", "停不下来。", "It runs on.")}
    (tmp_path / "doctors.json").write_text(json.dumps(findings))
    hanlin("card", model, "--doctors", tmp_path / "doctors.json")
    zh, en = (model / "README.md").read_text(encoding="utf-8").split("\n---\n")[1:3]
    rows = [line for line in zh.split("## 体检")[1].split("## ")[0].splitlines() if line.startswith("| ")]
    assert "红" in rows[1] and "停不下来。" in rows[1] and "正常。" in rows[2]
    assert "| red | It runs on. |" in en
    (tmp_path / "doctors.json").write_text('{"eos": 1}')
    assert "holds no findings of doctors" in hanlin("card", model, "--doctors", tmp_path / "doctors.json")


def test_a_run_gives_its_own_scores_and_keeps_an_edited_card(place, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(place / "1", run / "model")
    values = [1.0, 0.0] * 50
    base = Metric.share([0.0] * 100, ids=item_ids(range(100)))
    share = Metric.share(values, ids=item_ids(range(100))).with_control("base", base)
    metrics = {"tinyworld/story_qa": share, "tinyworld/greetings": Metric.share(values)}
    files = keep_items(run, "evaluation", metrics)
    stage = {
        "id": "evaluation",
        "kind": "evaluation",
        "seconds": 1.0,
        "peak_rss_mb": 1.0,
        "kept": True,
        "metrics": {name: metric.to_dict() for name, metric in metrics.items()},
        "samples": [],
        "scores": files,
    }
    report = {
        "format": 2,
        "recipe": "demo",
        "seed": 1,
        "machine": {},
        "seconds": 1.0,
        "peak_rss_mb": 1.0,
        "model": "model",
        "stages": [stage],
    }
    (run / "report.json").write_text(json.dumps(report))
    for path in (run, run / "model"):
        card = card_of(path)
        assert card.name == "demo" and card.report is not None
        (score,) = given(card.scores)
        assert score.name == "tinyworld/story_qa" and score.data == share.items.data
        (lacking,) = (score for score in card.scores if score.lacks())
        assert [why.en for why in lacking.lacks()] == ["no control", "no data hash"]
    # the run writes what the command writes
    write_card_of_run(run, Progress())
    first = (run / "model" / "README.md").read_bytes()
    write_card(card_of(run), run / "model")
    assert (run / "model" / "README.md").read_bytes() == first
    (run / "model" / "README.md").write_bytes(first + b"by hand\n")
    write_card_of_run(run, Progress())
    assert (run / "model" / "README.md").read_bytes() == first + b"by hand\n"
    # another model beside it is not the run's
    shutil.copytree(place / "2", run / "models" / "sft")
    assert card_of(run / "models" / "sft").report is None
