"""The examples of docs/*/architecture.md: every file that a page shows is loaded as an extension, and at night used in a run."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLE = re.compile(r"```python\n# (\w+\.py)\n(.*?)```.*?```bash\n(hanlin run .*?)\n```", re.S)
# For each example in one process: what it says of a recipe is refused before its file is named, and taken after.
LOAD = """
import json, sys
from hanlin.common.errors import HanlinError
from hanlin.recipe.recipe import load_recipe
for name, overrides in json.loads(sys.argv[1]).items():
    try:
        load_recipe("demo", [item for item in overrides if name not in item], scale=0.01)
        before = "taken"
    except HanlinError:
        before = "refused"
    load_recipe("demo", overrides, scale=0.01)
    print(name, before)
"""
# Read by nothing before the run: a row of a table, and a name that is looked up when the run begins.
UNASKED = {"hpu.py", "capitals.py"}


def examples(language: str) -> list[tuple[str, str, str]]:
    """Name, source and command of each example."""
    page = (ROOT / "docs" / language / "architecture.md").read_text(encoding="utf-8")
    return EXAMPLE.findall(page)


NAMES = [name for name, _, _ in examples("en")]


def written(folder: Path, language: str, name: str) -> list[str]:
    """The example written to a folder, and the words of its command."""
    _, source, command = next(item for item in examples(language) if item[0] == name)
    (folder / name).write_text(source, encoding="utf-8")
    return [word.replace("$PWD", str(folder)) for word in shlex.split(command)]


def python(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HANLIN_LANG": "en"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


def test_both_languages_show_the_same_examples():
    assert NAMES and [name for name, _, _ in examples("zh")] == NAMES
    shown = [[command for _, _, command in examples(language)] for language in ("zh", "en")]
    assert shown[0] == shown[1]


@pytest.mark.parametrize("language", ["zh", "en"])
def test_what_an_example_registers_is_known_to_a_recipe_that_names_it(tmp_path, language):
    overrides = {name: [w for w in written(tmp_path, language, name) if "=" in w] for name in NAMES}
    done = python("-c", LOAD, json.dumps(overrides), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    said = dict(line.split() for line in done.stdout.splitlines())
    assert said == {name: "taken" if name in UNASKED else "refused" for name in NAMES}


@pytest.mark.nightly
@pytest.mark.parametrize("name", NAMES)
def test_an_example_runs(tmp_path, name):
    done = python("-m", *written(tmp_path, "en", name), folder=tmp_path)
    assert done.returncode == 0, done.stderr
