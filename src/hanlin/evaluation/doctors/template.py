"""Whether the model knows its chat template: gold replies are likeliest under it, and other programs make the
same ids of it as training did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hanlin.common.messages import Text, listing
from hanlin.evaluation.doctors.base import Doctor, Finding, Sign, register_doctor
from hanlin.evaluation.doctors.context import DoctorContext
from hanlin.evaluation.doctors.prompts import ALPACA_TEMPLATE, OTHER_TEMPLATE
from hanlin.evaluation.likelihood import document_bits
from hanlin.evaluation.statistics import FEWEST, Metric
from hanlin.tokenizer import CHAT_TEMPLATE
from hanlin.tokenizer.foreign import ForeignTokenizer

LEARNT = 0.01  # bits that the template saves of those without it: below, it has not been learnt (ours)
_READ = 200
_OTHERS = {
    "none": Text("no template"),
    "no_newline": Text("the newline before the reply left out"),
    "inst": Text("[INST] … [/INST]"),
    "alpaca": Text("Alpaca's headings"),
}


@register_doctor
class TemplateDoctor(Doctor):
    """Bits per byte of held-out replies under the model's own template and under others."""

    name = "template"
    title = Text("Chat template")
    order = 30
    needs = ("chats",)
    labels = {
        "own": Text("bits per byte of replies under the own template"),
        "none": Text("bits per byte more without a template"),
        "no_newline": Text("bits per byte more without the newline before the reply"),
        "inst": Text("bits per byte more under [INST] … [/INST]"),
        "alpaca": Text("bits per byte more under Alpaca's headings"),
        "same_ids": Text("training examples whose text gives their ids again"),
    }

    def examine(self, context: DoctorContext) -> Finding:
        if not context.chat:
            return Finding(
                "unknown",
                {},
                Text("The model was only pretrained: it has no template to know."),
                Text(""),
            )
        signs = _file_signs(context)
        metrics = self._bits(context, signs)
        self._ids(context, metrics, signs)
        return Finding.of(metrics, signs, Text("Replies are likeliest under the model's own template."))

    def _bits(self, context: DoctorContext, signs: list[Sign]) -> dict[str, Metric]:
        forms: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in ("own", *_OTHERS)}
        sizes = []
        for record in context.conversations:
            made = _forms(context, record)
            if max(len(ids) for ids, _ in made.values()) <= context.seen:
                sizes.append(len(record["messages"][-1]["content"].encode()))
                for name, form in made.items():
                    forms[name].append(form)
        if len(sizes) < FEWEST:
            signs.append(
                Sign(
                    "unknown",
                    Text(
                        "To compare templates takes {fewest} conversations that fit into the model.",
                        fewest=FEWEST,
                    ),
                )
            )
            return {}
        bits = {
            name: document_bits(
                context.model, [ids for ids, _ in rows], [mask for _, mask in rows], context=context.seen
            )
            for name, rows in forms.items()
            if rows
        }
        metrics = {"own": Metric.ratio(bits["own"], sizes, higher_is_better=False)}
        better = []
        for name, title in _OTHERS.items():
            if name not in bits:  # no such form of this template
                continue
            metrics[name] = Metric.ratio(bits[name] - bits["own"], sizes)
            if metrics[name].high < 0:
                better.append(title)
        if better:
            signs.append(
                Sign(
                    "red",
                    Text("Replies are likelier under another template: {better}.", better=listing(better)),
                    Text("Use the template that the model was fine-tuned with, or fine-tune it with this."),
                )
            )
        elif metrics["none"].low < LEARNT * metrics["own"].value:
            signs.append(
                Sign(
                    "yellow",
                    Text("The template hardly helps: without it replies are as likely."),
                    Text("Fine-tune on conversations for longer (hanlin sft)."),
                )
            )
        return metrics

    def _ids(self, context: DoctorContext, metrics: dict[str, Metric], signs: list[Sign]) -> None:
        same = total = doubled = 0
        for example, _ in context.trained_conversations(_READ):
            ids = example.tolist()
            total += 1
            same += context.tokenizer.encode(context.tokenizer.decode_bytes(ids), special=True) == ids
            doubled += len(ids) > 1 and ids[0] == ids[1]
        if not total:
            return
        metrics["same_ids"] = Metric.proportion(same, total)
        if same < total:
            signs.append(
                Sign(
                    "red" if same < 0.95 * total else "yellow",
                    Text(
                        "Of {bad} of {total} training examples, other programs make other ids than those "
                        "that were trained.",
                        bad=total - same,
                        total=total,
                    ),
                    Text("Build the data again with this tokenizer (hanlin sft)."),
                )
            )
        if doubled:
            signs.append(
                Sign(
                    "red",
                    Text("Training examples begin with the start token twice."),
                    Text("Leave the start token either to the template or to the tokenizer."),
                )
            )


def _file_signs(context: DoctorContext) -> list[Sign]:
    """Whether chat_template.jinja makes the ids that training had, and whether a start token is put before it
    twice."""
    if context.folder is None or not (file := context.folder / "chat_template.jinja").is_file():
        return []
    source = file.read_text(encoding="utf-8")
    signs = []
    if source != CHAT_TEMPLATE and not isinstance(context.tokenizer, ForeignTokenizer):
        wrong = _rendered_otherwise(context, source)
        if wrong:
            signs.append(
                Sign(
                    "red",
                    Text("chat_template.jinja gives other ids than training had: {wrong}.", wrong=wrong),
                    Text("Take chat_template.jinja from the run that trained the model."),
                )
            )
    return signs


def _rendered_otherwise(context: DoctorContext, source: str) -> Text | None:
    """What is wrong with a template's rendering of the first conversations; None where nothing is."""
    try:
        import jinja2.sandbox
    except ImportError:
        return Text("its text is not ours, and it could not be rendered without jinja2")
    try:
        template = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True
        ).from_string(source)
        for record in context.conversations[:_READ]:
            text = template.render(messages=record["messages"], add_generation_prompt=False)
            ids = context.tokenizer.encode(text, special=True)
            wanted, _ = context.tokenizer.encode_conversation(record["messages"])
            if ids != wanted:
                if ids[1:] == wanted or (len(ids) > 1 and ids[0] == ids[1]):
                    return Text("it puts one more start token before the conversation")
                at = next(
                    (k for k, pair in enumerate(zip(ids, wanted, strict=False)) if pair[0] != pair[1]),
                    min(len(ids), len(wanted)),
                )
                return Text("they differ from token {at} on", at=at + 1)
    except jinja2.TemplateError as error:
        return Text("it cannot be rendered ({error})", error=error)
    return None


def _forms(context: DoctorContext, record: Mapping[str, Any]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Ids of a conversation and which of them are its reply, under each template. Only the reply's own tokens
    count, the same under all, so that the bits are of the same bytes."""
    tokenizer = context.tokenizer
    before, reply = record["messages"][:-1], tokenizer.encode(record["messages"][-1]["content"])
    own = tokenizer.encode_conversation(before, add_generation_prompt=True)[0]
    newline = tokenizer.encode("assistant\n")
    asked = before[-1]["content"] if isinstance(before[-1].get("content"), str) else ""
    heads = {
        "own": own,
        "none": tokenizer.encode(asked + "\n"),
        "inst": tokenizer.encode(asked.join(OTHER_TEMPLATE)),
        "alpaca": tokenizer.encode(asked.join(ALPACA_TEMPLATE)),
    }
    if own[-len(newline) :] == newline:
        heads["no_newline"] = [*own[: -len(newline)], *tokenizer.encode("assistant")]
    return {
        name: (
            np.array([*head, *reply], dtype=np.int64),
            np.array([False] * len(head) + [True] * len(reply)),
        )
        for name, head in heads.items()
    }
