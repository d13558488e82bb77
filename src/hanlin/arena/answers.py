"""The answers of a model to every prompt, written once and made alike to look at."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hanlin.inference import SamplingParams

HIDDEN = "［模型］"  # in place of a model's name
BATCH = 32
# Names that models call themselves by; those that the prompt itself says are left alone.
FAMILIES = (
    "翰林",
    "Hanlin",
    "minimind",
    "ChatGPT",
    "OpenAI",
    "Gemini",
    "Llama",
    "Qwen",
    "通义千问",
    "ChatGLM",
    "智谱清言",
    "DeepSeek",
    "深度求索",
    "文心一言",
    "豆包",
    "Kimi",
    "混元",
)
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)\s*", re.DOTALL)
_SHORTEST_NAME = 3  # of ASCII letters: "a" as a model's name would be found everywhere


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a model wrote.

    Attributes:
        thought: reasoning was there and is not shown.
        hidden: names that were replaced.
    """

    text: str
    tokens: int
    finish_reason: str
    seed: int
    thought: bool
    hidden: int


def presentable(text: str) -> tuple[str, bool]:
    """A text without its reasoning and blank ends, and whether there was reasoning."""
    plain = _THOUGHT.sub("", text)
    if "</think>" in plain:  # opened within the prompt
        plain = plain.rpartition("</think>")[2]
    return plain.strip(), plain.strip() != text.strip()


def hide_names(text: str, names: Sequence[str], prompt: str) -> tuple[str, int]:
    """The text with every one of these names replaced that the prompt does not say, and how many were."""
    lower = prompt.lower()
    wanted = sorted(
        {name for name in names if _findable(name) and name.lower() not in lower}, key=len, reverse=True
    )
    if not wanted:
        return text, 0
    patterns = [
        rf"(?<![0-9A-Za-z]){re.escape(n)}(?![A-Za-z])" if n.isascii() else re.escape(n) for n in wanted
    ]
    return re.subn("|".join(patterns), HIDDEN, text, flags=re.IGNORECASE)


def _findable(name: str) -> bool:
    return len(name) >= (_SHORTEST_NAME if name.isascii() else 2)


def write_answers(
    path: Path | str,
    prompts: Sequence[tuple[int, str]],
    sampling: dict[str, Any],
    seed: int,
    names: Sequence[str],
    device: str | None,
) -> Iterator[list[tuple[int, Answer]]]:
    """Answers of one model, a batch at a time.

    Args:
        prompts: (number, text); an answer's randomness is a function of the seed and the prompt's number.
        sampling: what was asked for; the model's own recommendations fill the rest.

    Raises:
        HanlinError: there is no model, or it has no answers to give.
    """
    from hanlin.inference import Engine, derive_seed, encode_prompt, load_chat_model, split_reply

    model, tokenizer = load_chat_model(path, device)
    engine = Engine(model, tokenizer, max_batch=BATCH)
    settings = sampling_of(path, sampling)
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        ids = [encode_prompt(tokenizer, [{"role": "user", "content": text}]) for _, text in batch]
        seeds = [derive_seed(seed, number) >> 11 for number, _ in batch]  # 53 bits, whole in JSON too
        params = [dataclasses.replace(settings, seed=each) for each in seeds]
        found = []
        for (number, prompt), each, written in zip(batch, seeds, engine.generate(ids, params), strict=True):
            reasoning, content = split_reply(tokenizer, written.ids)
            text, tagged = presentable(content)
            text, hidden = hide_names(text, names, prompt)
            thought = tagged or bool(reasoning.strip())
            found.append(
                (number, Answer(text, len(written.ids), written.finish_reason, each, thought, hidden))
            )
        yield found


def sampling_of(path: Path | str, asked: dict[str, Any]) -> SamplingParams:
    """The settings a model answers with: those asked for, then its own recommendations.

    Raises:
        HanlinError: a setting that cannot be.
    """
    from hanlin.inference import SamplingParams, sampling_defaults

    own: dict[str, Any] = {"temperature": 0.7, **sampling_defaults(path)}
    return SamplingParams(**{**own, **asked})
