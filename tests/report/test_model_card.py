"""The model card: rendered from the report alone, both languages, figures with their intervals and controls,
nothing that breaks a table."""

from __future__ import annotations

import orjson
import pytest

from hanlin.report.model_card import model_card
from hanlin.report.text import show
from tests.report.fake_run import HOSTILE, fake_run


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    raw, _ = fake_run(tmp_path_factory.mktemp("run"))
    return orjson.loads(orjson.dumps(raw))


def test_the_card_says_what_the_model_is_and_what_it_scored(report):
    card = model_card(report | {"hash": "ab" * 32})
    zh, _, en = card.partition("\n---\n")
    assert (
        zh.startswith("# demo：1.13M 参数的中文语言模型")
        and "# demo: a Chinese language model of 1.13M parameters" in en
    )
    for part in (zh, en):
        assert (
            "1.13M" in part
            and "1,536" in part
            and "3.69M" in part
            and "`abababababababab`" in part
            and "30,000" in part
        )
        for name, raw in report["stages"][-2]["metrics"].items():
            if not name.endswith("/sampled"):
                assert show(raw["value"], name != "bits_per_byte") in part, name
        assert "hanlin chat ." in part and "from_pretrained" in part
    assert (
        "| 每字节比特数 | 1.784 \\[1.757, 1.811\\] | 600 | 五元语法模型（只数了 9.6M 词元） 0.688 | 不如 |"
        in zh
    )
    assert "below it" in en and "强化学习" not in zh.split("## 模型")[0]  # it was not kept


def test_nothing_from_data_breaks_the_card(report):
    card = model_card(report | {"licence": "CC BY 4.0"})
    row = next(line for line in card.splitlines() if "15,061" in line)
    assert row.count("|") - row.count("\\|") == 3 and "<script>" not in card and HOSTILE not in card
    assert "CC BY 4.0" in card


def test_an_old_report_without_figures_of_the_model_has_a_card_too(report):
    card = model_card({key: value for key, value in report.items() if key != "about"} | {"stages": []})
    assert card.startswith("# demo\n") and "## 局限" in card and "## Limits" in card
