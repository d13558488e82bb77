"""The README.md of a model's directory, from report.json alone: what the model is, what it scored, what it is
not good for. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from hanlin.common.messages import Text, listing
from hanlin.evaluation.statistics import FEWEST, Metric, ranking
from hanlin.report.model_facts import count, shown_about
from hanlin.report.stage_tables import SAMPLED, target_of
from hanlin.report.text import control_text, metric_text, show, span, stage_text

if TYPE_CHECKING:
    from typing_extensions import LiteralString

Language = Literal["zh", "en"]

_VERDICTS = {
    "better": Text("beats it"),
    "worse": Text("below it"),
    "overlap": Text("no telling apart"),
    "few": Text("too few items"),
}


def model_card(facts: Mapping[str, Any]) -> str:
    """The card in Chinese, then in English.

    Args:
        facts: a run's report (`recipe`, `seed`, `stages`, and `about` where it has it); beside them, each
            optional: `hash` (the model's content hash), `licence` (of the training data, as its owner states
            it).
    """
    return "\n".join([*_card(facts, "zh"), "", "---", "", *_card(facts, "en")]) + "\n"


def _card(facts: Mapping[str, Any], language: Language) -> list[str]:
    """One language's part."""

    def phrase(message: LiteralString | Text, /, **fields: Any) -> str:
        return getattr(Text.of(message, **fields), language)

    about = facts.get("about") or {}
    size = (
        phrase("{parameters} parameters", parameters=count(about["parameters"]))
        if about.get("parameters")
        else ""
    )
    lines = [
        f"# {facts['recipe']}" + (phrase(": a Chinese language model of {size}", size=size) if size else ""),
        "",
    ]
    kept = [
        stage_text(stage).title.lower()
        for stage in facts["stages"]
        if stage["kept"]
        and stage.get("produces") != "reward_model"
        and stage["kind"] not in ("evaluation", "export")
        and stage.get("role") != "control"
    ]
    lines.append(
        phrase(
            "Trained from nothing with Hanlin 翰林, recipe `{recipe}`, seed {seed}. Stages: {names}.",
            recipe=facts["recipe"],
            seed=facts["seed"],
            names=getattr(listing(kept), language),
        )
    )
    if about:
        lines += ["", phrase("## The model"), "", "| | |", "|---|---|"]
        lines += [f"| {_cell(phrase(words))} | {_cell(text)} |" for words, text in shown_about(about)]
        if facts.get("hash"):
            lines.append(f"| {phrase('content hash')} | `{str(facts['hash'])[:16]}` |")
    lines += ["", phrase("## Data"), ""]
    if about.get("documents"):
        characters = count(about["characters"]) if about.get("characters") else phrase("unknown")
        lines.append(
            phrase(
                "{documents:,} documents after cleaning, {characters} characters.",
                documents=about["documents"],
                characters=characters,
            )
        )
    if about.get("sources"):
        lines += [
            "",
            f"| {phrase('source')} | {phrase(Text.in_context('how many', 'documents'))} |",
            "|---|---:|",
        ]
        lines += [
            f"| {_cell(name)} | {number:,} |"
            for name, number in sorted(about["sources"].items(), key=lambda item: -item[1])
        ]
    lines += [
        "",
        phrase("## Scores"),
        "",
        phrase(
            "On unseen items, with 95% intervals; fewer than {fewest} items are too few to tell.",
            fewest=FEWEST,
        ),
        "",
    ]
    lines += [
        "| " + " | ".join([phrase("metric"), phrase("result"), "n", phrase("control"), ""]) + " |",
        "|---|---|---:|---|---|",
    ]
    lines += [_row(name, metric, language) for name, metric in _scores(facts)]
    lines += [
        "",
        phrase("## Limits"),
        "",
        phrase(
            "This is a small model: it invents facts, repeats itself and miscounts. It had no safety "
            "training; let it decide nothing for anybody, and do not put it before the public as it is. "
            "The scores speak of these items only; asked in other words, it may do far worse."
        ),
    ]
    licence = facts.get("licence")
    lines += [
        "",
        phrase("## Licence"),
        "",
        phrase(
            Text("Licence of the training data: {licence}.", licence=licence)
            if licence
            else Text(
                "Whether these weights may be shared or used commercially depends on the licences of the "
                "training data: look up each source's terms first."
            )
        ),
    ]
    lines += ["", phrase("## How to open it"), "", "```bash"]
    lines += [
        f"hanlin chat .     # {phrase('talk in the terminal')}",
        f"hanlin serve .    # {phrase('a page, and an API like OpenAI')}",
        "```",
        "",
    ]
    lines += [
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model = AutoModelForCausalLM.from_pretrained(".")',
    ]
    lines += ['tokenizer = AutoTokenizer.from_pretrained(".")', "```"]
    return lines


def _scores(facts: Mapping[str, Any]) -> list[tuple[str, Metric]]:
    """Those of the final evaluation, and what each kept stage was judged by where that is not among them."""
    found: dict[str, Metric] = {}
    for stage in facts["stages"]:
        aim = target_of(stage)
        if stage["kind"] == "evaluation":
            for name, raw in stage["metrics"].items():
                metric = Metric.from_dict(raw)
                known = found.get(name)
                if (
                    known is not None
                    and known.control is not None
                    and metric.control is None
                    and known.value == metric.value
                ):
                    continue  # the same figure, beside its control
                found[name] = metric
        elif (
            aim is not None
            and stage["kept"]
            and stage["kind"] != "corpus"
            and stage.get("produces") != "reward_model"
            and stage.get("role") != "control"
        ):
            found[aim[0]] = aim[1]
    return [
        (name, metric)
        for name, metric in found.items()
        if not name.endswith(SAMPLED) and not name.startswith("bits_per_byte/")
    ]


def _row(name: str, metric: Metric, language: Language) -> str:
    text = metric_text(name)
    control = ""
    verdict = Text("")
    if metric.control is not None:
        control = (
            f"{getattr(control_text(metric.control.name), language)} {show(metric.control.value, text.share)}"
        )
        verdict = _VERDICTS[ranking(metric, metric.control, metric.higher_is_better)]
    elif metric.n < FEWEST:
        verdict = _VERDICTS["few"]
    cells = [
        getattr(text.name, language),
        f"{show(metric.value, text.share)} {getattr(span(metric, text.share), language)}",
        f"{metric.n:,}",
        control,
        getattr(verdict, language),
    ]
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(text: Any) -> str:
    """Text that can neither end a cell or its row nor become markup."""
    plain = " ".join(str(text).split())
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>#|!" else c for c in plain)
