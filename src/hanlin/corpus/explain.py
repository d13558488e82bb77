"""What a corpus says of itself, in words: `hanlin corpus stats`, `inspect` and `diff`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..common.atomic import read_json
from ..common.errors import HanlinError, tr
from ..common.manifest import read_manifest
from ..common.terminal import table
from .build import read_corpus, read_lines
from .dedup import digests, skeletons

SHOWN = 20


def stats(path: Path) -> dict[str, Any]:
    """Headline figures, rules and sources of a corpus.

    Raises:
        HanlinError: not a corpus, or damaged.
    """
    manifest = read_manifest(path, "corpus")
    accounts = read_json(path / "report.json")
    rules = {rule: {name: about[name] for name in ("count", "characters", "bytes")} for rule, about in accounts["rules"].items()}
    return {"metrics": manifest.metrics, "rules": rules, "sources": accounts["sources"], "contaminated": accounts["contaminated"]}


def stats_text(found: Mapping[str, Any]) -> str:
    """`stats` as two tables: sources, and rules."""
    head = tr("来源 读入 保留 留出 丢弃 保留的字 权重", "source read kept held-out dropped characters weight").split()
    rows = [head]
    for name, about in found["sources"].items():
        counts = [f"{about[what]['documents']:,}" for what in ("read", "kept", "heldout", "dropped")]
        rows.append([name, *counts, f"{about['kept']['characters']:,}", f"{about['weight']:g}"])
    rules = [tr("规则 篇 字 占读入的字", "rule documents characters share-of-characters").split()]
    read = max(found["metrics"]["characters_read"], 1)
    rules += [[rule, f"{about['count']:,}", f"{about['characters']:,}", f"{about['characters'] / read:.2%}"] for rule, about in found["rules"].items()]
    return "\n".join([*table(rows, right=range(1, len(head))), "", *table(rules, right=range(1, 4))])


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
        f"{path} 里没有编号为 {number} 的重复簇。" + (f"有的簇：{named} ……" if numbers else "这个语料没有找到重复。"),
        f"{path} has no cluster of duplicates numbered {number}. " + (f"There are {named} …" if numbers else "No duplicates were found in it."),
    )


def clusters(path: Path) -> Iterator[dict[str, Any]]:
    """All clusters of duplicates, ascending by the document that stays."""
    read_manifest(path, "corpus")
    return read_lines(path / "clusters.jsonl.zst")


def cluster_text(found: Mapping[str, Any]) -> str:
    """A cluster for people: who stays, who went, how like it is."""
    lines = [tr(f"留下 {found['cluster']}（{found['source']}）", f"stays {found['cluster']} ({found['source']})"), f"  {_line(found['text'])}"]
    for member in found["members"]:
        kind = tr("完全相同", "the same") if member["exact"] else f"Jaccard {member['similarity']:.3f}"
        lines += [tr(f"去掉 {member['document']}（{member['source']}，{kind}）", f"went  {member['document']} ({member['source']}, {kind})"), f"  {_line(member['text'])}"]
    return "\n".join(lines)


def find(path: Path, text: str, limit: int = SHOWN) -> list[dict[str, Any]]:
    """Documents, held-out ones too, that contain a text, with what stands around it."""
    found = []
    for part in ("documents", "heldout"):
        for document in read_corpus(path, part):
            place = document["text"].find(text)
            if place >= 0:
                begin = max(place - 60, 0)
                found.append({"part": part, "source": document.get("source", ""), "text": document["text"][begin : place + len(text) + 60]})
                if len(found) == limit:
                    return found
    return found


def samples(path: Path, rule: str) -> list[dict[str, Any]]:
    """Samples of what a rule dropped; of `kept` and `changed` documents under these names.

    Raises:
        HanlinError: no document was dropped by such a rule.
    """
    read_manifest(path, "corpus")
    accounts = read_json(path / "report.json")
    named = {name: about["samples"] for name, about in {**accounts["lines"], **accounts["rules"]}.items()}
    named |= {"kept": accounts["kept"], "changed": accounts["changed"]["samples"]}
    if rule not in named:
        raise HanlinError(f"没有因为 {rule} 丢掉的文档。有：{'、'.join(named)}。", f"Nothing was dropped by {rule}. There are: {', '.join(named)}.")
    return named[rule]


def samples_text(found: list[dict[str, Any]]) -> str:
    """Samples, a line each."""
    return "\n".join(f"[{item.get('source', '')}] {_line(item['text'])}" for item in found)


def difference(left: Path, right: Path) -> dict[str, Any]:
    """Which documents only one of two corpora has, by bare text: counts, characters, and samples of each side."""
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
    lines = [tr(f"两边都有：{found['both']:,} 篇", f"in both: {found['both']:,} documents")]
    for side in ("left", "right"):
        about = found[side]
        lines.append(tr(f"只在 {about['path']}：{about['documents']:,} 篇，{about['characters']:,} 字", f"only in {about['path']}: {about['documents']:,} documents, {about['characters']:,} characters"))
        lines += [f"  [{item['source']}] {_line(item['text'])}" for item in about["samples"][:5]]
    return "\n".join(lines)


def _all(path: Path) -> Iterator[Any]:
    for part in ("documents", "heldout"):
        yield from read_corpus(path, part)


def _digests(path: Path) -> set[bytes]:
    return {_digest(document["text"]) for document in _all(path)}


def _digest(text: str) -> bytes:
    return digests(skeletons([text])).tobytes()


def _line(text: str) -> str:
    return " ⏎ ".join(text[:300].split("\n"))
