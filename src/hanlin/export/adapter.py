"""A low-rank adapter for others: a directory of PEFT's, or a GGUF file that llama.cpp adds to the base at run
time (`--lora FILE`)."""

from __future__ import annotations

from pathlib import Path

from hanlin.common.atomic import atomic_directory, atomic_file, write_json
from hanlin.common.errors import HanlinError
from hanlin.export.gguf import arrange_rows, gguf_name, refuse_other
from hanlin.model import ModelConfig
from hanlin.model.adapter_io import read_tensors
from hanlin.model.peft_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_adapter
from hanlin.tokenizer.files import TEMPLATE, TOKENIZER_CONFIG, TOKENIZER_JSON

_TOKENIZER_FILES = (TOKENIZER_JSON, TOKENIZER_CONFIG, TEMPLATE)


def export_peft_adapter(adapter: Path | str, out: Path | str, base_name: str = "") -> Path:
    """Copy what PEFT reads of an adapter directory, and its tokenizer, without what is Hanlin's own.

    Args:
        base_name: what `adapter_config.json` calls the base; as it is, when empty.

    Raises:
        HanlinError: no adapter there, or damaged; `out` is there already.
    """
    directory, out = read_adapter(adapter), Path(out)
    read_tensors(directory)
    with atomic_directory(out) as temporary:
        named = {"base_model_name_or_path": base_name} if base_name else {}
        write_json(temporary / ADAPTER_CONFIG, directory.config | named)
        for name in (ADAPTER_WEIGHTS, *_TOKENIZER_FILES):
            if (directory.path / name).is_file():
                (temporary / name).write_bytes((directory.path / name).read_bytes())
    return out


def export_gguf_adapter(adapter: Path | str, out: Path | str, base: Path | str | None = None) -> Path:
    """Write an adapter directory as one GGUF file, float32.

    llama.cpp multiplies by alpha / r, whatever the adapter; of rsLoRA, which divides by √r, `alpha` is
    therefore written as alpha · √r.

    Args:
        base: directory of the model it is for; where the adapter says, when absent.

    Raises:
        HanlinError: no adapter there, damaged, one of another base, or with DoRA, which llama.cpp cannot add;
            `out` is something else than a GGUF file; the `gguf` package is missing. What was at `out` is
            unchanged then.
    """
    try:
        import gguf
    except ImportError:
        raise HanlinError("GGUF export needs the gguf package: pip install 'hanlin[export]'.") from None
    directory, out = read_adapter(adapter), Path(out)
    below = directory.base() if base is None else Path(base)
    directory.require_base(below)
    config = ModelConfig.from_hf(below)
    tensors = read_tensors(directory)
    if any("magnitude" in parts for parts in tensors.values()):
        raise HanlinError(
            "{adapter} is a DoRA adapter, whose magnitudes llama.cpp can't apply. Merge it (hanlin merge), "
            "and export the model.",
            adapter=adapter,
        )
    refuse_other(out)
    rank = len(next(iter(tensors.values()))["lora_A"])
    alpha = directory.alpha * (rank**0.5 if directory.config.get("use_rslora") else 1.0)
    with atomic_file(out) as temporary:
        writer = gguf.GGUFWriter(temporary, config.spec.gguf.architecture)
        try:
            writer.add_type(gguf.GGUFType.ADAPTER)
            writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
            writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
            for name, parts in sorted(tensors.items()):
                stem = gguf_name(f"{name}.weight", config.spec)
                rows = arrange_rows(f"{name}.weight", parts["lora_B"], config)
                writer.add_tensor(f"{stem}.lora_a", parts["lora_A"].contiguous().numpy())
                writer.add_tensor(f"{stem}.lora_b", rows.contiguous().numpy())
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
    return out
