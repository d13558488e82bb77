"""An export of one's own: the names and shapes of the weights as text."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from safetensors import safe_open

from hanlin.common.atomic import atomic_write
from hanlin.export.base import Export, register_export


@register_export
@dataclasses.dataclass(frozen=True)
class ShapesExport(Export):
    """`shapes.txt`, a weight a line."""

    kind: str = "shapes"

    def name(self) -> str:
        """Always the same."""
        return self.file or "shapes.txt"

    def write(self, model: Path, out: Path) -> None:
        """Read the header of the weights' file."""
        with safe_open(model / "model.safetensors", framework="pt") as weights:
            lines = [f"{name} {weights.get_slice(name).get_shape()}" for name in sorted(weights.keys())]
        atomic_write(out, ("\n".join(lines) + "\n").encode())
