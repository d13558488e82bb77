"""Tokenizers that Hanlin did not write, opened by Hugging Face's `tokenizers`, so that the models of others
can be measured, talked to and compared with ours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from hanlin.common.atomic import read_json
from hanlin.common.errors import HanlinError
from hanlin.tokenizer import chat
from hanlin.tokenizer.files import TEMPLATE, TOKENIZER_CONFIG, TOKENIZER_JSON, NotOurs, Vocabulary
from hanlin.tokenizer.foreign_template import ForeignTemplate
from hanlin.tokenizer.special import END_THINK, THINK, from_letters
from hanlin.tokenizer.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    import numpy

ABSENT = -1
"""Id of a control token that a tokenizer has not."""
_GENERATION = "generation_config.json"
_BESIDE = (TOKENIZER_JSON, TOKENIZER_CONFIG, TEMPLATE, "special_tokens_map.json", "added_tokens.json")
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # how SentencePiece writes a byte without a character of its own


class ForeignTokenizer(Tokenizer):
    """A tokenizer of another family, with `Tokenizer`'s questions answered.

    Texts that are not UTF-8 become U+FFFD, and where its normaliser changes a text, ids do not spell it
    back. All its added tokens count as control tokens.

    Attributes:
        path: the tokenizer.json it was read from.
        special: added tokens and their ids.
    """

    def __init__(self, file: Path):
        try:
            import tokenizers
        except ImportError:
            raise HanlinError(
                "{file} was not written by Hanlin; opening it takes the package tokenizers. Run pip "
                "install tokenizers.",
                file=file,
            ) from None
        try:
            self._raw: dict[str, Any] = orjson.loads(file.read_bytes())
            for token in self._raw.get("added_tokens") or ():
                token["special"] = True  # or they would be found in plain text
            self._tokenizer = tokenizers.Tokenizer.from_str(orjson.dumps(self._raw).decode())
        except Exception as error:  # the library raises this very class
            raise HanlinError(
                "{file} was not written by Hanlin, and the package tokenizers cannot open it ({error}). It "
                "should be a {tokenizer_json} in the format of Hugging Face.",
                file=file,
                error=error,
                tokenizer_json=TOKENIZER_JSON,
            ) from None
        self._tokenizer.encode_special_tokens = True  # control tokens in a text are text
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.path = file
        self.special: dict[str, int] = {
            token["content"]: token["id"]
            for token in sorted(self._raw.get("added_tokens") or (), key=lambda token: token["id"])
        }
        names = sorted((name.encode() for name in self.special), key=len, reverse=True)
        self._control = re.compile(b"(" + b"|".join(map(re.escape, names)) + b")" if names else rb"(?!)")
        self.think_id = self.special.get(THINK, ABSENT)
        self.end_think_id = self.special.get(END_THINK, ABSENT)

    @cached_property
    def vocab_size(self) -> int:  # type: ignore[override]
        """Ids are below this number; with the tokens that were added."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @property
    def ordinary(self) -> int:
        """Number of ids that are not control tokens."""
        return self.vocab_size - len(self.special)

    @cached_property
    def im_end_id(self) -> int:  # type: ignore[override]
        """The token that ends a reply: `eos_token` of tokenizer_config.json."""
        token = self._settings.get("eos_token")
        name = token.get("content") if isinstance(token, dict) else token
        if isinstance(name, str) and name in self.special:
            return self.special[name]
        return self._ends()[0]

    @cached_property
    def eos_id(self) -> int:  # type: ignore[override]
        """The token that ends a document: the other of generation_config.json's `eos_token_id`, where there
        are two."""
        ends = [token for token in self._stops if token != self.im_end_id]
        return ends[0] if ends else self.im_end_id

    @cached_property
    def _stops(self) -> list[int]:
        for name in (_GENERATION, "config.json"):
            file = self.path.parent / name
            found = read_json(file).get("eos_token_id") if file.is_file() else None
            ids = found if isinstance(found, list) else [found]
            ids = [token for token in ids if isinstance(token, int) and 0 <= token < self.vocab_size]
            if ids:
                return ids
        return []

    def _ends(self) -> list[int]:
        if not self._stops:
            raise HanlinError(
                "{folder} names no token that ends a text: neither eos_token of tokenizer_config.json nor "
                "eos_token_id of generation_config.json or config.json.",
                folder=self.path.parent,
            )
        return self._stops

    @cached_property
    def _settings(self) -> dict[str, Any]:
        file = self.path.parent / TOKENIZER_CONFIG
        found = read_json(file) if file.is_file() else {}
        return found if isinstance(found, dict) else {}

    @cached_property
    def content_hash(self) -> str:  # type: ignore[override]
        """Hash of its files: equal where the ids of every text and the chat template are."""
        from hanlin.common.manifest import hash_json, sha256_file

        return hash_json(["tokenizer", {file.name: sha256_file(file) for file in self._files()}])

    def _files(self) -> list[Path]:
        beside = [self.path.parent / name for name in _BESIDE if name != self.path.name]
        return [self.path, *(file for file in beside if file.is_file())]

    # -------------------------------------------------------------- text to ids

    def encode(self, text: str | bytes, special: bool = False) -> list[int]:
        """Ids of a text; control tokens are recognised in it only if `special`."""
        plain = _plain(text)
        if not special:
            return self._tokenizer.encode(plain, add_special_tokens=False).ids
        ids: list[int] = []
        for index, part in enumerate(self._control.split(plain.encode())):
            if index % 2:
                ids.append(self.special[part.decode()])
            elif part:
                ids += self._tokenizer.encode(part.decode(), add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str | bytes]) -> list[list[int]]:
        """Ids of each text, without control tokens."""
        plain = [_plain(text) for text in texts]
        return [found.ids for found in self._tokenizer.encode_batch_fast(plain, add_special_tokens=False)]

    def encode_arrays(self, texts: Any) -> tuple[numpy.ndarray, numpy.ndarray]:
        """As `Tokenizer.encode_arrays`."""
        import numpy

        parts = self.encode_batch(list(texts))
        ids = numpy.array([token for part in parts for token in part], numpy.uint32)
        return ids, numpy.cumsum([0, *map(len, parts)]).astype(numpy.uint64)

    def encode_buffer(self, buffer: Any, offsets: Any) -> tuple[numpy.ndarray, numpy.ndarray]:
        """As `Tokenizer.encode_buffer`, by copies."""
        whole, bounds = bytes(buffer), [int(bound) for bound in offsets]
        return self.encode_arrays([whole[a:b] for a, b in zip(bounds, bounds[1:], strict=False)])

    def encode_places(self, texts: Sequence[str]) -> list[tuple[list[int], numpy.ndarray, numpy.ndarray]]:
        """As `Tokenizer.encode_places`: what the normaliser changed counts where it stood."""
        import numpy

        found = []
        for text, encoding in zip(
            texts, self._tokenizer.encode_batch(list(texts), add_special_tokens=False), strict=True
        ):
            widths = [len(character.encode("utf-8", "replace")) for character in text]
            before = numpy.cumsum([0, *widths])
            places = numpy.asarray(encoding.offsets, dtype=numpy.int64).reshape(-1, 2)
            found.append((encoding.ids, before[places[:, 0]], before[places[:, 1]]))
        return found

    # -------------------------------------------------------------- ids to text

    @cached_property
    def spellings(self) -> list[bytes]:  # type: ignore[override]
        """The bytes that each id spells; none for control tokens and for ids without a token."""
        letters = "ByteLevel" in str([self._raw.get(part) for part in ("decoder", "pre_tokenizer")])
        found = [b""] * self.vocab_size
        for name, at in self._tokenizer.get_vocab(with_added_tokens=False).items():
            found[at] = _spelling(name, letters)
        for at in self.special.values():
            found[at] = b""
        return found

    @cached_property
    def vocabulary(self) -> Vocabulary:  # type: ignore[override]
        """Spellings and control tokens; its merges stay with the library."""
        return Vocabulary(self.spellings, [], list(self.special))

    def decode_bytes(self, ids: Iterable[int] | numpy.ndarray) -> bytes:
        """The bytes that ids spell, control tokens by their names; nothing where the model's vocabulary is
        padded beyond the tokenizer's.

        Raises:
            HanlinError: an id that is in neither.
        """
        names = self._names
        parts = []
        for token in map(int, ids):
            if not 0 <= token < self._padded_size:
                raise self._unknown(token)
            if token < self.vocab_size:
                parts.append(names.get(token) or self.spellings[token])
        return b"".join(parts)

    @cached_property
    def _padded_size(self) -> int:
        """Ids that the model beside it may write are below this number."""
        file = self.path.parent / "config.json"
        size = read_json(file).get("vocab_size") if file.is_file() else None
        return max(self.vocab_size, size if isinstance(size, int) else 0)

    @cached_property
    def _names(self) -> dict[int, bytes]:
        return {at: name.encode() for name, at in self.special.items()}

    def decode(self, ids: Iterable[int] | numpy.ndarray, special: bool = True) -> str:
        """As `Tokenizer.decode`."""
        if not special:
            ids = [token for token in map(int, ids) if token not in self._names]
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_buffer(self, ids: Any, offsets: Any) -> tuple[numpy.ndarray, numpy.ndarray]:
        """As `Tokenizer.decode_buffer`, by copies."""
        import numpy

        bounds = [int(bound) for bound in offsets]
        texts = [self.decode_bytes(ids[a:b]) for a, b in zip(bounds, bounds[1:], strict=False)]
        sizes = numpy.cumsum([0, *map(len, texts)]).astype(numpy.uint64)
        return numpy.frombuffer(b"".join(texts), numpy.uint8), sizes

    def unreachable(self) -> list[int]:
        """Ids whose own text becomes other ids."""
        readable = {}
        for at, spelt in enumerate(self.spellings):
            try:
                if spelt:
                    readable[at] = spelt.decode()
            except UnicodeDecodeError:
                continue  # part of a character: no text of its own to try
        found = self.encode_batch(list(readable.values()))
        return [at for at, ids in zip(readable, found, strict=True) if ids != [at]]

    # -------------------------------------------------------------- conversations

    @property
    def converses(self) -> bool:
        """Whether it has a chat template."""
        return self._template_source is not None

    @cached_property
    def _template_source(self) -> str | None:
        file = self.path.parent / TEMPLATE
        source = file.read_text(encoding="utf-8") if file.is_file() else self._settings.get("chat_template")
        if isinstance(source, list):  # several by name
            source = {entry.get("name"): entry.get("template") for entry in source}.get("default")
        return source if isinstance(source, str) else None

    @cached_property
    def template(self) -> ForeignTemplate:
        """Its chat template.

        Raises:
            HanlinError: it has none.
        """
        source = self._template_source
        if source is None:
            raise HanlinError(
                "{folder} has no chat template, neither in {template} nor in tokenizer_config.json: this "
                "model continues texts and does not converse.",
                folder=self.path.parent,
                template=TEMPLATE,
            )
        named = {
            name: value.get("content") if isinstance(value, dict) else value
            for name, value in self._settings.items()
            if name.endswith("_token") and isinstance(value, (str, dict))
        }
        ends = {name for name, at in self.special.items() if at in {self.im_end_id, self.eos_id}}
        return ForeignTemplate(source, self.path.parent, named, tuple(self.special), ends)

    def render(
        self,
        messages: Sequence[chat.Message],
        add_generation_prompt: bool = False,
        thinking: bool | None = None,
        tools: Sequence[Any] | None = None,
    ) -> str:
        """The conversation as text."""
        return self.template.render(messages, add_generation_prompt, thinking, tools)

    def pieces(
        self,
        messages: Sequence[chat.Message],
        add_generation_prompt: bool = False,
        thinking: bool | None = None,
        tools: Sequence[Any] | None = None,
        learn_from: int = 0,
    ) -> Iterable[chat.Piece]:
        """As `hanlin.tokenizer.chat.pieces`, by its own template."""
        return self.template.pieces(messages, add_generation_prompt, thinking, tools, learn_from)

    def save(self, directory: Path | str) -> None:
        """Copy the tokenizer's files into a model's directory."""
        for file in self._files():
            name = TOKENIZER_JSON if file == self.path else file.name
            (Path(directory) / name).write_bytes(file.read_bytes())


def _plain(text: str | bytes) -> str:
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "replace")
    return raw.decode("utf-8", "replace")


def _spelling(name: str, letters: bool) -> bytes:
    """Bytes of a vocabulary entry.

    Args:
        letters: bytes are written as GPT-2's letters; otherwise SentencePiece's signs are in force.
    """
    if letters:
        try:
            return from_letters(name)
        except ValueError:
            return name.encode("utf-8", "replace")
    byte = _BYTE.fullmatch(name)
    return bytes([int(byte[1], 16)]) if byte else name.replace("▁", " ").encode("utf-8", "replace")


def open_any(path: Path | str) -> Tokenizer:
    """Open a tokenizer of Hanlin's, or any other `tokenizer.json`.

    Args:
        path: a directory with a tokenizer in it, or a tokenizer.json under whatever name.

    Raises:
        HanlinError: nothing there, damaged, or such as only the package `tokenizers` could open, which is
            not installed.
    """
    path = Path(path)
    if path.is_file() and path.name != TOKENIZER_JSON:
        return ForeignTokenizer(path)
    try:
        return load_tokenizer(path.parent if path.is_file() else path)
    except NotOurs as refusal:
        return ForeignTokenizer(refusal.file)
