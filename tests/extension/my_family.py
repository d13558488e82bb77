"""A family of one's own: llama with a wider feed-forward part."""

from __future__ import annotations

import dataclasses

from hanlin.model import family_of, register_family

_LLAMA = family_of("llama")
register_family(
    dataclasses.replace(
        _LLAMA,
        name="wide",
        intermediate_size=lambda width: 5 * width,
        hf=dataclasses.replace(_LLAMA.hf, architecture="WideForCausalLM", scoring_architecture=None),
        gguf=dataclasses.replace(_LLAMA.gguf, architecture="wide"),
        qk_norm_twin=None,
    )
)
