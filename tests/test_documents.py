"""The examples of the documents: extensions are loaded, and at night used in a run; recipes and stages' files
are read."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hanlin.pipeline.stage_command import load_stage_file
from hanlin.recipe.recipe import load_recipe
from hanlin.report.format import METRICS_OF_FORMAT_1
from hanlin.stages.stage import STAGES

ROOT = Path(__file__).parents[1]
EXAMPLE = re.compile(r"```python\n# (\w+\.py)\n(.*?)```.*?```bash\n(hanlin run .*?)\n```", re.S)
# For each example in one process: what it says of a recipe is refused before its file is named, and taken
# after.
LOAD = """
import json, sys
from hanlin.common.errors import HanlinError
from hanlin.recipe.recipe import load_recipe
from hanlin.report.format import METRICS_OF_FORMAT_1
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


YAML = [
    pytest.param(name, text, id=f"{page.parent.name}/{page.stem}/{name}")
    for page in (ROOT / "README.md", ROOT / "README.en.md", *sorted((ROOT / "docs").glob("*/*.md")))
    for name, text in re.findall(r"```yaml\n# (\w+)\.yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
]


@pytest.mark.parametrize(("name", "text"), YAML)
def test_a_file_that_a_page_shows_is_read(tmp_path, name, text):
    """A recipe by its list of stages; a single stage's file by its name, or as one of SFT."""
    file = tmp_path / f"{name}.yaml"
    file.write_text(text, encoding="utf-8")
    if "\nstages:" in text:
        assert load_recipe(file).stages
    else:
        kind = name if name in STAGES else "sft"
        assert load_stage_file(kind, file).stage.kind == kind


@pytest.mark.parametrize("language", ["zh", "en"])
def test_what_the_paths_through_the_code_name_is_there(language):
    """`training/trainer.py: Trainer.dispatch_step`, or `records.py: records` in the folder named last."""
    page = (ROOT / "docs" / language / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:\w+/)*)(\w+\.py): ([\w.]+)", page)
    assert len(named) > 15
    last = ""
    for folder, file, name in named:
        last = folder or last
        source = (ROOT / "src" / "hanlin" / last / file).read_text(encoding="utf-8")
        for part in name.split("."):
            assert re.search(rf"^\s*(?:def|class) {part}\b|^{part}\b", source, re.M), (last + file, name)


@pytest.mark.parametrize("language", ["zh", "en"])
def test_the_report_page_lists_the_names_of_format_1(language):
    page = (ROOT / "docs" / language / "report.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z_]+)` \| `([a-z_/]+)` \|$", page, re.M)
    assert dict(rows) == METRICS_OF_FORMAT_1


@pytest.mark.parametrize("language", ["zh", "en"])
def test_the_names_of_the_glossary_are_in_the_code(language):
    """Those of today, in backticks: an identifier occurs, a file or a folder is there."""
    page = (ROOT / "docs" / language / "glossary.md").read_text(encoding="utf-8")
    today, before = page.split({"zh": "## 以前的名字", "en": "## Names of before"}[language])
    renamed = re.findall(r"^\| .+ \| (.+) \|$", before, re.M)
    assert len(renamed) > 40
    defined = re.findall(r"^\| .+$", today, re.M)
    named = re.findall(r"`([^`]+)`", "\n".join([*defined, *renamed]))
    sources = [
        *(ROOT / "src").rglob("*.py"),
        *(ROOT / "native").glob("*.?pp"),
        *(ROOT / "native").glob("*.hpp"),
    ]
    words = set(re.findall(r"\w+", " ".join(path.read_text(encoding="utf-8") for path in sources)))
    paths = {path.relative_to(ROOT).as_posix() for path in sources}
    paths |= {str(Path(path).parent) for path in paths}
    for name in named:
        if "/" in name or name.endswith((".py", ".hpp")):
            assert any(path.endswith(name.rstrip("/")) for path in paths), name
        else:
            assert set(re.findall(r"\w+", name)) <= words, name
