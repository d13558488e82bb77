"""The C++ core: pre-token counting, BPE training, encoding; cleaning and duplicates of corpora. Sources:
native/*bindings.cpp."""

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
    def buffer(self) -> tuple[numpy.ndarray, numpy.ndarray]:
        """A copy of all bytes (uint8), and where each text's begin (uint64, one more than texts)."""
    @property
    def bytes(self) -> int:
        """Bytes of all texts."""

class OverlapFinder:
    """Finds passages of benchmarks' items in texts."""

    def __init__(self, n: int) -> None:
        """n: characters of a run that counts."""
    def add(self, item: str | bytes) -> bool:
        """Make a comparison key the next item; whether it has a run and can be found."""
    def find(
        self, texts: TextBatch, hits: int, longest: int, every: bool = False
    ) -> list[tuple[int, int, int, int, int, int]]:
        """The first item (or every one) of which a text has so many runs, a passage so long, or all: (text,
        item, hits, longest passage, its first byte, its end)."""

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

class BigramCounts:
    """Counts characters and bigrams of texts."""

    def __init__(self) -> None: ...
    def add(self, texts: Sequence[str | bytes] | TextBatch) -> None:
        """Count a sequence of texts, each a document of its own."""
    def add_word(self, word: str | bytes, count: int) -> None:
        """Count one pre-token as it is."""
    def merge(self, other: BigramCounts) -> None:
        """Add another's counts."""
    def save(self, path: str) -> None:
        """Write it to a file; RuntimeError if that fails."""
    @staticmethod
    def load(path: str) -> BigramCounts:
        """Read what was saved; RuntimeError if that fails."""
    def floor_that_leaves(self, bigrams: int) -> int:
        """The highest count that so many bigrams have or exceed."""
    @property
    def bytes(self) -> int: ...

class PieceCounter:
    """Counts pieces of pre-tokens, cut at bigrams rarer than a floor."""

    def __init__(
        self,
        bigram_counts: BigramCounts,
        floor: int,
        table_bytes: int = 0,
        symbols: int = 0,
        folder: str = "",
    ) -> None:
        """table_bytes: beyond it the table goes to a file in `folder`; symbols: beyond as many, rare pieces
        are thinned; 0: no limit."""
    def add(self, texts: Sequence[str | bytes] | TextBatch) -> None:
        """Count a sequence of texts whose characters have been counted; ValueError if one has not."""
    def add_word(self, word: str | bytes, count: int) -> None:
        """Count one pre-token as it is."""
    def merge(self, other: PieceCounter) -> None:
        """Take the counts of another counter of the same bigram counts and floor."""
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
    """Learn aligned merges from pieces: (merges, least count that was learnt down to, whether that was
    enough).

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
        """The vocabulary of a tokenizer.json, and the document with it emptied; ValueError with what does not
        fit."""
    def tokens(self) -> list[bytes]:
        """What each id spells."""
    def merges(self) -> list[tuple[int, int, int]]:
        """(left, right, result) ids by rank."""
    def encoder(self, control: Sequence[str | bytes]) -> Encoder:
        """An encoder; the control tokens' ids follow."""
    def __len__(self) -> int: ...

class Encoder:
    """Byte-pair encoding by rank."""

    def __init__(
        self, tokens: Sequence[str | bytes], ordinary: int, merges: Iterable[tuple[int, int, int]]
    ) -> None:
        """tokens: what each id spells; ordinary: how many of them merges may use; merges: (left, right,
        result) ids by rank."""
    def encode(self, text: str | bytes) -> list[int]: ...
    def encode_batch(self, texts: Sequence[str | bytes] | TextBatch) -> tuple[numpy.ndarray, numpy.ndarray]:
        """All ids (uint32) and where each text's begin (uint64, one more than texts)."""
    def encode_buffer(
        self, bytes: numpy.ndarray, offsets: numpy.ndarray
    ) -> tuple[numpy.ndarray, numpy.ndarray]:
        """As encode_batch, of texts that lie one after another in an array of uint8: from offsets[i] to
        offsets[i + 1] (uint64)."""
    def decode(self, ids: Sequence[int]) -> bytes:
        """The bytes that ids spell; IndexError if an id does not exist."""
    def decode_array(self, ids: numpy.ndarray) -> bytes:
        """As decode, of an array of integers; the IndexError's text is the id."""
    def decode_buffer(
        self, ids: numpy.ndarray, offsets: numpy.ndarray
    ) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Bytes (uint8) and offsets (uint64) of texts whose ids lie one after another in an array."""
    def unreachable(self) -> list[int]:
        """Ordinary ids no text was found to produce."""
    @property
    def aligned(self) -> bool: ...
    def __len__(self) -> int: ...

class ComparisonKeyTable:
    """What characters become in comparison keys."""

    def __init__(self) -> None: ...
    def define(self, page: int, mapped: Sequence[Sequence[int]], refused: Sequence[bool]) -> None:
        """Define 256 code points: what each becomes (kind << 24 | code point), or that a text with it is
        refused."""
    def append(self, texts: TextBatch, begin: int, out: TextBatch) -> tuple[int, int]:
        """Append comparison keys from texts[begin] on: (where it stopped, or the end; the page that is
        missing, or -1: the text is refused)."""

def digests(texts: TextBatch) -> numpy.ndarray:
    """128-bit hashes of texts, (N, 2) uint64."""

class MinHasher:
    """MinHash signatures of texts."""

    def __init__(self, shingle: int, values: int, seed: int) -> None: ...
    def __call__(self, texts: TextBatch) -> numpy.ndarray:
        """Signatures, (N, values) uint32."""

class KeyWriter:
    """Writes keys of documents to a file; RuntimeError if that fails."""

    def __init__(self, path: str, memory: int) -> None: ...
    def add(self, keys: numpy.ndarray, documents: numpy.ndarray) -> None:
        """Add records (uint64, uint32); documents ascend."""
    def add_bands(self, signatures: numpy.ndarray, rows: int, first_document: int) -> None:
        """Add the keys of the bands of signatures, of documents numbered on from first_document."""
    def close(self) -> None:
        """Write what waits; the file is whole then."""

class KeyReader:
    """Reads the files of key writers, given with their first document's number, as one; RuntimeError if that
    fails."""

    def __init__(self, files: Sequence[tuple[str, int]]) -> None: ...
    @property
    def sizes(self) -> list[int]:
        """Records in each 256th of the keys."""
    def pairs(
        self,
        first: int,
        last: int,
        gone: numpy.ndarray,
        earliest: int,
        neighbours: int,
        most: int,
        visit: Callable[[numpy.ndarray], object],
    ) -> None:
        """Visit ascending pairs (later << 32 | earlier, uint64) of documents that share a key from first to
        last, about `most` at a time."""
    def common(self, first: int, last: int, least: int) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Keys from first to last that at least so many documents share, ascending, and how many do
        (uint64)."""

class DuplicateVerifier:
    """Decides which documents go: those with an earlier duplicate that stays."""

    def __init__(self, shingle: int, threshold: float) -> None: ...
    def add(self, documents: numpy.ndarray, texts: TextBatch) -> None:
        """Have the shingles of documents (uint32) at hand."""
    def clear(self) -> None:
        """Let them go."""
    @property
    def bytes(self) -> int: ...
    def decide(
        self, pairs: numpy.ndarray, begin: int, stays: numpy.ndarray
    ) -> tuple[int, numpy.ndarray, numpy.ndarray]:
        """Decide ascending pairs from `begin` on, clearing stays[d] (uint8).

        Returns where a document is not at hand, or the end; (K, 2) documents that go and their keepers; their
        similarities (float32).
        """

class CharacterTable:
    """What kind of character each code point is."""

    def __init__(self, flags: numpy.ndarray) -> None:
        """flags: of every code point, (0x110000,) uint32, as hanlin.corpus.text.characters makes them."""
    def needs_normalization(self, texts: Sequence[str | bytes]) -> numpy.ndarray:
        """For each text why it may need normalisation, bits of native/normalization_check.hpp, uint32."""

class SignalCounter:
    """Counts what cleaning rules look at. Threads that share one wait for each other."""

    def __init__(self, table: CharacterTable, more: list[str]) -> None:
        """more: what lines that go on elsewhere end with, in lower case."""
    def measure(self, texts: Sequence[str | bytes]) -> dict[str, numpy.ndarray]:
        """Counts by name, one value per text each (int64; entropy float64), and line_hashes, one per line
        (uint64)."""

class PhraseMatcher:
    """Finds lines that hold one of some phrases, white space and the case of ASCII letters aside."""

    def __init__(self, table: CharacterTable, groups: Sequence[tuple[Sequence[str], int]]) -> None:
        """groups: (phrases, longest line in characters), 32 at most."""
    def find(self, texts: Sequence[str | bytes]) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
        """Text, line (both from 0) and bits of the groups found, for each line that holds a phrase,
        uint32."""
