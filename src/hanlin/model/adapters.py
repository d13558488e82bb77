"""Adapters: what is trained instead of all of a model's weights. A kind wraps modules, and can fold what it
learnt into them.

The forward pass calls its modules, so a wrapper takes a module's place and nothing else changes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn

from hanlin.common.config import Tagged
from hanlin.common.messages import Text
from hanlin.common.registry import Registry

ADAPTERS: Registry[Adapter] = Registry(Text("kind of adapter"))


@dataclasses.dataclass(frozen=True)
class Adapter(Tagged):
    """Configuration of an adapter, and what it does to a model."""

    kind: str = ""

    @classmethod
    def variant(cls, values: Mapping[str, Any], where: Text) -> type:
        """By `kind`."""
        return ADAPTERS.get(str(values.get("kind")), where)

    def apply(self, model: nn.Module) -> None:
        """Wrap modules in place and freeze what is not to be trained."""
        raise NotImplementedError

    def merge(self, model: nn.Module) -> None:
        """Fold what was learnt into the weights and take the wrappers away, in place: what is published is a
        plain model."""
        raise NotImplementedError


_Adapter = TypeVar("_Adapter", bound=Adapter)


def register_adapter(cls: type[_Adapter]) -> type[_Adapter]:
    """Enter an adapter in the table by its `kind`'s default, as a decorator."""
    ADAPTERS.register(str(cls.__dataclass_fields__["kind"].default), cls)
    return cls
