"""Benchmarks as published: every layout is read, every prompt is the published one to the byte."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text
from hanlin.evaluation.benchmarks.base import BENCHMARKS, PROTOCOLS, read_items
from hanlin.evaluation.benchmarks.folder import Folder
from hanlin.evaluation.benchmarks.gaokao import split_questions
from hanlin.evaluation.benchmarks.items import Item, Prompt, data_digest
from hanlin.evaluation.benchmarks.sampling import SAMPLES, draw, listed, sample, sample_ids
from tests.benchmark_files import FILES, FIRST, RIVER, USABLE, write, write_parquet

NAMES = sorted(FILES)
ORIGINALS = Path(__file__).parents[3] / "shared" / "data" / "benchmarks_original"


class Warnings:
    """Remembers what a reader warns of, in English; both languages have to be there."""

    def __init__(self):
        self.said: list[str] = []

    def __call__(self, message, /, **fields) -> None:
        text = Text.of(message, **fields)
        assert text.zh
        self.said.append(text.en)

    def left_out(self) -> dict[str, int]:
        """Reason → items."""
        found = [line.partition(" left out: ")[2] for line in self.said if " left out: " in line]
        return {
            line.partition(", ")[2].partition(" (the first")[0]: int(line.split(",")[0]) for line in found
        }


def items_of(name: str, folder: Path, split: str = "") -> list[Item]:
    benchmark = BENCHMARKS.get(name)()
    return read_items(benchmark, Folder(folder), split or benchmark.split, Warnings())


# ---------------------------------------------------------------- files


def test_every_benchmark_has_a_fixture_and_a_first_item():
    assert sorted(BENCHMARKS) == NAMES == sorted(FIRST) == sorted(USABLE)


@pytest.mark.parametrize("name", NAMES)
def test_the_published_layout_is_read(name, tmp_path):
    benchmark, warn = BENCHMARKS.get(name)(), Warnings()
    items = read_items(benchmark, Folder(write(name, tmp_path)), benchmark.split, warn)
    assert items[0] == FIRST[name]
    usable, reasons = USABLE[name]
    assert len(items) == usable
    left_out = warn.left_out()
    assert len(left_out) == len(reasons)
    for part, count in reasons.items():
        assert [n for reason, n in left_out.items() if part in reason] == [count], left_out
    published = benchmark.counts.get(benchmark.split)
    assert (published is None) == (not any("were published" in line for line in warn.said))


@pytest.mark.parametrize("name", NAMES)
def test_archives_hold_the_same_items(name, tmp_path):
    """A zip or tar archive, and an archive beside what was unpacked from it, whose items count once."""
    plain = items_of(name, write(name, tmp_path / "plain"))
    for form in ("zip", "tar.gz"):
        assert items_of(name, write(name, tmp_path / form, form)) == plain
    assert items_of(name, write(name, tmp_path / "plain", "zip")) == plain


def test_all_benchmarks_may_lie_in_one_directory(tmp_path):
    """Several have files of the same name or pattern: test/*.csv, test/zh.jsonl, *-*.jsonl."""
    for name in NAMES:
        write(name, tmp_path)
    for name in NAMES:
        assert items_of(name, tmp_path)[0] == FIRST[name], name


def test_one_archive_may_be_named_itself(tmp_path):
    write("cmmlu", tmp_path, "zip")
    assert items_of("cmmlu", tmp_path / "cmmlu.zip")[0] == FIRST["cmmlu"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "gb18030"])
def test_tables_from_spreadsheets_are_read(encoding, tmp_path):
    for path, content in FILES["cmmlu"].items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content.replace("\n", "\r\n"), encoding=encoding, newline="")
    assert items_of("cmmlu", tmp_path) == items_of("cmmlu", write("cmmlu", tmp_path / "plain"))


def test_parquet_of_the_hub_holds_the_same_items(tmp_path):
    def rows(name: str, path: str) -> list[dict]:
        folder = write(name, tmp_path / "plain")
        return list(Folder(folder / name).rows(path))

    hub = tmp_path / "hub"
    for subject in ("accountant", "logic"):
        table = rows("ceval", f"val/{subject}_val.csv")
        write_parquet(hub / "ceval-exam" / subject / "val-00000-of-00001.parquet", table)
    for subject in ("arts", "logical"):
        table = [{k: v for k, v in row.items() if k} for row in rows("cmmlu", f"data/test/{subject}.csv")]
        write_parquet(hub / "cmmlu" / subject / "test-00000-of-00001.parquet", table)
    for paradigm in ("adverb_order", "classifier"):
        table = rows("zhoblimp", f"ZhoBLiMP/{paradigm}.jsonl")
        write_parquet(hub / "zhoblimp" / paradigm / "train-00000-of-00001.parquet", table)
    write_parquet(hub / "xcopa/zh/test-00000-of-00001.parquet", rows("xcopa", "data/zh/test.zh.jsonl"))
    write_parquet(hub / "xwinograd/zh/test-00000-of-00001.parquet", rows("xwinograd", "test/zh.jsonl"))
    write_parquet(
        hub / "belebele/zho_Hans/test-00000-of-00001.parquet", rows("belebele", "Belebele/zho_Hans.jsonl")
    )
    stories = [
        {
            "story_id": row["InputStoryid"],
            **{f"input_sentence_{at}": row[f"InputSentence{at}"] for at in range(1, 5)},
            **{f"sentence_quiz{at}": row[f"RandomFifthSentenceQuiz{at}"] for at in (1, 2)},
            "answer_right_ending": int(row["AnswerRightEnding"]),
        }
        for row in rows("xstorycloze", "spring2016.val.zh.tsv.split_20_80_eval.tsv")
    ]
    write_parquet(hub / "xstory_cloze/zh/eval-00000-of-00001.parquet", stories)
    write_parquet(
        hub / "mgsm/zh/test-00000-of-00001.parquet",
        [
            {"question": item.question, "answer": None, "answer_number": int(item.answer.replace(",", ""))}
            for item in items_of(
                "mgsm", tmp_path / "plain" if write("mgsm", tmp_path / "plain") else tmp_path
            )
        ],
    )
    for name in ("ceval", "cmmlu", "zhoblimp", "xcopa", "xwinograd", "belebele", "xstorycloze"):
        assert items_of(name, hub) == items_of(name, tmp_path / "plain"), name
    assert [item.answer for item in items_of("mgsm", hub)] == ["7", "2000"]


def test_splits_are_their_own_files(tmp_path):
    write("ceval", tmp_path)
    write("gsm8k_zh", tmp_path)
    assert [item.question for item in items_of("ceval", tmp_path, "dev")] == ["一年有几个季度？"]
    assert [item.answer for item in items_of("gsm8k_zh", tmp_path, "train")] == ["4"]


def test_questions_about_one_text_are_a_cluster(tmp_path):
    for name in NAMES:
        write(name, tmp_path)
    assert [item.cluster for item in items_of("c3", tmp_path)] == ["d/0", "m/0", "m/0"]
    assert [item.cluster for item in items_of("agieval", tmp_path)] == ["", "logiqa-zh/0", "logiqa-zh/0"]
    river, again, fog = items_of("belebele", tmp_path)
    assert river.cluster == again.cluster != fog.cluster
    assert river.cluster == hashlib.sha256(RIVER.encode()).hexdigest()[:12]
    first, second, *single = items_of("gaokao", tmp_path)
    assert first.cluster == second.cluster and {item.cluster for item in single} == {""}


def test_machine_translations_beside_xcopa_are_not_taken_for_it(tmp_path):
    items = items_of("xcopa", write("xcopa", tmp_path))
    assert [item.more["premise"] for item in items] == ["天下雨了。", "灯亮了。"]


# ---------------------------------------------------------------- questions cut out of a text


def test_choices_are_cut_out_of_a_question(tmp_path):
    second, third, fourth, fifth = items_of("gaokao", write("gaokao", tmp_path))
    assert (second.id, third.id) == ("Geography/0/0", "Geography/0/1")
    assert third.question == "该村在（ ）\n①河边 ②山上．" and third.choices == ("①", "②", "①②", "都不是")
    assert fourth.question == "纸是在哪里发明的（　　）" and fourth.choices == (
        "中国",
        "埃及",
        "希腊",
        "印度",
    )
    assert fifth.question == "设城 C: 在北。它在（）"
    assert fifth.choices == ("北边", "南边", "东边的山上", "西边")  # a line of the page was broken


def test_a_table_with_letters_of_its_own_is_part_of_the_question():
    table = "A. & 水 & 湿 \\\\\nB. & 火 & 冷 \\\\\nC. x\nD. y\n"
    text = f"1．（6分）下列对的是（）\n{table}A. $A$\nB. $B$\nC. C\nD. D\n"
    passage, [(question, choices)] = split_questions(text, 1)
    assert not passage and choices == ("$A$", "$B$", "C", "D") and question.endswith("D. y")


def test_numbers_inside_one_question_do_not_cut_it():
    _, [(question, _)] = split_questions(
        "2．（6分）有(1)水 (2)火，对的是（） A．(1) B．(2) C．(1)(2) D．无", 1
    )
    assert question == "有(1)水 (2)火，对的是（）"


@pytest.mark.parametrize("text", ["只有文字", "A．甲 B．乙 C．丙", "A．甲 B．乙 C．丙 D．丁"])
def test_what_holds_no_question_with_four_choices_is_not_cut(text):
    assert split_questions(text, 1) == ("", [])


# ---------------------------------------------------------------- counts and digests


def test_a_wrong_count_names_the_digests(tmp_path):
    warn = Warnings()
    items = read_items(BENCHMARKS.get("bustm")(), Folder(write("bustm", tmp_path)), "test_public", warn)
    [said] = warn.said
    assert "3 items" in said and "1772 were published" in said
    assert data_digest(items)[:16] in said and BENCHMARKS.get("bustm").sha256["test_public"][:16] in said


def test_other_items_in_the_published_number_are_noticed(tmp_path, monkeypatch):
    benchmark = BENCHMARKS.get("bustm")
    folder = Folder(write("bustm", tmp_path))
    monkeypatch.setattr(benchmark, "counts", {"test_public": 3})
    warn = Warnings()
    items = read_items(benchmark(), folder, "test_public", warn)
    assert len(warn.said) == 1 and "not the same" in warn.said[0]
    monkeypatch.setattr(benchmark, "sha256", {"test_public": data_digest(items)})
    warn = Warnings()
    read_items(benchmark(), folder, "test_public", warn)
    assert warn.said == []


def test_the_digest_depends_on_every_field_and_on_the_order():
    items = [FIRST["c3"], FIRST["cmmlu"]]
    seen = {data_digest(items), data_digest(items[::-1]), data_digest(items[:1])}
    for change in ({"question": "别的"}, {"gold": 0}, {"passage": ""}, {"more": {}}):
        seen.add(data_digest([Item(**{**vars(FIRST["c3"]), **change}), items[1]]))
    assert len(seen) == 7


def test_an_id_that_occurs_twice_is_left_out(tmp_path):
    path = tmp_path / "bustm" / "test_public.json"
    path.parent.mkdir()
    path.write_text(FILES["bustm"]["datasets/bustm/test_public.json"] * 2, encoding="utf-8")
    warn = Warnings()
    assert len(read_items(BENCHMARKS.get("bustm")(), Folder(tmp_path), "test_public", warn)) == 3
    assert warn.left_out() == {"an id that occurred before": 3}


@pytest.mark.parametrize(
    "row,reason",
    [
        ("一,一,三,四,B", "two choices that are the same"),
        ("一,,三,四,A", "an empty choice"),
        ("一,二,三,四,E", "an answer outside the choices"),
        ("一,二,三,四,AB", "an answer outside the choices"),
        ("一,二,三,四,", "an answer outside the choices"),
    ],
)
def test_a_question_that_cannot_be_asked_is_left_out_and_counted(row, reason, tmp_path):
    path = tmp_path / "test" / "arts.csv"
    path.parent.mkdir()
    path.write_text(f",Question,A,B,C,D,Answer\n0,好题？,一,二,三,四,D\n1,坏题？,{row}\n", encoding="utf-8")
    warn = Warnings()
    assert [item.id for item in read_items(BENCHMARKS.get("cmmlu")(), Folder(tmp_path), "test", warn)] == [
        "arts/0"
    ]
    assert warn.left_out() == {reason: 1}


# ---------------------------------------------------------------- bad files


def written_at(tmp_path: Path, path: str, content: str | bytes) -> Folder:
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    return Folder(tmp_path)


@pytest.mark.parametrize(
    "name,path,content,part",
    [
        ("cmmlu", "test/arts.csv", "题目,A,B,C,D\n好？,1,2,3,4\n", "题目"),
        ("ceval", "val/logic_val.csv", "id,question,A,B,C\n0,好？,1,2,3\n", "no column D"),
        ("agieval", "gaokao-history.jsonl", '{"options": ["(A)1", "(B)2"], "label": "A"}\n', "options"),
        ("gaokao", "x_History_MCQs.json", '{"example": [{"text": "1"}]}', "entry 0"),
        (
            "chid",
            "chid/test_public.json",
            '{"content": "没有空", "candidates": ["甲"], "answer": 0}\n',
            "#idiom#",
        ),
        ("cluewsc", "cluewsc/test_public.json", '{"text": "它", "label": "true"}\n', "target"),
        ("bustm", "bustm/test_public.json", '{"label": "1"}\n', "sentence1"),
        ("zhoblimp", "ZhoBLiMP/a.jsonl", '{"UID": "a", "sentence_good": "好"}\n', "sentence_bad"),
        ("xcopa", "test.zh.jsonl", '{"premise": "雨。", "question": "cause"}\n', "label"),
        ("safetybench", "test_answers_zh_subset.json", "[1]", "answers by id"),
        ("xwinograd", "test/zh.jsonl", "[[1]]", "record 1"),
        ("cmath", "cmath_dev.jsonl", '{"grade": 1, "input": "1+1", "golden": "2"}\n{"grade"', "line 2"),
        ("cmath", "cmath_dev.jsonl", b"\xff\xfe\xff", "GB 18030"),
        ("gsm8k_zh", "GSM8K_zh.json", '[{"question": 1}', "no JSON"),
        ("belebele", "zho_Hans/test-0.parquet", "no parquet", "parquet"),
        ("mgsm", "mgsm_zh.tsv", "只有问题\n", "answer_number"),
        ("c3", "c3-d-dev.json", '[[["文"], [{"question": "?"}], 1]]', "entry 0"),
        ("ceval", "ceval.zip", "no archive", "archive"),
    ],
)
def test_what_is_not_the_published_layout_is_refused(name, path, content, part, tmp_path):
    with pytest.raises(HanlinError) as caught:
        folder = written_at(tmp_path, path, content)
        read_items(BENCHMARKS.get(name)(), folder, BENCHMARKS.get(name).split, Warnings())
    assert part in caught.value.en and caught.value.zh and caught.value.zh != caught.value.en
    if name not in ("safetybench",):
        assert Path(path).name in caught.value.en


@pytest.mark.parametrize("name", NAMES)
def test_a_directory_without_the_files_says_which_and_whence(name, tmp_path):
    with pytest.raises(HanlinError) as caught:
        read_items(BENCHMARKS.get(name)(), Folder(tmp_path), BENCHMARKS.get(name).split, Warnings())
    assert BENCHMARKS.get(name).home in caught.value.en and BENCHMARKS.get(name).licence in caught.value.en


def test_files_with_nothing_to_ask_are_refused(tmp_path):
    with pytest.raises(HanlinError, match="no usable items"):
        items_of("cmmlu", written_at(tmp_path, "test/arts.csv", ",Question,A,B,C,D,Answer\n").path)


# ---------------------------------------------------------------- prompts


def prompts() -> list[tuple[str, str, str, Prompt]]:
    return [
        (name, protocol, form, prompt)
        for name in NAMES
        for protocol, forms in BENCHMARKS.get(name).prompts.items()
        for form, prompt in forms.items()
    ]


@pytest.mark.parametrize(
    "name,protocol,form,prompt", prompts(), ids=lambda part: part if isinstance(part, str) else ""
)
def test_every_prompt_renders(name, protocol, form, prompt, tmp_path):
    assert protocol in PROTOCOLS
    items = items_of(name, write(name, tmp_path))
    item, shots = items[0], items[-1:]
    if form == "answer":
        text = prompt.written(item, shots)
        assert item.question in text and prompt.written(item) in text and prompt.max_new_tokens > 0
        assert "{" not in text
        return
    requests = prompt.requests(item)
    assert len(requests) == len(item.choices) == len({(r.context, r.continuation) for r in requests})
    for request in requests + prompt.bare_requests(item):
        assert "{" not in request.context + request.continuation
        assert request.measured and request.continuation == prompt.delimiter + request.measured
    bare = prompt.bare_requests(item)
    if prompt.bare is None:  # nothing to leave out
        assert not bare
    else:
        assert [request.continuation for request in bare] == [request.continuation for request in requests]
    with_shots = prompt.requests(item, shots)
    for long, short in zip(with_shots, requests, strict=True):
        begin = prompt.description.format_map(item.fields())
        assert long.context.startswith(begin) and long.context.endswith(short.context.removeprefix(begin))
        assert len(long.context) > len(short.context) and long.continuation == short.continuation


def test_every_benchmark_is_asked_in_our_own_way_first_as_a_text():
    for name in NAMES:
        first = next(iter(BENCHMARKS.get(name).prompts["hanlin-zh"]))
        assert first == {"zhoblimp": "pairs"}.get(name, "cloze" if FIRST[name].choices else "answer")
        if FIRST[name].choices and name != "zhoblimp":
            assert list(BENCHMARKS.get(name).prompts["hanlin-zh"]) == ["cloze", "letters"]


def test_the_deciding_normalisation_is_fixed():
    main = {name: next(iter(BENCHMARKS.get(name).prompts["hanlin-zh"].values())).main for name in NAMES}
    assert {name for name in NAMES if main[name] == "pmi"} == {
        *("agieval", "gaokao"),
        *("bustm", "eprstmt", "ocnli", "csl", "tnews", "cluewsc"),
    }
    assert {name for name in NAMES if main[name] == "sum"} == {"xcopa", "xwinograd", "chid", "zhoblimp"}
    chars = {"c3", "ceval", "cmmlu", "xstorycloze", "belebele", "safetybench"}
    assert {name for name in NAMES if FIRST[name].choices and main[name] == "char"} == chars
    assert all(prompt.main == "sum" for _, _, form, prompt in prompts() if form == "letters")


# What lm-evaluation-harness 0.4.13 sends, written out by hand from its task files: its target_delimiter is a
# space unless a task says otherwise, and the choices of C-Eval, CMMLU and Belebele are the letters.
LM_EVAL = {
    "ceval": (
        "letters",
        "以下是中国关于注册会计师的单项选择题，请选出其中的正确答案。\n\n"
        "收入减去费用是____。\nA. 利润\nB. 资产\nC. 负债\nD. 现金\n答案：",
        [" A", " B", " C", " D"],
    ),
    "cmmlu": (
        "letters",
        "以下是关于艺术学的单项选择题，请直接给出正确答案的选项。\n\n"
        "胡琴有几根弦？\nA. 一\nB. 两\nC. 三\nD.  四\n答案：",
        [" A", " B", " C", " D"],
    ),
    "agieval": (
        "cloze",
        "问题：太阳从哪边升起（）\n 选项：(A)东 (B)西  C．南  D．北\n答案：从A到D, 我们应选择",
        [" (A)东", " (B)西 ", " C．南", "  D．北"],
    ),
    "zhoblimp": ("pairs", "", ["他昨天来了。", "他来了昨天。"]),
    "xcopa": ("cloze", "天下雨了 所以", [" 地湿了。", " 地干了。"]),
    "xstorycloze": (
        "cloze",
        "小明种了花。 他天天浇水。 花长高了。 花开了。",
        [" 小明很高兴。", " 花是石头。"],
    ),
    "belebele": (
        "letters",
        "P: 小河从山上流下来，绕过村子，最后流进湖里。\nQ: 小河流进哪里？\n"
        "A: 海\nB: 湖\nC: 井\nD: 池塘\nAnswer:",
        [" A", " B", " C", " D"],
    ),
}


@pytest.mark.parametrize("name", sorted(LM_EVAL))
def test_lm_eval_prompts_are_those_of_lm_eval(name):
    form, context, continuations = LM_EVAL[name]
    found, prompt = BENCHMARKS.get(name)().prompt("lm-eval")
    assert found == form
    requests = prompt.requests(FIRST[name])
    assert [request.context for request in requests] == [context] * len(continuations)
    assert [request.continuation for request in requests] == continuations


def test_lm_eval_asks_xwinograd_with_two_contexts_and_one_continuation():
    _, prompt = BENCHMARKS.get("xwinograd")().prompt("lm-eval")
    requests = prompt.requests(FIRST["xwinograd"])
    assert [request.context for request in requests] == [
        "箱子装不进柜子，因为箱子",
        "箱子装不进柜子，因为柜子",
    ]
    assert [request.continuation for request in requests] == [" 太小了。"] * 2


def test_lm_eval_asks_mgsm_directly():
    _, prompt = BENCHMARKS.get("mgsm")().prompt("lm-eval")
    assert prompt.written(FIRST["mgsm"]) == "问题： 小红有 3 个苹果，又买了 4 个。她有几个？\nAnswer:"
    assert prompt.stop == ("问题：", "</s>", "<|im_end|>")


def test_lm_eval_covers_what_it_has_in_chinese():
    covered = {name for name in NAMES if "lm-eval" in BENCHMARKS.get(name).prompts}
    assert covered == {*LM_EVAL, "xwinograd", "mgsm"}


def test_shots_of_lm_eval_stand_between_description_and_question(tmp_path):
    write("ceval", tmp_path)
    [shot] = items_of("ceval", tmp_path, "dev")
    _, prompt = BENCHMARKS.get("ceval")().prompt("lm-eval")
    assert prompt.requests(FIRST["ceval"], [shot])[0].context == (
        "以下是中国关于注册会计师的单项选择题，请选出其中的正确答案。\n\n"
        "一年有几个季度？\nA. 2\nB. 3\nC. 4\nD. 5\n答案： C\n\n"
        "收入减去费用是____。\nA. 利润\nB. 资产\nC. 负债\nD. 现金\n答案："
    )


def test_official_prompts_are_the_authors():
    _, prompt = BENCHMARKS.get("ceval")().prompt("official")
    request = prompt.requests(FIRST["ceval"])[0]
    assert (request.context, request.continuation) == (
        "以下是中国关于注册会计师考试的单项选择题，请选出其中的正确答案。\n\n"
        " 收入减去费用是____。\nA. 利润\nB. 资产\nC. 负债\nD. 现金\n答案：",
        "A",
    )
    _, prompt = BENCHMARKS.get("cmmlu")().prompt("official")
    request = prompt.requests(FIRST["cmmlu"], [FIRST["cmmlu"]])[1]
    asked = "题目：胡琴有几根弦？ \nA. 一\nB. 两\nC. 三\nD.  四\n答案是："
    assert (request.context, request.continuation) == (
        f"以下是关于艺术学的单项选择题，请直接给出正确答案的选项。\n\n{asked}B\n\n{asked}",
        "B",
    )


def test_opencompass_separates_shots_by_three_and_five_line_breaks():
    """Its loader's separators as strings between rounds, each round on a line of its own."""
    _, prompt = BENCHMARKS.get("ceval")().prompt("opencompass-ppl")
    asked = (
        "以下是中国关于注册会计师考试的单项选择题，请选出其中的正确答案。\n"
        " 收入减去费用是____。\nA. 利润\nB. 资产\nC. 负债\nD. 现金\n答案: "
    )
    request = prompt.requests(FIRST["ceval"], [FIRST["ceval"]] * 2)[3]
    assert request.context + request.continuation == f"{asked}\nA\n\n\n{asked}\nA\n\n\n\n\n{asked}\nD"
    _, prompt = BENCHMARKS.get("cmmlu")().prompt("opencompass-ppl")
    request = prompt.requests(FIRST["cmmlu"])[0]
    assert (request.context + request.continuation).endswith("\nD.  四\n答案是: A")


OPENCOMPASS = {
    "c3": "文章：男：车几点开？ 女：八点，还早呢。\n问题：车几点开？\n答案：八点",
    "bustm": "语句一：“打开灯”\n语句二：“把灯打开”\n请判断语句一和语句二说的是否是一个意思？\n"
    "两句话说是的一个意思。",
    "eprstmt": '内容： "很好用，还会再买"。情绪分类：\n积极。',
    "cluewsc": "小猫看见小狗，它跑了。\n此处，代词“它“被用于指代“小猫“吗?\n是",
    "chid": "以下句子是否通顺？\n图上标得清楚,一目了然,谁都看得懂。\n这个句子是通顺的。",
    "tnews": "主队三比零获胜\n上述内容属于什么新闻？\n体育类别新闻",
}


@pytest.mark.parametrize("name", sorted(OPENCOMPASS))
def test_opencompass_scores_whole_texts(name):
    _, prompt = BENCHMARKS.get(name)().prompt("opencompass-ppl")
    item = FIRST[name]
    request = prompt.requests(item)[item.gold]
    assert (request.context, request.continuation, prompt.main) == ("", OPENCOMPASS[name], "token")


def test_texts_that_stand_for_choices_are_as_many():
    for name, protocol, _, prompt in prompts():
        assert not prompt.choices or len(prompt.choices) == len(FIRST[name].choices), (name, protocol)


def test_our_prompts_have_no_spaces_where_chinese_has_none():
    zh = {name: BENCHMARKS.get(name)().prompt("hanlin-zh")[1] for name in NAMES}
    request = zh["xcopa"].requests(FIRST["xcopa"])[0]
    assert (request.context, request.continuation) == ("天下雨了，所以", "地湿了。")
    assert zh["xcopa"].bare_requests(FIRST["xcopa"])[0].context == "所以"
    request = zh["xstorycloze"].requests(FIRST["xstorycloze"])[0]
    assert request.context + request.continuation == "小明种了花。他天天浇水。花长高了。花开了。小明很高兴。"
    first, second = zh["xwinograd"].requests(FIRST["xwinograd"])
    assert (first.context, first.continuation) == ("箱子装不进柜子，因为箱子", "太小了。")
    assert second.context.endswith("柜子") and second.continuation == "太小了。"
    request = zh["chid"].requests(FIRST["chid"])[2]
    assert (request.context, request.continuation) == ("图上标得清楚,一目了然", ",谁都看得懂。")
    request = zh["agieval"].requests(FIRST["agieval"])[3]
    assert (request.context, request.continuation) == ("问题：太阳从哪边升起（）\n答案：", "北")


def test_a_protocol_or_form_that_does_not_exist_is_named():
    benchmark = BENCHMARKS.get("csl")()
    with pytest.raises(HanlinError, match="hanlin-zh"):
        benchmark.prompt("opencompass-ppl")
    with pytest.raises(HanlinError, match="letters"):
        benchmark.prompt("hanlin-zh", "answer")


def test_prompts_of_different_bytes_have_different_digests():
    """Only the two protocols of ZhoBLiMP, and of benchmarks that share a prompt, are the same."""
    by_digest: dict[str, set[str]] = {}
    for *_, prompt in prompts():
        by_digest.setdefault(prompt.digest(), set()).add(repr(prompt))
    assert all(len(texts) == 1 for texts in by_digest.values()) and len(by_digest) > 30


# ---------------------------------------------------------------- samples


@pytest.mark.parametrize(
    "name,size,subjects", [("c3-1000", 1000, 0), ("cmmlu-2010", 2010, 67), ("zhoblimp-6k", 5900, 118)]
)
def test_the_lists_hold_what_their_names_say(name, size, subjects):
    ids = sample_ids(name)
    assert len(ids) == len(set(ids)) == size
    assert (SAMPLES / f"{name}.txt").read_text(encoding="utf-8") == listed(ids)
    if subjects:
        by_subject: dict[str, int] = {}
        for id in ids:
            by_subject[id.rpartition("/")[0]] = by_subject.get(id.rpartition("/")[0], 0) + 1
        assert len(by_subject) == subjects and len(set(by_subject.values())) == 1
    [owner] = [cls for cls in BENCHMARKS.classes().values() if name in cls.samples]
    assert name.startswith(owner.name)


def questions(count: int) -> list[Item]:
    return [Item(f"{'甲乙'[at % 2]}/{at}", "？", subject="甲乙"[at % 2]) for at in range(count)]


def test_a_draw_depends_on_the_items_and_the_name_alone():
    items = questions(40)
    ids = draw(items, "一", 5)
    assert ids == draw(items[::-1], "一", 5) and len(ids) == 10
    assert sum(id.startswith("甲") for id in ids) == 5 and ids != draw(items, "二", 5)
    kept = [item for item in items if item.id in ids or item.id in ("甲/0", "乙/1")]
    assert draw(kept, "一", 5) == ids  # what is not drawn does not decide what is


def test_a_sample_is_those_items_or_none(tmp_path, monkeypatch):
    monkeypatch.setattr("hanlin.evaluation.benchmarks.sampling.SAMPLES", tmp_path)
    items = questions(12)
    (tmp_path / "three.txt").write_text(listed(["甲/10", "甲/2", "乙/3"]), encoding="utf-8")
    assert (tmp_path / "three.txt").read_text(encoding="utf-8") == "乙 3\n甲 2 10\n"
    assert [item.id for item in sample(items, "three")] == ["甲/2", "乙/3", "甲/10"]
    with pytest.raises(HanlinError) as caught:
        sample(items[:3], "three")
    assert "3 items, and 2 of them" in caught.value.en and "乙/3" in caught.value.en
    with pytest.raises(HanlinError, match="three"):
        sample(items, "four")


# ---------------------------------------------------------------- the published files, where they are

HELD = {
    "agieval": ("agieval", {"test": 3265}),
    "c3": ("c3", {"dev": 3815}),
    "cmath": ("cmath", {"dev": 600}),
    "mgsm": ("cmath", {"test": 250}),
    "cmmlu": ("cmmlu", {"dev": 335, "test": 11581}),
    "bustm": ("fewclue", {"train_few_all": 160, "dev_few_all": 160, "test_public": 1772}),
    "chid": ("fewclue", {"train_few_all": 202, "dev_few_all": 201, "test_public": 2001}),
    "cluewsc": ("fewclue", {"train_few_all": 160, "dev_few_all": 159, "test_public": 976}),
    "csl": ("fewclue", {"train_few_all": 160, "dev_few_all": 160, "test_public": 2838}),
    "eprstmt": ("fewclue", {"train_few_all": 160, "dev_few_all": 160, "test_public": 610}),
    "ocnli": ("fewclue", {"train_few_all": 160, "dev_few_all": 160, "test_public": 2520}),
    "tnews": ("fewclue", {"train_few_all": 1185, "dev_few_all": 1098, "test_public": 2010}),
    "xcopa": ("xcopa", {"val": 100}),
    "zhoblimp": ("zhoblimp", {"test": 35400}),
}


def original(name: str) -> Path:
    path = ORIGINALS / name
    if not path.is_dir():
        pytest.skip(f"the published files of {name} are not at {path}")
    return path


@pytest.mark.parametrize("name", sorted(HELD))
def test_the_published_files_have_the_published_counts_and_digests(name):
    folder, splits = HELD[name]
    opened = Folder(original(folder))
    for split, usable in splits.items():
        warn = Warnings()
        items = read_items(BENCHMARKS.get(name)(), opened, split, warn)
        assert len(items) == usable
        assert usable + sum(warn.left_out().values()) == BENCHMARKS.get(name).counts[split]
        assert data_digest(items) == BENCHMARKS.get(name).sha256[split]
        assert len(warn.said) == len(warn.left_out())  # nothing about counts and digests


def test_gaokao_is_cut_into_questions_with_four_choices():
    """Politics is not among the files here, so that the count differs and is said."""
    warn = Warnings()
    items = read_items(BENCHMARKS.get("gaokao")(), Folder(original("gaokao_bench")), "test", warn)
    assert len(items) == 1199 and sum("were published" in line for line in warn.said) == 1
    assert sum(warn.left_out().values()) == 33
    assert all(len(item.choices) == 4 and max(map(len, item.choices)) < 300 for item in items)


@pytest.mark.parametrize(
    "name,owner,per_subject",
    [("c3-1000", "c3", 500), ("cmmlu-2010", "cmmlu", 30), ("zhoblimp-6k", "zhoblimp", 50)],
)
def test_the_lists_are_drawn_as_they_say(name, owner, per_subject):
    items = items_of(owner, original(owner))
    assert listed(draw(items, name, per_subject)) == (SAMPLES / f"{name}.txt").read_text(encoding="utf-8")
    assert len(sample(items, name)) == len(sample_ids(name))


def test_invented_questions_are_not_those_of_a_benchmark():
    """Nothing of the published texts is in this repository's fixtures."""
    texts = {
        path: path.read_text(encoding="utf-8")
        for path in sorted(original("fewclue").rglob("*.json")) + sorted(original("cmmlu").rglob("*.csv"))
    }
    published = "\n".join(texts.values())
    for name, item in FIRST.items():
        for text in (item.question, item.passage):
            assert len(text) < 8 or json.dumps(text, ensure_ascii=False).strip('"') not in published, name
