"""What the tokenizer's commands print for people."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hanlin.common.errors import tr
from hanlin.common.terminal import table, width
from hanlin.tokenizer.suspicious import CRITERIA

CLASS_NAMES = {
    "chinese": ("中文", "Chinese"),
    "english": ("英文", "English"),
    "numbers": ("数字", "numbers"),
    "code": ("代码", "code"),
    "other": ("其他", "other"),
}


def class_names() -> dict[str, str]:
    """Classes of text in the reader's language."""
    return {name: tr(*text) for name, text in CLASS_NAMES.items()}


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
    """The result of `compare` as tables: the whole, then bytes per token (characters per token) of each class of text."""
    tokenizers = comparison["tokenizers"]
    names = short_names([found["path"] for found in tokenizers])
    size, characters = comparison["bytes"], comparison["characters"]
    lines = [
        tr(
            f"文本：{comparison['documents']:,} 篇，{size:,} 字节，{characters:,} 字符",
            f"text: {comparison['documents']:,} documents, {size:,} bytes, {characters:,} characters",
        ),
        "",
    ]
    rows = [
        [
            tr("分词器", "tokenizer"),
            tr("词表", "vocabulary"),
            tr("词元数", "tokens"),
            tr("字节/词元", "bytes/token"),
            tr("字符/词元", "chars/token"),
            tr("未出现", "unused"),
            tr("不可达", "unreachable"),
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
        tr("分类：字节/词元（字符/词元）", "by class: bytes/token (chars/token)"),
    ]
    shown = [name for name, part in comparison["classes"].items() if part["bytes"]]
    titles = class_names()
    rows = [
        ["", *(titles[name] for name in shown)],
        [
            tr("占字节", "share of bytes"),
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
    "han": ("汉字", "Han"),
    "kana": ("假名", "kana"),
    "latin": ("拉丁字母", "Latin"),
    "digit": ("数字", "digits"),
    "space": ("空白", "white space"),
    "punctuation": ("标点", "punctuation"),
    "other": ("其他文字", "other"),
    "piece": ("字符的碎片", "pieces of characters"),
    "byte": ("单字节", "bytes"),
    "control": ("控制符", "control tokens"),
}


def vocabulary_text(found: Mapping[str, Any], limit: int) -> str:
    """The result of `inspect`: what the vocabulary is made of, its longest and rarest tokens, and what looks suspicious."""
    counted = found["unused"] is not None
    lines = [tr(f"词表 {found['size']:,}", f"vocabulary of {found['size']:,}")]
    rows = [
        [tr(*VOCABULARY_CLASSES[name]), f"{count:,}", f"{found['shares'][name]:.1%}"]
        for name, count in found["classes"].items()
        if count
    ]
    lines += ["  " + line for line in table(rows, right=(1, 2))]
    lengths = "  ".join(f"{characters}: {count:,}" for characters, count in found["lengths"].items())
    lines += ["", tr("按字符数：", "by characters: ") + lengths]
    if counted:
        lines += [
            tr(
                f"在这些文件里从未出现：{found['unused']:,}",
                f"never used on these files: {found['unused']:,}",
            )
        ]
    rarest = tr("用得最少的", "used least") if counted else tr("最后学到的", "learnt last")
    for title, name in (
        (tr("最长的", "longest"), "longest"),
        (tr("最长的汉字词", "longest Han"), "longest_han"),
        (rarest, "rarest"),
    ):
        if found[name]:
            lines += ["", f"{title}:", *_wrapped([_quoted(entry) for entry in found[name][:limit]])]
    suspected = found["suspicious_tokens"]
    lines += [
        "",
        tr(
            f"可疑的：{suspected:,} 个（{suspected / found['size']:.2%}）。这只是线索：先看词元，再看它来自哪些语料。",
            f"suspicious: {suspected:,} ({suspected / found['size']:.2%}). These are hints: look at the tokens, then at the text they came from.",
        ),
    ]
    for name, listed in found["suspicious"].items():
        if listed["count"]:
            shown = [_quoted(entry, found=True) for entry in listed["tokens"][:limit]]
            more = (
                []
                if listed["count"] <= limit
                else [tr(f"……共 {listed['count']:,} 个", f"… {listed['count']:,} in all")]
            )
            lines += [f"  {name} · {tr(*CRITERIA[name])}:", *_wrapped([*shown, *more])]
    return "\n".join(lines)


def _quoted(entry: Mapping[str, Any], found: bool = False) -> str:
    """A token with its id and use, quoted so that spaces and invisible characters show; and the part of it that met a criterion."""
    text = visible(entry["text"])
    part = visible(entry["found"]) if found else ""
    count = f"×{entry['count']:,}" if "count" in entry else ""
    return f"{text} {entry['id']}{count}" + (f" [{part}]" if part and part != text else "")


def visible(text: str) -> str:
    """A text with white space at its ends, and whatever cannot be seen, made visible; as safe to print as any text of a stranger's."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return f"‘{shown}’" if shown != shown.strip() or not shown else shown


def piece_text(token: bytes) -> str:
    """A token's bytes quoted; those that are no whole character as `<E7>`, as Hugging Face and llama.cpp write them, and not all as one U+FFFD."""
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
