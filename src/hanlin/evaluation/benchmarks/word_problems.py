"""Arithmetic in words, the answer written by the model: CMATH, MGSM and GSM8K in Chinese."""

from __future__ import annotations

from collections.abc import Iterator

from hanlin.common.messages import Text
from hanlin.common.numbers import reference_number
from hanlin.evaluation.benchmarks.base import Benchmark, Verdict, column, register_benchmark
from hanlin.evaluation.benchmarks.folder import Folder
from hanlin.evaluation.benchmarks.items import Item, LeftOut, Prompt
from hanlin.evaluation.benchmarks.written import judge_number

_NO_NUMBER = Text("an answer that is no number")


def _zh(shown: str, max_new_tokens: int) -> Prompt:
    """The prompt that says where the answer belongs.

    Args:
        shown: what a shot answers.
    """
    return Prompt(
        "问题：{question}\n请写出计算过程，最后一行写“答案是”和得数。\n解答：",
        shown,
        stop=("\n问题：",),
        max_new_tokens=max_new_tokens,
    )


class WordProblems(Benchmark):
    """Problems with a number as the answer."""

    def check(self, item: Item, text: str) -> Verdict:
        """Whether the number is right, see `judge_number`."""
        return judge_number(item.answer, text)


@register_benchmark
class CMATH(WordProblems):
    """Files `cmath_{split}.jsonl`: grade, input, golden; primary school, 100 problems a grade."""

    name = "cmath"
    title = Text("CMATH: arithmetic of primary school")
    licence = "CC BY 4.0"
    home = "https://github.com/XiaoMi/cmath"
    split = "dev"
    counts = {"dev": 600, "test": 1098}
    sha256 = {
        "dev": "83f37322c0e6f54d75efe30c0a846fd369e05d0784ce2d2f38b318bfc4f1c8ff",
    }
    prompts = {"hanlin-zh": {"answer": _zh("答案是{answer}", 192)}}

    def read(self, folder: Folder, split: str) -> Iterator[Item | LeftOut]:
        """Problems in the file's order, the grade as their subject."""
        for name in self.files(folder, f"cmath_{split}.jsonl", f"cmath/{split}-*.parquet"):
            for place, row in enumerate(folder.rows(name)):
                where = f"{folder.where(name)}:{place + 1}"
                grade, answer = (column(row, key, where=where) for key in ("grade", "golden"))
                if reference_number(answer) is None:
                    yield LeftOut(str(place), _NO_NUMBER)
                    continue
                question = column(row, "input", where=where)
                yield Item(str(place), question.strip(), answer=answer, subject=f"{grade}年级")


@register_benchmark
class MGSM(WordProblems):
    """File `mgsm_zh.tsv`: question and answer, without a header."""

    name = "mgsm"
    title = Text("MGSM: arithmetic in several steps")
    licence = "CC BY 4.0"
    home = "https://github.com/google-research/url-nlp/tree/main/mgsm"
    split = "test"
    counts = {"test": 250}
    sha256 = {
        "test": "4f4697abdc959bb6015217740c8caeee3dd3ef50041953aa5028fa83fc06ecb7",
    }
    prompts = {
        "hanlin-zh": {"answer": _zh("答案是{answer}", 320)},
        # mgsm_direct_zh, whose test items have no worked answer; its 256 tokens are the harness's own
        "lm-eval": {
            "answer": Prompt(
                "问题： {question}\nAnswer:",
                "{answer}",
                stop=("问题：", "</s>", "<|im_end|>"),
                max_new_tokens=256,
            )
        },
    }

    def read(self, folder: Folder, split: str) -> Iterator[Item | LeftOut]:
        """Problems in the file's order."""
        for name in self.files(folder, "mgsm_zh.tsv", f"zh/{split}-*.parquet"):
            columns = None if name.endswith(".parquet") else ("question", "answer_number")
            for place, row in enumerate(folder.rows(name, columns)):
                where = f"{folder.where(name)}:{place + 1}"
                answer = column(row, "answer_number", where=where)
                if reference_number(answer) is None:
                    yield LeftOut(str(place), _NO_NUMBER)
                    continue
                yield Item(str(place), column(row, "question", where=where), answer=answer)


@register_benchmark
class GSM8KZh(WordProblems):
    """File `GSM8K_zh.json`: question_zh, answer_zh, answer_only, split."""

    name = "gsm8k_zh"
    title = Text("GSM8K in Chinese: arithmetic in several steps")
    licence = "MIT"
    home = "https://huggingface.co/datasets/meta-math/GSM8K_zh"
    split = "test"
    shots_split = "train"
    counts = {"train": 7473, "test": 1319}
    prompts = {"hanlin-zh": {"answer": _zh("{solution}\n答案是{answer}", 320)}}

    def read(self, folder: Folder, split: str) -> Iterator[Item | LeftOut]:
        """Problems of the split in the file's order; an id is the place in the whole file."""
        for name in self.files(folder, "GSM8K_zh.json", "GSM8K_zh.jsonl"):
            for place, row in enumerate(folder.rows(name)):
                where = f"{folder.where(name)}:{place + 1}"
                if column(row, "split", where=where) != split:
                    continue
                answer = column(row, "answer_only", where=where)
                if reference_number(answer) is None:
                    yield LeftOut(str(place), _NO_NUMBER)
                    continue
                yield Item(
                    str(place),
                    column(row, "question_zh", where=where).strip(),
                    answer=answer,
                    more={"solution": str(row.get("answer_zh") or "").partition("####")[0].strip()},
                )
