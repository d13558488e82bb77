"""XCOPA (Ponti et al. 2020) in Chinese: the cause or the effect of something, two choices."""

from __future__ import annotations

from collections.abc import Iterator

from hanlin.common.messages import Text
from hanlin.evaluation.benchmarks.base import Benchmark, column, register_benchmark
from hanlin.evaluation.benchmarks.folder import Folder
from hanlin.evaluation.benchmarks.items import Item, LeftOut, Prompt

_CONNECTORS = {"cause": "因为", "effect": "所以"}
_QUESTIONS = {"cause": "原因是什么？", "effect": "结果是什么？"}


@register_benchmark
class XCOPA(Benchmark):
    """Files `{split}.zh.jsonl`: premise, choice1, choice2, question (cause or effect), label."""

    name = "xcopa"
    title = Text("XCOPA: causes and effects")
    licence = "CC BY 4.0"
    home = "https://github.com/cambridgeltl/xcopa"
    split = "test"
    shots_split = "val"
    counts = {"val": 100, "test": 500}
    sha256 = {
        "val": "1f21bfe11c32a2d71043d190320a7fed2b59604c04b52d8d8632e8f7e537e1cf",
        "test": "2f1548110d41a1e67b7b92b6dedcb01932a7c4b1ea290b3e2e07c621171d11fd",
    }
    prompts = {
        "hanlin-zh": {
            "cloze": Prompt("{clause}，{connector}", main="sum", bare="{connector}"),
            "letters": Prompt("{premise}\n问题：{question}\n{options}\n答案：", "{letter}", main="sum"),
        },
        # It puts the first Latin letter of a choice in lower case; no choice begins with one.
        "lm-eval": {"cloze": Prompt("{premise_cut} {connector}", main="sum", delimiter=" ")},
    }

    def read(self, folder: Folder, split: str) -> Iterator[Item | LeftOut]:
        """Items in the file's order. `data-gmt`, beside `data`, holds translations by machine."""
        published = "validation" if split == "val" else split
        patterns = (f"data/zh/{split}.zh.jsonl", f"{split}.zh.jsonl", f"zh/{published}-*.parquet")
        for name in self.files(folder, *patterns):
            for place, row in enumerate(folder.rows(name)):
                where = f"{folder.where(name)}:{place + 1}"
                id, asked = str(row.get("idx", place)), column(row, "question", where=where)
                if asked not in _CONNECTORS:
                    yield LeftOut(id, Text("a question for neither cause nor effect"))
                    continue
                premise, label = (column(row, key, where=where) for key in ("premise", "label"))
                yield Item(
                    id,
                    _QUESTIONS[asked],
                    tuple(column(row, key, where=where) for key in ("choice1", "choice2")),
                    int(label) if label in ("0", "1") else None,
                    more={
                        "premise": premise,
                        "premise_cut": premise.strip()[:-1],
                        "clause": premise.strip().rstrip("。．.！？!?"),
                        "connector": _CONNECTORS[asked],
                    },
                )
