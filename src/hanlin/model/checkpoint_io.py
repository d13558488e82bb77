"""Model directories: what is written is what stock transformers opens, and what we read back."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

from hanlin.common.atomic import read_json, write_json
from hanlin.common.devices import resolve_device
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import MANIFEST, read_manifest
from hanlin.common.messages import Text, listing
from hanlin.model.adapter_io import put_on
from hanlin.model.causal_lm import CausalLM, RewardModel
from hanlin.model.config import ModelConfig
from hanlin.model.low_rank import merge_low_rank
from hanlin.model.peft_files import is_adapter, read_adapter

WEIGHTS = "model.safetensors"
# From the name of a weight in the model to its name in the file; None for a weight that the file doesn't
# have.
FileNames = Callable[[str], str | None]


def save_weights(
    model: CausalLM | RewardModel,
    folder: Path,
    *,
    im_end_id: int | None = None,
    weights: dict[str, torch.Tensor] | None = None,
    file_names: FileNames | None = None,
) -> None:
    """Write `config.json`, `generation_config.json` and `model.safetensors` into an (unpublished) directory.

    Args:
        im_end_id: the token that ends a chat turn; generation stops there as well as at the end of a
            document.
        weights: in host memory, where the model itself does not have them all.
        file_names: where something has taken the place of modules, names in the file; see `FileNames`.

    Raises:
        HanlinError: what would be written is not the weights that the stock architecture has, name by name
            and shape by shape.
    """
    tensors = model.state_dict() if weights is None else weights
    if file_names is not None:
        named = {file_names(name): tensor for name, tensor in tensors.items()}
        tensors = {name: tensor for name, tensor in named.items() if name is not None}
    _require_stock(tensors, model)
    config = model.config.to_hf(dtype=str(model.dtype).removeprefix("torch."))
    if isinstance(model, RewardModel):
        config |= {
            "architectures": [model.config.spec.hf.scoring_architecture],
            "num_labels": 1,
            "id2label": {"0": "reward"},
            "label2id": {"reward": 0},
            "problem_type": "regression",
        }
    stops = [model.config.eos_token_id] if im_end_id is None else [im_end_id, model.config.eos_token_id]
    write_json(folder / "config.json", config)
    if not isinstance(model, RewardModel):
        write_json(
            folder / "generation_config.json",
            {
                "eos_token_id": stops,
                "pad_token_id": model.config.pad_token_id,
                "do_sample": True,
                "temperature": 0.7,
                "top_p": 0.9,
            },
        )
    tensors = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    safetensors.torch.save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    # safetensors makes it 0600, whatever the umask
    (folder / WEIGHTS).chmod(stat.S_IMODE((folder / "config.json").stat().st_mode))


def _require_stock(tensors: Mapping[str, torch.Tensor], model: CausalLM | RewardModel) -> None:
    """Refuse weights that stock transformers would not open as this architecture."""
    config = model.config
    outside, block = _shapes(config, isinstance(model, RewardModel))
    layers = f"{config.spec.hf.decoder}.{config.spec.hf.layers}"
    wanted = outside | {
        f"{layers}.{layer}.{name}": shape
        for layer in range(config.num_hidden_layers)
        for name, shape in block.items()
    }
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = next(
        (name for name in sorted(wanted.keys() | found.keys()) if wanted.get(name) != found.get(name)), None
    )
    if wrong is not None:
        raise HanlinError(
            "These weights can't be saved as a model directory: {name} should be {wanted}, is {found}. "
            "Something has taken the place of a module; merge it into the model's own weights before.",
            name=wrong,
            wanted=wanted.get(wrong, Text("absent")),
            found=found.get(wrong, Text("absent")),
        )


def _shapes(
    config: ModelConfig, reward: bool
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Shapes of the weights outside the layers by name, and of those of a layer by their name within it;
    nothing is allocated."""
    with torch.device("meta"):
        one = (RewardModel if reward else CausalLM)(dataclasses.replace(config, num_hidden_layers=1))
    shapes = {name: tuple(tensor.shape) for name, tensor in one.state_dict().items()}
    first = f"{config.spec.hf.decoder}.{config.spec.hf.layers}.0."
    block = {name.removeprefix(first): shape for name, shape in shapes.items() if name.startswith(first)}
    return {name: shape for name, shape in shapes.items() if not name.startswith(first)}, block


def check_weights(file: Path, config: ModelConfig, *, reward: bool = False) -> None:
    """Compare what the header of a safetensors file says with a configuration, before anything of that size
    is allocated.

    Raises:
        HanlinError: the file is missing, cut short or damaged; its tensors are not this architecture's; its
            numbers are no floats.
    """
    found = _header(file)
    outside, block = _shapes(config, reward)
    hf = config.spec.hf
    if not reward and config.tie_word_embeddings and "lm_head.weight" in found:
        # it has to be the embedding: `load_weights` sees to that
        outside["lm_head.weight"] = outside[hf.embedding_weight]
    known = set(outside)
    for name in sorted(outside):
        _require_shape(file, name, outside[name], found)
    # ends at the first layer that is not there, however many config.json claims
    for layer in range(config.num_hidden_layers):
        for name, shape in block.items():
            here = f"{hf.decoder}.{hf.layers}.{layer}.{name}"
            _require_shape(file, here, shape, found)
            known.add(here)
    for name in sorted(found.keys() - known):
        _require_shape(file, name, None, found)


def _header(file: Path) -> dict[str, tuple[int, ...]]:
    """Shapes by name in a safetensors file or the shards in its place, without the data."""
    kinds: dict[str, str] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for part in _shards(file):
        try:
            with safetensors.safe_open(part, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - no mapping
                    tensor = tensors.get_slice(name)
                    kinds[name], shapes[name] = tensor.get_dtype(), tuple(tensor.get_shape())
        except (safetensors.SafetensorError, OSError) as error:
            raise _damaged(part, error) from None
    wrong = next((name for name, kind in sorted(kinds.items()) if kind not in _FLOATS), None)
    if wrong is not None:
        raise HanlinError(
            "{file}: {wrong} is of type {kinds}, weights should be floats ({floats}). Convert quantised "
            "weights back first.",
            file=file,
            wrong=wrong,
            kinds=kinds[wrong],
            floats=listing(_FLOATS),
        )
    return shapes


def _shards(file: Path) -> list[Path]:
    """A file of weights, or the shards that `model.safetensors.index.json` names in its place.

    Raises:
        HanlinError: neither is there whole.
    """
    index = file.with_name(file.name + ".index.json")
    if file.is_file() or not index.is_file():
        parts = [file]
    else:
        raw = read_json(index)
        named = raw.get("weight_map") if isinstance(raw, dict) else None
        if not isinstance(named, dict) or not named:
            raise HanlinError("{file} has no weight_map: fetch the model anew.", file=index)
        parts = [file.with_name(Path(str(name)).name) for name in dict.fromkeys(named.values())]
    for part in parts:
        if not part.is_file():
            raise HanlinError("No weights at {file}: the directory is not a whole model.", file=part)
    return parts


_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
_FLOATS = tuple(_TYPES)


def _damaged(file: Path, error: Exception) -> HanlinError:
    return HanlinError(
        "The weights {file} are damaged or cut short ({error}). Use an earlier checkpoint, or run this "
        "stage again.",
        file=file,
        error=error,
    )


def _require_shape(
    file: Path, name: str, wanted: tuple[int, ...] | None, found: Mapping[str, tuple[int, ...]]
) -> None:
    if found.get(name) != wanted:
        raise HanlinError(
            "{file} does not fit its config.json: {name} should be {wanted}, is {found}. Make sure both come "
            "from one model.",
            file=file,
            name=name,
            wanted=wanted or Text("absent"),
            found=found.get(name, Text("absent")),
        )


def load_weights(module: nn.Module, file: Path, *, file_names: FileNames | None = None) -> None:
    """Fill a module strictly from a safetensors file: every name and shape must match.

    Where embeddings are tied, the file may hold `lm_head.weight` as well, if it equals the embedding.

    Args:
        file_names: where something has taken the place of modules, names in the file; see `FileNames`.
            Weights that the file doesn't have stay as they are.

    Raises:
        HanlinError: the file is missing, cut short or damaged, or its tensors are not this architecture's.
    """
    found = _header(file)
    weights = {
        name if file_names is None else file_names(name): (name, tuple(tensor.shape))
        for name, tensor in module.state_dict().items()
    }
    expected = {name: shape for name, (_, shape) in weights.items() if name is not None}
    embedding = None
    if isinstance(module, CausalLM) and module.config.tie_word_embeddings and "lm_head.weight" in found:
        embedding = module.config.spec.hf.embedding_weight
        expected["lm_head.weight"] = expected[embedding]
    for name in sorted(expected.keys() | found.keys()):
        _require_shape(file, name, expected.get(name), found)
    targets = module.state_dict()
    with torch.no_grad():
        for part in _shards(file):
            for name, tensor in _read_tensors(part):
                if name == "lm_head.weight" and embedding is not None:
                    continue
                targets[weights[name][0]].copy_(tensor)
    if embedding is not None:
        held = targets[weights[embedding][0]]
        theirs = (t for part in _shards(file) for _, t in _read_tensors(part, only="lm_head.weight"))
        if not all(torch.equal(tensor.to(held.dtype), held.cpu()) for tensor in theirs):
            raise HanlinError(
                "{file}: by config.json lm_head.weight is the embedding (tie_word_embeddings), but they "
                "differ. Set tie_word_embeddings to false in config.json, or check where the model came "
                "from.",
                file=file,
            )


def _read_tensors(part: Path, only: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors of a safetensors file, one at a time: of a file that is mapped into memory, as the
    library does it, all pages stay, and opening a model would take twice its memory.

    Args:
        only: a name, when no other is wanted.

    Raises:
        HanlinError: the file is cut short or damaged.
    """
    try:
        with open(part, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
            header.pop("__metadata__", None)
            for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
                if only and name != only:
                    continue
                start, end = entry["data_offsets"]
                file.seek(8 + size + start)
                data = bytearray(end - start)
                if file.readinto(data) != len(data):
                    raise EOFError("the file ends early")
                yield name, torch.frombuffer(data, dtype=_TYPES[entry["dtype"]]).view(entry["shape"])
    except (OSError, EOFError, ValueError, KeyError, RuntimeError) as error:
        raise _damaged(part, error) from None


def read_generation_config(folder: Path | str) -> dict[str, float]:
    """The sampling settings that a model directory's `generation_config.json` recommends, all in range; none
    where it says nothing.

    Returns:
        temperature (0 where `do_sample` is false), top_k, top_p, min_p, repetition_penalty, those of them
        that are given.

    Raises:
        HanlinError: malformed, or a number out of range; the file and the setting are named.
    """
    file = Path(folder) / "generation_config.json"
    raw = read_json(file) if file.is_file() else {}
    if not isinstance(raw, dict):
        raise HanlinError("{file} should be a JSON object. Fetch it anew, or remove it.", file=file)
    found: dict[str, float] = {}
    for name, (fits, expected) in _SAMPLING.items():
        value = raw.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not fits(value):
            raise HanlinError(
                "{file}: {name} is {value!r}, should be {expected}. Correct or remove it.",
                file=file,
                name=name,
                value=value,
                expected=expected,
            )
        found[name] = value
    return {"temperature": 0.0} if raw.get("do_sample") is False else found


_SAMPLING: dict[str, tuple[Callable[[float], bool], Text]] = {
    "temperature": (lambda value: 0 <= value < math.inf, Text("a number from 0")),
    "top_p": (lambda value: 0 <= value <= 1, Text.in_context("should be", "between 0 and 1")),
    "top_k": (lambda value: 0 <= value < 2**31 and value == int(value), Text("an integer from 0")),
    "min_p": (lambda value: 0 <= value <= 1, Text.in_context("should be", "between 0 and 1")),
    "repetition_penalty": (lambda value: 0 < value < math.inf, Text("a number above 0")),
}


def load_model(path: Path | str, device: str | None = None, dtype: torch.dtype | None = None) -> CausalLM:
    """Open a model directory (ours, or a stock qwen3, llama or gpt2 checkpoint) for inference or further
    training; an adapter's directory is its base with the adapter merged.

    Args:
        device: `auto`, `cpu`, …; the CPU when absent.
        dtype: of the parameters; float32 when absent, whatever the file has: training keeps its weights in
            float32, and most processors multiply nothing else fast. Half the memory is to be had by asking
            for bfloat16.

    Raises:
        HanlinError: no model there, damaged or malformed files, an unknown architecture.
    """
    folder = Path(path)
    if is_adapter(folder):
        adapted = load_adapted(folder, device=device)
        merge_low_rank(adapted)
        return adapted.to(dtype=dtype).eval()
    if not (folder / "config.json").is_file():
        raise HanlinError("{folder} is not a model directory (no config.json).", folder=folder)
    if (folder / MANIFEST).is_file():
        read_manifest(folder)
    config = ModelConfig.from_hf(folder)
    check_weights(folder / WEIGHTS, config)
    read_generation_config(folder)  # what is wrong there should be known now, not at the first question
    model = CausalLM(config)
    load_weights(model, folder / WEIGHTS)
    return model.to(device=resolve_device(device or "cpu"), dtype=dtype).eval()


def load_adapted(adapter: Path | str, base: Path | str | None = None, device: str | None = None) -> CausalLM:
    """Open an adapter on its base, unmerged: what was trained, in the form in which it was trained.

    Args:
        base: directory of the model it is for; where the adapter says, when absent.

    Raises:
        HanlinError: no adapter there, damaged, its base is missing or another model.
    """
    directory = read_adapter(adapter)
    below = directory.base() if base is None else Path(base)
    model = load_model(below, device)
    directory.require_base(below)
    put_on(model, directory)
    return model.eval()


def adapted_copy(model: CausalLM, folder: Path | str, adapter: Path | str) -> CausalLM:
    """A model with an adapter put on, unmerged, beside the model itself: they share the weights, but for
    those that the adapter wants quantised.

    Args:
        folder: the model's directory.

    Raises:
        HanlinError: no adapter there, damaged, or one of another model.
    """
    directory = read_adapter(adapter)
    directory.require_base(Path(folder))
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    adapted = copy.deepcopy(model, shared)
    put_on(adapted, directory)
    return adapted.to(model.device).eval()


def load_reward_model(path: Path | str, device: str | None = None) -> RewardModel:
    """Open a reward model directory (single-label sequence classification)."""
    folder = Path(path)
    if (folder / MANIFEST).is_file():
        read_manifest(folder, "reward_model")
    config = ModelConfig.from_hf(folder)
    architecture = read_json(folder / "config.json")["architectures"][0]
    if architecture != config.spec.hf.scoring_architecture:
        raise HanlinError(
            "{folder} is a {architecture}, not a reward model.", folder=folder, architecture=architecture
        )
    check_weights(folder / WEIGHTS, config, reward=True)
    model = RewardModel(config)
    load_weights(model, folder / WEIGHTS)
    return model.to(resolve_device(device or "cpu")).eval()
