"""Traditional text becomes simplified, simplified text is left alone, and a missing package is named."""

from __future__ import annotations

import json
import sys

import pytest

from hanlin.common.errors import HanlinError
from hanlin.common.manifest import read_manifest
from hanlin.corpus.build import CorpusConfig, build_corpus, read_corpus
from hanlin.corpus.characters import TRADITIONAL, code_points, flags
from hanlin.corpus.clean import Cleaner
from hanlin.corpus.readers import read_documents
from hanlin.corpus.rules import PRESETS, preset
from hanlin.corpus.simplify import Simplifier, version

PAIRS = [
    ("他說這個頭髮很長，後來發展得很好。", "他说这个头发很长，后来发展得很好。"),
    ("皇后在後宮，乾隆皇帝吃餅乾。", "皇后在后宫，乾隆皇帝吃饼干。"),  # by phrase: one 后 stays, one 乾 too
    ("著名的作家看著我。", "著名的作家看着我。"),
    ("「軟體」與『網路』，ABC 123……", "「软体」与『网路』，ABC 123……"),  # characters only, words and quotation marks stay
    ("𠮷野家與\x00𨋢", "𠮷野家与\x00𨋢"),
]
ALREADY = ["他说这个头发很长。", "著作权、乾隆、瞭望、於是之", "", "plain ASCII\n\n", "日本語のテキスト、東京。", "\ud83d 半个"]


@pytest.fixture(scope="module", autouse=True)
def opencc():
    pytest.importorskip("opencc", reason="opencc is not installed: pip install 'hanlin[data]'")
