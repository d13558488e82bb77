"""Reads the weights of a GGUF file of ours back into a model, to measure what its types cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from hanlin.common.errors import HanlinError
from hanlin.export.gguf import gguf_name
from hanlin.model import CausalLM, ModelConfig


def read_gguf(file: Path | str, config: ModelConfig) -> CausalLM:
    """The model in a GGUF file, its quantised matrices as the float32 numbers that they stand for. What is
    computed with them is computed by Hanlin, not by llama.cpp.

    Args:
        config: of the model that was exported; the file's header is not read.

    Raises:
        HanlinError: the `gguf` package is missing, the file is no GGUF file, or its tensors are not those of
            such a model.
    """
    try:
        import gguf
    except ImportError:
        raise HanlinError("Reading GGUF needs the gguf package: pip install 'hanlin[export]'.") from None
    try:
        tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise HanlinError(
            "{file} is not a GGUF file that can be read: {error}", file=file, error=error
        ) from None
    model = CausalLM(config)
    weights = {}
    for name, weight in model.state_dict().items():
        tensor = tensors.pop(gguf_name(name, config.spec), None)
        array = None if tensor is None else gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        found = None if array is None else _restored(name, torch.from_numpy(np.array(array)), config)
        if found is None or found.shape != weight.shape:
            raise HanlinError(
                "{file} does not hold the weight {name} of this model: it was exported from another.",
                file=file,
                name=name,
            )
        weights[name] = found
    model.load_state_dict(weights)
    return model.eval()


def _restored(name: str, tensor: torch.Tensor, config: ModelConfig) -> torch.Tensor:
    """Weights in the layout of checkpoints: `gguf._arrange` undone."""
    form = config.spec.gguf
    if name.endswith(form.transposed):
        return tensor.t()
    if name.endswith(form.interleaved):
        heads = tensor.shape[0] // config.head_dim
        return (
            tensor.view(heads, config.head_dim // 2, 2, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
        )
    return tensor
