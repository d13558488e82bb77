"""A miniseries: shapes near the sizes asked for, branches equal to runs of their own, mistakes refused before
anything runs."""

from __future__ import annotations

import dataclasses
import json
import types

import numpy as np
import pytest

from hanlin.common.errors import HanlinError
from hanlin.common.progress import Progress
from hanlin.evaluation.likelihood import document_bits, encode_documents
from hanlin.experiments import scaling
from hanlin.experiments.scaling import plan_scaling, read_budget, run_scaling, shape_for
from hanlin.experiments.trial import heldout_documents
from hanlin.model import load_model
from hanlin.stages.base import Job
from hanlin.stages.pretrain import pretrain
from hanlin.tokenizer import load_tokenizer

TINY = [
    "corpus.documents=300",
    "corpus.heldout_fraction=0.1",
    "tokenizer.vocab_size=600",
    "pretrain.batch_tokens=512",
    "pretrain.micro_tokens=512",
    "pretrain.train.warmup_ratio=0.1",
]


@pytest.mark.parametrize("vocab", [600, 6400])
@pytest.mark.parametrize("params", [6e5, 2.4e6, 1e7, 1e8, 1e9])
def test_shapes_have_about_the_parameters_asked_for(params, vocab):
    shape = shape_for(params, vocab)
    assert shape.config(vocab, 0).parameters() == pytest.approx(params, rel=0.06)


def test_budgets_are_read():
    assert [read_budget(text).seconds for text in ("90s", "30m", "1.5h", "2d")] == [90, 1800, 5400, 172800]
    assert read_budget("1e16").flops == 1e16
    for text in ("", "1 week", "-1h", "nan", "5"):
        with pytest.raises(HanlinError):
            read_budget(text)


@pytest.mark.parametrize(
    ("params", "lengths", "overrides", "said"),
    [
        (["0.1m", "0.2m"], [5, 10], TINY, "0.3m,0.6m,1.2m"),
        (["0.1m", "0.2m", "0.3m"], [5], TINY, "0.3m,0.6m,1.2m"),
        (["0.1m", "0.2m", "lots"], [5, 10], TINY, "lots"),
        (["0.1m", "0.2m", "0.3m"], [0.01, 10], TINY, "512"),
        (["0.1m", "0.2m", "0.3m"], [5, 10], [*TINY, "tokenizer.vocab_size=6400"], "6400"),
    ],
)
def test_a_mistake_is_refused_before_anything_runs(params, lengths, overrides, said):
    with pytest.raises(HanlinError) as caught:
        plan_scaling("demo", params, lengths, overrides)
    assert said in caught.value.zh and said in caught.value.en


def test_a_branch_is_the_run_it_stands_for(tmp_path):
    """The longest branch leaves the trunk and decays: the same bits as a run of that length by itself, with
    the same warm-up."""
    plan = plan_scaling("demo", ["0.1m", "0.13m", "0.16m"], [0.2, 0.4], TINY, budgets=["1m", "1e12"])
    found = run_scaling(plan, tmp_path / "s", jobs=2, progress=Progress())
    assert len(found["points"]) == 6 and [entry["budget"] for entry in found["advice"]] == ["1m", "1e12"]
    folder = next((tmp_path / "s" / "trials").glob("0.10m*"))
    spec = json.loads((folder / "trial.json").read_text())
    short, long = spec["branches"]
    data = next((tmp_path / "s" / "data").iterdir())
    words = load_tokenizer(data / "tokenizer")
    warm = max(1, round(short * plan.config.pretrain.train.warmup_ratio))
    section = dataclasses.replace(
        plan.config.pretrain,
        train=dataclasses.replace(plan.config.pretrain.train, steps=long, warmup_ratio=warm / long),
    )
    job = Job(tmp_path / "m", tmp_path / "w", Progress(), plan.seeds[0])
    pretrain(
        data / "dataset",
        data / "tokenizer",
        plan.shapes[0].config(words.vocab_size, words.eos_id),
        section,
        job,
    )
    ids, sizes = encode_documents(words, heldout_documents(spec["heldout"]), words.eos_id)
    alone = document_bits(load_model(tmp_path / "m"), ids, context=section.seq_len).sum() / sizes.sum()
    point = max(
        (
            p
            for p in found["points"]
            if p["hidden_size"] == plan.shapes[0].hidden_size
            and p["layers"] == plan.shapes[0].num_hidden_layers
        ),
        key=lambda p: p["tokens"],
    )
    assert point["steps"] == long and point["bits_per_byte"]["value"] == pytest.approx(float(alone), rel=1e-4)
    measured = [
        json.loads(line)["tokens_per_second"]
        for line in (folder / f"branch-{long}.jsonl").read_text().splitlines()
    ]
    assert 0.3 < point["tokens_per_second"] / sorted(measured)[len(measured) // 2] < 3
    assert not (folder / "trunk").exists() and not list(folder.glob("branch-*/"))
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "s" / "trials").rglob("result.json")}
    again = run_scaling(plan, tmp_path / "s", jobs=2, progress=Progress())
    assert again["law"] == found["law"] and before == {file: file.stat().st_mtime_ns for file in before}


def test_time_buys_no_more_than_the_device_can_compute_and_slow_hours_do_not_count(monkeypatch):
    """Speeds of a busy machine, which by themselves say that larger models are faster without end."""
    monkeypatch.setattr(scaling, "matmul_peak", lambda device: 5e9)
    plan = types.SimpleNamespace(config=types.SimpleNamespace(device="cpu"))
    points = [
        {"parameters": n, "tokens": 1e6, "flops": 6.0 * n * 1e6, "tokens_per_second": speed}
        for n, speed in ((1e5, 500.0), (1e5, 2000.0), (4e5, 1500.0))
    ]
    tokens = scaling._affordable(read_budget("100s"), plan, points)
    sizes = np.array([1e5, 4e5, 1e8])
    assert tokens(sizes) == pytest.approx([100 * 2000, 100 * 1500, 100 * 5e9 / (6 * 1e8)])
    assert tokens(np.array([2e5]))[0] == pytest.approx(100 * (6e5 * 2000 * 2.4e6 * 1500) ** 0.5 / (6 * 2e5))
