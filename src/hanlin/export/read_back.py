"""The exports of a model, read back: files and directories that are to be held against it."""

from __future__ import annotations

from pathlib import Path

from hanlin.common.atomic import read_json
from hanlin.common.devices import resolve_device
from hanlin.export.gguf_read import read_gguf
from hanlin.model import CausalLM, ModelConfig, load_model


def read_export(path: Path, model: Path, device: str | None = None) -> CausalLM:
    """A GGUF file, or a model's directory, as a model on a device.

    Args:
        model: directory of the model that was exported.

    Raises:
        HanlinError: it is neither, is damaged, or is of another shape.
    """
    if path.is_dir():
        return load_model(path, device=device)
    return read_gguf(path, ModelConfig.from_hf(model)).to(resolve_device(device or "cpu"))


def exports_of(run: Path) -> list[Path]:
    """Files that a run has exported of its published model, as its steps say."""
    records = [read_json(step) for step in sorted((run / "steps").glob("*.json"))]
    names = [str(record["notes"]["file"]) for record in records if record.get("kind") == "export"]
    return [run / name for name in names if (run / name).exists()]
