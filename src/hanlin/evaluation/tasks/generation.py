"""Tasks with an exact judge, and preference pairs with the control of length alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hanlin.evaluation.item_scores import item_ids
from hanlin.evaluation.statistics import Metric
from hanlin.inference import Engine, SamplingParams
from hanlin.inference.generate import encode_prompt
from hanlin.model import CausalLM
from hanlin.tokenizer import Tokenizer
from hanlin.tokenizer.chat import prompt_of

Judge = Callable[[dict[str, Any], str], bool]
Prompt = str | Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a model said: its text, reasoning between its tags, without the end of turn; and whether it ended
    by itself."""

    text: str
    ended: bool


def answer_prompts(
    model: CausalLM | Engine,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    *,
    thinking: bool | None = None,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> list[Answer]:
    """Continue texts, or answer conversations; with `thinking=True` the opening tag stands in the prompt and
    not in the answer."""
    engine = model if isinstance(model, Engine) else Engine(model, tokenizer)
    settings = SamplingParams(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
    bos_id = engine.model.config.bos_token_id
    ids = [encode_prompt(tokenizer, prompt, thinking, bos_id) for prompt in prompts]
    answers = []
    for completion in engine.generate(ids, settings):
        ended = completion.finish_reason == "stop"
        kept = completion.ids[:-1] if ended else completion.ids
        answers.append(
            Answer(tokenizer.decode([token for token in kept if token < tokenizer.vocab_size]), ended)
        )
    return answers


def prompt_for(record: Mapping[str, Any]) -> Prompt:
    """What a record asks: plain text where it has `prompt_text`, else its messages up to the last answer."""
    return record.get("prompt_text") or prompt_of(record)


def evaluate_generation(
    model: CausalLM | Engine,
    tokenizer: Tokenizer,
    records: Sequence[dict[str, Any]],
    check: Judge,
    *,
    thinking: bool | None = None,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    chance: float | None = None,
) -> tuple[Metric, list[dict[str, Any]]]:
    """Share of prompts answered rightly.

    Args:
        records: `{"messages"}`, of which a last assistant turn is left out and has to be found; or
            `{"prompt_text"}`, plain text a base model continues, whose answer is the first line it writes.
        check: whether a text answers a record; it gets reasoning and answer as they were written.
        thinking: see `Tokenizer.render`.

    Returns:
        the metric, and for every record in order `{"id", "cluster", "prompt", "output", "correct", "ended"}`.
        A record is the same item however it is asked, in a conversation or as plain text.

    Raises:
        ValueError: no records.
    """
    if not records:
        raise ValueError("there are no records to evaluate on")
    prompts = [prompt_for(record) for record in records]
    answers = answer_prompts(
        model,
        tokenizer,
        prompts,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        thinking=thinking,
    )
    samples = []
    ids = item_ids({k: v for k, v in record.items() if k != "prompt_text"} for record in records)
    for name, record, prompt, answer in zip(ids, records, prompts, answers, strict=True):
        plain = isinstance(prompt, str)
        output = answer.text.lstrip().partition("\n")[0] if plain else answer.text
        shown = prompt if plain else prompt[-1]["content"]
        samples.append(
            {
                "id": name,
                "cluster": name,
                "prompt": shown,
                "output": output,
                "correct": bool(check(record, output)),
                "ended": answer.ended,
            }
        )
    return Metric.share([sample["correct"] for sample in samples], ids=ids, chance=chance), samples


def evaluate_turns(
    model: CausalLM | Engine,
    tokenizer: Tokenizer,
    conversations: Sequence[Sequence[dict[str, Any]]],
    checks: Mapping[str, Judge],
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> tuple[Metric, list[dict[str, Any]]]:
    """Share of later turns answered rightly, after what the model itself said before; the control is the
    same questions asked alone.

    Args:
        conversations: turns as records `{"messages": [user, assistant], "kind"}`, each about something else.
        checks: judge of a turn by its kind.

    Returns:
        the metric over all turns but the first, and every turn as in `evaluate_generation`, the turns of a
        conversation being a cluster.
    """
    engine = model if isinstance(model, Engine) else Engine(model, tokenizer)
    spoken: list[list[dict[str, Any]]] = [[] for _ in conversations]
    samples: list[dict[str, Any]] = []
    later: list[dict[str, Any]] = []
    counted: list[dict[str, Any]] = []
    names = item_ids(conversations)
    for turn in range(max(map(len, conversations))):
        going = [at for at, conversation in enumerate(conversations) if len(conversation) > turn]
        for at in going:
            spoken[at].append(dict(conversations[at][turn]["messages"][0]))
        prompts = [spoken[at] for at in going]
        said = answer_prompts(
            engine,
            tokenizer,
            prompts,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
        )
        for at, answer in zip(going, said, strict=True):
            record = conversations[at][turn]
            correct = bool(checks[record["kind"]](record, answer.text))
            asked = record["messages"][0]["content"]
            samples.append(
                {
                    "id": f"{names[at]}/{turn}",
                    "cluster": names[at],
                    "prompt": asked,
                    "output": answer.text,
                    "correct": correct,
                    "ended": answer.ended,
                    "turn": turn,
                }
            )
            spoken[at].append({"role": "assistant", "content": answer.text.rpartition("</think>")[2].strip()})
            if turn:
                later.append(record)
                counted.append(samples[-1])
    alone = answer_prompts(
        engine,
        tokenizer,
        [prompt_of(record) for record in later],
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
    )
    hits = [
        bool(checks[record["kind"]](record, answer.text)) for record, answer in zip(later, alone, strict=True)
    ]
    items: dict[str, Any] = {
        "ids": [sample["id"] for sample in counted],
        "clusters": [sample["cluster"] for sample in counted],
    }
    metric = Metric.share([sample["correct"] for sample in counted], **items)
    return metric.with_control("alone", Metric.share(hits, **items)), samples


def pair_accuracy(
    chosen: np.ndarray,
    rejected: np.ndarray,
    ids: Sequence[str] = (),
    clusters: Sequence[str] | None = None,
) -> Metric:
    """Share of pairs whose chosen side scores higher; equal scores count half.

    Args:
        chosen, rejected: scores, (pairs,).
        ids: of the pairs; clusters: of their prompts, where several pairs answer one.
    """
    chosen, rejected = np.asarray(chosen), np.asarray(rejected)
    hits = (chosen > rejected) + 0.5 * (chosen == rejected)
    return Metric.share(hits, ids=ids, clusters=clusters, chance=0.5)


def length_control(
    training: np.ndarray,
    heldout: np.ndarray,
    ids: Sequence[str] = (),
    clusters: Sequence[str] | None = None,
) -> Metric:
    """Pair accuracy of length alone: whether longer or shorter is preferred is learned from the training
    pairs.

    Args:
        training, heldout: lengths of the chosen and the rejected side, (pairs, 2).
        ids, clusters: of the held-out pairs, see `pair_accuracy`.
    """
    training, heldout = np.asarray(training, dtype=np.int64), np.asarray(heldout, dtype=np.int64)
    sign = 1 if np.sign(training[:, 0] - training[:, 1]).sum() >= 0 else -1
    return pair_accuracy(sign * heldout[:, 0], sign * heldout[:, 1], ids, clusters)
