"""Things that exist in several kinds: a table from the kind's name to its class, which files inside and
outside the package fill."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar

from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text, listing

T = TypeVar("T")


class Registry(Generic[T]):
    """Kinds of one sort of thing, listed by name: the order in which files were imported shows nowhere.

    Args:
        noun: what they are called in messages, `Text("kind of stage")`.
    """

    def __init__(self, noun: Text):
        self.noun = noun
        self._kinds: dict[str, type[T]] = {}

    def register(self, kind: str, cls: type[T]) -> None:
        """Add a kind; the same file may be loaded twice, two different classes may not share a name.

        Raises:
            ValueError: another class has the name.
        """
        known = self._kinds.get(kind)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"{kind!r} is registered already, by {known.__module__}.{known.__qualname__}")
        self._kinds[kind] = cls

    def get(self, kind: str, where: Text | str = "") -> type[T]:
        """The class of a kind.

        Raises:
            HanlinError: there is none; the message lists them and names the nearest.
        """
        found = self._kinds.get(kind)
        if found is None:
            raise self.unknown(kind, where)
        return found

    def unknown(self, kind: object, where: Text | str = "") -> HanlinError:
        """The error for a kind that does not exist."""
        nearest = difflib.get_close_matches(str(kind), self._kinds, n=1)
        prefix = Text("{where}: ", where=where) if where else Text("")
        if nearest:
            return HanlinError(
                "{prefix}there is no {noun} {kind!r}. Did you mean {nearest}? There are: {kinds}.",
                prefix=prefix,
                noun=self.noun,
                kind=kind,
                nearest=nearest[0],
                kinds=listing(self),
            )
        return HanlinError(
            "{prefix}there is no {noun} {kind!r}. There are: {kinds}.",
            prefix=prefix,
            noun=self.noun,
            kind=kind,
            kinds=listing(self),
        )

    def __contains__(self, kind: object) -> bool:
        return kind in self._kinds

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._kinds))

    def classes(self) -> dict[str, type[T]]:
        """Kind → class."""
        return {kind: self._kinds[kind] for kind in self}


def load_extension(name: str, beside: Path) -> None:
    """Import a Python file (relative to `beside`) or a module by its name, so that what it registers is
    known.

    Raises:
        HanlinError: it is not there, or importing it fails.
    """
    try:
        if not name.endswith(".py"):
            importlib.import_module(name)
            return
        path = (beside / name).resolve()
        if not path.is_file():
            raise HanlinError("There is no extension file {path}. Check `extensions`.", path=path)
        module = f"hanlin_extension_{path.stem}"
        loaded = sys.modules.get(module)
        if loaded is not None and getattr(loaded, "__file__", None) == str(path):
            return
        spec = importlib.util.spec_from_file_location(module, path)
        assert spec is not None and spec.loader is not None
        sys.modules[module] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[module])
    except HanlinError:
        raise
    except Exception as error:
        sys.modules.pop(f"hanlin_extension_{Path(name).stem}", None)
        raise HanlinError(
            "The extension {name} could not be loaded: {error!r}.", name=name, error=error
        ) from error
