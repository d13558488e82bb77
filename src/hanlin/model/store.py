"""Model directories: what is written is what stock transformers opens, and what we read back."""

from __future__ import annotations

import stat
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

from ..common.atomic import read_json, write_json
from ..common.devices import resolve_device
from ..common.errors import HanlinError
from ..common.manifest import MANIFEST, read_manifest
from .config import ModelConfig
from .transformer import CausalLM, RewardModel

WEIGHTS = "model.safetensors"


def save_weights(model: CausalLM | RewardModel, folder: Path, *, im_end_id: int | None = None, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Write `config.json`, `generation_config.json` and `model.safetensors` into an (unpublished) directory.

    Args:
        im_end_id: the token that ends a chat turn; generation stops there as well as at the end of a document.
        weights: in host memory, where the model itself does not have them all.
    """
    config = model.config.to_hf(dtype=str(next(model.parameters()).dtype).removeprefix("torch."))
    if isinstance(model, RewardModel):
        config |= {
            "architectures": [config["architectures"][0].replace("ForCausalLM", "ForSequenceClassification")],
            "num_labels": 1, "id2label": {"0": "reward"}, "label2id": {"reward": 0}, "problem_type": "regression",
        }  # fmt: skip
    stops = [model.config.eos_token_id] if im_end_id is None else [im_end_id, model.config.eos_token_id]
    write_json(folder / "config.json", config)
    if not isinstance(model, RewardModel):
        write_json(folder / "generation_config.json", {"eos_token_id": stops, "pad_token_id": model.config.pad_token_id, "do_sample": True, "temperature": 0.7, "top_p": 0.9})
    tensors = {name: tensor.detach().to("cpu").contiguous() for name, tensor in model.state_dict().items()} if weights is None else weights
    safetensors.torch.save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod(stat.S_IMODE((folder / "config.json").stat().st_mode))  # safetensors makes it 0600, whatever the umask


def load_weights(module: nn.Module, file: Path) -> None:
    """Fill a module strictly from a safetensors file: every name and shape must match.

    Raises:
        HanlinError: the file is missing, cut short or damaged, or its tensors are not this architecture's.
    """
    if not file.is_file():
        raise HanlinError(f"找不到权重文件 {file}。这个目录不是完整的模型。", f"No weights at {file}: the directory is not a whole model.")
    try:
        tensors = safetensors.torch.load_file(file)
    except (safetensors.SafetensorError, OSError) as error:
        raise HanlinError(f"权重文件 {file} 已损坏或不完整（{error}）。请使用更早的检查点，或重新训练这一阶段。", f"The weights {file} are damaged or cut short ({error}). Use an earlier checkpoint, or run this stage again.") from None
    if isinstance(module, CausalLM) and module.config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if expected != found:
        name = next(name for name in sorted(expected.keys() | found.keys()) if expected.get(name) != found.get(name))
        raise HanlinError(
            f"{file} 与 config.json 不符：{name} 应为 {expected.get(name, '不存在')}，实际 {found.get(name, '不存在')}。请确认两者来自同一个模型。",
            f"{file} does not fit its config.json: {name} should be {expected.get(name, 'absent')}, is {found.get(name, 'absent')}. Make sure both come from one model.",
        )
    module.load_state_dict(tensors, strict=True)


def load_model(path: Path | str, device: str | None = None, dtype: torch.dtype | None = None) -> CausalLM:
    """Open a model directory (ours, or a stock qwen3, llama or gpt2 checkpoint) for inference or further training.

    Args:
        device: `auto`, `cpu`, …; the CPU when absent.
        dtype: parameters are converted to it; as stored when absent.

    Raises:
        HanlinError: no model there, damaged files, an unknown architecture.
    """
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise HanlinError(f"{folder} 不是模型目录（没有 config.json）。", f"{folder} is not a model directory (no config.json).")
    if (folder / MANIFEST).is_file():
        read_manifest(folder)
    model = CausalLM(ModelConfig.from_hf(folder))
    load_weights(model, folder / WEIGHTS)
    return model.to(device=resolve_device(device or "cpu"), dtype=dtype).eval()


def load_reward_model(path: Path | str, device: str | None = None) -> RewardModel:
    """Open a reward model directory (single-label sequence classification)."""
    folder = Path(path)
    if (folder / MANIFEST).is_file():
        read_manifest(folder, "reward_model")
    architecture = (read_json(folder / "config.json").get("architectures") or ["?"])[0]
    if not architecture.endswith("ForSequenceClassification"):
        raise HanlinError(f"{folder} 是 {architecture}，不是奖励模型。", f"{folder} is a {architecture}, not a reward model.")
    model = RewardModel(ModelConfig.from_hf(folder))
    load_weights(model, folder / WEIGHTS)
    return model.to(resolve_device(device or "cpu")).eval()
