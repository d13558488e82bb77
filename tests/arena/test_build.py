"""Building an arena: answers made alike, names hidden, resumed, and refusals that leave things as they
were."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hanlin.arena.answers import HIDDEN, hide_names, presentable
from hanlin.arena.build import build_arena, model_names
from hanlin.arena.prompts import Prompt, read_prompts
from hanlin.arena.rules import read_arena, read_secret
from hanlin.arena.store import Store
from hanlin.common.errors import HanlinError
from hanlin.model import save_weights
from tests.arena.arenas import count
from tests.inference.tiny import tiny_model, tiny_tokenizer

PROMPTS = "".join(f'{{"prompt": "小明有{i}个苹果吗？", "category": "c{i % 2}"}}\n' for i in range(12))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two tiny random models and a file of prompts."""
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("alpha", "beta")):
        folder = root / name
        folder.mkdir()
        save_weights(tiny_model(seed), folder, im_end_id=tiny_tokenizer().im_end_id)
        tiny_tokenizer().save(folder)
    (root / "prompts.jsonl").write_text(PROMPTS, encoding="utf-8")
    return root


def build(root, out, **changes):
    settings = {"seed": 3, "battles": 20, "sampling": {"max_new_tokens": 12, "temperature": 0.8}, **changes}
    return build_arena([root / "alpha", root / "beta"], root / "prompts.jsonl", out, **settings)


def answers(folder) -> dict[tuple[int, int], str]:
    store = Store(folder)
    found = {key: row["text"] for key, row in store.answers().items()}
    store.close()
    return found


def test_an_arena_is_a_function_of_models_prompts_sampling_and_seed(models, tmp_path):
    figures = build(models, tmp_path / "a")
    build(models, tmp_path / "b")
    build(models, tmp_path / "c", seed=4)
    assert figures["answers"] == 24 and sorted(figures["models"]) == ["alpha", "beta"]
    assert answers(tmp_path / "a") == answers(tmp_path / "b") != answers(tmp_path / "c")
    assert read_secret(tmp_path / "a") != read_secret(tmp_path / "b")


def test_a_build_goes_on_where_it_was_interrupted(models, tmp_path):
    build(models, tmp_path / "whole")
    build(models, tmp_path / "cut")
    store = Store(tmp_path / "cut")
    with store.transaction() as db:
        db.execute("DELETE FROM answer WHERE model = 1 AND prompt > 4")
        db.execute("UPDATE answer SET text = 'kept' WHERE model = 0 AND prompt = 0")
    store.close()
    secret = read_secret(tmp_path / "cut")
    build(models, tmp_path / "cut")
    there, whole = answers(tmp_path / "cut"), answers(tmp_path / "whole")
    assert there.pop((0, 0)) == "kept" and whole.pop((0, 0)) != "kept"
    assert there == whole and read_secret(tmp_path / "cut") == secret


def test_another_arena_in_the_same_place_is_refused(models, tmp_path):
    build(models, tmp_path / "a")
    before = answers(tmp_path / "a")
    for changes in ({"seed": 9}, {"battles": 10}, {"sampling": {"max_new_tokens": 5}}, {"hidden": ("x",)}):
        with pytest.raises(HanlinError, match="arena already"):
            build(models, tmp_path / "a", **changes)
    assert answers(tmp_path / "a") == before


def test_reasoning_and_blanks_are_taken_out_and_said():
    assert presentable("  答案是3。\n\n") == ("答案是3。", False)
    assert presentable("<think>\n先数一数。\n</think>\n\n答案是3。") == ("答案是3。", True)
    assert presentable("先数。</think>答案是3。") == ("答案是3。", True)
    assert presentable("<think>没有想完") == ("", True)


@pytest.mark.parametrize(
    ("text", "prompt", "shown", "hidden"),
    [
        ("我是翰林，很高兴。", "你是谁？", f"我是{HIDDEN}，很高兴。", 1),
        ("我是Qwen2.5，QWEN！", "你是谁？", f"我是{HIDDEN}2.5，{HIDDEN}！", 2),
        ("翰林院在北京。", "翰林院在哪里？", "翰林院在北京。", 0),
        ("betamax and alphabet", "hi", "betamax and alphabet", 0),
        ("I am beta.", "hi", f"I am {HIDDEN}.", 1),
        ("ab 和 a", "hi", "ab 和 a", 0),
    ],
)
def test_names_are_hidden_unless_the_prompt_says_them(text, prompt, shown, hidden):
    assert hide_names(text, ["翰林", "Qwen", "beta", "alpha", "a"], prompt) == (shown, hidden)


def test_models_have_names_that_differ(tmp_path):
    folders = [tmp_path / "a" / "sft", tmp_path / "b" / "sft", tmp_path / "run" / "model"]
    assert model_names(folders[:1] + folders[2:]) == ["sft", "run"]
    assert model_names(folders) == ["a/sft", "b/sft", f"{tmp_path.name}/run"]
    with pytest.raises(HanlinError, match="twice"):
        model_names([folders[0], folders[0]])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.jsonl", '{"prompt": "甲？", "category": "c"}\n\n{"prompt": "乙？"}\n{"prompt": "甲？"}\n'),
        ("p.json", '[{"question": "甲？", "category": "c"}, "乙？"]'),
        ("p.csv", "\ufeffcategory,prompt\nc,甲？\n,乙？\n"),
        ("p.tsv", "text\tcategory\n甲？\tc\n乙？\t\n"),
    ],
)
def test_prompts_are_read_from_every_form(tmp_path, name, content):
    file = tmp_path / name
    file.write_text(content, encoding="utf-8")
    assert read_prompts(file) == [Prompt("甲？", "c"), Prompt("乙？", "")]


def test_prompts_of_plain_text(tmp_path):
    file = tmp_path / "p.txt"
    file.write_text("甲？\n\n 乙？ \n", encoding="utf-8")
    assert read_prompts(file) == [Prompt("甲？"), Prompt("乙？")]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.csv", "frage,antwort\na,b\n", "frage"),
        ("p.jsonl", '{"frage": "a"}\n', "frage"),
        ("p.jsonl", '{"prompt": "a"\n', "line 1"),
        ("p.jsonl", "5\n", "line 1"),
        ("p.jsonl", "", "no prompts"),
        ("p.txt", "好" * 5000, "5000"),
    ],
)
def test_prompts_that_cannot_be_read_are_named(tmp_path, name, content, words):
    file = tmp_path / name
    file.write_text(content, encoding="utf-8")
    with pytest.raises(HanlinError) as caught:
        read_prompts(file)
    assert words in caught.value.en and str(file) in caught.value.en and caught.value.zh != caught.value.en


def hanlin(*arguments) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hanlin", *map(str, arguments)], capture_output=True, text=True, timeout=120
    )


def test_mistakes_on_the_command_line_are_one_paragraph(models, tmp_path):
    """A missing model, an arena that is none, a rater that is nobody's: exit 1, no stack trace, nothing
    written."""
    out = tmp_path / "arena"
    prompts = models / "prompts.jsonl"
    tries = [
        (
            "arena",
            "build",
            "--models",
            models / "alpha",
            models / "nowhere",
            "--prompts",
            prompts,
            "--out",
            out,
        ),
        ("arena", "build", "--models", models / "alpha", "--prompts", prompts, "--out", out),
        ("arena", "report", out),
    ]
    for arguments in tries:
        result = hanlin(*arguments)
        assert result.returncode == 1 and "Traceback" not in result.stderr, result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
        assert not out.exists()
    build(models, out)
    result = hanlin("arena", "forget", out, "ZZZZZZ")
    assert result.returncode == 1 and "ZZZZZZ" in result.stderr and count(out, "answer") == 24
    (out / "arena.db").write_bytes(b"no database" * 500)
    result = hanlin("arena", "report", out)
    assert result.returncode == 1 and "Traceback" not in result.stderr and "arena.db" in result.stderr


def test_rules_are_read_from_the_file(models, tmp_path):
    out = tmp_path / "arena"
    build(models, out)
    file = out / "arena.json"
    file.write_text(file.read_text("utf-8").replace('"gold_failures": 2', '"gold_failures": 1'), "utf-8")
    assert read_arena(out).rules.gold_failures == 1
    file.write_text(file.read_text("utf-8").replace('"gold_failures": 1', '"gold_failures": "x"'), "utf-8")
    with pytest.raises(HanlinError, match="gold_failures"):
        read_arena(out)
    file.write_text(file.read_text("utf-8").replace("gold_failures", "gold_faults"), "utf-8")
    with pytest.raises(HanlinError, match="gold_faults"):
        read_arena(out)
