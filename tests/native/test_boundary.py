"""The C++ core as Python sees it: threads, interrupts, and mistakes that must not crash."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from hanlin import _native

BYTES = [bytes([byte]) for byte in range(256)]


def test_threads_share_an_encoder() -> None:
    encoder = _native.Encoder(
        [*BYTES, b"ab", "你".encode()[:2], "你".encode()],
        259,
        [(97, 98, 256), (0xE4, 0xBD, 257), (257, 0xA0, 258)],
    )
    rng = random.Random(1)
    texts = ["".join(rng.choices("ab你好\n ", k=2000)) for _ in range(64)]
    expected = [encoder.encode(text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(encoder.encode, texts)) == expected
        for ids, offsets in pool.map(encoder.encode_batch, [texts] * 4):
            assert [ids[a:b].tolist() for a, b in zip(offsets, offsets[1:], strict=False)] == expected


def test_arrays_outlive_what_made_them() -> None:
    encoder = _native.Encoder(BYTES, 256, [])
    ids, offsets = encoder.encode_batch(["ab"])
    del encoder
    assert (ids.tolist(), offsets.tolist()) == ([97, 98], [0, 2])


@pytest.mark.parametrize("wrong", [3, None, [b"a", 3], {"a": 1}, "\ud800", ["\ud800"]])
def test_what_is_no_text_is_refused(wrong: object) -> None:
    """Also a str that has no UTF-8: hanlin.tokenizer turns that into bytes before."""
    encoder = _native.Encoder(BYTES, 256, [])
    for call in (encoder.encode, encoder.encode_batch, _native.PretokenCounter().add, _native.pretokens):
        if call in (encoder.encode_batch, encoder.encode) and isinstance(wrong, dict):
            continue  # a dict of texts is a sequence of texts to nobody, but harmless
        with pytest.raises((TypeError, UnicodeEncodeError)):
            call(wrong)


def test_counts_cannot_overflow() -> None:
    counter = _native.PretokenCounter()
    counter.add_word(b"ab", 2**61 - 1)
    counter.add_word(b"ab", 1)
    with pytest.raises(OverflowError):
        counter.add_word(b"ab", 1)
    with pytest.raises(ValueError):
        counter.merge(counter)
    assert _native.train(counter, 5) == [(b"a", b"b", 2**61)]


def test_interrupt_stops_training_within_a_second() -> None:
    code = """
import random, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in the background
from hanlin import _native
rng = random.Random(0)
counter = _native.PretokenCounter()
for _ in range(60):
    counter.add_word("".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=50_000)), 1)
print("ready", flush=True)
while True:
    _native.train(counter, 60_000, 1)
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        time.sleep(0.3)
        begin = time.monotonic()
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=30)
    finally:
        child.kill()
    assert "KeyboardInterrupt" in errors
    assert time.monotonic() - begin < 10  # a second of work, on a machine that may be busy
