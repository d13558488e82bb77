"""What the tokenizer's commands print for people."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hanlin.common.messages import Text, tr
from hanlin.common.terminal import table, width
from hanlin.tokenizer.suspicious import CRITERIA

CLASS_NAMES = {
    "chinese": Text("Chinese"),
    "english": Text("English"),
    "numbers": Text("numbers"),
    "code": Text("code"),
    "other": Text.in_context("kind of text", "other"),
}


def class_names() -> dict[str, str]:
    """Classes of text in the reader's language."""
    return {name: str(text) for name, text in CLASS_NAMES.items()}


def short_names(paths: list[str]) -> list[str]:
    """As much of each path's end as tells it from the others; equal paths are numbered."""
    parts = [
        [part for part in Path(path).parts if part not in ("tokenizer.json", "/")] or [path] for path in paths
    ]
    depth = 1
    while depth < max(map(len, parts)) and len({tuple(p[-depth:]) for p in parts}) < len(
        {tuple(p) for p in parts}
    ):
        depth += 1
    names = ["/".join(p[-depth:]) for p in parts]
    return [f"{name} ({index + 1})" if names.count(name) > 1 else name for index, name in enumerate(names)]


def comparison_text(comparison: Mapping[str, Any]) -> str:
    """The result of `compare` as tables: the whole, then bytes per token (characters per token) of each
    class of text."""
    tokenizers = comparison["tokenizers"]
    names = short_names([found["path"] for found in tokenizers])
    size, characters = comparison["bytes"], comparison["characters"]
    lines = [
        tr(
            "text: {documents:,} documents, {size:,} bytes, {characters:,} characters",
            documents=comparison["documents"],
            size=size,
            characters=characters,
        ),
        "",
    ]
    rows = [
        [
            tr("tokenizer"),
            tr("vocabulary"),
            str(Text.in_context("how many", "tokens")),
            tr("bytes/token"),
            tr("chars/token"),
            tr("unused"),
            tr("unreachable"),
        ]
    ]
    for name, found in zip(names, tokenizers, strict=True):
        lost = "—" if found["unreachable"] is None else f"{found['unreachable']:,}"
        rows.append(
            [
                name,
                f"{found['vocab_size']:,}",
                f"{found['tokens']:,}",
                f"{found['bytes_per_token']:.3f}",
                f"{found['chars_per_token']:.3f}",
                f"{found['unused']:,}",
                lost,
            ]
        )
    lines += [
        *table(rows, right=range(1, 7)),
        "",
        tr("by class: bytes/token (chars/token)"),
    ]
    shown = [name for name, part in comparison["classes"].items() if part["bytes"]]
    titles = class_names()
    rows = [
        ["", *(titles[name] for name in shown)],
        [
            tr("share of bytes"),
            *(f"{comparison['classes'][name]['bytes'] / size:.1%}" for name in shown),
        ],
    ]
    for name, found in zip(names, tokenizers, strict=True):
        cells = [found["classes"][kind] for kind in shown]
        rows.append(
            [name, *(f"{cell['bytes_per_token']:.2f} ({cell['chars_per_token']:.2f})" for cell in cells)]
        )
    lines += table(rows, right=range(1, len(shown) + 1))
    return "\n".join(lines)


VOCABULARY_CLASSES = {
    "han": Text("Han"),
    "kana": Text("kana"),
    "latin": Text("Latin"),
    "digit": Text("digits"),
    "space": Text("white space"),
    "punctuation": Text("punctuation"),
    "other": Text("other"),
    "piece": Text("pieces of characters"),
    "byte": Text.in_context("kind of token", "bytes"),
    "control": Text("control tokens"),
}


def vocabulary_text(found: Mapping[str, Any], limit: int) -> str:
    """The result of `inspect`: what the vocabulary is made of, its longest and rarest tokens, and what looks
    suspicious."""
    counted = found["unused"] is not None
    lines = [tr("vocabulary of {size:,}", size=found["size"])]
    rows = [
        [str(VOCABULARY_CLASSES[name]), f"{count:,}", f"{found['shares'][name]:.1%}"]
        for name, count in found["classes"].items()
        if count
    ]
    lines += ["  " + line for line in table(rows, right=(1, 2))]
    lengths = "  ".join(f"{characters}: {count:,}" for characters, count in found["lengths"].items())
    lines += ["", tr("by characters: ") + lengths]
    if counted:
        lines += [tr("never used on these files: {unused:,}", unused=found["unused"])]
    rarest = tr("used least") if counted else tr("learnt last")
    for title, name in (
        (tr("longest"), "longest"),
        (tr("longest Han"), "longest_han"),
        (rarest, "rarest"),
    ):
        if found[name]:
            lines += ["", f"{title}:", *_wrapped([_quoted(entry) for entry in found[name][:limit]])]
    suspected = found["suspicious_tokens"]
    lines += [
        "",
        tr(
            "suspicious: {suspected:,} ({share:.2%}). These are hints: look at the tokens, then at the "
            "text they came from.",
            suspected=suspected,
            share=suspected / found["size"],
        ),
    ]
    for name, listed in found["suspicious"].items():
        if listed["count"]:
            shown = [_quoted(entry, found=True) for entry in listed["tokens"][:limit]]
            more = [] if listed["count"] <= limit else [tr("… {count:,} in all", count=listed["count"])]
            lines += [f"  {name} · {CRITERIA[name]}:", *_wrapped([*shown, *more])]
    return "\n".join(lines)


def _quoted(entry: Mapping[str, Any], found: bool = False) -> str:
    """A token with its id and use, quoted so that spaces and invisible characters show; and the part of it
    that met a criterion."""
    text = visible(entry["text"])
    part = visible(entry["found"]) if found else ""
    count = f"×{entry['count']:,}" if "count" in entry else ""
    return f"{text} {entry['id']}{count}" + (f" [{part}]" if part and part != text else "")


def visible(text: str) -> str:
    """A text with white space at its ends, and whatever cannot be seen, made visible; as safe to print as
    any text of a stranger's."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return f"‘{shown}’" if shown != shown.strip() or not shown else shown


def piece_text(token: bytes) -> str:
    """A token's bytes quoted; those that are no whole character as `<E7>`, as Hugging Face and llama.cpp
    write them, and not all as one U+FFFD."""
    parts = re.split("([\udc80-\udcff])", token.decode("utf-8", "surrogateescape"))
    shown = "".join(
        f"<{ord(part) - 0xDC00:02X}>" if "\udc80" <= part <= "\udcff" else repr(part)[1:-1]
        for part in parts
        if part
    )
    return f"'{shown}'"


def _wrapped(items: list[str], columns: int = 110) -> list[str]:
    """Items on as many lines as they need, cut between items, by the columns a terminal gives them."""
    lines, line = [], ""
    for item in items:
        if line and width(line) + 3 + width(item) > columns:
            lines.append(line)
            line = ""
        line = f"{line}   {item}" if line else f"    {item}"
    return [*lines, line] if line else lines
