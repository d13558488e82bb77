"""The short way from prompts to texts, and from a run's directory to the model in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanlin.common.atomic import read_json
from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text
from hanlin.inference.engine import Engine
from hanlin.inference.sampling import SamplingParams, SettingOutOfRange
from hanlin.model import CausalLM, load_adapted, load_model
from hanlin.model.low_rank import merge_low_rank
from hanlin.model.peft_files import is_adapter, model_directory

if TYPE_CHECKING:
    from hanlin.tokenizer import Tokenizer

Message = Mapping[str, Any]


def resolve_model_dir(path: Path | str) -> Path:
    """The model directory meant by `path`: itself (an adapter's too), or the `model` in a run's directory.

    Raises:
        HanlinError: there is no model in either place.
    """
    path = Path(path)
    refuse_gguf(path)
    for folder in (path / "model", path):
        if (folder / "config.json").is_file() or is_adapter(folder):
            return folder
    if not path.exists():
        raise HanlinError(
            "There is no {path}. Check the path; if there is no model yet, run hanlin run demo --out "
            "runs/demo first.",
            path=path,
        )
    raise HanlinError(
        "{path} holds no model (neither config.json nor model/config.json). If its run is unfinished, the "
        "same command goes on with it.",
        path=path,
    )


def refuse_gguf(path: Path) -> None:
    """Say which program opens a GGUF file.

    Raises:
        HanlinError: it is one.
    """
    if not path.is_file():
        return
    with open(path, "rb") as file:
        if file.read(4) != b"GGUF" and path.suffix.lower() != ".gguf":
            return
    raise HanlinError(
        "{path} is a GGUF file; open it with llama.cpp (or Ollama, LM Studio): llama-cli -m {path} -cnv. "
        "What is wanted here is a model directory, runs/demo for example.",
        path=path,
    )


def refuse_reward_model(folder: Path) -> None:
    """Say what a reward model is for.

    Raises:
        HanlinError: the directory holds one.
    """
    config = read_json(model_directory(folder) / "config.json")
    kinds = config.get("architectures") if isinstance(config, dict) else None
    if isinstance(kinds, list) and any("SequenceClassification" in str(kind) for kind in kinds):
        raise HanlinError(
            "{folder} is a reward model: it scores answers and cannot speak. To talk, give the directory "
            "of a language model, the model/ of the same run for example.",
            folder=folder,
        )


def load_chat_model(
    path: Path | str, device: str | None = None, adapter: Path | str | None = None
) -> tuple[CausalLM, Tokenizer]:
    """Model and tokenizer of a model or run directory, of Hanlin's or in the format of transformers, checked
    to belong together.

    Args:
        adapter: directory of one that was trained on this model, to be merged in memory.

    Raises:
        HanlinError: no model, no tokenizer, or the tokenizer has more entries than the model's vocabulary;
            the adapter is of another model.
    """
    from hanlin.tokenizer.files import TOKENIZER_JSON
    from hanlin.tokenizer.foreign import open_any

    folder = resolve_model_dir(path)
    refuse_reward_model(folder)
    words = folder if (folder / TOKENIZER_JSON).is_file() else model_directory(folder)
    if adapter is None:
        model = load_model(folder, device=device)
    else:
        model = load_adapted(adapter, folder, device)
        merge_low_rank(model)
    tokenizer = open_any(words)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise HanlinError(
            "The tokenizer of {folder} has {tokenizer_size} tokens, its model knows {model_size}. They do "
            "not belong together; take both from one run.",
            folder=folder,
            tokenizer_size=tokenizer.vocab_size,
            model_size=model.config.vocab_size,
        )
    return model, tokenizer


def sampling_defaults(path: Path | str) -> dict[str, float]:
    """The sampling settings a model directory recommends in its `generation_config.json`: temperature, top_p
    and their like.

    Raises:
        HanlinError: the file holds a setting that cannot be.
    """
    file = resolve_model_dir(path) / "generation_config.json"
    raw = read_json(file) if file.is_file() else {}

    def refuse(fault: Text) -> HanlinError:
        return HanlinError(
            "{file}: {fault} Sampling would fail, so nothing was loaded. Correct or remove that entry.",
            file=file,
            fault=fault,
        )

    if not isinstance(raw, dict):
        raise refuse(Text("it should be a JSON object."))
    if raw.get("do_sample") is False:
        return {"temperature": 0.0}
    found: dict[str, float] = {}
    for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty"):
        value = raw.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise refuse(Text("{name} should be a number, not {value!r}.", name=name, value=str(value)[:40]))
        if name == "top_k":
            if value != int(value) if math.isfinite(value) else True:
                raise refuse(Text("top_k should be an integer, not {value!r}.", value=value))
            if value >= 1 << 31:
                raise refuse(Text("top_k is too large: {value!r}.", value=value))
            value = max(0, int(value))  # -1 means all, as 0 does
        found[name] = value
    try:
        SamplingParams(**found)  # type: ignore[arg-type]
    except SettingOutOfRange as error:
        raise refuse(error.text) from None
    return found


def encode_prompt(
    tokenizer: Tokenizer,
    prompt: str | Sequence[Message],
    thinking: bool | None = None,
    bos_id: int | None = None,
) -> list[int]:
    """Token ids of a prompt: plain text as the beginning of a document, messages through the chat template up
    to the assistant's turn.

    Args:
        bos_id: what precedes a document (`ModelConfig.bos_token_id`); messages have no such start.
        thinking: True opens the reasoning, False closes it empty, None leaves it to the model. Only for
            messages.
    """
    if isinstance(prompt, str):
        ids = tokenizer.encode(prompt)
        return [bos_id, *ids] if bos_id is not None else ids or [tokenizer.eos_id]
    return tokenizer.encode_conversation(
        [dict(message) for message in prompt], add_generation_prompt=True, thinking=thinking
    )[0]


def generate_text(
    model: CausalLM | Engine,
    tokenizer: Tokenizer,
    prompts: Sequence[str | Sequence[Message]],
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.7,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int | None = None,
    thinking: bool | None = None,
    max_batch: int = 64,
    params: SamplingParams | None = None,
) -> list[str]:
    """Continue texts, or answer conversations.

    Args:
        model: a model, or an idle engine to reuse.
        prompts: strings are continued as text; lists of messages are answered through the chat template.
        seed: the same seed gives the same texts, whatever else is in the batch; random when absent.
        thinking: see `encode_prompt`.
        params: all sampling settings at once, in place of the five before.

    Returns:
        The new text of each prompt, without end-of-turn tokens; reasoning stays in it between its tags
        (with `thinking=True` the opening tag is in the prompt, so only the closing one appears).
    """
    engine = model if isinstance(model, Engine) else Engine(model, tokenizer, max_batch=max_batch)
    settings = params or SamplingParams(
        max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
    )
    bos_id = engine.model.config.bos_token_id
    ids = [encode_prompt(tokenizer, prompt, thinking, bos_id) for prompt in prompts]
    ends = set(engine.eos_ids) | set(settings.stop_ids)
    texts = []
    for completion in engine.generate(ids, settings):
        kept = (
            completion.ids[:-1]
            if completion.finish_reason == "stop" and completion.ids[-1] in ends
            else completion.ids
        )
        texts.append(tokenizer.decode([token for token in kept if token < tokenizer.vocab_size]))
    return texts
