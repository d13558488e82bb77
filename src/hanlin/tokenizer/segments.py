"""Which of a text is Chinese, which English, which code, which numbers: every byte belongs to exactly one
class.

Lines that look like code come first (`is_code`, and whatever stands between two lines of ```); in what is
left, runs:

* `chinese`: Han characters, and the punctuation of Chinese (U+3001–303F and full-width forms);
* `english`: Latin letters, also with accents;
* `numbers`: digits, also full-width ones;
* `code`: whole lines of code, with the numbers and words in them. Comments and docstrings that stand on lines
  of their own are prose;
* `other`: everything else: kana, hangul, Cyrillic, Greek, emoji, box drawing, what is not UTF-8.

White space and the punctuation that all of them share belong to what stands before them; but one character
directly before a word goes with the word, as the split pattern has it, so that " the" and "(the" are not cut.
A cut thus falls between two pre-tokens, save where Chinese touches Latin letters without a space
(`用Python写`) and where several spaces stand before a digit or an emoji.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

CLASSES = ("chinese", "english", "numbers", "code", "other")

_HAN = (
    "\u2e80-\u2fdf\u3001-\u303f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40"
    "\uff5b-\uff65\U00020000-\U0003fffd"
)
_LATIN = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff\uff21-\uff3a\uff41-\uff5a"
_DIGIT = "0-9\uff10-\uff19"
# White space, ASCII punctuation, signs of Latin-1, general punctuation (“”—…) and the ideographic space.
_SHARED = "\x00-/:-@\\[-`{-\u00a9\u00ab-\u00b4\u00b6-\u00b9\u00bb-\u00bf\u00d7\u00f7\u2000-\u206f\u3000"
_OTHER = f"^{_HAN}{_LATIN}{_DIGIT}{_SHARED}"
# A stretch begins and ends with a character of its class, with nothing but its own and shared ones between.
_STRETCH = re.compile(
    "|".join(
        f"(?P<{name}>[{own}]+(?:[{_SHARED}]+[{own}]+)*)"
        for name, own in (("chinese", _HAN), ("english", _LATIN), ("numbers", _DIGIT), ("other", _OTHER))
    )
)
_HAN_IN_LINE = re.compile(f"[{_HAN}]")
_COMMENT_OR_STRING = re.compile(r"#.*|//.*|\"[^\"\n]*\"|'[^'\n]*'")
_CODE = re.compile(
    r"""
    # how such lines begin
    ^\s*(?:import\s+[\w.]+|from\s+[\w.]+\s+import\b|(?:async\s+)?def\s+\w+|class\s+\w+\s*[:({]
        |return\b.*[\w)\]}"';]$|\#include\b|\#!/|@\w+|(?:else|try|finally)\s*:|>>>\s|\$\s+\w|</?\w+[^>]*>
        |(?:const|let|var|func|fn|public|private|static)\s+\w)
    # how they end
    | [{};\\]\s*$ | [)\]]\s*[:,]\s*$ | [\[(]\s*$
    # what prose has no use for
    | [=!<>+\-*/|&]= | -> | => | :: | && | \|\| | \w\(\) | </\w | /> | \s=\s | \w\(.*\)\s*$
    # calls and settings
    | \w\.\w+\(  | ^\s*\w+=\S | ^\s+\w+\(
    """,
    re.VERBOSE,
)
_NAME = re.compile(r"[A-Za-z_]{2}")


def is_code(line: str) -> bool:
    """Whether one line looks like code: it holds a name, no Chinese outside comments and strings, and begins
    or ends as statements do or has signs that prose has no use for."""
    if not _NAME.search(line):
        return False
    if _HAN_IN_LINE.search(line):
        line = _COMMENT_OR_STRING.sub('""', line).rstrip()
        if _HAN_IN_LINE.search(line) or not _NAME.search(line):
            return False
    return _CODE.search(line) is not None


def segments(text: str) -> Iterator[tuple[str, str]]:
    """Cut a text into (class, part); the parts together are the text."""
    for code, block in _blocks(text):
        if code:
            yield "code", block
        else:
            yield from _runs(block)


def _blocks(text: str) -> Iterator[tuple[bool, str]]:
    """Lines of code and other lines by turns; blank lines belong to those before them."""
    begin = position = 0
    code = fenced = False
    for line in text.splitlines(keepends=True) if "\n" in text else [text]:
        stripped = line.strip()
        fence = stripped.startswith("```")
        kind = code if not stripped else fenced or fence or is_code(line)
        fenced ^= fence
        if kind != code and position > begin:
            yield code, text[begin:position]
            begin = position
        code = kind
        position += len(line)
    if position > begin:
        yield code, text[begin:position]


def _runs(text: str) -> Iterator[tuple[str, str]]:
    begin, name = 0, ""
    end = 0  # of the stretch before
    for stretch in _STRETCH.finditer(text):
        found = stretch.lastgroup or "other"
        if name and found != name:
            cut = stretch.start()
            if cut > end and _joins_next(text[end:cut], text[cut]):
                cut -= 1
            yield name, text[begin:cut]
            begin = cut
        name, end = found, stretch.end()
    if begin < len(text):
        yield name or "other", text[begin:]


def _joins_next(between: str, following: str) -> bool:
    """Whether the last of the shared characters between two stretches is one pre-token with what follows."""
    last, before = between[-1], between[-2:-1]
    if last in "\r\n":
        return False
    if not following.isalpha():
        return last == " " and not following.isdecimal()
    return last.isspace() or before in ("", "\r", "\n")
