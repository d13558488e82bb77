"""A tokenizer's files: what stock programs read (`tokenizer.json`, `tokenizer_config.json`, the Jinja
template), written and read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from hanlin.common.atomic import read_json
from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text
from hanlin.common.target import MANIFEST
from hanlin.tokenizer.chat import CHAT_TEMPLATE
from hanlin.tokenizer.special import (
    BYTES,
    END_OF_TEXT,
    END_THINK,
    IM_END,
    IM_START,
    PATTERN,
    PATTERN_NAME,
    THINK,
    to_letters,
)

if TYPE_CHECKING:
    from hanlin import _native

TOKENIZER_JSON = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
FILES = (TEMPLATE, TOKENIZER_JSON, TOKENIZER_CONFIG)


def resolve_tokenizer_dir(path: str | Path) -> Path:
    """The tokenizer meant by `path`: the directory itself, or the `model` in a run's directory (`runs/demo`
    for `runs/demo/model`)."""
    path = Path(path)
    inner = path / "model"
    return inner if not (path / TOKENIZER_JSON).is_file() and (inner / TOKENIZER_JSON).is_file() else path


class NotOurs(HanlinError):
    """A tokenizer that something else wrote.

    Attributes:
        file: its tokenizer.json.
    """

    def __init__(self, file: Path, error: Exception):
        message = Text(
            "{file} is not a tokenizer Hanlin wrote ({error}). Hanlin uses byte-level BPE with the {pattern} "
            "pattern and no normaliser; train one with hanlin tokenizer train.",
            file=file,
            error=error,
            pattern=PATTERN_NAME,
        )
        super().__init__(message)
        self.file = file


class Vocabulary:
    """What a tokenizer is made of. One that was read from files makes its lists when they are asked for:
    encoding needs none of them.

    Attributes:
        special: control tokens; their ids follow those of `tokens`.
    """

    def __init__(self, tokens: list[bytes], merges: list[tuple[int, int, int]], special: list[str]):
        self.tokens, self.merges, self.special = tokens, merges, special

    @classmethod
    def of_core(cls, core: _native.Vocabulary, special: list[str]) -> Vocabulary:
        """What the core read, with control tokens."""
        vocabulary = cls.__new__(cls)
        vocabulary._core, vocabulary.special = core, special
        return vocabulary

    _core: _native.Vocabulary | None = None

    @cached_property
    def tokens(self) -> list[bytes]:
        """The bytes each ordinary id spells."""
        assert self._core is not None
        return self._core.tokens()

    @cached_property
    def merges(self) -> list[tuple[int, int, int]]:
        """(left, right, result) ids, in the order of their ranks."""
        assert self._core is not None
        return self._core.merges()

    @cached_property
    def encoder(self) -> _native.Encoder:
        """The core's encoder, which decodes control tokens but never makes them.

        Raises:
            ValueError: a byte has no token, or a merge does not spell its result.
        """
        from hanlin._native import Encoder

        control = [name.encode() for name in self.special]
        return (
            self._core.encoder(control)
            if self._core
            else Encoder([*self.tokens, *control], len(self.tokens), self.merges)
        )

    @property
    def ordinary(self) -> int:
        """Number of ids that are not control tokens."""
        return len(self._core) if self._core else len(self.tokens)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Vocabulary):
            return NotImplemented
        return (self.tokens, self.merges, self.special) == (other.tokens, other.merges, other.special)

    __hash__ = None  # type: ignore[assignment]


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
            "An ordinary token spells the control token {taken}. Remove that string from the corpus.",
            taken=taken[0],
        )
    return Vocabulary(tokens, ranked, list(special))


def write_files(directory: Path, vocabulary: Vocabulary) -> None:
    """Write the files that `read_files`, `tokenizers`, transformers and llama.cpp's converter open."""
    (directory / TOKENIZER_JSON).write_bytes(tokenizer_json(vocabulary))
    (directory / TOKENIZER_CONFIG).write_bytes(
        orjson.dumps(_tokenizer_config(vocabulary), option=orjson.OPT_INDENT_2) + b"\n"
    )
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
        "added_tokens": [
            {"id": index, **_added(name)} for index, name in enumerate(vocabulary.special, len(letters))
        ],
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
    return {
        "content": name,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def _tokenizer_config(vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        # Not Qwen2Tokenizer: that class builds its own pipeline with NFC in it and ignores tokenizer.json's.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": {
            str(index): _added(name) for index, name in enumerate(vocabulary.special, len(vocabulary.tokens))
        },
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": END_OF_TEXT,
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
        HanlinError: no tokenizer there, damaged, or (`NotOurs`) one that Hanlin did not write: another
            pattern or normaliser.
    """
    file = directory / TOKENIZER_JSON
    if not file.is_file():
        raise HanlinError(
            "{directory} holds no {tokenizer_json}: it is no tokenizer. Check the path, or run hanlin "
            "tokenizer train first.",
            directory=directory,
            tokenizer_json=TOKENIZER_JSON,
        )
    try:
        return _parse(file.read_bytes())
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        read_json(file)  # which refuses a damaged file in words of its own
        raise NotOurs(file, error) from None


def _parse(content: bytes) -> Vocabulary:
    from hanlin._native import Vocabulary as Core

    core, rest = Core.of_json(content)
    document = orjson.loads(rest)
    stages = document["pre_tokenizer"]["pretokenizers"]
    if document["normalizer"] is not None or stages[0]["pattern"]["Regex"] != PATTERN or len(stages) != 2:
        raise ValueError("pre_tokenizer or normalizer")
    added = document["added_tokens"]
    if [item["id"] for item in added] != list(range(len(core), len(core) + len(added))):
        raise ValueError("added_tokens ids")
    vocabulary = Vocabulary.of_core(core, [item["content"] for item in added])
    missing = {END_OF_TEXT, IM_START, IM_END, THINK, END_THINK}.difference(vocabulary.special)
    if missing:
        raise ValueError(f"added_tokens: no {min(missing)}")
    _ = vocabulary.encoder  # refuses what does not fit together
    return vocabulary


def tokenizer_hash(directory: Path) -> str:
    """Hash of the tokenizer in `directory`: the same beside a model's weights as in the artefact it was
    copied from.

    Raises:
        HanlinError: a file of it is missing, or differs from what the directory's manifest recorded.
    """
    import hashlib

    # not needed to open a tokenizer, which should be instant
    from hanlin.common.manifest import (
        hash_json,
        sha256_file,
    )

    hashes = {}
    for name in FILES:
        if not (directory / name).is_file():
            raise HanlinError(
                "{directory} lacks {name}. Copy the tokenizer's files there, all of them.",
                directory=directory,
                name=name,
            )
        hashes[name] = sha256_file(directory / name)
    if hashes[TEMPLATE] != hashlib.sha256(CHAT_TEMPLATE.encode()).hexdigest():
        raise HanlinError(
            "{template_} is not the chat template of this Hanlin. Training, evaluation and serving must "
            "share one: use the version that wrote it, or restore the file from the tokenizer's directory.",
            template_=directory / TEMPLATE,
        )
    require_recorded(directory, hashes)
    return hash_json(["tokenizer", hashes])


def require_recorded(directory: Path, hashes: Mapping[str, str] | None = None) -> None:
    """Check a tokenizer's files against the manifest of their directory, where it has one and names them.

    Args:
        hashes: SHA-256 by name, where they are known already.

    Raises:
        HanlinError: one of them is missing or differs, or the manifest itself is damaged.
    """
    if not (directory / MANIFEST).is_file():
        return
    import hashlib

    said = read_json(directory / MANIFEST)
    recorded = said.get("files") if isinstance(said, dict) else None
    for name in FILES:
        entry = recorded.get(name) if isinstance(recorded, dict) else None
        if entry is None or (hashes is None and not (directory / name).is_file()):
            continue
        found = hashes[name] if hashes else hashlib.sha256((directory / name).read_bytes()).hexdigest()
        if not isinstance(entry, dict) or entry.get("sha256") != found:
            raise HanlinError(
                "Damaged tokenizer: {directory} differs from its recorded SHA-256. Train it again, or copy "
                "it from where it came.",
                directory=directory / name,
            )
