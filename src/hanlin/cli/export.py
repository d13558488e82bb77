"""`hanlin export`: models and adapters as other programs open them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def gguf(model: Path, /, *, out: Path, dtype: str = "f32") -> None:
    """Write a model as one GGUF file for llama.cpp.

    Parameters
    ----------
    out
        The file to write.
    dtype
        f32, f16 or q8_0.
    """
    from hanlin.export import export_gguf
    from hanlin.inference import resolve_model_dir

    print(export_gguf(resolve_model_dir(model), out, dtype))


def adapter(
    adapter: Path,
    /,
    *,
    out: Path,
    to: Literal["peft", "gguf"] = "peft",
    base: Path | None = None,
    base_name: str = "",
) -> None:
    """Write an adapter as others open it.

    Parameters
    ----------
    out
        The directory (peft) or the file (gguf) to write.
    to
        peft: a directory for PeftModel.from_pretrained; gguf: one file for llama.cpp's --lora.
    base
        Directory of the model that the adapter is for; where the adapter says, when absent.
    base_name
        What adapter_config.json calls that model (peft), such as its name on a hub; its directory when empty.
    """
    from hanlin.export.adapter import export_gguf_adapter, export_peft_adapter

    if to == "gguf":
        print(export_gguf_adapter(adapter, out, base))
    else:
        print(export_peft_adapter(adapter, out, base_name))
