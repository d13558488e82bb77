"""A trained score separates what it was shown, says how well on documents it was not shown, and gives the
same number everywhere."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from hanlin.cli.main import app
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import artifact, read_manifest
from hanlin.corpus.builder.build import CorpusConfig, build_corpus
from hanlin.corpus.builder.writer import Output
from hanlin.corpus.filters.clean import Cleaner
from hanlin.corpus.filters.quality import (
    WEIGHTS,
    ScoreConfig,
    Scorer,
    _folded,
    deciles,
    norm,
    score_files,
    slots,
)
from hanlin.corpus.filters.rules import SCORE_RULE, preset
from hanlin.corpus.filters.stats import EXCERPT, SAMPLES
from tests.corpus.conftest import COMMON

SMALL = ScoreConfig(bits=12)


def scorer(config: ScoreConfig = SMALL, seed: int = 0) -> Scorer:
    draw = np.random.default_rng(seed)
    return Scorer(config, draw.integers(-300, 300, 1 << config.bits).astype(np.int16), 1e-4, -0.02, 1.5, 0.1)


def texts(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    alphabet = COMMON + "ABCabc 0123\n，。🙂\u3000"
    return [
        "".join(draw.choice(alphabet) for _ in range(draw.choice([0, 1, 2, 3, 10, 200, 3000])))
        for _ in range(count)
    ]


def test_features_are_those_of_a_loop_over_the_characters():
    config = ScoreConfig(orders=(1, 2, 3), bits=12, max_chars=50)
    sample, mine = texts(30), scorer(config)
    fold = _folded()
    places: dict[int, dict[tuple[int, ...], int]] = {}
    for n, (found, starts, counts) in zip(config.orders, slots(sample, config), strict=True):
        for text, start, count in zip(sample, starts, counts, strict=True):
            points = [int(fold[ord(c)]) for c in text[:50]]
            grams = [tuple(points[i : i + n]) for i in range(len(points) - n + 1)]
            assert len(grams) == count
            for gram, place in zip(grams, found[start : start + count], strict=True):
                # equal grams, equal slots
                assert places.setdefault(n, {}).setdefault(gram, int(place)) == place
    for text, margin in zip(sample, mine.margins(sample), strict=True):
        points = [int(fold[ord(c)]) for c in text[:50]]
        total = [
            int(mine.weights[places[n][tuple(points[i : i + n])]])
            for n in config.orders
            for i in range(len(points) - n + 1)
        ]
        assert (
            np.isnan(margin)
            if not total
            else margin
            == pytest.approx(sum(total) * mine.scale / norm(np.array(len(total))) + mine.intercept, abs=1e-12)
        )


def test_slots_are_spread_evenly():
    config = ScoreConfig(orders=(1, 2, 3), bits=10)
    sample = ["".join(map(chr, range(0x4E00, 0x4E00 + 9000)))]
    for found, _, _ in slots(sample, config):
        counts = np.bincount(found, minlength=1024)
        assert counts.max() < 40 and counts.min() >= 0  # 8.8 on average


def test_letters_digits_and_spaces_are_folded():
    mine = scorer()
    pairs = [
        ("Hello WORLD", "hello world"),
        ("２０２６年", "0000年"),
        ("一\u3000二", "一 二"),
        ("ＡＢｃ", "abc"),
    ]
    for left, right in pairs:
        assert mine([left])[0] == mine([right])[0]
    assert mine(["是，"])[0] != mine(["是,"])[0]  # full-width punctuation is a sign of care


def test_a_score_does_not_depend_on_the_batch():
    sample, mine = texts(300), scorer()
    whole = mine(sample)
    for size in (1, 7, 100):
        split = np.concatenate([mine(sample[i : i + size]) for i in range(0, len(sample), size)])
        assert np.array_equal(whole, split, equal_nan=True)
    assert np.array_equal(whole[::-1], mine(sample[::-1]), equal_nan=True)
    assert len(mine([])) == 0
    filled = whole[~np.isnan(whole)]
    assert ((filled > 0) & (filled < 1)).all() and np.isnan(whole[[not text for text in sample]]).all()
    assert 0 < mine(["\ud800 lone surrogate"])[0] < 1


def test_applying_is_fast():
    """≥ 20 MB/s is the aim and hundreds are usual; the test allows for a busy machine."""
    mine, sample = (
        scorer(ScoreConfig()),
        ["".join(random.Random(i).choices(COMMON, k=2000)) for i in range(500)],
    )
    mine(sample[:10])
    size = sum(len(text.encode()) for text in sample)
    seconds = []
    for _ in range(3):
        began = time.process_time()
        mine(sample)
        seconds.append(time.process_time() - began)
    assert size / min(seconds) > 20e6


@pytest.mark.parametrize(
    "bad",
    [
        {"orders": ()},
        {"orders": (0,)},
        {"orders": (1, 1)},
        {"orders": (7,)},
        {"bits": 4},
        {"folds": 1},
        {"test_fraction": 0},
        {"max_chars": 0},
    ],
)
def test_a_wrong_configuration_is_refused(bad):
    with pytest.raises(HanlinError):
        ScoreConfig(**bad)


def test_deciles_cover_all_scores():
    scores = np.linspace(0, 1, 1000)
    groups = deciles(scores, [(float(s), f"{s}") for s in scores])
    assert len(groups) == 10 and groups[0]["low"] == 0 and groups[-1]["high"] == 1
    assert all(left["high"] == right["low"] for left, right in itertools.pairwise(groups))
    assert all(
        group["low"] <= sample["score"] <= group["high"] for group in groups for sample in group["samples"]
    )


# ------------------------------------------------------------------ training

PROSE, SHOUTING = (
    "的一是不了在人有我他这个们中来上大为和国，。",
    "优惠加微信点击购买领取限时抢购包邮代理招商Q！!",
)


def examples(alphabet: str, count: int, seed: int, noise: float = 0.3) -> list[dict]:
    draw = random.Random(seed)
    common = COMMON[60:120]
    return [
        {
            "text": "".join(
                draw.choice(common if draw.random() < noise else alphabet)
                for _ in range(draw.choice([30, 100, 400]))
            )
        }
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    pytest.importorskip("sklearn")
    from hanlin.corpus.builder.quality_fit import fit_scorer

    folder = tmp_path_factory.mktemp("score")
    good, bad = examples(PROSE, 400, 1), examples(SHOUTING, 600, 2)
    good[0] = bad[0]  # in both
    good += good[1:50]  # repeated
    for name, items in (("good", good), ("bad", bad)):
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items), encoding="utf-8"
        )
    report = fit_scorer(
        [folder / "good.jsonl"], [folder / "bad.jsonl"], folder / "model", ScoreConfig(bits=14)
    )
    return folder, report


def test_training_tells_the_classes_apart_on_documents_kept_out(trained):
    folder, report = trained
    assert report["documents"] == {"good": 399, "bad": 599, "in_both": 1, "unusable": 0}
    assert report["test"]["good"] + report["training"]["good"] == 399 and 40 < report["test"]["good"] < 120
    assert (
        report["auc"]["low"] > 0.95
        and report["auc_same_length"]["value"] > 0.98
        and report["calibration_error"] < 0.1
    )
    assert (
        sum(group["samples"] != [] for group in report["deciles"]) == 10
        and report["deciles"][-1]["good"] > report["deciles"][0]["good"]
    )
    manifest = read_manifest(folder / "model", "quality_scorer")
    assert manifest.metrics["auc"] == report["auc"] and set(manifest.files) == {
        "weights.npy",
        "scorer.json",
        "report.json",
    }
    fresh = [[item["text"] for item in examples(alphabet, 100, 9)] for alphabet in (PROSE, SHOUTING)]
    mine = Scorer.load(folder / "model")
    assert mine(fresh[0]).mean() > 0.95 and mine(fresh[1]).mean() < 0.05


def test_training_again_gives_the_same_weights(trained, tmp_path):
    from hanlin.corpus.builder.quality_fit import fit_scorer

    folder, report = trained
    lines = (folder / "good.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    # the order of documents plays no part
    (tmp_path / "good.jsonl").write_text("".join(reversed(lines)), encoding="utf-8")
    again = fit_scorer(
        [tmp_path / "good.jsonl"], [folder / "bad.jsonl"], tmp_path / "model", ScoreConfig(bits=14)
    )
    assert again["auc"] == report["auc"]
    assert (tmp_path / "model" / WEIGHTS).read_bytes() == (folder / "model" / WEIGHTS).read_bytes()


def test_classes_alike_are_told_to_be_alike(tmp_path, write):
    pytest.importorskip("sklearn")
    from hanlin.corpus.builder.quality_fit import fit_scorer

    good, bad = write("good.jsonl", examples(PROSE, 400, 1)), write("bad.jsonl", examples(PROSE, 400, 2))
    report = fit_scorer([good], [bad], tmp_path / "model", ScoreConfig(bits=14))
    assert report["auc"]["low"] < 0.5 < report["auc"]["high"]


def test_length_alone_is_not_learnt(tmp_path, write):
    pytest.importorskip("sklearn")
    from hanlin.corpus.builder.quality_fit import fit_scorer

    draw = random.Random(0)
    long = [{"text": "".join(draw.choices(COMMON, k=2000))} for _ in range(200)]
    short = [{"text": "".join(draw.choices(COMMON, k=40))} for _ in range(1500)]
    fit_scorer(
        [write("good.jsonl", long)], [write("bad.jsonl", short)], tmp_path / "model", ScoreConfig(bits=14)
    )
    mine = Scorer.load(tmp_path / "model")
    lengths = [mine(["".join(draw.choices(COMMON, k=k)) for _ in range(100)]).mean() for k in (40, 400, 2000)]
    assert max(lengths) - min(lengths) < 0.3, lengths


def test_a_large_class_is_thinned(tmp_path, write):
    pytest.importorskip("sklearn")
    from hanlin.corpus.builder.quality_fit import _draw
    from hanlin.corpus.readers.quarantine import Quarantine

    path = write("x.jsonl", examples(PROSE, 500, 1))
    drawn = _draw([path], ScoreConfig(max_class_chars=20_000), 1, Quarantine())
    everything = _draw([path], ScoreConfig(), 1, Quarantine())
    assert 20_000 <= sum(len(item.text) for item in drawn) < 21_000
    assert set(drawn) < set(everything)
    assert len(everything) == 500


def test_auc_and_its_interval():
    pytest.importorskip("sklearn")
    from sklearn.metrics import roc_auc_score

    from hanlin.corpus.builder.quality_fit import auc

    draw = np.random.default_rng(1)
    inside = 0
    for _ in range(300):
        good, bad = draw.normal(1, 1, 60).round(1), draw.normal(0, 1, 90).round(1)  # rounded: ties
        value, low, high = auc(good, bad)
        assert value == pytest.approx(roc_auc_score([1] * 60 + [0] * 90, np.concatenate([good, bad])))
        inside += low <= 0.7602 <= high  # Φ(1 / √2)
    assert 270 <= inside <= 298
    assert auc(np.array([2.0, 3.0] * 50), np.array([1.0] * 100)) == (1.0, 0.97, 1.0)


def test_too_few_examples_and_a_missing_library_are_said(tmp_path, write, monkeypatch):
    pytest.importorskip("sklearn")
    from hanlin.corpus.builder.quality_fit import fit_scorer

    few, many = write("few.jsonl", examples(PROSE, 10, 1)), write("many.jsonl", examples(SHOUTING, 100, 1))
    with pytest.raises(HanlinError, match="10"):
        fit_scorer([few], [many], tmp_path / "model")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(HanlinError, match=r"hanlin\[data\]"):
        fit_scorer([many], [many], tmp_path / "model")


def test_applying_imports_no_scikit_learn(trained):
    folder, _ = trained
    code = (
        "import sys; from hanlin.corpus.filters.quality import Scorer; "
        f"print(Scorer.load({str(folder / 'model')!r})(['的一是不了'])[0]); "
        f"assert not {{'sklearn', 'scipy', 'torch'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)


def test_files_are_scored_by_source(trained):
    folder, _ = trained
    found = score_files(Scorer.load(folder / "model"), [folder / "good.jsonl", folder / "bad.jsonl"])
    assert found["good"]["mean"] > 0.9 > 0.1 > found["bad"]["mean"] and found["bad"]["documents"] == 600
    assert len(found["good"]["deciles"]) == 10


def test_the_command_trains_and_scores(trained, tmp_path, capsys):
    folder, _ = trained
    good, bad = folder / "good.jsonl", folder / "bad.jsonl"
    app(
        [
            "corpus",
            "score",
            "--good",
            str(good),
            "--bad",
            str(bad),
            "--out",
            str(tmp_path / "m"),
            "--ngrams",
            "1-2",
        ]
    )
    assert "AUC" in capsys.readouterr().out
    assert Scorer.load(tmp_path / "m").config.orders == (1, 2)
    app(["corpus", "score", str(good), "--model", str(tmp_path / "m"), "--json"])
    assert json.loads(capsys.readouterr().out)["good"]["documents"] == 449
    app(["corpus", "score", str(good), "--model", str(tmp_path / "m")])
    assert "good" in capsys.readouterr().out
    for wrong in (
        ["--good", str(good)],
        [],
        [str(good)],
        [str(good), "--model", str(tmp_path / "m"), "--good", str(good)],
    ):
        with pytest.raises(HanlinError, match="--out"):
            app(["corpus", "score", *wrong])
    with pytest.raises(HanlinError, match="1-3"):
        app(
            [
                "corpus",
                "score",
                "--good",
                str(good),
                "--bad",
                str(bad),
                "--out",
                str(tmp_path / "n"),
                "--ngrams",
                "x",
            ]
        )
    (tmp_path / "m" / WEIGHTS).write_bytes(b"damaged")
    with pytest.raises(HanlinError):
        Scorer.load(tmp_path / "m")


# ------------------------------------------------------------------ as a rule


def scores_rule(model, threshold: float = 0.5, **rules) -> dict:
    return {"min_chars": 1, "score_model": str(model), "min_score": threshold} | rules


def test_the_rule_drops_below_its_threshold_and_not_at_it(trained):
    folder, _ = trained
    mine = Scorer.load(folder / "model")
    sample = [item["text"] for alphabet in (PROSE, SHOUTING) for item in examples(alphabet, 60, 5, noise=0.6)]
    scores = mine(sample)
    at = float(np.sort(scores)[40])
    cleaner = Cleaner(preset("none", scores_rule(folder / "model", at)))
    kept = cleaner([{"text": text, "source": "s"} for text in sample])
    assert [item is not None for item in kept] == (scores >= at).tolist() and sum(
        item is None for item in kept
    ) == 40
    (rule, about), *others = cleaner.drops.to_dict().items()
    assert rule == SCORE_RULE == "quality_score" and about["count"] == 40 and not others
    found = {text[:EXCERPT]: round(score, 4) for text, score in zip(sample, scores.tolist(), strict=True)}
    assert len(about["samples"]) == SAMPLES and all(
        item["score"] == found[item["text"]] <= at for item in about["samples"]
    )
    off = Cleaner(preset("none", scores_rule(folder / "model", at, disabled=["quality_score"])))
    assert None not in off([{"text": text} for text in sample])


def test_only_documents_that_break_no_other_rule_are_scored_and_as_they_are_kept(trained):
    folder, _ = trained
    good, bad = (
        [item["text"] for item in examples(alphabet, 40, 8) if len(item["text"]) > 90]
        for alphabet in (PROSE, SHOUTING)
    )
    cleaner = Cleaner(preset("zh-short", scores_rule(folder / "model", min_chars=50, max_symbol_share=1.0)))
    result = cleaner(
        [{"text": text} for text in [*good, "短", "", *(f"<p>{text}</p>\u200b" for text in bad)]]
    )
    counts = {rule: about["count"] for rule, about in cleaner.drops.to_dict().items()}
    assert (
        counts["too_short"] == 2
        and counts["quality_score"] + counts.get("promotion", 0) == len(bad)
        and counts["quality_score"] > 0
    )
    assert [item["text"] for item in result if item] == good
    # nothing to score, nothing to drop
    assert Cleaner(preset("none", scores_rule(folder / "model", min_chars=0)))([{"text": ""}]) == [
        {"text": ""}
    ]
    assert Cleaner(preset("none", scores_rule(folder / "model")))([]) == []


def test_threshold_and_model_go_together(trained, tmp_path):
    folder, _ = trained
    for wrong in (
        {"min_score": 0.3},
        {"score_model": str(folder / "model")},
        scores_rule(folder / "model", 1.5),
    ):
        with pytest.raises((HanlinError, ValueError), match="min_score"):
            preset("zh-web", wrong)
    source = [{"text": "一篇普通的文章。" * 9}]
    for path, problem in ((tmp_path / "nothing", "manifest.json"), (folder, "manifest.json")):
        with pytest.raises(HanlinError, match=problem):
            Cleaner(preset("zh-web", scores_rule(path)))
        with pytest.raises(HanlinError, match=problem):
            build_corpus(source, tmp_path / "c", CorpusConfig(rules=scores_rule(path)))
    corpus = build_corpus(source, tmp_path / "c", CorpusConfig(preset="none"))
    with pytest.raises(HanlinError, match="quality_scorer"):
        build_corpus(source, tmp_path / "d", CorpusConfig(rules=scores_rule(corpus)))
    assert not (tmp_path / "d").exists()


def test_a_corpus_names_the_score_that_made_it_and_another_one_begins_anew(trained, tmp_path, monkeypatch):
    folder, _ = trained
    model = tmp_path / "model"
    shutil.copytree(folder / "model", model)
    config = CorpusConfig(preset="none", rules=scores_rule(model), heldout_fraction=0.0)
    files = [folder / "good.jsonl", folder / "bad.jsonl"]
    corpus = build_corpus(files, tmp_path / "c", config)
    manifest, report = read_manifest(corpus), json.loads((corpus / "report.json").read_bytes())
    content = read_manifest(model, "quality_scorer").content_hash
    assert manifest.parents == {"score_model": content} and content in str(manifest.config["made_with"])
    dropped = report["rules"]["quality_score"]
    assert (
        dropped["count"] == manifest.metrics["dropped"]["quality_score"] > 400
        and len(dropped["samples"]) == SAMPLES
    )
    assert (
        report["sources"]["bad"]["rules"]["quality_score"] > 400
        and report["sources"]["good"]["rules"].get("quality_score", 0) < 20
    )

    def interrupted(*_) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Output, "select", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build_corpus(files, tmp_path / "x", config)
    # what the score decided waits to be gone on with
    assert [path for path in (tmp_path / ".x.state").glob("*/clean/00000") if path.is_dir()]
    with artifact(model, "quality_scorer") as writer:
        np.save(writer.path / WEIGHTS, -np.load(folder / "model" / WEIGHTS))
        for name in ("scorer.json", "report.json"):
            shutil.copy(folder / "model" / name, writer.path / name)
    again, fresh = build_corpus(files, tmp_path / "x", config), build_corpus(files, tmp_path / "y", config)
    assert read_manifest(again).content_hash == read_manifest(fresh).content_hash != manifest.content_hash
