"""Initial weights: the same on every platform and device."""

from __future__ import annotations

import torch

from hanlin.model.transformer import CausalLM, RewardModel


def init_weights(model: CausalLM | RewardModel, seed: int) -> None:
    """Initialise in place, the same on every platform and device.

    Matrices N(0, 1/fan_in); projections that write to the residual stream as `ModelShape.residual_init` says, by default zero,
    so every block starts as the identity (as nanochat does); embeddings N(0, 0.02²), small so that tied logits start near
    uniform; norms one; biases zero.
    """
    how = model.config.residual_init
    residual_scale = {"zero": 0.0, "scaled": (2 * model.config.num_hidden_layers) ** -0.5, "plain": 1.0}[how]
    generator = torch.Generator().manual_seed(seed)
    writes_residual = ("o_proj.weight", "down_proj.weight", "c_proj.weight")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
                continue
            residual = name.endswith(writes_residual)
            if residual and how == "zero":
                parameter.zero_()
                continue
            gpt2_matrix = name.endswith(("c_attn.weight", "c_fc.weight", "c_proj.weight"))  # stored (in, out)
            fan_in = parameter.shape[0] if gpt2_matrix else parameter.shape[1]
            embedding = name.endswith(
                ("embed_tokens.weight", "wte.weight", "wpe.weight", "lm_head.weight", "score.weight")
            )
            std = 0.02 if embedding else fan_in**-0.5
            parameter.copy_(
                torch.randn(parameter.shape, generator=generator)
                * (std * residual_scale if residual else std)
            )
