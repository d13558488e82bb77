"""What goes on inside: activations that are too large, attention that rests on the first token, numbers that
are not finite."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from hanlin.common.messages import Text
from hanlin.evaluation.batches import padded
from hanlin.evaluation.doctors.base import Doctor, Finding, Sign, exactly, register_doctor
from hanlin.evaluation.doctors.context import DoctorContext
from hanlin.evaluation.doctors.prompts import BEGINNINGS, QUESTIONS
from hanlin.evaluation.statistics import Metric

LOGIT = 50.0  # of attention: above is red (ours)
GROWTH = 100.0  # of the residual stream from the first layer's output to the last's: above is red (ours)
MASSIVE = (100.0, 1000.0)  # an activation above both this and so many medians (Sun et al. 2024)
SINK = 0.3  # mean attention to the first token that makes a head a sink (Gu et al. 2025)
_TEXTS, _TOKENS = 16, 128


@register_doctor
class SinksDoctor(Doctor):
    """Largest activations by layer, growth of the residual stream, attention to the first token, largest
    attention logit."""

    name = "sinks"
    title = Text("Activations")
    order = 100
    labels = {
        "logit": Text("largest attention logit"),
        "growth": Text("growth of the residual stream, last layer / first layer"),
        "massive": Text("largest activation / median of its layer"),
        "sink_heads": Text("heads that rest on the first token"),
    }

    def examine(self, context: DoctorContext) -> Finding:
        rows = [row[:_TOKENS] for row in context.rows[:_TEXTS] if len(row) > 8]
        if not rows:
            rows = [
                np.array([context.tokenizer.eos_id, *ids], dtype=np.int64)
                for ids in context.tokenizer.encode_batch(list(BEGINNINGS + QUESTIONS))
            ]
        seen = [_look(context, row) for row in rows]
        layers = context.model.config.num_hidden_layers
        peaks = np.array([[entry["peak"][at] for at in range(layers)] for entry in seen])
        medians = np.array([[entry["median"][at] for at in range(layers)] for entry in seen])
        sizes = np.array([entry["rms"] for entry in seen]).mean(0)
        logit = max(max(entry["logit"]) for entry in seen)
        heads = np.mean([entry["first"] for entry in seen], axis=0).reshape(-1)
        finite = bool(np.isfinite(peaks).all() and math.isfinite(logit)) and all(e["finite"] for e in seen)
        if not finite:
            return Finding(
                "red",
                {},
                Text("Activations are not finite (NaN or infinity)."),
                Text("Use an earlier checkpoint; train again with a lower learning rate."),
            )
        ratios = peaks / np.maximum(medians, 1e-12)
        growth = float(sizes[-1] / max(sizes[0], 1e-12))
        metrics = {
            "logit": exactly(logit, len(rows)),
            "growth": exactly(growth, len(rows)),
            "massive": exactly(float(ratios.max()), len(rows)),
            "sink_heads": Metric.proportion(int((heads > SINK).sum()), len(heads)),
        }
        signs: list[Sign] = []
        if logit > LOGIT:
            signs.append(
                Sign(
                    "red",
                    Text("Attention logits are so large that single tokens take all attention."),
                    Text("Train with QK-norm (family qwen3), a lower learning rate or more weight decay."),
                )
            )
        if growth > GROWTH:
            signs.append(
                Sign(
                    "red",
                    Text("The residual stream grows too much from layer to layer for half precision."),
                    Text("Train with residual_init: zero or scaled, or a lower learning rate."),
                )
            )
        massive = (peaks > MASSIVE[0]) & (ratios > MASSIVE[1])
        if massive.any():
            signs.append(
                Sign(
                    "ok",
                    Text(
                        "Layers {layers} have massive activations, as large models do; quantise with care.",
                        layers=", ".join(str(at + 1) for at in np.flatnonzero(massive.any(0))),
                    ),
                )
            )
        return Finding.of(
            metrics,
            signs,
            Text("Activations and attention are within bounds."),
            {
                "largest_by_layer": peaks.max(0).tolist(),
                "rms_by_layer": sizes.tolist(),
                "attention_to_first": heads.tolist(),
            },
        )


@torch.inference_mode()
def _look(context: DoctorContext, row: np.ndarray) -> dict[str, Any]:
    """One text's pass: by layer largest and median activation, RMS, largest attention logit, and each head's
    mean attention to the first token."""
    model = context.model
    ids = padded([row], model.device)
    forward = model.context(ids)
    found: dict[str, Any] = {"peak": [], "median": [], "rms": [], "logit": [], "first": []}
    attend = forward.attend

    def attending(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        wide = k.repeat_interleave(q.shape[2] // k.shape[2], dim=2).float()[0].transpose(0, 1)  # (H, T, D)
        scores = q.float()[0].transpose(0, 1) @ wide.mT / math.sqrt(q.shape[-1])
        hidden = torch.ones_like(scores[0], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(hidden, -math.inf)
        found["logit"].append(float(scores[:, ~hidden].abs().max()))
        # the first queries have little else to look at
        found["first"].append(scores.softmax(-1)[:, 4:, 0].mean(-1).cpu().numpy())
        return attend(layer, q, k, v)

    def after(module: Any, inputs: Any, x: torch.Tensor) -> None:
        size = x.float().abs()
        found["peak"].append(float(size.max()))
        found["median"].append(float(size.median()))
        found["rms"].append(float(x.float().square().mean().sqrt()))

    forward.attend = attending  # type: ignore[method-assign]
    hooks = [block.register_forward_hook(after) for block in model.decoder.blocks]
    try:
        hidden = model.hidden(ids, forward)
    finally:
        for hook in hooks:
            hook.remove()
    found["finite"] = bool(torch.isfinite(hidden).all())
    return found
