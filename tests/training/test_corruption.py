"""Flipped bits, cut and missing files: known before use, whichever file of whichever artefact it is."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
import torch

from hanlin.common.errors import HanlinError
from hanlin.common.manifest import MANIFEST
from hanlin.common.messages import Text
from hanlin.dataset import TokenDataset
from hanlin.model import load_model
from hanlin.tokenizer import load_tokenizer
from hanlin.training.checkpoint.format import save_checkpoint, step_of
from hanlin.training.checkpoint.restore import load_latest
from hanlin.training.optim.optimizers import Optimizers
from tests.support import tiny_model
from tests.training.zygote import build_world

KINDS = ("flip", "truncate", "delete")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Artefacts of every kind, and two checkpoints."""
    folder = tmp_path_factory.mktemp("corruption")
    build_world(folder)
    model, optimizers = fresh()
    for step in (1, 2):
        model(torch.arange(8)[None]).square().mean().backward()
        optimizers.step(1.0)
        save_checkpoint(folder / "work", step, model, optimizers, {"counter": step})
    return folder


def fresh():
    model = tiny_model("qwen3", hidden_size=32)
    return model, Optimizers(model, learning_rate=1e-2)


def damage(file: Path, kind: str, generator: random.Random) -> str:
    """Do it, and say where."""
    if kind == "delete":
        file.unlink()
        return kind
    content = bytearray(file.read_bytes())
    place = generator.randrange(len(content))
    if kind == "truncate":
        file.write_bytes(content[:place])
    else:
        content[place] ^= 1 << generator.randrange(8)
        file.write_bytes(content)
    return f"{kind} at {place} of {len(content)}"


def open_artifact(name: str, path: Path) -> dict[str, bytes]:
    """Open it as the product does; what it holds, to be compared."""
    if name == "model":
        return {key: value.numpy().tobytes() for key, value in load_model(path).state_dict().items()}
    if name == "tokenizer":
        tokenizer = load_tokenizer(path)
        return {
            "ids": bytes(
                str(tokenizer.encode("小明在学校里读书，Hello 12345 <|im_end|>", special=True)), "utf-8"
            ),
            "hash": tokenizer.content_hash.encode(),
        }
    data = TokenDataset(path)
    return {
        "tokens": data.tokens.tobytes(),
        "starts": data.starts.tobytes(),
        "mask": b"" if data.mask is None else data.mask.tobytes(),
    }


def files_of(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def check_artifact(
    world: Path, place: Path, name: str, file: str, kind: str, generator: random.Random
) -> str:
    """`refused` or, where a manifest was changed in what does not matter, `harmless`: never something else
    in silence."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(world / name, place)
    where = damage(place / file, kind, generator)
    whole = open_artifact(name, world / name)
    try:
        found = open_artifact(name, place)
    except HanlinError:
        return "refused"
    assert file == MANIFEST, f"{name}/{file}: {where} went unnoticed"
    assert found == whole, f"{name}/{file}: {where}"
    return "harmless"


def check_checkpoint(world: Path, place: Path, file: str, kind: str, generator: random.Random) -> str:
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(world / "work", place)
    newest = place / "step-00000002"
    where = damage(newest / file, kind, generator)
    model, optimizers = fresh()
    warnings = []
    state = load_latest(
        place, model, optimizers, lambda message, /, **fields: warnings.append(Text.of(message, **fields).en)
    )
    assert state is not None, where
    expected, moments = fresh()
    load_latest(world / "work", expected, moments, lambda message, /, **fields: None, at_most=state["step"])
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True)), (
        where
    )
    assert {k: v.tolist() for k, v in optimizers.state_tensors().items()} == {
        k: v.tolist() for k, v in moments.state_tensors().items()
    }
    if state["step"] == 2:
        assert file == MANIFEST and not warnings, f"{file}: {where} went unnoticed"
        return "harmless"
    assert (
        state["counter"] == step_of(place / "step-00000001")
        and len(warnings) == 1
        and (place / "step-00000002.damaged").is_dir()
    )
    return "refused"


def corrupt(world: Path, place: Path, count: int, seed: int) -> dict[str, int]:
    """`count` damages spread over every file of every artefact."""
    generator = random.Random(seed)
    targets = [
        (name, file)
        for name in ("text", "talks", "pairs", "tokenizer", "model")
        for file in files_of(world / name)
    ]
    targets += [("checkpoint", file) for file in files_of(world / "work" / "step-00000002")]
    counts = {"refused": 0, "harmless": 0}
    for index in range(count):
        name, file = targets[index % len(targets)]
        kind = KINDS[index // len(targets) % len(KINDS)]
        counts[
            check_checkpoint(world, place, file, kind, generator)
            if name == "checkpoint"
            else check_artifact(world, place, name, file, kind, generator)
        ] += 1
    return counts


def test_damage_is_known_before_use(world, tmp_path):
    counts = corrupt(world, tmp_path / "copy", 90, seed=0)
    assert counts["refused"] > 60, counts


@pytest.mark.nightly
def test_three_hundred_damages(world, tmp_path):
    counts = corrupt(world, tmp_path / "copy", 300, seed=1)
    print(f"corruptions: 300, {counts}")
    assert counts["refused"] > 200, counts


@pytest.mark.nightly
def test_every_bit_of_a_manifest_near_its_keys(world, tmp_path):
    """200 flips in the one file that nothing checks but its reader: refused, or without any effect."""
    generator, counts = random.Random(2), {"refused": 0, "harmless": 0}
    for _ in range(200):
        counts[check_checkpoint(world, tmp_path / "copy", MANIFEST, "flip", generator)] += 1
    print(f"manifest flips: 200, {counts}")
    assert counts["refused"] > 100, counts
