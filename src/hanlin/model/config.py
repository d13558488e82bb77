"""Shape of a model, and its translation to and from a Hugging Face `config.json`."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from hanlin.common.atomic import read_json
from hanlin.common.config import Range, above, at_least, require_ranges
from hanlin.common.errors import ConfigError, HanlinError
from hanlin.common.messages import Text, listing
from hanlin.model.family import ConfigField, FamilySpec, families, family_of
from hanlin.model.peft_files import model_directory

ResidualInit = Literal["zero", "scaled", "plain"]


@dataclasses.dataclass(frozen=True)
class ModelShape:
    """What one chooses about a model; the rest of its configuration comes from the tokenizer.

    Field names are those of Hugging Face. `None` derives the usual value: `intermediate_size` 8/3 (SwiGLU)
    or 4 (GELU) times `hidden_size` rounded up to 32, `num_key_value_heads` = `num_attention_heads`,
    `head_dim` = hidden/heads.

    Attributes:
        family: a name known to `family.family_of`.
        qk_norm: asks for the family with or without it: qwen3 has QK-norm, llama is the same without.
        residual_init: projections that write to the residual stream start at `zero`, at 1/sqrt(2·layers) of
            the other matrices (`scaled`, GPT-2's), or like them (`plain`).
    """

    family: str = "qwen3"
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
        family_of(self.family)

    def config(self, vocab_size: int, eos_id: int) -> ModelConfig:
        """The whole configuration, for a tokenizer's vocabulary."""
        return ModelConfig(
            vocab_size=vocab_size,
            bos_token_id=eos_id,
            eos_token_id=eos_id,
            pad_token_id=eos_id,
            **dataclasses.asdict(self),
        )


@dataclasses.dataclass(frozen=True)
class ModelConfig(ModelShape):
    """A decoder-only transformer.

    Attributes:
        bos_token_id: what precedes every document of the pretraining text, and so a text to continue:
            <|endoftext|> of what is trained here. None: a document's first token was never learnt.
        layer_norm_epsilon, activation_function: of a gpt2 checkpoint; what is trained here has GPT-2's own.

    Raises:
        ConfigError: a combination that the stock architecture of the family could not load; found here,
            before step 0, because a run once had to be repeated when six heads of 48 did not make 512.
    """

    # None, or left out, until `__post_init__` derives them; numbers in every configuration that exists
    num_key_value_heads: int = cast("int", None)
    head_dim: int = cast("int", None)
    intermediate_size: int = cast("int", None)
    vocab_size: int = dataclasses.field(kw_only=True)
    bos_token_id: int | None = None
    eos_token_id: int = 0
    pad_token_id: int = 0
    layer_norm_epsilon: float = 1e-5
    activation_function: str = "gelu_new"

    def __post_init__(self):
        if self.qk_norm is not None:
            object.__setattr__(self, "family", self.spec.with_qk_norm(self.qk_norm))
        self._require_positive(
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "max_position_embeddings",
            "num_key_value_heads",
            "head_dim",
            "intermediate_size",
        )
        if self.hidden_size % self.num_attention_heads and self.head_dim is None:
            raise ConfigError(
                "hidden_size {hidden_size} is not a multiple of num_attention_heads {num_attention_heads}",
                hidden_size=self.hidden_size,
                num_attention_heads=self.num_attention_heads,
            )
        self._derive("head_dim", self.hidden_size // self.num_attention_heads)
        self._derive("num_key_value_heads", self.num_attention_heads)
        self._derive("intermediate_size", self.spec.intermediate_size(self.hidden_size))
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                "num_attention_heads {num_attention_heads} is not a multiple of num_key_value_heads "
                "{num_key_value_heads}",
                num_attention_heads=self.num_attention_heads,
                num_key_value_heads=self.num_key_value_heads,
            )
        self.spec.check(self)

    def _require_positive(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError("{name} must be at least 1, not {value}", name=name, value=value)

    def _derive(self, name: str, value: int) -> None:
        if getattr(self, name) is None:
            object.__setattr__(self, name, value)

    @property
    def spec(self) -> FamilySpec:
        """The family's row."""
        return family_of(self.family)

    def parameters(self) -> int:
        """Number of weights, by arithmetic; a test compares it with the module's own count."""
        return self.spec.parameters(self)

    def flops_per_token(self, length: int) -> float:
        """Training FLOPs per token: 6 x matrix weights (with the head) + causal attention 6 x layers x heads
        x head_dim x length."""
        attention = self.num_hidden_layers * self.num_attention_heads * self.head_dim * length
        return 6.0 * self.spec.matrix_parameters(self) + 6.0 * attention

    def to_hf(self, dtype: str = "float32") -> dict[str, Any]:
        """The `config.json` that makes stock transformers open these weights."""
        own = {
            key: getattr(self, value.name) if isinstance(value, ConfigField) else value
            for key, value in self.spec.hf.config.items()
        }
        return {
            "architectures": [self.spec.hf.architecture],
            "model_type": self.family,
            "vocab_size": self.vocab_size,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_token_id,
            "pad_token_id": self.pad_token_id,
            "tie_word_embeddings": self.tie_word_embeddings,
            "torch_dtype": dtype,
            "use_cache": True,
        } | own

    @classmethod
    def from_hf(cls, path: Path | str) -> ModelConfig:
        """Read a model directory's `config.json` (an adapter's base's); what it leaves out is what
        transformers takes for that architecture.

        Raises:
            HanlinError: not there, malformed, or an architecture or option (scaled RoPE, biases, another
                activation) we do not compute.
        """
        file = model_directory(path) / "config.json"
        raw = read_json(file)
        if not isinstance(raw, dict):
            raise _malformed(file, Text("should be a JSON object"))
        spec = _family(raw, file)
        unsupported = _unsupported(raw) + spec.hf.unsupported(raw)
        if unsupported:
            raise HanlinError(
                "{file}: unsupported options: {unsupported}. What is computed here would not be this "
                "model, so it was not opened.",
                file=file,
                unsupported=listing(unsupported),
            )
        values: dict[str, Any] = {}
        for name, default in spec.hf.defaults.items():
            key = spec.hf.key_of(name)
            value = next((raw[given] for given in (key, name) if raw.get(given) is not None), default)
            if value is not None:
                values[name] = _checked(name, key, value, file)
        for name, (key, value) in spec.hf.read(raw).items():
            values[name] = _checked(name, key, value, file)
        try:
            return cls(family=spec.name, **values)
        except ValueError as error:
            raise _malformed(file, error) from None


_OPTIONS = {
    "rms_norm_eps": float,
    "layer_norm_epsilon": float,
    "rope_theta": float,
    "tie_word_embeddings": bool,
    "activation_function": str,
}
# Beyond these no weights are: the tables of rotary embeddings, which no file holds, would not fit in memory.
_MOST = {"max_position_embeddings": 1 << 20, "num_hidden_layers": 1 << 16}


def _family(raw: dict[str, Any], file: Path) -> FamilySpec:
    architectures = raw.get("architectures")
    if architectures is not None and not (
        isinstance(architectures, list) and all(isinstance(name, str) for name in architectures)
    ):
        raise _malformed(file, Text("architectures should be a list of names"))
    architecture = (architectures or ["?"])[0]
    for spec in families().values():
        if architecture in (spec.hf.architecture, spec.hf.scoring_architecture):
            return spec
    known = ", ".join(spec.hf.architecture for spec in families().values())
    raise HanlinError(
        "{file}: architecture {architecture} is not supported. Known: {known}.",
        file=file,
        architecture=architecture,
        known=known,
    )


def _unsupported(raw: dict[str, Any]) -> list[str]:
    """Options that change what any model computes and that aren't computed here."""
    options = (
        "quantization_config",
        "add_cross_attention",
        "attention_bias",
        "mlp_bias",
        "use_sliding_window",
    )
    return [key for key in options if raw.get(key)]


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
    least = 0 if name.endswith("_id") else 1
    most = _MOST.get(name, 2**31 - 1)
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
