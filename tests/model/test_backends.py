"""Attention back ends: each agrees with the reference or is refused by name, and a training goes on with the
next."""

from __future__ import annotations

import dataclasses
import time
import typing

import pytest
import torch
import torch.nn.functional as F

from hanlin.common.devices import CAPABILITIES
from hanlin.common.documents import document_starts
from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text
from hanlin.common.progress import Progress
from hanlin.dataset import TextRows, TokenDataset
from hanlin.model.attention import backends
from hanlin.model.attention.backends import (
    BACKENDS,
    AttentionBackend,
    AttentionChoice,
    PackedShape,
    backend_for,
    choose_attention,
    fault_of,
    plain_attention,
)
from hanlin.stages.supervised import NextTokenLoss, RowSource, SupervisedConfig
from hanlin.tokenizer import load_tokenizer
from hanlin.tokenizer.token_bytes import token_bytes
from hanlin.training import TrainConfig, train
from tests.model.standin import varlen_on_cpu
from tests.support import tiny_model
from tests.training.zygote import build_world

CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def nothing_chosen():
    """What one test finds out is not to be remembered by the next."""
    backends._chosen.clear()
    fault_of.cache_clear()
    yield
    backends._chosen.clear()
    fault_of.cache_clear()


@pytest.fixture
def like_an_accelerator(monkeypatch):
    """The CPU's row with what an accelerator's says of attention and precision. No more than a simulation."""

    def pretend(kind: str, dtype: str | None = None) -> None:
        row = CAPABILITIES[kind]
        monkeypatch.setitem(
            CAPABILITIES,
            "cpu",
            dataclasses.replace(CAPABILITIES["cpu"], attention=row.attention, train_dtype=dtype or "float32"),
        )

    return pretend


def spoil_sdpa(monkeypatch, which) -> list[bool]:
    """pytorch#160787 in small: the forward pass is right, gradients are NaN, in the calls that
    `which(is_causal)` picks; the calls seen."""
    sound, seen = F.scaled_dot_product_attention, []

    def spoiled(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, **options):
        out = sound(q, k, v, attn_mask=attn_mask, dropout_p=dropout_p, is_causal=is_causal, **options)
        if torch.is_grad_enabled() and out.requires_grad:
            seen.append(is_causal)
            if which(is_causal):
                out.register_hook(lambda grad: grad * float("nan"))
        return out

    monkeypatch.setattr(F, "scaled_dot_product_attention", spoiled)
    return seen


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name, backend in BACKENDS.items() if not backend.particular])
def test_every_back_end_is_right_here(name, dtype):
    for head_dim, groups in ((64, 2), (32, 1), (16, 4)):
        assert fault_of(name, CPU, dtype, head_dim, groups) is None


@pytest.mark.parametrize("documents", [True, False])
def test_the_reference_is_softmax_word_by_word(documents):
    """One query after another, in float64, with nothing shared with the code under test."""
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 7, 4, 8), torch.randn(2, 7, 2, 8), torch.randn(2, 7, 2, 8)
    doc_ids = torch.tensor([[0, 0, 0, 1, 1, 2, 2], [3, 4, 4, 4, 4, 4, 5]])
    mask = BACKENDS["plain"].prepare(
        PackedShape(doc_ids if documents else None, None, 2, 7, CPU, torch.float32)
    )
    found = plain_attention(q, k, v, mask)
    for row in range(2):
        for place in range(7):
            for head in range(4):
                seen = [
                    other
                    for other in range(place + 1)
                    if not documents or doc_ids[row, other] == doc_ids[row, place]
                ]
                keys, values = k[row, seen, head // 2].double(), v[row, seen, head // 2].double()
                weights = torch.softmax(keys @ q[row, place, head].double() / 8**0.5, 0)
                assert torch.allclose(found[row, place, head].double(), weights @ values, atol=1e-6)


def _scaled(q, k, v, mask):
    return plain_attention(q, k, v, mask) * 1.1


def _all_see_all(q, k, v, mask):
    return plain_attention(q, k, v, torch.zeros_like(mask))


def _last_token_lost(q, k, v, mask):
    out = plain_attention(q, k, v, mask).clone()
    out[:, -1] = 0
    return out


def _no_gradient_of_keys(q, k, v, mask):
    return plain_attention(q, k.detach(), v, mask) + 0 * k.sum()


def _not_finite(q, k, v, mask):
    return plain_attention(q, k, v, mask) / 0


def _fails(q, k, v, mask):
    raise RuntimeError("no kernel for this device\nmore")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "run, says",
    [
        (_scaled, "the output off by"),
        (_all_see_all, "the output off by"),
        (_last_token_lost, "the output off by"),
        (_no_gradient_of_keys, "the gradient of k off by"),
        (_not_finite, "NaN or Inf in the output"),
        (_fails, "it failed: no kernel for this device"),
    ],
)
def test_a_wrong_one_is_found_out(run, says, dtype, monkeypatch):
    monkeypatch.setitem(BACKENDS, "wrong", AttentionBackend("wrong", BACKENDS["plain"].prepare, run))
    fault = fault_of("wrong", CPU, dtype)
    assert fault is not None and says in fault.en and "\n" not in fault.en


def test_one_that_mixes_documents_is_found_out(monkeypatch):
    """Right for causal rows, and blind to documents."""
    monkeypatch.setitem(
        BACKENDS,
        "blind",
        AttentionBackend(
            "blind", lambda rows: BACKENDS["plain"].prepare(rows._replace(doc_ids=None)), plain_attention
        ),
    )
    fault = fault_of("blind", CPU, torch.float32)
    assert fault is not None and fault.en.startswith("packed documents")


def test_gradients_of_nan_are_refused_by_name_and_the_next_is_taken(monkeypatch, like_an_accelerator):
    like_an_accelerator("cuda", "float32")
    spoil_sdpa(monkeypatch, lambda is_causal: is_causal)
    said = []
    chosen = choose_attention(CPU, lambda message, /, **fields: said.append(Text.of(message, **fields)))
    assert chosen.name == "masked_sdpa" and backend_for(CPU, torch.float32, 64, 2) is chosen
    zh, en = said[-1].zh, said[-1].en
    assert (
        "sdpa" in zh
        and "q 的梯度里有 NaN" in zh
        and "attention back end sdpa is refused" in en
        and "NaN or Inf in the gradient of q" in en
    )


def test_where_no_kernel_is_right_softmax_is_written_out(monkeypatch, like_an_accelerator):
    like_an_accelerator("cuda", "float32")
    spoil_sdpa(monkeypatch, lambda is_causal: True)
    said = []
    assert (
        choose_attention(CPU, lambda message, /, **fields: said.append(Text.of(message, **fields).en)).name
        == "plain"
    )
    assert [line.split()[3] for line in said] == ["varlen", "flex", "sdpa", "masked_sdpa"]


def test_with_none_right_there_is_no_training(monkeypatch):
    monkeypatch.setitem(BACKENDS, "wrong", AttentionBackend("wrong", BACKENDS["plain"].prepare, _scaled))
    monkeypatch.setitem(CAPABILITIES, "cpu", dataclasses.replace(CAPABILITIES["cpu"], attention=("wrong",)))
    with pytest.raises(HanlinError) as refused:
        choose_attention(CPU, lambda message, /, **fields: None)
    assert "wrong" in refused.value.en and "wrong" in refused.value.zh
    assert backend_for(CPU, torch.float32, 64, 2).name == "wrong"  # nothing was chosen


def test_on_xpu_causal_sdpa_is_never_called(monkeypatch, like_an_accelerator):
    """pytorch#160787 comes once in dozens of steps; the row has to keep away from it whatever the check
    says."""
    like_an_accelerator("xpu", "float32")
    seen = spoil_sdpa(monkeypatch, lambda is_causal: is_causal)
    said = []
    assert (
        choose_attention(
            CPU, lambda message, /, **fields: said.append(Text.of(message, **fields).en), head_dim=16
        ).name
        == "masked_sdpa"
    )
    assert len(said) == 1 and "masked_flex" in said[0]  # which has no backward pass here
    model = tiny_model("qwen3")
    model.hidden(torch.randint(0, 100, (2, 16))).sum().backward()
    assert seen and not any(seen)
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_training_goes_on_without_a_nan(dtype, tmp_path, monkeypatch, like_an_accelerator):
    """The simulated fault spoils every step of the back end first in order; the loop warns, takes the next,
    and skips none."""
    build_world(tmp_path)
    like_an_accelerator("cuda", dtype)
    seen = spoil_sdpa(monkeypatch, lambda is_causal: is_causal)
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    model = tiny_model("qwen3", tokenizer, hidden_size=32)
    config = SupervisedConfig(
        TrainConfig(steps=5, learning_rate=3e-3, compile=False),
        seq_len=64,
        batch_tokens=256,
        micro_tokens=256,
    )
    source = RowSource(TextRows(TokenDataset(tmp_path / "text"), 64, 5), config)
    warnings = []
    monkeypatch.setattr(
        Progress, "warn", lambda self, message, /, **fields: warnings.append(Text.of(message, **fields).en)
    )
    result = train(
        model,
        source,
        NextTokenLoss(token_bytes(tokenizer), 1e-4, document_mask=False),
        config.train,
        tmp_path / "work",
        Progress(),
    )
    # the first two have no kernel here
    assert [line.split()[3] for line in warnings] == [
        "varlen",
        "flex",
        "sdpa",
    ]
    assert result.skipped == 0 and result.last["loss"] == result.last["loss"]
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    assert seen.count(True) == 3 < seen.count(False)  # in the checks alone


def test_without_the_check_the_same_training_is_lost(tmp_path, monkeypatch, like_an_accelerator):
    """That the simulated fault is one: let through, it spoils each step."""
    build_world(tmp_path)
    like_an_accelerator("cuda", "float32")
    spoil_sdpa(monkeypatch, lambda is_causal: is_causal)
    monkeypatch.setattr("hanlin.model.attention.backends.fault_of", lambda *arguments: None)
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    model = tiny_model("qwen3", tokenizer, hidden_size=32)
    config = SupervisedConfig(
        TrainConfig(steps=5, learning_rate=3e-3, compile=False),
        seq_len=64,
        batch_tokens=256,
        micro_tokens=256,
    )
    source = RowSource(TextRows(TokenDataset(tmp_path / "text"), 64, 5), config)
    with pytest.raises(HanlinError, match="three of the last hundred|最近一百步"):
        train(
            model,
            source,
            NextTokenLoss(token_bytes(tokenizer), 1e-4, document_mask=False),
            config.train,
            tmp_path / "work",
            Progress(),
        )


def test_the_check_draws_nothing_from_the_generators_and_takes_little_time():
    """Warm, in processor time: what the first use of the operator itself costs, the first step would have
    paid."""
    fault_of.__wrapped__("tiles", CPU, torch.float32)
    state, taken = torch.get_rng_state(), []
    for _ in range(3):
        began = time.process_time()
        fault_of.cache_clear()
        assert fault_of("tiles", CPU, torch.float32) is None
        taken.append(time.process_time() - began)
    assert min(taken) < 0.25  # threads that wait for a busy core count too: the least says what it takes
    assert torch.equal(torch.get_rng_state(), state)
    again = time.process_time()
    assert fault_of("tiles", CPU, torch.float32) is None
    assert time.process_time() - again < 1e-3


# ---------------------------------------------------------------- those of accelerators


def test_every_back_end_can_be_asked_for_by_name():
    assert set(typing.get_args(AttentionChoice)) == {"auto", *BACKENDS}


@pytest.mark.parametrize("name", ["varlen", "flex", "masked_flex"])
def test_what_an_accelerator_alone_has_is_refused_here_in_one_line(name):
    for dtype in (
        DTYPES[:1] if name == "varlen" else DTYPES
    ):  # another test may have given varlen half precision
        fault = fault_of(name, CPU, dtype)
        assert fault is not None and "运行失败" in fault.zh and "it failed: " in fault.en
        assert "\n" not in fault.en and len(fault.en) < 260


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_varlen_passes_the_check_where_its_operator_is_right(dtype):
    varlen_on_cpu()
    for head_dim, groups in ((64, 2), (32, 1)):
        assert fault_of("varlen", CPU, dtype, head_dim, groups) is None


def test_varlen_with_bounds_of_other_rows_is_found_out(monkeypatch):
    """Were the bounds and the rows ever to part."""
    varlen_on_cpu()

    def one_document(rows):
        starts = document_starts(torch.zeros_like(rows.doc_ids)) if rows.doc_ids is not None else None
        return BACKENDS["varlen"].prepare(rows._replace(doc_starts=starts))

    monkeypatch.setitem(
        BACKENDS,
        "late",
        dataclasses.replace(
            BACKENDS["varlen"], prepare=lambda rows: one_document(rows) if rows.doc_ids is not None else None
        ),
    )
    fault = fault_of("late", CPU, torch.bfloat16)
    assert fault is not None and fault.en.startswith("packed documents")


def test_on_a_card_with_half_precision_documents_go_through_varlen_and_whole_rows_through_sdpa(
    monkeypatch, like_an_accelerator
):
    varlen_on_cpu()
    like_an_accelerator("cuda", "bfloat16")
    assert (
        choose_attention(CPU, lambda message, /, **fields: pytest.fail(Text.of(message, **fields).en)).name
        == "varlen"
    )
    seen = spoil_sdpa(monkeypatch, lambda is_causal: False)
    ids, doc_ids = torch.randint(0, 100, (2, 16)), torch.arange(16).expand(2, 16) // 6
    doc_ids = doc_ids + 3 * torch.arange(2)[:, None]
    gradients = []
    for name in ("varlen", "plain"):
        monkeypatch.setitem(backends._chosen, ("cpu", 16, 2), (BACKENDS[name], torch.bfloat16))
        model = tiny_model("qwen3")
        with torch.autocast("cpu", torch.bfloat16):
            hidden = (
                model.hidden(ids, doc_ids=doc_ids, doc_starts=document_starts(doc_ids)),
                model.hidden(ids, doc_ids=doc_ids),
            )
            assert torch.equal(*hidden)  # bounds are found where none are given
            if name == "varlen":
                causal = len(seen)
                model.hidden(ids).sum().backward()
                assert seen[causal:] == [True] * 2
                model.zero_grad()
        hidden[0].float().square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert float((gradients[0] - gradients[1]).norm() / gradients[1].norm()) < 0.03


def test_in_float32_a_card_goes_on_past_varlen_and_flex_with_a_line_for_each(like_an_accelerator):
    varlen_on_cpu()
    like_an_accelerator("cuda", "float32")
    said = []
    assert (
        choose_attention(CPU, lambda message, /, **fields: said.append(Text.of(message, **fields).en)).name
        == "sdpa"
    )
    assert [line.split()[3] for line in said] == ["varlen", "flex"] and "fp16 and bf16" in said[0]


def test_what_was_checked_in_one_type_is_not_used_in_another(like_an_accelerator):
    varlen_on_cpu()
    like_an_accelerator("cuda", "bfloat16")
    assert backend_for(CPU, torch.bfloat16, 64, 2).name == "sdpa"  # nothing has been checked yet
    choose_attention(CPU, lambda message, /, **fields: pytest.fail(Text.of(message, **fields).en))
    assert backend_for(CPU, torch.bfloat16, 64, 2).name == "varlen"
    assert backend_for(CPU, torch.float32, 64, 2).name == "sdpa"  # an evaluation in float32
    backends._chosen["cpu", 64, 2] = BACKENDS["masked_sdpa"], torch.bfloat16
    assert backend_for(CPU, torch.float32, 64, 2).name == "masked_sdpa"  # what was refused stays refused


def test_one_asked_for_by_name_is_taken_or_refused_by_name():
    assert (
        choose_attention(
            CPU, lambda message, /, **fields: pytest.fail(Text.of(message, **fields).en), wanted="plain"
        ).name
        == "plain"
    )
    assert backend_for(CPU, torch.float32, 64, 2).name == "plain"
    with pytest.raises(HanlinError) as refused:
        choose_attention(CPU, lambda message, /, **fields: None, wanted="flex")
    assert (
        "flex" in refused.value.zh
        and "backward on CPU" in refused.value.en
        and "train.attention=auto" in refused.value.en
    )
