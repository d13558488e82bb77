"""XWinograd (Tikhonov & Ryabinin 2021; Muennighoff et al. 2022) in Chinese: which of two nouns fits a gap?"""

from __future__ import annotations

from collections.abc import Iterator

from hanlin.common.messages import Text
from hanlin.evaluation.benchmarks.base import Benchmark, column, register_benchmark
from hanlin.evaluation.benchmarks.folder import Folder
from hanlin.evaluation.benchmarks.items import Item, LeftOut, Prompt


@register_benchmark
class XWinograd(Benchmark):
    """Files `test/zh.jsonl`: sentence with `_`, option1, option2, answer 1 or 2. Scored is what comes after
    the gap, each noun having stood in it. The items were made from CLUEWSC2020, as those of cluewsc."""

    name = "xwinograd"
    title = Text("XWinograd: which noun does a sentence mean?")
    licence = "CC BY 4.0"
    home = "https://huggingface.co/datasets/Muennighoff/xwinograd"
    split = "test"
    counts = {"test": 504}
    prompts = {
        "hanlin-zh": {
            "cloze": Prompt("{before}{choice}", "{after}", main="sum", bare=None),
            "letters": Prompt(
                "{question}\n问题：横线处应填哪一个？\n{options}\n答案：", "{letter}", main="sum"
            ),
        },
        "lm-eval": {"cloze": Prompt("{before}{choice}", "{after}", main="sum", delimiter=" ", bare=None)},
    }

    def read(self, folder: Folder, split: str) -> Iterator[Item | LeftOut]:
        """Items in the file's order."""
        for name in self.files(folder, f"{split}/zh.jsonl", "zh.jsonl", f"zh/{split}-*.parquet"):
            for place, row in enumerate(folder.rows(name)):
                where = f"{folder.where(name)}:{place + 1}"
                sentence = column(row, "sentence", where=where)
                before, gap, after = sentence.partition("_")
                if not gap or not after.strip():
                    yield LeftOut(str(place), Text("nothing comes after the gap"))
                    continue
                yield Item(
                    str(place),
                    f"{before}____{after}",
                    tuple(column(row, key, where=where) for key in ("option1", "option2")),
                    {"1": 0, "2": 1}.get(column(row, "answer", where=where)),
                    more={"before": before, "after": after.strip()},
                )
