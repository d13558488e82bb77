"""Repair gives back what was there, leaves alone what was right, and gives up rather than guess."""

from __future__ import annotations

import re
import time
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hanlin.corpus.readers.read import read_documents
from hanlin.corpus.text.characters import plausibility
from hanlin.corpus.text.normalize import (
    needs_normalization,
    normalize,
    repair_and_normalize,
    repair_mojibake,
    strip_html,
)

LINE = "小明在公园里遇到了小红，他们一起放风筝。"


@pytest.mark.parametrize(
    ("written", "read", "length"),
    [
        ("utf-8", "latin-1", 60),
        ("gb18030", "latin-1", 60),
        ("gb18030", "cp1252", 20),
        ("utf-8", "gb18030", 8),
    ],
)
def test_a_wrong_decoding_that_lost_nothing_is_undone(prose, written, read, length):
    repaired = 0
    for seed in range(300):
        text = prose(seed, length)[:length]
        try:
            spoiled = text.encode(written).decode(read)
        except UnicodeDecodeError:
            continue  # this one cannot happen without loss
        fixed, lost = repair_mojibake(spoiled)
        assert (fixed, lost) == (text, 0)
        repaired += 1
    assert repaired >= 3


@pytest.mark.parametrize(("written", "read"), [("utf-8", "cp1252"), ("utf-8", "gbk"), ("utf-8", "gb18030")])
def test_a_wrong_decoding_with_loss_is_reported_as_lost(prose, written, read):
    for seed in range(40):
        text = prose(seed, 61)
        spoiled = text.encode(written).decode(read, "replace")
        if "\ufffd" not in spoiled:
            continue
        fixed, lost = repair_mojibake(f"{LINE}\n{spoiled}\n{LINE}")
        assert fixed == f"{LINE}\n{LINE}" and lost == len(spoiled)


def test_half_a_line_is_noticed(prose):
    for seed in range(40):
        good, bad = prose(seed, 40), prose(seed + 100, 25).encode().decode("gbk", "replace")
        assert repair_mojibake(good + bad)[1] > 0


def test_real_mojibake_and_leftovers(shared):
    kept = [repair_mojibake(item["text"]) for item in read_documents(shared("fixtures_dirty/mojibake.jsonl"))]
    lengths = [len(item["text"]) for item in read_documents(shared("fixtures_dirty/mojibake.jsonl"))]
    for (text, lost), length in zip(kept, lengths, strict=True):
        assert lost > 0.9 * length or plausibility(text) > 0.4 or text.count("\ufffd") > 0.05 * length


@pytest.mark.parametrize(
    "text",
    [
        "Le garçon a mangé une crème brûlée à l'hôtel, près de la forêt où Noël arrive déjà.",
        "Größe, Übung, Straße, Äpfel und Öl – schöne Grüße aus München!",
        "体温是 37±0.5℃，面积 3×4 m²，《书名》·作者，“引号”……——",
        "這是一個關於圖書館的故事，裡面有許多書，學生們都很喜歡。",
        "妞妞和晶晶在凉亭里下棋，鹅在池塘里游泳。妞妞：你好！",
        "子曰：学而时习之，不亦说乎？蕤宾、黄钟、夷则，皆律吕也。",
    ],
)
def test_right_text_is_left_alone(text):
    assert repair_mojibake(text) == (text, 0)
    assert normalize(text) == (text, False)


def test_real_text_is_left_alone(shared):
    for name in ("news_xwlb", "law", "poetry", "classical"):
        for index, item in enumerate(read_documents(shared(f"pretrain_zh/{name}.jsonl.zst"))):
            if index == 200:
                break
            assert repair_mojibake(item["text"]) == (item["text"], 0), name


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_normalisation_is_idempotent_and_nfc(text):
    once, _ = normalize(text)
    again, _ = normalize(once)
    assert again == once or "<" in once or "&" in once  # unescaped entities may spell new tags
    assert unicodedata.is_normalized("NFC", once)


def slow(text: str) -> str:
    """`normalize`, every step taken whether there is a reason or not; lines of script go only with the tags
    of a page."""
    text = strip_html(text) if re.search("<[a-zA-Z/!?]|&[#a-zA-Z]", text) else text
    text = re.sub("\r\n?|[\x0b\x0c\x85\u2028\u2029]", "\n", text)
    text = re.sub("[\u00a0\u1680\u2000-\u200a\u202f\u205f]", " ", text)
    hidden = (
        "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u180e\u200b\u200c\u200e\u200f\u202a-\u202e\u2060-\u206f"
        "\ufeff\ufff9-\ufffc\ue000-\uf8ff]"
    )
    text = re.sub(hidden + "|\u200d(?![\u2600-\u27bf\U0001f000-\U0001faff])", "", text)
    text = unicodedata.normalize("NFC", text)
    text = re.sub(r"(?<![ \t\u3000])[ \t\u3000]+$|^\u3000+", "", text, flags=re.M)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n")


ODD = st.one_of(
    st.characters(codec="utf-8"),
    st.sampled_from(
        " \t\n\r\u3000\u00a0\u200b\u200d\u0301é가\u1161\u11a8\u212b\u2126\uf900\U0002f800\U0001d15e"
        "👩<>&;a#/!`斤拷锟烫屯鈥Ã¢\ue000中文。"
    ),
    st.sampled_from(
        [
            "<br>",
            "&amp;",
            "<!--",
            "-->",
            "```",
            "\r\n",
            "\n\n\n",
            "锟斤拷",
            "烫烫烫",
            "&#x4e2d;",
            "ä¸\xad文",
            "文字",
        ]
    ),
)


@settings(max_examples=1000, deadline=None)
@given(st.lists(ODD, max_size=30).map("".join))
@example("{{")  # a line of program text, in a document without a tag
@example("<b>{{")
def test_what_the_core_passes_over_needed_nothing(text):
    assert normalize(text)[0] == slow(text)
    repaired, lost = repair_mojibake(text)
    reasons = int(needs_normalization([text])[0])
    assert repair_and_normalize(text, reasons) == (slow(repaired), lost)


def test_most_texts_need_nothing(prose):
    texts = [prose(i) + "\n\n“引号”……——《书》，ＡＢＣ。\n    缩进 x = 1\t2 <3 & 4" for i in range(50)]
    assert not needs_normalization(texts).any()


def test_what_is_invisible_goes_and_what_is_chinese_stays():
    spoiled = (
        "\ufeff\u3000\u3000你\u200b好\u00a0，「世\u00ad界」\x08！\r\n"
        "１２３ＡＢＣ：；？\u2028下一行\u3000 \n\n\n\n完\ue420"
    )
    assert normalize(spoiled)[0] == "你好 ，「世界」！\n１２３ＡＢＣ：；？\n下一行\n\n完"
    assert normalize("👩\u200d👩\u200d👧 好")[0] == "👩\u200d👩\u200d👧 好"
    assert normalize("e\u0301 \uf900")[0] == "é 豈"


def test_html_goes_code_stays():
    page = """<!DOCTYPE html><html><head><title>题</title><style>p{color:red;}</style></head>\
<body><script>var a = "<p>";</script>
<div class="x">第一段<b>重</b>点&nbsp;文字<br/>第二行</div>\
<!-- 注 --><p onclick='go()'>第三&amp;段 a &lt; b</p></body></html>"""
    assert strip_html(page).split() == ["第一段重点", "文字", "第二行", "第三&段", "a", "<", "b"]
    for same in (
        "if a < b and c > d:",
        "```html\n<p>代码</p>&nbsp;\n```",
        "用 `<br>` 换行",
        "List<String> x = f(a<b);",
        "AT&T; R&D",
        "x &copy y",
    ):
        assert strip_html(same) == same
    assert "正文" in strip_html("先讲 <script> 和 <select> 两个标签。\n正文在这里。")
    assert "正文" in strip_html("页面分为 <nav> 和正文，最后是 </nav> 与 <footer>。")


def test_code_keeps_its_lines_where_html_goes():
    code = "function foo(a) {\n    var x = jQuery(a);\n  return x;\n}"
    fenced, indented = f"```js\n{code}\n```", "    " + code.replace("\n", "\n    ")
    for block in (fenced, indented):
        assert (
            strip_html(f"先看<b>代码</b>：\n\n{block}\n\n再看&nbsp;说明。")
            == f"先看代码：\n\n{block}\n\n再看\xa0说明。"
        )
    # no HTML, so not of a page
    assert strip_html(f"比较 a<b 与 List<T>：\n{code}") == f"比较 a<b 与 List<T>：\n{code}"
    assert strip_html(f"<p>新闻</p>\n{code}\n<p>正文</p>").split() == ["新闻", "return", "x;", "正文"]
    assert "jQuery" not in strip_html(f"<html><body><p>新闻</p>\n{indented}\n<p>正文</p></body></html>")


@pytest.mark.parametrize(
    "unit",
    [
        " ",
        "a",
        "字",
        "<",
        "<a",
        "<script>",
        "&",
        "&a",
        "`",
        "```",
        "{",
        "a{",
        "1",
        "1-",
        "a.",
        "@",
        "a@",
        "【",
        "！",
        "\u3000",
        "点击",
        "http://",
        "<!--",
        "Ã",
        "\n",
        "\r",
    ],
)
def test_no_input_takes_more_than_linear_time(unit):
    from hanlin.corpus.dedup.fingerprints import comparison_key
    from hanlin.corpus.filters.clean import Cleaner
    from hanlin.corpus.filters.pii import mask
    from hanlin.corpus.filters.rules import PRESETS

    began = time.process_time()
    for text in (unit * (200_000 // len(unit)), "点击" + unit * (200_000 // len(unit)) + "b"):
        Cleaner(PRESETS["zh-web"])([{"text": text}])
        comparison_key(text)
        mask(text)
    assert time.process_time() - began < 4


def test_html_residue_of_real_pages(shared):
    for name in (
        "html_page_0.html",
        "html_page_1.html",
        "html_page_2.html",
        "html_leftovers_news.jsonl",
        "gb2312_cnblog.org.xml",
    ):
        for item in read_documents(shared(f"fixtures_dirty/{name}")):
            text, tagged = normalize(item["text"])
            assert tagged and not re.search(r"</?(p|div|strong|br|span|script)\b|&nbsp;|function\s*\(", text)
            assert (
                sum(c >= "\u4e00" for c in text)
                > 0.5
                * len(
                    re.findall(
                        "[\u4e00-\u9fff]",
                        re.sub(r"(?s)<script.*?</script>|<head.*?</head>", "", item["text"]),
                    )
                )
                * 0.9
            )
