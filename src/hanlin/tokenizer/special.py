"""Control tokens, the split pattern, and the letters by which byte-level BPE files write bytes."""

from __future__ import annotations

from hanlin.common.errors import HanlinError

END_OF_TEXT = "<|endoftext|>"
IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
THINK = "<think>"
END_THINK = "</think>"
TOOL_CALL = "<tool_call>"
END_TOOL_CALL = "</tool_call>"
TOOL_RESPONSE = "<tool_response>"
END_TOOL_RESPONSE = "</tool_response>"

NAMED = (
    END_OF_TEXT,
    IM_START,
    IM_END,
    THINK,
    END_THINK,
    TOOL_CALL,
    END_TOOL_CALL,
    TOOL_RESPONSE,
    END_TOOL_RESPONSE,
)

# llama.cpp's "starcoder" as one expression: there, \p{N} cuts first and GPT-2's pattern cuts what is left,
# so that to it white space before a number stands at the end: hence \s+(?=\p{N}). native/scanner.hpp is the
# same pattern by hand. Chosen by bits per byte (lab log): patterns that glue a mark to the word behind it,
# as qwen2's does, need about 1 % more.
PATTERN = r"\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+"
PATTERN_NAME = "starcoder"
BYTES = 256


def special_tokens(count: int) -> list[str]:
    """The control tokens in the order of their ids: the named ones, then reserves up to `count`.

    Raises:
        HanlinError: fewer than the named ones were asked for.
    """
    if count < len(NAMED):
        raise HanlinError(
            "num_special={count} is too small: the chat template needs {named_count} control tokens. Pass "
            "{named_count} or more (16 by default).",
            count=count,
            named_count=len(NAMED),
        )
    return [*NAMED, *(f"<|reserved_{index}|>" for index in range(count - len(NAMED)))]


def _byte_letters() -> list[str]:
    """GPT-2's way of writing bytes as text: visible Latin-1 characters stand for themselves, the others
    follow from U+0100."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(0x100, 0x200))
    return [chr(byte) if byte in visible else chr(next(hidden)) for byte in range(BYTES)]


BYTE_LETTERS = _byte_letters()
_TO_LETTERS = dict(enumerate(BYTE_LETTERS))
# Characters that stand for no byte go where Latin-1 cannot follow.
_FROM_LETTERS = {
    **dict.fromkeys(range(BYTES), 0xFFFF),
    **{ord(letter): byte for byte, letter in enumerate(BYTE_LETTERS)},
}


def to_letters(token: bytes) -> str:
    """Bytes as they are written in `tokenizer.json`."""
    return token.decode("latin-1").translate(_TO_LETTERS)


def from_letters(text: str) -> bytes:
    """The bytes that a vocabulary entry of `tokenizer.json` stands for; ValueError where a character stands
    for none."""
    return text.translate(_FROM_LETTERS).encode("latin-1")
