"""The ways to compute attention, and the check each has to pass on the device before a training uses it.

A device's row in `common.devices` names them in order. A way is right when its outputs and its gradients
agree with a softmax written out in float32 on the CPU, for causal rows and for packed documents, with grouped
key-value heads.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch

from hanlin.common.devices import device_capabilities
from hanlin.common.documents import document_starts
from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text, joined
from hanlin.model.attention.flash_backends import (
    Bounds,
    block_mask,
    flex_document_attention,
    varlen_attention,
)
from hanlin.model.attention.reference import attend, document_attention, packed_mask

Warn = Callable[..., None]  # takes a message and its fields
Fault = Text
AttentionChoice = Literal["auto", "varlen", "flex", "masked_flex", "tiles", "sdpa", "masked_sdpa", "plain"]

CHECKED_LENGTHS = (64, 160)  # one tile and several
# kernels change with the length; a millisecond on an accelerator, a tenth of a second on a CPU
CHECKED_LENGTHS_ON_DEVICE = (
    64,
    1024,
)


class PackedShape(NamedTuple):
    """What a back end is told of a pass over whole rows: doc_ids (B, T), None for plain causal rows, and
    where documents begin, if known."""

    doc_ids: torch.Tensor | None
    doc_starts: torch.Tensor | None
    batch: int
    length: int
    device: torch.device
    dtype: torch.dtype


@dataclasses.dataclass(frozen=True)
class AttentionBackend:
    """One way to compute attention over whole rows.

    Attributes:
        prepare: rows → what all layers share.
        run: (q (B, T, H, D), k, v (B, T, Hkv, D), shared) → (B, T, H, D), contiguous.
        particular: whether it exists for some devices and types only, and serves nothing but what it was
            checked with.
        compiles: whether it calls for `torch.compile`, once for each shape.
    """

    name: str
    prepare: Callable[[PackedShape], Any]
    run: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Any], torch.Tensor]
    particular: bool = False
    compiles: bool = False


def _document_ids(rows: PackedShape) -> torch.Tensor:
    return (
        torch.arange(rows.batch, device=rows.device)[:, None].expand(rows.batch, rows.length)
        if rows.doc_ids is None
        else rows.doc_ids
    )


def _mask_of_documents(rows: PackedShape) -> torch.Tensor | None:
    return None if rows.doc_ids is None else packed_mask(rows.doc_ids, rows.dtype)


def _mask_always(rows: PackedShape) -> torch.Tensor:
    return packed_mask(
        torch.zeros(1, rows.length, dtype=torch.int64, device=rows.device)
        if rows.doc_ids is None
        else rows.doc_ids,
        rows.dtype,
    )


def _blocks_of_documents(rows: PackedShape) -> Any:
    return None if rows.doc_ids is None else block_mask(rows.doc_ids)


def _blocks_always(rows: PackedShape) -> Any:
    return block_mask(_document_ids(rows))


def _bounds_of_documents(rows: PackedShape) -> Bounds | None:
    if rows.doc_ids is None:
        return None
    starts = document_starts(rows.doc_ids) if rows.doc_starts is None else rows.doc_starts
    torch._dynamo.maybe_mark_dynamic(starts, 0)  # a compiled model takes any number of documents
    return Bounds(starts, rows.length)


def _sdpa(q, k, v, mask):
    return attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask).transpose(1, 2).contiguous()


def _flex(q, k, v, blocks):
    return _sdpa(q, k, v, None) if blocks is None else flex_document_attention(q, k, v, blocks)


def _varlen(q, k, v, bounds):
    return _sdpa(q, k, v, None) if bounds is None else varlen_attention(q, k, v, bounds)


def plain_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Attention written out in float32, (B, T, H, D): the reference, and what is left where no kernel is
    right.

    Keeps all (B, H, T, T) probabilities.

    Args:
        q: (B, T, H, D); k, v: (B, T, Hkv, D); mask: additive, (B or 1, 1, T, T).
    """
    with torch.autocast(q.device.type, enabled=False):
        batch, length, heads, dim = q.shape
        wide_q, wide_k, wide_v = (x.transpose(1, 2).float() for x in (q, k, v))
        grouped = wide_q.reshape(batch, k.shape[2], -1, length, dim) * dim**-0.5  # (B, Hkv, group, T, D)
        scores = grouped @ wide_k[:, :, None].mT + mask.float()[:, :, None]
        out = torch.softmax(scores, -1) @ wide_v[:, :, None]
        return out.reshape(batch, heads, length, dim).transpose(1, 2).contiguous().to(q.dtype)


BACKENDS: dict[str, AttentionBackend] = {
    backend.name: backend
    for backend in (
        AttentionBackend("varlen", _bounds_of_documents, _varlen, particular=True),
        AttentionBackend("flex", _blocks_of_documents, _flex, particular=True, compiles=True),
        AttentionBackend(
            "masked_flex", _blocks_always, _flex, particular=True, compiles=True
        ),  # never is_causal
        AttentionBackend("tiles", _document_ids, document_attention),
        AttentionBackend("sdpa", _mask_of_documents, _sdpa),
        AttentionBackend("masked_sdpa", _mask_always, _sdpa),
        AttentionBackend("plain", _mask_always, plain_attention),
    )
}

# by device type, head dimension and group size, once a training has checked it in its type
_chosen: dict[tuple[str, int, int], tuple[AttentionBackend, torch.dtype]] = {}


def backend_for(device: torch.device, dtype: torch.dtype, head_dim: int, groups: int) -> AttentionBackend:
    """What whole rows go through: the back end a training chose for heads like these, else the first of the
    row that asks for nothing.

    In another type than the training's, a particular one gives way to the first behind it that is not.

    Args:
        groups: query heads to a key-value head.
    """
    row = device_capabilities(device).attention
    chosen = _chosen.get((device.type, head_dim, groups))
    if chosen is not None:
        backend, checked = chosen
        if dtype == checked or not backend.particular:
            return backend
        row = row[row.index(backend.name) :] if backend.name in row else row
    return next(backend for name in row if not (backend := BACKENDS[name]).particular)


def choose_attention(
    device: torch.device, warn: Warn, *, head_dim: int = 64, groups: int = 2, wanted: AttentionChoice = "auto"
) -> AttentionBackend:
    """The first back end of the device's row that is right there, in its training type; whole rows of heads
    like these go through it from now on.

    Each is run once a process for a head dimension and group size.

    Args:
        warn: told of each that is refused, by a message and its fields.
        wanted: a back end's name, when no other is to be taken.

    Raises:
        HanlinError: none of them is right, or the one that is wanted is not.
    """
    row = device_capabilities(device)
    refused = []
    dtype = getattr(torch, row.train_dtype)
    for name in row.attention if wanted == "auto" else (wanted,):
        fault = fault_of(name, device, dtype, head_dim, groups)
        if fault is None:
            _chosen[device.type, head_dim, groups] = BACKENDS[name], dtype
            return BACKENDS[name]
        if wanted != "auto":
            raise HanlinError(
                "The attention back end asked for, {name}, is refused on {row}: {fault} ({train_dtype}, "
                "against the float32 reference). Use train.attention=auto; hanlin doctor lists those that "
                "work.",
                name=name,
                row=row.name,
                fault=fault,
                train_dtype=row.train_dtype,
            )
        refused.append(Text("{name}: {fault}", name=name, fault=fault))
        warn(
            "attention back end {name} is refused on {row}: {fault} ({train_dtype}, against the float32 "
            "reference)",
            name=name,
            row=row.name,
            fault=fault,
            train_dtype=row.train_dtype,
        )
    raise HanlinError(
        "No attention back end is right on {row}: {faults}. Update the driver and torch, or use --device "
        "cpu.",
        row=row.name,
        faults=joined(refused, Text("; ")),
    )


@functools.cache
def fault_of(
    name: str, device: torch.device, dtype: torch.dtype, head_dim: int = 64, groups: int = 2
) -> Fault | None:
    """What is wrong with a back end on a device; None when outputs and gradients agree with the reference.

    The generators of the process are left alone.
    """
    for length in CHECKED_LENGTHS if device.type == "cpu" else CHECKED_LENGTHS_ON_DEVICE:
        for documents in (False, True):
            try:
                found = _compare(BACKENDS[name], device, dtype, length, documents, head_dim, groups)
            except (
                Exception
            ) as error:  # a compiler that is not there, or a kernel that does not build, raises what it likes
                found = Text("it failed: {error}", error=first_line(error))
            if found is not None:
                rows = Text("packed documents") if documents else Text("causal rows")
                return Text("{rows}, T={length}: {found}", rows=rows, length=length, found=found)
    return None


def first_line(error: BaseException) -> str:
    """An error in one line, at most 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _compare(
    backend: AttentionBackend,
    device: torch.device,
    dtype: torch.dtype,
    length: int,
    documents: bool,
    head_dim: int,
    groups: int,
) -> Fault | None:
    """Run a back end forward and backward on random rows and compare with the reference."""
    generator = torch.Generator().manual_seed(length)
    batch = 2
    kv_heads = 2
    shapes = [
        (batch, length, kv_heads * groups, head_dim),
        *[(batch, length, kv_heads, head_dim)] * 2,
        (batch, length, kv_heads * groups, head_dim),
    ]
    q, k, v, grad = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    # three in a row
    doc_ids = (torch.arange(length) * 3 // length + 3 * torch.arange(batch)[:, None]) if documents else None
    expected = _forward_backward(BACKENDS["plain"], [x.float() for x in (q, k, v)], grad.float(), doc_ids)
    found = _forward_backward(
        backend,
        [x.to(device) for x in (q, k, v)],
        grad.to(device),
        None if doc_ids is None else doc_ids.to(device),
    )
    for part, ours, reference in zip(_PARTS, found, expected, strict=True):
        ours = ours.detach().to("cpu", torch.float32)
        if not bool(ours.isfinite().all()):
            return Text("NaN or Inf in {part}", part=part)
        error = relative_error(ours, reference)
        if error > tolerance(dtype):
            return Text("{part} off by {error:.1%}", part=part, error=error)
    return None


_PARTS = (
    Text("the output"),
    Text("the gradient of q"),
    Text("the gradient of k"),
    Text("the gradient of v"),
)


def _forward_backward(
    backend: AttentionBackend, inputs: list[torch.Tensor], grad: torch.Tensor, doc_ids: torch.Tensor | None
) -> list[torch.Tensor]:
    """Output and gradients of q, k, v."""
    with torch.enable_grad():
        q, k, v = (x.requires_grad_() for x in inputs)
        batch, length = grad.shape[:2]
        starts = None if doc_ids is None else document_starts(doc_ids)
        out = backend.run(
            q, k, v, backend.prepare(PackedShape(doc_ids, starts, batch, length, grad.device, grad.dtype))
        )
        return [out, *torch.autograd.grad(out, (q, k, v), grad)]


def relative_error(ours: torch.Tensor, reference: torch.Tensor) -> float:
    """The largest error of one token's vector in one head, over its own size and the mean size: late tokens
    of a row are small, and count."""
    size = reference.detach().norm(dim=-1)
    return float(((ours - reference.detach()).norm(dim=-1) / (size + size.mean())).max())


def tolerance(dtype: torch.dtype) -> float:
    """The error a right back end may have: eight roundings, and what TF32 costs in float32."""
    return max(8 * torch.finfo(dtype).eps, 4e-3)
