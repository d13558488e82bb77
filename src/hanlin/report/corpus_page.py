"""The page that shows a corpus to people: what was read, what went and why, what stayed; one file, no
network, Chinese and English."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hanlin.common.messages import Text, sentences
from hanlin.corpus.builder.explain import largest_clusters
from hanlin.report import svg
from hanlin.report.corpus_evidence import (
    kept_and_changed,
    lines_of,
    rules_of,
    shown_clusters,
    shown_hits,
    shown_quarantine,
)
from hanlin.report.corpus_text import (
    BLOCKS,
    CAUSES,
    PHASES,
    SCRIPTS,
    amount,
    heading,
    more,
    percent,
    size,
    table,
)
from hanlin.report.evidence import provenance_of
from hanlin.report.page import document, masthead
from hanlin.report.text import RULES, both, duration, esc, lookup

SOURCES = 40  # rows of the table
PICTURES = 11  # sources with histograms of their own
_DUPLICATES = ("exact_duplicate", "near_duplicate")
_PARTS = ("documents", "characters", "bytes")
Size = tuple[int, int, int]


def render_corpus(folder: Path, about: Mapping[str, Any]) -> str:
    """The whole page as HTML. Whatever comes from data is escaped.

    All but the part `<section id="times">` is the same for the same corpus, whoever made it with however
    many processes.

    Args:
        folder: of the corpus; `clusters.jsonl.zst` and `quarantine.jsonl` are read.
        about: `config`, `seed` and `metrics` of its manifest, and `report`, which is its report.json.
    """
    report, metrics = about["report"], about["metrics"]
    count, largest = largest_clusters(folder / "clusters.jsonl.zst", 20)
    parts = [
        _cover(report, metrics),
        _tiles(report, metrics),
        _contents(),
        _funnel(report),
        _by_source(report),
        _histograms(report["sources"]),
        rules_of(report["rules"], metrics["characters_read"]),
        lines_of(report["lines"]),
        kept_and_changed(report),
        shown_clusters(count, largest, about["config"]["dedup"]),
        shown_hits(report, about["config"]["decontaminate"]),
        shown_quarantine(folder / "quarantine.jsonl", metrics),
        _times(metrics),
        provenance_of(about["config"], about["seed"]),
    ]
    return document("翰林 Hanlin · 语料 corpus", parts, ("report.css", "corpus.css"))


# ---------------------------------------------------------------- the first page


def _cover(report: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    sources = len(report["sources"])
    read, kept, held = metrics["documents_read"], metrics["documents_kept"], metrics["heldout_documents"]
    dropped = sum(rule["count"] for rule in report["rules"].values())
    taken = size(metrics["bytes_read"])
    lede = [
        Text(
            "{read:,} documents ({taken}) of {sources:,} sources were read and {dropped:,} dropped "
            "({dropped_share}). The training part has {kept:,} documents, {kept_size}; {held:,} are held "
            "out for evaluation.",
            read=read,
            taken=taken,
            sources=sources,
            dropped=dropped,
            dropped_share=percent(dropped, read),
            kept=kept,
            kept_size=size(metrics["bytes_kept"]),
            held=held,
        )
    ]
    if weighted := [name for name, source in report["sources"].items() if source["weight"] != 1]:
        lede.append(
            Text(
                "Repeated or thinned by weight: {count:,} of the sources; the figures of the training part "
                "are those after it.",
                count=len(weighted),
            )
        )
    lede.append(
        Text(
            "Every figure below is in report.json or manifest.json; samples are drawn evenly by hash, not "
            "picked."
        )
    )
    return masthead(
        Text("Corpus report"),
        "hanlin corpus build",
        Text("What was read, what stayed, what went"),
        "",
        sentences(lede),
    )


def _tiles(report: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    read = metrics["documents_read"]
    duplicates = sum(report["rules"].get(rule, {}).get("count", 0) for rule in _DUPLICATES)
    ruled = sum(about["count"] for about in report["rules"].values()) - duplicates
    tiles = [
        (
            "sources",
            Text("For training"),
            f"{metrics['documents_kept']:,}",
            Text.in_context("counted", "documents"),
            both(amount(metrics["characters_kept"], Text("characters"))),
        ),
        (
            "rules",
            Text("Dropped by rules"),
            percent(ruled, read),
            Text(""),
            f"{ruled:,} / {read:,}",
        ),
        (
            "clusters",
            Text.in_context("dropped", "Duplicates"),
            percent(duplicates, read),
            Text(""),
            f"{duplicates:,} / {read:,}",
        ),
        (
            "samples",
            Text("Changed"),
            f"{report['changed']['count']:,}",
            Text.in_context("counted", "documents"),
            both("repaired, normalised, lines removed"),
        ),
        (
            "quarantine",
            Text("Unreadable"),
            f"{metrics['quarantined']:,}",
            Text("records"),
            both("kept in quarantine.jsonl"),
        ),
    ]
    return (
        '<section class="tiles">'
        + "".join(
            f'<a class="tile" href="#{place}"><p class="tile-name">{both(name)}</p><p class="tile-value">{value}<small>{both(unit)}</small></p><p class="tile-interval">{note}</p></a>'
            for place, name, value, unit, note in tiles
        )
        + "</section>"
    )


_CONTENTS = {
    "funnel": Text("Funnel"),
    "sources": Text("By source"),
    "pictures": Text("Lengths and scripts"),
    "rules": Text("Why documents went"),
    "samples": Text("Kept and changed"),
    "clusters": Text("Duplicates"),
    "contamination": Text("Benchmarks"),
    "quarantine": Text("Quarantine"),
    "times": Text("Time"),
    "provenance": Text("Provenance"),
}


def _contents() -> str:
    return (
        '<nav class="contents">'
        + "".join(f'<a href="#{place}">{both(name)}</a>' for place, name in _CONTENTS.items())
        + "</nav>"
    )


# ---------------------------------------------------------------- where the text went


def _funnel(report: Mapping[str, Any]) -> str:
    """From what was read down to what is trained on, step by step."""
    read, cleaned, kept, held = (
        _total(source[part] for source in report["sources"].values())
        for part in ("read", "cleaned", "kept", "heldout")
    )
    ruled, overlapping, exact, near = (
        _dropped(report["rules"], cause) for cause in ("rules", "contaminated", *_DUPLICATES)
    )
    inside_name = Text("taken out within documents")
    held_name = Text("of these held out")
    steps = [
        (Text("read"), read),
        (CAUSES["rules"], _minus((0, 0, 0), ruled)),
        (CAUSES["contaminated"], _minus((0, 0, 0), overlapping)),
    ]
    inside = _minus(cleaned, _minus(_minus(read, ruled), overlapping))
    steps += [
        (inside_name, inside),
        (Text("left by cleaning"), cleaned),
    ]
    steps += [
        (lookup(RULES, name), _minus((0, 0, 0), gone))
        for name, gone in zip(_DUPLICATES, (exact, near), strict=True)
    ]
    steps += [
        (Text("distinct"), _minus(_minus(cleaned, exact), near)),
        (held_name, held),
        (Text("for training"), kept),
    ]
    rows, level, whole = [], read[1], max(read[1], kept[1], 1)
    for name, step in steps:
        aside = name is held_name
        loss = not aside and (min(step[:2]) < 0 or step == (0, 0, 0) or name is inside_name)
        if aside:
            bar, level = svg.bar(0, step[1] / whole, "memory"), level
        elif loss:
            bar, level = (
                svg.bar(max(level + step[1], 0) / whole, level / whole, "drops") if step[1] else "",
                level + step[1],
            )
        else:
            bar, level = svg.bar(0, step[1] / whole, "time"), step[1]
        shown = [f"{step[0]:,}", *(both(amount(value)) for value in step[1:2]), size(step[2])]
        rows.append(
            [
                f'<span class="{"loss" if loss else "step"}">{both(name)}</span>',
                *shown,
                bar,
                percent(abs(step[1]), read[1]),
            ]
        )
    heads = (
        Text(""),
        Text("Documents"),
        Text("Characters"),
        Text("Bytes"),
        Text("Characters, drawn"),
        Text("Of those read"),
    )
    return f'<section id="funnel">{heading(Text("The funnel"))}{table(heads, rows, "funnel")}</section>'


def _by_source(report: Mapping[str, Any]) -> str:
    """Each source's way, and the rules that took its documents."""
    sources = sorted(report["sources"].items(), key=lambda item: (-item[1]["read"]["characters"], item[0]))
    rows = [_source(name, source) for name, source in sources[:SOURCES]]
    rest = ""
    if len(sources) > SOURCES:
        others = [source for _, source in sources[SOURCES:]]
        sums = " · ".join(
            f"{_total(source[part] for source in others)[0]:,}"
            for part in ("read", "kept", "heldout", "dropped")
        )
        rest = more(
            len(others),
            Text("sources; read · training · held out · dropped"),
            sums,
        )
    heads = (
        Text("Source"),
        Text("Documents: read → training"),
        Text("Characters"),
        Text("Bytes"),
        Text("Where its documents went"),
        Text("Dropped for; lines taken out"),
    )
    legend = "".join(f'<i class="{kind}"></i>{both(text)}' for kind, text in CAUSES.items())
    return f'<section id="sources">{heading(Text("By source"))}<p class="legend-row">{legend}</p>{table(heads, rows, "sources")}{rest}</section>'


def _source(name: str, source: Mapping[str, Any]) -> list[str]:
    def pair(part: str) -> tuple[int, int]:
        return source["read"][part], source["kept"][part]

    (documents, kept), (characters, kept_characters), (read_bytes, kept_bytes) = map(pair, _PARTS)
    rules = source["rules"]
    went = {
        "contaminated": rules.get("contaminated", 0),
        "duplicates": sum(rules.get(rule, 0) for rule in _DUPLICATES),
    }
    went["rules"] = sum(rules.values()) - sum(went.values())
    went["heldout"] = source["heldout"]["documents"]
    stays = documents - sum(went.values())  # before weights
    picture = svg.stack(
        [
            (stays / max(documents, 1), "kept"),
            *((went[kind] / max(documents, 1), kind) for kind in CAUSES if kind in went),
        ]
    )
    causes = " · ".join(
        f"{both(lookup(RULES, rule))} {count:,}"
        for rule, count in sorted(rules.items(), key=lambda item: (-item[1], item[0]))
    )
    lines = " · ".join(f"{both(lookup(RULES, rule))} {count:,}" for rule, count in source["lines"].items())
    weight = f"<small>× {source['weight']:g}</small>" if source["weight"] != 1 else ""
    return [
        f"<b>{esc(name)}</b>{weight}",
        f"{documents:,} → {kept:,}",
        f"{both(amount(characters))} → {both(amount(kept_characters))}",
        f"{size(read_bytes)} → {size(kept_bytes)}",
        picture,
        f"<small>{' · '.join(filter(None, (causes, lines))) or '—'}</small>",
    ]


def _dropped(rules: Mapping[str, Any], cause: str) -> Size:
    """What one rule dropped, or all that are rules of cleaning."""
    others = {*_DUPLICATES, "contaminated"}
    names = [cause] if cause in others else [name for name in rules if name not in others]
    found = [rules.get(name, {}) for name in names]
    return (
        sum(about.get("count", 0) for about in found),
        sum(about.get("characters", 0) for about in found),
        sum(about.get("bytes", 0) for about in found),
    )


def _total(sizes: Iterable[Mapping[str, int]]) -> Size:
    found = list(sizes)
    return (
        sum(one["documents"] for one in found),
        sum(one["characters"] for one in found),
        sum(one["bytes"] for one in found),
    )


def _minus(left: Size, right: Size) -> Size:
    return (left[0] - right[0], left[1] - right[1], left[2] - right[2])


# ---------------------------------------------------------------- pictures


def _histograms(sources: Mapping[str, Any]) -> str:
    """Lengths and main scripts of what cleaning left, before duplicates: of all, and of the largest
    sources."""
    ordered = sorted(sources.items(), key=lambda item: (-item[1]["cleaned"]["documents"], item[0]))
    lengths, scripts = ([source[name] for _, source in ordered] for name in ("lengths", "scripts"))
    present = [script for script in SCRIPTS if any(counts.get(script) for counts in scripts)]
    legend = "".join(f'<i class="script-{script}"></i>{both(SCRIPTS[script])}' for script in present)
    everything = _summed(scripts)
    rows = [
        [
            both(SCRIPTS[script]),
            f"{everything[script]:,}",
            svg.bar(0, everything[script] / max(everything.values()), f"script-{script}"),
            percent(everything[script], sum(everything.values())),
        ]
        for script in present
    ]
    figures = [
        f'<figure class="main"><figcaption>{both("All sources: documents by length in characters")}</figcaption>{_lengths(_summed(lengths), 480, 200)}</figure>',
        f'<figure class="main"><figcaption>{both("All sources: main script")}</figcaption>{table((Text(""),) * 4, rows, "scripts")}</figure>',
    ]
    if len(ordered) > 1:
        figures += [
            f"<figure><figcaption><b>{esc(name)}</b></figcaption>{_lengths(source['lengths'], 230, 110)}{svg.stack(_script_shares(source['scripts'], present))}</figure>"
            for name, source in ordered[:PICTURES]
            if source["cleaned"]["documents"]
        ]
    rest = more(len(ordered) - PICTURES, Text("smaller sources not drawn")) if len(ordered) > PICTURES else ""
    note = both(
        "Each step to the right doubles the length; labels are lower bounds. The strip shows main scripts. "
        "Documents after cleaning, before deduplication."
    )
    return f'<section id="pictures">{heading(Text("Lengths and scripts"))}<p class="legend-row">{legend}</p><div class="curves histograms">{"".join(figures)}</div><p class="caption">{note}</p>{rest}</section>'


def _lengths(counts: Mapping[str, int], width: int, height: int) -> str:
    low, high = (edge(map(int, counts)) for edge in (min, max)) if counts else (0, 0)
    columns = [
        (svg.short(2**power) if power < 10 else f"{2 ** (power - 10):g}k", counts.get(str(power), 0))
        for power in range(low, high + 1)
    ]
    return svg.histogram(columns, "length", width=width, height=height)


def _script_shares(counts: Mapping[str, int], present: Sequence[str]) -> list[tuple[float, str]]:
    whole = max(sum(counts.values()), 1)
    return [(counts.get(script, 0) / whole, f"script-{script}") for script in present]


def _summed(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for part in parts:
        for name, count in part.items():
            found[name] = found.get(name, 0) + count
    return found


# ---------------------------------------------------------------- how long it took


def _times(metrics: Mapping[str, Any]) -> str:
    """The only part that is another one each time."""
    parts = []
    for title, words, found in (
        (Text("By phase"), PHASES, metrics.get("seconds") or {}),
        (
            Text("Steps of reading and cleaning"),
            BLOCKS,
            metrics.get("seconds_of_cleaning") or {},
        ),
    ):
        whole, start, rows = sum(found.values()) or 1.0, 0.0, []
        for name, seconds in found.items():
            rows.append(
                [
                    both(lookup(words, name)),
                    both(duration(seconds)),
                    svg.bar(start / whole, (start + seconds) / whole, "time"),
                    percent(seconds, whole),
                ]
            )
            start += seconds
        if rows:
            parts.append(f"<h3>{both(title)}</h3>{table((Text(''),) * 4, rows, 'times')}")
    note = both(
        "Seconds of work, summed over processes; tasks that an interrupted run had done are not counted "
        "again."
    )
    return (
        f'<section id="times">{heading(Text("Time"))}<p class="caption">{note}</p>{"".join(parts)}</section>'
    )
