"""Configuration: frozen dataclasses from YAML and dotted overrides; an unknown key is an error with a
suggestion."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml

from hanlin.common.errors import ConfigError, HanlinError
from hanlin.common.messages import Text, joined, listing, verbatim

T = TypeVar("T")

# keys that had another name before, old → new; an old one is refused with the new one in the message
RENAMED_KEYS = {
    "anchor_steps": "permanent_checkpoint_interval",
    "clip": "max_grad_norm",
    "decay": "decay_ratio",
    "floor": "min_lr_ratio",
    "warmup": "warmup_ratio",
}


@dataclasses.dataclass(frozen=True)
class Range:
    """What a number may be: from `low` to `high`, each belonging to it unless `open_low` or `open_high`;
    never NaN or infinite."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        return (
            math.isfinite(value)
            and (value > self.low if self.open_low else value >= self.low)
            and (value < self.high if self.open_high else value <= self.high)
        )

    def describe(self) -> Text:
        """In words."""
        conditions = [Text("finite")]
        if self.low > -math.inf:
            limit = Text("greater than {limit:g}", limit=self.low)
            conditions.append(limit if self.open_low else Text("at least {limit:g}", limit=self.low))
        if self.high < math.inf:
            limit = Text("less than {limit:g}", limit=self.high)
            conditions.append(limit if self.open_high else Text("at most {limit:g}", limit=self.high))
        return joined(conditions, Text(" and "))


def at_least(low: float) -> Range:
    """`low` and more."""
    return Range(low)


def above(low: float) -> Range:
    """More than `low`."""
    return Range(low, open_low=True)


class OutOfRange(ConfigError):
    """A setting outside its range, or settings that exclude one another; the message begins with a setting's
    name."""


def ranges_of(cls: type) -> dict[str, Range]:
    """The `RANGES` of a configuration class and of those it derives from."""
    found: dict[str, Range] = {}
    for base in reversed(cls.__mro__):
        found |= base.__dict__.get("RANGES", {})
    return found


def require_ranges(config: Any) -> None:
    """Check a configuration's numbers, for its `__post_init__`: each within its class's `RANGES`, all of
    them finite.

    Raises:
        OutOfRange: names the field, its value and what it may be.
    """
    ranges = ranges_of(type(config))
    for field in dataclasses.fields(config):
        value, allowed = getattr(config, field.name), ranges.get(field.name, Range())
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value not in allowed:
            raise OutOfRange(
                "{field} is {value}, should be {allowed}",
                field=field.name,
                value=value,
                allowed=allowed.describe(),
            )


class Where(str):
    """A file's name for messages, with the dotted keys that the command line gave: what is wrong with those
    is not the file's fault."""

    given: frozenset[str]

    def __new__(cls, file: str, given: Iterable[str] = ()):
        found = super().__new__(cls, file)
        found.given = frozenset(given)
        return found


def _blame(where: str, name: str) -> str | Text:
    """Who gave a key."""
    given = getattr(where, "given", ())
    if any(key == name or key.startswith(f"{name}.") for key in given):
        return Text("command line")
    return where


def load_yaml(path: Path | str) -> dict[str, Any]:
    """Read a YAML mapping; a missing file, broken syntax or another type is a `HanlinError` with the line."""
    path = Path(path)
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HanlinError("No such config file: {path}. Check the path.", path=path) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise HanlinError("{path} is not valid YAML: {error}", path=path, error=error) from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise HanlinError("{path} should be a mapping, not a {type}.", path=path, type=type(value).__name__)
    return value


def apply_overrides(config: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return `config` with `a.b.c=value` strings applied; values are read as YAML, so `true`, `3e-4` and
    `[1,2]` work."""
    result = _copy(config)
    for item in overrides:
        name, equals, text = item.partition("=")
        if not equals or not name:
            raise HanlinError(
                "Override {item!r} should read key.key=value, such as pretrain.steps=200.", item=item
            )
        node = result
        *path, last = name.split(".")
        for part in path:
            child = node.setdefault(part, {})
            if not isinstance(child, dict):
                raise HanlinError("Override {item!r}: {part} is not a section.", item=item, part=part)
            node = child
        value = yaml.safe_load(text)
        node[last] = _as_number(value) if isinstance(value, str) else value
    return result


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Sections within sections as dotted keys, as overrides write them."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= (
            flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
        )
    return found


def build(cls: type[T], values: Mapping[str, Any], where: str, prefix: str = "") -> T:
    """Make the dataclass `cls` from a mapping, checking every key and type, sections within sections.

    Args:
        where: the file or command the values came from, for messages.

    Raises:
        HanlinError: an unknown key (with the nearest known one), a missing key, a value of the wrong type,
            or what `__post_init__` of the dataclass refuses.
    """
    fields = {yaml_key(field): field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    names = typing.get_type_hints(cls)
    hints = {key: names[field.name] for key, field in fields.items()}
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        if name not in fields:
            raise HanlinError(
                "{where}: unknown key {prefix}{name}. {hint}",
                where=_blame(where, f"{prefix}{name}"),
                prefix=prefix,
                name=name,
                hint=_hint(str(name), prefix, fields, hints, values),
            )
        place = f"{prefix}{name}" if fields[name].metadata.get("by_id") is None else ""
        arguments[fields[name].name] = _convert(hints[name], _over_default(fields[name], value), where, place)
    missing = [
        name
        for name, field in fields.items()
        if field.name not in arguments
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise HanlinError(
            "{where}: {prefix}{missing} is missing.", where=where, prefix=prefix, missing=missing[0]
        )
    try:
        return cls(**arguments)
    except OutOfRange as error:
        raise HanlinError(
            "{where}: this cannot work: {prefix}{error}.",
            where=_blame(where, prefix.rstrip(".")),
            prefix=prefix,
            error=error,
        ) from None
    except ValueError as error:
        section = prefix.rstrip(".") or cls.__name__
        blamed = _blame(where, section)
        if not prefix and getattr(where, "given", ()):  # of the whole: either may have brought it about
            blamed = Text("{where} with the settings of the command line", where=where)
        raise HanlinError(
            "{where}: {section} cannot work: {error}", where=blamed, section=section, error=error
        ) from None


def yaml_key(field: dataclasses.Field[Any]) -> str:
    """The key of a field in YAML: its name, or `metadata["key"]` where the name is a word of Python's
    (`from`)."""
    return field.metadata.get("key", field.name)


class Tagged:
    """A configuration that exists in several kinds: `kind` in YAML selects the dataclass that the other keys
    belong to.

    Class attributes:
        kind_alone: a text in YAML instead of a section is the kind, with its defaults.
    """

    kind_alone: ClassVar[bool] = False

    @classmethod
    def variant(cls, values: Mapping[str, Any], where: Text) -> type:
        """The dataclass for a mapping.

        Raises:
            HanlinError: no kind, or one that does not exist; the message names the kinds there are.
        """
        raise NotImplementedError


def _hint(
    name: str,
    prefix: str,
    fields: Mapping[str, dataclasses.Field[Any]],
    hints: Mapping[str, Any],
    values: Mapping[str, Any],
) -> Text:
    """What to write instead of an unknown key: its new name, a similar key, or all keys there are."""
    renamed = RENAMED_KEYS.get(name, "")
    if renamed in fields:
        return Text("{old} is now {new}.", old=f"{prefix}{name}", new=f"{prefix}{renamed}")
    close = _inside(name, prefix, fields, hints, values)
    close = close or [f"{prefix}{match}" for match in difflib.get_close_matches(name, fields, n=1)]
    if close:
        return Text("Did you mean {keys}?", keys=listing(close))
    return Text("Known keys: {keys}.", keys=listing(fields))


def _inside(
    name: str,
    prefix: str,
    fields: Mapping[str, dataclasses.Field[Any]],
    hints: Mapping[str, Any],
    values: Mapping[str, Any],
) -> list[str]:
    """Dotted keys of that very name in the sections below, three at most: `pretrain.seq_len` for `seq_len`.

    Entries of a list that messages call by their ids (`by_id`) are sections under those ids.
    """
    found: list[str] = []
    for section, hint in hints.items():
        kinds = [kind for kind in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(kind)]
        if not kinds:
            continue
        if fields[section].metadata.get("by_id"):
            items = [item for item in values.get(section) or () if isinstance(item, Mapping)]
            found += [
                f"{prefix}{_item_place('', index, item)}.{name}"
                for index, item in enumerate(items)
                if name in _keys_of(kinds[0], item)
            ]
        elif name in _keys_of(kinds[0], values.get(section)):
            found.append(f"{prefix}{section}.{name}")
    return found[:3]


def _keys_of(hint: Any, value: Any) -> set[str]:
    """Keys that a section may have; of a section that exists in several kinds, those of the kind that its
    value names."""
    if isinstance(value, Mapping) and isinstance(hint, type) and issubclass(hint, Tagged):
        with contextlib.suppress(HanlinError):
            hint = hint.variant(value, verbatim("kind"))
    return {yaml_key(field) for field in dataclasses.fields(hint)}  # type: ignore[arg-type]


def _over_default(field: dataclasses.Field[Any], value: Any) -> Any:
    """A section given in part keeps the field's own defaults for the rest, not its class's."""
    if not isinstance(value, Mapping) or field.default_factory is dataclasses.MISSING:
        return value
    default = field.default_factory()
    return (
        dataclasses.asdict(default) | dict(value)
        if dataclasses.is_dataclass(default) and not isinstance(default, type)
        else value
    )


def to_dict(config: Any) -> dict[str, Any]:
    """The plain, JSON-able form of a config dataclass, as YAML would give it."""
    return _plain(config)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {yaml_key(field): _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _copy(value: Any) -> Any:
    return {key: _copy(item) for key, item in value.items()} if isinstance(value, dict) else value


def _as_number(text: str) -> Any:
    """YAML 1.1 reads `3e-4` as a string; people mean a number."""
    try:
        return float(text)
    except ValueError:
        return text


def _convert(hint: Any, value: Any, where: str, name: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        real = [option for option in options if option is not type(None)]
        for option in real[:-1]:
            with contextlib.suppress(HanlinError):
                return _convert(option, value, where, name)
        return _convert(real[-1], value, where, name)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, str) and isinstance(hint, type) and issubclass(hint, Tagged) and hint.kind_alone:
            value = {"kind": value}
        if not isinstance(value, Mapping):
            raise _wrong(where, name, Text("a section (mapping)"), value)
        if isinstance(hint, type) and issubclass(hint, Tagged):
            hint = hint.variant(value, Text("{file}: {place}", file=_blame(where, name), place=name))
        return build(hint, value, where, f"{name}.")  # type: ignore[arg-type]
    if origin is typing.Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            shown = " | ".join(
                str(choice).lower() if isinstance(choice, bool) else str(choice) for choice in choices
            )
            raise _wrong(where, name, verbatim(shown), value)
        return value
    if origin in (tuple, list):
        if not isinstance(value, (list, tuple)):
            raise _wrong(where, name, Text("a list"), value)
        item_hint = typing.get_args(hint)[0]
        items = [
            _convert(item_hint, item, where, _item_place(name, index, item))
            for index, item in enumerate(value)
        ]
        return tuple(items) if origin is tuple else items
    if origin is dict or hint is dict:
        if not isinstance(value, Mapping):
            raise _wrong(where, name, Text("a mapping"), value)
        return dict(value)
    if hint is float:
        if isinstance(value, str):
            value = _as_number(value)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _wrong(where, name, Text("a number"), value)
        return float(value)
    if hint is int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise _wrong(where, name, Text("an integer"), value)
        return value
    if hint in (bool, str):
        if not isinstance(value, hint):
            raise _wrong(
                where,
                name,
                {bool: Text("true or false"), str: Text("text")}[hint],
                value,
            )
        return value
    if hint is Path:
        if not isinstance(value, (str, Path)):
            raise _wrong(where, name, Text("a path"), value)
        return Path(value)
    return value


def _item_place(name: str, index: int, item: Any) -> str:
    """How messages and overrides call an item of a list: by its `id` where it has one."""
    known = item.get("id") if isinstance(item, Mapping) else None
    if name:
        return f"{name}.{known}" if known else f"{name}[{index}]"
    return str(known) if known else f"stages[{index}]"


def _wrong(where: str, name: str, expected: Text, value: Any) -> HanlinError:
    return HanlinError(
        "{where}: {name} should be {expected}, not {value!r}.",
        where=_blame(where, name),
        name=name,
        expected=expected,
        value=value,
    )
