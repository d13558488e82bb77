"""Documents in packed rows: what the room that packs them tells the room that attends to them."""

from __future__ import annotations

import torch


def document_starts(doc_ids: torch.Tensor) -> torch.Tensor:
    """Where each document begins in the flattened rows, (S+1,) int32, S a power of two.

    The last ones are all B·T, empty documents: S is one of few numbers, lest a model be compiled again for
    each, and what reads up to the last one covers every token.

    Args:
        doc_ids: (B, T) int, equal within a document, whose tokens are next to each other; rows never share
            one. To be given on the
            host: on an accelerator it would have to wait for the number of documents.
    """
    rows, length = doc_ids.shape
    begins = torch.ones(rows, length, dtype=torch.bool, device=doc_ids.device)
    begins[:, 1:] = doc_ids[:, 1:] != doc_ids[:, :-1]
    found = begins.flatten().nonzero().squeeze(1)
    room = 1 << (len(found) - 1).bit_length()
    starts = torch.full((room + 1,), rows * length, dtype=torch.int32, device=doc_ids.device)
    starts[: len(found)] = found
    return starts
