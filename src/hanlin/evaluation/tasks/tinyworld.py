"""The tasks of the embedded tinyworld: exact judges, held-out items that no training record can hold."""

from __future__ import annotations

from typing import Any

from hanlin.common.messages import Text
from hanlin.corpus import tinyworld
from hanlin.evaluation.tasks.base import Check, Task, TaskScope, TurnsTask, register_task

STORY_QA = "tinyworld/story_qa"
GREETINGS = "tinyworld/greetings"
STORY_REQUESTS = "tinyworld/story_requests"
OUTSIDE_DECLINED = "tinyworld/outside_declined"
MATH_FREE = "tinyworld/math_word_problems_free"
MATH = "tinyworld/math_word_problems"
MATH_DIRECT = "tinyworld/math_word_problems_direct"
POLITENESS = "tinyworld/politeness"
LATER_TURNS = "tinyworld/later_turns"

CHECKS: dict[str, Check] = {  # the judge of one turn, by its kind
    "greeting": tinyworld.check_exact,
    "sum": tinyworld.check_exact,
    "story": tinyworld.check_story_answer,
    "problem": tinyworld.check_problem,
    "tell": tinyworld.is_story,
    "outside": lambda record, text: tinyworld.declines(text),
    "free": lambda record, text: tinyworld.manner(text) != "neither",
}


def _few(scope: TaskScope) -> int:
    return min(scope.evaluation.count, scope.evaluation.closed_count)


@register_task(
    GREETINGS,
    Text("Greetings answered"),
    meaning=Text("share of greetings, thanks and questions of its name answered to the letter"),
    card=Text("Say hello"),
)
def _greetings(scope: TaskScope) -> Task:
    records = list(tinyworld.greetings(scope.seed, _few(scope), "heldout"))
    return Task(GREETINGS, records, tinyworld.check_exact, declines=tinyworld.declines)


@register_task(
    STORY_QA,
    Text("Story questions answered"),
    meaning=Text("share of exact answers about unseen stories"),
    tolerance=0.02,
    card=Text("A question about a story"),
)
def _story_qa(scope: TaskScope) -> Task:
    records = list(tinyworld.story_questions(scope.seed, scope.evaluation.count, "heldout"))
    plain = [_plain_question(record) for record in records]
    return Task(STORY_QA, records, tinyworld.check_story_answer, plain=plain, declines=tinyworld.declines)


def _plain_question(record: dict[str, Any]) -> dict[str, Any]:
    """A story question in the text layout that pretraining knows."""
    story, _, question = record["messages"][0]["content"].rpartition("\n")
    question = question.removeprefix("问题：").removeprefix("请问：")
    return {**record, "prompt_text": f"{story}\n问：{question}\n答："}


@register_task(
    MATH_FREE,
    Text("Word problems solved, thinking or not"),
    meaning=Text("unseen problems of one to five steps; whether to think first is the model's choice"),
    card=Text("A word problem"),
)
def _math_free(scope: TaskScope) -> Task:
    records = list(tinyworld.problems(scope.seed + 3, _few(scope), "heldout", reasoning=False, fewest=1))
    return Task(MATH_FREE, records, tinyworld.check_problem, declines=tinyworld.declines)


@register_task(
    STORY_REQUESTS,
    Text("Stories told"),
    meaning=Text("share of requests for a story that got a whole one"),
    card=Text("A story"),
)
def _story_requests(scope: TaskScope) -> Task:
    records = list(tinyworld.story_requests(scope.seed, _few(scope), "heldout"))
    return Task(STORY_REQUESTS, records, tinyworld.is_story, declines=tinyworld.declines)


@register_task(
    OUTSIDE_DECLINED,
    Text("Outside questions declined"),
    meaning=Text("share of questions from outside its world that it declines to answer"),
)
def _outside(scope: TaskScope) -> Task:
    records = list(tinyworld.outside_questions(scope.seed, _few(scope), "heldout"))
    return Task(OUTSIDE_DECLINED, records, CHECKS["outside"])


@register_task(
    MATH,
    Text("Problems solved"),
    meaning=Text("share of unseen word problems answered rightly after thinking"),
    free_form=MATH_FREE,
)
def _math(scope: TaskScope) -> Task:
    records = list(tinyworld.problems(scope.seed, scope.evaluation.count, "heldout", reasoning=False))
    return Task(MATH, records, tinyworld.check_problem, thinking=True, declines=tinyworld.declines)


@register_task(
    MATH_DIRECT,
    Text("Problems answered directly"),
    meaning=Text("share of unseen word problems answered rightly without thinking"),
    tolerance=None,  # who learns to think unlearns to do without
)
def _math_direct(scope: TaskScope) -> Task:
    records = list(tinyworld.problems(scope.seed, scope.evaluation.count, "heldout", reasoning=False))
    return Task(MATH_DIRECT, records, tinyworld.check_problem, thinking=False, declines=tinyworld.declines)


@register_task(
    POLITENESS,
    Text("Preferred manner"),
    meaning=Text("share of free answers given in the manner people prefer"),
)
def _politeness(scope: TaskScope) -> Task:
    def polite(record: dict[str, Any], text: str) -> bool:
        return tinyworld.manner(text) == "polite"

    records = list(tinyworld.free_prompts(scope.seed, scope.evaluation.count, "heldout"))
    temperature = scope.evaluation.temperature
    return Task(POLITENESS, records, polite, temperature=temperature, declines=tinyworld.declines)


@register_task(
    LATER_TURNS,
    Text("Later turns answered"),
    meaning=Text(
        "share of turns after the first, each about something else, answered rightly; the control asks the "
        "same alone"
    ),
    mixes_problems=True,
)
def _later_turns(scope: TaskScope) -> TurnsTask:
    conversations = tinyworld.mixed_conversations(scope.seed, _few(scope), "heldout", scope.with_reasoning)
    return TurnsTask(LATER_TURNS, list(conversations), CHECKS)
