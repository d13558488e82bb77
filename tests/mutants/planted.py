"""A pytest plugin that plants one fault in the package as it is imported: `HANLIN_PLANT` names the file, the
text and its replacement."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "src" / "hanlin"


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a source file with one text replaced."""

    def __init__(self, name: str, path: str, old: str, new: str):
        super().__init__(name, path)
        self.old, self.new = old, new

    def get_code(self, fullname: str):
        source = Path(self.path).read_text(encoding="utf-8")
        if source.count(self.old) != 1:
            raise SystemExit(
                f"{self.path} has {source.count(self.old)} times what should be replaced once: {self.old!r}"
            )
        return compile(source.replace(self.old, self.new), self.path, "exec")


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the one module that the fault is planted in."""

    def __init__(self, file: str, old: str, new: str):
        self.name = "hanlin." + file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        self.path, self.old, self.new = str(PACKAGE / file), old, new

    def find_spec(self, fullname: str, path=None, target=None):
        if fullname != self.name:
            return None
        package = self.path.endswith("__init__.py")
        locations = [str(Path(self.path).parent)] if package else None
        loader = _Loader(fullname, self.path, self.old, self.new)
        return importlib.util.spec_from_file_location(
            fullname, self.path, loader=loader, submodule_search_locations=locations
        )


if "HANLIN_PLANT" in os.environ:
    sys.meta_path.insert(0, _Finder(*json.loads(os.environ["HANLIN_PLANT"])))
