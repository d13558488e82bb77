"""What a forward pass carries: losses and metrics of layers, embeddings given from outside, lengths known on
the host, attention of its heads."""

from __future__ import annotations

import collections
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hanlin.dataset import Batch
from hanlin.inference import Engine, SamplingParams
from hanlin.model import KVCache, RewardModel
from hanlin.model.attention import backends, reference
from hanlin.model.attention.backends import BACKENDS, choose_attention, fault_of
from hanlin.stages.grpo import GRPOConfig, GRPOLoss, RolloutBatch
from hanlin.stages.preference.losses import DPO
from hanlin.stages.preference.objective import PairObjective
from hanlin.stages.reward_model import PairwiseRewardLoss, RewardConfig
from hanlin.stages.supervised import NextTokenLoss
from tests.support import FAMILIES, ReferenceModel, tiny_model

CPU = torch.device("cpu")


class Router(nn.Module):
    """A toy layer as a mixture of experts has one: asks for small weights, and has something to log."""

    def __init__(self, base: nn.Module, width: int):
        super().__init__()
        self.base = base
        self.gate = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x: torch.Tensor, context) -> torch.Tensor:
        context.add_aux_loss(0.1 * self.gate.square().sum())
        context.add_metric("router/load", self.gate.mean())
        return self.base(x, context) * (1 + 0 * self.gate.sum())


def routed(model):
    """The model with a router around each block: 2 layers of 64 weights of one half, 0.1 · 16 each."""
    blocks = model.decoder.blocks
    for index in range(len(blocks)):
        blocks[index] = Router(blocks[index], 64)
    return model


def rows(count: int = 2, length: int = 24) -> Batch:
    ids = torch.randint(0, 300, (count, length), generator=torch.Generator().manual_seed(0))
    labels = torch.cat((ids[:, 1:], torch.full((count, 1), -100)), 1)
    doc_ids = torch.arange(count)[:, None].expand(count, length)
    return Batch(ids, labels, torch.arange(length).expand(count, length), doc_ids, [*range(count)])


def objectives():
    batch = rows()
    rollout = RolloutBatch(batch, torch.tensor([1.0, -1.0]), 2)
    return [
        (NextTokenLoss(torch.ones(300, dtype=torch.int64), 1e-3), tiny_model("qwen3"), batch),
        (PairObjective(DPO(), ReferenceModel(tiny_model("llama", seed=3))), tiny_model("llama"), batch),
        (GRPOLoss(GRPOConfig(), tiny_model("gpt2", seed=3)), tiny_model("gpt2"), rollout),
        (PairwiseRewardLoss(RewardConfig()), RewardModel(tiny_model("qwen3").config), batch),
    ]


@pytest.mark.parametrize("index", range(4), ids=["next_token", "dpo", "grpo", "reward"])
def test_losses_of_layers_are_in_the_loss_and_in_the_metrics(index):
    """An objective is a sum over its items and a layer's loss a mean over tokens: the mean over items grows
    by the layers' losses."""
    objective, model, batch = objectives()[index]
    plain, before = objective(model, batch)
    loss, metrics = objective(routed(model), batch)
    items = objective.num_items(batch)
    assert items > 0
    assert float((loss - plain).detach()) / items == pytest.approx(2 * 0.1 * 16, rel=1e-4)
    assert float(metrics["aux_loss"]) / float(metrics["aux_loss_count"]) == pytest.approx(3.2)
    assert float(metrics["router/load"]) / float(metrics["router/load_count"]) == pytest.approx(0.5)
    assert set(metrics) - set(before) == {
        "aux_loss",
        "aux_loss_count",
        "router/load",
        "router/load_count",
    }
    loss.backward()
    for block in model.decoder.blocks:
        assert torch.allclose(block.gate.grad, torch.full((64,), 0.1 * items))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_recomputed_is_not_said_twice(family):
    """With activation checkpointing blocks run again in the backward pass; their losses count once, and
    their gradients are whole."""
    found = []
    for again in (False, True):
        model = routed(tiny_model(family))
        model.checkpoint_activations = again
        batch = rows()
        context = model.context(batch.ids)
        hidden = model.hidden(batch.ids, context)
        (hidden.sum() * 0.01 + torch.stack(context.aux_losses).sum()).backward()
        assert len(context.aux_losses) == 2
        assert float(context.metrics["router/load"]) == 0.5
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, grad in found[0].items():
        assert torch.equal(found[1][name], grad), name


@pytest.mark.parametrize("by_block", [False, True])
def test_layers_speak_out_of_a_compiled_decoder(by_block, monkeypatch):
    """With the compiler's front end alone: what it traces has the same losses and gradients."""
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: compile_(f, backend="aot_eager", **options))
    results = []
    for compiled in (False, True):
        torch._dynamo.reset()
        model, batch = routed(tiny_model("llama")), rows()
        if compiled and by_block:
            for block in model.decoder.blocks:
                block.forward = torch.compile(block.forward, dynamic=False)
        elif compiled:
            model.compile_decoder()
        context = model.context(batch.ids)
        hidden = model.hidden(batch.ids, context)
        (hidden.sum() * 0.01 + torch.stack(context.aux_losses).sum()).backward()
        results.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        assert len(context.aux_losses) == 2
    for name, grad in results[0].items():
        assert float((results[1][name] - grad).abs().max()) <= 1e-4 * float(grad.abs().max()), name


def test_a_model_without_such_layers_has_nothing_to_say():
    model, batch = tiny_model("qwen3"), rows()
    context = model.context(batch.ids)
    model.hidden(batch.ids, context)
    loss, metrics = torch.ones(()), {"a": 1.0}
    assert context.with_aux(loss, metrics, 5.0) == (loss, metrics)
    assert context.metrics == {} and context.aux_losses == []


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_from_outside_take_the_place_of_the_tables(family):
    model, batch = tiny_model(family), rows()
    embeds = model.decoder.embedding(batch.ids)
    with torch.no_grad():
        ours = model.hidden(torch.zeros_like(batch.ids), inputs_embeds=embeds, **batch.attention_kwargs)
        assert torch.equal(ours, model.hidden(batch.ids, **batch.attention_kwargs))


# ---------------------------------------------------------------- lengths on the host


class Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = collections.Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pass_with_a_cache_asks_the_device_for_nothing(family):
    """Neither reading a prompt nor a token after it: `.item()` and its like would wait for an accelerator."""
    model = tiny_model(family)
    cache = KVCache(model.config, 3, 32)
    with torch.inference_mode(), Recorder() as recorder:
        for length in (5, 1, 1):
            model.logits(model.hidden(torch.zeros(3, length, dtype=torch.int64), cache=cache))
            cache.advance(length)
    assert sum(recorder.seen.values()) > 100
    assert not {name: recorder.seen[name] for name in WAITS if recorder.seen[name]}
    with Recorder() as other:
        int(torch.ones(3).max())
    assert other.seen["_local_scalar_dense"], "a wait is noticed"


def test_the_engine_asks_once_for_each_token_whether_a_row_is_done():
    model = tiny_model("qwen3")
    engine = Engine(model, (), max_batch=3)
    with Recorder() as recorder:
        engine.generate([[1, 2, 3], [4] * 9, [5]], SamplingParams(max_new_tokens=10, temperature=1.0, seed=1))
    assert recorder.seen["_local_scalar_dense"] <= 10 + 3  # and for each row, what it wrote, when it ends


def test_both_records_of_a_caches_lengths_agree():
    model = tiny_model("llama")
    cache = KVCache(model.config, 6, 64)
    rng = np.random.default_rng(0)
    for _ in range(40):
        start, stop = sorted(rng.choice(7, 2, replace=False).tolist())
        part = cache.rows(start, stop)
        how = rng.integers(4)
        if how == 0:
            part.advance(1)
        elif how == 1:
            part.advance(rng.integers(0, 3, stop - start).tolist())
        elif how == 2:
            part.set_lengths(int(rng.integers(0, 4)))
        else:
            part.set_lengths(rng.integers(0, 4, stop - start).tolist())
        assert cache.lengths.tolist() == cache.host_lengths.tolist()
        assert part.longest == int(part.lengths.max())


@pytest.mark.parametrize("slots", [2, 5])
def test_the_engines_cache_knows_its_lengths_while_rows_come_and_go(slots):
    model = tiny_model("qwen3")
    engine = Engine(model, (7,), max_batch=slots)
    prompts = [[1 + i] * (1 + 3 * i % 11) for i in range(9)] + [[1, 2]] * 3
    lengths = [4 + 5 * i % 13 for i in range(len(prompts))]
    seen = []
    decode = engine._decode

    def watched():
        decode()
        if engine._cache is not None and engine.active:
            seen.append(engine.active)
            own = engine._cache.rows(0, engine.active)
            assert own.lengths.tolist() == own.host_lengths.tolist()

    engine._decode = watched
    engine.generate(prompts, [SamplingParams(max_new_tokens=n, temperature=1.0, seed=n) for n in lengths])
    assert len(set(seen)) > 1


# ---------------------------------------------------------------- attention, by the heads of a model


@pytest.fixture
def nothing_chosen():
    backends._chosen.clear()
    yield
    backends._chosen.clear()
    fault_of.cache_clear()


def test_two_models_do_not_share_a_choice_of_attention(nothing_chosen, monkeypatch):
    """A back end that is wrong for heads of 32 alone is refused for the model that has them, and serves the
    other."""

    def wrong_for_wide(q, k, v, shared):
        out = BACKENDS["sdpa"].run(q, k, v, shared)
        return out * 2 if q.shape[-1] == 32 else out

    monkeypatch.setitem(BACKENDS, "tiles", dataclasses.replace(BACKENDS["sdpa"], run=wrong_for_wide))
    fault_of.cache_clear()
    narrow, wide = tiny_model("qwen3"), tiny_model("qwen3", head_dim=32)
    warnings = []
    chosen = []
    for model in (narrow, wide):
        chosen.append(
            choose_attention(
                CPU, lambda *m, **f: warnings.append(m), head_dim=model.config.head_dim, groups=2
            )
        )
    assert len(warnings) == 1
    assert chosen[0].run is wrong_for_wide and chosen[1].run is not wrong_for_wide
    batch = rows()
    assert narrow.context(batch.ids).backend is chosen[0]
    assert wide.context(batch.ids).backend is chosen[1]
    with torch.no_grad():
        found = wide.hidden(batch.ids)
        monkeypatch.undo()
        backends._chosen.clear()
        assert float((found - wide.hidden(batch.ids)).abs().max()) < 1e-4


def test_two_models_in_turns_compute_what_each_does_alone():
    """Tiles of documents are kept between layers: those of the other model's batch are never taken."""
    models = [tiny_model("qwen3"), tiny_model("llama", head_dim=32, num_hidden_layers=3)]
    generator = torch.Generator().manual_seed(0)
    passes = []
    for count in (1, 3, 2, 1, 3):
        doc_ids = torch.sort(torch.randint(0, 5, (count, 24), generator=generator)).values
        doc_ids = doc_ids + 10 * torch.arange(count)[:, None]
        passes.append((torch.randint(0, 300, (count, 24), generator=generator), doc_ids))

    def run(model, ids, doc_ids):
        model.zero_grad()
        hidden = model.hidden(ids, doc_ids=doc_ids)
        hidden.square().sum().backward()
        return [hidden.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

    alone = []
    for model in models:
        for ids, doc_ids in passes:
            reference._last_tiles = ()
            alone.append(run(model, ids, doc_ids))
    in_turns = [[], []]
    for ids, doc_ids in passes:
        for index, model in enumerate(models):
            in_turns[index].append(run(model, ids, doc_ids))
    for ours, theirs in zip(in_turns[0] + in_turns[1], alone, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


# ------------------------------------------------------------------ texts that begin alike in one row


@pytest.mark.parametrize("family", FAMILIES)
def test_branches_compute_what_whole_texts_do(family):
    """Two documents in a row, each a trunk with branches, against every text alone; and the gradients."""
    model = tiny_model(family)
    draw = np.random.default_rng(3)
    trunks = [draw.integers(0, 300, 5), draw.integers(0, 300, 3)]
    rests = [[draw.integers(0, 300, size) for size in sizes] for sizes in ((4, 1, 6), (2, 3))]
    ids, positions, branches, doc_ids, whole = [], [], [], [], []
    for document, (trunk, own) in enumerate(zip(trunks, rests, strict=True)):
        parts = [(0, 0, trunk), *((number, len(trunk), rest) for number, rest in enumerate(own, start=1))]
        for number, first, part in parts:
            ids += part.tolist()
            positions += range(first, first + len(part))
            branches += [number] * len(part)
            doc_ids += [document] * len(part)
        whole += [np.concatenate([trunk, rest]) for rest in own]

    def row(values):
        return torch.tensor([values])

    hidden = model.hidden(row(ids), positions=row(positions), branches=row(branches), doc_ids=row(doc_ids))[0]
    alone = [model.hidden(torch.from_numpy(text)[None])[0] for text in whole]
    at = 0
    texts = iter(zip(alone, whole, strict=True))
    ends = []
    for trunk, own in zip(trunks, rests, strict=True):
        begun = hidden[at : at + len(trunk)]
        at += len(trunk)
        for rest in own:
            text, _ = next(texts)
            ends.append(hidden[at : at + len(rest)])
            torch.testing.assert_close(torch.cat([begun, ends[-1]]), text, atol=2e-5, rtol=2e-5)
            at += len(rest)
    sum(end.square().sum() for end in ends).backward()
    used = [weight for weight in model.parameters() if weight.grad is not None]
    shared = [weight.grad.clone() for weight in used]
    model.zero_grad()
    sizes = [len(rest) for own in rests for rest in own]
    sum(text[-size:].square().sum() for text, size in zip(alone, sizes, strict=True)).backward()
    assert len(used) > 10
    for weight, found in zip(used, shared, strict=True):
        torch.testing.assert_close(found, weight.grad, atol=1e-3, rtol=1e-3)
