"""Checks of instructions that a program can check, by the ids of IFEval (Zhou et al. 2023) that P-MMEval has.

Each takes the reply and the instruction's own arguments. They are not OpenCompass's, whose first word of a
paragraph always passes, whose loose score looks at the unchanged reply, whose `less than` includes the limit,
whose sentences are lines, and which hands the arguments of all instructions of a prompt to each of them, so
that one `relation` overwrites the other: numbers differ by design.
"""

from __future__ import annotations

import inspect
import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

Checker = Callable[..., bool]
CHECKERS: dict[str, Checker] = {}

_ANSWER = re.compile(r"我的答案是(是|否|不确定)(?=[。.！!，,”」\"*\s]|$)")
_WORD = re.compile(
    r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]|[A-Za-z0-9]+(?:['.-][A-Za-z0-9]+)*"
)
_SENTENCE_END = re.compile(r"[。！？!?…]+[”’」』\"')）]*|\n+|(?<=[A-Za-z0-9)\"'])\.(?=\s|$)")
_RELATIONS = {"less than": True, "少于": True, "at least": False, "至少": False}  # whether it is less
_QUOTES = (("“", "”"), ('"', '"'), ("「", "」"), ("『", "』"), ("＂", "＂"))


def arguments_of(instruction: str, given: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a check takes of the arguments given; None where one that it needs is missing or a relation is
    none. Whole numbers that came as floats are whole again."""
    taken = {}
    for name, parameter in list(inspect.signature(CHECKERS[instruction]).parameters.items())[1:]:
        value = given.get(name)
        if name == "relation" and value not in (*_RELATIONS, None):
            return None
        if value is not None:
            taken[name] = int(value) if isinstance(value, float) and value.is_integer() else value
        elif parameter.default is parameter.empty:
            return None
    return taken


def follows(instruction: str, arguments: Mapping[str, Any], reply: str) -> bool:
    """Whether a reply does what an instruction asks; an empty one does nothing."""
    return bool(reply.strip()) and CHECKERS[instruction](reply, **arguments)


def variants(reply: str) -> list[str]:
    """The texts of which the lenient verdict takes any: without the first line, the last, both, and each of
    these without asterisks. Those are what a model says about its answer, and its bold type."""
    lines = reply.split("\n")
    cut = [reply, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return cut + [text.replace("*", "") for text in cut]


def checker(name: str) -> Callable[[Checker], Checker]:
    """Enter a check under an instruction's id, as a decorator."""

    def enter(function: Checker) -> Checker:
        CHECKERS[name] = function
        return function

    return enter


@checker("combination:repeat_prompt")
def repeats_prompt(reply: str, prompt_to_repeat: str) -> bool:
    """First the request, word for word, then an answer."""
    begin, reply = _folded(prompt_to_repeat), _folded(reply)
    return reply.startswith(begin) and bool(reply[len(begin) :].strip())


@checker("combination:two_responses")
def gives_two_responses(reply: str) -> bool:
    """Two different answers with ****** between them."""
    parts = _between("*" * 6, reply)
    return len(parts) == 2 and all(parts) and parts[0] != parts[1]


@checker("detectable_content:number_placeholders")
def has_placeholders(reply: str, num_placeholders: int) -> bool:
    """At least so many gaps in square brackets, such as [地址]."""
    return len(re.findall(r"\[[^\[\]\n]+\]|［[^［］\n]+］|【[^【】\n]+】", reply)) >= num_placeholders


@checker("detectable_content:postscript")
def has_postscript(reply: str, postscript_marker: str) -> bool:
    """A line that begins with the marker and says something."""
    marker = _folded(postscript_marker)
    lines = (_folded(line).lstrip("*# ") for line in reply.splitlines())
    return any(line.startswith(marker) and line[len(marker) :].strip(" :：*") for line in lines)


@checker("detectable_format:constrained_response")
def is_constrained(reply: str) -> bool:
    """One of three set answers, and not several of them."""
    return len(set(_ANSWER.findall(reply))) == 1


@checker("detectable_format:json_format")
def is_json(reply: str) -> bool:
    """Nothing but a JSON object or array, with or without a fence of three backticks."""
    fenced = re.fullmatch(r"```(?:json)?\s*\n(.*)\n?```", reply.strip(), re.DOTALL | re.IGNORECASE)
    try:
        return isinstance(json.loads(fenced[1] if fenced else reply), (dict, list))
    except (ValueError, RecursionError):
        return False


@checker("detectable_format:number_bullet_lists")
def has_bullets(reply: str, num_bullets: int) -> bool:
    """Exactly so many items that begin with *, - or •; a rule of dashes is none, nor is bold type."""
    return len(re.findall(r"^\s*[*\-•·]\s+\S", reply, re.MULTILINE)) == num_bullets


@checker("detectable_format:number_highlighted_sections")
def has_highlights(reply: str, num_highlights: int) -> bool:
    """At least so many passages in *asterisks*, single or double; the sign of a list's item opens none."""
    found = re.findall(r"\*\*(?!\s)[^*\n]+(?<!\s)\*\*|(?<!\*)\*(?![\s*])[^*\n]+(?<!\s)\*(?!\*)", reply)
    return len(found) >= num_highlights


@checker("detectable_format:title")
def has_title(reply: str) -> bool:
    """A title in double angle brackets, <<…>>."""
    return any(
        title.strip() for title in re.findall(r"(?:<<|《《|＜＜)([^\n<>《》＜＞]+)(?:>>|》》|＞＞)", reply)
    )


@checker("keywords:forbidden_words")
def avoids_words(reply: str, forbidden_words: list[str]) -> bool:
    """None of the words occurs, in whatever case or width; a Latin word is looked for as a whole word."""
    reply = _folded(reply)
    for word in map(_folded, forbidden_words):
        pattern = re.escape(word)
        if word.isascii():
            pattern = rf"(?<![a-z0-9]){pattern}(?![a-z0-9])"
        if re.search(pattern, reply):
            return False
    return True


@checker("length_constraints:nth_paragraph_first_word")
def paragraph_begins(reply: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """So many paragraphs, with empty lines between them, of which one begins with a word."""
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n", reply) if part.strip()]
    if len(paragraphs) != num_paragraphs or not 0 < nth_paragraph <= num_paragraphs:
        return False
    return _folded(paragraphs[nth_paragraph - 1].lstrip("“\"'‘「『（(*#> \u3000")).startswith(
        _folded(first_word)
    )


@checker("length_constraints:number_paragraphs")
def has_paragraphs(reply: str, num_paragraphs: int) -> bool:
    """Exactly so many paragraphs, with *** between them, and none of them empty."""
    parts = _between("***", reply)
    return len(parts) == num_paragraphs and all(parts)


@checker("length_constraints:number_sentences")
def has_sentences(reply: str, num_sentences: int, relation: str = "at least") -> bool:
    """So many sentences; one ends at a mark that ends sentences, or with its line."""
    sentences = [part for part in _SENTENCE_END.split(reply) if _WORD.search(part)]
    return _compared(len(sentences), relation, num_sentences)


@checker("length_constraints:number_words")
def has_words(reply: str, num_words: int, relation: str = "at least") -> bool:
    """So many 字: characters, and Latin words and numbers as one each; marks and blanks don't count."""
    return _compared(len(_WORD.findall(reply)), relation, num_words)


@checker("punctuation:no_comma")
def avoids_commas(reply: str) -> bool:
    """No comma of either width; the 顿号 is another mark."""
    return not re.search("[,，﹐]", reply)


@checker("startend:end_checker")
def ends_with(reply: str, end_phrase: str) -> bool:
    """The last words are these, and nothing but closing quotation marks follows."""
    reply, phrase = _folded(reply), _folded(end_phrase)
    return reply.endswith(phrase) or reply.rstrip("\"'”’」』* ").endswith(phrase)


@checker("startend:quotation")
def is_quoted(reply: str) -> bool:
    """The whole reply stands in double quotation marks."""
    reply = reply.strip()
    return len(reply) > 2 and any(reply.startswith(left) and reply.endswith(right) for left, right in _QUOTES)


def _compared(count: int, relation: str, limit: int) -> bool:
    """`less than` is less, and not as many."""
    return count < limit if _RELATIONS[relation] else count >= limit


def _between(rule: str, reply: str) -> list[str]:
    """The parts of a reply between rules of exactly so many asterisks; those at its ends are no parts."""
    parts = [part.strip() for part in re.split(rf"(?<!\*){re.escape(rule)}(?!\*)", reply)]
    return parts[not parts[0] : len(parts) - (len(parts) > 1 and not parts[-1])]


def _folded(text: str) -> str:
    """For comparison: letters of one width and case, without blanks at the ends."""
    return unicodedata.normalize("NFKC", text).casefold().strip()
