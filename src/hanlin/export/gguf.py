"""GGUF: one file with weights, tokenizer and chat template, for llama.cpp and everything built on it.

The tokenizer's split pattern is one that llama.cpp implements itself (`starcoder`), so no patching is needed.
What could not be exported is refused by `check_export` before training begins.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from hanlin.common.atomic import atomic_file
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import MANIFEST, read_manifest
from hanlin.model import CausalLM, ModelConfig, check_weights, load_weights
from hanlin.model.checkpoint_io import WEIGHTS
from hanlin.model.family import FamilySpec, GGUFFormat
from hanlin.tokenizer import CHAT_TEMPLATE, Tokenizer, load_tokenizer
from hanlin.tokenizer.special import PATTERN_NAME, to_letters

_TOKEN_NORMAL = 1
_TOKEN_CONTROL = 3


def check_export(config: ModelConfig, tokenizer: Tokenizer) -> None:
    """Make sure, before step 0, that this shape and this tokenizer can leave the house.

    Raises:
        HanlinError: the vocabularies differ, or llama.cpp cannot run the shape.
    """
    if config.vocab_size != tokenizer.vocab_size:
        raise HanlinError(
            "The model's vocab_size {vocab_size} is not the tokenizer's {tokenizer_size}. Make them equal.",
            vocab_size=config.vocab_size,
            tokenizer_size=tokenizer.vocab_size,
        )
    if config.eos_token_id != tokenizer.eos_id:
        raise HanlinError(
            "The model's eos_token_id {eos_token_id} is not the tokenizer's <|endoftext|> ({eos_id}).",
            eos_token_id=config.eos_token_id,
            eos_id=tokenizer.eos_id,
        )
    if config.activation_function not in ("gelu_new", "gelu_pytorch_tanh"):
        raise HanlinError(
            "activation_function {activation_function}: llama.cpp's gpt2 computes gelu_new alone, so the "
            "exported model would be another.",
            activation_function=config.activation_function,
        )
    if config.head_dim % 8:
        raise HanlinError(
            "head_dim {head_dim} is not a multiple of 8, which llama.cpp's attention needs. Change "
            "hidden_size or num_attention_heads.",
            head_dim=config.head_dim,
        )


def gguf_name(name: str, spec: FamilySpec) -> str:
    """The GGUF name of a checkpoint tensor of a family; raises `KeyError` for one that GGUF does not know."""
    prefix = f"{spec.hf.decoder}.{spec.hf.layers}."
    if not name.startswith(prefix):
        return spec.gguf.names[name]
    layer, _, rest = name.removeprefix(prefix).partition(".")
    return f"blk.{layer}.{spec.gguf.layer_names[rest]}"


def export_gguf(model: Path | str, out: Path | str, dtype: str = "f32") -> Path:
    """Write a model directory as one GGUF file.

    Args:
        dtype: of the matrices, `f32`, `f16` or `q8_0`; vectors stay f32.

    Raises:
        HanlinError: the directory is no model of ours or does not fit together, a weight is not finite, an
            unknown dtype, `out` is something else than a GGUF file, the disk is full, or the `gguf` package
            is missing. What was at `out` is unchanged then.
    """
    try:
        import gguf
    except ImportError:
        raise HanlinError("GGUF export needs the gguf package: pip install 'hanlin[export]'.") from None
    if dtype not in ("f32", "f16", "q8_0"):
        raise HanlinError("Unknown type {dtype!r}. Known: f32, f16, q8_0.", dtype=dtype)
    folder = Path(model)
    out = Path(out)
    if (folder / MANIFEST).is_file():
        read_manifest(folder, "model")
    if not (folder / "config.json").is_file():
        raise HanlinError("{folder} is not a model directory (no config.json).", folder=folder)
    config = ModelConfig.from_hf(folder)
    tokenizer = load_tokenizer(folder)
    check_export(config, tokenizer)
    check_weights(folder / WEIGHTS, config)
    refuse_other(out)
    model_weights = CausalLM(config)
    load_weights(model_weights, folder / WEIGHTS)
    with atomic_file(out) as temporary:
        writer = gguf.GGUFWriter(temporary, config.spec.gguf.architecture)
        try:
            _write_header(writer, gguf, config, tokenizer, name=folder.resolve().parent.name, dtype=dtype)
            for name, tensor in model_weights.state_dict().items():
                if not tensor.isfinite().all():
                    raise HanlinError(
                        "{folder}: {name} holds NaN or infinity. A file of it would be of no use, so none "
                        "was written. Use an earlier model.",
                        folder=folder / WEIGHTS,
                        name=name,
                    )
                array = _arrange(name, tensor.float(), config).contiguous().numpy()
                kind = _kind_of(gguf, name, array.shape, dtype, config.spec.gguf)
                data = array if kind == gguf.GGMLQuantizationType.F32 else gguf.quants.quantize(array, kind)
                writer.add_tensor(gguf_name(name, config.spec), data, raw_dtype=kind)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
    return out


def refuse_other(out: Path) -> None:
    """Refuse to replace what is no GGUF file."""
    if not os.path.lexists(out):
        return
    if out.is_file():
        with open(out, "rb") as file:
            if file.read(4) in (b"GGUF", b""):
                return
    raise HanlinError(
        "{out} is there and is no GGUF file. Nothing was written, so that it is not lost. Choose another "
        "--out.",
        out=out,
    )


def _kind_of(gguf, name: str, shape: tuple[int, ...], dtype: str, form: GGUFFormat):
    """The type that a tensor is written in: that of the file for matrices, f16 where rows do not fill the
    blocks of q8_0."""
    kinds = gguf.GGMLQuantizationType
    if len(shape) != 2 or name in form.float32 or dtype == "f32":
        return kinds.F32
    return kinds.Q8_0 if dtype == "q8_0" and shape[1] % 32 == 0 else kinds.F16


def _arrange(name: str, tensor: torch.Tensor, config: ModelConfig) -> torch.Tensor:
    """Weights in the layout llama.cpp computes with."""
    return tensor.t() if name.endswith(config.spec.gguf.transposed) else arrange_rows(name, tensor, config)


def arrange_rows(name: str, tensor: torch.Tensor, config: ModelConfig) -> torch.Tensor:
    """Rows (out_features, n) of a weight, or of what is added to one, in the order llama.cpp computes with:
    it turns neighbours where checkpoints turn halves."""
    if not name.endswith(config.spec.gguf.interleaved):
        return tensor
    heads, half = tensor.shape[0] // config.head_dim, config.head_dim // 2
    return tensor.view(heads, 2, half, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)


def _write_header(writer, gguf, config: ModelConfig, tokenizer: Tokenizer, name: str, dtype: str) -> None:
    writer.add_name(name or "hanlin")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    for method, field in config.spec.gguf.header.items():
        getattr(writer, method)(getattr(config, field))
    kinds = gguf.LlamaFileType
    writer.add_file_type({"f32": kinds.ALL_F32, "f16": kinds.MOSTLY_F16, "q8_0": kinds.MOSTLY_Q8_0}[dtype])
    if dtype == "q8_0":
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    vocabulary = tokenizer.vocabulary
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PATTERN_NAME)
    tokens = [to_letters(token) for token in vocabulary.tokens] + list(vocabulary.special)
    # All of them control: llama.cpp recognises user-defined tokens even in text that asks for none, so a
    # user could open a <think>.
    types = [_TOKEN_NORMAL] * len(vocabulary.tokens) + [_TOKEN_CONTROL] * len(vocabulary.special)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(
        [
            f"{to_letters(vocabulary.tokens[a])} {to_letters(vocabulary.tokens[b])}"
            for a, b, _ in vocabulary.merges
        ]
    )
    writer.add_eos_token_id(tokenizer.im_end_id)
    writer.add_eot_token_id(tokenizer.im_end_id)
    writer.add_pad_token_id(tokenizer.eos_id)
    writer.add_bos_token_id(tokenizer.eos_id)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)
