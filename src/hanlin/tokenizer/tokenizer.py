"""`Tokenizer`: text to ids and back, and conversations to ids with the mask of what the assistant learns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from hanlin.common.errors import HanlinError
from hanlin.tokenizer import chat
from hanlin.tokenizer.files import FILES, Vocabulary, read_files, require_recorded, tokenizer_hash
from hanlin.tokenizer.special import END_OF_TEXT, END_THINK, IM_END, THINK

if TYPE_CHECKING:
    import numpy

    from hanlin._native import TextBatch


def load_tokenizer(path: Path | str) -> Tokenizer:
    """Open a tokenizer directory, or the tokenizer inside a model directory.

    Raises:
        HanlinError: nothing there, damaged (where the directory has a manifest, by its SHA-256), or not a
            tokenizer of Hanlin's.
    """
    path = Path(path)
    require_recorded(path)
    return Tokenizer(read_files(path), path)


class Tokenizer:
    """Byte-level BPE with control tokens and the chat template.

    Attributes:
        path: the directory it was read from.
        special: control tokens and their ids.
        eos_id: <|endoftext|>, between documents and for padding.
        im_end_id: <|im_end|>, at the end of a message.
    """

    def __init__(self, vocabulary: Vocabulary, path: Path):
        self.path = path
        self.vocabulary = vocabulary
        ordinary = vocabulary.ordinary
        self.special = {name: ordinary + index for index, name in enumerate(vocabulary.special)}
        self.eos_id = self.special[END_OF_TEXT]
        self.im_end_id = self.special[IM_END]
        self.think_id = self.special[THINK]
        self.end_think_id = self.special[END_THINK]
        self._encoder = vocabulary.encoder
        # Longest first: a regex takes the first alternative that matches.
        names = sorted((name.encode() for name in self.special), key=len, reverse=True)
        self._control = re.compile(b"(" + b"|".join(map(re.escape, names)) + b")")

    @property
    def vocab_size(self) -> int:
        """Ids are below this number; control tokens are among them."""
        return len(self._encoder)

    @property
    def converses(self) -> bool:
        """Whether it has a chat template."""
        return True

    @property
    def ordinary(self) -> int:
        """Number of ids that are not control tokens."""
        return self.vocabulary.ordinary

    @cached_property
    def content_hash(self) -> str:
        """Hash of the tokenizer's files: equal where the ids of every text and the chat template are."""
        return tokenizer_hash(self.path)

    def encode(self, text: str | bytes, special: bool = False) -> list[int]:
        """Ids of a text; control tokens are recognised in it only if `special`.

        Any bytes are accepted, also such as are not UTF-8; a lone surrogate in a str counts as its three
        bytes.
        """
        encodable = _encodable(text)
        if not special:
            return self._encoder.encode(encodable)
        ids: list[int] = []
        for index, part in enumerate(
            self._control.split(encodable.encode() if isinstance(encodable, str) else encodable)
        ):
            if index % 2:
                ids.append(self.special[part.decode()])
            elif part:
                ids += self._encoder.encode(part)
        return ids

    def encode_batch(self, texts: Sequence[str | bytes]) -> list[list[int]]:
        """Ids of each text, without control tokens."""
        ids, offsets = self.encode_arrays(texts)
        flat, bounds = ids.tolist(), offsets.tolist()
        return [flat[begin:end] for begin, end in zip(bounds, bounds[1:], strict=False)]

    def encode_arrays(self, texts: Sequence[str | bytes] | TextBatch) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Ids of all texts as one uint32 array, and a uint64 array of where each text's begin (one entry
        more than texts).

        Runs without the GIL, so several threads may encode at once; without control tokens.
        """
        return self._encoder.encode_batch(
            [_encodable(text) for text in texts] if isinstance(texts, (list, tuple)) else texts
        )

    def encode_buffer(
        self, buffer: numpy.ndarray | bytes | memoryview, offsets: numpy.ndarray
    ) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Ids of texts that lie one after another in memory; no Python object is made per text or id.

        Runs without the GIL, so several threads may encode at once; without control tokens.

        Args:
            buffer: the texts' UTF-8, (B,) uint8, or anything with such memory: bytes, a memory-mapped file.
                Any bytes are accepted.
            offsets: (N + 1,) integers: text i is `buffer[offsets[i]:offsets[i + 1]]`. What lies before the
                first or after the last is passed over.

        Returns:
            ids (T,) uint32, and offsets (N + 1,) uint64: those of text i are
            `ids[offsets[i]:offsets[i + 1]]`.

        Raises:
            HanlinError: the buffer is not one row of bytes, or the offsets are not integers that ascend
                within it.
        """
        import numpy

        try:
            texts = buffer if isinstance(buffer, numpy.ndarray) else numpy.frombuffer(buffer, numpy.uint8)
            if texts.dtype != numpy.uint8 or texts.ndim != 1:
                raise ValueError(f"buffer: {texts.dtype}, {texts.ndim}-D")
            return self._encoder.encode_buffer(numpy.ascontiguousarray(texts), _offsets(offsets))
        except (TypeError, ValueError) as error:
            raise _wrong_buffer(error) from None

    def decode_buffer(
        self, ids: numpy.ndarray, offsets: numpy.ndarray
    ) -> tuple[numpy.ndarray, numpy.ndarray]:
        """The inverse of `encode_buffer`: bytes (B,) uint8 and offsets (N + 1,) uint64 of the texts whose
        ids lie one after another.

        Args:
            ids: (T,) of any integer type.
            offsets: (N + 1,) integers: the ids of text i are `ids[offsets[i]:offsets[i + 1]]`.

        Raises:
            HanlinError: not integers, offsets that do not ascend within the ids, or an id that is not in the
                vocabulary.
        """
        try:
            return self._encoder.decode_buffer(_integers(ids), _offsets(offsets))
        except (TypeError, ValueError) as error:
            raise _wrong_buffer(error) from None
        except IndexError as error:
            raise self._unknown(error) from None

    @cached_property
    def spellings(self) -> list[bytes]:
        """The bytes that each id spells; none for control tokens."""
        return [*self.vocabulary.tokens, *(b"" for _ in self.special)]

    def encode_places(self, texts: Sequence[str]) -> list[tuple[list[int], numpy.ndarray, numpy.ndarray]]:
        """Ids of each text, without control tokens; and of each id, where in the text's UTF-8 it begins and
        where it ends, (T,) int64."""
        import numpy

        widths = numpy.asarray([len(token) for token in self.spellings], dtype=numpy.int64)
        found = []
        for ids in self.encode_batch(texts):
            width = widths[ids]
            ends = numpy.cumsum(width)
            found.append((ids, ends - width, ends))
        return found

    def decode_bytes(self, ids: Iterable[int] | numpy.ndarray) -> bytes:
        """The bytes that ids spell, control tokens by their names: the exact inverse of `encode`.

        A numpy array (one row, any integer type) is read in place.

        Raises:
            HanlinError: an id that is not in the vocabulary, or an array that is not one row of integers.
        """
        if _is_array(ids):
            try:
                return self._encoder.decode_array(_integers(ids))
            except (TypeError, ValueError) as error:
                raise _wrong_buffer(error) from None
            except IndexError as error:
                raise self._unknown(error) from None
        ids = list(ids)
        try:
            return self._encoder.decode(ids)
        except (IndexError, TypeError):
            raise self._unknown(next(item for item in ids if not 0 <= int(item) < self.vocab_size)) from None

    def decode(self, ids: Iterable[int] | numpy.ndarray, special: bool = True) -> str:
        """The text that ids spell; without the control tokens if not `special`. Bytes that form no character
        become U+FFFD.

        Takes what `decode_bytes` takes and raises what it raises.
        """
        if not special:
            ordinary = self.ordinary
            ids = ids[ids < ordinary] if _is_array(ids) else [item for item in ids if item < ordinary]
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def _unknown(self, wrong: object) -> HanlinError:
        return HanlinError(
            "Id {wrong} is not in the vocabulary (of size {vocab_size}). Were these ids made by another "
            "tokenizer?",
            wrong=wrong,
            vocab_size=self.vocab_size,
        )

    def render(
        self,
        messages: Sequence[chat.Message],
        add_generation_prompt: bool = False,
        thinking: bool | None = None,
        tools: Sequence[Any] | None = None,
    ) -> str:
        """The conversation as text; see `hanlin.tokenizer.chat.pieces`."""
        return chat.render(messages, add_generation_prompt, thinking, tools)

    def pieces(
        self,
        messages: Sequence[chat.Message],
        add_generation_prompt: bool = False,
        thinking: bool | None = None,
        tools: Sequence[Any] | None = None,
        learn_from: int = 0,
    ) -> Iterable[chat.Piece]:
        """The conversation in stretches that are tokenised on their own; see
        `hanlin.tokenizer.chat.pieces`."""
        return chat.pieces(messages, add_generation_prompt, thinking, tools, learn_from)

    def encode_conversation(
        self,
        messages: Sequence[chat.Message],
        add_generation_prompt: bool = False,
        thinking: bool | None = None,
        tools: Sequence[Any] | None = None,
        learn_from: int = 0,
    ) -> tuple[list[int], list[int]]:
        """The conversation as ids, and a mask: 1 on the tokens the assistant must learn.

        Those are its content, reasoning with the tags around it, tool calls, and the closing <|im_end|>,
        from message `learn_from` on; a round whose reasoning is dropped here, since a user message follows,
        is not learnt (see `chat.cut_short`). What people, tools and models wrote can never become a control
        token. The ids of a prompt are the head of the ids of the conversation that goes on from it; they
        equal those of the rendered text unless an assistant's content begins with white space that holds a
        newline.
        """
        ids: list[int] = []
        mask: list[int] = []
        for piece in self.pieces(messages, add_generation_prompt, thinking, tools, learn_from):
            new = [self.special[piece.text]] if piece.control else self.encode(piece.text)
            ids += new
            mask += [int(piece.learn)] * len(new)
        return ids, mask

    def unreachable(self) -> list[int]:
        """Ordinary ids that no text was found to produce; see native/reachability.hpp for what is tried."""
        return self._encoder.unreachable()

    def save(self, directory: Path | str) -> None:
        """Copy the tokenizer's files into a model's directory."""
        for name in FILES:
            (Path(directory) / name).write_bytes((self.path / name).read_bytes())


def _encodable(text: str | bytes) -> str | bytes:
    """What the core takes: it reads a str's UTF-8 in place, which a lone surrogate does not have."""
    if isinstance(text, str) and not text.isascii():
        try:
            return text.encode()
        except UnicodeEncodeError:
            return text.encode("utf-8", "surrogatepass")
    return text


def _is_array(value: object) -> TypeGuard[numpy.ndarray]:
    return hasattr(value, "__array_interface__")  # without importing numpy, which a tokenizer does not need


def _integers(array: numpy.ndarray) -> numpy.ndarray:
    """One row of integers as the core reads it: contiguous, in this machine's byte order."""
    import numpy

    array = numpy.asarray(array)
    if array.ndim != 1 or (
        array.dtype.kind not in "iu" and array.size
    ):  # an empty array is of floats unless told otherwise
        raise ValueError(f"{array.dtype}, {array.ndim}-D, instead of one row of integers")
    return numpy.ascontiguousarray(array, array.dtype.newbyteorder("=") if array.size else numpy.uint32)


def _offsets(offsets: numpy.ndarray) -> numpy.ndarray:
    import numpy

    array = _integers(offsets)
    if array.dtype.kind == "i" and (array < 0).any():
        raise ValueError(f"offsets: {array.min()} is negative")
    return array.astype(numpy.uint64, copy=False)


def _wrong_buffer(error: Exception) -> HanlinError:
    return HanlinError(
        "These arrays cannot be read ({error}). Text is one row of uint8, ids one row of integers; offsets "
        "are one more than the texts, ascending, within the array.",
        error=error,
    )
