"""What trials of an ablation say together: differences to the baseline with intervals over documents and
seeds. No torch here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from hanlin.common import terminal
from hanlin.common.messages import Text, tr
from hanlin.evaluation.intervals import RESAMPLES, UNKNOWN, influence, student_interval, student_t
from hanlin.evaluation.statistics import FEWEST, Metric, pooled
from hanlin.report.svg import document, forest

Verdict = Literal["better", "worse", "unclear", "one_seed", "few"]
_AT_ONCE = 1 << 22  # counts drawn at once, 32 MiB


@dataclasses.dataclass(frozen=True)
class Runs:
    """One setting's runs on the held-out documents.

    Attributes:
        bits: of each document in each run, (seeds, documents).
        bytes: of each document, (documents,).
    """

    bits: np.ndarray
    bytes: np.ndarray

    def of(self, chosen: np.ndarray) -> Runs:
        """The same runs on some of the documents."""
        return Runs(self.bits[:, chosen], self.bytes[chosen])

    def values(self) -> np.ndarray:
        """Bits per byte of each run, (seeds,)."""
        return self.bits.sum(axis=1) / self.bytes.sum()

    def metric(self) -> Metric:
        """Bits per byte of the mean run, with the wider of the intervals that seeds and documents give."""
        return dataclasses.replace(
            pooled([Metric.ratio(bits, self.bytes, higher_is_better=False) for bits in self.bits]),
            n=len(self.bytes),
        )


@dataclasses.dataclass(frozen=True)
class Difference:
    """Bits per byte of a setting less those of the baseline, seeds paired; negative is better.

    Attributes:
        low, high: 95 %, documents and seeds together; it is a difference when 0 lies outside.
        documents: what a bootstrap over documents alone says, never narrower than Student's interval over
            them.
        seeds: what Student's interval over the paired seeds alone says; None for one seed, whose luck cannot
            be known.
        n: documents.
    """

    value: float
    low: float
    high: float
    documents: tuple[float, float]
    seeds: tuple[float, float] | None
    n: int

    @property
    def verdict(self) -> Verdict:
        """Better or worse only where the whole interval is, over enough documents and more than one seed."""
        if self.seeds is None:
            return "one_seed"
        if self.n < FEWEST:
            return "few"
        return "better" if self.high < 0 else "worse" if self.low > 0 else "unclear"

    def to_dict(self) -> dict[str, Any]:
        """The form that table.json has."""
        raw = dataclasses.asdict(self) | {"verdict": self.verdict}
        if math.isinf(self.low):
            raw |= {"low": None, "high": None, "documents": None}
        return raw


def difference(ours: Runs, baseline: Runs, *, seed: int = 0) -> Difference:
    """Compare two settings on the same documents and seeds.

    Documents and seeds are drawn independently, so their variances add: half = √(half_documents² +
    half_seeds²). Seeds are paired (the same start and the same order of data), which takes out what both owe
    to them.

    Raises:
        ValueError: the settings were not run on equally many seeds and documents.
    """
    if ours.bits.shape != baseline.bits.shape:
        raise ValueError(
            f"settings to compare must share seeds and documents, not {ours.bits.shape} and "
            f"{baseline.bits.shape}"
        )
    each = ours.values() - baseline.values()
    value = float(each.mean())
    count = len(ours.bytes)
    low, high = _over_documents(ours, baseline, value, seed) if count > 1 else UNKNOWN
    if len(each) < 2:
        return Difference(value, low, high, (low, high), None, count)
    half = student_t(len(each) - 1) * float(each.std(ddof=1)) / math.sqrt(len(each))
    low_both, high_both = value - math.hypot(value - low, half), value + math.hypot(high - value, half)
    return Difference(value, low_both, high_both, (low, high), (value - half, value + half), count)


def _over_documents(ours: Runs, baseline: Runs, value: float, seed: int) -> tuple[float, float]:
    """Interval of the mean difference as documents vary, two at least."""
    low, high = (float(q) for q in np.quantile(_resampled(ours, baseline, seed), (0.025, 0.975)))
    parts = influence(ours.bits.mean(axis=0), ours.bytes) - influence(
        baseline.bits.mean(axis=0), baseline.bytes
    )
    least, most = student_interval(value, parts)
    return min(low, least), max(high, most)


def _resampled(ours: Runs, baseline: Runs, seed: int) -> np.ndarray:
    """The mean difference on documents drawn with replacement, (resamples,)."""
    count, rng, found = len(ours.bytes), np.random.default_rng(seed), []
    at_once = max(1, _AT_ONCE // count)
    for start in range(0, RESAMPLES, at_once):
        drawn = rng.multinomial(
            count, np.full(count, 1 / count), size=min(at_once, RESAMPLES - start)
        ).astype(np.float64)
        drawn = drawn[drawn @ np.minimum(ours.bytes, baseline.bytes) > 0]
        ratios = [(drawn @ runs.bits.T) / (drawn @ runs.bytes)[:, None] for runs in (ours, baseline)]
        found.append((ratios[0] - ratios[1]).mean(axis=1))
    return np.concatenate(found)


def ablation_table(variants: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the table, the baseline first.

    Args:
        variants: `{"name", "settings", "results": [what a trial's result.json holds, per seed]}`, the
            baseline first; each held out the same documents in the same order.
    """
    sources = variants[0]["results"][0]["sources"]
    named = sorted({source for source in sources if source})
    groups = {"all": np.ones(len(sources), dtype=bool)}
    if len(named) > 1:
        groups |= {name: np.array([source == name for source in sources]) for name in named}
    runs = [
        Runs(
            np.array([r["bits"] for r in v["results"]]), np.array(v["results"][0]["bytes"], dtype=np.float64)
        )
        for v in variants
    ]
    rows = []
    for variant, mine in zip(variants, runs, strict=True):
        measured = {}
        for name, chosen in groups.items():
            if min(mine.bytes[chosen].sum(), runs[0].bytes[chosen].sum()) <= 0:
                continue
            part = mine.of(chosen)
            measured[name] = {"bits_per_byte": part.metric().to_dict(), "by_seed": part.values().tolist()}
            if mine is not runs[0]:
                measured[name]["difference"] = difference(part, runs[0].of(chosen)).to_dict()
        figures = {
            key: float(np.mean([r[key] for r in variant["results"]]))
            for key in ("steps", "tokens", "seconds", "tokens_per_second", "peak_rss_mb", "skipped")
        }
        row = {
            "name": variant["name"],
            "settings": variant["settings"],
            "parameters": variant["results"][0]["parameters"],
        } | measured.pop("all")
        rows.append(row | {"sources": measured} | figures)
    return rows


_VERDICTS = {
    "better": Text("better"),
    "worse": Text("worse"),
    "unclear": Text("cannot be told apart"),
    "one_seed": Text("one seed: not ranked"),
    "few": Text("fewer than {fewest} documents: not ranked", fewest=FEWEST),
}


def ablation_cells(table: Mapping[str, Any]) -> list[list[str]]:
    """The table's cells as text, head first, in the language of the locale."""
    head = [
        tr("setting"),
        tr("bits per byte"),
        tr("difference to baseline"),
        tr("verdict"),
        tr("steps"),
        tr("tokens/s"),
        tr("seconds"),
        tr("parameters"),
    ]
    rows = [head]
    for row in table["variants"]:
        metric, found = row["bits_per_byte"], row.get("difference")
        rows.append(
            [
                row["name"],
                f"{metric['value']:.4f} {_span(metric, '.4f')}",
                f"{found['value']:+.4f} {_span(found, '+.4f')} "
                f"({found['value'] / table['variants'][0]['bits_per_byte']['value']:+.1%})"
                if found
                else "—",
                str(_VERDICTS[found["verdict"]]) if found else tr("baseline"),
                f"{row['steps']:,.0f}",
                f"{row['tokens_per_second']:,.0f}",
                f"{row['seconds']:.0f}",
                f"{row['parameters']:,}",
            ]
        )
    return rows


def _span(raw: Mapping[str, Any], form: str) -> str:
    """The interval of a metric or difference as JSON has it."""
    return (
        tr("[interval not known]") if raw["low"] is None else f"[{raw['low']:{form}}, {raw['high']:{form}}]"
    )


def source_cells(table: Mapping[str, Any]) -> list[list[str]]:
    """Differences per source: a row for each source, a column for each setting; empty where there is one
    source or none."""
    baseline, *others = table["variants"]
    if not baseline["sources"]:
        return []
    rows = [
        [
            tr("source"),
            str(Text.in_context("how many", "documents")),
            tr("baseline"),
            *(row["name"] for row in others),
        ]
    ]
    for name, measured in baseline["sources"].items():
        metric = measured["bits_per_byte"]
        found = [row["sources"][name]["difference"] for row in others]
        marks = {"better": tr(" better"), "worse": tr(" worse")}
        shown = [f"{d['value']:+.4f} {_span(d, '+.4f')}{marks.get(d['verdict'], '')}" for d in found]
        rows.append([name, str(metric["n"]), f"{metric['value']:.4f}", *shown])
    return rows


def about(table: Mapping[str, Any]) -> list[str]:
    """What has to be known to read the table, a sentence a line."""
    seeds, comparisons = (
        len(table["seeds"]),
        (len(table["variants"]) - 1) * (1 + len(table["variants"][0]["sources"])),
    )
    equal = table["equal"]
    lines = [
        tr(
            "{documents:,} held-out documents, {seeds} seeds; negative differences are better. 95 % "
            "intervals over documents (bootstrap) and seeds (paired, Student's t) together; none is ranked "
            "that crosses 0.",
            documents=table["documents"],
            seeds=seeds,
        ),
        tr("{steps:,} steps per trial.", steps=equal["steps"])
        if "steps" in equal
        else tr(
            "{seconds:g} seconds per trial: the steps follow from a short measurement of the speed, and the "
            "schedule spans them.",
            seconds=equal["seconds"],
        ),
    ]
    if comparisons > 2:
        lines.append(
            tr(
                "{comparisons} comparisons: even where nothing differs, about {expected:.1f} intervals of "
                "95 % leave out 0.",
                comparisons=comparisons,
                expected=0.05 * comparisons,
            )
        )
    return lines + [tr(Text.rendered(zh=zh, en=en)) for zh, en in table.get("notes", [])]


def ablation_text(table: Mapping[str, Any]) -> str:
    """The table for a terminal."""
    lines = terminal.table(ablation_cells(table))
    sources = source_cells(table)
    return "\n".join([*lines, *([""] + terminal.table(sources) if sources else []), "", *about(table)])


def ablation_markdown(table: Mapping[str, Any]) -> str:
    """The table as Markdown."""
    title = tr("# Ablation: {recipe}", recipe=table["recipe"])
    parts = [title, *about(table), terminal.markdown_table(ablation_cells(table))]
    sources = source_cells(table)
    if sources:
        parts += [tr("## By source"), terminal.markdown_table(sources)]
    return "\n\n".join(parts) + "\n"


def ablation_picture(table: Mapping[str, Any]) -> str:
    """The differences with their intervals, an SVG that stands by itself."""
    rows = []
    for row in table["variants"][1:]:
        found = row["difference"]
        if found["low"] is None:
            continue  # nothing to draw
        rows.append(
            (
                row["name"],
                str(_VERDICTS[found["verdict"]]),
                found["value"],
                found["low"],
                found["high"],
                found["verdict"],
            )
        )
        for name, measured in row["sources"].items():
            part = measured["difference"]
            if part["low"] is None:
                continue
            rows.append(("", name, part["value"], part["low"], part["high"], "part"))
    baseline = table["variants"][0]
    title = tr("Difference to the baseline, bits per byte")
    note = tr(
        "baseline {name}: {value:.4f}; to the left is better",
        name=baseline["name"],
        value=baseline["bits_per_byte"]["value"],
    )
    body, height = forest(rows, top=64)
    return document(title, note, body, height)
