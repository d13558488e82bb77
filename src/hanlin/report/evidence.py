"""The parts of the page that show instead of measure: curves, samples, dropped documents, where everything
comes from."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import yaml

from hanlin.common.manifest import package_versions
from hanlin.common.messages import Text
from hanlin.evaluation.statistics import Metric
from hanlin.report import svg
from hanlin.report.text import CURVES, FACTS, HIDDEN_FACTS, PARTS, RULES, both, control_text, esc, lookup

LONGEST_SAMPLE = 1200  # characters
SAMPLES_SHOWN = 3
_THOUGHT = re.compile(r"(?:<think>)?(.*?)</think>(.*)", re.DOTALL)


def read_curves(path: Path | str) -> dict[str, svg.Curve]:
    """Figures over steps from a `metrics.jsonl`, by name; lines that a kill cut short are passed over."""
    values: dict[str, tuple[list[float], list[float]]] = {}
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError:
        return {}
    for line in lines:
        try:
            raw = orjson.loads(line)
            step = float(raw["step"])
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            continue
        for name, value in raw.items():
            if name in CURVES and isinstance(value, int | float) and np.isfinite(value):
                x, y = values.setdefault(name, ([], []))
                x.append(step)
                y.append(float(value))
    return {name: (np.array(x), np.array(y)) for name, (x, y) in values.items() if len(x) > 1}


def curves_of(stage: str, paths: Mapping[str, Any], aim: tuple[str, Metric] | None) -> str:
    runs = [read_curves(paths[name]) for name in paths if name == stage]
    runs += [read_curves(paths[name]) for name in paths if re.fullmatch(re.escape(stage) + r"-\d+", name)]
    if not runs or not runs[0]:
        return ""
    figures = []
    shown = [name for name in CURVES if name in runs[0]]
    for index, name in enumerate(shown):
        line, note = None, ""
        if aim and aim[0] == name == "bits_per_byte" and aim[1].control:
            line = aim[1].control.value
            note = f' <small class="dashed">{both(control_text(aim[1].control.name))} {line:.3f}</small>'
        # the first is as high as the two small rows beside it
        width, height = (480, 304) if index == 0 else (230, 128)
        curves = [run[name] for run in runs if name in run]
        picture = svg.curve_plot(
            curves, name, width=width, height=height, line=line, from_zero=name == "tokens_per_second"
        )
        figures.append(
            f'<figure class="{"main" if index == 0 else ""}"><figcaption>{both(CURVES[name])}{note}</figcaption>{picture}</figure>'
        )
    caption = Text("Horizontal: training steps")
    if len(runs) > 1:
        caption = Text("{caption}. Pale lines: {count} more seeds", caption=caption, count=len(runs) - 1)
    return f'<div class="curves">{"".join(figures)}</div><p class="caption">{both(caption)}</p>'


def samples_of(samples: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any] | None = None) -> str:
    """What a model said, and how that differs from what the stage's metrics ask of it."""
    if not samples:
        return ""
    note = _about_samples(metrics or {})
    cards = [_sample(sample) for sample in samples]
    more = ""
    if len(cards) > SAMPLES_SHOWN:
        count = len(cards) - SAMPLES_SHOWN
        more = f"<details><summary>{both('{count} more', count=count)}</summary>{''.join(cards[SAMPLES_SHOWN:])}</details>"
    return f"<h3>{both('What it says now')}</h3>{note}{''.join(cards[:SAMPLES_SHOWN])}{more}"


def _about_samples(metrics: Mapping[str, Any]) -> str:
    notes = [Text("Samples are drawn at temperature 0.7 and differ from time to time.")]
    if "tinyworld/math_word_problems" in metrics:
        notes.append(
            Text(
                "Whether to think first is the model's choice here, while “problems solved” makes it think "
                "and takes the likeliest token each time: a sample may be wrong where the score is high."
            )
        )
    if "tinyworld/story_qa" in metrics and "tinyworld/politeness" in metrics:
        notes.append(
            Text(
                "Half of the free answers in the conversations are rude on purpose: which manner to take "
                "is for preference optimisation to teach."
            )
        )
    return "".join(f'<p class="caption">{both(note)}</p>' for note in notes)


def _sample(sample: Mapping[str, Any]) -> str:
    before, after = sample.get("before") or "", sample.get("after") or ""
    columns = [f'<div class="now"><h4>{both("After this stage")}</h4>{_speech(after)}</div>']
    if before:
        columns.insert(0, f"<div><h4>{both('Before')}</h4>{_speech(before)}</div>")
    prompt = f'<p class="prompt">{esc(_cut(sample.get("prompt", "")))}</p>'
    return f'<article class="sample">{prompt}<div class="columns">{"".join(columns)}</div></article>'


def _speech(text: str) -> str:
    """A model's output, its reasoning set apart."""
    thought = _THOUGHT.fullmatch(text.strip())
    if thought is None:
        return f"<p>{esc(_cut(text.strip()))}</p>"
    reasoning, answer = (part.strip() for part in thought.groups())
    shown = f'<p class="thought">{esc(_cut(reasoning))}</p>' if reasoning else ""
    return f"{shown}<p>{esc(_cut(answer))}</p>"


def _cut(text: Any) -> str:
    text = str(text)
    return (
        text if len(text) <= LONGEST_SAMPLE else f"{text[:LONGEST_SAMPLE]}… (+{len(text) - LONGEST_SAMPLE:,})"
    )


def drops_of(drops: Mapping[str, Any]) -> str:
    if "rules" in drops:
        drops = {**drops["rules"], **(drops.get("lines") or {})}
    if not drops:
        return ""
    most = max(about["count"] for about in drops.values()) or 1
    rows = []
    for rule, about in sorted(drops.items(), key=lambda item: -item[1]["count"]):
        examples = [
            sample["text"] if isinstance(sample, Mapping) else sample for sample in about.get("samples") or ()
        ][:SAMPLES_SHOWN]
        quotes = "".join(
            f"<blockquote>{esc(_cut(str(text).strip())[:240])}</blockquote>" for text in examples
        )
        rows.append(
            f'<details class="drop"><summary><span class="rule">{both(lookup(RULES, rule))}</span>'
            f'{svg.bar(0, about["count"] / most, "drops")}<span class="figure">{about["count"]:,}</span></summary>{quotes}</details>'
        )
    return f"<h3>{both('What was dropped, and why')}</h3>{''.join(rows)}"


def facts_of(notes: Mapping[str, Any], hidden: Collection[str] = ()) -> str:
    """Figures beside the metrics; what is not in the table of words is shown under its own name."""
    items = []
    for name, value in notes.items():
        if (
            name in HIDDEN_FACTS
            or name in hidden
            or value is None
            or value == {}
            or value == []
            or value == ""
        ):
            continue
        label = both(FACTS[name]) if name in FACTS else f"<code>{esc(name)}</code>"
        items.append(f"<div><dt>{label}</dt><dd>{_plain(value)}</dd></div>")
    return f'<dl class="facts">{"".join(items)}</dl>' if items else ""


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "".join(f"<span>{_part(key)} {_plain(item)}</span>" for key, item in value.items())
    if isinstance(value, list | tuple):
        return esc(" · ".join(_number(item) for item in value))
    return esc(_number(value))


def _part(key: Any) -> str:
    words = PARTS.get(str(key)) or RULES.get(str(key))
    return both(words) if words else f"<code>{esc(key)}</code>"


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


# ---------------------------------------------------------------- where everything comes from


def provenance(report: Mapping[str, Any], extras: Mapping[str, Any]) -> str:
    artifacts, versions, recipe = (
        extras.get(name) or {} for name in ("artifacts", "versions", "recipe_resolved")
    )
    parts = [f'<section class="provenance" id="provenance"><h2>{both("Provenance")}</h2>']
    parts.append(f"<p>{both('Published model: ')}<code>{esc(report['model'])}</code></p>")
    if artifacts:
        known = {about["hash"]: name for name, about in artifacts.items()}
        rows = "".join(_artifact(name, about, known) for name, about in artifacts.items())
        heads = (
            Text("Artefact"),
            Text("Kind"),
            Text("Content hash"),
            Text("Made from"),
            Text("Place"),
        )
        head = "".join(f"<th>{both(text)}</th>" for text in heads)
        parts.append(
            f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        )
    machine = report["machine"] if isinstance(report["machine"], Mapping) else {"": report["machine"]}
    for title, values in ((Text("Machine"), machine), (Text("Versions"), versions)):
        parts.append(_values(title, values))
    if recipe:
        parts.append(
            resolved_of(
                recipe,
                Text("The resolved recipe (every default spelled out)"),
            )
        )
    return "".join(parts) + "</section>"


def provenance_of(config: Mapping[str, Any], seed: int | None) -> str:
    """What a single artefact was made with."""
    return (
        f'<section class="provenance" id="provenance"><h2>{both("Provenance")}</h2><p>{both("Seed: ")}{esc(seed)}</p>'
        f"{_values(Text('Versions'), package_versions())}"
        f"{resolved_of(config, Text('The resolved settings (every default spelled out)'))}</section>"
    )


def resolved_of(config: Mapping[str, Any], summary: Text) -> str:
    """A whole configuration, folded."""
    text = yaml.safe_dump(
        _plain_data(config), allow_unicode=True, sort_keys=False, default_flow_style=None, width=100
    )
    return f"<details><summary>{both(summary)}</summary><pre>{esc(text)}</pre></details>"


def _values(title: Text, values: Mapping[str, Any]) -> str:
    items = "".join(
        f"<div><dt>{both(PARTS[name]) if name in PARTS else esc(name)}</dt><dd>{esc(_number(value))}</dd></div>"
        for name, value in values.items()
        if value is not None
    )
    return f'<h3>{both(title)}</h3><dl class="facts">{items}</dl>' if values else ""


def _artifact(name: str, about: Mapping[str, Any], known: Mapping[str, str]) -> str:
    def shown(role: str, parent: str) -> str:
        return esc(known[parent]) if parent in known else f"{esc(role)} <code>{esc(str(parent)[:12])}</code>"

    parents = both(", ").join(
        f'<span title="{esc(parent)}">{shown(role, parent)}</span>'
        for role, parent in (about.get("parents") or {}).items()
    )
    return (
        f'<tr><th scope="row">{esc(name)}</th><td>{esc(about["kind"])}</td><td><code title="{esc(about["hash"])}">{esc(str(about["hash"])[:12])}</code></td>'
        f"<td>{parents or '—'}</td><td><code>{esc(about.get('path', ''))}</code></td></tr>"
    )


def _plain_data(value: Any) -> Any:
    """What YAML can write without tags."""
    if isinstance(value, Mapping):
        return {str(key): _plain_data(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_data(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
