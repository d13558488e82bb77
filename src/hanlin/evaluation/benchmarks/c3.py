"""C3 (Sun et al. 2020): multiple-choice questions about a Chinese dialogue or text, two to four choices."""

from __future__ import annotations

from collections.abc import Iterator

from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text
from hanlin.evaluation.benchmarks.base import CLOZE, LETTERED, Benchmark, register_benchmark
from hanlin.evaluation.benchmarks.folder import Folder
from hanlin.evaluation.benchmarks.items import Item, Prompt

_PARTS = {"d": "对话", "m": "其他文体"}


@register_benchmark
class C3(Benchmark):
    """Files `c3-{d,m}-{split}.json`: `[[lines], [{question, choice, answer}], id]` each."""

    name = "c3"
    title = Text("C3: reading comprehension")
    licence = "non-commercial research"
    home = "https://github.com/nlpdata/c3"
    split = "dev"
    shots_split = "train"
    counts = {"train": 11869, "dev": 3816, "test": 3892}
    sha256 = {
        "train": "48c9f77f89fb8ec5a647277ea98d1de97673fbb40f9420197eb368d80567f2ec",
        "dev": "5b846fdde684e049247e7fe3ea229b5ef9ed79360fda8488cacac961e62878ac",
        "test": "30c45a6360946f19c52f5d7f196cba741719725ce57f9ccc0732639d836fa602",
    }
    cluster = Text("passage")
    samples = ("c3-1000",)
    prompts = {
        "hanlin-zh": {"cloze": CLOZE, "letters": LETTERED},
        # The mean over the whole text. Its loader repeats the first choice until there are four; an equal
        # likelihood never wins there.
        "opencompass-ppl": {
            "cloze": Prompt(
                "", "文章：{in_one_line}\n问题：{question}\n答案：{choice}", main="token", bare=None
            )
        },
    }

    def read(self, folder: Folder, split: str) -> Iterator[Item]:
        """Items of the dialogues, then of the texts; an answer is given by its text."""
        for name in self.files(folder, f"c3-[dm]-{split}.json"):
            part = name.rpartition("c3-")[2][0]
            for place, entry in enumerate(folder.json(name)):
                try:
                    lines, questions, _ = entry  # its id is not its own in all of the files
                    for number, asked in enumerate(questions):
                        choices = tuple(asked["choice"])
                        gold = choices.index(asked["answer"]) if asked["answer"] in choices else None
                        yield Item(
                            f"{part}/{place}/{number}",
                            asked["question"],
                            choices,
                            gold,
                            passage="\n".join(lines),
                            subject=_PARTS[part],
                            cluster=f"{part}/{place}",
                            more={"in_one_line": " ".join(lines)},
                        )
                except (ValueError, TypeError, KeyError) as error:
                    raise HanlinError(
                        "{path}: entry {place} is not [lines, questions, id] with question, choice and "
                        "answer.",
                        path=folder.where(name),
                        place=place,
                    ) from error
