"""Initial weights: the same on every platform and device."""

from __future__ import annotations

import torch

from hanlin.model.causal_lm import CausalLM, RewardModel


def init_weights(model: CausalLM | RewardModel, seed: int) -> None:
    """Initialise in place, the same on every platform and device.

    Matrices N(0, 1/fan_in); projections that write to the residual stream as `ModelShape.residual_init`
    says, by default zero, so every block starts as the identity (as nanochat does); embeddings N(0, 0.02²),
    small so that tied logits start near uniform; norms one; biases zero.
    """
    how = model.config.residual_init
    rule = model.config.spec.init
    residual_scale = {"zero": 0.0, "scaled": (2 * model.config.num_hidden_layers) ** -0.5, "plain": 1.0}[how]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
                continue
            residual = name.endswith(rule.residual)
            if residual and how == "zero":
                parameter.zero_()
                continue
            fan_in = parameter.shape[0] if name.endswith(rule.transposed) else parameter.shape[1]
            std = 0.02 if name.endswith(rule.tables) else fan_in**-0.5
            parameter.copy_(
                torch.randn(parameter.shape, generator=generator)
                * (std * residual_scale if residual else std)
            )
