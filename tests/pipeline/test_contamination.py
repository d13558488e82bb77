"""`hanlin eval --corpus`, as it is used: from questions and training texts to a verdict and a record of each
item, looked up once."""

from __future__ import annotations

import json

import pytest
import torch

from hanlin.cli.main import main
from hanlin.corpus.canaries import Canaries
from hanlin.evaluation.contamination.lookup import Lookup
from hanlin.stages.base import write_model
from tests.support import tiny_model, tiny_tokenizer

torch.set_num_threads(1)
THINGS = ["铅笔", "书包", "雨伞", "风筝", "帽子", "饼干", "茶杯", "灯笼", "皮球", "苹果"]
COUNT = 40


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = tiny_tokenizer(folder / "tokenizer")
    write_model(
        folder / "m",
        tiny_model("qwen3", tokenizer, seed=1),
        tokenizer,
        parents={},
        config={},
        seed=1,
        metrics={},
    )
    return folder / "m"


def question(at: int) -> str:
    return f"小明在第{at}天的早上把{THINGS[at % 10]}放在了图书馆二楼的哪里？"


@pytest.fixture
def files(tmp_path):
    """Questions, and training texts that hold every second one, half of these with the answer."""
    rows = [f"{at},{question(at)},窗台上,椅子下面,A" for at in range(COUNT)]
    (tmp_path / "mine.csv").write_text("编号,题目,A,B,答案\n" + "\n".join(rows) + "\n", encoding="utf-8")
    documents = [
        {"text": f"今天的天气很好，大家都去河边散步。第{at}篇。", "source": "web"} for at in range(20)
    ]
    for at in range(0, COUNT, 2):
        ending = "答案：窗台上。" if at % 4 == 0 else "请想一想。"
        documents.append({"text": f"练习：{question(at)}{ending}", "source": "exams"})
    with open(tmp_path / "corpus.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(document, ensure_ascii=False) + "\n" for document in documents)
    return tmp_path


def evaluated(monkeypatch, capsys, *words) -> dict:
    monkeypatch.setattr("sys.argv", ["hanlin", "eval", *map(str, words)])
    main()
    return json.loads(capsys.readouterr().out)


def test_items_are_looked_up_once_and_each_score_says_what_was_seen(
    model, files, monkeypatch, capsys
) -> None:
    words = [model, files / "mine.csv", "--corpus", files / "corpus.jsonl", "--out", files / "out"]
    found = evaluated(monkeypatch, capsys, *words)
    for name in ("mine/cloze", "mine/letters"):
        note = found["benchmarks"][name]["notes"]["contamination"]
        assert note["verdict"] == "seen"
        assert note["items"] == {"question+answer": 10, "none": 20, "question": 10}
        assert note["share"]["value"] == 0.5 and note["dirty"]["n"] == note["clean"]["n"] == 20
        gap = note["difference"]
        assert gap["low"] <= gap["value"] <= gap["high"]
        assert gap["value"] == pytest.approx(note["dirty"]["value"] - note["clean"]["value"])
    lines = [json.loads(line) for line in (files / "out" / "items_seen.jsonl").read_text().splitlines()]
    assert len(lines) == COUNT  # once for both forms
    third = next(line for line in lines if line["id"] == "4")
    assert (third["seen"], third["source"], third["document"]) == ("question+answer", "exams", 22)
    assert lines[1]["seen"] == "none" and lines[1]["document"] == -1

    def read(self, texts):
        raise AssertionError("looked up again")

    monkeypatch.setattr(Lookup, "read", read)
    assert evaluated(monkeypatch, capsys, *words) == found
    with open(files / "corpus.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"text": question(1)}, ensure_ascii=False) + "\n")
    with pytest.raises(AssertionError, match="looked up again"):
        evaluated(monkeypatch, capsys, *words)
    monkeypatch.undo()
    again = evaluated(monkeypatch, capsys, *words)
    assert again["benchmarks"]["mine/cloze"]["notes"]["contamination"]["items"]["question"] == 11


def test_what_is_not_known_is_never_clean(model, files, monkeypatch, capsys) -> None:
    def verdict(*words) -> str:
        found = evaluated(monkeypatch, capsys, model, files / "mine.csv", *words)
        return found["benchmarks"]["mine/cloze"]["notes"]["contamination"]["verdict"]

    assert verdict() == "unknown"  # a model without a run
    assert verdict("--corpus", "none") == "unknown"
    (files / "other.jsonl").write_text('{"text": "今天的天气很好，大家都去河边散步。"}\n', encoding="utf-8")
    assert verdict("--corpus", files / "other.jsonl") == "unproven"
    record = Canaries(5, (1, 4), 5).write(files / "canaries.jsonl")
    assert verdict("--corpus", files / "other.jsonl", "--canary", record) == "unproven"
    assert verdict("--corpus", files / "other.jsonl", files / "canaries.jsonl", "--canary", record) == "clean"


def test_canaries_and_the_order_are_told_and_shown(model, files, monkeypatch, capsys) -> None:
    record = Canaries(5, (1, 4), 5).write(files / "canaries.jsonl")
    found = evaluated(
        monkeypatch,
        capsys,
        *(model, files / "mine.csv", "--corpus", files / "corpus.jsonl", files / "canaries.jsonl"),
        *("--canary", record, "--ordering"),
    )
    assert [(row["times"], row["in_texts"], row["copies"]) for row in found["canaries"]] == [
        (1, 5, 1.0),
        (4, 5, 4.0),
    ]
    assert not any(row["found"] for row in found["canaries"])  # the weights are random
    order = found["benchmarks"]["mine/cloze"]["notes"]["contamination"]["ordering"]
    assert order["shards"] == 13 and order["p_value"] > 1e-3


def test_the_table_has_a_line_for_each_score(model, files, monkeypatch, capsys) -> None:
    from hanlin.common.progress import Progress
    from hanlin.pipeline.benchmarks import Asked, evaluate_benchmarks, outcome_table, questions_of
    from hanlin.pipeline.contamination import (
        ContaminationConfig,
        canary_table,
        check_contamination,
        open_inputs,
    )

    asked, progress = Asked(model, own=files / "mine.csv"), Progress()
    todo = questions_of(asked, progress)
    outcomes = evaluate_benchmarks(asked, None, progress, todo)
    record = Canaries(5, (1,), 5).write(files / "canaries.jsonl")
    inputs = open_inputs(ContaminationConfig((files / "corpus.jsonl",), record), model)
    noted, groups = check_contamination(inputs, todo, outcomes, None, progress)
    text = outcome_table(noted)
    assert text.count("In the training texts: 50.0% of 40 items, 10 of them with the answer.") == 2
    assert "Difference" in text and "contamination" not in outcomes["mine/cloze"].notes
    assert "planted times" in canary_table(groups)


@pytest.mark.parametrize(
    "words, said",
    [
        (["--canary", "x.json"], "look for the items of QUESTIONS or of --data"),
        (["mine.csv", "--corpus", "nowhere.jsonl"], "nowhere.jsonl"),
        (["mine.csv", "--canary", "mine.csv"], "no record of canaries"),
        (["mine.csv", "--canary", "nowhere.json"], "No such file: nowhere.json"),
    ],
)
def test_a_mistake_is_told(model, files, monkeypatch, capsys, words, said) -> None:
    monkeypatch.chdir(files)
    monkeypatch.setattr("sys.argv", ["hanlin", "eval", str(model), *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code
    assert said in capsys.readouterr().err
