"""A tokenizer's files: what stock programs read (`tokenizer.json`, `tokenizer_config.json`, the Jinja template), written and read back."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from hanlin.common.atomic import read_json
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import MANIFEST, hash_json, sha256_file

from .chat import CHAT_TEMPLATE
from .special import BYTES, END_OF_TEXT, IM_END, PATTERN, from_letters, to_letters

TOKENIZER_JSON = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
FILES = (TEMPLATE, TOKENIZER_JSON, TOKENIZER_CONFIG)


class Vocabulary(NamedTuple):
    """What a tokenizer is made of.

    Attributes:
        tokens: the bytes each ordinary id spells.
        merges: (left, right, result) ids, in the order of their ranks.
        special: control tokens; their ids follow those of `tokens`.
    """

    tokens: list[bytes]
    merges: list[tuple[int, int, int]]
    special: list[str]


def build_vocabulary(merges: Sequence[tuple[bytes, bytes]], special: Sequence[str]) -> Vocabulary:
    """Ids for the 256 bytes, then for what each merge makes, then for the control tokens."""
    tokens = [bytes([byte]) for byte in range(BYTES)]
    ids = {token: index for index, token in enumerate(tokens)}
    ranked = []
    for left, right in merges:
        joined = left + right
        if joined not in ids:
            ids[joined] = len(tokens)
            tokens.append(joined)
        ranked.append((ids[left], ids[right], ids[joined]))
    taken = [name for name in special if name.encode() in ids]
    if taken:  # user text could then become a control token
        raise HanlinError(
            f"词表里有与控制符 {taken[0]} 相同的普通词。请从语料中去掉这个字符串。",
            f"An ordinary token spells the control token {taken[0]}. Remove that string from the corpus.",
        )
    return Vocabulary(tokens, ranked, list(special))


def write_files(directory: Path, vocabulary: Vocabulary) -> None:
    """Write the files that `read_files`, `tokenizers`, transformers and llama.cpp's converter open."""
    (directory / TOKENIZER_JSON).write_bytes(tokenizer_json(vocabulary))
    (directory / TOKENIZER_CONFIG).write_bytes(orjson.dumps(_tokenizer_config(vocabulary), option=orjson.OPT_INDENT_2) + b"\n")
    (directory / TEMPLATE).write_bytes(CHAT_TEMPLATE.encode())


def tokenizer_json(vocabulary: Vocabulary) -> bytes:
    """The file `tokenizer.json`, in the format of Hugging Face's `tokenizers`."""
    letters = [to_letters(token) for token in vocabulary.tokens]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": index, **_added(name)} for index, name in enumerate(vocabulary.special, len(letters))],
        "normalizer": None,  # NFC, as Qwen has it, would change users' text: decode(encode(x)) must be x
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {letter: index for index, letter in enumerate(letters)},
            "merges": [[letters[left], letters[right]] for left, right, _ in vocabulary.merges],
        },
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n"


def _added(name: str) -> dict[str, Any]:
    return {"content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def _tokenizer_config(vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        # Not Qwen2Tokenizer: that class builds its own pipeline with NFC in it and ignores tokenizer.json's.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": {str(index): _added(name) for index, name in enumerate(vocabulary.special, len(vocabulary.tokens))},
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": IM_END,
        "pad_token": END_OF_TEXT,
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": False,
        "model_max_length": 1_000_000_000,
        "chat_template": CHAT_TEMPLATE,
    }


def read_files(directory: Path) -> Vocabulary:
    """Read a tokenizer directory, or a model directory with a tokenizer in it.

    Raises:
        HanlinError: no tokenizer there, damaged, or one that Hanlin did not write (another pattern, normaliser or template).
    """
    file = directory / TOKENIZER_JSON
    if not file.is_file():
        raise HanlinError(
            f"{directory} 里没有 {TOKENIZER_JSON}，不是分词器目录。请检查路径，或先运行 hanlin tokenizer train。",
            f"{directory} holds no {TOKENIZER_JSON}: it is no tokenizer. Check the path, or run hanlin tokenizer train first.",
        )
    document = read_json(file)
    try:
        return _parse(document)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise HanlinError(
            f"{file} 不是 Hanlin 写的分词器（{error}）。翰林只使用自己训练的字节级 BPE（qwen2 切分、无归一化）；请用 hanlin tokenizer train 训练一个。",
            f"{file} is not a tokenizer Hanlin wrote ({error}). Hanlin uses byte-level BPE with the qwen2 pattern and no normaliser; "
            "train one with hanlin tokenizer train.",
        ) from None


def _parse(document: dict[str, Any]) -> Vocabulary:
    stages = document["pre_tokenizer"]["pretokenizers"]
    if document["normalizer"] is not None or stages[0]["pattern"]["Regex"] != PATTERN or len(stages) != 2:
        raise ValueError("pre_tokenizer or normalizer")
    letters = sorted(document["model"]["vocab"].items(), key=lambda item: item[1])
    if [index for _, index in letters] != list(range(len(letters))):
        raise ValueError("vocab ids")
    ids = dict(letters)
    tokens = [from_letters(text) for text, _ in letters]
    merges = [(ids[left], ids[right], ids[left + right]) for left, right in document["model"]["merges"]]
    added = document["added_tokens"]
    if [item["id"] for item in added] != list(range(len(tokens), len(tokens) + len(added))):
        raise ValueError("added_tokens ids")
    return Vocabulary(tokens, merges, [item["content"] for item in added])


def content_hash(directory: Path) -> str:
    """Hash of the tokenizer in `directory`: the same beside a model's weights as in the artefact it was copied from.

    Raises:
        HanlinError: a file of it is missing, or differs from what the directory's manifest recorded.
    """
    hashes = {}
    for name in FILES:
        if not (directory / name).is_file():
            raise HanlinError(
                f"{directory} 缺少 {name}。请把分词器目录的文件完整复制过来。",
                f"{directory} lacks {name}. Copy the tokenizer's files there, all of them.",
            )
        hashes[name] = sha256_file(directory / name)
    if hashes[TEMPLATE] != hashlib.sha256(CHAT_TEMPLATE.encode()).hexdigest():
        raise HanlinError(
            f"{directory / TEMPLATE} 与本版本 Hanlin 的对话模板不同。训练、评测与部署必须用同一个模板；请用写它的版本，或从分词器目录恢复该文件。",
            f"{directory / TEMPLATE} is not the chat template of this Hanlin. Training, evaluation and serving must share one: "
            "use the version that wrote it, or restore the file from the tokenizer's directory.",
        )
    if (directory / MANIFEST).is_file():
        recorded = read_json(directory / MANIFEST).get("files", {})
        for name, value in hashes.items():
            if name in recorded and recorded[name]["sha256"] != value:
                raise HanlinError(
                    f"分词器损坏：{directory / name} 与记录的 SHA-256 不符。请重新训练，或从原目录复制。",
                    f"Damaged tokenizer: {directory / name} differs from its recorded SHA-256. Train it again, or copy it from where it came.",
                )
    return hash_json(["tokenizer", hashes])
