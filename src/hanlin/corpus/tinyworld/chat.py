"""The conversations of supervised fine-tuning, and a few fixed prompts to show samples of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hanlin.corpus.tinyworld.arithmetic import LARGEST, VISITORS, problems
from hanlin.corpus.tinyworld.draw import Draw, check_split
from hanlin.corpus.tinyworld.lexicon import CHILDREN
from hanlin.corpus.tinyworld.outside import outside_questions
from hanlin.corpus.tinyworld.questions import ask, significant_characters, story_question, story_questions
from hanlin.corpus.tinyworld.requests import free_prompts
from hanlin.corpus.tinyworld.storytime import story_requests

Message = dict[str, Any]

# Stories carry the measured skill, free prompts the mixed manners, sums the tables that reasoning steps rest
# on; in mixed conversations the subject changes with every turn.
CHAT_MIXTURE = (
    (0.49, "story"), (0.14, "free"), (0.05, "sum"), (0.08, "greeting"), (0.06, "tell"), (0.06, "outside"),
    (0.12, "mixed"),
)  # fmt: skip
# What a turn of a mixed conversation is about; `problem` where problems are taught.
TURN_MIXTURE = (
    (0.24, "greeting"), (0.20, "story"), (0.13, "sum"), (0.10, "free"), (0.09, "tell"), (0.09, "outside"),
    (0.15, "problem"),
)  # fmt: skip


def chat_conversations(
    seed: int, count: int, split: str, start: int = 0, with_problems: bool = False
) -> Iterator[dict[str, Any]]:
    """The SFT mixture (`CHAT_MIXTURE`): stories with one to four questions, free prompts of both manners,
    small sums, greetings and identity, requests for a story, questions from outside the world, and
    conversations of two or three turns on different subjects.

    Sums are a closed table meant to be known by heart: they are the same in both splits.

    Args:
        with_problems: turns of mixed conversations may be word problems, with their reasoning.

    Yields:
        {"messages", "kind", "id"}.
    """
    check_split(split)
    for index in range(start, start + count):
        kind = Draw(seed, split, "chat", index).weighted(CHAT_MIXTURE)
        if kind == "story":
            messages = story_conversation(seed, split, index)
        elif kind == "mixed":
            messages = [
                message
                for turn in mixed_turns(seed, split, index, with_problems)
                for message in turn["messages"]
            ]
        else:
            messages = turn_about(kind, seed, split, index)["messages"]
        yield {
            "messages": as_typed(messages, seed, split, "chat", index),
            "kind": kind,
            "id": f"chat/{split}/{seed}/{index}",
        }


_TYPED = str.maketrans({"？": "?", "！": "!", "，": ",", "。": "."})


def as_typed(messages: list[Message], *key: Any) -> list[Message]:
    """A conversation in which one message of a user in eight has the marks of a keyboard, or lacks the last
    one, as people type it."""
    return [_as_typed(message, Draw("typed", at, *key)) for at, message in enumerate(messages)]


def _as_typed(message: Message, draw: Draw) -> Message:
    if message["role"] != "user" or "\n" in message["content"] or not draw.chance(1 / 8):
        return message
    said = message["content"]
    return {**message, "content": said.translate(_TYPED) if draw.chance(0.6) else said.rstrip("？！，。")}


def turn_about(kind: str, seed: int, split: str, index: int) -> dict[str, Any]:
    """One question and its answer, as a record that the judge of its kind takes."""
    if kind in ("sum", "greeting"):
        draw = Draw(seed, split, kind, index)
        asked, reply = _sum(draw) if kind == "sum" else greeting(draw, split)
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": reply}]
        return {"messages": messages, "kind": kind, "id": f"{kind}/{split}/{seed}/{index}"}
    makers = {
        "story": story_questions, "free": free_prompts, "tell": story_requests, "outside": outside_questions,
        "problem": lambda *place: problems(*place, fewest=1),
    }  # fmt: skip
    return next(iter(makers[kind](seed, 1, split, index))) | {"kind": kind}


def mixed_turns(seed: int, split: str, index: int, with_problems: bool = False) -> list[dict[str, Any]]:
    """Two or three turns, each about something else, as records of `turn_about`."""
    draw = Draw(seed, split, "mixed", index)
    turns: list[dict[str, Any]] = []
    count = draw.between(2, 3)
    while len(turns) < count:
        kind = draw.weighted(TURN_MIXTURE if with_problems else TURN_MIXTURE[:-1])
        if not turns or kind != turns[-1]["kind"]:
            turns.append(turn_about(kind, seed + 7 * len(turns), split, 3 * index + len(turns)))
    return turns


def mixed_conversations(
    seed: int, count: int, split: str, with_problems: bool = True
) -> Iterator[list[dict[str, Any]]]:
    """`count` conversations of `mixed_turns`."""
    for index in range(count):
        yield mixed_turns(seed, split, index, with_problems)


def greetings(seed: int, count: int, split: str) -> Iterator[dict[str, Any]]:
    """Greetings, thanks, farewells and questions about the assistant."""
    for index in range(count):
        yield turn_about("greeting", seed, split, index)


def check_exact(record: dict[str, Any], text: str) -> bool:
    """Whether `text` says what the reference says, marks aside."""
    return significant_characters(text.rpartition("</think>")[2], "LNS") == significant_characters(
        record["messages"][-1]["content"], "LNS"
    )


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
    word, sign, total = (
        ("减", "-", left - right) if left >= right and draw.chance(0.5) else ("加", "+", left + right)
    )
    if draw.chance(0.5):
        return draw.pick(
            (f"{left}{sign}{right}=？", f"{left}{sign}{right}等于几？")
        ), f"{left}{sign}{right}={total}。"
    return draw.pick(
        (f"{left}{word}{right}等于几？", f"{left}{word}{right}等于多少？")
    ), f"{left}{word}{right}等于{total}。"


_NAME = "我是翰林，一个很小的中文语言模型。"
_ABLE = "我会讲故事，会回答问题，也会做简单的算术。"
_IDENTITY = (
    (
        (
            "你是谁？",
            "请介绍一下你自己。",
            "介绍一下你自己吧。",
            "你是什么？",
            "你是什么模型？",
            "说说你自己吧。",
            "你是谁呀？",
        ),
        _NAME,
    ),
    (("你叫什么名字？", "怎么称呼你？", "你叫什么？", "你的名字是什么？", "你有名字吗？"), "我叫翰林。"),
    (
        (
            "你会做什么？",
            "你能做什么？",
            "你会什么？",
            "你能帮我做什么？",
            "你有什么本领？",
            "你都会些什么？",
        ),
        _ABLE,
    ),
    (
        ("你几岁了？", "你是人吗？", "你是机器人吗？", "你是真人吗？", "你多大了？"),
        "我不是人，我是一个很小的中文语言模型。",
    ),
)
_THANKS = (
    "谢谢！",
    "谢谢你！",
    "多谢！",
    "谢谢你的帮助！",
    "太感谢了！",
    "非常感谢！",
    "谢谢啦！",
    "好的，谢谢。",
    "真好，谢谢你。",
    "明白了，谢谢！",
)
_HELLO = (
    "你好！",
    "你好。",
    "你好呀！",
    "您好！",
    "您好。",
    "你好",
    "嗨！",
    "早上好！",
    "下午好！",
    "晚上好！",
    "在吗？",
    "你好啊！",
)
_BYE = ("再见！", "再见。", "拜拜！", "晚安！", "下次再聊。", "我走了，再见。", "明天见！")
_HELLO_REPLY, _BYE_REPLY, _THANKS_REPLY = "你好！我是翰林，很高兴认识你。", "再见！欢迎下次再来。", "不客气！"
_OPENING = ("", "", "你好，", "您好，", "请问，", "你好！", "早上好，", "我想知道，", "那么，", "对了，")
_MET = (
    "你好，我是{0}。",
    "你好，我叫{0}。",
    "我是{0}。",
    "我叫{0}，你好。",
    "您好，我是{0}。",
    "你好！我的名字叫{0}。",
)


def greeting(draw: Draw, split: str) -> tuple[str, str]:
    """What is said at the beginning or end of a conversation, or about the assistant, with the reply that is
    due."""
    asked, reply, _ = draw.in_split(_greeting, split, lambda made: ("greeting", made[2]))
    return asked, reply


def _greeting(draw: Draw) -> tuple[str, str, Any]:
    """Question, reply, and what decides the split. Bare words of a closed table belong to both splits: for
    these a random number does."""
    kind = draw.random()
    if kind < 0.45:
        asked, reply = draw.pick(_IDENTITY)
        opening, question = draw.pick(_OPENING), draw.pick(asked)
        return opening + question, reply, (opening, question) if opening else draw.random()
    if kind < 0.55:
        return draw.pick(_HELLO), _HELLO_REPLY, draw.random()
    if kind < 0.67:
        return draw.pick(_THANKS), _THANKS_REPLY, draw.random()
    if kind < 0.75:
        return draw.pick(_BYE), _BYE_REPLY, draw.random()
    who = draw.pick(CHILDREN) if draw.chance(0.55) else draw.pick([name for name in VISITORS if name != "我"])
    met = draw.random()
    if met < 0.5:
        said = draw.pick(_MET).format(who)
        return said, f"你好，{who}！很高兴认识你。", said
    if met < 0.75:
        said = draw.pick(
            ("早上好，我叫{0}。", "早上好，我是{0}。", "下午好，我叫{0}。", "晚上好，我是{0}。")
        ).format(who)
        return said, f"{said[:3]}，{who}！今天想聊什么？", said
    said = draw.pick(("再见，我是{0}。", "{0}要走了，再见。", "我是{0}，再见！")).format(who)
    return said, f"再见，{who}！欢迎下次再来。", said
