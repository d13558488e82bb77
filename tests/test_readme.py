"""Documentation that is run: commands exist with the options printed, both languages have the same files and
code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from hanlin.cli.main import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "README.en.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"^(?:\$ )?(hanlin .+)$", re.M)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.S)


def commands(page: Path) -> list[str]:
    text = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    return [re.sub(r"\s+#.*$", "", command) for command in COMMAND.findall(text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_is_accepted_by_the_parser(page):
    for command in commands(page):
        arguments = shlex.split(command)[1:]
        function, bound, ignored = app.parse_args(arguments, exit_on_error=False, print_error=False)[:3]
        assert function is not None, command


def test_both_languages_have_the_same_pages():
    assert sorted(p.name for p in (ROOT / "docs/zh").glob("*.md")) == sorted(
        p.name for p in (ROOT / "docs/en").glob("*.md")
    )


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "docs/zh").glob("*.md")))
def test_both_languages_give_the_same_commands(name):
    zh, en = (commands(ROOT / "docs" / language / name) for language in ("zh", "en"))
    assert [c.split()[:3] for c in zh] == [c.split()[:3] for c in en]


def test_no_figure_is_left_open():
    for page in PAGES:
        assert not re.search(r"\{\{\w+\}\}", page.read_text(encoding="utf-8")), page


def dialogues(page: Path) -> list[tuple[str, str]]:
    """Rows of the table of dialogues: what is asked, and what the model of the demo answered."""
    text = page.read_text(encoding="utf-8")
    head = {"README.md": "| 你说 | 它答 |", "README.en.md": "| you say | it answers |"}[page.name]
    table = text[text.index(head) :].split("\n\n")[0].splitlines()[2:]
    return [tuple(cell.strip().replace("<br>", "\n") for cell in row.strip("|").split("|")) for row in table]  # type: ignore[misc]


def test_the_dialogues_are_items_that_the_model_is_measured_on():
    """Each question shown is a held-out item of the demo's exam, and the answer shown passes that item's
    judge."""
    from hanlin.evaluation.tasks.base import Task, TaskScope, make_task, task_entries
    from hanlin.recipe.recipe import load_recipe

    shown = dialogues(ROOT / "README.md")
    assert shown == dialogues(ROOT / "README.en.md") and len(shown) >= 5
    recipe = load_recipe("demo")
    scope = TaskScope(recipe.seed, recipe.evaluation, with_reasoning=True)
    tasks = [task for name in task_entries() if isinstance(task := make_task(name, scope), Task)]
    for asked, answered in shown:
        judged = [
            (task, record)
            for task in tasks
            for record in task.records
            if record["messages"][0]["content"] == asked
        ]
        assert judged, asked
        said = re.sub(
            r"^（想：(.*?)）\n?",
            lambda m: f"<think>\n{m[1].replace('；', chr(10))}\n</think>\n",
            answered,
            flags=re.S,
        )
        assert any(task.check(record, said) for task, record in judged), (asked, answered)
