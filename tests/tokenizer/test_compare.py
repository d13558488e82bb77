"""Comparison: every byte in one class, sums that add up, others' tokenizers, the table and the picture."""

from __future__ import annotations

import builtins
import json
import re
import xml.etree.ElementTree as ElementTree
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.cli import main
from hanlin.common.errors import HanlinError
from hanlin.common.terminal import table, width
from hanlin.corpus.readers.read import read_documents
from hanlin.report.tokenizer_page import comparison_picture
from hanlin.tokenizer import Tokenizer, compare
from hanlin.tokenizer.foreign import ForeignTokenizer, open_any
from hanlin.tokenizer.segments import CLASSES, segments
from hanlin.tokenizer.show import class_names, comparison_text, short_names
from tests.support import shared

mixed = st.text(
    st.sampled_from(
        "小猫，。“”（《a bZé 12３\n\r\t  \u3000(){};=_'\"#/.-—…日本のかたカё한😀─\u0301\u200b\ud800`"
    )
    | st.characters(),
    max_size=60,
)
spaced = st.lists(
    st.sampled_from(
        [
            "小猫喜欢鱼",
            "你好，",
            "。",
            "cat",
            "it's",
            "(the",
            "3",
            "3.14",
            ", ",
            " ",
            "\n",
            "\n\n",
            " “",
            "”",
            "кот",
        ]
    ),
    max_size=12,
)


@settings(max_examples=1000, deadline=None)
@given(text=mixed)
def test_every_character_is_in_one_segment(text: str) -> None:
    parts = list(segments(text))
    assert "".join(part for _, part in parts) == text
    assert all(part and name in CLASSES for name, part in parts)


@settings(max_examples=500, deadline=None)
@given(words=spaced)
def test_cuts_fall_between_pretokens(tokenizer: Tokenizer, words: list[str]) -> None:
    """Encoding the segments apart costs no token where scripts do not touch."""
    text = re.sub(r"(?<=[^\W\d_]) ?(?=[^\W\d_])", "\n", re.sub(r" +", " ", " ".join(words)))
    apart = sum(len(tokenizer.encode(part)) for _, part in segments(text))
    assert apart == len(tokenizer.encode(text)), text


@pytest.mark.parametrize(
    "text,names",
    [
        ("小猫喜欢吃鱼，也喜欢玩！", "chinese"),
        ("The cat (a big one) isn't here; it left.", "english"),
        ("3.14, 15% 92-6\n", "numbers"),
        ("def f(x):\n    return x + 1\n\nprint(f(3))\n", "code"),
        ("const a = [1, 2];", "code"),
        ("x_y = 3  # 小猫\n", "code"),
        ("```\nls -l\n小猫\n```\n", "code"),
        ("кот ねこ 😀", "other"),
        ("  \n", "other"),
        ("他有 3 个 cats", "chinese numbers chinese english"),
        ("用Python写", "chinese english chinese"),
        ("# 小猫\nx = foo(1)\n小猫\n", "chinese code chinese"),
        ("共有2，000元 = 多少？", "chinese numbers chinese"),
    ],
)
def test_classes_are_what_people_would_say(text: str, names: str) -> None:
    found = [name for name, _ in segments(text)]
    assert [
        name for index, name in enumerate(found) if found[index - 1 : index] != [name]
    ] == names.split() or found == ["chinese", "numbers", "chinese", "numbers", "chinese"]


@pytest.mark.parametrize(
    "file,name,least",
    [
        ("law", "chinese", 0.95),
        ("novels_vernacular", "chinese", 0.95),
        ("poetry", "chinese", 0.95),
        ("code_python", "code", 0.4),
    ],
)
def test_real_files_are_mostly_what_they_are(file: str, name: str, least: float) -> None:
    sizes = dict.fromkeys(CLASSES, 0)
    for document in islice(read_documents(shared(f"data/pretrain_zh/{file}.jsonl.zst")), 30):
        for found, part in segments(document["text"][:20_000]):
            sizes[found] += len(part.encode())
    assert sizes[name] >= least * sum(sizes.values())
    assert name == "code" or sizes["code"] <= 0.002 * sum(sizes.values())  # prose is not taken for code


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text(
        "从前有一只小猫，它叫 Tom，今年 3 岁。\nI don't know the cat.\nprint(add(1, 2))\nкот 😀\n",
        encoding="utf-8",
    )
    return file


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    library = pytest.importorskip("tokenizers")
    model = library.Tokenizer(library.models.BPE())
    model.normalizer = library.normalizers.NFC()
    model.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    model.train_from_iterator(
        ["小猫小猫 the cat"] * 5,
        library.trainers.BpeTrainer(
            vocab_size=300, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    (tmp_path / "theirs").mkdir()
    model.save(str(tmp_path / "theirs" / "tokenizer.json"))
    return tmp_path / "theirs"


def test_sums_add_up_and_files_may_be_cut(tokenizer: Tokenizer, foreign: Path, text: Path) -> None:
    result = compare([tokenizer, open_any(foreign)], [text, text])
    content = text.read_text(encoding="utf-8").rstrip("\n")
    assert (
        sum(part["bytes"] for part in result["classes"].values())
        == result["bytes"]
        == 2 * len(content.encode())
    )
    assert (
        sum(part["characters"] for part in result["classes"].values())
        == result["characters"]
        == 2 * len(content)
    )
    assert all(part["bytes"] for part in result["classes"].values())
    for found, opened in zip(result["tokenizers"], (tokenizer, open_any(foreign)), strict=True):
        assert found["tokens"] == 2 * len(opened.encode_arrays([content])[0])
        assert (
            found["segment_tokens"]
            == sum(part["tokens"] for part in found["classes"].values())
            >= found["tokens"]
        )
        for name, part in found["classes"].items():
            expected = sum(
                len(opened.encode_arrays([piece])[0]) for kind, piece in segments(content) if kind == name
            )
            assert part["tokens"] == 2 * expected
            assert part["bytes_per_token"] * part["tokens"] == pytest.approx(result["classes"][name]["bytes"])
    ours, theirs = result["tokenizers"]
    assert ours["unreachable"] == 0 and theirs["unreachable"] is None
    assert theirs["unused"] == ForeignTokenizer(foreign / "tokenizer.json").ordinary - len(
        set(open_any(foreign).encode_arrays([content])[0].tolist())
    )
    assert compare([tokenizer], [text], max_bytes=10)["bytes"] <= len(content.encode())


def test_others_are_opened_wherever_they_lie(foreign: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    (foreign / "tokenizer.json").rename(tmp_path / "qwen.json")
    assert isinstance(open_any(tmp_path / "qwen.json"), ForeignTokenizer)
    for path in (tokenizer.path, tokenizer.path / "tokenizer.json"):
        assert isinstance(open_any(path), Tokenizer)


def test_what_cannot_be_opened_says_why(
    foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odd.json").write_text(json.dumps({"model": 3}))
    for path, said in ((tmp_path / "odd.json", "cannot open it"), (tmp_path / "nowhere", "no tokenizer")):
        with pytest.raises(HanlinError) as refusal:
            open_any(path)
        assert said in refusal.value.en and str(path) in refusal.value.en
    real = builtins.__import__
    monkeypatch.setattr(
        builtins,
        "__import__",
        lambda name, *rest: (
            (_ for _ in ()).throw(ImportError(name)) if name == "tokenizers" else real(name, *rest)
        ),
    )
    with pytest.raises(HanlinError) as refusal:
        open_any(foreign)
    assert "pip install tokenizers" in refusal.value.en and "pip install tokenizers" in refusal.value.zh


def test_table_and_picture(
    tokenizer: Tokenizer,
    foreign: Path,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for language in ("zh", "en"):
        monkeypatch.setenv("HANLIN_LANG", language)
        monkeypatch.setattr(
            "sys.argv",
            [
                "hanlin",
                "tokenizer",
                "compare",
                str(tokenizer.path),
                str(foreign),
                "--on",
                str(text),
                "--picture",
                str(tmp_path / "a.svg"),
            ],
        )
        main.main()
        shown = capsys.readouterr().out
        block = shown.split("\n\n")[1].splitlines()
        ends = {width(re.match(r".*\d(?=  +\S+$)", line)[0]) for line in block[1:]}  # type: ignore[index]
        assert len(block) == 3 and len(ends) == 1  # columns end below one another
        drawn = ElementTree.parse(tmp_path / "a.svg").getroot()
        groups = 1 + sum(part["bytes"] > 0 for part in compare([tokenizer], [text])["classes"].values())
        assert (
            len(
                [
                    rect
                    for rect in drawn.iter("{http://www.w3.org/2000/svg}rect")
                    if rect.get("height") == "13"
                ]
            )
            == 2 * groups
        )


def test_names_in_a_picture_are_escaped(tokenizer: Tokenizer, text: Path) -> None:
    result = compare([tokenizer], [text])
    assert "<b>" not in comparison_picture(result, ["<b>&"], class_names())
    assert comparison_text(result)


def test_names_are_as_short_as_tells_them_apart() -> None:
    assert short_names(["/a/x/tok", "/a/y/tok"]) == ["x/tok", "y/tok"]
    assert short_names(["/a/x", "/a/y/tokenizer.json"]) == ["x", "y"]
    assert short_names(["/a/x", "/a/x"]) == ["x (1)", "x (2)"]


def test_wide_characters_take_two_columns() -> None:
    lines = table([["中文", "1"], ["abc", "23"], ["e\u0301", "4"]], right=(1,))
    assert [width(line) for line in lines] == [8, 8, 8]
