"""Attention by an accelerator's kernels: what can be said of it on a CPU. FlexAttention's forward pass runs
here; varlen's operator is stood in for."""

import inspect

import pytest
import torch

from hanlin.common.documents import document_starts
from hanlin.model.attention import flash_backends
from hanlin.model.attention.reference import attend, packed_mask
from tests.model.standin import varlen_on_cpu


def packed(rows: int, length: int, seed: int) -> torch.Tensor:
    """Documents of random lengths; the last row ends in padding, as packed conversations do."""
    generator = torch.Generator().manual_seed(seed)
    cuts = torch.rand(rows, length, generator=generator) < 0.01
    doc_ids = cuts.long().cumsum(1) + torch.arange(rows)[:, None] * length
    doc_ids[-1, -length // 5 :] = -1
    return doc_ids


def reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, doc_ids: torch.Tensor) -> torch.Tensor:
    return attend(*(x.transpose(1, 2) for x in (q, k, v)), packed_mask(doc_ids, q.dtype)).transpose(1, 2)


def heads(rows: int, length: int, count: int, groups: int, dim: int = 16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(rows, length, n, dim, generator=generator) for n in (count, groups, groups)]


@pytest.mark.parametrize("length", [128, 512, 500, 77])
@pytest.mark.parametrize("seed", range(3))
def test_a_block_mask_allows_what_the_packed_mask_allows(length, seed):
    doc_ids = packed(3, length, seed)
    mask = flash_backends.block_mask(doc_ids)
    blocks, size = -(-length // flash_backends.BLOCK), flash_backends.BLOCK
    seen = torch.zeros(3, blocks * size, blocks * size, dtype=torch.bool)
    places = torch.arange(length)
    for counts, indices, full in (
        (mask.kv_num_blocks, mask.kv_indices, False),
        (mask.full_kv_num_blocks, mask.full_kv_indices, True),
    ):
        for row in range(3):
            for query in range(blocks):
                for key in indices[row, 0, query, : counts[row, 0, query]].tolist():
                    here = slice(query * size, (query + 1) * size), slice(key * size, (key + 1) * size)
                    assert not seen[row][here].any(), "a block was listed twice"
                    if full:
                        seen[row][here] = True
                        continue
                    q, k = (torch.arange(s.start, min(s.stop, length)) for s in here)
                    seen[row, q[:, None], k] = mask.mask_mod(row, 0, q[:, None], k)
    wanted = packed_mask(doc_ids)[:, 0] == 0
    assert torch.equal(seen[:, places[:, None], places], wanted)


def test_a_block_mask_skips_what_it_can():
    one, many = (
        flash_backends.block_mask(ids)
        for ids in (torch.zeros(1, 1024, dtype=torch.int64), (torch.arange(1024) // 128)[None])
    )
    assert int(one.full_kv_num_blocks.sum()) == 8 * 7 // 2 and int(one.kv_num_blocks.sum()) == 8
    assert int(many.full_kv_num_blocks.sum()) == 0 and int(many.kv_num_blocks.sum()) == 8


@pytest.mark.nightly
@pytest.mark.parametrize("groups", [4, 2])
def test_flex_agrees_with_the_reference(groups):
    doc_ids = packed(2, 300, 5)
    q, k, v = heads(2, 300, 4, groups)
    ours = flash_backends.flex_document_attention(q, k, v, flash_backends.block_mask(doc_ids))
    torch.testing.assert_close(ours, reference(q, k, v, doc_ids), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("rows, length, seed", [(3, 256, 0), (1, 40, 1), (4, 1000, 2)])
def test_bounds_cover_every_token_once_and_end_in_empty_documents(rows, length, seed):
    doc_ids = packed(rows, length, seed)
    starts = document_starts(doc_ids)
    sizes = starts.diff()
    assert starts[0] == 0 and starts[-1] == rows * length and (sizes >= 0).all()
    real = sizes[sizes > 0]
    assert torch.equal(sizes[: len(real)], real), "empty ones come last"
    flat = torch.arange(len(real)).repeat_interleave(real).view(rows, length)
    assert torch.equal(flat[:, 1:] == flat[:, :-1], doc_ids[:, 1:] == doc_ids[:, :-1])
    assert (flat[1:, 0] != flat[:-1, -1]).all(), "rows never share a document"


@pytest.mark.parametrize("knows_groups", [True, False])
@pytest.mark.parametrize("groups", [4, 2])
def test_varlen_is_asked_for_attention_within_documents(groups, knows_groups, monkeypatch):
    """Heads that share keys are repeated for a torch that cannot be asked to."""
    varlen_on_cpu()
    monkeypatch.setattr(flash_backends, "_KNOWS_GROUPS", knows_groups)
    doc_ids = packed(2, 90, 3)
    q, k, v = (x.bfloat16() for x in heads(2, 90, 4, groups))
    found = flash_backends.varlen_attention(q, k, v, flash_backends.Bounds(document_starts(doc_ids), 90))
    torch.testing.assert_close(found, reference(q, k, v, doc_ids), atol=2e-2, rtol=2e-2)


def test_torch_still_has_the_varlen_operator_we_ask_for():
    assert flash_backends._CAUSAL in ({"is_causal": True}, {"window_size": (-1, 0)})
    assert flash_backends._CAUSAL.keys() <= inspect.signature(flash_backends.varlen_attn).parameters.keys()
