"""Model directories of other families in the layout in which they are published, made with transformers:
tiny weights, a tokenizer trained on a few sentences, a chat template in the manner of the family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = [
    "小猫在河边钓鱼，小狗在树下睡觉。",
    "答案是 12 加 7 等于 19。",
    "the cat sat on the mat, it's raining",
    "从前有一座山，山里有一座庙。",
] * 20
# In the manner of Qwen3: thoughts of earlier turns dropped, outer line breaks cut.
CHATML = """{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.last and message.reasoning_content is string %}
            {{- '<think>\\n' + message.reasoning_content.strip('\\n') + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- message.content.lstrip('\\n') + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and not enable_thinking %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""
# In the manner of Llama 3: a beginning of the text, heads between control tokens, contents trimmed.
HEADERS = """{{- bos_token }}
{%- for message in messages %}
    {{- '<|head|>' + message['role'] + '<|neck|>\\n\\n' + message['content'] | trim + '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|head|>assistant<|neck|>\\n\\n' }}{%- endif %}"""
# In the manner of Llama 2: nothing marks where the assistant begins but the end of the question.
BRACKETS = """{%- for message in messages %}
    {%- if message.role == 'user' %}{{- bos_token + '[INST] ' + message.content + ' [/INST]' }}
    {%- elif message.role == 'assistant' %}{{- ' ' + message.content + ' ' + eos_token }}
    {%- else %}{{- raise_exception('only user and assistant') }}{%- endif %}
{%- endfor %}"""


def byte_level(added: list[tuple[str, bool]], bos: str = "") -> tokenizers.Tokenizer:
    """Byte-level BPE as Qwen, Llama 3 and GPT-2 have it.

    Args:
        added: names, and whether they are special.
        bos: put before texts by the post-processor.
    """
    made = tokenizers.Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()  # type: ignore[assignment]
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    made.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    )
    for name, special in added:
        token = tokenizers.AddedToken(name, special=special, normalized=False)
        made.add_special_tokens([token]) if special else made.add_tokens([token])
    if bos:
        made.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, made.token_to_id(bos))]
        )
    return made


def sentencepiece() -> tokenizers.Tokenizer:
    """BPE over characters with bytes for the others, as Llama 2 has it; control tokens have the first ids."""
    made = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence(  # type: ignore[assignment]
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.decoder = decoders.Sequence(  # type: ignore[assignment]
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.train_from_iterator(
        [text.replace(" ", "▁") for text in TEXTS],
        trainers.BpeTrainer(
            vocab_size=420,
            special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
            show_progress=False,
        ),
    )
    raw = json.loads(made.to_str())
    raw["added_tokens"] = raw["added_tokens"][:3]  # bytes are no control tokens
    return tokenizers.Tokenizer.from_str(json.dumps(raw))


def foreign_model(folder: Path, family: str, seed: int = 0) -> Path:
    """A directory as hubs have it.

    Args:
        family: qwen3, llama3, llama2 or gpt2.
    """
    import torch
    import transformers

    settings: dict[str, Any]
    if family == "qwen3":
        words = byte_level(
            [("<|endoftext|>", True), ("<|im_start|>", True), ("<|im_end|>", True)]
            + [("<think>", False), ("</think>", False)]
        )
        settings = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": CHATML}
        stops = ["<|im_end|>", "<|endoftext|>"]
        bos = "<|endoftext|>"
    elif family == "llama3":
        words = byte_level(
            [(name, True) for name in ("<|begin|>", "<|end|>", "<|head|>", "<|neck|>", "<|eot|>")],
            "<|begin|>",
        )
        settings = {"bos_token": "<|begin|>", "eos_token": "<|eot|>", "chat_template": HEADERS}
        stops = ["<|end|>", "<|eot|>"]
        bos = "<|begin|>"
    elif family == "llama2":
        words = sentencepiece()
        settings = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": BRACKETS}
        stops, bos = ["</s>"], "<s>"
    else:
        words = byte_level([("<|endoftext|>", True)])
        settings = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
        stops, bos = ["<|endoftext|>"], "<|endoftext|>"
    folder.mkdir(parents=True)
    words.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **settings}), encoding="utf-8"
    )
    ids = {
        "bos_token_id": words.token_to_id(bos),
        "eos_token_id": words.token_to_id(stops[0]),
        "vocab_size": words.get_vocab_size() + 24,  # padded, as published ones are
    }
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 256,
    }
    torch.manual_seed(seed)
    if family == "qwen3":
        config = transformers.Qwen3Config(head_dim=8, tie_word_embeddings=True, **shape, **ids)
        model: Any = transformers.Qwen3ForCausalLM(config)
    elif family == "gpt2":
        config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=256, **ids)
        model = transformers.GPT2LMHeadModel(config)
    else:
        config = transformers.LlamaConfig(**shape, **ids)
        model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.05)
    model.save_pretrained(folder)
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [words.token_to_id(name) for name in stops]}), encoding="utf-8"
    )
    return folder
