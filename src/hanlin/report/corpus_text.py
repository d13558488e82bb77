"""The words of a corpus' page in both languages, and the small forms it is made of: amounts, shares, tables."""

from __future__ import annotations

from collections.abc import Sequence

from hanlin.corpus.builder.build import TITLES
from hanlin.report.text import Text, both

SCRIPTS: dict[str, Text] = {
    "simplified": Text("简体", "simplified"),
    "traditional": Text("繁体", "traditional"),
    "kana": Text("日文", "Japanese"),
    "hangul": Text("韩文", "Korean"),
    "latin": Text("拉丁字母", "Latin"),
    "cyrillic": Text("西里尔字母", "Cyrillic"),
    "other": Text("其他文字", "other"),
    "none": Text("没有文字", "none"),
}

# Where a source's documents went, in the order of the picture.
CAUSES: dict[str, Text] = {
    "kept": Text("训练", "training"),
    "heldout": Text("留出", "held out"),
    "duplicates": Text("重复", "duplicates"),
    "rules": Text("被规则丢弃", "dropped by rules"),
    "contaminated": Text("与评测重合", "overlapping benchmarks"),
}

PHASES: dict[str, Text] = {name: Text(*title) for name, title in TITLES.items()}

BLOCKS: dict[str, Text] = {
    "read": Text("读取与解析", "reading and parsing"),
    "count": Text("计数", "counting"),
    "clean": Text("清洗规则", "cleaning rules"),
    "mask": Text("遮盖个人信息", "masking personal data"),
    "decontaminate": Text("比对评测", "comparing with benchmarks"),
    "boilerplate": Text("去掉套话行", "removing boilerplate"),
    "account": Text("记账与抽样", "accounts and samples"),
    "write": Text("写到磁盘", "writing to disk"),
    "sketch": Text("算指纹", "fingerprints"),
}


def amount(value: int, zh: str = "", en: str = "") -> Text:
    """A number in few figures, with its unit: `123.4 万字`, `1.234M characters`."""
    length, sign = abs(value), "-" if value < 0 else ""
    zh_number = (
        f"{length:,}"
        if length < 1e5
        else f"{length / 1e4:,.1f} 万"
        if length < 1e8
        else f"{length / 1e8:,.2f} 亿"
    )
    en_number = (
        f"{length:,}"
        if length < 1e5
        else f"{length / 1e6:,.2f}M"
        if length < 1e9
        else f"{length / 1e9:,.2f}B"
    )
    return Text(
        f"{sign}{zh_number}{'' if zh_number.endswith(('万', '亿')) else ' ' if zh else ''}{zh}",
        f"{sign}{en_number}{' ' if en else ''}{en}",
    )


def size(value: int) -> str:
    """Bytes as people read them: `12.3 MB`."""
    length, sign = float(abs(value)), "-" if value < 0 else ""
    for unit in ("B", "kB", "MB", "GB"):
        if length < 1000:
            return f"{sign}{length:.0f}\u00a0{unit}" if unit == "B" else f"{sign}{length:.3g}\u00a0{unit}"
        length /= 1000
    return f"{sign}{length:.3g}\u00a0TB"


def share(part: float, whole: float) -> str:
    """A part in per cent, with a second decimal where it is small."""
    value = 100 * part / whole if whole else 0.0
    return f"{value:.2f}%" if 0 < value < 1 else f"{value:.1f}%"


def heading(zh: str, en: str) -> str:
    """A section's title."""
    return f"<h2>{both(zh, en)}</h2>"


def more(count: int, of: Text, extra: str = "") -> str:
    """A line that says how many things are not shown."""
    return f'<p class="caption">{both(f"另有 {count:,} {of.zh}", f"{count:,} more {of.en}")}{" " if extra else ""}{extra}</p>'


def table(heads: Sequence[Text], rows: Sequence[Sequence[str]], kind: str) -> str:
    """Rows of HTML under a row of titles; without titles if all of them are empty.

    Args:
        kind: class of the table, by which the style sheet knows its columns.
    """
    titles = "".join(f"<th>{both(*head) if head.zh else ''}</th>" for head in heads)
    top = f"<thead><tr>{titles}</tr></thead>" if any(head.zh for head in heads) else ""
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    return f'<div class="scroll"><table class="{kind}">{top}<tbody>{body}</tbody></table></div>'
