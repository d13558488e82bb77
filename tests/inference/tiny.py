"""A tokenizer and models small enough to make in milliseconds."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import torch

from hanlin.model import CausalLM, ModelConfig
from hanlin.tokenizer import Tokenizer, train_tokenizer

torch.set_num_threads(1)  # at these sizes a second thread costs more than it brings

TEXTS = [
    "小明在公园里看见一只猫，他高兴地笑了。",
    "小红有三个苹果，又买了五个，一共有八个苹果。",
    "今天天气很好，老师带着孩子们去河边散步。",
    "The cat sat on the mat.",
] * 4


@functools.cache
def tiny_tokenizer() -> Tokenizer:
    """Byte-level BPE of 340 entries: most Chinese characters are several tokens."""
    return train_tokenizer(iter(TEXTS), 340, Path(tempfile.mkdtemp()) / "tokenizer")


def tiny_model(seed: int = 0, **changes) -> CausalLM:
    """A random model in which every weight matters (fresh ones start with silent blocks)."""
    settings = {
        "vocab_size": tiny_tokenizer().vocab_size,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
    }
    model = CausalLM(ModelConfig(**{**settings, **changes}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(
                noise * 0.3 if parameter.ndim > 1 else 0.1 * noise + (0 if name.endswith("bias") else 1)
            )
    return model.eval()


def random_prompts(count: int, longest: int, vocab_size: int, seed: int = 0) -> list[list[int]]:
    """Prompts of 1 … longest random tokens."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator).tolist()
    return [torch.randint(0, vocab_size, (length,), generator=generator).tolist() for length in lengths]
