"""XStoryCloze (Lin et al. 2022) in Chinese: which of two sentences ends a story of four?"""

from __future__ import annotations

from collections.abc import Iterator

from hanlin.common.messages import Text
from hanlin.evaluation.benchmarks.base import Benchmark, column, register_benchmark
from hanlin.evaluation.benchmarks.folder import Folder
from hanlin.evaluation.benchmarks.items import Item, Prompt

_STORY = "{sentence1}{sentence2}{sentence3}{sentence4}"
_SPACED = "{sentence1} {sentence2} {sentence3} {sentence4}"


@register_benchmark
class XStoryCloze(Benchmark):
    """Files `spring2016.val.zh.tsv.split_20_80_{split}.tsv` (columns InputSentence1 …) or parquet
    (input_sentence_1 …): four sentences, two endings, the right one as 1 or 2."""

    name = "xstorycloze"
    title = Text("XStoryCloze: how does a story end?")
    licence = "CC BY-SA 4.0"
    home = "https://huggingface.co/datasets/juletxara/xstory_cloze"
    split = "eval"
    shots_split = "train"
    counts = {"train": 360, "eval": 1511}
    prompts = {
        "hanlin-zh": {
            "cloze": Prompt(_STORY),
            "letters": Prompt(
                _STORY + "\n问题：哪一句是故事的结尾？\n{options}\n答案：", "{letter}", main="sum"
            ),
        },
        "lm-eval": {"cloze": Prompt(_SPACED, main="sum", delimiter=" ")},
    }

    def read(self, folder: Folder, split: str) -> Iterator[Item]:
        """Items in the file's order."""
        patterns = (
            f"*.zh.tsv.split_20_80_{split}.tsv",
            f"zh/{split}-*.parquet",
            f"zh/{split}/*.parquet",
        )
        for name in self.files(folder, *patterns):
            for place, row in enumerate(folder.rows(name)):
                where = f"{folder.where(name)}:{place + 1}"
                sentences = {
                    f"sentence{at}": column(row, f"input_sentence_{at}", f"InputSentence{at}", where=where)
                    for at in range(1, 5)
                }
                right = column(row, "answer_right_ending", "AnswerRightEnding", where=where)
                yield Item(
                    str(row.get("story_id") or row.get("InputStoryid") or place),
                    "",
                    tuple(
                        column(row, f"sentence_quiz{number}", f"RandomFifthSentenceQuiz{number}", where=where)
                        for number in (1, 2)
                    ),
                    {"1": 0, "2": 1}.get(right.strip()),
                    more=sentences,
                )
