"""Inspection: use is counted rightly, spam shows, clean text raises few false alarms."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from hanlin.cli import main
from hanlin.corpus.readers.read import read_documents
from hanlin.tokenizer import Tokenizer, inspect, train_tokenizer
from hanlin.tokenizer.show import piece_text, visible, vocabulary_text
from hanlin.tokenizer.suspicious import CRITERIA, reasons
from tests.support import shared

SPAM = {
    "mojibake": ["锟斤拷锟斤拷", "鏄撶粡鍏ㄦ枃", "æ\x98¯ä¸\xad".encode().decode(), "\ufffd\ufffd"],
    "invisible": ["小\u200b猫", "\ufeff标题", "价\ue4c6格", "a\x07b"],
    "contact": ["请加微信", "QQ群", "客服热线", "扫码关注公众号", "一三八零零一三八", "微信公众号"],
    "advert": ["北京赛车投注", "在线观看视频", "免费领取", "最新章节", "低息贷款", "天天中彩票"],
    "boilerplate": ["版权所有", "未经授权请勿转载", "点击查看", "上一页", "请登录", "ICP备"],
    "web": [".com", "www", "http://", ".cn"],
    "repeat": ["哈哈哈哈哈", "嘿嘿嘿嘿嘿嘿", "好评好评好评", "欢迎光临欢迎光临"],
    "punctuation": ["=" * 16, "。" * 12, "★☆" * 6],
    "mixed_script": ["这個", "软體", "国際"],
}
CLEAN = [
    "中华人民共和国",
    "没什么",
    "目前为止",
    "微信",
    "电话",
    "下载",
    "客服",
    "哈哈哈",
    "爸爸妈妈",
    "高高兴兴",
    "        ",
    "\n\n",
    "--------",
    "......",
    "彬彬有礼",
    "一二三",
    "研究研究",
    " the",
    " function",
    "……",
    "孙綝",
    "繁體字",
    "简体字",
    "群众",
    "日本",
    "二〇二四年",
    "https",
    "\t\t",
    "，",
    "👩\u200d👩",
    "é",
    "naïve",
]


@pytest.mark.parametrize("name", CRITERIA)
def test_each_criterion_knows_its_own(name: str) -> None:
    for token in SPAM[name]:
        assert reasons(token.encode()).get(name), token


def test_common_words_are_not_suspected() -> None:
    assert {token: found for token in CLEAN if (found := reasons(token.encode()))} == {}
    assert all(reasons(bytes([byte])) == {} for byte in range(256))


def test_spam_shows_in_a_vocabulary(tmp_path: Path, corpus: list[str]) -> None:
    """Spam lines among clean ones, as a crawl has them; what is found is spam, and each kind of it is
    found."""
    chance = random.Random(3)
    lines = [text for text in corpus for _ in range(4)]
    for phrases in SPAM.values():
        lines += [
            f"{chance.choice('，。 ')}{phrase}{chance.choice('！，')}"
            for phrase in phrases
            for _ in range(40)
        ]
    chance.shuffle(lines)
    dirty = inspect(train_tokenizer(iter(lines), 840, tmp_path / "dirty"))
    assert [name for name, listed in dirty["suspicious"].items() if not listed["count"]] == []
    clean = inspect(train_tokenizer(iter(corpus), 500, tmp_path / "clean"))
    assert clean["suspicious_tokens"] == 0
    assert dirty["suspicious_tokens"] >= 30
    text = vocabulary_text(dirty, 10)
    assert all(name in text for name in CRITERIA) and "\u200b" not in text and "\x07" not in text


def test_real_text_raises_few_alarms(tmp_path: Path) -> None:
    folder = shared("data/pretrain_zh")
    texts = [
        d["text"][:5000]
        for f in ("law", "history_modern", "novels_vernacular", "literature_essays")
        for d in islice(read_documents(folder / f"{f}.jsonl.zst"), 40)
    ]
    found = inspect(train_tokenizer(iter(texts), 6400, tmp_path / "real"))
    assert found["suspicious_tokens"] <= 0.002 * found["size"], {
        n: [e["text"] for e in c["tokens"]] for n, c in found["suspicious"].items() if c["count"]
    }


def test_use_is_counted(tokenizer: Tokenizer, corpus: list[str], tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text(corpus[0] * 3, encoding="utf-8")
    counts = Counter(tokenizer.encode(file.read_text(encoding="utf-8")))
    found = inspect(tokenizer, limit=500, on=[file, file])
    listed = {entry["id"]: entry["count"] for entry in found["rarest"]}
    assert all(count == 2 * counts[index] for index, count in listed.items())
    assert list(listed.values()) == sorted(listed.values())
    assert found["unused"] == len(tokenizer.vocabulary.tokens) - len(counts)
    without = inspect(tokenizer, limit=500)
    assert without["unused"] is None and without["rarest"] == without["newest"]
    assert {k: v for k, v in without.items() if k in ("classes", "lengths")} == {
        k: v for k, v in found.items() if k in ("classes", "lengths")
    }


def test_the_command_prints_for_people_or_programs(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text("小猫", encoding="utf-8")
    for options, said in (
        (["--limit", "3"], "learnt last"),
        (["--on", str(tmp_path / "text.txt")], "used least"),
        (["--json"], '"suspicious"'),
    ):
        monkeypatch.setenv("HANLIN_LANG", "en")
        monkeypatch.setattr("sys.argv", ["hanlin", "tokenizer", "inspect", str(tokenizer.path), *options])
        main.main()
        assert said in capsys.readouterr().out


def test_what_cannot_be_seen_is_shown() -> None:
    assert visible("a\x1b[31m\u200b\ue000") == "a\\x1b[31m\\u200b\\ue000"
    assert visible(" the") == "‘ the’" and visible("") == "‘’" and visible("猫") == "猫"


def test_bytes_are_shown_as_bytes(tmp_path, capsys):
    """A character that the vocabulary lacks comes as its three bytes, each told from the others."""
    train_tokenizer(iter(["小明在学校里看书"] * 20), vocab_size=290, out=tmp_path / "words")
    main.app(["tokenizer", "encode", str(tmp_path / "words"), "翰小\n'"])
    shown = capsys.readouterr().out
    assert "'<E7>':231 '<BF>':191 '<B0>':176 '小':" in shown and r"'\n':10" in shown and "�" not in shown
    for byte in range(256):
        assert piece_text(bytes([byte])).isprintable()
    assert piece_text("�".encode()) == "'�'" and piece_text(b"\xe5\xb0") == "'<E5><B0>'"
