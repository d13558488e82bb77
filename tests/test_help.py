"""Help in the reader's language: every verb, every option, every word of the page; in groups, with examples
that parse."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from hanlin.cli.help_text import EXAMPLES, GROUPS
from hanlin.cli.main import app

HAN = re.compile("[\u4e00-\u9fff]")
PATHS = [
    *(("",),),
    *(
        (name,)
        for name in [
            "run",
            "resume",
            "report",
            "chat",
            "serve",
            "generate",
            "doctor",
            "pretrain",
            "sft",
            "distill",
            "on-policy-distill",
            "preference",
            "dpo",
            "reward",
            "rl",
            "grpo",
            "eval",
            "card",
            "merge",
            "plan",
            "compare",
            "ablate",
            "scaling",
            "judge",
        ]
    ),
    *(
        tuple(path.split())
        for path in (
            "corpus build",
            "corpus stats",
            "corpus inspect",
            "corpus diff",
            "corpus score",
            "corpus canary",
            "tokenizer train",
            "tokenizer encode",
            "tokenizer inspect",
            "tokenizer compare",
            "tokenizer advise",
            "dataset build",
            "dataset tail",
            "data list",
            "data fetch",
            "data sample",
            "export gguf",
            "export adapter",
            "inspect spike",
            "inspect model",
            "arena build",
            "arena serve",
            "arena report",
            "arena export",
            "arena import",
            "arena forget",
            "recipe upgrade",
            "recipe",
            "corpus",
            "tokenizer",
            "dataset",
            "data",
            "export",
            "inspect",
            "arena",
        )
    ),
]

CODE = """
import sys
from hanlin.cli.main import app
for path in sys.stdin.read().splitlines():
    print("=====", path)
    app([*path.split(), "--help"], result_action="return_value")
assert "torch" not in sys.modules
"""


@pytest.fixture(scope="module")
def pages():
    """Every page of help in both languages, each language in one process; none of them loads torch."""
    found = {}
    for language in ("zh", "en"):
        environment = os.environ | {"HANLIN_LANG": language, "COLUMNS": "200", "NO_COLOR": "1"}
        asked = "\n".join(" ".join(path) for path in PATHS)
        result = subprocess.run(
            [sys.executable, "-c", CODE],
            input=asked,
            capture_output=True,
            text=True,
            env=environment,
            timeout=300,
        )
        assert result.returncode == 0, result.stderr
        parts = result.stdout.split("===== ")[1:]
        found[language] = {part.partition("\n")[0].strip(): part.partition("\n")[2] for part in parts}
    return found


def rows(page: str) -> list[str]:
    """The entries of a page's tables, continued lines joined."""
    found: list[str] = []
    for line in page.splitlines():
        if not line.startswith("│"):
            continue
        cells = line.strip("│").rstrip()
        if re.match(r" \S", cells) or not found:
            found.append(cells)
        else:
            found[-1] += cells
    return found


def test_every_verb_is_tried():
    def walk(group, path):
        for name in group:
            if not name.startswith("-"):
                yield (*path, name)
                yield from walk(group[name], (*path, name))

    assert set(walk(app, ())) == set(PATHS) - {("",)}


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_nothing_is_left_in_english_or_unsaid(pages, path):
    page = pages["zh"][" ".join(path)]
    assert rows(page)
    for row in rows(page):
        assert HAN.search(row), row
    for word in ("Usage", "Commands", "Parameters", "required", "default", "Display", "--empty", "--no-"):
        assert word not in page, word
    english = pages["en"][" ".join(path)]
    assert not HAN.search("\n".join(rows(english)))
    for row in rows(english):
        assert re.search(r"\s{2,}\S+( \S+)*", row.strip()), row  # a name, and something said of it
    assert "Usage: hanlin" in english


def test_verbs_are_in_groups(pages):
    for language in ("zh", "en"):
        page = pages[language][""]
        places = [page.index(f"─ {getattr(title, language)} ─") for title, _ in GROUPS]
        assert places == sorted(places)


@pytest.mark.parametrize("path", EXAMPLES)
def test_examples_are_shown_and_parse(pages, path):
    for command, what in EXAMPLES[path]:
        assert command in pages["zh"][path] and what.zh in pages["zh"][path] and what.en in pages["en"][path]
        words = command.split()
        assert words[0] == "hanlin" and (not path or words[1 : 1 + len(path.split())] == path.split())
        function, *_ = app.parse_args(words[1:], exit_on_error=False, print_error=False)
        assert function is not None


@pytest.mark.parametrize(
    ("variables", "unsaid"),
    [
        ({}, True),
        ({"LANG": "C.UTF-8"}, True),
        ({"LANG": "C"}, True),
        ({"LC_ALL": "POSIX", "LANG": "zh_CN.UTF-8"}, True),
        ({"LANG": "en_US.UTF-8"}, False),
        ({"LANG": "zh_CN.UTF-8"}, False),
        ({"LANG": "C.UTF-8", "HANLIN_LANG": "en"}, False),
    ],
)
def test_the_hint_is_for_those_whose_locale_says_nothing(variables, unsaid, monkeypatch):
    from hanlin.common import messages

    for name in ("HANLIN_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(messages.locale, "getlocale", lambda: (None, None))
    assert messages.language_unsaid() == unsaid


def test_the_hint_is_kept_out_of_pipes():
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("HANLIN_LANG", "LC_ALL", "LC_MESSAGES")
    } | {"LANG": "C.UTF-8"}
    result = subprocess.run(
        [sys.executable, "-m", "hanlin", "report", "nowhere"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert result.returncode == 1 and "HANLIN_LANG" not in result.stderr


# ---------------------------------------------------------------- mistakes on the command line


def test_a_typo_in_an_override_blames_the_command_line_and_one_in_the_file_the_file(tmp_path, monkeypatch):
    from hanlin.common.errors import HanlinError
    from hanlin.recipe.recipe import load_recipe

    monkeypatch.setenv("HANLIN_LANG", "en")
    with pytest.raises(
        HanlinError,
        match=r"^command line: unknown key pretrain.train.step. Did you mean pretrain.train.steps\?",
    ):
        load_recipe("demo", ["pretrain.train.step=10"])
    with pytest.raises(HanlinError, match="^command line: pretrain.train.steps should be an integer"):
        load_recipe("demo", ["pretrain.train.steps=many"])
    with pytest.raises(HanlinError, match=r"Did you mean pretrain.seq_len, sft.seq_len, reasoning.seq_len\?"):
        load_recipe("demo", ["seq_len=1024"])
    with pytest.raises(HanlinError, match=r"Did you mean grpo.group_size\?"):
        load_recipe("demo", ["group_size=4"])
    file = tmp_path / "mine.yaml"
    file.write_text("corpus: {documents: 10}\nstages: [{kind: pretrain, train: {step: 3}}]\n")
    with pytest.raises(HanlinError, match=f"^{file}: unknown key pretrain.train.step"):
        load_recipe(file, ["seed=3"])


@pytest.mark.parametrize(
    "overrides",
    [["pretrain.seq_len=4096"], ["corpus.files=[x]", "dpo.data.files=[]"], ["corpus.documents=0"]],
)
def test_what_a_recipe_refuses_it_refuses_in_both_languages(overrides):
    from hanlin.common.errors import HanlinError
    from hanlin.recipe.recipe import load_recipe

    with pytest.raises(HanlinError) as caught:
        load_recipe("demo", overrides)
    assert (
        HAN.search(caught.value.zh)
        and not HAN.search(caught.value.en)
        and "is empty" not in caught.value.zh
        and "exceeds" not in caught.value.zh
    )


def test_settings_behind_the_files_are_taken_for_settings(tmp_path):
    from hanlin.cli.main import _settings_among_files
    from hanlin.common.errors import HanlinError

    strange = tmp_path / "a=b.txt"
    strange.write_text("x")
    found = _settings_among_files(("seed=1",), ("x.txt", "sft=null", str(strange)), ("y.jsonl",))
    assert found == (("seed=1", "sft=null"), [("x.txt", str(strange)), ("y.jsonl",)])
    with pytest.raises(HanlinError, match="sft=null"):
        _settings_among_files((), ("sft=null",))
