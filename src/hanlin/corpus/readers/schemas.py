"""The record layouts people have, and how each becomes one of the house's three schemas.

A layout is recognised by its keys alone; the tables are tried in order, most specific first. A converter
raises `BadRecord` with a reason when the keys are right but the content is not (an empty answer, a number
where text belongs).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from hanlin.corpus.readers.schema_types import (
    BadRecord,
    Conversation,
    Labelled,
    Preference,
    answer,
    message,
    question,
    text_of,
    unquoted,
)


class Layout(NamedTuple):
    """A name, the keys that must be there, and the converter."""

    name: str
    keys: frozenset[str]
    convert: Callable[[Any], Any]


Record = Mapping[str, Any]
_BEGINS_WRAPPED = re.compile(r"\s*<(?:\|im_start\||s)>")
_WRAPPED = re.compile(r"<\|im_start\|>|<\|im_end\|>|<\|endoftext\|>|</?s>")


def recognise(record: Any, layouts: tuple[Layout, ...]) -> Layout | None:
    """The first layout whose keys the record has, or None."""
    if isinstance(record, str):
        record = {"text": record}
    if isinstance(record, list):
        record = {"[]": record} if record else {}
    if not isinstance(record, Mapping):
        return None
    keys = record.keys()
    return next((layout for layout in layouts if layout.keys <= keys), None)


# --- documents
# -----------------------------------------------------------------------------------------------------------


def _whole_text(record: Record | str) -> str:
    text = text_of(record if isinstance(record, str) else record["text"])
    if _BEGINS_WRAPPED.match(text):  # minimind's pretrain_hq wraps each sample in chat markers
        text = "\n".join(part.strip() for part in _WRAPPED.split(text) if part.strip())
    return text


def _titled(*body: str) -> Callable[[Record], str]:
    def convert(record: Record) -> str:
        parts = [text_of(record[key], empty=True).strip() for key in body if record.get(key)]
        title = next((record[key] for key in ("title", "标题") if record.get(key)), None)
        if isinstance(title, str) and title.strip() and parts and not parts[0].startswith(title.strip()):
            parts.insert(0, title.strip())
        return text_of("\n\n".join(parts))

    return convert


def _encyclopedia(record: Record) -> str:
    parts = [record.get("title"), record.get("summary")]
    for section in record["sections"] or []:
        parts += [section.get("title"), section.get("content")]
    return text_of("\n\n".join(part.strip() for part in parts if isinstance(part, str) and part.strip()))


def _mnbvc(record: Record) -> str:
    paragraphs = [text_of(part["内容"], empty=True) for part in record["段落"] if not part.get("是否重复")]
    return text_of("\n".join(paragraphs))


def _only(key: str) -> Callable[[Record], str]:
    return lambda record: text_of(record[key])


def _layout(name: str, keys: str, convert: Callable[[Any], Any]) -> Layout:
    return Layout(name, frozenset(keys.split()), convert)


DOCUMENTS: tuple[Layout, ...] = (
    _layout("TinyStoriesChinese", "story_zh", _only("story_zh")),
    _layout("MNBVC", "段落 文件名", _mnbvc),
    _layout("ChineseWebText / CCNet", "raw_content", _titled("raw_content")),
    _layout("563w_baidubaike", "title sections", _encyclopedia),
    _layout("text (C4, SkyPile, WuDao2, minimind, Wikipedia)", "text", _whole_text),
    _layout("wikipedia-cn (completion)", "completion source", _only("completion")),
    _layout("WuDao (title, content)", "title content", _titled("content")),
    _layout("WanJuan (id, content)", "content", _titled("content")),
    _layout("内容", "内容", _titled("内容")),
    _layout("正文", "正文", _titled("正文")),
    _layout("文本", "文本", _titled("文本")),
)


def text_under(key: str) -> Layout:
    """The layout of documents whose text is under a key that no other layout knows, or that another one
    would pass over."""
    return Layout(key, frozenset((key,)), _only(key))


# --- conversations
# -------------------------------------------------------------------------------------------------------


def _conversation(messages: list[dict[str, Any]], record: Any = None, system: Any = None) -> Conversation:
    if isinstance(system, str) and system.strip() and messages and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    if not any(item["role"] == "user" for item in messages):
        raise BadRecord("no user message")
    if not any(
        item["role"] == "assistant" and (item["content"].strip() or item.get("tool_calls"))
        for item in messages
    ):
        raise BadRecord("no answer")
    result: Conversation = {"messages": messages}
    tools = unquoted(record.get("tools")) if isinstance(record, Mapping) else None
    if tools:
        result["tools"] = tools if isinstance(tools, list) else [tools]
    if isinstance(record, Mapping) and "messages" in record and record.get("answer") is not None:
        result["answer"] = record["answer"]
    return result


def _turns(items: Any, record: Any = None) -> Conversation:
    if not isinstance(items, list) or not items:
        raise BadRecord("an empty conversation")
    if isinstance(record, Mapping) and record.get("label") is False:
        raise BadRecord("KTO marks this answer as bad: not for fine-tuning")
    first = items[0]
    if isinstance(first, Mapping) and {"human", "assistant"} <= first.keys():
        pairs = [(item["human"], item["assistant"]) for item in items]
        return _conversation([turn for q, a in pairs for turn in (question(q), answer(a))], record)
    if isinstance(first, Mapping) and "output" in first:  # XTuner: system only in the first turn
        messages = [
            turn
            for item in items
            for turn in (question(item.get("instruction"), item.get("input")), answer(item["output"]))
        ]
        return _conversation(messages, record, first.get("system"))
    return _conversation(
        [message(item, position) for position, item in enumerate(items)], record, (record or {}).get("system")
    )


def _list_of(key: str) -> Callable[[Record], Conversation]:
    return lambda record: _turns(record[key], record)


def _ask(
    *asked: str, reply: str, thought: str = "", history: str = "history"
) -> Callable[[Record], Conversation]:
    """Keys of the question (joined by a newline), of the reply, maybe of a thought and of earlier [question,
    answer] pairs."""

    def convert(record: Record) -> Conversation:
        messages: list[dict[str, Any]] = []
        for pair in record.get(history) or []:
            messages += [question(pair[0]), answer(pair[1])]
        value = record[reply]
        value = str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value
        last = answer(text_of(value), record.get(thought) if thought else None)
        if not last["content"].strip():
            raise BadRecord("an empty answer")
        return _conversation(
            [*messages, question(*(record.get(key) for key in asked)), last], record, record.get("system")
        )

    return convert


def _choice(
    asked: str, options: Callable[[Record], list[str]], label: str
) -> Callable[[Record], Conversation]:
    """An exam question with its options; the reply is the label and the option's text."""

    def convert(record: Record) -> Conversation:
        choices, right = options(record), record.get(label)
        if not isinstance(right, str) or right not in list("ABCDEFG")[: len(choices)]:
            raise BadRecord("answer {right!r} is no option", right=right)
        lettered = [
            re.sub(r"^\(?([A-G])[).．、]\s*", r"\1. ", text)
            if re.match(r"\(?[A-G][).．、]", text)
            else f"{letter}. {text}"
            for letter, text in zip("ABCDEFG", choices, strict=False)
        ]
        return _conversation(
            [
                question(record.get("passage"), record[asked], *lettered),
                answer(lettered["ABCDEFG".index(right)]),
            ]
        )

    return convert


def _c3(record: Record) -> Conversation:
    dialogue, questions, *_ = record["[]"]
    messages = []
    for index, item in enumerate(questions):
        asked = question("\n".join(dialogue) if not index else None, item["question"], *item["choice"])
        messages += [asked, answer(item["answer"])]
    return _conversation(messages)


def _nested(record: Record) -> Conversation:
    items = record["[]"]
    if (
        len(items) >= 2
        and isinstance(items[0], list)
        and isinstance(items[1], list)
        and items[1]
        and isinstance(items[1][0], Mapping)
    ):
        return _c3(record)
    return _turns(items)


def _huatuo(record: Record) -> Conversation:
    return _conversation(
        [
            message(re.sub(r"^[问答][：:]\s*", "", text), position)
            for position, text in enumerate(record["data"])
        ]
    )


def _moss_text(record: Record) -> Conversation:
    turns = re.findall(r"\[(Human|MOSS)\]:\s*(.*?)\s*<eo[ham]>", text_of(record["plain_text"]), re.S)
    return _conversation(
        [message({"role": "user" if who == "Human" else "assistant", "content": said}) for who, said in turns]
    )


def _moss_chat(record: Record) -> Conversation:
    messages = []
    for turn in record["chat"].values():
        said = [re.sub(r"^<\|\w+\|>:\s*|\s*<eo\w+>\s*$", "", turn[key]) for key in ("Human", "MOSS")]
        messages += [question(said[0]), answer(said[1])]
    return _conversation(messages)


CONVERSATIONS: tuple[Layout, ...] = (
    _layout("messages (OpenAI)", "messages", _list_of("messages")),
    _layout("conversations (minimind, ShareGPT, BELLE 3.5M)", "conversations", _list_of("conversations")),
    _layout("conversation (XTuner, ShareGPT-90k)", "conversation", _list_of("conversation")),
    _layout(
        "Chinese-DeepSeek-R1-Distill 110k",
        "input reasoning_content content",
        _ask("input", reply="content", thought="reasoning_content"),
    ),
    _layout("alpaca / BELLE / deepctrl", "instruction output", _ask("instruction", "input", reply="output")),
    _layout("deepctrl (q, a, history)", "q a", _ask("q", reply="a")),
    _layout("Firefly", "kind input target", _ask("input", reply="target")),
    _layout(
        "medical-o1 (Question, Complex_CoT, Response)",
        "Question Complex_CoT Response",
        _ask("Question", reply="Response", thought="Complex_CoT"),
    ),
    _layout(
        "prompt, reasoning, answer",
        "prompt reasoning answer",
        _ask("prompt", reply="answer", thought="reasoning"),
    ),
    _layout("Zhihu-KOL", "INSTRUCTION RESPONSE", _ask("INSTRUCTION", reply="RESPONSE")),
    _layout("GSM8K_zh", "question_zh answer_zh", _ask("question_zh", reply="answer_zh")),
    _layout(
        "CMMLU",
        "Question A B C D Answer",
        _choice("Question", lambda record: [record[letter] for letter in "ABCD"], "Answer"),
    ),
    _layout(
        "AGIEval", "question options label", _choice("question", lambda record: record["options"], "label")
    ),
    _layout("Ape210K / Math23K", "original_text ans equation", _ask("original_text", reply="ans")),
    _layout("baike_qa", "title desc answer", _ask("title", "desc", reply="answer")),
    _layout(
        "medical dialogue (title, ask, answer)", "title ask answer", _ask("title", "ask", reply="answer")
    ),
    _layout("question, answer", "question answer", _ask("question", reply="answer")),
    _layout("prompt, response", "prompt response", _ask("prompt", reply="response")),
    _layout("query, response", "query response", _ask("query", reply="response")),
    _layout("input, output", "input output", _ask("input", reply="output")),
    _layout("HuatuoGPT (data)", "data", _huatuo),
    _layout("MOSS 002", "plain_text", _moss_text),
    _layout("MOSS 003", "chat", _moss_chat),
    _layout("lists (C3, one list a dialogue)", "[]", _nested),
)

# --- preferences
# ---------------------------------------------------------------------------------------------------------


def _pair(prompt: list[dict[str, Any]], chosen: Any, rejected: Any) -> Preference:
    better, worse = (
        message(side, 1) if isinstance(side, (str, Mapping)) else _last(side) for side in (chosen, rejected)
    )
    if not better["content"].strip() or not worse["content"].strip():
        raise BadRecord("an empty answer")
    if better == worse:
        raise BadRecord("both answers are the same")
    if not prompt or prompt[-1]["role"] not in ("user", "tool"):
        raise BadRecord("the prompt does not end with the user")
    return {"prompt": prompt, "chosen": better, "rejected": worse}


def _last(messages: Any) -> dict[str, Any]:
    if not isinstance(messages, list) or not messages:
        raise BadRecord("an empty answer")
    return message(messages[-1], len(messages) - 1)


def _prompt(value: Any, system: Any = None) -> list[dict[str, Any]]:
    messages = (
        [message(item, position) for position, item in enumerate(value)]
        if isinstance(value, list)
        else [question(value)]
    )
    return (
        [{"role": "system", "content": system}, *messages]
        if isinstance(system, str) and system.strip()
        else messages
    )


def _two_lists(record: Record) -> Preference:
    """minimind: both sides repeat the whole conversation and differ in its last message."""
    chosen, rejected = (
        [message(item, position) for position, item in enumerate(record[key])]
        for key in ("chosen", "rejected")
    )
    if chosen[:-1] != rejected[:-1]:
        raise BadRecord("the two sides have different prompts")
    return _pair(chosen[:-1], chosen[-1], rejected[-1])


def _ranked(record: Record) -> Preference:
    """oaast: `output` lists the answers, best first; the ends of the list make the clearest pair."""
    answers = record["output"]
    if len(answers) < 2:
        raise BadRecord("only one answer")
    history = [turn for pair in record.get("history") or [] for turn in (question(pair[0]), answer(pair[1]))]
    return _pair([*history, question(record["instruction"], record.get("input"))], answers[0], answers[-1])


def _zhihu_rlhf(record: Record) -> Preference:
    history = [turn for pair in record.get("history") or [] for turn in (question(pair[0]), answer(pair[1]))]
    return _pair(
        [*_prompt(history, record.get("system")), question(record["question"])],
        record["response_chosen"],
        record["response_rejected"],
    )


def _labelled(prompt: list[dict[str, Any]], completion: Any, label: Any) -> Labelled:
    """One answer, and whether it is good (KTO)."""
    if not isinstance(label, bool):
        raise BadRecord("label {label!r} is neither true nor false", label=label)
    said = message(completion, 1) if isinstance(completion, (str, Mapping)) else _last(completion)
    if not said["content"].strip():
        raise BadRecord("an empty answer")
    if not prompt or prompt[-1]["role"] not in ("user", "tool"):
        raise BadRecord("the prompt does not end with the user")
    return {"prompt": prompt, "completion": said, "label": label}


def _labelled_turns(key: str, label: str) -> Callable[[Record], Labelled]:
    """A conversation whose last message is judged."""

    def convert(record: Record) -> Labelled:
        turns = record[key]
        if not isinstance(turns, list) or len(turns) < 2:
            raise BadRecord("an empty conversation")
        prompt = _prompt(turns[:-1], record.get("system"))
        return _labelled(prompt, message(turns[-1], len(turns) - 1), record[label])

    return convert


PREFERENCES: tuple[Layout, ...] = (
    _layout(
        "prompt, chosen, rejected",
        "prompt chosen rejected",
        lambda r: _pair(_prompt(r["prompt"], r.get("system")), r["chosen"], r["rejected"]),
    ),
    _layout(
        "conversations, chosen, rejected (LLaMA-Factory, COIG-P)",
        "conversations chosen rejected",
        lambda r: _pair(_prompt(r["conversations"], r.get("system")), r["chosen"], r["rejected"]),
    ),
    _layout(
        "ultrafeedback-zh binarized",
        "instruction chosen_response rejected_response",
        lambda r: _pair(_prompt(r["instruction"]), r["chosen_response"], r["rejected_response"]),
    ),
    _layout(
        "DPO-En-Zh-20k (question, response_chosen)", "question response_chosen response_rejected", _zhihu_rlhf
    ),
    _layout(
        "alpaca with chosen, rejected",
        "instruction chosen rejected",
        lambda r: _pair([question(r["instruction"], r.get("input"))], r["chosen"], r["rejected"]),
    ),
    _layout(
        "question, chosen, rejected",
        "question chosen rejected",
        lambda r: _pair(_prompt(r["question"]), r["chosen"], r["rejected"]),
    ),
    _layout("minimind DPO (two conversations)", "chosen rejected", _two_lists),
    _layout("oaast (ranked outputs)", "instruction output", _ranked),
    _layout(
        "prompt, completion, label (KTO)",
        "prompt completion label",
        lambda r: _labelled(_prompt(r["prompt"], r.get("system")), r["completion"], r["label"]),
    ),
    _layout("messages, label (KTO)", "messages label", _labelled_turns("messages", "label")),
    _layout("conversations, label (KTO)", "conversations label", _labelled_turns("conversations", "label")),
    _layout("messages, kto_tag (LLaMA-Factory)", "messages kto_tag", _labelled_turns("messages", "kto_tag")),
    _layout(
        "conversations, kto_tag (LLaMA-Factory)",
        "conversations kto_tag",
        _labelled_turns("conversations", "kto_tag"),
    ),
)

SCHEMAS: dict[str, tuple[Layout, ...]] = {
    "documents": DOCUMENTS,
    "conversations": CONVERSATIONS,
    "preferences": PREFERENCES,
}


def recognise_for(record: Any, schema: str) -> Layout | None:
    """The layout of `record` for a schema (a key of `SCHEMAS`), told apart from other schemas' records with
    the same keys."""
    if schema == "documents" and isinstance(record, Mapping):
        return _document_layout(tuple(record))
    layout = recognise(record, SCHEMAS[schema])
    if layout is None or not isinstance(record, Mapping):
        return layout
    ranked = isinstance(record.get("output"), list)
    foreign = {
        "preferences": layout.convert is _ranked and not ranked,
        "conversations": ranked or {"chosen", "rejected"} <= record.keys(),
    }
    return None if foreign[schema] else layout


def is_plain_text(record: Mapping[str, Any]) -> bool:
    """Whether a document's text is, as far as its keys tell, what it has under `text`."""
    layout = recognise_for(record, "documents")
    return layout is not None and layout.convert is _whole_text


@functools.lru_cache(1024)
def _document_layout(keys: tuple[str, ...]) -> Layout | None:
    """A document's layout depends on its keys alone, and most files have one set of them."""
    record = dict.fromkeys(keys)
    layout = recognise(record, DOCUMENTS)
    if layout is None or "content" not in layout.keys:
        return layout
    # `content` is a document's in WanJuan and WuDao, and a message's or an answer's elsewhere.
    return None if "role" in record or recognise(record, CONVERSATIONS) is not None else layout
