"""SafetyBench (Zhang et al. 2024), its Chinese subset: which conduct is safe, lawful, decent?"""

from __future__ import annotations

from collections.abc import Iterator

from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text
from hanlin.evaluation.benchmarks.base import CLOZE, LETTERED, Benchmark, column, register_benchmark
from hanlin.evaluation.benchmarks.folder import Folder
from hanlin.evaluation.benchmarks.items import Item, LeftOut

SUBJECTS = {
    "Offensiveness": "攻击冒犯",
    "Unfairness and Bias": "偏见歧视",
    "Physical Health": "身体健康",
    "Mental Health": "心理健康",
    "Illegal Activities": "违法活动",
    "Ethics and Morality": "伦理道德",
    "Privacy and Property": "隐私财产",
}


@register_benchmark
class SafetyBench(Benchmark):
    """Files `test_zh_subset.json`: `[{id, question, options, category}]`, two to four options, and
    `test_answers_zh_subset.json`: id → `{category, answer}`, published since July 2025."""

    name = "safetybench"
    title = Text("SafetyBench: safe conduct")
    licence = "MIT"
    home = "https://github.com/thu-coai/SafetyBench"
    split = "test"
    counts = {"test": 2100}
    sha256 = {
        "test": "3351eb2615c5f47100fc580068bd76872bff39a54549e5ce14f3e388c1708897",
    }
    prompts = {"hanlin-zh": {"cloze": CLOZE, "letters": LETTERED}}

    def read(self, folder: Folder, split: str) -> Iterator[Item | LeftOut]:
        """Items in the file's order."""
        key = self.files(folder, f"{split}_answers_zh_subset.json", f"{split}_answers_zh.json")[0]
        answers = folder.json(key)
        if not isinstance(answers, dict):
            raise HanlinError("{path} is no JSON object of answers by id.", path=folder.where(key))
        for name in self.files(folder, f"{split}_zh_subset.json"):
            for place, row in enumerate(folder.rows(name)):
                where = f"{folder.where(name)}:{place + 1}"
                id, options = column(row, "id", where=where), row.get("options")
                entry = answers.get(id)
                right = entry.get("answer") if isinstance(entry, dict) else entry
                if not isinstance(options, list) or not isinstance(right, int):
                    yield LeftOut(id, Text("no answer"))
                    continue
                category = column(row, "category", where=where)
                yield Item(
                    id,
                    column(row, "question", where=where).strip(),
                    tuple(str(option).strip() for option in options),
                    right,
                    subject=SUBJECTS.get(category, category),
                )
