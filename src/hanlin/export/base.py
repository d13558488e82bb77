"""What an export is: a file that other programs open, made of a published model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from hanlin.common.config import Tagged
from hanlin.common.messages import Text
from hanlin.common.registry import Registry
from hanlin.model import ModelConfig
from hanlin.tokenizer import Tokenizer

EXPORTS: Registry[Export] = Registry(Text("kind of export"))


@dataclasses.dataclass(frozen=True)
class Export(Tagged):
    """An entry of a recipe's `export`.

    Attributes:
        file: below the run's directory; the kind's own name when empty.
    """

    kind: str = ""
    file: str = ""

    @classmethod
    def variant(cls, values: Mapping[str, Any], where: Text) -> type:
        """By `kind`."""
        return EXPORTS.get(str(values.get("kind")), where)

    @property
    def title(self) -> Text:
        """What it is called in reports."""
        return Text("Export")

    @property
    def does(self) -> Text:
        """What it is good for."""
        return Text("")

    def name(self) -> str:
        """The file's name below the run's directory."""
        return self.file

    def check(self, shape: ModelConfig, tokenizer: Tokenizer) -> None:
        """Refuse, before step 0, a model that could not be exported.

        Raises:
            HanlinError: says why.
        """

    def write(self, model: Path, out: Path) -> None:
        """Write the file, whole or not at all."""
        raise NotImplementedError


_Export = TypeVar("_Export", bound=Export)


def register_export(cls: type[_Export]) -> type[_Export]:
    """Enter an export in the table by its `kind`'s default, as a decorator."""
    EXPORTS.register(str(cls.__dataclass_fields__["kind"].default), cls)
    return cls
