"""A tokenizer trained once for the tests of this room."""

from __future__ import annotations

from pathlib import Path

import pytest

from hanlin.tokenizer import Tokenizer, train_tokenizer

TEXTS = [
    "从前有一只小猫，它叫 Tom。它喜欢吃鱼，也喜欢在花园里玩。\n\n有一天，小猫看见了一条大鱼！",
    "请问 3 + 5 等于几？答：3 + 5 = 8。I don't know what you're saying, it's the cat's.",
    "def add(a, b):\n    return a + b\n\n\nprint(add(1, 2))  # 😀😀😀 ½ é ñ ё 한국어 日本語のテキスト",
    "老师说：“今天我们学习写字。”学生们都说：“好的，老师！”\r\n\r\n\t他们学习写字。",
]


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    return TEXTS * 3


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory, corpus: list[str]) -> Tokenizer:
    out: Path = tmp_path_factory.mktemp("tokenizer") / "tok"
    return train_tokenizer(iter(corpus), 500, out)
