"""Whether the model goes round in circles: repeated 4-grams, tails with a period, sentences said twice."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Hashable, Sequence

import numpy as np

from hanlin.common.messages import Text
from hanlin.evaluation.doctors.base import Doctor, Finding, Sign, above, register_doctor
from hanlin.evaluation.doctors.context import DoctorContext, Reply
from hanlin.evaluation.statistics import Metric

TAILS = (0.05, 0.20)  # share of replies with a looping tail: above is yellow, red (ours)
TIMES = (3, 10)  # repeated 4-grams against text by people: above is yellow, red (ours)
FLOOR = 0.01  # people's own share is taken for at least this: in few texts it is none by chance
PERIOD, REPEATS, SHORTEST = 64, 3, 12  # of a tail: longest period, times it is seen, tokens it covers
_SENTENCE = re.compile(r"[^。！？!?\n]+[。！？!?\n]?")


def repeated_grams(sequence: Sequence[Hashable], size: int = 4) -> tuple[int, int]:
    """n-grams that stood before, and all of them: their ratio is seq-rep-n (Welleck et al. 2020)."""
    grams = [tuple(sequence[at : at + size]) for at in range(len(sequence) - size + 1)]
    return len(grams) - len(set(grams)), len(grams)


def looping_tail(ids: Sequence[int]) -> int:
    """Shortest period of at most `PERIOD` with which a sequence ends, seen `REPEATS` times or more over at
    least `SHORTEST` tokens; 0 where there is none."""
    for period in range(1, min(PERIOD, len(ids) // REPEATS) + 1):
        covered = max(REPEATS * period, SHORTEST)
        if covered <= len(ids) and all(
            ids[-at] == ids[-at - period] for at in range(1, covered - period + 1)
        ):
            return period
    return 0


def same_sentences(text: str) -> tuple[int, int]:
    """Neighbouring sentences that are equal, and all neighbours."""
    sentences = [part.strip() for part in _SENTENCE.findall(text) if part.strip()]
    return sum(a == b for a, b in zip(sentences, sentences[1:], strict=False)), max(0, len(sentences) - 1)


@register_doctor
class LoopsDoctor(Doctor):
    """seq-rep-4 over tokens and characters, looping tails and repeated sentences, beside text by people."""

    name = "loops"
    title = Text("Goes in circles")
    order = 20
    labels = {
        "looping": Text("replies that end in a loop"),
        "looping_greedy": Text("greedy replies that end in a loop"),
        "repeated_characters": Text("4-character runs that stood before"),
        "repeated_tokens": Text("4-token runs that stood before"),
        "repeated_sentences": Text("sentences equal to the one before"),
    }

    def examine(self, context: DoctorContext) -> Finding:
        judged = [reply for reply in context.replies if context.chat or not reply.greedy]
        greedy = [reply for reply in context.replies if reply.greedy]
        tails = {id(reply): looping_tail(_content(reply)) for reply in context.replies}
        metrics = {
            "looping": Metric.proportion(
                sum(tails[id(reply)] > 0 for reply in judged), len(judged), higher_is_better=False
            ),
            "looping_greedy": Metric.proportion(
                sum(tails[id(reply)] > 0 for reply in greedy), len(greedy), higher_is_better=False
            ),
        }
        texts = [_text(context, reply) for reply in judged]
        tokens = [_content(reply) for reply in judged]
        people = self._people(context)
        signs: list[Sign] = []
        level = above(metrics["looping"], *TAILS)
        if level != "ok":
            signs.append(
                Sign(
                    level,
                    Text("There are too few replies to judge whether they loop.")
                    if level == "unknown"
                    else Text("Many replies end by repeating one passage over and over."),
                    Text("") if level == "unknown" else self._advice(),
                )
            )
        for name, said, theirs in (
            ("repeated_characters", texts, people),
            ("repeated_tokens", tokens, context.tokenizer.encode_batch(people)),
        ):
            metric = _share([repeated_grams(part) for part in said])
            if metric is None:
                continue
            control = _share([repeated_grams(part) for part in _cut_alike(theirs, said)])
            metrics[name] = metric if control is None else metric.with_control("people", control)
            if control is not None:
                own = max(control.high, FLOOR)
                level = above(metric, TIMES[0] * own, TIMES[1] * own)
                if level in ("yellow", "red"):
                    signs.append(
                        Sign(
                            level,
                            Text("The model repeats itself far more than text of that length does."),
                            self._advice(),
                        )
                    )
        sentences = _share([same_sentences(part) for part in texts])
        if sentences is not None:
            metrics["repeated_sentences"] = sentences
        if not people:
            signs.append(
                Sign("ok", Text("Without --text, repetition is not compared with that of text by people."))
            )
        unique = list({sign.meaning: sign for sign in sorted(signs, key=lambda s: s.level != "red")}.values())
        looped = [texts[at][-60:] for at, reply in enumerate(judged) if tails[id(reply)]]
        return Finding.of(metrics, unique, Text("Replies do not go in circles."), {"looping": looped[:5]})

    @staticmethod
    def _people(context: DoctorContext) -> list[str]:
        """What people wrote: replies where the model chats, else texts."""
        if context.chat and context.conversations:
            return [record["messages"][-1]["content"] for record in context.conversations]
        return context.documents

    @staticmethod
    def _advice() -> Text:
        return Text(
            "Sample with temperature 0.7 instead of greedily, train longer or on more varied text; a "
            "repetition penalty only hides it."
        )


def _content(reply: Reply) -> list[int]:
    """Its tokens without the end."""
    return reply.ids[:-1] if reply.stopped else reply.ids


def _text(context: DoctorContext, reply: Reply) -> str:
    size = context.tokenizer.vocab_size
    return context.tokenizer.decode([token for token in _content(reply) if token < size], special=False)


def _share(counts: Sequence[tuple[int, int]]) -> Metric | None:
    """Σ repeated / Σ all, over replies; None where there is nothing to count."""
    some = np.array([pair for pair in counts if pair[1] > 0], dtype=np.float64)
    if not len(some):
        return None
    metric = Metric.ratio(some[:, 0], some[:, 1], higher_is_better=False)
    return dataclasses.replace(metric, low=max(0.0, metric.low), high=min(1.0, metric.high))


def _cut_alike(theirs: Sequence[Sequence], ours: Sequence[Sequence]) -> list[Sequence]:
    """What people wrote, cut to the lengths of what the model wrote, since longer text repeats itself more;
    the longest of theirs beside the longest of ours."""
    longest = sorted(theirs, key=len, reverse=True)[: len(ours)]
    lengths = sorted(map(len, ours), reverse=True)
    return [text[:length] for text, length in zip(longest, lengths, strict=False)]
