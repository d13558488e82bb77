"""Questions of one's own: headers in two languages, answers in three ways, and mistakes that are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hanlin.common.errors import HanlinError
from hanlin.evaluation.benchmarks.items import Item
from hanlin.evaluation.benchmarks.own import PROMPTS, read_own

CHOSEN = [
    Item("1", "天空是什么颜色？", ("红", "蓝", "绿"), 1),
    Item("2", "一年有几个月？", ("十", "十二"), 1),
]


def written(tmp_path: Path, name: str, content: str, encoding: str = "utf-8") -> Path:
    path = tmp_path / name
    path.write_text(content, encoding=encoding)
    return path


TABLES = {
    "english.csv": "question,A,B,C,answer\n天空是什么颜色？,红,蓝,绿,B\n一年有几个月？,十,十二,,B\n",
    "chinese.csv": "题目,选项A,选项B,选项C,答案\n天空是什么颜色？,红,蓝,绿,B\n一年有几个月？,十,十二,,B\n",
    "by_text.csv": "问题,A,B,C,正确答案\n天空是什么颜色？,红,蓝,绿,蓝\n一年有几个月？,十,十二,,十二\n",
    "marked.csv": "题干, 选项 A ,选项 B,选项 C,答案\n天空是什么颜色？,红,蓝,绿,（Ｂ）\n"
    "一年有几个月？,十,十二,,b.\n",
    "numbered.tsv": "Question\tOption 1\tOption 2\tOption 3\tAnswer\n天空是什么颜色？\t红\t蓝\t绿\t2\n"
    "一年有几个月？\t十\t十二\t\t2\n",
    "list.csv": 'question,choices,answer\n天空是什么颜色？,"[""红"", ""蓝"", ""绿""]",2\n'
    '一年有几个月？,"[""十"", ""十二""]",B\n',
    "blank_lines.csv": "question,A,B,C,answer\n天空是什么颜色？,红,蓝,绿,B\n,,,,\n"
    "一年有几个月？,十,十二,,B\n,,,,\n",
    "list.jsonl": '{"question": "天空是什么颜色？", "choices": ["红", "蓝", "绿"], "answer": 2}\n'
    '{"question": "一年有几个月？", "choices": ["十", "十二"], "answer": "十二"}\n',
    "letters.json": json.dumps(
        [
            {"题目": "天空是什么颜色？", "选项": {"A": "红", "B": "蓝", "C": "绿"}, "答案": "B"},
            {"题目": "一年有几个月？", "选项": {"A": "十", "B": "十二"}, "答案": "B"},
        ],
        ensure_ascii=False,
    ),
}


@pytest.mark.parametrize("name", sorted(TABLES))
def test_questions_with_choices_are_read(name, tmp_path):
    assert read_own(written(tmp_path, name, TABLES[name])) == (CHOSEN, "choices")


def test_tables_from_a_spreadsheet_program_are_read(tmp_path):
    for encoding in ("utf-8-sig", "gb18030"):
        assert read_own(written(tmp_path, "x.csv", TABLES["chinese.csv"], encoding)) == (CHOSEN, "choices")


def test_questions_whose_answer_is_written_are_read(tmp_path):
    path = written(
        tmp_path, "x.jsonl", '{"题目": "三乘五？", "答案": 15}\n{"题目": "最长的河？", "答案": "长江"}\n'
    )
    items, kind = read_own(path)
    assert kind == "answer" and [item.answer for item in items] == ["15", "长江"]
    assert items[0].choices == () and items[0].gold is None


def test_further_columns_are_known(tmp_path):
    path = written(tmp_path, "x.csv", "编号,科目,材料,问题,答案\nq7,语文,小河流进湖里。,流进哪里？,湖\n")
    assert read_own(path)[0] == [
        Item("q7", "流进哪里？", answer="湖", passage="小河流进湖里。", subject="语文")
    ]


def test_a_question_may_be_any_that_its_choices_allow(tmp_path):
    """A letter that is a choice's own text, and a number that is one, mean that text where both agree."""
    path = written(tmp_path, "x.csv", "question,A,B,answer\n维生素哪种抗坏血？,A,C,C\n1+1=,2,3,2\n")
    assert [item.gold for item in read_own(path)[0]] == [1, 0]


def test_prompts_render(tmp_path):
    items, kind = read_own(written(tmp_path, "x.csv", TABLES["chinese.csv"]))
    for prompt in PROMPTS[kind].values():
        assert len(prompt.requests(items[0], items[1:])) == 3
    items, kind = read_own(written(tmp_path, "y.csv", "材料,问题,答案\n小河流进湖里。,流进哪里？,湖\n"))
    assert PROMPTS[kind]["answer"].written(items[0]) == "小河流进湖里。\n问题：流进哪里？\n答案："


HEADER = "question,A,B,C,answer\n好题？,甲,乙,丙,A\n"


@pytest.mark.parametrize(
    "name,content,parts",
    [
        ("x.csv", "题,A,B,答案\n好？,甲,乙,A\n", ["question", "题目", "题, A, B, 答案"]),
        ("x.csv", "题目，A，B，答案\n好？，甲，乙，A\n", ["question", "题目，A，B，答案"]),
        ("x.csv", "题目,A,B\n好？,甲,乙\n", ["answer", "标准答案"]),
        ("x.csv", HEADER + "坏题？,甲,乙,丙,D\n", ["question 2", "'D'", "up to C"]),
        ("x.csv", HEADER + "坏题？,甲,乙,丙,丁\n", ["question 2", "'丁'"]),
        ("x.csv", HEADER + "坏题？,甲,乙,丙,1\n", ["question 2", "'1'"]),
        ("x.csv", HEADER + "坏题？,甲,乙,丙,AB\n", ["question 2", "'AB'"]),
        ("x.csv", HEADER + "坏题？,甲,乙,甲,A\n", ["question 2", "the same: 甲"]),
        ("x.csv", HEADER + "坏题？,甲,,丙,A\n", ["question 2", "empty"]),
        ("x.csv", HEADER + "坏题？,甲,,,A\n", ["question 2", "1 choices"]),
        ("x.csv", HEADER + "坏题？,甲,乙,丙,\n", ["question 2", "no answer"]),
        ("x.csv", HEADER + ",甲,乙,丙,A\n", ["question 2", "no text"]),
        ("x.csv", HEADER + "坏题，有,逗号？,甲,乙,丙,A\n", ["question 2", "more cells"]),
        ("x.csv", "id,question,answer\n7,一？,1\n7,二？,2\n", ["question 2", "id 7", "question 1"]),
        ("x.csv", "question,A,B,answer\n哪个？,B,A,A\n", ["question 1", "another by its letter"]),
        ("x.jsonl", '{"question": "？", "choices": ["甲", "乙"], "answer": 0}\n', ["question 1", "'0'"]),
        ("x.jsonl", '{"question": "？", "choices": ["2", "1"], "answer": 1}\n', ["question 1", "another by"]),
        ("x.jsonl", '{"question": "？", "choices": "甲|乙", "answer": "A"}\n', ["question 1", "no list"]),
        ("x.jsonl", '{"question": "？", "choices": 3, "answer": "A"}\n', ["question 1", "no list"]),
        (
            "x.jsonl",
            '{"question": "？", "answer": "甲"}\n'
            '{"question": "？", "choices": ["甲", "乙"], "answer": "A"}\n',
            ["question 1", "no list"],
        ),
        ("x.jsonl", "[1, 2]\n", ["record 1"]),
        ("x.jsonl", '{"question": "？", "answer": "1"}\n{"question"\n', ["line 2"]),
        ("x.csv", "", ["no questions"]),
        ("x.csv", "question,answer\n", ["no questions"]),
        ("x.json", "[]", ["no questions"]),
        ("x.xlsx", "PK", ["spreadsheet", "CSV"]),
        ("x.txt", "题目\n", ["csv, tsv, jsonl, json"]),
    ],
)
def test_mistakes_are_named(name, content, parts, tmp_path):
    path = written(tmp_path, name, content)
    with pytest.raises(HanlinError) as caught:
        read_own(path)
    said = caught.value.en
    assert str(path) in said and "\n" not in said and caught.value.zh != said
    for part in parts:
        assert part in said, said


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(HanlinError, match="no.csv"):
        read_own(tmp_path / "no.csv")
