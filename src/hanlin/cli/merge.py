"""`hanlin merge`: an adapter into its base."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from hanlin.cli.main import Files, Flag, show
from hanlin.common.messages import tr


def merge(
    adapter: Path,
    /,
    *,
    out: Path,
    onto: Literal["trained", "original"] = "trained",
    base: Path | None = None,
    text: Files = (),
    json: Flag = False,
) -> None:
    """Merge an adapter into its base: a plain model directory comes of it.

    Parameters
    ----------
    adapter
        Directory of an adapter (runs/x/models/sft.adapter, or one of PEFT's).
    out
        Directory for the model.
    onto
        The weights that the adapter was trained on (of a quantised base the dequantised ones), or the
        original ones.
    base
        Directory of the model that the adapter is for; where the adapter says, when absent.
    text
        Texts that the model has not seen: how far is the merged model from the adapter on its base?
    """
    from hanlin.pipeline.merge_adapter import merge_adapter

    found = merge_adapter(adapter, out, onto, base, text)
    lines = [
        tr(
            "{out}: {parameters:,} parameters, merged onto the {onto} weights.",
            out=out,
            parameters=found["parameters"],
            onto=tr("trained") if onto == "trained" else tr("original"),
        )
    ]
    if "divergence" in found:
        kl, agree = found["divergence"], found["agree"]
        lines.append(
            tr(
                "Against the adapter on its base: KL {kl:.2g} [{low:.2g}, {high:.2g}] bits per token, the "
                "same likeliest token in {agree:.2%} of places (n = {n} texts).",
                kl=kl.value,
                low=kl.low,
                high=kl.high,
                agree=agree.value,
                n=kl.n,
            )
        )
    result = {name: value.to_dict() if hasattr(value, "to_dict") else value for name, value in found.items()}
    show(result, json, "\n".join(lines))
