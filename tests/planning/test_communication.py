"""Several devices in the plan: collectives by their definitions, memory that is shared out, and what is said
when wires are slow."""

import dataclasses

import pytest

from hanlin.common.errors import HanlinError
from hanlin.common.hardware import GPU_ALLOCATOR, GPU_BASELINE_GIB, HARDWARE
from hanlin.model import ModelShape
from hanlin.planning.communication import (
    NETWORK_EFFICIENCY,
    Cluster,
    about_traffic,
    sharded_budget,
    step_traffic,
)
from hanlin.planning.plan import plan_recipe, plan_text
from hanlin.recipe.recipe import load_recipe
from hanlin.training import TrainConfig
from hanlin.training.step_estimate import MemoryBudget, StepSpec, trace_step

SHAPE = ModelShape(
    hidden_size=64,
    num_hidden_layers=6,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
).config(1200, 0)
CLUSTER = Cluster(nodes=2, gpus=4, network=25.0, link=10.0)
RECIPE = ["corpus.files=[x]"]


def ring(ranks: int, size: int) -> int:
    """Bytes that a ring all-reduce sends from each rank, step by step: size/ranks in each of 2·(ranks - 1)
    steps."""
    return sum(size // ranks for _ in range(2 * (ranks - 1)))


@pytest.mark.parametrize(("nodes", "gpus"), [(1, 2), (1, 8), (2, 4), (4, 8), (3, 1)])
def test_ddp_sends_what_a_ring_does(nodes, gpus):
    cluster = Cluster(nodes, gpus, 25.0, 10.0)
    parameters = 96_000
    found = step_traffic(cluster, "ddp", parameters, 7)
    assert found.sent == pytest.approx(ring(nodes * gpus, 4 * parameters))
    assert found.leaving == (found.sent if nodes > 1 else 0)
    wires = [found.sent / 10e9] * (gpus > 1) + [found.leaving * 8 / (25e9 * NETWORK_EFFICIENCY)] * (nodes > 1)
    assert found.seconds == pytest.approx(max(wires))


def test_fsdp_gathers_twice_and_scatters_once_for_each_micro_batch():
    one, five = (step_traffic(CLUSTER, "fsdp", 8000, micros).sent for micros in (1, 5))
    assert one == pytest.approx(1.5 * ring(8, 4 * 8000)) and five == pytest.approx(5 * one)


def test_hsdp_sends_least_between_machines():
    found = {strategy: step_traffic(CLUSTER, strategy, 8000, 1) for strategy in ("ddp", "fsdp", "hsdp")}
    assert found["hsdp"].leaving == pytest.approx(ring(2, 4 * 8000))
    assert found["hsdp"].leaving < found["ddp"].leaving < found["fsdp"].leaving
    assert found["hsdp"].seconds < found["fsdp"].seconds


def test_what_lasts_is_shared_out_and_what_is_gathered_is_added():
    budget = MemoryBudget(1e12, 5.0, 1.1)
    cost = trace_step(SHAPE, TrainConfig(), StepSpec(seq_len=64, rows=4))
    lasting = cost.weights + cost.gradients + cost.optimizer
    assert sharded_budget(budget, SHAPE, Cluster(1, 1, 25.0, 10.0), "ddp").peak(cost) == budget.peak(cost)
    assert sharded_budget(budget, SHAPE, CLUSTER, "ddp").peak(cost) == pytest.approx(
        budget.peak(cost) + 1.1 * cost.gradients
    )
    peaks = [
        sharded_budget(budget, SHAPE, Cluster(1, shards, 25.0, 10.0), "fsdp").peak(cost)
        for shards in (2, 4, 8)
    ]
    for shards, less in ((2, peaks[0] - peaks[1]), (4, peaks[1] - peaks[2])):
        assert less == pytest.approx(1.1 * lasting * (1 / shards - 1 / (2 * shards)))
    layer = dataclasses.replace(SHAPE, num_hidden_layers=7).parameters() - SHAPE.parameters()
    root = SHAPE.parameters() - 6 * layer
    hybrid = sharded_budget(budget, SHAPE, CLUSTER, "hsdp")
    assert hybrid.shards == 4 and hybrid.besides == 4 * (root + 2 * layer + max(root, layer))


def test_slow_wires_are_warned_of_with_a_batch_that_helps(monkeypatch):
    monkeypatch.setenv("HANLIN_LANG", "en")
    traffic = step_traffic(CLUSTER, "ddp", 100_000_000, 1)
    compute = traffic.seconds / 2
    notes = about_traffic(CLUSTER, "ddp", traffic, compute + traffic.seconds, 4096)
    assert len(notes) == 2 and "67% of a step" in notes[1]
    more = int(notes[1].split("to about ")[1].split(" (")[0].replace(",", "")) // 4096
    assert traffic.seconds / (more * compute + traffic.seconds) <= 0.2
    assert len(about_traffic(CLUSTER, "ddp", traffic, 10 * traffic.seconds, 4096)) == 1
    assert "hsdp" in about_traffic(CLUSTER, "fsdp", traffic, 2 * traffic.seconds, 4096)[1]


def test_a_plan_for_a_cluster_adds_up(monkeypatch):
    monkeypatch.setenv("HANLIN_LANG", "en")
    recipe = load_recipe("zh-mini", RECIPE)
    one, many, fast = (
        plan_recipe(recipe, "rtx4090", price=1.0, **size)
        for size in ({}, {"nodes": 2, "gpus": 8}, {"nodes": 2, "gpus": 8, "network": 400.0})
    )
    assert one.stages[0].communication == one.stages[0].sent == 0
    stage = many.stages[0]
    assert stage.sent == pytest.approx(2 * 15 / 16 * 4 * many.parameters)
    assert (
        0 < fast.stages[0].communication < stage.communication < 1 and fast.stages[0].seconds < stage.seconds
    )
    assert stage.money == pytest.approx(16 * stage.seconds / 3600)
    text = plan_text(many)
    assert "communication (ddp" in text and "25 Gbit/s" in text and "hsdp" in text
    assert "communication" not in plan_text(one)


def test_a_model_too_large_for_a_card_is_offered_sharding(monkeypatch):
    """A card with budget for one row by FSDP and not by DDP."""
    recipe = load_recipe("zh-mini", [*RECIPE, "pretrain.micro_tokens=auto", "model.num_hidden_layers=2"])
    shape, section = recipe.model.config(recipe.tokenizer.vocab_size, 0), recipe.pretrain
    step = dataclasses.replace(section.step_spec("bfloat16"), rows=1, micros=section.rows // 8)
    cost, budget = (
        trace_step(shape, section.train, step),
        MemoryBudget(0.0, GPU_BASELINE_GIB * 2**30, GPU_ALLOCATOR),
    )
    whole, shared = (
        budget.peak(cost),
        sharded_budget(budget, shape, Cluster(1, 8, 25.0, 10.0), "fsdp").peak(cost),
    )
    assert shared < whole
    card = dataclasses.replace(HARDWARE["rtx4090"], memory=(whole + shared) / 2 / 0.95 / 2**30)
    monkeypatch.setitem(HARDWARE, "small", card)
    with pytest.raises(HanlinError) as alone:
        plan_recipe(recipe, "small")
    assert "fsdp" not in alone.value.en
    with pytest.raises(HanlinError) as together:
        plan_recipe(recipe, "small", gpus=8)
    assert "train.parallel=fsdp" in together.value.zh and "train.parallel=fsdp" in together.value.en


@pytest.mark.parametrize(
    "arguments", [{"device": "mac-m2", "gpus": 2}, {"device": "h100", "nodes": 2, "network": 0.0}]
)
def test_clusters_that_cannot_be_are_refused(arguments):
    with pytest.raises(HanlinError):
        plan_recipe(load_recipe("demo"), **arguments)
