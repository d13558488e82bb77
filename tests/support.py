"""What several tests share: tiny models and tokenizers, awkward texts, the place of the real data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hanlin.model import CausalLM, ModelConfig, init_weights
from hanlin.stages.preference.log_probs import answer_log_probs
from hanlin.tokenizer import Tokenizer, train_tokenizer

SHARED = Path(__file__).parents[2] / "shared"
FAMILIES = ("qwen3", "llama", "gpt2")
TEXTS = (
    "小明今天去了图书馆，借了一本关于恐龙的书。",
    "12345 加 67 等于多少？\n\n答：12412。",
    "Hello, world! I'm here; they'll come.\r\n\tTabs  and   spaces ",
    "【標題】繁體字、全角，（括號）《書名》……——",
    "emoji 👩‍👩‍👧‍👦 🇨🇳 é e\u0301 ﷺ \u200b\u3000",
    "<|im_start|>user\n<think></think><|im_end|>",
    "for i in range(10):\n    print(f'{i:>3}')\n",
    "ſ'S'ſ ½ Ⅷ ٣ ㈠ 𠮷𠀋",
    " ",
    "\n\n\n   \n",
)


def shared(path: str) -> Path:
    """A file of the real data beside the checkout; the test is skipped, and says so, where it is absent."""
    found = SHARED / path
    if not found.exists():
        pytest.skip(f"real data not present: {found}")
    return found


def tiny_tokenizer(path: Path, vocab_size: int = 400) -> Tokenizer:
    """A tokenizer trained on a few sentences."""
    texts = [*TEXTS[:4], "小明和小红在学校里读书。", "小红把书给了小明。"] * 20
    return train_tokenizer(iter(texts), vocab_size=vocab_size, out=path)


def tiny_model(family: str, tokenizer: Tokenizer | None = None, seed: int = 0, **shape) -> CausalLM:
    """A model with every weight away from its initial value, so that no part of it can be skipped
    unnoticed."""
    vocab_size, eos = (tokenizer.vocab_size, tokenizer.eos_id) if tokenizer else (300, 0)
    defaults = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
    }
    if family != "gpt2":
        defaults |= {"num_key_value_heads": 2, "tie_word_embeddings": family == "qwen3"}
    model = CausalLM(
        ModelConfig(
            vocab_size=vocab_size, family=family, eos_token_id=eos, pad_token_id=eos, **(defaults | shape)
        )
    )  # type: ignore[arg-type]
    init_weights(model, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model.eval()


class ReferenceModel:
    """The reference of a preference loss as a second model, asked at each step."""

    def __init__(self, model: CausalLM, tail_weight: float = 1.0):
        self.model, self.tail_weight = model, tail_weight

    @torch.no_grad()
    def log_probs(self, batch) -> torch.Tensor:
        """log π_ref of each answer, (documents,)."""
        return answer_log_probs(self.model, batch, self.tail_weight)[0]
