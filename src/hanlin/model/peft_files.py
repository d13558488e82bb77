"""Adapter directories: their files, and the model they are for. They are laid out as PEFT reads them
(`adapter_config.json`, `adapter_model.safetensors`), with what PEFT has no word for in
`hanlin_adapter.json`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from hanlin.common.atomic import read_json
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import MANIFEST, content_hash, read_manifest

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
HANLIN_ADAPTER = "hanlin_adapter.json"  # part of the content hash, which the path of the base is not


@dataclasses.dataclass(frozen=True)
class AdapterDirectory:
    """What an adapter directory says, checked.

    Attributes:
        config: of `adapter_config.json`.
        base_hash: content hash of the model it was trained on; empty where the directory is not ours.
        quantization: what its base was kept in meanwhile; double_quant: whether the scales were too.
    """

    path: Path
    config: dict[str, Any]
    base_hash: str = ""
    quantization: str = ""
    double_quant: bool = True

    @property
    def alpha(self) -> float:
        """`lora_alpha`."""
        return float(self.config.get("lora_alpha", 8))

    def base(self) -> Path:
        """Directory of the model it is for.

        Raises:
            HanlinError: it is not where it was.
        """
        named = str(self.config.get("base_model_name_or_path") or "")
        for place in (Path(named), self.path / named):
            if named and place.is_dir():
                return place
        raise HanlinError(
            "{path} is an adapter for the model {named}, which is not there. Say where its base is: --base.",
            path=self.path,
            named=named or "?",
        )

    def require_base(self, base: Path) -> None:
        """Refuse another model than the one it was trained on.

        Raises:
            HanlinError: it is another, or no model.
        """
        if not (base / "config.json").is_file() and not is_adapter(base):
            raise HanlinError("{folder} is not a model directory (no config.json).", folder=base)
        if self.base_hash and content_hash(base) != self.base_hash:
            raise HanlinError(
                "{path} was trained on another model than {base} (base {hash}…): together they would compute "
                "something that nobody trained. Give the model that it was trained on.",
                path=self.path,
                base=base,
                hash=self.base_hash[:12],
            )


def is_adapter(path: Path | str) -> bool:
    """Whether a directory is an adapter and no model of its own."""
    return (Path(path) / ADAPTER_CONFIG).is_file() and not (Path(path) / "config.json").is_file()


def read_adapter(path: Path | str) -> AdapterDirectory:
    """What an adapter directory says, its files verified where it is ours.

    Raises:
        HanlinError: no adapter there, damaged, or of a sort that is not supported.
    """
    folder = Path(path)
    if not (folder / ADAPTER_CONFIG).is_file():
        raise HanlinError("{folder} is no adapter directory (no {file}).", folder=folder, file=ADAPTER_CONFIG)
    if (folder / MANIFEST).is_file():
        read_manifest(folder, "adapter")
    config = read_json(folder / ADAPTER_CONFIG)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise _unsupported(folder, "peft_type")
    for key, plain in _PLAIN.items():
        if config.get(key, plain) not in (plain, None):
            raise _unsupported(folder, key)
    own = read_json(folder / HANLIN_ADAPTER) if (folder / HANLIN_ADAPTER).is_file() else {}
    if not isinstance(own, dict):
        raise _unsupported(folder, HANLIN_ADAPTER)
    return AdapterDirectory(
        folder,
        config,
        str(own.get("base_hash", "")),
        str(own.get("quantization", "")),
        bool(own.get("double_quant", True)),
    )


# keys of `adapter_config.json` that change what is computed, with the value that changes nothing
_PLAIN: dict[str, Any] = {
    "bias": "none",
    "rank_pattern": {},
    "alpha_pattern": {},
    "layer_replication": None,
    "lora_bias": False,
    "layers_to_transform": None,
}


def _unsupported(folder: Path, key: str) -> HanlinError:
    return HanlinError(
        "{folder}: this adapter says {key} in a way that is not supported here: LoRA, rsLoRA and DoRA are, "
        "with one rank and one alpha for all matrices. Merge it with PEFT and use the merged model.",
        folder=folder,
        key=key,
    )


def model_directory(path: Path | str) -> Path:
    """The directory with the `config.json` that counts: the directory itself, or that of an adapter's base,
    whatever it is a base of."""
    folder = Path(path)
    while is_adapter(folder):
        folder = read_adapter(folder).base()
    return folder
