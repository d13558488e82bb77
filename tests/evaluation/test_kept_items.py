"""Scores of items come back from disk as they were, and none that are not the metric's."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hanlin.common.errors import HanlinError
from hanlin.evaluation import Metric, can_pair, difference
from hanlin.evaluation.item_scores import digest, item_ids
from hanlin.evaluation.kept_items import file_name, keep_items, read_item_scores, with_items

RNG = np.random.default_rng(0)
IDS = tuple(f"item {at}" for at in range(60))
SIZES = RNG.integers(10, 500, 60).astype(float)
METRICS = {
    "tinyworld/story_qa": Metric.share(RNG.random(60) < 0.5, ids=IDS),
    "later": Metric.share(RNG.random(60) < 0.5, ids=IDS, clusters=[str(at // 3) for at in range(60)]),
    "closes": Metric.share(RNG.random(60) < 0.5, ids=IDS, counted=RNG.random(60) < 0.7),
    "bits_per_byte": Metric.ratio(SIZES * RNG.random(60), SIZES, ids=IDS, data="of the texts"),
    "nameless": Metric.share(RNG.random(60) < 0.5),
    "alone": Metric.proportion(30, 60),
}


def bare(metrics: dict[str, Metric]) -> dict[str, Metric]:
    """As a record has them."""
    return {name: Metric.from_dict(json.loads(json.dumps(m.to_dict()))) for name, m in metrics.items()}


def test_items_come_back_as_they_were(tmp_path):
    files = keep_items(tmp_path, "sft", METRICS)
    assert set(files) == set(METRICS) - {"nameless", "alone"}
    assert files["tinyworld/story_qa"] == "scores/sft/tinyworld.story_qa.jsonl"
    found = with_items(bare(METRICS), tmp_path, files)
    assert found == bare(METRICS)
    for name in files:
        ours, theirs = METRICS[name].items, found[name].items
        assert ours is not None and theirs is not None
        assert (ours.values == theirs.values).all() and (ours.weights == theirs.weights).all()
        assert (ours.ids, ours.data, ours.clusters) == (theirs.ids, theirs.data, theirs.clusters)
        assert can_pair(METRICS[name], found[name]) and difference(METRICS[name], found[name]).value == 0
    assert found["nameless"].items is None and found["alone"].items is None


def test_what_an_earlier_start_wrote_is_gone(tmp_path):
    keep_items(tmp_path, "sft", METRICS)
    keep_items(tmp_path, "dpo", METRICS)
    keep_items(tmp_path, "sft", {"later": METRICS["later"]})
    assert [file.name for file in (tmp_path / "scores" / "sft").iterdir()] == ["later.jsonl"]
    assert len(list((tmp_path / "scores" / "dpo").iterdir())) == 4


def damage_cut(lines):
    return lines[:-3]


def damage_other_model(lines):
    return [lines[0], *(line.replace('"value":1.0', '"value":0.0') for line in lines[1:])]


def damage_no_json(lines):
    return [lines[0], "{", *lines[2:]]


def damage_another_format(lines):
    return [lines[0].replace('"format":1', '"format":9'), *lines[1:]]


@pytest.mark.parametrize(
    "damage", [None, damage_cut, damage_other_model, damage_no_json, damage_another_format]
)
def test_a_file_that_is_not_the_metric_s_is_passed_over(tmp_path, damage):
    files = keep_items(tmp_path, "sft", METRICS)
    file = tmp_path / files["later"]
    if damage is None:
        file.unlink()
    else:
        file.write_text("\n".join(damage(file.read_text().splitlines())) + "\n")
    found = with_items(bare(METRICS), tmp_path, files)
    assert found["later"].items is None and found["bits_per_byte"].items is not None
    if damage is not damage_other_model:
        with pytest.raises(HanlinError, match="later"):
            read_item_scores(file)


def test_names_of_files_are_safe_and_differ():
    assert file_name("answer_bits_per_byte/sft") == "answer_bits_per_byte.sft.jsonl"
    assert file_name("../../etc/passwd") == "etc.passwd.jsonl"
    assert file_name("bits_per_byte/故事") == "bits_per_byte.故事.jsonl"
    assert file_name("a:b*c") == "a_b_c.jsonl"
    assert file_name("a/b", ["a.b.jsonl"]) == file_name("a/b", ["A.B.jsonl"]) == "a.b-2.jsonl"
    assert len(file_name("长" * 500).encode()) < 250
    assert file_name("..") == "metric.jsonl"


def test_ids_are_of_the_content():
    one, other = {"messages": [{"role": "user", "content": "你好"}], "n": 1}, {"n": 2}
    assert item_ids([one, other]) == item_ids([dict(reversed(one.items())), other])
    assert len(set(item_ids([one, other, {"n": 2, "m": 1}, "\udc80", {1}]))) == 5
    assert digest(["a", "b"]) != digest(["b", "a"]) != digest(["a", "b"], "document")
