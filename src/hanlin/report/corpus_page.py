"""The page that shows a corpus to people: what was read, what went and why, what stayed; one file, no network, Chinese and English."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

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
    share,
    size,
    table,
)
from hanlin.report.evidence import provenance_of
from hanlin.report.page import document, masthead
from hanlin.report.text import RULES, Text, both, duration, esc, lookup

SOURCES = 40  # rows of the table
PICTURES = 11  # sources with histograms of their own
_DUPLICATES = ("exact_duplicate", "near_duplicate")
_PARTS = ("documents", "characters", "bytes")
Size = tuple[int, int, int]


def render_corpus(folder: Path, about: Mapping[str, Any]) -> str:
    """The whole page as HTML. Whatever comes from data is escaped.

    All but the part `<section id="times">` is the same for the same corpus, whoever made it with however many processes.

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
    zh = f"从 {sources:,} 个来源读入 {read:,} 篇文档（{taken}），丢弃 {dropped:,} 篇（{share(dropped, read)}）。训练部分 {kept:,} 篇，{size(metrics['bytes_kept'])}；留出 {held:,} 篇供评测。"
    en = f"{read:,} documents ({taken}) of {sources:,} sources were read and {dropped:,} dropped ({share(dropped, read)}). The training part has {kept:,} documents, {size(metrics['bytes_kept'])}; {held:,} are held out for evaluation. "
    if weighted := [name for name, source in report["sources"].items() if source["weight"] != 1]:
        zh += f"{len(weighted):,} 个来源按权重重复或抽取，训练部分的篇数是之后的。"
        en += f"Repeated or thinned by weight: {len(weighted):,} of the sources; the figures of the training part are those after it. "
    zh += "下面每一个数都能在 report.json 和 manifest.json 里找到；样例按哈希均匀抽取，不是挑出来的。"
    en += (
        "Every figure below is in report.json or manifest.json; samples are drawn evenly by hash, not picked."
    )
    return masthead(
        Text("语料报告", "Corpus report"),
        "hanlin corpus build",
        Text("读了什么，留下什么，丢了什么", "What was read, what stayed, what went"),
        "",
        Text(zh, en),
    )


def _tiles(report: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    read = metrics["documents_read"]
    duplicates = sum(report["rules"].get(rule, {}).get("count", 0) for rule in _DUPLICATES)
    ruled = sum(about["count"] for about in report["rules"].values()) - duplicates
    tiles = [
        (
            "sources",
            Text("训练部分", "For training"),
            f"{metrics['documents_kept']:,}",
            Text("篇", "documents"),
            both(*amount(metrics["characters_kept"], "字", "characters")),
        ),
        (
            "rules",
            Text("被规则丢弃", "Dropped by rules"),
            share(ruled, read),
            Text("", ""),
            f"{ruled:,} / {read:,}",
        ),
        (
            "clusters",
            Text("重复", "Duplicates"),
            share(duplicates, read),
            Text("", ""),
            f"{duplicates:,} / {read:,}",
        ),
        (
            "samples",
            Text("改动过", "Changed"),
            f"{report['changed']['count']:,}",
            Text("篇", "documents"),
            both("修复、归一、删行", "repaired, normalised, lines removed"),
        ),
        (
            "quarantine",
            Text("读不出", "Unreadable"),
            f"{metrics['quarantined']:,}",
            Text("条", "records"),
            both("隔离在 quarantine.jsonl", "kept in quarantine.jsonl"),
        ),
    ]
    return (
        '<section class="tiles">'
        + "".join(
            f'<a class="tile" href="#{place}"><p class="tile-name">{both(*name)}</p><p class="tile-value">{value}<small>{both(*unit)}</small></p><p class="tile-interval">{note}</p></a>'
            for place, name, value, unit, note in tiles
        )
        + "</section>"
    )


_CONTENTS = {
    "funnel": Text("漏斗", "Funnel"),
    "sources": Text("按来源", "By source"),
    "pictures": Text("长短与文字", "Lengths and scripts"),
    "rules": Text("因何丢弃", "Why documents went"),
    "samples": Text("留下的与改动的", "Kept and changed"),
    "clusters": Text("重复簇", "Duplicates"),
    "contamination": Text("与评测重合", "Benchmarks"),
    "quarantine": Text("隔离的记录", "Quarantine"),
    "times": Text("用时", "Time"),
    "provenance": Text("来历", "Provenance"),
}


def _contents() -> str:
    return (
        '<nav class="contents">'
        + "".join(f'<a href="#{place}">{both(*name)}</a>' for place, name in _CONTENTS.items())
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
    steps = [
        (Text("读入", "read"), read),
        (CAUSES["rules"], _minus((0, 0, 0), ruled)),
        (CAUSES["contaminated"], _minus((0, 0, 0), overlapping)),
    ]
    inside = _minus(cleaned, _minus(_minus(read, ruled), overlapping))
    steps += [
        (Text("篇内删改", "taken out within documents"), inside),
        (Text("清洗之后", "left by cleaning"), cleaned),
    ]
    steps += [
        (lookup(RULES, name), _minus((0, 0, 0), gone))
        for name, gone in zip(_DUPLICATES, (exact, near), strict=True)
    ]
    steps += [
        (Text("各不相同", "distinct"), _minus(_minus(cleaned, exact), near)),
        (Text("其中留出", "of these held out"), held),
        (Text("训练部分", "for training"), kept),
    ]
    rows, level, whole = [], read[1], max(read[1], kept[1], 1)
    for name, step in steps:
        aside = name.en == "of these held out"
        loss = not aside and (
            min(step[:2]) < 0 or step == (0, 0, 0) or name.en == "taken out within documents"
        )
        if aside:
            bar, level = svg.bar(0, step[1] / whole, "memory"), level
        elif loss:
            bar, level = (
                svg.bar(max(level + step[1], 0) / whole, level / whole, "drops") if step[1] else "",
                level + step[1],
            )
        else:
            bar, level = svg.bar(0, step[1] / whole, "time"), step[1]
        shown = [f"{step[0]:,}", *(both(*amount(value)) for value in step[1:2]), size(step[2])]
        rows.append(
            [
                f'<span class="{"loss" if loss else "step"}">{both(*name)}</span>',
                *shown,
                bar,
                share(abs(step[1]), read[1]),
            ]
        )
    heads = (
        Text("", ""),
        Text("篇", "Documents"),
        Text("字", "Characters"),
        Text("字节", "Bytes"),
        Text("字数", "Characters, drawn"),
        Text("占读入", "Of those read"),
    )
    return f'<section id="funnel">{heading("漏斗", "The funnel")}{table(heads, rows, "funnel")}</section>'


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
            Text("个来源，读入 · 训练 · 留出 · 丢弃", "sources; read · training · held out · dropped"),
            sums,
        )
    heads = (
        Text("来源", "Source"),
        Text("篇：读入 → 训练", "Documents: read → training"),
        Text("字", "Characters"),
        Text("字节", "Bytes"),
        Text("读入的篇数去了哪里", "Where its documents went"),
        Text("因何丢弃；去掉的行", "Dropped for; lines taken out"),
    )
    legend = "".join(f'<i class="{kind}"></i>{both(*text)}' for kind, text in CAUSES.items())
    return f'<section id="sources">{heading("按来源", "By source")}<p class="legend-row">{legend}</p>{table(heads, rows, "sources")}{rest}</section>'


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
        f"{both(*lookup(RULES, rule))} {count:,}"
        for rule, count in sorted(rules.items(), key=lambda item: (-item[1], item[0]))
    )
    lines = " · ".join(f"{both(*lookup(RULES, rule))} {count:,}" for rule, count in source["lines"].items())
    weight = f"<small>× {source['weight']:g}</small>" if source["weight"] != 1 else ""
    return [
        f"<b>{esc(name)}</b>{weight}",
        f"{documents:,} → {kept:,}",
        f"{both(*amount(characters))} → {both(*amount(kept_characters))}",
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
    """Lengths and main scripts of what cleaning left, before duplicates: of all, and of the largest sources."""
    ordered = sorted(sources.items(), key=lambda item: (-item[1]["cleaned"]["documents"], item[0]))
    lengths, scripts = ([source[name] for _, source in ordered] for name in ("lengths", "scripts"))
    present = [script for script in SCRIPTS if any(counts.get(script) for counts in scripts)]
    legend = "".join(f'<i class="script-{script}"></i>{both(*SCRIPTS[script])}' for script in present)
    everything = _summed(scripts)
    rows = [
        [
            both(*SCRIPTS[script]),
            f"{everything[script]:,}",
            svg.bar(0, everything[script] / max(everything.values()), f"script-{script}"),
            share(everything[script], sum(everything.values())),
        ]
        for script in present
    ]
    figures = [
        f'<figure class="main"><figcaption>{both("全部来源：篇数按长度（字）", "All sources: documents by length in characters")}</figcaption>{_lengths(_summed(lengths), 480, 200)}</figure>',
        f'<figure class="main"><figcaption>{both("全部来源：主要文字", "All sources: main script")}</figcaption>{table((Text("", ""),) * 4, rows, "scripts")}</figure>',
    ]
    if len(ordered) > 1:
        figures += [
            f"<figure><figcaption><b>{esc(name)}</b></figcaption>{_lengths(source['lengths'], 230, 110)}{svg.stack(_script_shares(source['scripts'], present))}</figure>"
            for name, source in ordered[:PICTURES]
            if source["cleaned"]["documents"]
        ]
    rest = (
        more(len(ordered) - PICTURES, Text("个较小的来源没有画", "smaller sources not drawn"))
        if len(ordered) > PICTURES
        else ""
    )
    note = both(
        "横轴每格翻一倍，标的是下限；色条是主要文字。画的是清洗后、去重前的文档。",
        "Each step to the right doubles the length; labels are lower bounds. The strip shows main scripts. Documents after cleaning, before deduplication.",
    )
    return f'<section id="pictures">{heading("长短与文字", "Lengths and scripts")}<p class="legend-row">{legend}</p><div class="curves histograms">{"".join(figures)}</div><p class="caption">{note}</p>{rest}</section>'


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
        (Text("各阶段", "By phase"), PHASES, metrics.get("seconds") or {}),
        (
            Text("读取与清洗的各步", "Steps of reading and cleaning"),
            BLOCKS,
            metrics.get("seconds_of_cleaning") or {},
        ),
    ):
        whole, start, rows = sum(found.values()) or 1.0, 0.0, []
        for name, seconds in found.items():
            rows.append(
                [
                    both(*lookup(words, name)),
                    both(*duration(seconds)),
                    svg.bar(start / whole, (start + seconds) / whole, "time"),
                    share(seconds, whole),
                ]
            )
            start += seconds
        if rows:
            parts.append(f"<h3>{both(*title)}</h3>{table((Text('', ''),) * 4, rows, 'times')}")
    note = both(
        "各进程的工作时间之和；中断之前完成的任务不再计入。",
        "Seconds of work, summed over processes; tasks that an interrupted run had done are not counted again.",
    )
    return f'<section id="times">{heading("用时", "Time")}<p class="caption">{note}</p>{"".join(parts)}</section>'
