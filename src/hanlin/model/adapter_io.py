"""Low-rank adapters to and from PEFT's files: what is written here `PeftModel.from_pretrained` opens, and the
other way round."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import cast

import safetensors
import safetensors.torch
import torch

from hanlin.common.atomic import write_json
from hanlin.common.errors import HanlinError
from hanlin.common.messages import listing
from hanlin.model.causal_lm import LanguageModel, RewardModel
from hanlin.model.linear import Conv1D, LowRankLinear
from hanlin.model.low_rank import (
    LowRankSettings,
    adapter_settings,
    add_low_rank,
    linear_maps,
    low_rank_maps,
)
from hanlin.model.nf4 import Quantization
from hanlin.model.peft_files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    HANLIN_ADAPTER,
    AdapterDirectory,
)
from hanlin.model.quantized_linear import QuantizedLinear

_PREFIX = "base_model.model."
# our name → PEFT's; the magnitude of DoRA is no module there and has no `.weight`
_NAMES = {"lora_A": "lora_A.weight", "lora_B": "lora_B.weight", "magnitude": "lora_magnitude_vector"}
_KEY = re.compile(
    re.escape(_PREFIX) + r"(?P<map>.+)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_magnitude_vector)"
)


def write_peft(model: LanguageModel, folder: Path, base: Path | str, base_hash: str) -> None:
    """Write what was learnt beside a frozen model, in PEFT's layout.

    Args:
        base: what `adapter_config.json` calls the model; base_hash: its content hash, that another one is
            refused.
    """
    maps = dict(low_rank_maps(model))
    one, settings = next(iter(maps.values())), adapter_settings(model)
    tensors = {
        f"{_PREFIX}{name}.{_NAMES[part]}": parameter.detach().cpu().float().contiguous()
        for name, module in maps.items()
        for part, parameter in module.named_parameters(recurse=False)
    }
    # trained whole beside the additions
    whole = {"score.weight": model.score.weight} if isinstance(model, RewardModel) else {}
    tensors |= {f"{_PREFIX}{name}": value.detach().cpu().float() for name, value in whole.items()}
    kind = "SEQ_CLS" if isinstance(model, RewardModel) else "CAUSAL_LM"
    write_json(
        folder / ADAPTER_CONFIG,
        {
            "peft_type": "LORA",
            "task_type": kind,
            "base_model_name_or_path": str(base),
            "revision": None,
            "r": settings.r,
            "lora_alpha": int(settings.alpha) if settings.alpha.is_integer() else settings.alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "use_rslora": settings.rslora,
            "use_dora": settings.dora,
            "fan_in_fan_out": isinstance(one.base, Conv1D) or bool(getattr(one.base, "transposed", False)),
            "target_modules": _targets(model, maps),
            "rank_pattern": {},
            "alpha_pattern": {},
            "modules_to_save": [name.rpartition(".")[0] for name in whole] or None,
            "init_lora_weights": True,
            "inference_mode": True,
        },
    )
    write_json(
        folder / HANLIN_ADAPTER,
        {
            "format": 1,
            "base_hash": base_hash,
            "r": settings.r,
            "alpha": settings.alpha,
            "rslora": settings.rslora,
            "quantization": settings.quantization,
            "double_quant": settings.double_quant,
        },
    )
    safetensors.torch.save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    # safetensors makes it 0600, whatever the umask
    (folder / ADAPTER_WEIGHTS).chmod(stat.S_IMODE((folder / ADAPTER_CONFIG).stat().st_mode))


def _targets(model: LanguageModel, maps: dict[str, LowRankLinear]) -> list[str]:
    """Names that stand for just these linear maps: their last parts, or the whole names where other maps are
    called the same (gpt2's two `c_proj`)."""
    others = {name for name, _ in linear_maps(model)} | {
        name for name, module in model.named_modules() if isinstance(module, QuantizedLinear)
    }
    others = {name for name in others if not name.endswith(".base")} - maps.keys()
    short = {name.rpartition(".")[2] for name in maps}
    clash = {name.rpartition(".")[2] for name in others}
    return sorted(short) if not short & clash else sorted(maps)


def read_tensors(adapter: AdapterDirectory) -> dict[str, dict[str, torch.Tensor]]:
    """The matrices of an adapter directory: full name of a linear map → part (`lora_A`, `lora_B`,
    `magnitude`) → tensor, float32.

    Raises:
        HanlinError: the file is missing, cut short, or holds something else.
    """
    file = adapter.path / ADAPTER_WEIGHTS
    if not file.is_file():
        raise HanlinError("No weights at {file}: the directory is not a whole adapter.", file=file)
    try:
        tensors = safetensors.torch.load_file(file)
    except (safetensors.SafetensorError, OSError) as error:
        raise HanlinError(
            "The weights {file} are damaged or cut short ({error}). Train the adapter again, or fetch it "
            "anew.",
            file=file,
            error=error,
        ) from None
    parts = {theirs: ours for ours, theirs in _NAMES.items()}
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise HanlinError(
                "{file} holds {key}, which is no low-rank addition to a linear map: an adapter that trained "
                "other weights as well can only be used merged.",
                file=file,
                key=key,
            )
        found.setdefault(match["map"], {})[parts[match["part"]]] = tensor.float()
    return found


def put_on(model: LanguageModel, adapter: AdapterDirectory) -> None:
    """Put an adapter onto its base, unmerged; the matrices of the adapter may be trained on, and nothing
    else.

    Raises:
        HanlinError: the directory is damaged, or its matrices do not fit the model.
    """
    matrices = read_tensors(adapter)
    file = adapter.path / ADAPTER_WEIGHTS
    known = dict(linear_maps(model))
    strange = next((name for name in sorted(matrices) if name not in known), None)
    if not matrices or strange is not None:
        raise HanlinError(
            "{file} is no adapter for this model: it has no linear map {name}. There are: {known}.",
            file=file,
            name=strange or "?",
            known=listing(dict.fromkeys(name.rpartition(".")[2] for name in known)),
        )
    first = matrices[min(matrices)]
    settings = LowRankSettings(
        r=len(first["lora_A"]) if "lora_A" in first else 1,
        alpha=adapter.alpha,
        rslora=bool(adapter.config.get("use_rslora", False)),
        dora=bool(adapter.config.get("use_dora", False)),
        quantization=cast(Quantization, adapter.quantization),
        double_quant=adapter.double_quant,
    )
    add_low_rank(model, matrices.keys(), settings)
    for name, module in low_rank_maps(model):
        given, expected = matrices[name], dict(module.named_parameters(recurse=False))
        for part in sorted(given.keys() | expected.keys()):
            shape = tuple(expected[part].shape) if part in expected else None
            there = tuple(given[part].shape) if part in given else None
            if shape != there:
                raise HanlinError(
                    "{file}: {name}.{part} should be {wanted}, is {found}. The adapter is of another model, "
                    "or damaged.",
                    file=file,
                    name=name,
                    part=part,
                    wanted=shape or "-",
                    found=there or "-",
                )
            with torch.no_grad():
                expected[part].copy_(given[part])
