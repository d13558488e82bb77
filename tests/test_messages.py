"""Messages in two languages: English in the source, Chinese in the catalogue, the same fields in both."""

from __future__ import annotations

import ast
import fnmatch
import pickle
import re
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
from babel.messages.mofile import read_mo

from hanlin.common.errors import ConfigError, HanlinError
from hanlin.common.messages import Text, joined, listing, sentences, tr, verbatim
from tools.messages import (
    CONTEXT,
    KEYWORDS,
    MO,
    PO,
    SOURCE,
    calls,
    messages,
    parameter_texts,
    po_text,
    translations,
    updated,
)

HAN = re.compile("[\u3400-\u9fff]")
PACKAGE = SOURCE / "hanlin"
FILES = sorted(PACKAGE.rglob("*.py"))
KNOWN = "{command} takes one process."  # a message that the catalogue knows, by its beginning

# Files in which Chinese is data: what is looked for in texts, what texts are made of, what a model is asked.
CHINESE_DATA = (
    "arena/answers.py",
    "arena/exchange.py",
    "arena/gold.py",
    "arena/rubric.py",
    "common/numbers.py",
    "corpus/canaries.py",
    "corpus/download/catalogue.py",
    "corpus/filters/advertising.py",
    "corpus/filters/pii.py",
    "corpus/filters/signals.py",
    "corpus/readers/schema_types.py",
    "corpus/readers/schemas.py",
    "corpus/text/characters.py",
    "corpus/text/normalize.py",
    "corpus/tinyworld/*.py",
    "evaluation/benchmarks/*.py",
    "evaluation/contamination/lookup.py",
    "evaluation/doctors/prompts.py",
    "evaluation/doctors/questions.py",
    "evaluation/tasks/tinyworld.py",
    "tokenizer/chat.py",
    "tokenizer/segments.py",
    "tokenizer/suspicious.py",
)
# Elsewhere only these: a hint to whoever reads English by mistake, an answer to a question, a title,
# examples.
CHINESE_LITERALS = {
    "中文：export HANLIN_LANG=zh",
    "是",
    "翰林 Hanlin · 语料 corpus",
    "翰林学士读书写字。",
    "hanlin generate runs/demo/models/pretrain 周六早上，天气很好。",
    "hanlin generate runs/demo 你好，你是谁？ --chat",
}
NAME = "翰林"  # the same in both languages

# Files whose ValueError and TypeError tell a programmer of a wrong call, or are caught where they are raised.
FOR_PROGRAMMERS = (
    "__init__.py",
    "common/registry.py",
    "corpus/tinyworld/world.py",
    "dataset/packing.py",
    "evaluation/intervals.py",
    "evaluation/item_scores.py",
    "evaluation/pass_at_k.py",
    "evaluation/ngram.py",
    "evaluation/paired.py",
    "evaluation/statistics.py",
    "evaluation/tasks/generation.py",
    "inference/engine.py",
    "model/family.py",
    "report/ablation_page.py",
    "tokenizer/files.py",
    "tokenizer/tokenizer.py",
)


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def among(path: Path, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(name_of(path), pattern) for pattern in patterns)


def known() -> tuple[str, str]:
    """A template of the catalogue with one field, and its Chinese."""
    found = next(message for message in translations() if str(message.id).startswith(KNOWN))
    return str(found.id), str(found.string)


def fields(template: str) -> set[tuple[str, str, str]]:
    """Names, format specs and conversions of a template's fields."""
    parts = string.Formatter().parse(template)
    return {(name, spec or "", conversion or "") for _, name, spec, conversion in parts if name is not None}


def templates() -> Iterator[tuple[str, ast.Call, str | None, str]]:
    """The places of the source with a literal template: where, the call, the context and the template."""
    for path, call, context, argument in calls():
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
            yield f"{name_of(path)}:{call.lineno}", call, context, argument.value


# ---------------------------------------------------------------- the catalogue


def test_the_catalogue_holds_every_message_and_no_other():
    catalogue = translations()
    assert {(message.id, message.context) for message in catalogue if message.id} == messages()
    assert not catalogue.obsolete
    for message in catalogue:
        if message.id:
            assert message.string, f"no Chinese: {message.id!r}; run `make messages`, then edit {PO}"
            assert not message.fuzzy, message.id


def test_the_catalogue_is_as_make_messages_writes_it():
    catalogue = updated(translations())
    assert PO.read_text(encoding="utf-8") == po_text(catalogue), "run `make messages`"
    with MO.open("rb") as file:
        compiled = {(message.id, message.context): message.string for message in read_mo(file) if message.id}
    wanted = {(message.id, message.context): message.string for message in catalogue if message.id}
    assert compiled == wanted, "run `make messages`"


def test_templates_have_the_fields_they_are_given_in_both_languages():
    catalogue = translations()
    for where, call, context, template in templates():
        names = {keyword.arg for keyword in call.keywords}
        if getattr(call.func, "id", "") in ("Damaged", "FileError", "Unusable"):
            names.remove("reason")
        if not template or not names:
            continue  # without fields nothing is formatted, and braces are braces
        found = fields(template)
        shared = None in names  # **values that several messages share
        used, given = {name for name, _, _ in found}, names - {None}
        assert given == used or (shared and given < used), where
        chinese = catalogue.get(template, context)
        assert chinese is not None and fields(str(chinese.string)) == found, where


def test_templates_are_literals():
    """What is put together at run time is in no catalogue."""
    for path, call, _, argument in calls():
        made = isinstance(argument, (ast.JoinedStr, ast.BinOp)) or (
            isinstance(argument, ast.Call) and getattr(argument.func, "attr", "") in ("format", "join")
        )
        python_own = isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") == "warnings"
        assert python_own or not made, f"{name_of(path)}:{call.lineno}: {ast.unparse(argument)}"


def test_every_error_and_every_function_that_takes_a_template_is_collected():
    classes = {
        node.name: node
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }

    def is_error(node: ast.ClassDef) -> bool:
        bases = {getattr(base, "id", "") for base in node.bases}
        return "HanlinError" in bases or any(is_error(classes[name]) for name in bases if name in classes)

    assert is_error(classes["Unusable"]) and not is_error(classes["Registry"])
    for name, node in classes.items():
        if is_error(node):
            own = [
                part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"
            ]
            assert name in KEYWORDS or (own and not own[0].args.posonlyargs), name

    taking = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef) or node.args.kwarg is None or not node.args.posonlyargs:
                continue
            first, others = node.args.posonlyargs[-1].arg, node.args.kwarg.arg
            if first in ("message", "template") and others == "fields":
                taking.add(node.name)
    assert {"tr", "note", "both"} < taking
    assert taking - {"__init__", "_set", "of"} <= KEYWORDS | {CONTEXT}


def test_parameters_of_the_command_line_are_read_from_docstrings():
    docstring = """Do it.

    Parameters
    ----------
    first
        One line.
    second
        Two lines,
        the second here.
    """
    assert list(parameter_texts(docstring)) == ["One line.", "Two lines, the second here."]
    assert list(parameter_texts("Do it.")) == []


# ---------------------------------------------------------------- nothing in one language alone


def literals(path: Path) -> Iterator[ast.Constant]:
    """A file's string literals, docstrings left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node


def test_chinese_stands_in_the_catalogue_and_not_in_the_source():
    found = set()
    for path in FILES:
        if among(path, CHINESE_DATA):
            continue
        for node in literals(path):
            if HAN.search(str(node.value).replace(NAME, "")) or node.value in CHINESE_LITERALS:
                assert node.value in CHINESE_LITERALS, f"{name_of(path)}:{node.lineno}: {node.value}"
                found.add(node.value)
    assert found == CHINESE_LITERALS
    for pattern in CHINESE_DATA:
        assert any(
            HAN.search(str(node.value)) for path in PACKAGE.glob(pattern) for node in literals(path)
        ), pattern


def test_errors_in_one_language_are_for_programmers_alone():
    """What the checks of a configuration say reaches people."""
    found = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call):
                continue
            words = any(isinstance(part, ast.Constant) for part in ast.walk(node.exc))
            if words and getattr(node.exc.func, "id", "") in ("ValueError", "TypeError", "KeyError"):
                assert among(path, FOR_PROGRAMMERS), f"{name_of(path)}:{node.lineno}: a ConfigError?"
                found.add(name_of(path))
    assert found == set(FOR_PROGRAMMERS)


# ---------------------------------------------------------------- texts


def test_a_text_is_said_in_both_languages(monkeypatch):
    template, chinese = known()
    text = Text(template, command="hanlin run")
    assert text.en == template.format(command="hanlin run") and text.zh == chinese.format(
        command="hanlin run"
    )
    for language in ("en", "zh"):
        monkeypatch.setenv("HANLIN_LANG", language)
        said = getattr(text, language)
        assert str(text) == f"{text}" == tr(template, command="hanlin run") == tr(text) == said
        assert str(HanlinError(template, command="hanlin run")) == said


def test_a_field_is_said_in_the_language_around_it():
    template, chinese = known()
    inner = Text(template, command="hanlin run")
    for value in (inner, HanlinError(inner), joined([inner]), listing([inner]), Text.of(inner)):
        outer = Text("<{value}>", value=value)
        assert (outer.en, outer.zh) == (f"<{inner.en}>", f"<{inner.zh}>")
    assert (listing([1, inner]).en, listing([1, inner]).zh) == (f"1, {inner.en}", f"1、{inner.zh}")
    assert joined(["a", "b"], Text.rendered(en="; ", zh="；")).zh == "a；b"
    assert (sentences(["A.", "B."]).en, sentences(["A.", "B."]).zh) == ("A. B.", "A.B.")


def test_one_english_may_have_several_chinese():
    plain, verdict = Text("beats it"), Text.in_context("verdict", "beats it")
    assert plain.en == verdict.en and plain.zh != verdict.zh and HAN.search(verdict.zh)


def test_format_specs_conversions_and_braces():
    text = Text("{loss:.3f} {name!r} {{}} {share:>6.1%}", loss=1.23456, name="a", share=0.5)
    assert text.en == text.zh == "1.235 'a' {}  50.0%"
    assert Text("a {literal} brace").en == "a {literal} brace"  # without fields nothing is formatted
    assert Text("{path}", path="{path}").en == "{path}"
    with pytest.raises(KeyError):
        str(Text("{path}", file="x"))


def test_texts_are_values():
    assert Text("a {n}", n=1) == Text("a {n}", n=1) == verbatim("a 1") != Text("a {n}", n=2)
    assert len({Text("a"), Text("a"), verbatim("a")}) == 1
    assert not Text("") and Text("a") and Text("").zh == ""
    assert Text.rendered(en="Loss", zh="损失 LR").lower() == Text.rendered(en="loss", zh="损失 LR")
    assert Text.from_dict(Text("a {n}", n=1).to_dict()) == Text("a {n}", n=1)
    with pytest.raises(AttributeError):
        Text("a").en = "b"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        Text("a").anything = "b"  # type: ignore[attr-defined]


class Located(HanlinError):
    """An error with an argument of its own."""

    def __init__(self, message, /, *, line: int, **named):
        super().__init__(message, line=line, **named)
        self.line = line


@pytest.mark.parametrize("language", ["en", "zh"])
def test_texts_and_errors_are_pickled_whatever_they_hold(language, monkeypatch):
    monkeypatch.setenv("HANLIN_LANG", language)
    template, _ = known()
    unpicklable = lambda: None  # noqa: E731
    text = Text("{what} {value:.1f}", what=Text(template, command=unpicklable), value=1)
    assert pickle.loads(pickle.dumps(text)) == text
    for error in (HanlinError(text), ConfigError(text), Located("{what} {line}", line=3, what=text)):
        error.already_reported = True
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error) and copy.already_reported
        assert (copy.en, copy.zh, str(copy)) == (error.en, error.zh, str(error))
        assert getattr(copy, "line", None) == getattr(error, "line", None)
    assert issubclass(ConfigError, ValueError)
