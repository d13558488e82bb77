"""The model card: both languages, figures with their intervals and controls, nothing that breaks a table, a
head that hubs read, and no score without all that decides it."""

from __future__ import annotations

import dataclasses

import orjson
import pytest
import yaml

from hanlin.common.messages import Text
from hanlin.evaluation.statistics import Control, Metric
from hanlin.report.model_card import Card, DoctorRow, card_state, model_card, reported
from hanlin.report.model_index import Score, front_matter, left_out, licence_keys
from hanlin.report.text import show
from tests.report.fake_run import HOSTILE, fake_run


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    raw, _ = fake_run(tmp_path_factory.mktemp("run"))
    return orjson.loads(orjson.dumps(raw))


def card_of(report, **more) -> Card:
    """The card of the run's model, every score of which has a control and a data hash."""
    scores = []
    for name, (metric, _) in reported(report).items():
        beside = metric.control or Control("majority", metric.value, metric.low, metric.high)
        scores.append(Score(name, dataclasses.replace(metric, control=beside), "hanlin", data="cd" * 32))
    about = report.get("about") or {}
    return Card(report["recipe"], about, report, scores=scores, **more)


def parts(text: str) -> tuple[dict, str, str]:
    """The head as YAML, the Chinese part, the English part."""
    _, head, body = text.split("---\n", 2)
    zh, _, en = body.partition("\n---\n")
    return yaml.safe_load(head), zh.lstrip("\n"), en


SCORE = Score(
    "c3/cloze",
    Metric.proportion(1200, 3000).with_control("longest", Metric.proportion(945, 3000)),
    "hanlin-zh",
    "dev",
    "ab" * 32,
    "0123456789ab",
    5,
)


def test_the_card_says_what_the_model_is_and_what_it_scored(report):
    _, zh, en = parts(model_card(card_of(report, hash="ab" * 32)))
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
        "| 每字节比特数 | 1.784 \\[1.757, 1.811\\] | 600 | 五元语法模型（只数了 9.6M 词元） 0.688 | 不如 | "
        "hanlin |  | cdcdcdcd |" in zh
    )
    assert "below it" in en and "强化学习" not in zh.split("## 模型")[0]  # it was not kept


def test_nothing_from_data_breaks_the_card(report):
    card = model_card(card_of(report, licence="CC BY 4.0"))
    row = next(line for line in card.splitlines() if "15,061" in line)
    assert row.count("|") - row.count("\\|") == 3 and "<script>" not in card and HOSTILE not in card
    assert "CC BY 4.0" in card
    hostile = f"---\n{HOSTILE}\n---\nlicense: mit"
    head, zh, en = parts(model_card(Card(hostile, scores=[SCORE])))
    assert "license" not in head and head["model-index"][0]["name"] == " ".join(hostile.split())
    assert "<script>" not in zh + en


def test_an_old_report_without_figures_of_the_model_has_a_card_too(report):
    old = {key: value for key, value in report.items() if key != "about"} | {"stages": []}
    head, zh, en = parts(model_card(card_of(old)))
    assert zh.startswith("# demo\n") and "## 局限" in zh and "## Limits" in en
    assert "没有列出分数" in zh and "model-index" not in head


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"metric": dataclasses.replace(SCORE.metric, control=None)}, "no control"),
        ({"metric": Metric(0.5, None, None, 1, control=SCORE.metric.control)}, "no interval"),
        ({"protocol": ""}, "no protocol"),
        ({"data": ""}, "no data hash"),
        ({"missing": (Text("no model hash"),)}, "no model hash"),
    ],
)
def test_a_score_that_lacks_something_is_counted_and_not_given(change, reason):
    lacking = dataclasses.replace(SCORE, name="xcopa/cloze", **change)
    head, zh, en = parts(model_card(Card("m", scores=[SCORE, lacking, lacking])))
    assert f"2 scores left out: {reason}." in en and "略去 2 个分数" in zh
    assert "XCOPA" not in zh + en and "C3" in en
    assert [result["dataset"]["type"] for result in head["model-index"][0]["results"]] == ["c3"]
    assert [text.en for text in left_out([lacking])] == [f"1 score left out: {reason}."]


def test_what_guessing_would_score_is_a_control():
    guessed = dataclasses.replace(SCORE, metric=Metric.proportion(1200, 3000, chance=0.25))
    head, _, en = parts(model_card(Card("m", scores=[guessed])))
    control = head["model-index"][0]["results"][0]["metrics"][0]["args"]["control"]
    assert control["name"] == "chance" and control["value"] == 0.25
    assert "chance 25.0% | beats it" in en


def test_the_head_has_all_that_decides_a_number():
    head = yaml.safe_load(front_matter("m", [SCORE], base_model="who/base", tags=["qwen3"]).strip("-\n"))
    assert head["language"] == ["zh"] and head["library_name"] == "transformers"
    assert head["tags"] == ["hanlin", "qwen3"] and head["base_model"] == "who/base" and "license" not in head
    (result,) = head["model-index"][0]["results"]
    assert result["task"]["type"] == "multiple-choice"
    assert result["dataset"]["split"] == "dev" and result["dataset"]["revision"] == SCORE.data
    (metric,) = result["metrics"]
    assert metric["type"] == "accuracy" and metric["value"] == SCORE.metric.value and not metric["verified"]
    args = metric["args"]
    assert args["n"] == 3000 and args["interval"] == [SCORE.metric.low, SCORE.metric.high]
    assert args["protocol"] == "hanlin-zh" and args["prompt_sha256"] == SCORE.prompt and args["shots"] == 5
    assert args["control"]["name"] == "longest" and args["control"]["value"] == 0.315
    assert args["data_sha256"] == SCORE.data


def test_hugging_face_reads_the_head(tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    bits = Metric(1.2, 1.1, 1.3, 600, higher_is_better=False, control=Control("5-gram", 2.0, 1.9, 2.1))
    second = Score("bits_per_byte", bits, "hanlin", data="ef" * 8)
    text = model_card(Card("模型 1", scores=[SCORE, second], licence="apache-2.0", about={"family": "qwen3"}))
    data = hub.ModelCard(text).data
    assert data.license == "apache-2.0" and data.language == ["zh"] and data.model_name == "模型 1"
    first, other = data.eval_results
    assert (first.dataset_type, first.dataset_revision) == ("c3", SCORE.data)
    assert first.metric_value == 0.4 and first.metric_args["n"] == 3000 and first.verified is False
    assert (other.metric_type, other.metric_value) == ("bits_per_byte", 1.2)
    # what the library writes of it again is the same
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    before = hub.repocard.metadata_load(tmp_path / "README.md")
    assert yaml.safe_load(data.to_yaml())["model-index"][0]["results"] == [
        {key: value for key, value in result.items() if value}
        for result in before["model-index"][0]["results"]
    ]


@pytest.mark.parametrize(
    ("stated", "keys"),
    [
        ("", {}),
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("CC BY-NC-SA 4.0", {"license": "cc-by-nc-sa-4.0"}),
        ("仅供研究", {"license": "other", "license_name": "仅供研究"}),
    ],
)
def test_a_licence_is_stated_as_it_was_or_not_at_all(stated, keys):
    assert licence_keys(stated) == keys
    head, zh, en = parts(model_card(Card("m", licence=stated)))
    assert {key: value for key, value in head.items() if key.startswith("license")} == keys
    assert ("不明：没有声明许可" in zh) == ("Unknown: none was stated" in en) == (not stated)
    assert stated in zh


def test_a_card_is_known_again_and_a_change_is_seen():
    text = model_card(Card("m", scores=[SCORE]))
    assert card_state(text) == card_state(text.replace("\n", "\r\n")) == "ours"
    assert card_state(text.replace("40.0%", "90.0%")) == "edited"
    assert card_state(text + "\nmore\n") == "edited"
    assert card_state("# My model\n") == card_state("") == "foreign"


def test_doctors_stand_in_a_table_with_their_level_in_a_word():
    row = DoctorRow(
        Text.rendered(en="Ends | replies", zh="会不会停"), Text.rendered(en="red", zh="红"), Text("Good")
    )
    _, zh, en = parts(model_card(Card("m", doctors=[row])))
    assert "| 会不会停 | 红 |" in zh and "| Ends \\| replies | red | Good |" in en
    assert "## 体检" not in model_card(Card("m"))


def test_questions_of_ones_own_are_shares_too():
    own = dataclasses.replace(SCORE, name="mine/letters")
    head, _, en = parts(model_card(Card("m", scores=[own])))
    (result,) = head["model-index"][0]["results"]
    assert result["metrics"][0]["type"] == "accuracy" and result["dataset"]["type"] == "mine"
    assert "| mine/letters | 40.0%" in en
