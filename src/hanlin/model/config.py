"""Shape of a model, and its translation to and from a Hugging Face `config.json`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from ..common.atomic import read_json
from ..common.errors import HanlinError

Family = Literal["qwen3", "llama", "gpt2"]
ResidualInit = Literal["zero", "scaled", "plain"]

ARCHITECTURES: dict[str, str] = {"qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM", "gpt2": "GPT2LMHeadModel"}


@dataclasses.dataclass(frozen=True)
class ModelShape:
    """What one chooses about a model; the rest of its configuration comes from the tokenizer.

    Field names are those of Hugging Face. `None` derives the usual value: `intermediate_size` 8/3 (SwiGLU) or 4 (GELU)
    times `hidden_size` rounded up to 32, `num_key_value_heads` = `num_attention_heads`, `head_dim` = hidden/heads.

    Attributes:
        qk_norm: asks for the family with or without it: qwen3 has QK-norm, llama is the same without.
        residual_init: projections that write to the residual stream start at `zero`, at 1/sqrt(2·layers) of the other
            matrices (`scaled`, GPT-2's), or like them (`plain`).
    """

    family: Family = "qwen3"
    hidden_size: int = 128
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    intermediate_size: int | None = None
    max_position_embeddings: int = 512
    rope_theta: float = 100000.0
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = True
    qk_norm: bool | None = None
    residual_init: ResidualInit = "zero"

    def config(self, vocab_size: int, eos_id: int) -> ModelConfig:
        """The whole configuration, for a tokenizer's vocabulary."""
        return ModelConfig(vocab_size=vocab_size, eos_token_id=eos_id, pad_token_id=eos_id, **dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True)
class ModelConfig(ModelShape):
    """A decoder-only transformer.

    Raises:
        ValueError: a combination that the stock architecture of the family could not load; found here, before step 0,
            because a run once had to be repeated when six heads of 48 did not make 512.
    """

    vocab_size: int = dataclasses.field(kw_only=True)
    eos_token_id: int = 0
    pad_token_id: int = 0

    def __post_init__(self):
        def derive(name: str, value: int) -> None:
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

        if self.qk_norm is not None and self.family == "gpt2":
            raise ValueError("GPT-2 has no QK-norm: leave qk_norm out, or choose family qwen3")
        if self.qk_norm is not None:
            object.__setattr__(self, "family", "qwen3" if self.qk_norm else "llama")
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.hidden_size % self.num_attention_heads and self.head_dim is None:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}")
        derive("head_dim", self.hidden_size // self.num_attention_heads)
        derive("num_key_value_heads", self.num_attention_heads)
        if self.family == "gpt2":
            derive("intermediate_size", 4 * self.hidden_size)
        else:
            derive("intermediate_size", (self.hidden_size * 8 // 3 + 31) // 32 * 32)
        if self.num_attention_heads % self.key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of num_key_value_heads {self.num_key_value_heads}"
            )
        if self.family == "gpt2":
            if self.key_value_heads != self.num_attention_heads:
                raise ValueError("GPT-2 has no grouped-query attention: num_key_value_heads must equal num_attention_heads")
            if self.per_head * self.num_attention_heads != self.hidden_size:
                raise ValueError(f"GPT-2 needs heads x head_dim = hidden_size, not {self.num_attention_heads} x {self.head_dim}")
            if not self.tie_word_embeddings:
                raise ValueError("GPT-2 as llama.cpp and transformers know it ties its embeddings")
        elif self.per_head % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd; rotary embeddings need pairs")

    @property
    def key_value_heads(self) -> int:
        """`num_key_value_heads`, derived."""
        assert self.num_key_value_heads is not None
        return self.num_key_value_heads

    @property
    def per_head(self) -> int:
        """`head_dim`, derived."""
        assert self.head_dim is not None
        return self.head_dim

    @property
    def feed_forward(self) -> int:
        """`intermediate_size`, derived."""
        assert self.intermediate_size is not None
        return self.intermediate_size

    def parameters(self) -> int:
        """Number of weights, by arithmetic; a test compares it with the module's own count."""
        d, v, f, n = self.hidden_size, self.vocab_size, self.feed_forward, self.num_hidden_layers
        if self.family == "gpt2":
            block = 4 * d * d + 4 * d + 2 * d * f + d + f + 4 * d
            return v * d + self.max_position_embeddings * d + n * block + 2 * d
        queries, keys = self.num_attention_heads * self.per_head, self.key_value_heads * self.per_head
        block = d * (2 * queries + 2 * keys) + 3 * d * f + 2 * d
        if self.family == "qwen3":
            block += 2 * self.per_head
        return v * d * (1 if self.tie_word_embeddings else 2) + n * block + d

    def flops_per_token(self, length: int) -> float:
        """Training FLOPs per token: 6 x matrix weights (with the head) + causal attention 6 x layers x heads x head_dim x length."""
        d = self.hidden_size
        positions = self.max_position_embeddings * d if self.family == "gpt2" else 0
        matrices = self.parameters() - positions - (0 if self.tie_word_embeddings else self.vocab_size * d)
        return 6.0 * matrices + 6.0 * self.num_hidden_layers * self.num_attention_heads * self.per_head * length

    def to_hf(self, dtype: str = "float32") -> dict[str, Any]:
        """The `config.json` that makes stock transformers open these weights."""
        common = {
            "architectures": [ARCHITECTURES[self.family]],
            "model_type": self.family,
            "vocab_size": self.vocab_size,
            "bos_token_id": None,
            "eos_token_id": self.eos_token_id,
            "pad_token_id": self.pad_token_id,
            "tie_word_embeddings": self.tie_word_embeddings,
            "torch_dtype": dtype,
            "use_cache": True,
        }
        if self.family == "gpt2":
            return common | {
                "n_embd": self.hidden_size,
                "n_layer": self.num_hidden_layers,
                "n_head": self.num_attention_heads,
                "n_inner": self.feed_forward,
                "n_positions": self.max_position_embeddings,
                "n_ctx": self.max_position_embeddings,
                "activation_function": "gelu_new",
                "layer_norm_epsilon": 1e-5,
                "resid_pdrop": 0.0,
                "embd_pdrop": 0.0,
                "attn_pdrop": 0.0,
                "summary_first_dropout": 0.0,
            }
        return common | {
            "hidden_size": self.hidden_size,
            "intermediate_size": self.feed_forward,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.key_value_heads,
            "head_dim": self.per_head,
            "hidden_act": "silu",
            "max_position_embeddings": self.max_position_embeddings,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": None,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
        } | ({"mlp_bias": False} if self.family == "llama" else {"use_sliding_window": False})

    @classmethod
    def from_hf(cls, path: Path | str) -> ModelConfig:
        """Read a model directory's `config.json`.

        Raises:
            HanlinError: not there, or an architecture or option (scaled RoPE, biases, another activation) we do not compute.
        """
        file = Path(path) / "config.json"
        raw = read_json(file)
        architecture = (raw.get("architectures") or ["?"])[0]
        family = next((f for f, name in ARCHITECTURES.items() if architecture.startswith(name.removesuffix("ForCausalLM").removesuffix("LMHeadModel"))), None)
        if family is None:
            known = ", ".join(ARCHITECTURES.values())
            raise HanlinError(f"{file}：架构 {architecture} 不受支持。可用：{known}。", f"{file}: architecture {architecture} is not supported. Known: {known}.")
        shared = {key: raw[key] for key in ("vocab_size", "eos_token_id", "pad_token_id") if raw.get(key) is not None}
        if isinstance(shared.get("eos_token_id"), list):
            shared["eos_token_id"] = shared["eos_token_id"][0]
        if family == "gpt2":
            names = {
                "hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
                "intermediate_size": "n_inner", "max_position_embeddings": "n_positions",
            }  # fmt: skip
            return cls(family="gpt2", **shared, **{ours: raw[theirs] for ours, theirs in names.items() if raw.get(theirs) is not None})
        rope = raw.get("rope_parameters") or {}
        unsupported = [key for key in ("attention_bias", "mlp_bias", "use_sliding_window") if raw.get(key)]
        if raw.get("rope_scaling") or rope.get("rope_type", "default") != "default":
            unsupported.append("rope_scaling")
        if raw.get("hidden_act", "silu") != "silu":
            unsupported.append("hidden_act")
        if unsupported:
            raise HanlinError(f"{file}：不支持的选项 {'、'.join(unsupported)}。", f"{file}: unsupported options: {', '.join(unsupported)}.")
        names = (
            "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
            "intermediate_size", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings",
        )  # fmt: skip
        values = {key: raw[key] for key in names if raw.get(key) is not None}
        return cls(family=family, rope_theta=float(raw.get("rope_theta") or rope.get("rope_theta") or 10000.0), **shared, **values)  # type: ignore[arg-type]
