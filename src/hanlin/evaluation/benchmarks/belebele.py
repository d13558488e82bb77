"""Belebele (Bandarkar et al. 2024) in simplified Chinese: questions about short passages, four choices."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from hanlin.common.messages import Text
from hanlin.evaluation.benchmarks.base import CLOZE, LETTERED, Benchmark, column, register_benchmark
from hanlin.evaluation.benchmarks.folder import Folder
from hanlin.evaluation.benchmarks.items import Item, Prompt


@register_benchmark
class Belebele(Benchmark):
    """File `zho_Hans.jsonl`: flores_passage, question, mc_answer1 to 4, correct_answer_num, question_number.
    An id is the passage's hash and the question's number, since neither link nor number is its own."""

    name = "belebele"
    title = Text("Belebele: reading comprehension")
    licence = "CC BY-SA 4.0"
    home = "https://huggingface.co/datasets/facebook/belebele"
    split = "test"
    counts = {"test": 900}
    cluster = Text("passage")
    prompts = {
        "hanlin-zh": {"cloze": CLOZE, "letters": LETTERED},
        "lm-eval": {
            "letters": Prompt(
                "P: {passage}\nQ: {question}\n{mc_answers}\nAnswer:", "{letter}", main="sum", delimiter=" "
            )
        },
    }

    def read(self, folder: Folder, split: str) -> Iterator[Item]:
        """Items in the file's order."""
        for name in self.files(folder, "zho_Hans.jsonl", f"zho_Hans/{split}-*.parquet"):
            for place, row in enumerate(folder.rows(name)):
                where = f"{folder.where(name)}:{place + 1}"
                passage = column(row, "flores_passage", where=where)
                choices = [column(row, f"mc_answer{number}", where=where) for number in range(1, 5)]
                right = column(row, "correct_answer_num", where=where)
                cluster = hashlib.sha256(passage.encode()).hexdigest()[:12]
                yield Item(
                    f"{cluster}/{column(row, 'question_number', where=where)}",
                    column(row, "question", where=where).strip(),
                    tuple(choice.strip() for choice in choices),
                    {"1": 0, "2": 1, "3": 2, "4": 3}.get(right),
                    passage=passage,
                    cluster=cluster,
                    more={
                        "mc_answers": "\n".join(
                            f"{letter}: {choice}" for letter, choice in zip("ABCD", choices, strict=True)
                        )
                    },
                )
