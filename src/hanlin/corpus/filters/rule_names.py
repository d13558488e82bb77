"""What the rules by which documents and lines go are called for people, in Chinese and English; `--rule NAME` and settings take the keys."""

from __future__ import annotations

RULE_NAMES: dict[str, tuple[str, str]] = {
    "exact_duplicate": ("完全重复", "exact duplicate"),
    "near_duplicate": ("近似重复", "near duplicate"),
    "mojibake": ("乱码", "mojibake"),
    "promotion": ("广告推销", "promotion"),
    "page_furniture": ("网页残渣", "page furniture"),
    "promotional_line": ("广告行（只删该行）", "promotional line (line removed)"),
    "page_furniture_line": ("网页残渣行（只删该行）", "page furniture line (line removed)"),
    "boilerplate_line": ("套话行（只删该行）", "boilerplate line (line removed)"),
    "contaminated": ("与评测重合", "overlaps a benchmark"),
    "quality_score": ("质量分太低", "quality score too low"),
    "too_short": ("太短", "too short"),
    "too_long": ("太长", "too long"),
    "replacement_characters": ("含替换字符 �", "replacement characters �"),
    "uncommon_han": ("生僻字过多", "too many rare characters"),
    "han_share": ("汉字太少", "too few Chinese characters"),
    "digit_share": ("数字过多", "too many digits"),
    "symbol_share": ("符号过多", "too many symbols"),
    "bracket_share": ("括号过多", "too many brackets"),
    "foreign_script": ("其他文字过多", "too much of another script"),
    "traditional": ("繁体字过多", "too many traditional characters"),
    "alphanumeric_share": ("字母、数字、汉字太少", "too few letters, digits and ideographs"),
    "number_signs": ("井号过多", "too many number signs"),
    "ellipses": ("省略号过多", "too many ellipses"),
    "long_lines": ("行太长", "lines too long"),
    "longest_line": ("有极长的行", "one line too long"),
    "ellipsis_lines": ("以省略号结尾的行过多", "too many lines ending in an ellipsis"),
    "more_lines": ("以“更多”结尾的行过多", "too many lines ending in “more”"),
    "duplicate_lines": ("重复的行过多", "too many repeated lines"),
    "short_lines": ("短行过多", "too many short lines"),
    "terminal_punctuation": ("句末缺少标点", "lines without final punctuation"),
    "bullets": ("项目符号过多", "too many bullets"),
    "no_punctuation": ("没有标点", "no punctuation"),
    "low_entropy": ("用字单调", "monotonous characters"),
    "repeated_2gram": ("重复的两字片段", "repeated 2-grams"),
    "repeated_3gram": ("重复的三字片段", "repeated 3-grams"),
    "repeated_4gram": ("重复的四字片段", "repeated 4-grams"),
    "repeated_13gram": ("大段重复", "long repetitions"),
    **{f"duplicate_{n}gram": (f"{n} 字片段重复过多", f"too many repeated {n}-grams") for n in range(5, 11)},
}


def rule_name(rule: str, chinese: bool) -> str:
    """A rule as people know it, with its key: `太短（too_short）`."""
    zh, en = RULE_NAMES.get(rule, (rule, rule))
    return rule if zh == rule else f"{zh}（{rule}）" if chinese else f"{en} ({rule})"
