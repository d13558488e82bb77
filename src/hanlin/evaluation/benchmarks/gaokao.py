"""GAOKAO-Bench (Zhang et al. 2023): multiple-choice questions of the university entrance examinations 2010 to
2022."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text
from hanlin.evaluation.benchmarks.base import (
    CLOZE_PMI,
    LETTERED,
    Benchmark,
    letter_index,
    register_benchmark,
)
from hanlin.evaluation.benchmarks.folder import Folder
from hanlin.evaluation.benchmarks.items import Item, LeftOut

SUBJECTS = {
    "Biology": "生物",
    "Chemistry": "化学",
    "Chinese_Lang_and_Usage": "语文",
    "Geography": "地理",
    "History": "历史",
    "Math_I": "数学（理）",
    "Math_II": "数学（文）",
    "Physics": "物理",
    "Political_Science": "政治",
}

# A mark behind a digit, as in `…升高4C.`, is looked at where the other ones do not suffice.
_OPTIONS = [re.compile(rf"(?<![A-Za-z{digits}_{{\\^])([A-D])\s*[．.、:：]") for digits in ("0-9", "")]
_PICTURE = re.compile(r"!\[\]\(")
_NUMBER = re.compile(r"(?<![0-9A-Za-z.=+-])(?:[(（]\d{1,2}[)）]|\d{1,2}\s*[．.、](?!\d(?!\d{3})))\s*")
_BROKEN_LINE = re.compile(r"(?<=[^\x00-\x7f])\s*\n\s*(?=[^\x00-\x7f])")  # of the page it was copied from
_POINTS = re.compile(r"^[(（]\s*\d+\s*分\s*[)）]\s*")


@register_benchmark
class Gaokao(Benchmark):
    """Files `*_{subject}_MCQs.json`: `{keywords, example: [{question, answer: [letters], index, …}]}`.

    The choices stand in the text of the question and are cut out of it; an entry may hold two or three
    questions about one text. Left out, and said with their number: questions whose choices can't be told
    apart or are pictures, and those with several right answers (physics). English is not read, nor are gaps
    and passages to be filled.
    """

    name = "gaokao"
    title = Text("GAOKAO-Bench: university entrance examinations")
    licence = "Apache-2.0"
    home = "https://github.com/OpenLMLab/GAOKAO-Bench"
    split = "test"
    counts = {"test": 1552}  # questions of the nine subjects
    sha256 = {
        "test": "1ae44ebd3fed6dbcd460e6038863eb4c4a28a6f07d5cf17954626c947798c059",
    }
    cluster = Text("shared text")
    prompts = {"hanlin-zh": {"cloze": CLOZE_PMI, "letters": LETTERED}}

    def read(self, folder: Folder, split: str) -> Iterator[Item | LeftOut]:
        """Items by subject, each question of an entry on its own."""
        for name in self.files(folder, "*_MCQs.json"):
            subject = name.rpartition("/")[2].partition("_")[2].removesuffix("_MCQs.json")
            if subject not in SUBJECTS:
                continue
            content = folder.json(name)
            for place, entry in enumerate(content.get("example", ()) if isinstance(content, dict) else ()):
                try:
                    text, answers = entry["question"], list(entry["answer"])
                except (KeyError, TypeError) as error:
                    raise HanlinError(
                        "{path}: entry {place} has no question and answer.",
                        path=folder.where(name),
                        place=place,
                    ) from error
                passage, questions = split_questions(text, len(answers))
                for number, answer in enumerate(answers):
                    id = f"{subject}/{entry.get('index', place)}" + (f"/{number}" if len(answers) > 1 else "")
                    if len(answer) != 1:
                        yield LeftOut(id, Text("several right answers"))
                    elif not questions:
                        yield LeftOut(id, Text("choices that can't be told apart in its text"))
                    else:
                        question, choices = questions[number]
                        if any(_PICTURE.match(choice) for choice in choices):
                            yield LeftOut(id, Text("choices that are pictures"))
                            continue
                        yield Item(
                            id,
                            question,
                            choices,
                            letter_index(answer),
                            passage=passage,
                            subject=SUBJECTS[subject],
                            cluster=f"{subject}/{entry.get('index', place)}" if passage else "",
                        )


def split_questions(text: str, count: int) -> tuple[str, list[tuple[str, tuple[str, ...]]]]:
    """The shared text of an entry, and its questions with their four choices; none where they can't be found.

    Choices are found from the end: the last D, the C before it, and so on, since a question itself may hold
    `C:` and a table its own A to D.
    """
    marks = _marks(text, count)
    if not marks:
        return "", []
    passage, begin, questions = "", 0, []
    for at in range(0, len(marks), 4):
        a, b, c, d = marks[at : at + 4]
        following = marks[at + 4].start() if at + 4 < len(marks) else len(text)
        numbers = list(_NUMBER.finditer(text, begin, a.start())) if count > 1 else []
        question = text[numbers[-1].end() if numbers else begin : a.start()]
        if at == 0 and count > 1 and numbers:
            passage = _clean(text[: numbers[-1].start()])
        last = list(_NUMBER.finditer(text, d.end(), following)) if following < len(text) else []
        begin = last[-1].start() if last else following
        cuts = [(a.end(), b.start()), (b.end(), c.start()), (c.end(), d.start()), (d.end(), begin)]
        questions.append(
            (_clean(question), tuple(_BROKEN_LINE.sub("", text[start:end].strip()) for start, end in cuts))
        )
    if not all(question for question, _ in questions):
        return "", []
    return passage, questions


def _marks(text: str, count: int) -> list[re.Match[str]]:
    """The letters before the choices, four for each question."""
    for pattern in _OPTIONS:
        marks: list[re.Match[str]] = []
        wanted = iter("DCBA" * count)
        letter = next(wanted)
        for match in reversed(list(pattern.finditer(text))):
            if match[1] == letter:
                marks.insert(0, match)
                letter = next(wanted, "")
        if not letter:
            return marks
    return []


def _clean(text: str) -> str:
    """Without the number and the points of a question, and without blanks at the ends."""
    text = text.strip()
    number = _NUMBER.match(text)
    return _POINTS.sub("", text[number.end() :] if number else text).strip()
