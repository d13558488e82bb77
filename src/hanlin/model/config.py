"""Shape of a model, and its translation to and from a Hugging Face `config.json`."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, ClassVar, Literal

from hanlin.common.atomic import read_json
from hanlin.common.config import Range, above, at_least, require_ranges
from hanlin.common.errors import ConfigError, HanlinError
from hanlin.common.messages import Text, listing

Family = Literal["qwen3", "llama", "gpt2"]
ResidualInit = Literal["zero", "scaled", "plain"]

ARCHITECTURES: dict[str, str] = {
    "qwen3": "Qwen3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}
# GPT-2's activations by their names in transformers: torch's approximation of each.
GELU: dict[str, Literal["none", "tanh"]] = {"gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu": "none"}


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

    RANGES: ClassVar[dict[str, Range]] = {
        **dict.fromkeys(
            (
                "hidden_size",
                "num_hidden_layers",
                "num_attention_heads",
                "num_key_value_heads",
                "head_dim",
                "intermediate_size",
            ),
            at_least(1),
        ),
        "max_position_embeddings": at_least(2),
        "rope_theta": above(0),
        "rms_norm_eps": above(0),
    }

    def __post_init__(self):
        require_ranges(self)

    def config(self, vocab_size: int, eos_id: int) -> ModelConfig:
        """The whole configuration, for a tokenizer's vocabulary."""
        return ModelConfig(
            vocab_size=vocab_size, eos_token_id=eos_id, pad_token_id=eos_id, **dataclasses.asdict(self)
        )


@dataclasses.dataclass(frozen=True)
class ModelConfig(ModelShape):
    """A decoder-only transformer.

    Attributes:
        layer_norm_epsilon, activation_function: of a gpt2 checkpoint; what is trained here has GPT-2's own.

    Raises:
        ValueError: a combination that the stock architecture of the family could not load; found here, before step 0,
            because a run once had to be repeated when six heads of 48 did not make 512.
    """

    vocab_size: int = dataclasses.field(kw_only=True)
    eos_token_id: int = 0
    pad_token_id: int = 0
    layer_norm_epsilon: float = 1e-5
    activation_function: str = "gelu_new"

    def __post_init__(self):
        def derive(name: str, value: int) -> None:
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

        if self.qk_norm is not None and self.family == "gpt2":
            raise ConfigError("GPT-2 has no QK-norm: leave qk_norm out, or choose family qwen3")
        if self.qk_norm is not None:
            object.__setattr__(self, "family", "qwen3" if self.qk_norm else "llama")
        sizes = (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "max_position_embeddings",
        )
        for name in (*sizes, "num_key_value_heads", "head_dim", "intermediate_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(
                    "{name} must be at least 1, not {value}", name=name, value=getattr(self, name)
                )
        if self.hidden_size % self.num_attention_heads and self.head_dim is None:
            raise ConfigError(
                "hidden_size {hidden_size} is not a multiple of num_attention_heads {num_attention_heads}",
                hidden_size=self.hidden_size,
                num_attention_heads=self.num_attention_heads,
            )
        derive("head_dim", self.hidden_size // self.num_attention_heads)
        derive("num_key_value_heads", self.num_attention_heads)
        if self.family == "gpt2":
            derive("intermediate_size", 4 * self.hidden_size)
        else:
            derive("intermediate_size", (self.hidden_size * 8 // 3 + 31) // 32 * 32)
        if self.num_attention_heads % self.key_value_heads:
            raise ConfigError(
                "num_attention_heads {num_attention_heads} is not a multiple of num_key_value_heads "
                "{num_key_value_heads}",
                num_attention_heads=self.num_attention_heads,
                num_key_value_heads=self.num_key_value_heads,
            )
        if self.family == "gpt2":
            if self.key_value_heads != self.num_attention_heads:
                raise ConfigError(
                    "GPT-2 has no grouped-query attention: num_key_value_heads must equal num_attention_heads"
                )
            if self.per_head * self.num_attention_heads != self.hidden_size:
                raise ConfigError(
                    "GPT-2 needs heads x head_dim = hidden_size, not {heads} x {head_dim}",
                    heads=self.num_attention_heads,
                    head_dim=self.head_dim,
                )
            if not self.tie_word_embeddings:
                raise ConfigError("GPT-2 as llama.cpp and transformers know it ties its embeddings")
        elif self.per_head % 2:
            raise ConfigError(
                "head_dim {head_dim} is odd; rotary embeddings need pairs", head_dim=self.head_dim
            )

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
        return (
            6.0 * matrices + 6.0 * self.num_hidden_layers * self.num_attention_heads * self.per_head * length
        )

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
                "activation_function": self.activation_function,
                "layer_norm_epsilon": self.layer_norm_epsilon,
                "resid_pdrop": 0.0,
                "embd_pdrop": 0.0,
                "attn_pdrop": 0.0,
                "summary_first_dropout": 0.0,
            }
        return (
            common
            | {
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
            }
            | ({"mlp_bias": False} if self.family == "llama" else {"use_sliding_window": False})
        )

    @classmethod
    def from_hf(cls, path: Path | str) -> ModelConfig:
        """Read a model directory's `config.json`; what it leaves out is what transformers takes for that architecture.

        Raises:
            HanlinError: not there, malformed, or an architecture or option (scaled RoPE, biases, another activation) we do not compute.
        """
        file = Path(path) / "config.json"
        raw = read_json(file)
        if not isinstance(raw, dict):
            raise _malformed(file, Text("should be a JSON object"))
        family = _family(raw, file)
        unsupported = _unsupported(raw, family)
        if unsupported:
            raise HanlinError(
                "{file}: unsupported options: {unsupported}. What is computed here would not be this "
                "model, so it was not opened.",
                file=file,
                unsupported=listing(unsupported),
            )
        values: dict[str, Any] = {}
        for name, default in _STOCK[family].items():
            theirs = _GPT2_NAMES.get(name, name) if family == "gpt2" else name
            value = next((raw[key] for key in (theirs, name) if raw.get(key) is not None), default)
            if value is not None:
                values[name] = _checked(name, theirs, value, file)
        if family != "gpt2":
            rope = raw.get("rope_parameters") or {}
            theta = next(
                (place["rope_theta"] for place in (rope, raw) if place.get("rope_theta") is not None), 10000.0
            )
            values["rope_theta"] = _checked("rope_theta", "rope_theta", theta, file)
        try:
            return cls(family=family, **values)
        except ValueError as error:
            raise _malformed(file, error) from None


# What transformers takes where a config.json says nothing.
_COMMON = {"eos_token_id": None, "pad_token_id": None}
_ROPED = _COMMON | {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
_STOCK: dict[Family, dict[str, Any]] = {
    "llama": _ROPED
    | {
        "vocab_size": 32000,
        "intermediate_size": 11008,
        "num_key_value_heads": None,
        "head_dim": None,
        "max_position_embeddings": 2048,
    },
    "qwen3": _ROPED
    | {
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "max_position_embeddings": 32768,
    },
    "gpt2": _COMMON
    | {
        "vocab_size": 50257,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": None,
        "max_position_embeddings": 1024,
        "layer_norm_epsilon": 1e-5,
        "activation_function": "gelu_new",
        "tie_word_embeddings": True,
    },
}
_GPT2_NAMES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
}
_OPTIONS = {
    "rms_norm_eps": float,
    "layer_norm_epsilon": float,
    "rope_theta": float,
    "tie_word_embeddings": bool,
    "activation_function": str,
}
# Beyond these no weights are: the tables of rotary embeddings, which no file holds, would not fit in memory.
_MOST = {"max_position_embeddings": 1 << 20, "num_hidden_layers": 1 << 16}


def _family(raw: dict[str, Any], file: Path) -> Family:
    architectures = raw.get("architectures")
    if architectures is not None and not (
        isinstance(architectures, list) and all(isinstance(name, str) for name in architectures)
    ):
        raise _malformed(file, Text("architectures should be a list of names"))
    architecture = (architectures or ["?"])[0]
    for family, name in ARCHITECTURES.items():
        if architecture in (
            name,
            name.removesuffix("ForCausalLM").removesuffix("LMHeadModel") + "ForSequenceClassification",
        ):
            return family  # type: ignore[return-value]
    known = ", ".join(ARCHITECTURES.values())
    raise HanlinError(
        "{file}: architecture {architecture} is not supported. Known: {known}.",
        file=file,
        architecture=architecture,
        known=known,
    )


def _unsupported(raw: dict[str, Any], family: Family) -> list[str]:
    """Options of a config.json that change what the model computes and that we do not compute."""
    found = [
        key
        for key in (
            "quantization_config",
            "add_cross_attention",
            "attention_bias",
            "mlp_bias",
            "use_sliding_window",
        )
        if raw.get(key)
    ]
    if family == "gpt2":
        if str(raw.get("activation_function", "gelu_new")) not in GELU:
            found.append("activation_function")
        if raw.get("scale_attn_weights") is False:
            found.append("scale_attn_weights")
        if raw.get("scale_attn_by_inverse_layer_idx"):
            found.append("scale_attn_by_inverse_layer_idx")
        if raw.get("tie_word_embeddings") is False:
            found.append("tie_word_embeddings")
        return found
    rope = raw.get("rope_parameters") or {}
    if (
        not isinstance(rope, dict)
        or rope.get("rope_type", "default") != "default"
        or rope.keys() - {"rope_type", "rope_theta"}
    ):
        found.append("rope_parameters")
    if raw.get("rope_scaling"):
        found.append("rope_scaling")
    if raw.get("hidden_act", "silu") not in ("silu", "swish"):
        found.append("hidden_act")
    layers = raw.get("layer_types")
    if layers is not None and (
        not isinstance(layers, list) or any(kind != "full_attention" for kind in layers)
    ):
        found.append("layer_types")
    return found


def _checked(name: str, key: str, value: Any, file: Path) -> Any:
    """A value of config.json, of the type and in the bounds that its name asks for."""
    kind = _OPTIONS.get(name, int)
    if name == "eos_token_id" and isinstance(value, list) and value:
        value = value[0]
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or isinstance(value, list):
        raise _malformed(
            file,
            Text("{key} is {value!r}, should be of type {kind}", key=key, value=value, kind=kind.__name__),
        )
    least, most = (0 if name.endswith("_id") else 1), _MOST.get(name, 2**31 - 1)
    if kind is int and not least <= value <= most:
        raise _malformed(
            file,
            Text(
                "{key} is {value}, should lie between {least} and {most}",
                key=key,
                value=value,
                least=least,
                most=most,
            ),
        )
    if kind is float and not 0 < value < math.inf:
        raise _malformed(file, Text("{key} is {value}, should be above 0", key=key, value=value))
    return value


def _malformed(file: Path, fault: Text | ValueError) -> HanlinError:
    return HanlinError(
        "{file} cannot be used: {fault}. Fetch the file anew from where the model came from.",
        file=file,
        fault=fault,
    )
