"""A base and adapters on it behind one address: each answers by its own name, as it does alone."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import urllib.request

import pytest
import torch
from starlette.testclient import TestClient

from hanlin.cli.chat import chat
from hanlin.common.errors import HanlinError
from hanlin.inference import Engine, SamplingParams, generate_text
from hanlin.inference.generate import load_chat_model
from hanlin.model import load_adapted, load_model
from hanlin.model.checkpoint_io import adapted_copy
from hanlin.pipeline.stage_command import run_stage
from hanlin.serving.app import create_app
from hanlin.serving.server import named_adapters
from hanlin.serving.service import Settings
from tests.adapters.bench import IDS, make_base, write_stage


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`base`, with an adapter of each sort on it."""
    folder = tmp_path_factory.mktemp("served")
    make_base(folder)
    for name, adapter in (
        ("low", {"kind": "lora", "r": 4}),
        ("small", {"kind": "lora", "r": 4, "base": "nf4"}),
        ("apart", {"kind": "lora", "r": 4, "dora": True, "seed": 2}),
    ):
        run_stage("sft", write_stage(folder, "sft", adapter), folder / name)
    return folder


ADAPTERS = ("low", "small", "apart")


def test_copies_share_the_weights_and_leave_the_model_alone(folder):
    model = load_model(folder / "base")
    with torch.no_grad():
        before = model(IDS)
        own = sum(tensor.numel() for tensor in model.parameters())
        copies = [adapted_copy(model, folder / "base", folder / f"{name}.adapter") for name in ADAPTERS]
        for name, copied in zip(ADAPTERS, copies, strict=True):
            assert torch.equal(copied(IDS), load_adapted(folder / f"{name}.adapter")(IDS)), name
        assert torch.equal(model(IDS), before)
        known = {tensor.data_ptr() for tensor in model.parameters()}
        for name, copied in zip(ADAPTERS, copies, strict=True):
            new = sum(t.numel() for t in copied.parameters() if t.data_ptr() not in known)
            assert new < 0.3 * own, name


def test_each_answers_by_its_name_as_it_does_alone(folder):
    model, tokenizer = load_chat_model(folder / "base")
    others = {
        name: Engine(adapted_copy(model, folder / "base", folder / f"{name}.adapter"), tokenizer)
        for name in ADAPTERS
    }
    app = create_app(Engine(model, tokenizer), tokenizer, Settings(model_id="base", hosts=None), others)
    with TestClient(app) as client:
        listed = client.get("/v1/models").json()["data"]
        assert [(card["id"], card.get("parent")) for card in listed] == [
            ("base", None),
            *((name, "base") for name in ADAPTERS),
        ]
        assert client.get("/v1/models/low").json()["id"] == "low"
        said = {}
        for name in ("base", *ADAPTERS):
            body = {"prompt": "小明在", "max_tokens": 12, "temperature": 0, "logprobs": 1, "model": name}
            answer = client.post("/v1/completions", json=body).json()
            assert answer["model"] == name
            said[name] = answer["choices"][0]
        for name in ADAPTERS:
            alone, _ = load_chat_model(folder / "base", adapter=folder / f"{name}.adapter")
            expected = generate_text(
                alone, tokenizer, ["小明在"], params=SamplingParams(max_new_tokens=12, temperature=0.0)
            )
            assert said[name]["text"] == expected[0], name
        assert len({tuple(choice["logprobs"]["token_logprobs"]) for choice in said.values()}) == 4
        # echo, which goes another way
        echoed = {
            name: client.post(
                "/v1/completions",
                json={"prompt": "小明在学校", "max_tokens": 0, "echo": True, "logprobs": 0, "model": name},
            ).json()["choices"][0]["logprobs"]["token_logprobs"][1:]
            for name in ("base", *ADAPTERS)
        }
        assert len({tuple(values) for values in echoed.values()}) == 4
        strange = client.post("/v1/completions", json={"prompt": "小", "model": "high"})
        assert strange.status_code == 404 and "'apart'" in strange.json()["error"]["message"]


def test_names_are_said_and_free(folder):
    assert list(named_adapters(["a=x", "b=y=z"], "base")) == ["a", "b"]
    for wrong in (["a"], ["=x"], ["a="], ["base=x"], ["a=x", "a=y"]):
        with pytest.raises(HanlinError, match="--adapter"):
            named_adapters(wrong, "base")


def test_an_adapter_of_another_model_is_refused(folder, tmp_path):
    make_base(tmp_path, "llama")
    with pytest.raises(HanlinError, match="another model"):
        load_chat_model(tmp_path / "base", adapter=folder / "low.adapter")
    with pytest.raises(HanlinError, match="another model"):
        adapted_copy(load_model(tmp_path / "base"), tmp_path / "base", folder / "low.adapter")


def test_the_command_serves_both_and_the_chat_takes_one(folder):
    said = io.StringIO()
    chat(
        folder / "base",
        adapter=folder / "low.adapter",
        max_new_tokens=8,
        temperature=0.0,
        source=io.StringIO("3加1等于几？\n"),
        output=said,
    )
    alone = io.StringIO()
    chat(
        folder / "low", max_new_tokens=8, temperature=0.0, source=io.StringIO("3加1等于几？\n"), output=alone
    )
    assert said.getvalue() == alone.getvalue()
    command = [sys.executable, "-m", "hanlin", "serve", str(folder / "base"), "--port", "0"]
    command += ["--adapter", f"a={folder / 'low.adapter'}", "--adapter", f"b={folder / 'apart.adapter'}"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | {"HANLIN_LANG": "en"}
    ) as server:
        try:
            assert server.stderr is not None
            line = server.stderr.readline()
            assert "With adapters: a, b" in server.stderr.readline()
            address = line.partition("page ")[2].partition("/, API")[0]
            with urllib.request.urlopen(f"{address}/v1/models") as found:
                assert [card["id"] for card in json.load(found)["data"]] == ["base", "a", "b"]
        finally:
            server.terminate()
