"""Nine small tasks as lm-evaluation-harness and as Hanlin ask them, on items made here; and what the harness
says of them.

    python -m tests.evaluation.lm_eval_fixtures

writes `lm_eval_expected.json` anew. It needs lm-eval, which the tests don't: they hold Hanlin against the
figures stored there.
"""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hanlin.evaluation.benchmarks.items import Item, Prompt
from tests.support import tiny_model, tiny_tokenizer

EXPECTED = Path(__file__).with_name("lm_eval_expected.json")
COUNT = 12
POSITIONS = 64
NAMES, THINGS = ("小明", "小红", "王老师", "李阿姨"), ("书", "苹果", "小猫", "一本关于恐龙的书", "雨伞")
PLACES = ("图书馆", "学校", "公园里", "河边")


class Fixture(NamedTuple):
    """A task: how Hanlin asks it, and the lines that make it lm-evaluation-harness's."""

    prompt: Prompt
    items: list[Item]
    yaml: dict[str, Any]
    rows: list[dict[str, Any]]


def _items(seed: int) -> list[Item]:
    rng = random.Random(seed)
    items = []
    for at in range(COUNT):
        name, place = rng.choice(NAMES), rng.choice(PLACES)
        choices = tuple(rng.sample(THINGS, 4))
        items.append(
            Item(
                str(at),
                f"{name}在{place}看见了什么？",
                choices,
                rng.randrange(4),
                passage=f"今天{name}去了{place}。",
            )
        )
    return items


def _row(item: Item, text: str, choices: list[str] | None = None) -> dict[str, Any]:
    return {"text": text, "choices": choices or list(item.choices), "gold": item.gold}


def fixtures() -> dict[str, Fixture]:
    """All tasks by name."""
    found = {}
    plain = {"doc_to_text": "{{text}}", "doc_to_choice": "choices", "doc_to_target": "gold"}

    def add(name: str, seed: int, prompt: Prompt, **yaml: Any) -> None:
        items = _items(seed)
        rows = []
        for item in items:
            requests = prompt.requests(item)
            rows.append(_row(item, requests[0].context, [request.measured for request in requests]))
        found[name] = Fixture(prompt, items, plain | {"target_delimiter": prompt.delimiter} | yaml, rows)

    lettered = "{question}\n{options}\n答案："
    head = "以下是关于生活的单项选择题，请选出其中的正确答案。\n\n"
    add("letters", 1, Prompt(head + lettered, "{letter}", main="sum", delimiter=" ", bare=None))
    add("cloze", 2, Prompt("{passage}\n问题：{question}\n答案：", main="char", bare=None))
    add("cloze_space", 3, Prompt("{passage}{question}", main="char", delimiter=" ", bare=None))
    add("trailing_space", 4, Prompt("{passage}{question}  ", main="char", bare=None))
    add("too_long", 5, Prompt("{passage}" * 8 + "{question}答：", main="char", bare=None))
    add("joined", 6, Prompt("{passage}小", "明的{choice}", main="byte", bare=None))
    add("sentences", 7, Prompt("", "{passage}{choice}是他的。", main="sum", bare=None))
    mutual = [{"metric": metric} for metric in ("acc", "acc_norm", "acc_bytes", "acc_mutual_info")]
    add("mutual", 8, Prompt("{question}", main="pmi", delimiter=" ", bare=""), metric_list=mutual)

    items = _items(9)
    prompt = Prompt("{passage}{choice}", "很好看。", main="sum", bare=None)
    rows = [
        {
            "contexts": [f"{item.passage}{choice}" for choice in item.choices],
            "gold": item.gold,
            "after": "很好看。",
        }
        for item in items
    ]
    yaml = {
        "doc_to_text": "gold",
        "doc_to_choice": "contexts",
        "doc_to_target": "after",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],  # acc_norm would divide by the length of the contexts
    }
    found["contexts"] = Fixture(prompt, items, yaml, rows)
    return found


def model_and_tokenizer(folder: Path) -> tuple[Any, Any]:
    """The tiny model that is asked, the same wherever it is made."""
    tokenizer = tiny_tokenizer(folder / "tokenizer")
    model = tiny_model("qwen3", tokenizer, seed=3, max_position_embeddings=POSITIONS)
    return model, tokenizer


def harness(folder: Path) -> dict[str, Any]:
    """What lm-evaluation-harness says of all tasks: metrics, and each item's log likelihoods."""
    import lm_eval
    import yaml
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from hanlin.stages.base import write_model

    torch.set_num_threads(1)
    model, tokenizer = model_and_tokenizer(folder)
    write_model(folder / "model", model, tokenizer, parents={}, config={}, seed=0, metrics={})
    tasks = folder / "tasks"
    tasks.mkdir()
    metrics = [{"metric": metric} for metric in ("acc", "acc_norm", "acc_bytes")]
    for name, fixture in fixtures().items():
        data = tasks / f"{name}.json"
        data.write_text("\n".join(json.dumps(row) for row in fixture.rows), encoding="utf-8")
        task = {
            "task": f"hanlin_{name}",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test",
            "output_type": "multiple_choice",
            "metric_list": metrics,
        }
        (tasks / f"{name}.yaml").write_text(yaml.safe_dump(task | fixture.yaml, allow_unicode=True))
    names = [f"hanlin_{name}" for name in fixtures()]
    found = lm_eval.simple_evaluate(
        HFLM(pretrained=str(folder / "model"), device="cpu", dtype="float32", batch_size=4),
        tasks=names,
        task_manager=TaskManager(include_path=str(tasks)),
        log_samples=True,
        bootstrap_iters=100,
    )
    assert found is not None
    kept = {}
    for name in fixtures():
        samples = sorted(found["samples"][f"hanlin_{name}"], key=lambda sample: sample["doc_id"])
        kept[name] = {
            "metrics": {
                key.removesuffix(",none"): value
                for key, value in found["results"][f"hanlin_{name}"].items()
                if key.endswith(",none")
            },
            "log_likelihoods": [[float(r[0]) for r in sample["filtered_resps"]] for sample in samples],
            "greedy": [[bool(r[1]) for r in sample["filtered_resps"]] for sample in samples],
        }
    return {"lm_eval": lm_eval.__version__, "tasks": kept}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        EXPECTED.write_text(json.dumps(harness(Path(temporary)), indent=1) + "\n", encoding="utf-8")
