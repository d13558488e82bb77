"""An ablation: every key is checked before anything runs, trials are kept, and each is the pretraining it
says it is."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from hanlin.common.errors import HanlinError
from hanlin.common.manifest import read_manifest
from hanlin.common.progress import Progress
from hanlin.corpus.builder.build import read_corpus
from hanlin.evaluation.likelihood import document_bits, encode_documents
from hanlin.experiments.ablation import plan_ablation, run_ablation
from hanlin.model import load_model
from hanlin.stages.base import Job
from hanlin.stages.pretrain import pretrain
from hanlin.tokenizer import load_tokenizer

TINY = [
    "corpus.documents=300",
    "corpus.heldout_fraction=0.1",
    "model.hidden_size=32",
    "model.num_hidden_layers=1",
    "model.num_attention_heads=2",
    "model.num_key_value_heads=1",
    "tokenizer.vocab_size=600",
    "pretrain.batch_tokens=1024",
]


@pytest.mark.parametrize(
    ("vary", "said"),
    [
        (["model.qk_nrom=true,false"], "model.qk_norm"),
        (["pretrain.train.lr=1e-3,1e-2"], "pretrain.train.lr"),
        (["model.family=qwen3,bert"], "gpt2"),
        (["model.hidden_size=32,33"], "33"),
        (["model.qk_norm=true"], "qk_norm"),
        (["model.qk_norm"], "model.qk_norm=true,false"),
        (["pretrain.z_loss=0,0.0"], "z_loss=0.0"),
        (["pretrain.z_loss=0,1", "pretrain.z_loss=0,2"], "pretrain.z_loss"),
        (["corpus.preset=zh-web,none"], "--heldout"),
        (["sft.train.steps=1,2"], "pretrain"),
        (["seed=1,2"], "--seeds"),
        ([], "--vary"),
    ],
)
def test_a_mistake_is_refused_before_anything_runs(vary, said):
    with pytest.raises(HanlinError) as caught:
        plan_ablation("demo", vary, TINY, steps=3)
    assert said in caught.value.zh and said in caught.value.en


def test_one_at_a_time_and_grid():
    vary = ["model.qk_norm=true,false", "pretrain.z_loss=0,1e-4,1e-3"]
    one, grid = (plan_ablation("demo", vary, TINY, grid=grid) for grid in (False, True))
    assert [v.name for v in one.variants] == [
        "qk_norm=true z_loss=0",
        "qk_norm=false",
        "z_loss=1e-4",
        "z_loss=1e-3",
    ]
    assert len(grid.variants) == 6 and grid.baseline.settings == one.baseline.settings
    assert one.variants[1].config.model.qk_norm is False and one.variants[3].config.pretrain.z_loss == 1e-3


def test_a_directory_of_an_earlier_version_is_refused(tmp_path):
    (tmp_path / "a" / "cells").mkdir(parents=True)
    with pytest.raises(HanlinError, match="earlier version"):
        run_ablation(plan_ablation("demo", ["pretrain.z_loss=0,1e-2"], TINY), tmp_path / "a")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["cells"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("ablation") / "a"
    plan = plan_ablation("demo", ["pretrain.z_loss=0,1e-2"], TINY, steps=6, seeds=2)
    return out, plan, run_ablation(plan, out, jobs=2, progress=Progress())


def test_a_trial_is_the_pretraining_it_says_it_is(finished, tmp_path):
    """The same model, trained here with the same seed, needs the same bits."""
    out, plan, table = finished
    data = next((out / "data").iterdir())
    config, words = plan.variants[1].config, load_tokenizer(data / "tokenizer")
    shape = config.model.config(words.vocab_size, words.eos_id)
    pretrain(
        data / "dataset",
        data / "tokenizer",
        shape,
        config.pretrain,
        Job(tmp_path / "m", tmp_path / "w", Progress(), plan.seeds[1]),
    )
    ids, sizes = encode_documents(words, list(read_corpus(data / "corpus", "heldout")), words.eos_id)
    bits = document_bits(load_model(tmp_path / "m"), ids, context=config.pretrain.seq_len)
    row = table["variants"][1]
    assert row["by_seed"][1] == pytest.approx(bits.sum() / sizes.sum(), rel=1e-4)
    assert row["by_seed"][0] != row["by_seed"][1] and row["difference"]["value"] == pytest.approx(
        np.mean(row["by_seed"]) - np.mean(table["variants"][0]["by_seed"])
    )
    assert row["steps"] == 6 and row["tokens"] == 6 * 1024


def test_the_result_explains_itself(finished):
    out, _, table = finished
    manifest = read_manifest(out / "result", "ablation")
    assert set(manifest.files) == {"table.json", "table.md", "differences.svg"}
    assert json.loads((out / "result" / "table.json").read_text())["variants"] == json.loads(
        json.dumps(table["variants"])
    )


def test_finished_cells_are_kept_and_only_new_ones_run(finished):
    out, _, table = finished
    before = {file: file.stat().st_mtime_ns for file in out.glob("trials/*/result.json")}
    again = run_ablation(
        plan_ablation("demo", ["pretrain.z_loss=0,1e-2,1e-3"], TINY, steps=6, seeds=2),
        out,
        jobs=2,
        progress=Progress(),
    )
    after = {file: file.stat().st_mtime_ns for file in out.glob("trials/*/result.json")}
    assert len(before) == 4 and len(after) == 6 and before == {file: after[file] for file in before}
    assert again["variants"][1] == table["variants"][1]


def test_equal_seconds_derive_the_steps(tmp_path):
    plan = plan_ablation("demo", ["model.hidden_size=32,128"], TINY, seconds=6, seeds=1)
    rows = run_ablation(plan, tmp_path / "a", progress=Progress())["variants"]
    assert rows[0]["steps"] > rows[1]["steps"] > 1
    # a busy machine may be three times slower
    assert all(2 < row["seconds"] < 18 for row in rows), [row["seconds"] for row in rows]


def test_a_trial_that_fails_is_named_and_the_others_are_kept(tmp_path):
    out = tmp_path / "a"
    bad = plan_ablation(
        "demo",
        ["pretrain.train.learning_rate=1e-3,1e30"],
        [*TINY, "pretrain.train.spike_sigma=1e9"],
        steps=8,
        seeds=1,
    )
    with pytest.raises(HanlinError, match="learning_rate=1e30"):
        run_ablation(bad, out, progress=Progress())
    assert [file.parent.name.split("-seed")[0] for file in out.glob("trials/*/result.json")] == [
        "learning_rate=1e-3"
    ]


def test_interrupted_it_stops_every_trial_and_goes_on_later(tmp_path):
    out = tmp_path / "a"
    command = [
        sys.executable,
        "-m",
        "hanlin.cli.main",
        "ablate",
        "demo",
        *TINY,
        "--vary",
        "pretrain.z_loss=0,1e-2",
        "--steps",
        "800",
        "--seeds",
        "1",
        "--out",
        str(out),
    ]
    # a background job begins with it ignored
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(
        command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, preexec_fn=heard
    )
    deadline = time.monotonic() + 120
    while not list(out.glob("trials/*/work/metrics.jsonl")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    locks = [json.loads(lock.read_text())["pid"] for lock in out.glob("trials/*/.lock")]
    assert locks and not any(os.path.exists(f"/proc/{pid}") for pid in locks)
    done = subprocess.run(
        [*command, "--json"],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"HANLIN_LANG": "en"},
    )
    assert done.returncode == 0, done.stderr
    assert [row["steps"] for row in json.loads(done.stdout)["variants"]] == [800, 800]
