"""What a corpus says of itself, in words: `hanlin corpus stats`, `inspect` and `diff`."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hanlin.common.atomic import read_json
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import Manifest, read_manifest, verify_files
from hanlin.common.messages import Text, listing, tr
from hanlin.common.terminal import table
from hanlin.corpus.builder.build import read_corpus, read_lines
from hanlin.corpus.dedup.fingerprints import comparison_keys, digests

SHOWN = 20


def stats(path: Path) -> dict[str, Any]:
    """Headline figures, rules and sources of a corpus.

    Raises:
        HanlinError: not a corpus, or damaged.
    """
    manifest = _checked(path, "report.json")
    report = read_json(path / "report.json")
    rules = {
        rule: {name: about[name] for name in ("count", "characters", "bytes")}
        for rule, about in report["rules"].items()
    }
    lines = {
        rule: {name: about[name] for name in ("count", "characters", "bytes")}
        for rule, about in report["lines"].items()
    }
    return {
        "metrics": manifest.metrics,
        "rules": rules,
        "lines": lines,
        "sources": report["sources"],
        "contaminated": report["contaminated"],
    }


def stats_text(found: Mapping[str, Any]) -> str:
    """`stats` as tables: sources, rules, lines, and seconds."""
    head = tr("source read kept held-out dropped characters weight").split()
    rows = [head]
    for name, about in found["sources"].items():
        counts = [f"{about[what]['documents']:,}" for what in ("read", "kept", "heldout", "dropped")]
        rows.append([name, *counts, f"{about['kept']['characters']:,}", f"{about['weight']:g}"])
    rules = [tr("rule documents characters share-of-characters").split()]
    read = max(found["metrics"]["characters_read"], 1)
    rules += [
        [rule, f"{about['count']:,}", f"{about['characters']:,}", f"{about['characters'] / read:.2%}"]
        for rule, about in found["rules"].items()
    ]
    tables = [
        table(rows, right=range(1, len(head))),
        *([table(rules, right=range(1, 4))] if found["rules"] else []),
    ]
    if found["lines"]:
        lines = [tr("removed-lines lines characters").split()]
        lines += [
            [rule, f"{about['count']:,}", f"{about['characters']:,}"]
            for rule, about in found["lines"].items()
        ]
        tables.append(table(lines, right=range(1, 3)))
    if found["metrics"]["quarantined"]:
        records = [
            tr("quarantined records").split(),
            *([reason, f"{count:,}"] for reason, count in found["metrics"]["quarantine_reasons"].items()),
        ]
        tables.append(table(records, right=(1,)))
    if found["metrics"].get("seconds"):
        spent = [tr("phase seconds").split()] + [
            [name, f"{value:.2f}"] for name, value in found["metrics"]["seconds"].items()
        ]
        spent += [
            [f"  {name}", f"{value:.2f}"]
            for name, value in found["metrics"].get("seconds_of_cleaning", {}).items()
        ]
        tables.append(table(spent, right=(1,)))
    return "\n\n".join("\n".join(lines) for lines in tables)


def cluster(path: Path, number: int) -> dict[str, Any]:
    """A cluster of duplicates, by the number of the document that stays or of one that went.

    Raises:
        HanlinError: there is no such cluster.
    """
    numbers: list[int] = []
    for found in clusters(path):
        if found["cluster"] == number or any(member["document"] == number for member in found["members"]):
            return found
        numbers.append(found["cluster"])
    named = ", ".join(map(str, numbers[:10]))
    raise HanlinError(
        "{path} has no cluster of duplicates numbered {number}. {detail}",
        path=path,
        number=number,
        detail=Text("There are {named} …", named=named)
        if numbers
        else Text("No duplicates were found in it."),
    )


def clusters(path: Path) -> Iterator[dict[str, Any]]:
    """All clusters of duplicates, ascending by the document that stays."""
    _checked(path, "clusters.jsonl.zst")
    return read_lines(path / "clusters.jsonl.zst")


def largest_clusters(file: Path, limit: int) -> tuple[int, list[dict[str, Any]]]:
    """How many clusters a file has, and those with the most members, largest first."""
    largest: list[tuple[int, int, dict[str, Any]]] = []
    count = 0
    for one in read_lines(file):
        count += 1
        item = (len(one["members"]), -one["cluster"], one)
        (heapq.heappush if len(largest) < limit else heapq.heappushpop)(largest, item)
    return count, [one for *_, one in sorted(largest, reverse=True)]


def cluster_text(found: Mapping[str, Any], limit: int = SHOWN) -> str:
    """A cluster for people: who stays, who went, how like it is."""
    lines = [
        tr("stays {cluster} ({source})", cluster=found["cluster"], source=found["source"]),
        f"  {_line(found['text'])}",
    ]
    for member in found["members"][:limit]:
        kind = tr("the same") if member["exact"] else f"Jaccard {member['similarity']:.3f}"
        lines += [
            tr(
                "went  {document} ({source}, {kind})",
                document=member["document"],
                source=member["source"],
                kind=kind,
            ),
            f"  {_line(member['text'])}",
        ]
    if len(found["members"]) > limit:
        lines.append(tr("… {count:,} more (see --limit)", count=len(found["members"]) - limit))
    return "\n".join(lines)


def contents(path: Path, limit: int = SHOWN) -> dict[str, Any]:
    """What can be looked at: rules and line rules with counts, the number of clusters, and the largest of
    them.

    Raises:
        HanlinError: not a corpus, or damaged.
    """
    found = stats(path)
    report = read_json(path / "report.json")
    _checked(path, "clusters.jsonl.zst")
    count, largest = largest_clusters(path / "clusters.jsonl.zst", limit)
    shown = [
        {
            "cluster": one["cluster"],
            "members": len(one["members"]),
            "source": one["source"],
            "text": one["text"],
        }
        for one in largest
    ]
    return {
        "rules": {rule: about["count"] for rule, about in found["rules"].items()},
        "lines": {rule: about["count"] for rule, about in report["lines"].items()},
        "kept": len(report["kept"]),
        "changed": report["changed"]["count"],
        "clusters": {"count": count, "largest": shown},
        "quarantined": found["metrics"]["quarantined"],
    }


def contents_text(found: Mapping[str, Any], path: Path) -> str:
    """`contents` for people, with the commands that show each."""
    begin = f"hanlin corpus inspect {path}"
    lines = [tr("Dropped documents ({begin} --rule NAME):", begin=begin)]
    rows = [[f"  {rule}", f"{count:,}"] for rule, count in found["rules"].items()]
    lines += table(rows, right=(1,)) if rows else [tr("  none")]
    if found["lines"]:
        lines += [
            tr("Removed lines (the same way):"),
            *table([[f"  {rule}", f"{count:,}"] for rule, count in found["lines"].items()], right=(1,)),
        ]
    lines.append(
        tr(
            "Kept samples (--rule kept), {changed:,} changed documents (--rule changed)",
            changed=found["changed"],
        )
    )
    about = found["clusters"]
    lines.append(
        tr("{count:,} clusters of duplicates ({begin} --cluster NUMBER)", count=about["count"], begin=begin)
        + (tr("; the largest:") if about["largest"] else "")
    )
    lines += (
        table(
            [
                [f"  {one['cluster']}", f"+{one['members']:,}", f"[{one['source']}]", _line(one["text"][:40])]
                for one in about["largest"]
            ],
            right=(0, 1),
        )
        if about["largest"]
        else []
    )
    lines.append(tr("Documents that contain a text: {begin} --find TEXT", begin=begin))
    if found["quarantined"]:
        lines.append(
            tr(
                "{quarantined:,} unreadable records: {path}",
                quarantined=found["quarantined"],
                path=path / "quarantine.jsonl",
            )
        )
    return "\n".join(lines)


def find(path: Path, text: str, limit: int = SHOWN) -> list[dict[str, Any]]:
    """Documents, held-out ones too, that contain a text, with what stands around it."""
    found = []
    for part in ("documents", "heldout"):
        for document in read_corpus(path, part):
            position = document["text"].find(text)
            if position >= 0:
                begin = max(position - 60, 0)
                found.append(
                    {
                        "part": part,
                        "source": document.get("source", ""),
                        "text": document["text"][begin : position + len(text) + 60],
                    }
                )
                if len(found) == limit:
                    return found
    return found


def samples(path: Path, rule: str) -> list[dict[str, Any]]:
    """Samples of what a rule dropped; of `kept` and `changed` documents under these names.

    Raises:
        HanlinError: no document was dropped by such a rule.
    """
    _checked(path, "report.json")
    report = read_json(path / "report.json")
    named = {name: about["samples"] for name, about in {**report["lines"], **report["rules"]}.items()}
    named |= {"kept": report["kept"], "changed": report["changed"]["samples"]}
    if rule not in named:
        raise HanlinError(
            "Nothing was dropped by {rule}. There are: {named}.", rule=rule, named=listing(named)
        )
    return named[rule]


def samples_text(found: list[dict[str, Any]]) -> str:
    """Samples, a line each."""
    return "\n".join(f"[{item.get('source', '')}] {_line(item['text'])}" for item in found)


def difference(left: Path, right: Path) -> dict[str, Any]:
    """Which documents only one of two corpora has, by comparison key: counts, characters, and samples of
    each side."""
    sides = {}
    seen = [_digests(path) for path in (left, right)]
    for name, path, other in (("left", left, seen[1]), ("right", right, seen[0])):
        documents = characters = 0
        shown = []
        for document in _all(path):
            if _digest(document["text"]) not in other:
                documents, characters = documents + 1, characters + len(document["text"])
                if len(shown) < SHOWN:
                    shown.append({"source": document.get("source", ""), "text": document["text"][:300]})
        sides[name] = {"path": str(path), "documents": documents, "characters": characters, "samples": shown}
    return sides | {"both": len(seen[0] & seen[1])}


def difference_text(found: Mapping[str, Any]) -> str:
    """`difference` for people."""
    lines = [tr("in both: {both:,} documents", both=found["both"])]
    for side in ("left", "right"):
        about = found[side]
        lines.append(
            tr(
                "only in {path}: {documents:,} documents, {characters:,} characters",
                path=about["path"],
                documents=about["documents"],
                characters=about["characters"],
            )
        )
        lines += [f"  [{item['source']}] {_line(item['text'])}" for item in about["samples"][:5]]
    return "\n".join(lines)


def _checked(path: Path, name: str) -> Manifest:
    """A corpus' manifest, with one of its files checked against it: the documents may be many gigabytes and
    are not asked for."""
    manifest = read_manifest(path, "corpus", verify=False)
    verify_files(
        path,
        dataclasses.replace(
            manifest, files={file: about for file, about in manifest.files.items() if file == name}
        ),
    )
    return manifest


def _all(path: Path) -> Iterator[Any]:
    for part in ("documents", "heldout"):
        yield from read_corpus(path, part)


def _digests(path: Path) -> set[bytes]:
    return {_digest(document["text"]) for document in _all(path)}


def _digest(text: str) -> bytes:
    return digests(comparison_keys([text])).tobytes()


def _line(text: str) -> str:
    return " ⏎ ".join(text[:300].split("\n"))
