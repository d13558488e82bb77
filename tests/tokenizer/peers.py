"""The other programs that open what Hanlin writes: `tokenizers` from `tokenizer.json`, llama.cpp from the
vocabulary of a GGUF file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy

from hanlin.export import export_gguf
from hanlin.model import CausalLM, ModelConfig, init_weights
from hanlin.stages.base import write_model
from hanlin.tokenizer import Tokenizer
from tests.llama import LlamaVocabulary

# Letters and numbers of Unicode 16.0, the version of `tokenizers` and so of Hanlin, that the tables of
# llama.cpp (0.3.36 of its Python package, Unicode 15.1) hold for symbols: the only characters that it cuts
# otherwise. `test_every_character_in_llama_cpp` keeps the list.
NEWER_THAN_LLAMA = (
    (0x1C89, 0x1C8A),
    (0xA7CB, 0xA7CD),
    (0xA7DA, 0xA7DC),
    (0x105C0, 0x105F3),
    (0x10D40, 0x10D65),
    (0x10D6F, 0x10D85),
    (0x10EC2, 0x10EC4),
    (0x11380, 0x113B5),
    (0x113B7, 0x113B7),
    (0x113D1, 0x113D1),
    (0x113D3, 0x113D3),
    (0x116D0, 0x116E3),
    (0x11BC0, 0x11BE0),
    (0x11BF0, 0x11BF9),
    (0x13460, 0x143FA),
    (0x16100, 0x1611D),
    (0x16130, 0x16139),
    (0x16D40, 0x16D6C),
    (0x16D70, 0x16D79),
    (0x18CFF, 0x18CFF),
    (0x1CCF0, 0x1CCF9),
    (0x1E5D0, 0x1E5ED),
    (0x1E5F0, 0x1E5FA),
)
_NEWER = re.compile("[" + "".join(f"{chr(first)}-{chr(last)}" for first, last in NEWER_THAN_LLAMA) + "]")

# What llama.cpp's decoder takes for a character: it looks at the number of leading ones and at continuation
# bytes only, so that overlong forms, surrogates and numbers above U+10FFFF pass; any other byte becomes
# U+FFFD.
_LLAMA_CHARACTER = re.compile(
    rb"[\xc0-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf7][\x80-\xbf]{3}|[\x80-\xff]"
)


def without_newer(text: str) -> str:
    """The text with what llama.cpp's Unicode does not know replaced by U+FFFD."""
    return _NEWER.sub("\ufffd", text)


def as_llama_reads(data: bytes) -> bytes | None:
    """The bytes that llama.cpp tokenizes when it is given `data`; None where it would abort the process
    (above U+10FFFF)."""
    beyond = False

    def read(match: re.Match[bytes]) -> bytes:
        nonlocal beyond
        found = match[0]
        if len(found) == 1:
            return b"\xef\xbf\xbd"
        point = found[0] & (0x7F >> len(found))
        for byte in found[1:]:
            point = point << 6 | byte & 0x3F
        beyond |= point > 0x10FFFF
        return found if beyond else chr(point).encode("utf-8", "surrogatepass")

    result = _LLAMA_CHARACTER.sub(read, data)
    return None if beyond else result


class Stock:
    """`tokenizers`, opened from the file Hanlin wrote; control tokens in a text are text."""

    def __init__(self, tokenizer: Tokenizer):
        import tokenizers

        self._stock = tokenizers.Tokenizer.from_file(str(tokenizer.path / "tokenizer.json"))
        self._stock.encode_special_tokens = True

    def ids(self, text: str) -> numpy.ndarray:
        return numpy.array(self._stock.encode(text, add_special_tokens=False).ids, dtype=numpy.uint32)

    def ids_of_all(self, texts: Sequence[str]) -> list[numpy.ndarray]:
        return [
            numpy.array(item.ids, dtype=numpy.uint32)
            for item in self._stock.encode_batch_fast(texts, add_special_tokens=False)
        ]


class Llama(LlamaVocabulary):
    """llama.cpp, opened from the GGUF that Hanlin exports of a model as small as can be."""

    def __init__(self, tokenizer: Tokenizer, folder: Path):
        shape = dict(
            vocab_size=tokenizer.vocab_size,
            eos_token_id=tokenizer.eos_id,
            pad_token_id=tokenizer.eos_id,
            hidden_size=8,
        )
        config = ModelConfig(
            **shape,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
            max_position_embeddings=64,
        )  # type: ignore[arg-type]
        model = CausalLM(config)
        init_weights(model, 0)
        write_model(folder / "model", model, tokenizer, parents={}, config=config, seed=0, metrics={})
        super().__init__(export_gguf(folder / "model", folder / "model.gguf"))
