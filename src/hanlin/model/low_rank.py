"""Putting low-rank additions beside a model's linear maps, and folding them in: what the adapter `lora` and
the readers of adapter directories share."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import nn

from hanlin.common.errors import HanlinError
from hanlin.model.linear import Conv1D, Linear, LowRankLinear
from hanlin.model.nf4 import Quantization
from hanlin.model.quantized_linear import QuantizedLinear, dense_weight


class DoRALinear(LowRankLinear):
    """m · (W + s·B·A) / ‖W + s·B·A‖, the norm taken of each row: direction and length of the weights trained
    apart (Liu et al. 2024).

    The norm counts as a constant in the backward pass (section 4.3 there).

    Attributes:
        magnitude: m, (out_features,); begins as ‖W‖.
    """

    def __init__(self, base: nn.Module, *arguments: Any, **options: Any):
        super().__init__(base, *arguments, **options)
        self.magnitude = nn.Parameter(dense_weight(base).detach().float().norm(dim=1).clone())

    def row_norms(self) -> torch.Tensor:
        """‖W + s·B·A‖ of each row, float32, (out_features,)."""
        return (dense_weight(self.base).float() + self.delta()).norm(dim=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            norms = self.row_norms()
        product = super().forward(x)
        factor = (self.magnitude / norms).to(product.dtype)
        bias = getattr(self.base, "bias", None)
        if bias is None:
            return product * factor
        # the bias is not scaled; nothing is rounded while factor is one, as it is in the beginning
        return product + (factor - 1) * (product - bias.to(product.dtype))


@dataclasses.dataclass(frozen=True)
class LowRankSettings:
    """How linear maps are adapted.

    Attributes:
        r, alpha, rslora: see `LowRankLinear`; dora: as `DoRALinear`.
        quantization: what all linear maps of the blocks are kept in, adapted or not; double_quant: of `nf4`,
            the scales in 8 bits as well.
        seed: of the first A.
    """

    r: int
    alpha: float
    rslora: bool = False
    dora: bool = False
    quantization: Quantization = ""
    double_quant: bool = True
    seed: int = 1


def linear_maps(model: nn.Module) -> list[tuple[str, Linear | Conv1D]]:
    """Plain linear maps of the blocks, with their full names in the model."""
    blocks = {id(module) for module in model.decoder.blocks.modules()}  # type: ignore[union-attr,operator]
    return [
        (name, module)
        for name, module in model.named_modules()
        if id(module) in blocks and isinstance(module, (Linear, Conv1D))
    ]


def low_rank_maps(model: nn.Module) -> Iterator[tuple[str, LowRankLinear]]:
    """The adapted linear maps, with their full names."""
    for name, module in model.named_modules():
        if isinstance(module, LowRankLinear):
            yield name, module


def add_low_rank(model: nn.Module, chosen: Collection[str], settings: LowRankSettings) -> None:
    """Put additions beside the chosen linear maps (full names) and freeze all else.

    Raises:
        HanlinError: the rank is above that of one of them.
    """
    places = linear_maps(model)
    for name, linear in places:
        rows, columns = dense_weight(linear).shape
        if name in chosen and settings.r > min(rows, columns):
            raise HanlinError(
                "adapter.r is {r}, and {name} is {rows} × {columns}: a rank above {most} adds nothing. Lower "
                "r.",
                r=settings.r,
                name=name,
                rows=rows,
                columns=columns,
                most=min(rows, columns),
            )
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(settings.seed)
    for name, linear in places:
        rows, columns = dense_weight(linear).shape
        device, dtype = linear.weight.device, linear.weight.dtype
        made: nn.Module = linear
        if settings.quantization:
            made = QuantizedLinear(linear, settings.quantization, settings.double_quant)
        if name in chosen:
            kind = DoRALinear if settings.dora else LowRankLinear
            made = kind(made, columns, rows, settings.r, settings.alpha, settings.rslora, generator)
            for parameter in made.parameters(recurse=False):
                parameter.data = parameter.data.to(device, dtype)
        set_module(model, name, made)


def adapter_settings(model: nn.Module) -> LowRankSettings:
    """What an adapted model was adapted with; the seed is not known any more."""
    _, one = next(low_rank_maps(model))
    kept = next((module for module in model.modules() if isinstance(module, QuantizedLinear)), None)
    return LowRankSettings(
        one.r,
        one.alpha,
        one.rslora,
        isinstance(one, DoRALinear),
        "" if kept is None else kept.quantization,
        True if kept is None else kept.double_quant,
    )


def set_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of another."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


@torch.no_grad()
def merge_low_rank(model: nn.Module) -> None:
    """Fold the additions into the weights, in float32 and rounded once, and make quantised weights the plain
    ones that they compute with; all is trainable afterwards."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LowRankLinear):
            set_module(model, name, _merged(module))
        elif isinstance(module, QuantizedLinear) and not name.endswith(".base"):
            set_module(model, name, module.dequantized())
    model.requires_grad_(True)


def _merged(module: LowRankLinear) -> Linear | Conv1D:
    base = module.base
    weight = dense_weight(base).float() + module.delta()
    if isinstance(module, DoRALinear):
        weight *= (module.magnitude.float() / module.row_norms())[:, None]
    plain = base.dequantized() if isinstance(base, QuantizedLinear) else base
    assert isinstance(plain, (Linear, Conv1D))
    dtype = plain.weight.dtype
    plain.weight = nn.Parameter((weight.t() if isinstance(plain, Conv1D) else weight).to(dtype).contiguous())
    return plain


@dataclasses.dataclass(frozen=True)
class AdaptedParameters:
    """What an adapted model consists of.

    Attributes:
        maps: last parts of the names of the adapted linear maps.
        trained: parameters with a gradient; base: those of the model without additions.
    """

    maps: tuple[str, ...]
    trained: int
    base: int


def adapted_parameters(model: nn.Module) -> AdaptedParameters:
    """Count them."""
    maps = list(low_rank_maps(model))
    added = sum(p.numel() for _, module in maps for p in module.parameters(recurse=False))
    quantized = sum(
        module.out_features * module.in_features
        for module in model.modules()
        if isinstance(module, QuantizedLinear)
    )
    return AdaptedParameters(
        tuple(dict.fromkeys(name.rpartition(".")[2] for name, _ in maps)),
        sum(p.numel() for p in model.parameters() if p.requires_grad),
        sum(p.numel() for p in model.parameters()) - added + quantized,
    )
