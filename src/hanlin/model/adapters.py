"""Adapters: what is trained instead of all of a model's weights. A kind wraps modules, and can fold what it
learnt into them.

The forward pass calls its modules, so a wrapper takes a module's place and nothing else changes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from hanlin.common.config import Tagged
from hanlin.common.messages import Text
from hanlin.common.registry import Registry
from hanlin.model.causal_lm import CausalLM
from hanlin.model.checkpoint_io import load_model

ADAPTERS: Registry[Adapter] = Registry(Text("kind of adapter"))


@dataclasses.dataclass(frozen=True)
class Adapter(Tagged):
    """Configuration of an adapter, and what it does to a model."""

    kind: str = ""

    @classmethod
    def variant(cls, values: Mapping[str, Any], where: Text) -> type:
        """By `kind`."""
        return ADAPTERS.get(str(values.get("kind")), where)

    def open(self, parent: Path, device: str | None = None) -> tuple[CausalLM, Path]:
        """The model to train, and the directory of the model that it adds to: `parent`, an adapter's
        directory counting as its base with the adapter merged.

        Raises:
            HanlinError: no model there, or one that this cannot adapt.
        """
        model = load_model(parent, device=device)
        self.apply(model)
        return model, parent

    def apply(self, model: nn.Module) -> None:
        """Wrap modules in place and freeze what is not to be trained."""
        raise NotImplementedError

    def merge(self, model: nn.Module) -> None:
        """Fold what was learnt into the weights and take the wrappers away, in place: what is published is a
        plain model."""
        raise NotImplementedError

    def save(self, model: nn.Module, folder: Path, base: Path, base_hash: str) -> bool:
        """Write what was learnt into an (unpublished) directory, before it is merged; false where the kind
        has no format for that, and only the merged model is published.

        Args:
            base: directory of the model that was adapted; base_hash: its content hash.
        """
        return False


_Adapter = TypeVar("_Adapter", bound=Adapter)


def register_adapter(cls: type[_Adapter]) -> type[_Adapter]:
    """Enter an adapter in the table by its `kind`'s default, as a decorator."""
    ADAPTERS.register(str(cls.__dataclass_fields__["kind"].default), cls)
    return cls
