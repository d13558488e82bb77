"""Signals equal a naive count, whatever the batch, the thread and the text."""

from __future__ import annotations

import collections
import math
import random
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin._native import CharacterTable, SignalCounter
from hanlin.corpus.filters.signals import MORE, SCRIPTS, main_scripts, measure
from hanlin.corpus.readers.read import read_documents
from hanlin.corpus.text.characters import COMMON_HAN, TRADITIONAL, is_han, native_table, table

ALPHABET = (
    "的一是不了在人有我他一二三四五國語魑魅，。！？ab Z9 8#+=★【】\n\n"
    "•-\ufffdé𠮷〇…かナ한й.ア\u3000\t展开更多>"
)
POINTERS = " >.»…。）)】]\u3000"


def script(character: str) -> str:
    name = unicodedata.name(character, "")
    for word, result in (
        ("LATIN", "latin"),
        ("HIRAGANA", "kana"),
        ("KATAKANA", "kana"),
        ("HANGUL", "hangul"),
        ("CYRILLIC", "cyrillic"),
    ):
        if word in name:
            return result
    return "other"


def naive(text: str) -> dict[str, float]:
    """The signals of one text, counted the slow way."""
    kind = {c: "S" if c > "\uffff" and not is_han(c) else unicodedata.category(c)[0] for c in set(text)}
    solid = [c for c in text if c not in "\n\t" and kind[c] != "Z"]
    chars = len(solid)
    han = sum(map(is_han, solid))
    letters = [c for c in solid if kind[c] in "LM" and not is_han(c)]
    scripts = collections.Counter(map(script, letters))
    words = [c for c in solid if (is_han(c) or kind[c] in "LMN") and c != "\ufffd"]
    lines = [line for line in text.split("\n") if line]
    worded = [line for line in lines if any(c in words for c in line)]

    def of(number: float, whole: float, otherwise: float = 0.0) -> float:
        return number / whole if whole else otherwise

    def hides_more(line: str) -> bool:
        return line.rstrip(POINTERS).lower().endswith(MORE)

    result = {
        "chars": chars,
        "han": han,
        "han_share": of(han, han + len(letters), 1.0),
        **{
            f"{name}_share": of(scripts[name], han + len(letters))
            for name in ("latin", "kana", "hangul", "cyrillic")
        },
        "foreign_share": of(len(letters) - scripts["latin"], han + len(letters)),
        "digit_share": of(sum(kind[c] == "N" and not is_han(c) for c in solid), chars),
        "symbol_share": of(sum(kind[c] == "S" and c != "\ufffd" for c in solid), chars),
        "bracket_share": of(sum(c in "【】" for c in solid), chars),
        "replacement_share": of(solid.count("\ufffd"), chars),
        "ellipsis_share": of(sum(c in "…⋯" for c in solid), chars),
        "number_sign_share": of(solid.count("#"), chars),
        "punctuation_share": of(sum(kind[c] == "P" for c in solid), chars),
        "alphanumeric_share": of(len(words), chars, 1.0),
        "common_share": of(sum(c in COMMON_HAN for c in solid), han, 1.0),
        "traditional_share": of(sum(bool(table()[ord(c)] & TRADITIONAL) for c in solid), han),
        "lines": len(lines),
        "mean_line": chars / max(len(lines), 1),
        "longest_line": max(map(len, lines), default=0),
        "terminal_share": of(
            sum(line[-1] in '。！？；…!?;.:：”」』’）)》】"～~' for line in lines), len(lines)
        ),
        "bullet_share": of(sum(line[0] in "•●▪■◆◇★☆▶►·-*–—" for line in lines), len(lines)),
        "ellipsis_line_share": of(
            sum(line.endswith(("…", "⋯", "...", "。。。")) for line in lines), len(lines)
        ),
        "more_share": of(sum(map(hides_more, lines)), len(lines)),
        "duplicate_line_share": of(len(worded) - len(set(worded)), len(lines)),
        "entropy": -sum(
            n / len(words) * math.log(n / len(words)) for n in collections.Counter(words).values()
        )
        if words
        else 0.0,
    }
    grams = {
        n: collections.Counter("".join(words[i : i + n]) for i in range(len(words) - n + 1))
        for n in range(2, 14)
    }
    for n in (2, 3, 4):
        top = max(grams[n].values(), default=0)
        result[f"top_count[{n - 2}]"], result[f"top_share[{n - 2}]"] = (
            top,
            min(1.0, n * top / max(len(words), 1)),
        )
    for n in (*range(5, 11), 13):
        name = "duplicate_share" if n == 13 else f"duplicate_ngram_share[{n - 5}]"
        result[name] = 1 - len(grams[n]) / grams[n].total() if grams[n] else 0.0
    return result


def check(texts: list[str]) -> None:
    signals = measure(texts)
    for index, text in enumerate(texts):
        for name, value in naive(text).items():
            field, _, row = name.partition("[")
            values = getattr(signals, field)[int(row[:-1])] if row else getattr(signals, field)
            assert values[index] == pytest.approx(value, abs=1e-9), (name, text)


def test_signals_equal_a_naive_count():
    draw = random.Random(7)
    texts = [
        "",
        "\n",
        "一",
        "ab",
        *("".join(draw.choices(ALPHABET, k=draw.randint(0, 200))) for _ in range(150)),
    ]
    texts += [text * 4 for text in texts[-20:]] + ["".join(draw.choices("的一", k=100)) for _ in range(5)]
    texts += [
        "点这里展开\n更多 >>\nRead More...\n没有更多了\n》展开全部\n下一页",
        "的" * 40,
        ("abcdefghijklm" * 3 + "\n") * 3,
    ]
    check(texts)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.text(st.sampled_from(ALPHABET), max_size=60).flatmap(
            lambda text: st.sampled_from([text, text * 2, text[::-1] + text])
        ),
        max_size=4,
    )
)
def test_signals_of_any_text_equal_a_naive_count(texts):
    check(texts)


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(max_codepoint=0xFFFF, categories=["L", "M", "N", "P", "S", "Zs"]), max_size=40))
def test_signals_of_all_scripts_equal_a_naive_count(text):
    found, expected = measure([text]), naive(text)
    for name in (
        "chars",
        "han_share",
        "digit_share",
        "symbol_share",
        "punctuation_share",
        "alphanumeric_share",
        "entropy",
    ):
        assert getattr(found, name)[0] == pytest.approx(expected[name], abs=1e-9), name


def test_signals_of_real_text_equal_a_naive_count(shared):
    for name in ("news_xwlb", "code_python", "poetry", "web_crawl_noisy", "docs_tech"):
        documents = read_documents(shared(f"pretrain_zh/{name}.jsonl.zst"))
        check([next(documents)["text"][:8000] for _ in range(4)])


def test_signals_do_not_depend_on_the_batch(prose):
    texts = [prose(i, 30 + i) for i in range(40)]
    together, alone = measure(texts), [measure([text]) for text in texts]
    for name in vars(together):
        separate = np.concatenate([getattr(one, name) for one in alone], axis=-1)
        np.testing.assert_array_equal(getattr(together, name), separate, err_msg=name)


def test_threads_may_measure_together(prose):
    batches = [[prose(seed * 10 + i, 300) for i in range(20)] for seed in range(16)]
    expected = [measure(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for one, other in zip(expected, pool.map(measure, batches), strict=True):
            for name in vars(one):
                np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_line_hashes_tell_equal_lines():
    signals = measure(["版权所有\n正文\n\n版权所有", "", "正文"])
    assert signals.lines.tolist() == [3, 0, 1]
    first, second, third, fourth = signals.line_hashes.tolist()
    assert first == third != second == fourth


def test_a_lone_surrogate_is_a_character():
    assert measure(["a\ud800b"]).chars.tolist() == [3]


def test_the_core_refuses_what_it_cannot_use_and_survives_bytes_that_are_no_text():
    with pytest.raises(ValueError):
        CharacterTable(np.zeros(7, np.uint32))
    with pytest.raises(TypeError):
        CharacterTable(np.zeros(0x110000, np.int64))  # type: ignore[arg-type]
    counter = SignalCounter(native_table(), [])
    with pytest.raises(TypeError):
        counter.measure([3])  # type: ignore[list-item]
    for bad in (b"\xff\xe4\xb8", b"\xed\xa0", b"\xf0\x9f\x92", b"\x80" * 5):
        assert counter.measure([bad])["solid"][0] == counter.measure([bad])["replacement"][0] > 0


def test_the_main_script_of_a_document():
    texts = {
        "simplified": "今天下了一场雨，路上行人很少。",
        "traditional": "今天下了一場雨，路上行人很少，國家圖書館關門。",
        "kana": "今日は雨が降っています。",
        "hangul": "오늘은 비가 온다.",
        "latin": "It rains today, 今天下雨, and the streets are empty.",
        "cyrillic": "Сегодня идёт дождь.",
        "other": "היום יורד גשם",
        "none": "2024-11-05 1,200 ¥ !!",
    }
    assert tuple(texts) == SCRIPTS and main_scripts(measure(list(texts.values()))) == list(texts)
    assert main_scripts(measure(["", "我国与韩国 한국"])) == ["none", "simplified"]
