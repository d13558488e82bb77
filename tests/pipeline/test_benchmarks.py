"""`hanlin eval` on benchmarks, as it is used: from files to scores and a record of each item, resumed,
compared."""

from __future__ import annotations

import json

import pytest
import torch

from hanlin.cli.main import main
from hanlin.common.errors import HanlinError
from hanlin.common.progress import Progress
from hanlin.evaluation.benchmarks import run as asking
from hanlin.pipeline import benchmarks, load_recipe, run_recipe
from hanlin.pipeline.against import comparisons, others, plan_rows, plan_table
from hanlin.pipeline.benchmarks import Asked, evaluate_benchmarks, outcome_table, questions_of
from hanlin.pipeline.gate import tolerance
from hanlin.stages.base import write_model
from tests.benchmark_files import write
from tests.pipeline.test_pipeline import TINY
from tests.support import tiny_model, tiny_tokenizer

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tokenizer = tiny_tokenizer(folder / "tokenizer")
    for seed in (1, 2):
        model = tiny_model("qwen3", tokenizer, seed=seed)
        write_model(folder / str(seed), model, tokenizer, parents={}, config={}, seed=seed, metrics={})
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name in ("c3", "zhoblimp", "cmath"):
        write(name, folder)
    return folder


class Told(Progress):
    def __init__(self):
        self.stages: list[str] = []
        self.warnings: list[str] = []

    def stage(self, index, count, name):
        self.stages.append(name)

    def warn(self, message, /, **fields):
        self.warnings.append(message.format(**fields))


def test_scores_their_controls_and_the_record_of_each_item(models, data, tmp_path):
    asked = Asked(models / "1", data, names=("c3", "c3/letters", "zhoblimp", "cmath"))
    found = evaluate_benchmarks(asked, tmp_path / "out", Told())
    assert list(found) == ["c3/cloze", "c3/letters", "zhoblimp/pairs", "cmath/answer"]
    for name, outcome in found.items():
        metric, notes = outcome.metrics[name], outcome.notes
        assert metric.n == len(outcome.samples) == notes["items"]
        assert {"protocol", "prompt_sha256", "data_sha256", "main", "split"} <= set(notes)
        lines = (tmp_path / "out" / f"samples_{name.replace('/', '_')}.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == list(outcome.samples)
        assert sum(sample["score"] for sample in outcome.samples) / metric.n == pytest.approx(metric.value)
    assert "majority" not in found["zhoblimp/pairs"].notes["controls"]
    control = found["c3/cloze"].metrics["c3/cloze"].control
    assert control is not None and control.value == max(found["c3/cloze"].notes["controls"].values())
    text = outcome_table(found)
    assert all(name in text for name in found)
    layout = json.loads((tmp_path / "out" / "results_lm_eval.json").read_text())
    assert layout["results"]["c3_cloze"]["acc,none"] == pytest.approx(
        found["c3/cloze"].notes["by_normalisation"]["sum"]
    )
    assert layout["lm_eval_version"] is None and layout["producer"] == "hanlin"


def test_killed_between_two_benchmarks_it_goes_on_and_ends_the_same(models, data, tmp_path, monkeypatch):
    asked = Asked(models / "1", data, names=("c3", "zhoblimp"))
    whole = evaluate_benchmarks(asked, tmp_path / "whole", Told())
    real, calls = asking.ask, []

    def killed(question, *args, **settings):
        calls.append(question.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(question, *args, **settings)

    monkeypatch.setattr(benchmarks, "ask", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate_benchmarks(asked, tmp_path / "part", Told())
    monkeypatch.undo()
    told = Told()
    found = evaluate_benchmarks(asked, tmp_path / "part", told)
    assert told.stages == ["zhoblimp/pairs"]
    for name, outcome in whole.items():
        assert found[name].metrics == outcome.metrics and found[name].samples == outcome.samples
        file = f"samples_{name.replace('/', '_')}.jsonl"
        assert (tmp_path / "part" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    # another model is another result, and so is a record that was touched
    told = Told()
    evaluate_benchmarks(Asked(models / "2", data, names=("c3",)), tmp_path / "part", told)
    assert told.stages == ["c3/cloze"]
    (tmp_path / "part" / "samples_c3_cloze.jsonl").write_text("{}\n")
    told = Told()
    evaluate_benchmarks(Asked(models / "2", data, names=("c3",)), tmp_path / "part", told)
    assert told.stages == ["c3/cloze"]


def test_a_suite_says_what_is_missing_and_asks_the_rest(models, data, tmp_path):
    told = Told()
    asked = Asked(models / "1", data, suite="chat")
    assert [question.name for question in questions_of(asked, told)] == ["cmath/answer"]
    assert any("mifeval_zh, safetybench" in text for text in told.warnings)
    with pytest.raises(HanlinError, match="no suite 'quik'. There are: quick, zh, chat, compat"):
        questions_of(Asked(models / "1", data, suite="quik"), told)
    with pytest.raises(HanlinError, match="no files of belebele: expected"):
        questions_of(Asked(models / "1", data, names=("belebele",)), told)
    with pytest.raises(HanlinError, match="no benchmark 'c4'"):
        questions_of(Asked(models / "1", data, names=("c4",)), told)
    with pytest.raises(HanlinError, match="no protocol 'mine'. There are: hanlin-zh"):
        questions_of(Asked(models / "1", data, names=("c3",), protocol="mine"), told)
    with pytest.raises(HanlinError, match="no form 'letter'"):
        questions_of(Asked(models / "1", data, names=("c3/letter",)), told)


def test_two_models_are_compared_over_the_same_items(models, data, tmp_path):
    names = ("c3", "zhoblimp")
    mine = evaluate_benchmarks(Asked(models / "1", data, names=names), None, Told())
    asked = Asked(models / "1", data, names=names)
    rows = comparisons(mine, others(asked, models / "2", mine, Told()))
    theirs = evaluate_benchmarks(Asked(models / "2", data, names=names), tmp_path / "theirs", Told())
    for row in rows:
        name = row["name"]
        assert row["items"] == len(mine[name].samples)
        assert row["difference"] == pytest.approx(
            mine[name].metrics[name].value - theirs[name].metrics[name].value
        )
        assert row["low"] <= row["difference"] <= row["high"]
    # the other's records do as well as the other model, its harness's among them
    assert comparisons(mine, others(asked, tmp_path / "theirs", mine, Told())) == rows
    one = {"c3/cloze": mine["c3/cloze"]}
    file = tmp_path / "theirs" / "samples_c3_cloze.jsonl"
    assert comparisons(one, others(asked, file, one, Told())) == rows[:1]
    itself = comparisons(mine, {name: outcome.samples for name, outcome in mine.items()})
    assert all(row["difference"] == 0 and row["p"] == 1.0 for row in itself)
    with pytest.raises(HanlinError, match="neither a model nor records"):
        others(asked, tmp_path / "nothing.jsonl", one, Told())


def test_the_plan_says_what_can_be_seen_without_a_model(data):
    questions = questions_of(Asked(data / "no-model", data, names=("c3", "cmath")), Told())
    rows = {row["name"]: row for row in plan_rows(questions)}
    assert rows["c3/cloze"]["clusters"] < rows["c3/cloze"]["items"]
    assert 0.25 <= rows["c3/cloze"]["chance"] <= 0.5 and rows["cmath/answer"]["chance"] is None
    assert rows["c3/cloze"]["between_models"] == pytest.approx(
        2.80 * (0.2 / rows["c3/cloze"]["items"]) ** 0.5, rel=1e-3
    )
    assert all(name in plan_table(list(rows.values())) for name in rows)


def test_own_questions_by_the_command(models, tmp_path, capsys, monkeypatch):
    file = tmp_path / "mine.csv"
    file.write_text("题目,A,B,答案\n小明去了哪里？,图书馆,河边,A\n书是谁的？,小红,小明,B\n", encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["hanlin", "eval", str(models / "1"), str(file)])
    main()
    found = json.loads(capsys.readouterr().out)
    assert set(found["benchmarks"]) == {"mine/cloze", "mine/letters"}
    assert found["benchmarks"]["mine/cloze"]["metrics"]["mine/cloze"]["n"] == 2
    for command, said in (
        (["--data", str(tmp_path)], "QUESTIONS, --data: one of them at a time"),
        (["--text", str(file)], "QUESTIONS, --text: one of them at a time"),
    ):
        monkeypatch.setattr("sys.argv", ["hanlin", "eval", str(models / "1"), str(file), *command])
        with pytest.raises(SystemExit):
            main()
        assert said in capsys.readouterr().err
    for command, said in ((["--suite", "zh"], "need --data"), (["--data", str(tmp_path)], "needs --tasks")):
        monkeypatch.setattr("sys.argv", ["hanlin", "eval", str(models / "1"), *command])
        with pytest.raises(SystemExit):
            main()
        assert said in capsys.readouterr().err


def test_a_recipe_asks_benchmarks_of_each_model_and_guards_them(data, tmp_path):
    dropped = ("reasoning", "direct", "dpo", "reward", "grpo", "equal-time-sft")
    tiny = [item for item in TINY if item.partition(".")[0] not in dropped]
    recipe = load_recipe(
        "demo",
        [
            *tiny,
            *(f"{name}=null" for name in dropped),
            f"evaluation.benchmarks={data}",
            "evaluation.suite=compat",
        ],
    )
    report = run_recipe(recipe, tmp_path / "run", Progress())
    name = "zhoblimp/pairs/lm-eval"
    stages = {stage["id"]: stage for stage in report["stages"]}
    for stage in ("pretrain", "sft", "evaluation"):
        assert stages[stage]["metrics"][name]["n"] > 0 and stages[stage]["metrics"][name]["control"]
    before = json.loads((tmp_path / "run" / "steps" / "sft.json").read_text())["notes"]["before"]
    assert before[name]["value"] == stages["pretrain"]["metrics"][name]["value"]
    assert tolerance(name) == 0.02
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "ZhoBLiMP" in page
    with pytest.raises(HanlinError, match="no directory .*nowhere with benchmarks"):
        run_recipe(
            load_recipe("demo", [*TINY, "evaluation.benchmarks=nowhere"]), tmp_path / "other", Progress()
        )
