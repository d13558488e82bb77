"""A linear map whose frozen weight is kept in 4 or 8 bits (QLoRA, Dettmers et al. 2023)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from hanlin.model.linear import Conv1D, Linear
from hanlin.model.nf4 import Int8Matrix, NF4Matrix, Quantization, quantize_int8, quantize_nf4


class _Product(torch.autograd.Function):
    """x @ weightᵀ; the weight is made of its codes in the forward pass and once more in the backward pass, so
    that one matrix exists at a time, and not all of them until backward."""

    @staticmethod
    def forward(ctx, x, matrix):
        ctx.matrix = matrix
        return F.linear(x, matrix.dequantize(x.dtype))

    @staticmethod
    def backward(ctx, grad):
        return grad @ ctx.matrix.dequantize(grad.dtype), None


class QuantizedLinear(nn.Module):
    """A linear map with a frozen weight in `nf4` or `int8`; the weight has no gradient.

    Codes and scales are buffers that no checkpoint holds: they are made of the base again.

    Args:
        linear: the map that it takes the place of; its weight is not kept.
        double_quant: of `nf4`, the scales in 8 bits as well.

    Attributes:
        transposed: whether the weight was stored (in_features, out_features), as GPT-2's are. It is
            quantised as (out_features, in_features) either way.
    """

    bias: nn.Parameter | None

    def __init__(self, linear: nn.Module, quantization: Quantization, double_quant: bool = True):
        super().__init__()
        weight = dense_weight(linear)
        self.out_features, self.in_features = weight.shape
        self.quantization: Quantization = quantization
        self.double_quant = double_quant and quantization == "nf4"
        self.transposed = isinstance(linear, Conv1D)
        made = quantize_nf4(weight, double_quant) if quantization == "nf4" else quantize_int8(weight)
        for name in _TENSORS:
            self.register_buffer(name, getattr(made, name, None), persistent=False)
        bias = linear.bias if isinstance(linear, Conv1D) else None
        self.register_parameter("bias", bias)
        if bias is not None:
            bias.requires_grad_(False)

    @property
    def matrix(self) -> NF4Matrix | Int8Matrix:
        """Codes and scales, (out_features, in_features)."""
        found = {name: getattr(self, name) for name in _TENSORS}
        if self.quantization == "nf4":
            return NF4Matrix((self.out_features, self.in_features), **found)
        return Int8Matrix(found["codes"], found["absmax"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        device = x.device.type
        if torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        if torch.compiler.is_compiling():  # which decides by itself what is kept
            product = F.linear(x, self.matrix.dequantize(x.dtype))
        else:
            product = _Product.apply(x, self.matrix)
        return product if self.bias is None else product + self.bias.to(product.dtype)

    def dequantized(self) -> Linear | Conv1D:
        """The plain linear map with the weight that this one computes with, float32."""
        kind = Conv1D if self.transposed else Linear
        with torch.device("meta"):
            made = kind(self.in_features, self.out_features)
        weight = self.matrix.dequantize()
        made.weight = nn.Parameter(weight.t().contiguous() if self.transposed else weight)
        if isinstance(made, Conv1D):
            assert self.bias is not None
            made.bias = nn.Parameter(self.bias.detach())
        return made


_TENSORS = ("codes", "absmax", "nested_absmax", "offset")


def dense_weight(linear: nn.Module) -> torch.Tensor:
    """The weight of a linear map as (out_features, in_features), however it is stored."""
    if isinstance(linear, QuantizedLinear):
        return linear.matrix.dequantize()
    weight = linear.weight
    assert isinstance(weight, torch.Tensor)
    return weight.t() if isinstance(linear, Conv1D) else weight
