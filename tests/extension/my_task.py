"""A task of one's own: whether the model repeats a word when asked to."""

from __future__ import annotations

from hanlin.common.messages import Text
from hanlin.evaluation.tasks.base import Task, TaskScope, register_task

WORDS = ("苹果", "书包", "铅笔", "足球", "雨伞") * 10


@register_task("mine/echo", Text.rendered(en="Words repeated", zh="复述的词"))
def echo(scope: TaskScope) -> Task:
    """Requests to repeat a word."""
    records = [
        {"messages": [{"role": "user", "content": f"请说：{word}"}], "word": word}
        for word in WORDS[: scope.evaluation.count]
    ]
    return Task("mine/echo", records, lambda record, text: record["word"] in text)
