"""The export `gguf`: one file for llama.cpp, Ollama and their kin."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from hanlin.common.messages import Text
from hanlin.export.base import Export, register_export
from hanlin.export.gguf import check_export, export_gguf
from hanlin.model import ModelConfig
from hanlin.tokenizer import Tokenizer


@register_export
@dataclasses.dataclass(frozen=True)
class GGUFExport(Export):
    """A GGUF file; `dtype` is that of its matrices."""

    kind: str = "gguf"
    dtype: Literal["f32", "f16", "q8_0"] = "f32"

    @property
    def title(self) -> Text:
        """GGUF, with its type."""
        return Text("GGUF file, {dtype}", dtype=self.dtype)

    @property
    def does(self) -> Text:
        """Who opens it."""
        return Text("One GGUF file is written, which llama.cpp, Ollama and their kin open as it is.")

    def name(self) -> str:
        """`model.gguf`, or `model-f16.gguf` for a type that is not the weights' own."""
        return self.file or ("model.gguf" if self.dtype == "f32" else f"model-{self.dtype}.gguf")

    def check(self, shape: ModelConfig, tokenizer: Tokenizer) -> None:
        """Vocabulary and shape must be ones that llama.cpp runs."""
        check_export(shape, tokenizer)

    def write(self, model: Path, out: Path) -> None:
        """Write the file."""
        export_gguf(model, out, self.dtype)
