"""Repair of text that is meant to stay: wrong decodings, invisible characters, HTML residue, white space.

Full-width Chinese punctuation is left alone (NFC, never NFKC), and so is everything inside code fences.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from hanlin.corpus.text.characters import (
    BREAKS,
    COMMON,
    CP1252,
    HAN,
    INVISIBLES,
    JOINER,
    ODD_SPACES,
    WESTERNS,
    code_points,
    flags,
    native_table,
    plausibility,
    with_core,
)

# Why a text may need work: native/normalization_check.hpp.
TAGGED, BROKEN, SPACED, INVISIBLE, UNCOMPOSED, TRAILING, BLANK, MOJIBAKE, LEFTOVERS = (
    1 << bit for bit in range(9)
)

_INVISIBLE = re.compile(rf"{INVISIBLES}|{JOINER}(?![\u2600-\u27bf\U0001f000-\U0001faff])")
_BREAKS = re.compile(rf"\r\n|{BREAKS}")
_SPACES = re.compile(ODD_SPACES)
_CODE = r"```.*?(?:```|\Z)|`[^`\n]+`"
_TAGGED = re.compile(r"<[a-zA-Z/!?]|&[#a-zA-Z]")
_PAGE = re.compile(r"\A\s*(?:<\?xml|<!doctype|<html|<rss|<feed)", re.I)
# Each start is searched only up to the next start of its kind: many openings without an end stay linear.
_DECLARED = r"<!--(?:(?!<!--).)*?-->|<!\[CDATA\[(?P<data>(?:(?!<!\[CDATA\[).)*?)\]\]>|<[!?][a-zA-Z][^<>]*>"
# With their content; in a fragment only what never holds text, since an article may well mention <nav> and
# </nav>. Every alternative begins with a literal, here and below: `re` then skips what lies between quickly.
# Code is matched to be left alone.
_HIDDEN = re.compile(
    rf"{_CODE}|{_DECLARED}|<(?P<tag>script|style|noscript|iframe|svg)\b[^<>]*>(?:(?!<(?P=tag)\b).)*?</(?P=tag)\s*>",
    re.S | re.I,
)
_HIDDEN_OF_PAGE = re.compile(
    rf"{_DECLARED}|<(?P<tag>script|style|noscript|iframe|svg|head|nav|footer|select|template)\b[^<>]*>(?:(?!<(?P=tag)\b).)*?(?:</(?P=tag)\s*>|(?=<body\b))",
    re.S | re.I,
)
_BLOCK = (
    "p|div|br|hr|li|ul|ol|dl|dt|dd|tr|td|th|table|tbody|thead|tfoot|caption|h[1-6]|blockquote|section|article|aside|header|"
    "main|nav|head|footer|figure|figcaption|form|fieldset|legend|center|pre|address|html|body|title|option|details|summary"
)
_INLINE = (
    "a|b|i|u|s|em|strong|span|font|img|input|label|sup|sub|small|big|code|abbr|acronym|cite|tt|kbd|samp|var|wbr|ruby|rt|rp|"
    "rb|video|audio|source|embed|object|param|button|textarea|link|meta|base|map|area|del|ins|mark|nobr|strike|time|q|"
    "canvas|o:p|noscript|iframe|svg|select|template|col|colgroup|frame|frameset|script|style"
)
_TAG = re.compile(rf"{_CODE}|</?(?:(?P<block>{_BLOCK})|(?:{_INLINE}))(?:\s[^<>]*|/)?>", re.S | re.I)
_ANY_TAG = re.compile(r"</?[a-zA-Z][\w:.-]*(?:\s[^<>]*|/)?>")
_ENTITY = re.compile(_CODE + r"|&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z]{2,8}\d?);", re.S)
# What the three patterns above cannot match without; each begins with a literal, which `re` looks for many
# times as fast.
_HIDES = re.compile(r"<(?:[!?]|script|style|noscript|iframe|svg|head|nav|footer|select|template)", re.I)
_TAGS = re.compile(rf"<(?:/?(?:{_BLOCK}|{_INLINE})[\s/>])", re.I)
_ENTITIES = re.compile(r"&(?:#|[a-zA-Z]{2})")
_SCRIPT = re.compile(
    r"document\.\w+|window\.\w+|function\s*\w*\s*\(|\bvar\s+\w+\s*=|\$\(|jQuery|javascript:|addEventListener|@media|[\w)\]]\s*\{[^{}]{0,400}:[^{}]{0,400}[;}]|^\s*[{}();]+\s*$"
)

_CHINESE = re.compile("[\u3400-\u9fff]{2}")
_WESTERN = re.compile(WESTERNS)
# U+4E00 to U+9FFF, where all common ideographs are
_UTF8_HAN = re.compile(rb"[\xe4-\xe9][\x80-\xbf][\x80-\xbf]")
_LOST = re.compile("锟斤拷|锟斤|斤拷|烫烫烫|屯屯屯")


def needs_normalization(texts: Sequence[str]) -> np.ndarray:
    """Why each text may need repair or normalisation, bits TAGGED … LEFTOVERS, (N,) uint32; 0: both would
    change nothing.

    A bit only says that a closer look is worth while. One pass of the core, several hundred MB/s.
    """
    return with_core(native_table().needs_normalization, texts)


def repair_and_normalize(text: str, reasons: int) -> tuple[str, int]:
    """`repair_mojibake` and then `normalize`, where `needs_normalization` gave reasons to: the text, and the
    characters lost to mojibake."""
    lost = 0
    if reasons & (MOJIBAKE | LEFTOVERS):
        repaired, lost = repair_mojibake(text)
        if repaired == text and not reasons & ~(MOJIBAKE | LEFTOVERS):
            return text, lost
        text, reasons = repaired, _reasons(repaired)
    return (normalize(text, reasons)[0] if reasons else text), lost


def normalize(text: str, reasons: int | None = None) -> tuple[str, bool]:
    """Visible, composed, tidy text, and whether HTML was removed from it.

    Args:
        reasons: what `needs_normalization` said of the text, if it is known.
    """
    reasons = _reasons(text) if reasons is None else reasons
    tagged = False
    if reasons & TAGGED:
        stripped = strip_html(text)
        tagged = stripped != text
        text, reasons = stripped, _reasons(stripped) if tagged else reasons
    if reasons & (BROKEN | SPACED | INVISIBLE | UNCOMPOSED):
        text = _BREAKS.sub("\n", text) if reasons & BROKEN else text
        text = _SPACES.sub(" ", text) if reasons & SPACED else text
        text = _INVISIBLE.sub("", text) if reasons & INVISIBLE else text
        text = unicodedata.normalize("NFC", text)
        reasons = BLANK | (
            TRAILING if any(map(f"\n{text}\n".__contains__, (" \n", "\t\n", "\u3000\n", "\n\u3000"))) else 0
        )
    if reasons & TRAILING:
        text = "\n".join(line.rstrip(" \t\u3000").lstrip("\u3000") for line in text.split("\n"))
        reasons |= BLANK  # lines of spaces are empty now
    return collapse(text) if reasons & BLANK else text, tagged


def _reasons(text: str) -> int:
    return int(needs_normalization([text])[0])


def collapse(text: str) -> str:
    """At most one empty line in a row, none at the ends."""
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text.strip("\n")


def strip_html(text: str) -> str:
    """Text without tags, comments, scripts and entities; code fences and `inline code` keep theirs.

    Only names HTML has are taken for tags, so `a<b` and generics of program code survive; a whole page loses
    every tag. Where there was HTML, lines of script that pages leave behind go too.
    """
    page, whole = bool(_PAGE.match(text)), text
    for _ in range(
        2
    ):  # feeds carry HTML as entities inside XML: a second round strips what the first unescaped
        before = text
        if _HIDES.search(text):
            text = (_HIDDEN_OF_PAGE if page else _HIDDEN).sub(_left_out, text)
        if _TAGS.search(text):
            text = _TAG.sub(_untagged, text)
        if page:
            text = _ANY_TAG.sub("\n", text)
        if text == before and "&" not in text:
            break
        unescaped = _ENTITY.sub(_unescaped, text) if _ENTITIES.search(text) else text
        changed, text = unescaped != text, unescaped
        if not (changed and _TAGGED.search(text)):
            break
    return _without_script(text, page) if page or text != whole else text


def _left_out(found: re.Match[str]) -> str:
    return found[0] if found[0][0] == "`" else found["data"] or "\n"


def _untagged(found: re.Match[str]) -> str:
    return found[0] if found[0][0] == "`" else "\n" if found["block"] else ""


def _unescaped(found: re.Match[str]) -> str:
    return found[0] if found[0][0] == "`" else html.unescape(found[0])


def _without_script(text: str, page: bool) -> str:
    """The text without lines of script; of what is no whole page, Markdown's code keeps them: fenced, or
    indented after an empty line."""
    if not page and text.count("{") + text.count("(") < 2:
        return text
    kept, fenced, indented, before = [], False, False, ""
    for line in text.split("\n"):
        if not page:
            fenced ^= "```" in line and line.lstrip().startswith("```")
            indented = line.startswith(("    ", "\t")) and (indented or not before)
        if fenced or indented or not is_script(line):
            kept.append(line)
        before = line
    return "\n".join(kept)


def is_script(line: str) -> bool:
    """Whether a line is JavaScript or CSS left over from a page: code by its look, and no Chinese to lose."""
    return not _CHINESE.search(line) and bool(_SCRIPT.search(line))


def repair_mojibake(text: str) -> tuple[str, int]:
    """Text with wrongly decoded lines set right, and the number of characters in lines that are beyond
    repair.

    Knows UTF-8 and GBK read as Windows-1252/Latin-1, UTF-8 read as GBK, and the leftovers 锟斤拷 and 烫烫烫
    of a lossy round trip. A line is touched only when it shows such marks; lines beyond repair are taken out.
    """
    reasons = _reasons(text)
    if not (reasons & MOJIBAKE or (reasons & LEFTOVERS and _LOST.search(text))):
        return text, 0
    kept, lost = [], 0
    for line in text.split("\n"):
        fixed = _repair_line(line)
        if fixed is None:
            lost += len(line)
        else:
            kept.append(fixed)
    return "\n".join(kept), lost


def _repair_line(line: str) -> str | None:
    """The line as it should read, the line itself when nothing is wrong with it, or None."""
    if line.isascii():
        return line
    size = len(line.replace(" ", ""))
    western = len(_WESTERN.findall(line))
    if western >= 3 and western > 0.15 * size:
        data = b"".join(bytes([CP1252[c]]) if c in CP1252 else c.encode("utf-8", "replace") for c in line)
        return _first_plausible(data, ("utf-8", "gb18030"), line if _western_language(line) else None)
    if _gbk_traced(line):
        try:
            return _first_plausible(line.encode("gb18030"), ("utf-8",), None)
        except UnicodeEncodeError:
            return None
    lost = sum(map(len, _LOST.findall(line)))
    return None if lost and lost > 0.05 * size else line


def _first_plausible(data: bytes, encodings: tuple[str, ...], otherwise: str | None) -> str | None:
    for encoding in encodings:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if plausibility(text) > 0.35:
            return text
    return otherwise


def _western_language(line: str) -> bool:
    """Accents of a European language sit singly inside words; those of mojibake stand in rows."""
    return not re.search("[\x80-\xff\u0152-\u0192\u20ac\u2122\ufffd]{3}", line)


def _gbk_traced(line: str) -> bool:
    """UTF-8 read as GBK, in part or whole: turned back into bytes, it holds UTF-8 of common Chinese
    characters.

    By chance GBK bytes of real text form a UTF-8 ideograph here and there, but hardly ever a common one (1
    in 30).
    """
    data = line.encode("gb18030", "ignore")
    if len(_UTF8_HAN.findall(data)) < 3:
        return False
    back = data.decode("utf-8", "ignore")
    kinds = flags(code_points(back))
    common = int(((kinds & COMMON) != 0).sum())
    return common >= 3 and common > 0.4 * int(((kinds & HAN) != 0).sum())
