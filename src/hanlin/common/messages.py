"""What is said to people, in both languages: English where it is said, Chinese in the catalogue `locale/zh`.

    tr("{done} of {total} documents", done=3, total=9)                    # a str in the reader's language
    Text("{count} files in {where}", count=2, where=Text("the corpus"))   # both languages, .en and .zh

A template is `str.format` style with named fields, format specs and conversions; a template without fields is
taken as it stands. Templates are literals, since `make messages` collects them from the source for the
catalogue.
"""

from __future__ import annotations

import functools
import gettext
import locale
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import LiteralString

LOCALE = Path(__file__).parent.parent / "locale"


def prefers_chinese() -> bool:
    """Whether messages should be Chinese: `HANLIN_LANG` (zh or en) wins, then the locale environment."""
    choice = os.environ.get("HANLIN_LANG")
    if choice:
        return choice.lower().startswith("zh")
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        value = os.environ.get(name)
        if value:
            return value.lower().startswith("zh")
    return (locale.getlocale()[0] or "").lower().startswith(("zh", "chinese"))


def language_unsaid() -> bool:
    """Whether the environment leaves the language open: no `HANLIN_LANG`, and a locale of C or none."""
    if os.environ.get("HANLIN_LANG"):
        return False
    names = ("LC_ALL", "LC_MESSAGES", "LANG")
    said = next((value for name in names if (value := os.environ.get(name))), "")
    return said.partition(".")[0] in ("", "C", "POSIX") and not prefers_chinese()


class Text:
    """One message in both languages; `str()` of it is in the reader's. Immutable, compared by what it says.

    Args:
        template: the English text, a literal, with fields by name: `"{path} has {count} records"`. Literal
            braces are doubled if there are fields.
        fields: their values. A `Text` or a `HanlinError` is said in the same language as the text around it;
            any other is formatted by the field's format spec.
    """

    __slots__ = ("_context", "_fields", "_template")
    _context: str | None
    _fields: dict[str, Any]
    _template: str

    def __init__(self, template: LiteralString, /, **fields: Any):
        self._set(template, fields)

    @classmethod
    def in_context(cls, context: LiteralString, template: LiteralString, /, **fields: Any) -> Text:
        """A text whose English has more than one Chinese; `context` tells them apart (gettext's
        `pgettext`)."""
        text = cls.__new__(cls)
        text._set(template, fields, context)
        return text

    @staticmethod
    def of(message: LiteralString | Text, /, **fields: Any) -> Text:
        """A text as it is, or that of a template and its fields: for functions that take either."""
        return message if isinstance(message, Text) else Text(message, **fields)

    @staticmethod
    def rendered(*, en: str, zh: str) -> Text:
        """A text that is in both languages already."""
        return _Rendered(en, zh)

    def _set(self, template: str, fields: dict[str, Any], context: str | None = None) -> None:
        object.__setattr__(self, "_template", template)
        object.__setattr__(self, "_fields", fields)
        object.__setattr__(self, "_context", context)

    @staticmethod
    def from_dict(pair: Mapping[str, str]) -> Text:
        """What `to_dict` gave, read from JSON."""
        return _Rendered(pair["en"], pair["zh"])

    def to_dict(self) -> dict[str, str]:
        """For JSON that is shown in either language later."""
        return {"zh": self.zh, "en": self.en}

    @property
    def en(self) -> str:
        """In English."""
        return self._render("en")

    @property
    def zh(self) -> str:
        """In Chinese; in English where the catalogue has no translation."""
        return self._render("zh")

    def lower(self) -> Text:
        """The text inside a sentence: its English in lower case, its Chinese as it is."""
        return _Rendered(self.en.lower(), self.zh)

    def _render(self, language: str) -> str:
        template = self._template if language == "en" else _chinese(self._template, self._context)
        if not self._fields:
            return template
        return template.format(**{name: _said(value, language) for name, value in self._fields.items()})

    def __str__(self) -> str:
        return self._render("zh" if prefers_chinese() else "en")

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __bool__(self) -> bool:
        return bool(self.en)

    def __repr__(self) -> str:
        return f"Text.rendered(en={self.en!r}, zh={self.zh!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Text):
            return NotImplemented
        return (self.en, self.zh) == (other.en, other.zh)

    def __hash__(self) -> int:
        return hash((self.en, self.zh))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a Text is immutable: {name}")

    def __reduce__(self) -> tuple[Any, ...]:
        # Rendered, since a field may hold what cannot be pickled.
        return _Rendered, (self.en, self.zh)


class _Rendered(Text):
    """A text given in both languages."""

    __slots__ = ("_en", "_zh")
    _en: str
    _zh: str

    def __init__(self, en: str, zh: str):
        object.__setattr__(self, "_en", en)
        object.__setattr__(self, "_zh", zh)

    def _render(self, language: str) -> str:
        return self._en if language == "en" else self._zh


class _Joined(Text):
    """Several texts in a row, a separator between them."""

    __slots__ = ("_items", "_separator")
    _items: tuple[Any, ...]
    _separator: str | Text

    def __init__(self, items: Iterable[Any], separator: str | Text):
        object.__setattr__(self, "_items", tuple(items))
        object.__setattr__(self, "_separator", separator)

    def _render(self, language: str) -> str:
        return str(_said(self._separator, language)).join(str(_said(item, language)) for item in self._items)


def tr(message: LiteralString | Text, /, **fields: Any) -> str:
    """A template or a text in the reader's language."""
    return str(Text.of(message, **fields))


def verbatim(value: Any) -> Text:
    """A name or a figure, the same in both languages."""
    return _Rendered(str(value), str(value))


def joined(items: Iterable[Any], separator: str | Text = "") -> Text:
    """Texts (or other values) one after another; the separator may itself differ by language."""
    return _Joined(items, separator)


def listing(items: Iterable[Any]) -> Text:
    """`a, b` in English, `a、b` in Chinese."""
    return _Joined(items, _COMMA)


def sentences(items: Iterable[Any]) -> Text:
    """Whole sentences in a row: a space between them in English, nothing in Chinese."""
    return _Joined(items, _SPACE)


_COMMA = _Rendered(", ", "\u3001")
_SPACE = _Rendered(" ", "")


def _said(value: Any, language: str) -> Any:
    text = getattr(value, "text", value)  # an error has its message there
    return text._render(language) if isinstance(text, Text) else value


def _chinese(template: str, context: str | None) -> str:
    if not template:  # gettext's name for the catalogue's header
        return template
    catalogue = _catalogue()
    return catalogue.gettext(template) if context is None else catalogue.pgettext(context, template)


@functools.cache
def _catalogue() -> gettext.NullTranslations:
    return gettext.translation("hanlin", LOCALE, ["zh"], fallback=True)
