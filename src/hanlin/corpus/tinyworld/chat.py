"""The conversations of supervised fine-tuning, and a few fixed prompts to show samples of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .arithmetic import LARGEST, problems
from .draw import Draw, check_split
from .lexicon import CHILDREN
from .questions import ask, story_question, story_questions
from .requests import free_prompts

# Stories carry the measured skill, free prompts the mixed manners, sums the tables that reasoning steps rest on.
CHAT_MIXTURE = ((0.65, "story"), (0.19, "free"), (0.10, "sum"), (0.06, "greeting"))


def chat_conversations(seed: int, count: int, split: str, start: int = 0) -> Iterator[dict[str, Any]]:
    """The SFT mixture: 65 % stories with one to four questions, 19 % free prompts of both manners, 10 % small sums, 6 % greetings and identity.

    Sums and the identity of the assistant are closed tables meant to be known by heart: they are the same in both splits.

    Yields:
        {"messages", "kind": "story" | "free" | "sum" | "greeting", "id"}.
    """
    check_split(split)
    for index in range(start, start + count):
        draw = Draw(seed, split, "chat", index)
        kind = draw.weighted(CHAT_MIXTURE)
        if kind == "story":
            messages = story_conversation(seed, split, index)
        elif kind == "free":
            messages = next(free_prompts(seed, 1, split, index))["messages"]
        else:
            asked, reply = _sum(draw) if kind == "sum" else _greeting(draw)
            messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": reply}]
        yield {"messages": messages, "kind": kind, "id": f"chat/{split}/{seed}/{index}"}


def story_conversation(seed: int, split: str, index: int) -> list[dict[str, Any]]:
    """A story and one to four questions about it, in turns; the first turn is that of `story_questions`."""
    draw = Draw(seed, split, "story_turns", index)
    story, text, question, between = story_question(seed, split, index)
    messages, asked = [], []
    for turn in range(draw.between(1, 4)):
        if turn:
            question = ask(story, draw)
        if question.answer in asked:
            continue
        asked.append(question.answer)
        content = question.text if turn else text + between + question.text
        messages += [{"role": "user", "content": content}, {"role": "assistant", "content": question.answer}]
    return messages


def sample_prompts(split: str) -> list[dict[str, Any]]:
    """Six prompts to show a model by: {"name", "text"} to go on from, or {"name", "messages"} to answer."""
    story = next(story_questions(20, 1, split))["messages"][:1]
    problem = next(problems(20, 1, split, reasoning=False))["messages"][:1]
    free = next(free_prompts(20, 1, split))["messages"][:1]
    return [
        {"name": "story", "text": "周六早上，天气很好。小明带着一个"},
        {"name": "place", "text": "图书馆在公园东边，"},
        {"name": "question", "messages": story},
        {"name": "problem", "messages": problem},
        {"name": "free", "messages": free},
        {"name": "greeting", "messages": [{"role": "user", "content": "你好，你是谁？"}]},
    ]


def _sum(draw: Draw) -> tuple[str, str]:
    left, right = draw.between(0, LARGEST - 9), draw.between(1, 9)
    word, sign, total = ("减", "-", left - right) if left >= right and draw.chance(0.5) else ("加", "+", left + right)
    if draw.chance(0.5):
        return draw.pick((f"{left}{sign}{right}=？", f"{left}{sign}{right}等于几？")), f"{left}{sign}{right}={total}。"
    return draw.pick((f"{left}{word}{right}等于几？", f"{left}{word}{right}等于多少？")), f"{left}{word}{right}等于{total}。"


_NAME = "我是翰林，一个很小的中文语言模型。"
_IDENTITY = (
    (("你是谁？", "你好，你是谁？", "请问你是谁？", "介绍一下你自己吧。"), _NAME),
    (("你叫什么名字？", "怎么称呼你？"), "我叫翰林。"),
    (("你会做什么？", "你能做什么？"), "我会讲故事，会回答问题，也会做简单的算术。"),
    (("你几岁了？", "你是人吗？"), "我不是人，我是一个很小的中文语言模型。"),
)


def _greeting(draw: Draw) -> tuple[str, str]:
    if draw.chance(0.5):
        asked, reply = draw.pick(_IDENTITY)
        return draw.pick(asked), reply
    who = draw.pick(CHILDREN)
    return draw.pick(
        (
            (draw.pick(("你好！", "你好。", "你好呀！")), "你好！我是翰林，很高兴认识你。"),
            (f"你好，我是{who}。", f"你好，{who}！很高兴认识你。"),
            (f"早上好，我叫{who}。", f"早上好，{who}！今天想聊什么？"),
            (f"再见，我是{who}。", f"再见，{who}！欢迎下次再来。"),
            (draw.pick(("谢谢！", "谢谢你！")), "不客气！"),
        )
    )
