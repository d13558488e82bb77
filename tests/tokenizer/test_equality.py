"""One text, one sequence of ids: Hanlin, `tokenizers` opened from `tokenizer.json` and llama.cpp opened from
the GGUF agree.

The tests marked nightly do at length (`make nightly`: 100,000 examples, every character, all real data) what
the others do in little.

What a peer cannot take is compared on what it can. `tokenizers` takes only str. llama.cpp takes bytes, but
reads what is no UTF-8 in its own way (`peers.as_llama_reads`): such a byte becomes U+FFFD, overlong forms
become the character they spell, and a form above U+10FFFF aborts the process; Hanlin keeps every byte. So
with llama.cpp raw bytes are compared after that reading.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hanlin.corpus.readers.files import DEFAULT_LIMITS, blocks, lines
from hanlin.corpus.readers.read import read_documents
from hanlin.corpus.tinyworld import documents
from hanlin.tokenizer import Tokenizer, train_tokenizer
from tests.llama import HAVE_LLAMA, WHY_NOT
from tests.tokenizer import awkward
from tests.tokenizer.peers import NEWER_THAN_LLAMA, Llama, Stock, as_llama_reads, without_newer

DATA = Path(__file__).parents[3] / "shared" / "data"
SHARE = 300_000  # bytes of each file of real text that the vocabularies are trained on
VOCABULARIES: dict[str, dict[str, Any]] = {
    "aligned-32k": {"vocab_size": 32_768},
    "aligned-1.5k": {"vocab_size": 1500},
    "plain-8k": {"vocab_size": 8192, "aligned": False, "max_token_chars": 0},
    "tiny-300": {"vocab_size": 300},
}
THREADS = os.cpu_count() or 1
relaxed = [
    HealthCheck.function_scoped_fixture,
    HealthCheck.too_slow,
    HealthCheck.data_too_large,
    HealthCheck.large_base_example,
]


class Three(NamedTuple):
    """One vocabulary in the programs that open it."""

    name: str
    ours: Tokenizer
    stock: Stock
    llama: Llama | None

    def check(self, text: str) -> None:
        """All programs give one text the same ids, and ours decode to it."""
        ids = numpy.array(self.ours.encode(text), dtype=numpy.uint32)
        assert numpy.array_equal(ids, self.stock.ids(text)), (self.name, "tokenizers")
        assert self.ours.decode(ids.tolist()) == text, self.name
        if self.llama is not None:
            known = without_newer(text)
            ids = ids if known == text else numpy.array(self.ours.encode(known), dtype=numpy.uint32)
            assert numpy.array_equal(ids, self.llama.ids(known.encode())), (self.name, "llama.cpp")

    def check_raw(self, data: bytes) -> None:
        """Bytes come back; and what llama.cpp makes of them has the ids it has here."""
        assert self.ours.decode_bytes(self.ours.encode(data)) == data, self.name
        read = as_llama_reads(data)
        if self.llama is None or read is None:
            return
        text = read.decode("utf-8", "surrogatepass")
        if without_newer(text) == text:
            expected = self.ours.encode(read)
            assert expected == self.llama.ids(data).tolist() == self.llama.ids(read).tolist(), (
                self.name,
                "llama.cpp",
            )

    def check_all(self, texts: list[str], where: str, llama: bool = True) -> None:
        """As `check`, for many texts at once."""
        data = [text.encode("utf-8", "surrogatepass") for text in texts]
        assert [text.decode("utf-8", "surrogatepass") for text in data] == texts
        flat, offsets = self.ours.encode_arrays(data)
        assert self.ours.decode_bytes(flat.tolist()) == b"".join(data), (self.name, where)
        ours = [flat[begin:end] for begin, end in zip(offsets, offsets[1:], strict=False)]
        self._compare(ours, self.stock.ids_of_all(texts), texts, f"{where}, tokenizers")
        if self.llama is not None and llama:
            known = [without_newer(text) for text in texts]
            for index, text in enumerate(known):
                if text != texts[index]:
                    ours[index] = self.ours.encode_arrays([text])[0]
            self._compare(
                ours,
                self.llama.ids_of_all([text.encode() for text in known], THREADS),
                known,
                f"{where}, llama.cpp",
            )

    def _compare(
        self, ours: list[numpy.ndarray], theirs: list[numpy.ndarray], texts: list[str], where: str
    ) -> None:
        for text, one, other in zip(texts, ours, theirs, strict=True):
            if not numpy.array_equal(one, other):
                shorter = min(len(one), len(other))
                at = int(numpy.argmax(numpy.append(one[:shorter] != other[:shorter], True)))
                before = len(self.ours.decode_bytes(one[:at].tolist()).decode("utf-8", "ignore"))
                pytest.fail(
                    f"{self.name}, {where}: they part at character {before}: "
                    f"{text[max(0, before - 20) : before + 20]!r}"
                )


def training_text() -> list[str]:
    """Real text where there is some, else that of the demo's world."""
    if not (DATA / "pretrain_zh").is_dir():
        return [document["text"] for document in documents(1, 20_000, "train")]
    texts = []
    for path in sorted((DATA / "pretrain_zh").iterdir()):
        size = 0
        for document in read_documents(path):
            texts.append(document["text"][:20_000])
            size += len(texts[-1].encode())
            if size > SHARE:
                break
    return texts


@pytest.fixture(scope="session")
def vocabularies(tmp_path_factory: pytest.TempPathFactory) -> list[Three]:
    pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("vocabularies")
    texts = training_text()
    made = []
    for name, options in VOCABULARIES.items():
        ours = train_tokenizer(iter(texts), out=folder / name, min_frequency=1, **options)
        made.append(
            Three(name, ours, Stock(ours), Llama(ours, folder / f"{name}-gguf") if HAVE_LLAMA else None)
        )
    return made


@pytest.fixture(scope="session")
def llama(vocabularies: list[Three]) -> list[Three]:
    if not HAVE_LLAMA:
        pytest.skip(WHY_NOT)
    return vocabularies


def agree(vocabularies: list[Three], text: str, data: st.DataObject) -> None:
    for three in vocabularies:
        three.check(text)
    three = data.draw(st.sampled_from(vocabularies))
    three.check(data.draw(awkward.halves(three.ours.vocabulary.tokens)).decode("utf-8", "replace"))


@settings(max_examples=2000, deadline=None, suppress_health_check=relaxed)
@given(awkward.texts, st.data())
def test_three_programs_agree(vocabularies: list[Three], text: str, data: st.DataObject) -> None:
    agree(vocabularies, text, data)


@pytest.mark.nightly
@settings(max_examples=100_000, deadline=None, suppress_health_check=relaxed)
@given(awkward.texts, st.data())
def test_three_programs_agree_at_length(vocabularies: list[Three], text: str, data: st.DataObject) -> None:
    agree(vocabularies, text, data)


@settings(max_examples=1000, deadline=None, suppress_health_check=relaxed)
@given(awkward.raw)
def test_bytes_that_are_no_text(vocabularies: list[Three], data: bytes) -> None:
    for three in vocabularies:
        three.check_raw(data)


@pytest.mark.nightly
@settings(max_examples=50_000, deadline=None, suppress_health_check=relaxed)
@given(awkward.raw)
def test_bytes_that_are_no_text_at_length(vocabularies: list[Three], data: bytes) -> None:
    for three in vocabularies:
        three.check_raw(data)


def test_llama_cpp_aborts_where_we_say_it_does() -> None:
    """The reading itself, by hand: U+FFFD a byte, overlong forms and surrogates as they are spelt, nothing
    above U+10FFFF."""
    assert as_llama_reads("a好😀".encode()) == "a好😀".encode()
    assert as_llama_reads(b"\xe4\xbda\xff\xf8") == b"\xef\xbf\xbd\xef\xbf\xbda\xef\xbf\xbd\xef\xbf\xbd"
    assert as_llama_reads(b"\xc1\x81\xe0\x80\x80\xed\xa0\x80") == b"A\x00\xed\xa0\x80"
    assert as_llama_reads(b"\xf4\x90\x80\x80") is None


def every_character(step: int) -> Iterator[tuple[str, list[str]]]:
    points = [point for point in range(0, 0x110000, step) if not 0xD800 <= point < 0xE000]
    for begin in range(0, len(points), 512):
        found = [chr(point) for point in points[begin : begin + 512]]
        yield "".join(map(awkward.in_context, found)), found


def differing(ours: Tokenizer, peer: Any, text: str, found: list[str]) -> list[int]:
    """Characters of a text that a peer gives other ids: none if it gives the same to the whole."""
    if ours.encode(text) == peer(text).tolist():
        return []
    return [
        ord(character)
        for character in found
        if ours.encode(awkward.in_context(character)) != peer(awkward.in_context(character)).tolist()
    ]


@pytest.mark.parametrize("step", [97, pytest.param(1, marks=pytest.mark.nightly)])
def test_every_character_in_tokenizers(vocabularies: list[Three], step: int) -> None:
    three = vocabularies[0]
    for text, found in every_character(step):
        assert differing(three.ours, three.stock.ids, text, found) == []


@pytest.mark.parametrize("step", [97, pytest.param(1, marks=pytest.mark.nightly)])
def test_every_character_in_llama_cpp(llama: list[Three], step: int) -> None:
    """Its Unicode may be older than that of `tokenizers`; only what is listed as newer may differ."""
    newer = {point for first, last in NEWER_THAN_LLAMA for point in range(first, last + 1)}
    three = llama[0]
    assert three.llama is not None
    for text, found in every_character(step):
        wrong = differing(three.ours, lambda text: three.llama.ids(text.encode()), text, found)
        assert set(wrong) <= newer, [f"U+{point:04X}" for point in wrong if point not in newer][:20]


def strings_of(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings_of(item)


def texts_in(path: Path) -> Iterator[str]:
    """The texts of a compressed file, record by record: every string in it."""
    for _, _, line in lines(blocks(path, DEFAULT_LIMITS), DEFAULT_LIMITS):
        if line:
            yield "\n".join(strings_of(json.loads(line)))


def real_files() -> list[Path]:
    return (
        sorted(path for path in DATA.rglob("*") if path.is_file() and path.suffix != ".md")
        if DATA.is_dir()
        else []
    )


@pytest.mark.parametrize("path", real_files(), ids=lambda path: path.name)
@pytest.mark.nightly
def test_all_real_data(vocabularies: list[Three], path: Path) -> None:
    """Every record of every compressed file; every other file whole, its bytes as they are and as U+FFFD for
    what is no UTF-8.

    llama.cpp, by far the slowest, reads each record with one vocabulary, which takes turns.
    """
    if not path.name.endswith(".jsonl.zst"):
        data = path.read_bytes()
        for three in vocabularies:
            three.check_raw(data)
            three.check_all([data.decode("utf-8", "replace")], path.name)
        return
    texts = texts_in(path)
    for turn in itertools.count():
        batch = list(islice(texts, 200))
        if not batch:
            return
        for index, three in enumerate(vocabularies):
            three.check_all(batch, path.name, llama=index == turn % len(vocabularies))


def test_a_sample_of_the_real_data(vocabularies: list[Three]) -> None:
    if not real_files():
        pytest.skip(f"real data not present: {DATA}")
    for path in real_files():
        if path.name.endswith(".jsonl.zst"):
            texts = [text[:1000] for text in islice(texts_in(path), 2)]
        else:
            texts = [path.read_bytes()[:2000].decode("utf-8", "replace")]
        for three in vocabularies:
            three.check_all(texts, path.name)


@pytest.mark.nightly
@pytest.mark.parametrize(
    "unit", ["中", "a", " ", "\n", "0", "!", "\u0301", "中国", "ab", "👩‍👩‍👧‍👦", "\r\n", " \n"]
)
def test_ten_megabytes_of_one_thing(vocabularies: list[Three], unit: str) -> None:
    """A little less of it: at ten million steps in one pre-token the regex engine of `tokenizers` gives up
    and panics."""
    text = unit * (9_990_000 // len(unit.encode()))
    vocabularies[0].check_all([text], repr(unit))


@pytest.mark.nightly
@settings(max_examples=20, deadline=None, suppress_health_check=relaxed)
@given(awkward.texts.filter(lambda text: len(text) > 30))
def test_lines_of_a_megabyte(vocabularies: list[Three], text: str) -> None:
    line = text.replace("\n", "").replace("\r", "")
    long = line * (1_000_000 // max(1, len(line.encode())) + 1)
    for three in vocabularies[:2]:
        three.check_all([long, long[1:] + "\n" + long[: len(long) // 3]], repr(text))
