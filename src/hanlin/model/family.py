"""Families of models: everything in which they differ, one row each.

A row says by what module a family computes, how many weights and products that is, how they begin, and what
they are called in Hugging Face's and llama.cpp's files. Nothing outside the rows asks for a family's name.
`families/` holds the rows of this package; a row of anybody's is added by `register_family`, after which its
name is a valid `model.family` in a recipe.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from hanlin.common.config import OutOfRange
from hanlin.common.errors import ConfigError
from hanlin.common.messages import listing


@dataclasses.dataclass(frozen=True)
class ConfigField:
    """Stands in the template of a `config.json` for the value of a field of `ModelConfig`."""

    name: str


@dataclasses.dataclass(frozen=True)
class HuggingFaceFormat:
    """A family in a Hugging Face model directory.

    Attributes:
        architecture: transformers' class of the language model.
        scoring_architecture: transformers' class with one score per sequence; None where a reward model
            can't have this family.
        config: `config.json` beyond what all families have: key → `ConfigField`, or a constant.
        defaults: what transformers takes for a field that a `config.json` leaves out, None for what is
            derived. These fields are read.
        read: further fields, from a parsed `config.json` that passed `unsupported`; each is checked like the
            others.
        unsupported: keys of a parsed `config.json` that change what is computed in a way that isn't
            supported.
        decoder: the name of the decoder in the model, and so the prefix of its weights.
        embedding: of the token embedding within it; `layers`: of the list of its blocks.
    """

    architecture: str
    scoring_architecture: str | None
    config: Mapping[str, Any]
    defaults: Mapping[str, Any]
    decoder: str
    embedding: str
    layers: str
    read: Callable[[Mapping[str, Any]], dict[str, tuple[str, Any]]] = lambda raw: {}
    unsupported: Callable[[Mapping[str, Any]], list[str]] = lambda raw: []

    @property
    def embedding_weight(self) -> str:
        """The embedding's name in a checkpoint."""
        return f"{self.decoder}.{self.embedding}.weight"

    def key_of(self, field: str) -> str:
        """The key of `config.json` that holds a field of `ModelConfig`."""
        return next((key for key, value in self.config.items() if value == ConfigField(field)), field)


@dataclasses.dataclass(frozen=True)
class GGUFFormat:
    """A family in a GGUF file.

    Attributes:
        architecture: llama.cpp's name of the family.
        layer_names: name of a weight within a layer of the checkpoint → within a block of the file.
        names: of the weights outside the layers.
        header: method of `gguf.GGUFWriter` → field of `ModelConfig` that it writes.
        transposed: ends of the names of matrices that the checkpoint stores (in, out).
        interleaved: ends of the names of matrices whose rows llama.cpp rotates as adjacent pairs, the
            checkpoint as halves of a head.
        float32: names of matrices that are not quantised.
    """

    architecture: str
    layer_names: Mapping[str, str]
    names: Mapping[str, str]
    header: Mapping[str, str]
    transposed: tuple[str, ...] = ()
    interleaved: tuple[str, ...] = ()
    float32: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class InitRule:
    """How the matrices of a family begin; vectors are one, biases zero.

    Attributes:
        residual: ends of the names of projections that write to the residual stream: by
            `ModelShape.residual_init`.
        tables: ends of the names of embeddings and heads: N(0, 0.02²). All others are N(0, 1/fan_in).
        transposed: ends of the names of matrices that are stored (in, out).
    """

    residual: tuple[str, ...]
    tables: tuple[str, ...]
    transposed: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class FamilySpec:
    """One family. Functions of a configuration take a `ModelConfig`.

    Attributes:
        name: `model.family` in a recipe and `model_type` in a `config.json`.
        decoder: from a configuration to the module that `CausalLM` runs; see `decoder.Decoder`.
        intermediate_size: the usual width of the feed-forward layers, from `hidden_size`.
        check: raises `ConfigError` for a shape that the stock architecture could not load.
        parameters: number of weights, by arithmetic.
        matrix_parameters: of these, how many a token is multiplied with, the head included (and tied
            embeddings once, as the head).
        qk_norm: whether queries and keys are normed; `qk_norm_twin` names the family that is the same but
            for that, if there is one.
        grouped_query: whether key-value heads may be fewer than query heads.
        tied_only: whether the head is always the embedding.
    """

    name: str
    decoder: Callable[[Any], Any]
    intermediate_size: Callable[[int], int]
    check: Callable[[Any], None]
    parameters: Callable[[Any], int]
    matrix_parameters: Callable[[Any], int]
    init: InitRule
    hf: HuggingFaceFormat
    gguf: GGUFFormat
    qk_norm: bool = False
    qk_norm_twin: str | None = None
    grouped_query: bool = True
    tied_only: bool = False

    def with_qk_norm(self, wanted: bool) -> str:
        """The name of this family, or of its twin, that has QK-norm or not, as wanted.

        Raises:
            ConfigError: there is none.
        """
        if wanted == self.qk_norm:
            return self.name
        if self.qk_norm_twin is None:
            if self.qk_norm:
                raise ConfigError(
                    "family {family} has QK-norm: leave qk_norm out, or choose another family",
                    family=self.name,
                )
            raise ConfigError(
                "family {family} has no QK-norm: leave qk_norm out, or choose another family",
                family=self.name,
            )
        return self.qk_norm_twin


_FAMILIES: dict[str, FamilySpec] = {}


def register_family(spec: FamilySpec) -> FamilySpec:
    """Make a family known by its name; returns it.

    Raises:
        ValueError: another one has the name or the architecture.
    """
    for other in _FAMILIES.values():
        if other is not spec and (other.name == spec.name or other.hf.architecture == spec.hf.architecture):
            raise ValueError(
                f"there is a family {other.name} with architecture {other.hf.architecture} already"
            )
    _FAMILIES[spec.name] = spec
    return spec


def families() -> dict[str, FamilySpec]:
    """All that are known, by name."""
    return dict(_FAMILIES)


def family_of(name: str) -> FamilySpec:
    """The row of a family.

    Raises:
        OutOfRange: there is no such family; says which there are.
    """
    spec = _FAMILIES.get(name)
    if spec is None:
        raise OutOfRange(
            "family should be one of {known}, not {family!r}", known=listing(_FAMILIES), family=name
        )
    return spec
