"""What C-Eval and CMMLU share: a table of each subject, four choices in columns of their own, the right one
by its letter."""

from __future__ import annotations

from collections.abc import Iterator

from hanlin.evaluation.benchmarks.base import column, letter_index
from hanlin.evaluation.benchmarks.folder import Folder
from hanlin.evaluation.benchmarks.items import Item, Prompt, lettered

# Published prompts keep the blanks at the ends of a cell; `hanlin-zh` does not. lm-eval strips the question.
ASKED = "{question}\n{published_options}\n答案："


def opencompass(introduction: str, question: str, answer: str) -> Prompt:
    """Its prompt for a model without a template of its own: every shot begins with the introduction. What the
    letter costs decides as the mean over the whole text does, a letter being one token."""
    return Prompt(
        introduction + question,
        "{letter}",
        main="sum",
        delimiter=answer,
        between="\n\n\n",
        before_question="\n\n\n\n\n",
    )


def read_subject(
    folder: Folder, name: str, key: str, subject: str, question: str, answer: str
) -> Iterator[Item]:
    """Items of one subject's file.

    Args:
        key: of the subject, for the items' ids.
        subject: in Chinese.
        question: name of the question's column.
        answer: name of the answer's.
    """
    for place, row in enumerate(folder.rows(name)):
        where = f"{folder.where(name)}:{place + 1}"
        asked = column(row, question, where=where)
        choices = [column(row, letter, where=where) for letter in "ABCD"]
        yield Item(
            f"{key}/{row.get('id', place)}",
            asked.strip(),
            tuple(choice.strip() for choice in choices),
            letter_index(str(row.get(answer) or "")),
            subject=subject,
            more={"published_question": asked, "published_options": lettered(choices)},
        )
