"""A step as an accelerator takes it, followed on a CPU: what it multiplies in, what it waits for, whether it
compiles whole."""

import collections
import dataclasses

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hanlin.common import devices
from hanlin.dataset import Batch
from hanlin.model import linear_cross_entropy, losses
from hanlin.model.attention import backends, flash_backends
from hanlin.stages.supervised import NextTokenLoss
from tests.model.standin import varlen_on_cpu
from tests.support import tiny_model

PRODUCTS = {"mm", "bmm", "addmm", "addmm_", "baddbmm"}


class Recorder(TorchDispatchMode):
    """Counts operators and the types they work on."""

    def __init__(self):
        super().__init__()
        self.seen = collections.Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [x for x in args if isinstance(x, torch.Tensor)]
        self.seen[func.overloadpacket.__name__, tensors[0].dtype if tensors else None] += 1
        return func(*args, **(kwargs or {}))


def rows(vocab: int, count: int = 2, length: int = 48) -> Batch:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocab, (count, length), generator=generator)
    labels = torch.cat((ids[:, 1:], torch.full((count, 1), -100)), 1)
    return Batch(
        ids,
        labels,
        torch.arange(length).expand(count, length),
        torch.arange(count)[:, None].expand(count, length),
        [*range(count)],
    )


def on_an_accelerator(monkeypatch, name: str = "sdpa") -> None:
    """Attention as accelerators have it, on the CPU."""
    if name == "varlen":
        varlen_on_cpu()
    for groups in (1, 2):  # tiny models have heads of 16; gpt2's are not shared
        monkeypatch.setitem(backends._chosen, ("cpu", 16, groups), (backends.BACKENDS[name], torch.bfloat16))


@pytest.mark.parametrize("attention", ["sdpa", "varlen"])
@pytest.mark.parametrize("what", ["loss", "log_probs"])
@pytest.mark.parametrize("family", ["qwen3", "gpt2"])
def test_no_product_of_an_autocast_step_is_in_float32_and_nothing_is_waited_for(
    family, what, attention, monkeypatch
):
    on_an_accelerator(monkeypatch, attention)
    model = tiny_model(family).train()
    batch = rows(300)
    assert batch.num_loss_tokens and len(batch.doc_starts)  # found on the host, before the batch is sent
    objective = NextTokenLoss(torch.ones(300, dtype=torch.int64), z_loss=1e-4)
    with Recorder() as recorder:
        with torch.autocast("cpu", torch.bfloat16):
            if what == "loss":
                loss, _ = objective(model, batch)
            else:
                hidden = batch.gather_loss_tokens(model.hidden(batch.ids, **batch.attention_kwargs))
                loss = -model.head.token_log_probs(hidden, batch.gather_loss_tokens(batch.labels)).sum()
        (loss / batch.num_loss_tokens).backward()
    products = {key: count for key, count in recorder.seen.items() if key[0] in PRODUCTS}
    assert sum(products.values()) > 20
    assert {dtype for _, dtype in products} == {torch.bfloat16}, products
    assert not {"_local_scalar_dense", "nonzero", "masked_select"} & {name for name, _ in recorder.seen}
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def test_the_head_under_autocast_agrees_with_float32():
    generator = torch.Generator().manual_seed(3)
    hidden, weight = (
        torch.randn(700, 32, generator=generator),
        torch.randn(300, 32, generator=generator) * 0.1,
    )
    labels = torch.randint(0, 300, (700,), generator=generator)
    found = []
    for autocast in (False, True):
        leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss, nll = linear_cross_entropy(*leaves, labels, z_loss=1e-2)
        loss.backward()
        found.append([loss.detach(), nll, leaves[0].grad, leaves[1].grad])
    for plain, cast in zip(*found, strict=True):
        assert cast.dtype == torch.float32
        assert float((plain - cast).norm() / plain.norm()) < 0.01


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_gradients_of_logits_are_the_same_with_and_without_a_compiler(compiled):
    generator = torch.Generator().manual_seed(4)
    for count in (64, 37, 5):  # chunks of a batch
        logits = torch.randn(count, 301, generator=generator) * 5
        labels, scale = (
            torch.randint(0, 301, (count,), generator=generator),
            torch.rand(count, generator=generator),
        )
        plain = losses._compiled_logit_gradients() if compiled else losses.logit_gradients
        for ours, theirs in zip(
            plain(logits, labels, scale, 0.01),
            losses._logit_gradients_in_place(logits.clone(), labels, scale, 0.01),
            strict=True,
        ):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_a_batch_goes_to_its_device_from_pinned_memory_and_unwaited(monkeypatch):
    seen = collections.Counter()
    row = dataclasses.replace(devices.CAPABILITIES["cpu"], pin_memory=True)
    monkeypatch.setitem(devices.CAPABILITIES, "meta", row)
    move = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: (seen.update(["pinned"]), tensor)[1])
    monkeypatch.setattr(
        torch.Tensor,
        "to",
        lambda tensor, *args, **kw: (
            seen.update(["unwaited" if kw.get("non_blocking") else "waited"]),
            move(tensor, *args, **kw),
        )[1],
    )
    batch = rows(300)
    assert batch.to(torch.device("meta")).loss_indices.device.type == "meta"
    assert seen == {"pinned": 6, "unwaited": 6}


def test_sources_of_documents_are_sent_without_waiting(monkeypatch):
    class Dataset:
        sources, source_names = np.array([0, 1]), ["a", "b"]

    sent = []
    monkeypatch.setattr(
        "hanlin.stages.supervised.to_device_async",
        lambda tensor, device: (sent.append(tensor.numel()), tensor)[1],
    )
    objective = NextTokenLoss(torch.ones(300, dtype=torch.int64), dataset=Dataset())  # type: ignore[arg-type]
    objective(tiny_model("qwen3"), rows(300))
    assert sent == [2]


@pytest.mark.parametrize("masked, attention", [(False, "sdpa"), (True, "sdpa"), (True, "varlen")])
def test_the_decoder_compiles_without_a_break(masked, attention, monkeypatch):
    on_an_accelerator(monkeypatch, attention)
    model, batch = tiny_model("qwen3").train(), rows(300)
    with torch.autocast("cpu", torch.bfloat16):
        apart = {"doc_ids": batch.doc_ids, "doc_starts": batch.doc_starts} if masked else {}
        context = model.context(batch.ids, positions=batch.positions, **apart)
        found = torch._dynamo.explain(model.decoder.run)(model.decoder.embed(batch.ids, context), context)
    assert found.graph_count == 1 and found.graph_break_count == 0, found.break_reasons


def test_another_number_of_documents_compiles_nothing_again(monkeypatch):
    """A compiled step with varlen: one graph for a batch of two documents and for one of fifty."""
    on_an_accelerator(monkeypatch, "varlen")
    model, batch = tiny_model("qwen3").train(), rows(300)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model._compiled = torch.compile(model.decoder.run, dynamic=False, backend="aot_eager")
    for size in (48, 7, 2):
        doc_ids = torch.arange(48) // size + 100 * torch.arange(2)[:, None]
        with torch.autocast("cpu", torch.bfloat16):
            kwargs = dataclasses.replace(batch, doc_ids=doc_ids).attention_kwargs
            found = model.hidden(batch.ids, **kwargs)
            found.float().square().sum().backward()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    model._compiled = None
    with torch.autocast("cpu", torch.bfloat16):
        plain = model.hidden(batch.ids, **kwargs)
    assert float((found - plain).detach().float().norm() / plain.detach().float().norm()) < 0.02


def test_flex_attention_is_traced_whole():
    doc_ids = (torch.arange(256) // 100).expand(2, 256).contiguous()
    mask = flash_backends.block_mask(doc_ids)
    q, k, v = (torch.randn(2, 256, 2, 16) for _ in range(3))
    found = torch._dynamo.explain(lambda *x: flash_backends.flex_document_attention(*x, mask) * 2)(q, k, v)
    assert found.graph_count == 1 and found.graph_break_count == 0, found.break_reasons
