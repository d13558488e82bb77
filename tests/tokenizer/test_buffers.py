"""Arrays in, arrays out; and the vocabulary in a tokenizer.json, read without Python objects, is what a plain
reading finds."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanlin import _native
from hanlin.common.errors import HanlinError
from hanlin.tokenizer import Tokenizer, load_tokenizer
from hanlin.tokenizer.special import from_letters

texts = st.lists(
    st.binary(max_size=12) | st.text(max_size=12).map(lambda text: text.encode("utf-8", "surrogatepass")),
    max_size=6,
)
INTEGERS = ["<u2", "<u4", ">u4", "<i4", "<u8", "<i8", ">i8"]


def laid_out(parts: list[bytes]) -> tuple[numpy.ndarray, numpy.ndarray]:
    return numpy.frombuffer(b"".join(parts), numpy.uint8), numpy.cumsum([0, *map(len, parts)]).astype(
        numpy.uint64
    )


@given(parts=texts, kind=st.sampled_from(INTEGERS))
def test_buffers_equal_texts_one_by_one_and_come_back(
    tokenizer: Tokenizer, parts: list[bytes], kind: str
) -> None:
    buffer, offsets = laid_out(parts)
    ids, begins = tokenizer.encode_buffer(buffer, offsets)
    assert (ids.dtype, begins.dtype) == (numpy.uint32, numpy.uint64)
    assert [ids[a:b].tolist() for a, b in zip(begins, begins[1:], strict=False)] == [
        tokenizer.encode(part) for part in parts
    ]
    for given_ids in (ids.astype(kind), numpy.repeat(ids, 2)[::2]):
        again, back = tokenizer.decode_buffer(given_ids, begins)
        assert (again == buffer).all() and (back == offsets).all()
        assert tokenizer.decode_bytes(given_ids) == buffer.tobytes()
    assert tokenizer.decode(ids, special=False) == tokenizer.decode(ids.tolist(), special=False)


def test_parts_of_a_read_only_buffer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes("前面小猫后面".encode())
    mapped = numpy.memmap(tmp_path / "text", numpy.uint8, "r")
    for buffer in (mapped, bytes(mapped), memoryview(bytes(mapped))):
        ids, begins = tokenizer.encode_buffer(buffer, numpy.array([6, 12]))
        assert ids.tolist() == tokenizer.encode("小猫") and begins.tolist() == [0, len(ids)]


@pytest.mark.parametrize(
    "buffer,offsets,said",
    [
        (b"abc", [0, 2, 1], r"offsets\[2\] = 1"),
        (b"abc", [0, 4], "past the end, 3"),
        (b"abc", [-1, 2], "-1"),
        (b"abc", [], "empty"),
        (b"abc", [0.0, 3.0], "float64"),
        (b"abc", [[0, 3]], "2-D"),
        (numpy.zeros(3, numpy.int32), [0, 3], "int32"),
        (numpy.zeros((1, 3), numpy.uint8), [0, 1], "2-D"),
        ("abc", [0, 3], "str"),
    ],
)
def test_wrong_buffers_are_refused(
    tokenizer: Tokenizer, buffer, offsets, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANLIN_LANG", "en")
    with pytest.raises(HanlinError, match=said):
        tokenizer.encode_buffer(buffer, numpy.array(offsets))


@pytest.mark.parametrize(
    "ids,said",
    [
        ([3, 500], "500"),
        ([3, -1], "-1"),
        ([2**40], str(2**40)),
        (numpy.array([2**64 - 1], numpy.uint64), str(2**64 - 1)),
        ([1.0], "float64"),
        ([True], "bool"),
        ([[1]], "2-D"),
    ],
)
def test_wrong_ids_are_refused(tokenizer: Tokenizer, ids, said: str) -> None:
    for decode in (
        tokenizer.decode,
        tokenizer.decode_bytes,
        lambda array: tokenizer.decode_buffer(array, numpy.array([0, len(array)])),
    ):
        with pytest.raises(HanlinError, match=said):
            decode(numpy.array(ids))


def test_no_ids_are_no_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(numpy.array([])) == ""


# ---------------------------------------------------------------- tokenizer.json


def test_the_vocabulary_is_what_a_plain_reading_finds(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """However the JSON is laid out: spaces, escapes, another order of the tokens and of the keys."""
    document = json.loads((tokenizer.path / "tokenizer.json").read_bytes())
    model = document["model"]
    items = list(model["vocab"].items())
    random.Random(5).shuffle(items)
    model["vocab"] = dict(items)
    document["model"] = dict(reversed(model.items()))
    document["padding"] = {"model": {"vocab": {"a": 0}, "merges": []}, "]}": '\\"{['}
    for layout in (
        {},
        {"ensure_ascii": False},
        {"indent": 3},
        {"separators": (",", ":"), "ensure_ascii": False},
    ):
        core, rest = _native.Vocabulary.of_json(
            json.dumps(dict(reversed(document.items())), **layout).encode()
        )
        tokens = [from_letters(letters) for letters, _ in sorted(items, key=lambda item: item[1])]
        ids = {token: index for index, token in enumerate(tokens)}
        assert core.tokens() == tokens
        parts = [(from_letters(left), from_letters(right)) for left, right in model["merges"]]
        assert core.merges() == [(ids[left], ids[right], ids[left + right]) for left, right in parts]
        assert json.loads(rest) == {**document, "model": {**model, "vocab": {}, "merges": []}}
    loaded = load_tokenizer(tokenizer.path)
    assert loaded.vocabulary == tokenizer.vocabulary
    assert (loaded.vocabulary.tokens, loaded.vocabulary.merges) == (
        tokenizer.vocabulary.tokens,
        tokenizer.vocabulary.merges,
    )


def broken(change) -> bytes:
    letters = [
        chr(code)
        for code in [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100), *range(0x100, 0x144)]
    ]
    model = {
        "vocab": {letter: index for index, letter in enumerate([*letters, "ab"])},
        "merges": [["a", "b"]],
    }
    change(model)
    return json.dumps({"model": model}).encode()


@pytest.mark.parametrize(
    "change,said",
    [
        (lambda m: m["vocab"].update(ab=300), "ids"),
        (lambda m: m["vocab"].update(ab=7), "ids"),
        (lambda m: m["vocab"].update(ab=-1), "number"),
        (lambda m: m["vocab"].update({"好": 257}), "no byte"),
        (lambda m: m["merges"].append(["b", "a"]), 'merge 1: "ba"'),
        (lambda m: m["merges"].append("a b"), "merge 1 is not a pair"),
        (lambda m: m["merges"].append(["a"]), "expected ,"),
        (lambda m: m.pop("merges"), "no merges"),
        (lambda m: m.update(vocab=[["a", 0.5]]), "no vocab"),
    ],
)
def test_what_does_not_fit_is_refused_and_named(change, said: str) -> None:
    assert len(_native.Vocabulary.of_json(broken(lambda model: None))[0]) == 257
    with pytest.raises(ValueError, match=said):
        _native.Vocabulary.of_json(broken(change))


@given(seed=st.integers(0, 2**32))
def test_mangled_files_are_refused_or_read_and_never_crash(tokenizer: Tokenizer, seed: int) -> None:
    content = bytearray((tokenizer.path / "tokenizer.json").read_bytes())
    chance = random.Random(seed)
    for _ in range(chance.randint(1, 3)):
        where = chance.randrange(len(content))
        if chance.random() < 0.3:
            del content[where:]
        else:
            content[where : where + chance.randint(0, 2)] = chance.choice(
                [b"", b'"', b"\\", b"\\u00", b"{", b"]", b"9", b",", b"\xff"]
            )
        if not content:
            break
    try:
        core, _ = _native.Vocabulary.of_json(bytes(content))
    except ValueError:
        return
    assert all(
        core.tokens()[left] + core.tokens()[right] == core.tokens()[result]
        for left, right, result in core.merges()
    )


def test_refusals_say_what_is_wrong(tokenizer: Tokenizer, tmp_path: Path) -> None:
    whole = (tokenizer.path / "tokenizer.json").read_bytes()
    file = tmp_path / "tokenizer.json"
    document = json.loads(whole)
    document["added_tokens"] = document["added_tokens"][:1]
    del document["model"]["merges"][3:]
    for content, said in (
        (whole[:-9], "JSON"),
        (json.dumps(document).encode(), "added_tokens: no <"),
        (b"[]", "Hanlin"),
        (b"", "JSON"),
    ):
        file.write_bytes(content)
        with pytest.raises(HanlinError) as refusal:
            load_tokenizer(tmp_path)
        assert said in refusal.value.en and str(file) in refusal.value.en


def test_opening_imports_little(tokenizer: Tokenizer) -> None:
    """What made opening slow: numpy, the modules of training, those that look up versions."""
    slow = ("torch", "numpy", "importlib.metadata", "concurrent.futures", "rich", "cyclopts")
    code = (
        "import sys; before = set(sys.modules); import hanlin; "
        f"hanlin.load_tokenizer({str(tokenizer.path)!r}); "
        f"assert not set({slow}) & (set(sys.modules) - before)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
