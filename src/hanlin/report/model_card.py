"""The README.md of a model's directory, for people and for the hubs that read its head: what the model is,
what it scored, what it is not good for. No torch here."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from hanlin.common.messages import Text, listing
from hanlin.evaluation.statistics import FEWEST, Metric, ranking
from hanlin.report.model_facts import count, shown_about
from hanlin.report.model_index import Score, front_matter, given, left_out
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


_SMALL = 1_000_000_000  # parameters up to which a model is sure to invent
_MARK = re.compile(r"<!-- hanlin card sha256:([0-9a-f]{64}) -->\s*\Z")


@dataclasses.dataclass(frozen=True)
class DoctorRow:
    """What a doctor found: its title, the level in a word, and what it means."""

    title: Text
    level: Text
    meaning: Text


@dataclasses.dataclass(frozen=True)
class Card:
    """What a card says of a model.

    Attributes:
        name: of the model.
        about: the model in figures, see `model_facts.ABOUT`; of a run's, its text too.
        report: the run that made it, where it is known.
        origin: a sentence on where the model is from, where there is no report.
        scores: all there are; those that lack something are counted and not given.
        hash: the model's content hash.
        parents: content hashes of what it was made from, by role.
        licence: as it is stated; "" for none.
        base_model: `owner/name` on a hub.
        opens_here: whether Hanlin can run it.
    """

    name: str
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    report: Mapping[str, Any] | None = None
    origin: Text | None = None
    scores: Sequence[Score] = ()
    hash: str = ""
    parents: Mapping[str, str] = dataclasses.field(default_factory=dict)
    licence: str = ""
    base_model: str = ""
    pipeline_tag: str = "text-generation"
    doctors: Sequence[DoctorRow] = ()
    opens_here: bool = True


def model_card(card: Card) -> str:
    """The head for the hubs, the card in Chinese, then in English, and last a mark by which `card_state`
    knows it again."""
    family = card.about.get("family")
    head = front_matter(
        card.name,
        card.scores,
        licence=card.licence,
        base_model=card.base_model,
        tags=[str(family)] if family else [],
        pipeline_tag=card.pipeline_tag,
    )
    text = "\n".join([head, *_card(card, "zh"), "", "---", "", *_card(card, "en"), ""]) + "\n"
    return f"{text}<!-- hanlin card sha256:{hashlib.sha256(text.encode()).hexdigest()} -->\n"


def card_state(text: str) -> Literal["ours", "edited", "foreign"]:
    """Whether a README.md is a card of ours as it was written, one that was changed since, or something
    else."""
    text = text.replace("\r\n", "\n")
    mark = _MARK.search(text)
    if mark is None:
        return "edited" if "<!-- hanlin card sha256:" in text else "foreign"
    same = hashlib.sha256(text[: mark.start()].encode()).hexdigest() == mark[1]
    return "ours" if same else "edited"


def _card(card: Card, language: Language) -> list[str]:
    """One language's part."""

    def phrase(message: LiteralString | Text, /, **fields: Any) -> str:
        return getattr(Text.of(message, **fields), language)

    about = card.about
    size = (
        phrase("{parameters} parameters", parameters=count(about["parameters"]))
        if about.get("parameters")
        else ""
    )
    name = _cell(card.name)
    lines = [f"# {name}" + (phrase(": a Chinese language model of {size}", size=size) if size else ""), ""]
    if card.report is not None:
        lines.append(
            phrase(
                "Trained from nothing with Hanlin 翰林, recipe `{recipe}`, seed {seed}. Stages: {names}.",
                recipe=card.report["recipe"],
                seed=card.report["seed"],
                names=listing(_kept_stages(card.report)),
            )
        )
    elif card.origin is not None:
        lines.append(phrase(card.origin))
    lines += _about(card, language)
    if about.get("documents") or about.get("sources"):
        lines += _data(about, language)
    lines += ["", phrase("## Scores"), "", *_score_lines(card.scores, language)]
    if card.doctors:
        lines += ["", phrase("## Doctors"), ""]
        head = [phrase("doctor"), phrase("finding"), phrase("what it means")]
        lines += ["| " + " | ".join(head) + " |", "|---|---|---|"]
        for row in card.doctors:
            cells = [getattr(text, language) for text in (row.title, row.level, row.meaning)]
            lines.append("| " + " | ".join(map(_cell, cells)) + " |")
    lines += ["", phrase("## Limits"), ""]
    if card.report is not None or (about.get("parameters") or _SMALL) < _SMALL:
        lines.append(
            phrase(
                "This is a small model: it invents facts, repeats itself and miscounts. It had no safety "
                "training; let it decide nothing for anybody, and do not put it before the public as it is. "
                "The scores speak of these items only; asked in other words, it may do far worse."
            )
            if card.report is not None
            else phrase(
                "This is a small model: it invents facts, repeats itself and miscounts. Let it decide "
                "nothing for anybody, and do not put it before the public as it is. The scores speak of "
                "these items only; asked in other words, it may do far worse."
            )
        )
    else:
        lines.append(
            phrase("The scores speak of these items only; asked in other words, it may do far worse.")
        )
    lines += ["", phrase("## Licence"), ""]
    if card.licence:
        lines.append(phrase("Licence of this model: {licence}.", licence=_cell(card.licence)))
    else:
        lines.append(
            phrase(
                "Unknown: none was stated. Whether these weights may be shared or used commercially depends "
                "on the licences of the training data: look up each source's terms first."
            )
        )
    lines += ["", phrase("## How to open it"), ""]
    if card.opens_here:
        lines += ["```bash", f"hanlin chat .     # {phrase('talk in the terminal')}"]
        lines += [f"hanlin serve .    # {phrase('a page, and an API like OpenAI')}", "```", ""]
    return [
        *lines,
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model = AutoModelForCausalLM.from_pretrained(".")',
        'tokenizer = AutoTokenizer.from_pretrained(".")',
        "```",
    ]


def _kept_stages(report: Mapping[str, Any]) -> list[Text]:
    """Titles of the stages that the model went through."""
    return [
        stage_text(stage).title.lower()
        for stage in report["stages"]
        if stage["kept"]
        and stage.get("produces") != "reward_model"
        and stage["kind"] not in ("evaluation", "export")
        and stage.get("role") != "control"
    ]


def _about(card: Card, language: Language) -> list[str]:
    """The model in figures, its hash and those of what it was made from."""
    rows = [(getattr(words, language), _cell(text)) for words, text in shown_about(card.about)]
    if card.hash:
        rows.append((getattr(Text("content hash"), language), f"`{card.hash[:16]}`"))
    for role, digest in card.parents.items():
        rows.append((getattr(Text("made from: {role}", role=role), language), f"`{digest[:16]}`"))
    if not rows:
        return []
    head = ["", getattr(Text("## The model"), language), "", "| | |", "|---|---|"]
    return [*head, *(f"| {_cell(words)} | {text} |" for words, text in rows)]


def _data(about: Mapping[str, Any], language: Language) -> list[str]:
    """What the model was pretrained on."""

    def phrase(message: LiteralString | Text, /, **fields: Any) -> str:
        return getattr(Text.of(message, **fields), language)

    lines = ["", phrase("## Data"), ""]
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
    return lines


def _score_lines(scores: Sequence[Score], language: Language) -> list[str]:
    """The table of those that lack nothing, and how many the others are."""

    def phrase(message: LiteralString | Text, /, **fields: Any) -> str:
        return getattr(Text.of(message, **fields), language)

    shown, lines = given(scores), []
    if shown:
        lines += [
            phrase(
                "With 95% intervals; fewer than {fewest} items are too few to tell. Scores under different "
                "protocols cannot be compared. Whether text of public benchmarks was in the training data "
                "was not looked into.",
                fewest=FEWEST,
            ),
            "",
        ]
        head = [phrase("metric"), phrase("result"), "n", phrase("control"), "", phrase("protocol")]
        head += [phrase("prompt"), phrase("data")]
        lines += ["| " + " | ".join(head) + " |", "|---|---|---:|---|---|---|---|---|"]
        lines += [_row(score, language) for score in shown]
    else:
        lines.append(phrase("No scores are given."))
    missing = left_out(scores)
    return [*lines, *([""] if missing else []), *(f"* {phrase(text)}" for text in missing)]


def reported(report: Mapping[str, Any]) -> dict[str, tuple[Metric, Mapping[str, Any]]]:
    """A run's scores of its model, each with the stage that has its items: those of the final evaluation, and
    what each kept stage was judged by where that is not among them."""
    found: dict[str, tuple[Metric, Mapping[str, Any]]] = {}
    for stage in report["stages"]:
        aim = target_of(stage)
        if stage["kind"] == "evaluation":
            for name, raw in stage["metrics"].items():
                metric = Metric.from_dict(raw)
                known = found[name][0] if name in found else None
                if (
                    known is not None
                    and known.control is not None
                    and metric.control is None
                    and known.value == metric.value
                ):
                    continue  # the same figure, beside its control
                found[name] = metric, stage
        elif (
            aim is not None
            and stage["kept"]
            and stage["kind"] != "corpus"
            and stage.get("produces") != "reward_model"
            and stage.get("role") != "control"
        ):
            found[aim[0]] = aim[1], stage
    return {
        name: entry
        for name, entry in found.items()
        if not name.endswith(SAMPLED) and not name.startswith("bits_per_byte/")
    }


def _row(score: Score, language: Language) -> str:
    text, metric, control = metric_text(score.name), score.metric, score.control
    assert control is not None
    verdict = _VERDICTS[ranking(metric, control, metric.higher_is_better)]
    beside = f"{getattr(control_text(control.name), language)} {show(control.value, score.share)}"
    shots = getattr(Text(", {shots} shots", shots=score.shots), language) if score.shots else ""
    protocol = f"{score.protocol} ({score.split}{shots})" if score.split else score.protocol + shots
    cells = [
        getattr(text.name, language),
        f"{show(metric.value, score.share)} {getattr(span(metric, score.share), language)}",
        f"{metric.n:,}",
        beside,
        getattr(verdict, language),
        protocol,
        score.prompt[:8],
        score.data[:8],
    ]
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(text: Any) -> str:
    """Text that can neither end a cell or its row nor become markup."""
    plain = " ".join(str(text).split())
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>#|!" else c for c in plain)
