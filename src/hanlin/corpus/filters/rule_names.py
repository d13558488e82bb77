"""What the rules by which documents and lines go are called for people; `--rule NAME` and settings take the
keys."""

from __future__ import annotations

from hanlin.common.messages import Text, verbatim

RULE_NAMES: dict[str, Text] = {
    "exact_duplicate": Text("exact duplicate"),
    "near_duplicate": Text("near duplicate"),
    "mojibake": Text("mojibake"),
    "promotion": Text("promotion"),
    "page_furniture": Text("page furniture"),
    "promotional_line": Text("promotional line (line removed)"),
    "page_furniture_line": Text("page furniture line (line removed)"),
    "boilerplate_line": Text("boilerplate line (line removed)"),
    "contaminated": Text("overlaps a benchmark"),
    "quality_score": Text("quality score too low"),
    "too_short": Text("too short"),
    "too_long": Text("too long"),
    "replacement_characters": Text("replacement characters �"),
    "uncommon_han": Text("too many rare characters"),
    "han_share": Text("too few Chinese characters"),
    "digit_share": Text("too many digits"),
    "symbol_share": Text("too many symbols"),
    "bracket_share": Text("too many brackets"),
    "foreign_script": Text("too much of another script"),
    "traditional": Text("too many traditional characters"),
    "alphanumeric_share": Text("too few letters, digits and ideographs"),
    "number_signs": Text("too many number signs"),
    "ellipses": Text("too many ellipses"),
    "long_lines": Text("lines too long"),
    "longest_line": Text("one line too long"),
    "ellipsis_lines": Text("too many lines ending in an ellipsis"),
    "more_lines": Text("too many lines ending in “more”"),
    "duplicate_lines": Text("too many repeated lines"),
    "short_lines": Text("too many short lines"),
    "terminal_punctuation": Text("lines without final punctuation"),
    "bullets": Text("too many bullets"),
    "no_punctuation": Text("no punctuation"),
    "low_entropy": Text("monotonous characters"),
    "repeated_2gram": Text("repeated 2-grams"),
    "repeated_3gram": Text("repeated 3-grams"),
    "repeated_4gram": Text("repeated 4-grams"),
    "repeated_13gram": Text("long repetitions"),
    **{f"duplicate_{n}gram": Text("too many repeated {n}-grams", n=n) for n in range(5, 11)},
}


def rule_name(rule: str) -> Text:
    """A rule as people know it, with its key: `too short (too_short)`."""
    known = RULE_NAMES.get(rule)
    return verbatim(rule) if known is None else Text("{name} ({rule})", name=known, rule=rule)
