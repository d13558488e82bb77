"""Written answers: what counts strictly, what leniently, and what in neither way."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from hanlin.evaluation.benchmarks.base import BENCHMARKS, Verdict
from hanlin.evaluation.benchmarks.items import Item
from hanlin.evaluation.benchmarks.written import judge, judge_number, judge_words

BOTH, LENIENT, NEITHER = Verdict(True, True), Verdict(False, True), Verdict(False, False)


@pytest.mark.parametrize(
    "reference,text,verdict",
    [
        # where the answer stands
        ("18", "16-3-4=9\n9×2=18\n答案是18", BOTH),
        ("18", "所以答案是：18美元。", BOTH),
        ("18", "答案：\n\n18", BOTH),
        ("18", "答：她每天赚 18 美元。", BOTH),
        ("18", "9*2=18\n#### 18", BOTH),
        ("18", "先算鸭蛋，\n每天赚18美元", BOTH),
        ("18", "18", BOTH),
        ("18", "答案是18\n检查：18÷2=9，9+7=16", Verdict(True, False)),
        ("18", "16-3-4=9，9×2=18", LENIENT),
        ("18", "答案是9×2=18", LENIENT),
        ("18", "答案是17或18", LENIENT),
        ("18", "答案是18，不是17", NEITHER),
        ("18", "答案是17", NEITHER),
        ("18", "18个里去掉一些，答案是17", NEITHER),
        ("18", "", NEITHER),
        ("18", "不知道", NEITHER),
        # how the number is written
        ("1200", "答案是1,200", BOTH),
        ("2,000", "答案是2000", BOTH),
        ("18", "答案是１８", BOTH),
        ("18", "答案是18.00元", BOTH),
        ("0.5", "答案是1/2", BOTH),
        ("2/6", "答案是1/3", BOTH),
        ("2/6", "答案是$\\frac{1}{3}$", BOTH),
        ("7/2", "答案是3又1/2", BOTH),
        ("18", "答案是\\boxed{18}", BOTH),
        ("18", "**答案是18**", BOTH),
        ("-5", "答案是-5", BOTH),
        ("-5", "答案是负5", BOTH),
        ("5", "答案是-5", NEITHER),
        ("12%", "答案是12%", BOTH),
        ("12%", "答案是0.12", BOTH),
        ("25", "答案是25％", BOTH),
        ("0.25", "答案是25%", BOTH),
        ("25", "答案是0.25", NEITHER),
        # Chinese numerals, where there are no digits
        ("18", "答案是十八", BOTH),
        ("12000", "答案是一万二千", BOTH),
        ("1/3", "答案是三分之一。", BOTH),
        ("18", "她一共有十八个", LENIENT),
        ("18", "答案是18，她一个也没吃", BOTH),
        # what can't be read is no number
        ("5", "答案是5²", NEITHER),
    ],
)
def test_verdicts_on_numbers(reference, text, verdict):
    assert judge_number(reference, text) == verdict == judge(reference, text)


def test_every_number_is_right_for_itself_and_wrong_for_another():
    rng = random.Random(11)
    for _ in range(200):
        number, other = rng.sample(range(-(10**6), 10**6), 2)
        for said in (f"答案是{number}", f"答案是{number:,}元", f"#### {number}"):
            assert judge_number(str(number), said) == BOTH
            assert judge_number(str(other), said) == NEITHER
        share = Fraction(number, 1 + abs(other))
        assert judge_number(str(share), f"答案是{share.numerator}/{share.denominator}") == BOTH


@pytest.mark.parametrize(
    "reference,text,verdict",
    [
        ("长江", "答案是长江。", BOTH),
        ("长江", "最长的是哪条？\n长江", BOTH),
        ("长江", "答案：“长江”！", BOTH),
        ("ＡＢＣ", "abc", BOTH),
        ("长江", "我想是长江吧", LENIENT),
        ("长江", "黄河", NEITHER),
        ("长江", "", NEITHER),
    ],
)
def test_verdicts_on_words(reference, text, verdict):
    assert judge_words(reference, text) == verdict == judge(reference, text)


@pytest.mark.parametrize("name", ["cmath", "mgsm", "gsm8k_zh"])
def test_word_problems_are_judged_by_their_number(name):
    benchmark = BENCHMARKS.get(name)()
    item = Item("0", "三乘五是多少？", answer="15")
    assert benchmark.check(item, "3*5=15\n答案是15") == BOTH
    assert benchmark.check(item, "3*5=14\n答案是14") == NEITHER


def test_a_benchmark_without_written_answers_judges_none():
    with pytest.raises(NotImplementedError):
        BENCHMARKS.get("c3")().check(Item("0", "？"), "答")
