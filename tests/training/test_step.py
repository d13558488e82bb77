"""Whole steps of the loop against a plain one: documents one by one, cross entropy, clipping and AdamW
written out."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from hanlin.common.progress import Progress
from hanlin.dataset import IGNORE_INDEX, TextRows, build_text_dataset
from hanlin.stages.base import Job
from hanlin.stages.supervised import RowSource, SupervisedConfig, next_token_training
from hanlin.training import TrainConfig
from tests.support import tiny_model, tiny_tokenizer

TEXTS = [
    f"小明在{place}看见了{n}只小鸟，小红把书给了他。" * (1 + n % 3)
    for place in ("学校", "公园", "家里")
    for n in range(12)
]
STEPS, Z, CLIP, BETA2, SCALE, DECAY, RATE = 3, 0.05, 0.3, 0.8, 3.0, 5.0, 1e-2


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    tokenizer = tiny_tokenizer(folder / "t")
    return build_text_dataset([{"text": t} for t in TEXTS], tokenizer, folder / "d"), tokenizer


def loss_of(model, batch) -> torch.Tensor:
    """Every piece of every row as a text of its own."""
    total = torch.zeros(())
    for ids, labels, owners in zip(batch.ids, batch.labels, batch.doc_ids, strict=True):
        for owner in owners.unique().tolist():
            if owner < 0:
                continue
            place = owners == owner
            logits, wanted = model(ids[place][None])[0], labels[place]
            learnt = wanted != IGNORE_INDEX
            total = (
                total
                + F.cross_entropy(logits[learnt], wanted[learnt], reduction="sum")
                + Z * logits[learnt].logsumexp(-1).square().sum()
            )
    return total


def plainly(model, source) -> None:
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in model.named_parameters()}
    for step in range(STEPS):
        batches = source.micro_batches(step, model)
        loss = sum(loss_of(model, batch) for batch in batches) / sum(
            batch.num_loss_tokens for batch in batches
        )
        names, parameters = zip(*model.named_parameters(), strict=True)
        gradients = torch.autograd.grad(loss, parameters)
        norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
        assert norm > 2 * CLIP  # so that clipping matters
        with torch.no_grad():
            for name, p, g in zip(names, parameters, gradients, strict=True):
                g = g * CLIP / norm
                table = any(part in name for part in ("embed_tokens", "lm_head", "wte", "wpe"))
                rate = RATE * (SCALE if table else 1.0)
                first, second = moments[name]
                first.mul_(0.9).add_(0.1 * g)
                second.mul_(BETA2).add_((1 - BETA2) * g * g)
                if p.ndim > 1 and not table:
                    p.mul_(1 - rate * DECAY)
                p.sub_(
                    rate
                    * (first / (1 - 0.9 ** (step + 1)))
                    / ((second / (1 - BETA2 ** (step + 1))).sqrt() + 1e-8)
                )


@pytest.mark.parametrize("family", ["qwen3", "gpt2"])
def test_steps_of_the_loop_are_those_of_the_textbook(data, tmp_path, family):
    dataset, tokenizer = data
    settings = TrainConfig(
        steps=STEPS,
        learning_rate=RATE,
        muon=False,
        embedding_scale=SCALE,
        weight_decay=DECAY,
        beta2=BETA2,
        max_grad_norm=CLIP,
        schedule="constant",
        warmup_ratio=0.0,
        decay_ratio=0.0,
    )
    config = SupervisedConfig(settings, seq_len=64, batch_tokens=256, micro_tokens=128, z_loss=Z)
    model = tiny_model(family, tokenizer, hidden_size=32)
    start, expected = copy.deepcopy(model), copy.deepcopy(model)
    source = RowSource(TextRows(dataset, 64, 5), config)
    # documents share rows
    assert (
        max(
            len(set(row[row >= 0].tolist()))
            for batch in source.micro_batches(0, model)
            for row in batch.doc_ids
        )
        > 1
    )
    plainly(expected, source)
    next_token_training(
        Job(tmp_path / "out", tmp_path / "work", Progress(), seed=5), model, dataset, tokenizer, config, {}
    )
    for (name, ours), theirs, before in zip(
        model.named_parameters(), expected.parameters(), start.parameters(), strict=True
    ):
        moved = float((theirs - before).detach().norm())
        assert moved > 0 and float((ours - theirs).detach().norm()) < 0.01 * moved, name
