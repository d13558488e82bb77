"""Checks of instructions: each passes what follows it and fails planted replies that do not, among them those
that OpenCompass's checks let pass."""

from __future__ import annotations

import pytest

from hanlin.evaluation.benchmarks.base import BENCHMARKS, Verdict
from hanlin.evaluation.benchmarks.instructions import CHECKERS, arguments_of, follows, variants
from hanlin.evaluation.benchmarks.items import Item

# instruction → arguments, replies that follow it, replies that do not
CASES: dict[str, tuple[dict, list[str], list[str]]] = {
    "combination:repeat_prompt": (
        {"prompt_to_repeat": "写一首关于雨的诗。"},
        ["写一首关于雨的诗。\n雨落在瓦上。", "写一首关于雨的诗。雨停了。"],
        ["写一首关于雪的诗。\n雪落在瓦上。", "好的。写一首关于雨的诗。雨停了。", "写一首关于雨的诗。"],
    ),
    "combination:two_responses": (
        {},
        ["第一个答案\n******\n第二个答案", "******\n甲\n******\n乙\n******"],
        [
            "同一个\n******\n同一个",
            "只有一个",
            "甲******乙******丙",
            "甲\n******\n\n******\n乙",
            "甲\n***\n乙",
        ],
    ),
    "detectable_content:number_placeholders": (
        {"num_placeholders": 2},
        ["收件人：[姓名]，住[地址]", "【时间】【地点】[人物]"],
        ["收件人：[姓名]", "空的[]和[]不算", "（姓名）（地址）"],
    ),
    "detectable_content:postscript": (
        {"postscript_marker": "P.S."},
        ["正文\nP.S. 记得带伞", "正文\n**P.S.** 记得带伞", "正文\np.s.记得"],
        ["正文里提到P.S. 的用法", "正文\nP.S.", "正文\nPxSx 点不是任意字", "正文"],
    ),
    "detectable_format:constrained_response": (
        {},
        ["我的答案是是。", "我的答案是否。", "想了想，我的答案是不确定"],
        [
            "是。",
            "我的答案是是。我的答案是否。",
            "我的答案是否定的",
            "从“我的答案是是。”“我的答案是不确定。”里选",
        ],
    ),
    "detectable_format:json_format": (
        {},
        ['{"颜色": "红"}', '```json\n["红", "绿"]\n```', "```\n{}\n```"],
        ['好的：{"颜色": "红"}', "颜色是红", "123", '"红"', "{'颜色': '红'}", "```json\n{\n```"],
    ),
    "detectable_format:number_bullet_lists": (
        {"num_bullets": 2},
        ["* 一\n* 二", "- 一\n- 二", "有两点：\n  • 一\n  * 二"],
        ["* 一\n* 二\n* 三", "* 一\n---\n", "**粗** 一\n**粗** 二", "1. 一\n2. 二", "-1 度\n-2 度"],
    ),
    "detectable_format:number_highlighted_sections": (
        {"num_highlights": 2},
        ["*春* 与 *秋*", "**春** 与 *秋*", "**春**和**秋**", "* *春*\n* *秋*"],
        ["*春*", "**春**", "****和** **", "* 春\n* 秋\n* 冬", "2 * 3 * 4 * 5"],
    ),
    "detectable_format:title": (
        {},
        ["<<雨>>\n雨落下来。", "《《雨》》"],
        ["<雨>", "《雨》", "<< >>", "<<雨\n>>", "雨"],
    ),
    "keywords:forbidden_words": (
        {"forbidden_words": ["下雨", "rain"]},
        ["天晴了", "the train is late"],
        ["天下雨了", "It will RAIN today", "ｒａｉｎ"],
    ),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 3, "nth_paragraph": 2, "first_word": "春天"},
        ["一\n\n春天来了\n\n三", "一\n\n“春天”来了\n\n三", "一\n \n春天\n还在这段\n\n\n三"],
        [
            "一\n\n秋天来了\n\n三",
            "春天\n\n二\n\n三",
            "一\n\n春天来了",
            "一\n\n春天\n\n三\n\n四",
            "一\n\n在春天\n\n三",
        ],
    ),
    "length_constraints:number_paragraphs": (
        {"num_paragraphs": 2},
        ["一段\n***\n二段", "***\n一段\n***\n二段\n***"],
        ["一段\n\n二段", "一\n***\n二\n***\n三", "一\n***\n\n***\n二", "一\n******\n二", "一段"],
    ),
    "length_constraints:number_sentences": (
        {"num_sentences": 3, "relation": "at least"},
        ["一。二！三？", "一句\n两句\n三句", "“好。”他说。她笑了。走了。", "It is 3.5 m. Good. Yes."],
        ["一。二。", "一句很长，很长，很长，很长", "价格是3.5元。好。", "。。。"],
    ),
    "length_constraints:number_words": (
        {"num_words": 6, "relation": "at least"},
        ["一二三四五六", "我有 3 本 English 书", "一，二，三，四，五，六。"],
        ["一二三四五", "一，，，，，，", "a b c d e", "abcdefgh"],
    ),
    "punctuation:no_comma": (
        {},
        ["苹果、梨和桃。", "没有"],
        ["苹果，梨", "apple, pear"],
    ),
    "startend:end_checker": (
        {"end_phrase": "还有什么可以帮您？"},
        ["好的。还有什么可以帮您？", "“好的。还有什么可以帮您？”", "好的。还有什么可以帮您？\n"],
        ["还有什么可以帮您？好的。", "还有什么可以帮您", "好的。"],
    ),
    "startend:quotation": (
        {},
        ["“整句话都在里面。”", '"整句话"', "「整句话」"],
        ["“只有”开头", "只有“结尾”", "《书名》", "“”", '"'],
    ),
}


def test_every_instruction_has_cases():
    assert set(CASES) == set(CHECKERS)


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_check_passes_what_follows_and_fails_what_does_not(name):
    given, right, wrong = CASES[name]
    arguments = arguments_of(name, given)
    assert arguments == given
    for reply in right:
        assert follows(name, arguments, reply), reply
    for reply in wrong:
        assert not follows(name, arguments, reply), reply
    assert not follows(name, arguments, "") and not follows(name, arguments, " \n ")


@pytest.mark.parametrize(
    "name,argument,reply",
    [
        ("length_constraints:number_words", "num_words", "一二三四五"),
        ("length_constraints:number_sentences", "num_sentences", "一。二。三。四。五。"),
    ],
)
def test_less_than_is_less(name, argument, reply):
    """Five are not less than five."""
    for limit, less in ((4, False), (5, False), (6, True)):
        assert follows(name, {argument: limit, "relation": "less than"}, reply) == less
        assert follows(name, {argument: limit, "relation": "at least"}, reply) == (not less)


def test_arguments_are_the_checks_own():
    name = "length_constraints:number_words"
    merged = {"num_words": 100.0, "relation": "less than", "num_sentences": 3, "end_phrase": None}
    assert arguments_of(name, merged) == {"num_words": 100, "relation": "less than"}
    assert arguments_of(name, {"num_words": 7}) == {"num_words": 7}
    assert arguments_of(name, {"relation": "at least", "num_words": None}) is None
    assert arguments_of(name, {"relation": "at most", "num_words": 7}) is None
    assert arguments_of("punctuation:no_comma", {"num_words": 7}) == {}


def item(*instructions: tuple[str, dict]) -> Item:
    return Item("0", "写吧", more={"instructions": [list(each) for each in instructions]})


def test_a_reply_follows_all_of_its_instructions():
    check = BENCHMARKS.get("mifeval_zh")().check
    both = item(("punctuation:no_comma", {}), ("startend:end_checker", {"end_phrase": "完"}))
    assert check(both, "说完") == Verdict(True, True)
    assert check(both, "说，完") == check(both, "没说") == Verdict(False, False)


def test_two_relations_of_one_prompt_do_not_overwrite_each_other():
    check = BENCHMARKS.get("mifeval_zh")().check
    both = item(
        ("length_constraints:number_words", {"num_words": 5, "relation": "at least"}),
        ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "less than"}),
    )
    assert check(both, "一二三四五六。").strict
    assert not check(both, "一二三。四五六。").strict and not check(both, "一二三。").strict


def test_the_lenient_verdict_looks_at_the_changed_reply():
    """A word before the answer, one after it, and bold type cost the strict verdict alone."""
    check = BENCHMARKS.get("mifeval_zh")().check
    json_only = item(("detectable_format:json_format", {}))
    ends = item(("startend:end_checker", {"end_phrase": "完"}))
    assert check(json_only, '好的：\n{"色": "红"}') == Verdict(False, True)
    assert check(json_only, '好的：\n{"色": "红"}\n请看。') == Verdict(False, True)
    assert check(ends, "说完\n（字数：2）") == Verdict(False, True)
    assert check(item(("keywords:forbidden_words", {"forbidden_words": ["*"]})), "**说**") == Verdict(
        False, True
    )
    assert check(ends, "没说\n也没说") == Verdict(False, False)


def test_variants_are_eight():
    assert variants("一\n*二*\n三") == [
        *("一\n*二*\n三", "*二*\n三", "一\n*二*", "*二*"),
        *("一\n二\n三", "二\n三", "一\n二", "二"),
    ]
