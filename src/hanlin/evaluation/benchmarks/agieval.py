"""AGIEval (Zhong et al. 2023), its Chinese tasks: questions of university entrance, lawyers' and civil
servants' examinations."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hanlin.common.messages import Text
from hanlin.evaluation.benchmarks.base import CLOZE_PMI, LETTERED, Benchmark, column, register_benchmark
from hanlin.evaluation.benchmarks.folder import Folder
from hanlin.evaluation.benchmarks.items import LETTERS, Item, LeftOut, Prompt

SUBJECTS = {
    "gaokao-biology": "高考生物",
    "gaokao-chemistry": "高考化学",
    "gaokao-chinese": "高考语文",
    "gaokao-geography": "高考地理",
    "gaokao-history": "高考历史",
    "gaokao-mathcloze": "高考数学填空",
    "gaokao-mathqa": "高考数学选择",
    "gaokao-physics": "高考物理",
    "jec-qa-ca": "司法考试案例分析",
    "jec-qa-kd": "司法考试知识概念",
    "logiqa-zh": "公务员考试逻辑",
}

_LABEL = re.compile(r"\s*(?:[(（]([A-G])[)）]|([A-G])\s*[．.、。:：]|([A-G])(?=\s))\s*")


@register_benchmark
class AGIEval(Benchmark):
    """Files `{task}.jsonl`: passage, question, options that begin with their letter, label.

    Asked are the questions with one right answer. Left out, and said with their number, are those with
    several (half of both jec-qa, some of physics and mathqa), where one choice can't be right or wrong, and
    gaokao-mathcloze, whose answers are formulas. lm-eval asks the former too and takes any of the right
    answers, so that its scores are over more questions. gaokao-english is no Chinese text and not read.
    """

    name = "agieval"
    title = Text("AGIEval: entrance and professional examinations")
    licence = "MIT; the questions' own licences apply"
    home = "https://github.com/ruixiangcui/AGIEval"
    split = "test"
    counts = {"test": 4417}
    sha256 = {
        "test": "84bc70b3b6dd8e5ae8652055ec7e2793109916ff0d21d2ef9fe2053e2336c6b5",
    }
    cluster = Text("passage")
    prompts = {
        "hanlin-zh": {"cloze": CLOZE_PMI, "letters": LETTERED},
        # of hails/agieval-*: the authors' zero-shot prompt, and each option whole, its letter included
        "lm-eval": {"cloze": Prompt("{query}", "{published_option}", main="sum", delimiter=" ")},
    }

    def read(self, folder: Folder, split: str) -> Iterator[Item | LeftOut]:
        """Items by task, those of one passage as a cluster."""
        for name in self.files(folder, "[gjl]*-*.jsonl"):
            task = name.rpartition("/")[2].removesuffix(".jsonl")
            if task not in SUBJECTS:
                continue
            passages: dict[str, str] = {}
            for place, row in enumerate(folder.rows(name)):
                id = f"{task}/{place}"
                options = row.get("options")
                if not isinstance(options, list):
                    yield LeftOut(id, Text("the answer is written, not chosen"))
                    continue
                options = [str(option) for option in options]
                right = re.findall("[A-G]", str(row.get("label")))
                if len(right) != 1:
                    yield LeftOut(id, Text("several right answers") if right else Text("no answer"))
                    continue
                passage, question = row.get("passage") or "", column(row, "question", where=name)
                yield Item(
                    id,
                    question.strip(),
                    tuple(unlabelled(option, LETTERS[at]) for at, option in enumerate(options)),
                    LETTERS.index(right[0]),
                    passage=passage.strip(),
                    subject=SUBJECTS[task],
                    cluster=f"{task}/{passages.setdefault(passage, str(place))}" if passage else "",
                    more={
                        "query": f"{passage}问题：{question} 选项：{' '.join(options)}\n"
                        f"答案：从A到{LETTERS[len(options) - 1]}, 我们应选择",
                        "published_option": options,
                    },
                )


def unlabelled(option: str, letter: str) -> str:
    """An option without its letter, which is written in half a dozen ways; a letter without a mark behind it
    is one only in its own place."""
    match = _LABEL.match(option)
    if match and (match[3] is None or match[3] == letter):
        option = option[match.end() :]
    return option.strip()
