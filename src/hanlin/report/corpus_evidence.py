"""The parts of a corpus' page that show texts: samples by rule, changes marked, duplicates, benchmark hits,
unreadable records."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import orjson

from hanlin.common.messages import Text
from hanlin.corpus.filters.stats import EXCERPT, SAMPLES
from hanlin.report import svg
from hanlin.report.corpus_text import amount, heading, more, percent, size, table
from hanlin.report.text import RULES, both, esc, lookup

SHOWN_AT_ONCE = 3  # samples that are not folded away
MEMBERS = 5  # of a cluster
EXAMPLES = 3  # records of a reason
REASONS = 30


# ---------------------------------------------------------------- what rules dropped


def rules_of(rules: Mapping[str, Any], read: int) -> str:
    """Every rule with its counts, and its samples folded below it."""
    if not rules:
        return f'<section id="rules">{heading(Text("Why documents went"))}{_nothing(Text("No document was dropped"))}</section>'
    most = max(about["characters"] for about in rules.values()) or 1
    rows = "".join(
        _rule(rule, about, most, read, Text.in_context("counted", "documents"))
        for rule, about in rules.items()
    )
    note = both(
        "Open a rule for its samples, {samples} at most, the beginning of each. Bars are characters.",
        samples=SAMPLES,
    )
    return f'<section id="rules">{heading(Text("Why documents went"))}<p class="caption">{note}</p>{rows}</section>'


def lines_of(lines: Mapping[str, Any]) -> str:
    """The same for lines that were taken out of documents that stayed."""
    if not lines:
        return ""
    most = max(about["characters"] for about in lines.values()) or 1
    rows = "".join(_rule(rule, about, most, 0, Text("lines")) for rule, about in lines.items())
    return f'<section id="lines">{heading(Text("Lines taken out"))}{rows}</section>'


def _rule(rule: str, about: Mapping[str, Any], most: int, read: int, unit: Text) -> str:
    quotes = "".join(_quote(sample) for sample in about["samples"])
    characters = both(amount(about["characters"], Text("characters")))
    part = f" · {percent(about['characters'], read)}" if read else ""
    return (
        f'<details class="drop"><summary><span class="rule">{both(lookup(RULES, rule))} <code>{esc(rule)}</code></span>'
        f'{svg.bar(0, about["characters"] / most, "drops")}<span class="figure"><b>{about["count"]:,}</b> {both(unit)}'
        f"<small>{characters} · {size(about['bytes'])}{part}</small></span></summary>{quotes}</details>"
    )


def _quote(sample: Mapping[str, Any]) -> str:
    """One sample with what is known about it."""
    notes = [f"<b>{esc(sample['source'])}</b>"] if sample.get("source") else []
    if "documents" in sample:
        notes.append(both("in {documents:,} documents", documents=sample["documents"]))
    if "benchmark" in sample:
        notes.append(both("{benchmark}, item {item}", benchmark=sample["benchmark"], item=sample["item"]))
    if "similarity" in sample:
        notes.append(f"Jaccard {sample['similarity']:.3f}")
    twin = ""
    if "duplicate_of" in sample:
        twin = f'<p class="twin"><small>{both("repeats this one, which stays; what differs is marked:")}</small>{marked(sample["text"], sample["duplicate_of"])}</p>'
    return f'<blockquote class="evidence"><small>{" · ".join(notes)}</small><p>{shown(sample["text"].strip())}{_cut(sample["text"])}</p>{twin}</blockquote>'


# ---------------------------------------------------------------- what stayed


def kept_and_changed(report: Mapping[str, Any]) -> str:
    """Samples of kept documents, and of changed ones with the change marked."""
    changed = report["changed"]
    title = heading(Text("What stayed, and what was changed"))
    kept = f"<h3>{both('Samples of what stayed')}</h3>{_folded([_quote(item) for item in report['kept']])}"
    name = both("{count:,} documents were changed", count=changed["count"])
    legend = f'<span class="legend-row"><del>{both("taken out")}</del> <ins>{both("put in")}</ins></span>'
    cards = [
        f'<blockquote class="evidence"><small><b>{esc(item["source"])}</b></small><p>{marked(item["before"], item["text"])}{_cut(item["before"])}</p></blockquote>'
        for item in changed["samples"]
    ]
    masked = " · ".join(f"<code>{esc(tag)}</code> {count:,}" for tag, count in report["masked"].items())
    masks = f"<h3>{both('Personal data masked')}</h3><p>{masked}</p>" if masked else ""
    return f'<section id="samples">{title}{kept}<h3>{name} {legend}</h3>{_folded(cards) or _nothing(Text("No document was changed"))}{masks}</section>'


def marked(before: str, after: str) -> str:
    """`before` with what `after` has not as deleted, and what it has more as inserted; character by
    character.

    Both may be beginnings that were cut: where one was, the difference at the end says nothing and is not
    marked. Excerpts are short, so that the quadratic comparison takes milliseconds; longer texts are cut to
    the length of one.
    """
    open_end = max(len(before), len(after)) >= EXCERPT
    before, after = before[:EXCERPT], after[:EXCERPT]
    codes = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    parts = []
    for place, (kind, begin, end, other_begin, other_end) in enumerate(codes):
        if kind == "equal":
            parts.append(shown(before[begin:end]))
        elif open_end and place == len(codes) - 1 and place:
            parts.append(shown(after[other_begin:other_end]))
        else:
            parts += [f"<del>{shown(before[begin:end], True)}</del>"] if end > begin else []
            parts += (
                [f"<ins>{shown(after[other_begin:other_end], True)}</ins>"] if other_end > other_begin else []
            )
    return "".join(parts)


def shown(text: str, every: bool = False) -> str:
    """Text escaped, with a name in place of each character that cannot be seen or would turn the writing
    round.

    Args:
        every: line breaks and joiners of emoji too, as in a marked change.
    """
    parts, plain = [], []
    for character in text:
        if _unseen(character, every):
            parts += [esc("".join(plain)), f'<i class="code">{_name(character)}</i>']
            plain = ["\n"] if character == "\n" else []
        else:
            plain.append(character)
    return "".join(parts) + esc("".join(plain))


def _unseen(character: str, every: bool) -> bool:
    if character == " " or (character in "\n\t\u3000\u200d" and not every):
        return False
    return unicodedata.category(character) in ("Cc", "Cf", "Co", "Cn", "Cs", "Zs", "Zl", "Zp")


def _name(character: str) -> str:
    return {"\n": "⏎", "\t": "⇥"}.get(character, f"U+{ord(character):04X}")


# ---------------------------------------------------------------- duplicates, hits, unreadable records


def shown_clusters(count: int, largest: Sequence[Mapping[str, Any]], dedup: Mapping[str, Any]) -> str:
    """The largest clusters: who stays, who went, and in what they differ."""
    parts = [f'<section id="clusters">{heading(Text("Clusters of duplicates"))}']
    if not dedup["exact"] and not dedup["near"]:
        parts.append(_nothing(Text("Duplicates were not looked for")))
    elif not count:
        parts.append(_nothing(Text("No duplicates were found")))
    else:
        note = Text(
            "{count:,} clusters; these are the {largest_count} largest.",
            count=count,
            largest_count=len(largest),
        )
        parts.append(f'<p class="caption">{both(note)} <code>hanlin corpus inspect … --cluster N</code></p>')
    parts += [_cluster(one) for one in largest]
    return "".join(parts) + "</section>"


def _cluster(one: Mapping[str, Any]) -> str:
    members = one["members"]
    near = [member["similarity"] for member in members if not member["exact"]]
    same = len(members) - len(near)
    kinds = both("{same:,} the same", same=same) if same else ""
    if near:
        kinds += (" · " if same else "") + both(
            "{count:,} alike, Jaccard {below:.3f}–{above:.3f}",
            count=len(near),
            below=min(near),
            above=max(near),
        )
    # the least alike first
    ordered = sorted(members, key=lambda member: (member["similarity"], member["document"]))
    rows = "".join(_member(member, one["text"]) for member in ordered[:MEMBERS])
    rest = (
        more(len(members) - MEMBERS, Text.in_context("counted", "documents"))
        if len(members) > MEMBERS
        else ""
    )
    return (
        f'<details class="drop cluster"><summary><span class="rule">{esc(one["cluster"])} <small>{esc(one["source"])}</small></span>'
        f'<span class="start">{shown(one["text"][:60].replace(chr(10), " "))}</span><span class="figure"><b>+{len(members):,}</b><small>{kinds}</small></span></summary>'
        f'<blockquote class="evidence stays"><small>{both("stays")}</small><p>{shown(one["text"])}{_cut(one["text"])}</p></blockquote>{rows}{rest}</details>'
    )


def _member(member: Mapping[str, Any], kept: str) -> str:
    kind = both("the same") if member["exact"] else f"Jaccard {member['similarity']:.3f}"
    notes = f"<b>{esc(member['source'])}</b> · {member['document']} · {kind}"
    return f'<blockquote class="evidence"><small>{notes}</small><p>{marked(kept, member["text"])}</p></blockquote>'


def shown_hits(report: Mapping[str, Any], benchmarks: Sequence[str]) -> str:
    """Documents that held passages of benchmarks: which benchmark, which item, which passage."""
    title = heading(Text("Overlaps with benchmarks"))
    if not benchmarks:
        return f'<section id="contamination">{title}{_nothing(Text("No benchmarks were given, so nothing was compared (--decontaminate FILES)"))}</section>'
    counts = " · ".join(
        f"<code>{esc(name)}</code> {count:,}" for name, count in report["contaminated"].items()
    )
    if not counts:
        return f'<section id="contamination">{title}{_nothing(Text("No document holds a passage of them"))}</section>'
    hits = sorted(report["hits"], key=lambda hit: (hit["benchmark"], hit["item"], hit["text"]))
    rows = [
        [
            esc(hit["benchmark"]),
            f"{hit['item']:,}",
            f"<b>{esc(hit['source'])}</b>",
            shown(hit["text"]) + _cut(hit["text"]),
        ]
        for hit in hits
    ]
    heads = (
        Text("Benchmark"),
        Text("Item"),
        Text("Source"),
        Text("Passage, without punctuation and white space"),
    )
    total = sum(report["contaminated"].values())
    rest = (
        more(
            total - len(rows),
            Text("documents: the same passages, or beyond what is listed"),
        )
        if total > len(rows)
        else ""
    )
    listing = f"<details{' open' if len(rows) <= 20 else ''}><summary>{both('{count:,} passages', count=len(rows))}</summary>{table(heads, rows, 'hits')}</details>"
    return f'<section id="contamination">{title}<p>{both("{total:,} documents: ", total=total)}{counts}</p>{listing}{rest}</section>'


def shown_quarantine(path: Path, metrics: Mapping[str, Any]) -> str:
    """Why records could not be used, with the first of each reason."""
    title, reasons = heading(Text("Quarantined records")), metrics["quarantine_reasons"]
    if not reasons:
        return f'<section id="quarantine">{title}{_nothing(Text("Every record could be read"))}</section>'
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    examples = _first_of(path, {reason for reason, _ in ordered[:REASONS]})
    rows = [
        [esc(reason), f"{count:,}", "".join(map(_record, examples[reason]))]
        for reason, count in ordered[:REASONS]
    ]
    rest = more(len(ordered) - REASONS, Text("reasons")) if len(ordered) > REASONS else ""
    heads = (
        Text("Reason"),
        Text("Records"),
        Text("The first {examples}", examples=EXAMPLES),
    )
    return f'<section id="quarantine">{title}{table(heads, rows, "quarantine")}{rest}</section>'


def _first_of(path: Path, reasons: set[str]) -> dict[str, list[dict[str, Any]]]:
    """The first entries of each reason."""
    found: dict[str, list[dict[str, Any]]] = {reason: [] for reason in reasons}
    wanted = len(reasons)
    with open(path, "rb") as file:
        for line in file:
            entry = orjson.loads(line)
            entries = found.get(entry["reason"])
            if entries is None or len(entries) == EXAMPLES:
                continue
            entries.append(entry)
            wanted -= len(entries) == EXAMPLES
            if not wanted:
                break
    return found


def _record(entry: Mapping[str, Any]) -> str:
    where = f"{Path(entry['file']).name}:{entry['line']}" + (
        f" @ {entry['offset']:,}" if entry["offset"] >= 0 else ""
    )
    return f'<div class="record"><code>{esc(where)}</code> {shown(entry["excerpt"][:120])}</div>'


# ---------------------------------------------------------------- small forms


def _folded(cards: Sequence[str]) -> str:
    """The first cards, and the others behind a line to open."""
    rest = len(cards) - SHOWN_AT_ONCE
    if rest <= 0:
        return "".join(cards)
    return f"{''.join(cards[:SHOWN_AT_ONCE])}<details><summary>{both(Text.in_context('rows', '{rest} more', rest=rest))}</summary>{''.join(cards[SHOWN_AT_ONCE:])}</details>"


def _cut(text: str) -> str:
    return '<span class="cut">……</span>' if len(text) >= EXCERPT else ""


def _nothing(finding: Text) -> str:
    return f'<p class="caption">{both("{finding}.", finding=finding)}</p>'
