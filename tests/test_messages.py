"""Messages in two languages: English in the source, Chinese in the catalogue, the same fields in both."""

from __future__ import annotations

import pickle
import string

import pytest

from hanlin.common.errors import ConfigError, HanlinError
from hanlin.common.messages import Text, joined, listing, tr, verbatim
from tools.messages import MO, PO, messages, mo_bytes, po_text, translations, updated

KNOWN = "{command} takes one process."  # a message that the catalogue knows, by its beginning


def known() -> tuple[str, str]:
    """A template of the catalogue with one field, and its Chinese."""
    found = next(message for message in translations() if str(message.id).startswith(KNOWN))
    return str(found.id), str(found.string)


def fields(template: str) -> list[tuple[str, str, str | None]]:
    """Names, format specs and conversions of a template's fields, sorted."""
    parts = string.Formatter().parse(template)
    return sorted(
        (name, spec or "", conversion or "") for _, name, spec, conversion in parts if name is not None
    )


def test_the_catalogue_holds_every_message_and_no_other():
    catalogue = translations()
    assert {(message.id, message.context) for message in catalogue if message.id} == messages()
    assert not catalogue.obsolete
    for message in catalogue:
        if message.id:
            assert message.string, f"no Chinese: {message.id!r}; run `make messages`, then edit {PO}"
            assert not message.fuzzy, message.id


def test_both_languages_have_the_same_fields():
    for message in translations():
        if message.id:
            english, chinese = fields(str(message.id)), fields(str(message.string))
            assert sorted(set(english)) == sorted(set(chinese)), message.id
            assert all(name.isidentifier() for name, _, _ in english), message.id


def test_the_catalogue_is_as_make_messages_writes_it():
    catalogue = updated(translations())
    assert PO.read_text(encoding="utf-8") == po_text(catalogue)
    assert MO.read_bytes() == mo_bytes(catalogue), "run `make messages`"


def test_a_text_is_said_in_both_languages(monkeypatch):
    template, chinese = known()
    text = Text(template, command="hanlin run")
    assert text.en == template.format(command="hanlin run") and text.zh == chinese.format(
        command="hanlin run"
    )
    for language in ("en", "zh"):
        monkeypatch.setenv("HANLIN_LANG", language)
        said = getattr(text, language)
        assert str(text) == f"{text}" == tr(template, command="hanlin run") == said
        assert str(HanlinError(template, command="hanlin run")) == said


def test_a_field_is_said_in_the_language_around_it():
    template, chinese = known()
    inner = Text(template, command="hanlin run")
    for value in (inner, HanlinError(inner), joined([inner]), listing([inner])):
        outer = Text("<{value}>", value=value)
        assert (outer.en, outer.zh) == (f"<{inner.en}>", f"<{inner.zh}>")
    assert (listing([1, inner]).en, listing([1, inner]).zh) == (f"1, {inner.en}", f"1、{inner.zh}")
    assert joined(["a", "b"], Text.rendered(en="; ", zh="；")).zh == "a；b"


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
