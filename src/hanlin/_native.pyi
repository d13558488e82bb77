"""The C++ core of the tokenizer: pre-token counting, BPE training, encoding. Sources: native/bindings.cpp."""

from collections.abc import Callable, Iterable, Sequence

import numpy

class TextBatch:
    """Texts as UTF-8, behind one another."""

    def __init__(self) -> None: ...
    def append(self, text: str | bytes) -> None:
        """Add a text."""
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> bytes:
        """A text's bytes."""
    @property
    def bytes(self) -> int:
        """Bytes of all texts."""

class JsonLines:
    """Reads the texts of plain JSON lines; stops in front of every other line."""

    def __init__(self, text_key: str, longest: int) -> None:
        """text_key: the key of the text; longest: bytes of a line beyond which it is not plain."""
    def know(self, keys: list[str]) -> None:
        """Objects with just these keys, in this order, are plain from now on."""
    def read(self, block: bytes, begin: int, texts: TextBatch) -> tuple[int, int]:
        """Append texts until a line is not plain: (where that is, or the end; lines passed)."""

class PretokenCounter:
    """Counts the pre-tokens of texts."""

    def __init__(self) -> None: ...
    def add(self, texts: Sequence[str | bytes] | TextBatch) -> None:
        """Count a sequence of texts, each a document of its own."""
    def add_word(self, word: str | bytes, count: int) -> None:
        """Count one pre-token as it is."""
    def merge(self, other: PretokenCounter) -> None:
        """Add another counter's counts."""
    def words(self) -> list[tuple[bytes, int]]:
        """Pre-tokens and their counts, the most frequent first."""
    @property
    def distinct(self) -> int: ...
    @property
    def total(self) -> int: ...
    @property
    def bytes(self) -> int: ...

class Census:
    """Counts characters and bigrams of texts."""

    def __init__(self) -> None: ...
    def add(self, texts: Sequence[str | bytes] | TextBatch) -> None:
        """Count a sequence of texts, each a document of its own."""
    def add_word(self, word: str | bytes, count: int) -> None:
        """Count one pre-token as it is."""
    def merge(self, other: Census) -> None:
        """Add another census's counts."""
    def save(self, path: str) -> None:
        """Write it to a file; RuntimeError if that fails."""
    @staticmethod
    def load(path: str) -> Census:
        """Read what was saved; RuntimeError if that fails."""
    def floor_that_leaves(self, bigrams: int) -> int:
        """The highest count that so many bigrams have or exceed."""
    @property
    def bytes(self) -> int: ...

class PieceCounter:
    """Counts pieces of pre-tokens, cut at bigrams rarer than a floor."""

    def __init__(self, census: Census, floor: int, table_bytes: int = 0, symbols: int = 0, folder: str = "") -> None:
        """table_bytes: beyond it the table goes to a file in `folder`; symbols: beyond as many, rare pieces are thinned; 0: no limit."""
    def add(self, texts: Sequence[str | bytes] | TextBatch) -> None:
        """Count a sequence of texts that the census has seen; ValueError if it has not."""
    def add_word(self, word: str | bytes, count: int) -> None:
        """Count one pre-token as it is."""
    def merge(self, other: PieceCounter) -> None:
        """Take the counts of another counter of the same census and floor."""
    def save(self) -> list[str]:
        """Write all counts to runs in the folder; their paths. RuntimeError if that fails."""
    def adopt(self, run: str) -> None:
        """Count a run that an earlier process wrote."""
    @property
    def distinct(self) -> int:
        """Pieces that were counted; known once they have been learnt from."""
    @property
    def thinning(self) -> int:
        """What a piece that was thinned counts for; 1 if none was. Known once they have been learnt from."""
    @property
    def floor(self) -> int: ...

def train_pieces(
    counter: PieceCounter,
    new_tokens: int,
    min_frequency: int = 2,
    max_characters: int = 0,
    progress: Callable[[int], object] | None = None,
    threads: int = 1,
    places_at_once: int = 1 << 26,
) -> tuple[list[tuple[bytes, bytes, int]], int, bool]:
    """Learn aligned merges from pieces: (merges, least count that was learnt down to, whether that was enough).

    places_at_once: of pairs, that are listed; fewer take less memory and longer, and give the same merges.
    """

def train_plain(
    counter: PretokenCounter,
    new_tokens: int,
    min_frequency: int = 2,
    max_characters: int = 0,
    progress: Callable[[int], object] | None = None,
    threads: int = 1,
    places_at_once: int = 1 << 26,
) -> list[tuple[bytes, bytes, int]]:
    """What `train(…, aligned=False)` gives, in less memory; takes the counter's words."""

def train(
    counter: PretokenCounter,
    new_tokens: int,
    min_frequency: int = 2,
    max_characters: int = 0,
    aligned: bool = True,
    progress: Callable[[int], object] | None = None,
) -> list[tuple[bytes, bytes, int]]:
    """Learn merges: (left, right, count), at most `new_tokens`."""

def pretokens(text: str | bytes) -> list[bytes]:
    """Cut a text into pre-tokens."""

class Vocabulary:
    """Tokens and merges as tokenizer.json spells them."""

    @staticmethod
    def of_json(json: bytes) -> tuple[Vocabulary, bytes]:
        """The vocabulary of a tokenizer.json, and the document with it emptied; ValueError with what does not fit."""
    def tokens(self) -> list[bytes]:
        """What each id spells."""
    def merges(self) -> list[tuple[int, int, int]]:
        """(left, right, result) ids by rank."""
    def encoder(self, control: Sequence[str | bytes]) -> Encoder:
        """An encoder; the control tokens' ids follow."""
    def __len__(self) -> int: ...

class Encoder:
    """Byte-pair encoding by rank."""

    def __init__(self, tokens: Sequence[str | bytes], ordinary: int, merges: Iterable[tuple[int, int, int]]) -> None:
        """tokens: what each id spells; ordinary: how many of them merges may use; merges: (left, right, result) ids by rank."""
    def encode(self, text: str | bytes) -> list[int]: ...
    def encode_batch(self, texts: Sequence[str | bytes] | TextBatch) -> tuple[numpy.ndarray, numpy.ndarray]:
        """All ids (uint32) and where each text's begin (uint64, one more than texts)."""
    def encode_buffer(self, bytes: numpy.ndarray, offsets: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
        """As encode_batch, of texts that lie one after another in an array of uint8: from offsets[i] to offsets[i + 1] (uint64)."""
    def decode(self, ids: Sequence[int]) -> bytes:
        """The bytes that ids spell; IndexError if an id does not exist."""
    def decode_array(self, ids: numpy.ndarray) -> bytes:
        """As decode, of an array of integers; the IndexError's text is the id."""
    def decode_buffer(self, ids: numpy.ndarray, offsets: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Bytes (uint8) and offsets (uint64) of texts whose ids lie one after another in an array."""
    def unreachable(self) -> list[int]:
        """Ordinary ids no text was found to produce."""
    @property
    def aligned(self) -> bool: ...
    def __len__(self) -> int: ...
