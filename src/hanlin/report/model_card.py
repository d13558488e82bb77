"""The README.md of a model's directory, from report.json alone: what the model is, what it scored, what it is not good for. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hanlin.evaluation.statistics import FEWEST, Metric, ranking
from hanlin.report.model_facts import count, shown_about
from hanlin.report.stage_tables import SAMPLED, aim_of
from hanlin.report.text import Text, control_text, metric_text, show, span, stage_text

_VERDICTS = {
    "better": Text("胜过", "beats it"),
    "worse": Text("不如", "below it"),
    "overlap": Text("分不出", "no telling apart"),
    "few": Text("样本太少", "too few items"),
}


def model_card(facts: Mapping[str, Any]) -> str:
    """The card in Chinese, then in English.

    Args:
        facts: a run's report (`recipe`, `seed`, `stages`, and `about` where it has it); beside them, each optional: `hash` (the
            model's content hash), `licence` (of the training data, as its owner states it).
    """
    return "\n".join([*_card(facts, 0), "", "---", "", *_card(facts, 1)]) + "\n"


def _card(facts: Mapping[str, Any], language: int) -> list[str]:
    """One language's part; 0 is Chinese, 1 English."""

    def say(zh: str, en: str) -> str:
        return (zh, en)[language]

    about = facts.get("about") or {}
    size = (
        say(f"{count(about['parameters'])} 参数", f"{count(about['parameters'])} parameters")
        if about.get("parameters")
        else ""
    )
    lines = [
        f"# {facts['recipe']}"
        + (say(f"：{size}的中文语言模型", f": a Chinese language model of {size}") if size else ""),
        "",
    ]
    kept = [
        stage_text(stage["name"]).title[language]
        for stage in facts["stages"]
        if stage["kept"] and stage["name"] not in ("reward", "evaluation", "gguf")
    ]
    names = "、".join(kept) if language == 0 else ", ".join(kept).lower()
    lines.append(
        say(
            f"用 Hanlin 翰林从零训练，配方 `{facts['recipe']}`，随机种子 {facts['seed']}。阶段：{names}。",
            f"Trained from nothing with Hanlin 翰林, recipe `{facts['recipe']}`, seed {facts['seed']}. Stages: {names}.",
        )
    )
    if about:
        lines += ["", say("## 模型", "## The model"), "", "| | |", "|---|---|"]
        lines += [f"| {_cell(words[language])} | {_cell(text)} |" for words, text in shown_about(about)]
        if facts.get("hash"):
            lines.append(f"| {say('内容哈希', 'content hash')} | `{str(facts['hash'])[:16]}` |")
    lines += ["", say("## 数据", "## Data"), ""]
    if about.get("documents"):
        characters = count(about["characters"]) if about.get("characters") else say("未知", "unknown")
        lines.append(
            say(
                f"清洗之后 {about['documents']:,} 篇，{characters} 字。",
                f"{about['documents']:,} documents after cleaning, {characters} characters.",
            )
        )
    if about.get("sources"):
        lines += ["", f"| {say('来源', 'source')} | {say('篇数', 'documents')} |", "|---|---:|"]
        lines += [
            f"| {_cell(name)} | {number:,} |"
            for name, number in sorted(about["sources"].items(), key=lambda item: -item[1])
        ]
    lines += [
        "",
        say("## 成绩", "## Scores"),
        "",
        say(
            f"都在没见过的题目上测得，方括号里是 95% 区间；不到 {FEWEST} 条的不下结论。",
            f"On unseen items, with 95% intervals; fewer than {FEWEST} items are too few to tell.",
        ),
        "",
    ]
    lines += [
        "| "
        + " | ".join([say("指标", "metric"), say("结果", "result"), "n", say("对照", "control"), ""])
        + " |",
        "|---|---|---:|---|---|",
    ]
    lines += [_row(name, metric, language) for name, metric in _scores(facts)]
    lines += [
        "",
        say("## 局限", "## Limits"),
        "",
        say(
            "这是一个小模型：它会编造事实，会重复，也会算错。没有做过安全训练，不要让它替人做决定，也不要直接给公众使用。"
            "成绩只说明上面这些题目，换一种问法可能差很多。",
            "This is a small model: it invents facts, repeats itself and miscounts. It had no safety training; let it decide nothing for "
            "anybody, and do not put it before the public as it is. The scores speak of these items only; asked in other words, it may do far worse.",
        ),
    ]
    licence = facts.get("licence")
    lines += [
        "",
        say("## 许可", "## Licence"),
        "",
        say(
            f"训练数据的许可：{licence}。"
            if licence
            else "权重能否分发、能否商用，取决于训练数据的许可，请先查清各来源的条款。",
            f"Licence of the training data: {licence}."
            if licence
            else "Whether these weights may be shared or used commercially depends on the licences of the training data: look up each source's terms first.",
        ),
    ]
    lines += ["", say("## 怎样打开", "## How to open it"), "", "```bash"]
    lines += [
        f"hanlin chat .     # {say('在终端里聊天', 'talk in the terminal')}",
        f"hanlin serve .    # {say('网页与 OpenAI 兼容接口', 'a page, and an API like OpenAI')}",
        "```",
        "",
    ]
    lines += [
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model = AutoModelForCausalLM.from_pretrained(".")',
    ]
    lines += ['tokenizer = AutoTokenizer.from_pretrained(".")', "```"]
    return lines


def _scores(facts: Mapping[str, Any]) -> list[tuple[str, Metric]]:
    """Those of the final evaluation, and what each kept stage was judged by where that is not among them."""
    found: dict[str, Metric] = {}
    for stage in facts["stages"]:
        aim = aim_of(stage)
        if stage["name"] == "evaluation":
            for name, raw in stage["metrics"].items():
                metric = Metric.from_dict(raw)
                known = found.get(name)
                if (
                    known is not None
                    and known.control is not None
                    and metric.control is None
                    and known.value == metric.value
                ):
                    continue  # the same figure, beside its control
                found[name] = metric
        elif aim is not None and stage["kept"] and stage["name"] not in ("corpus", "reward"):
            found[aim[0]] = aim[1]
    return [
        (name, metric)
        for name, metric in found.items()
        if not name.endswith(SAMPLED) and not name.startswith("bits_per_byte/")
    ]


def _row(name: str, metric: Metric, language: int) -> str:
    text = metric_text(name)
    control, verdict = "", ""
    if metric.control is not None:
        control = f"{control_text(metric.control.name)[language]} {show(metric.control.value, text.share)}"
        verdict = _VERDICTS[ranking(metric, metric.control, metric.higher_is_better)][language]
    elif metric.n < FEWEST:
        verdict = _VERDICTS["few"][language]
    cells = [
        text.name[language],
        f"{show(metric.value, text.share)} {span(metric, text.share)[language]}",
        f"{metric.n:,}",
        control,
        verdict,
    ]
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(text: Any) -> str:
    """Text that can neither end a cell or its row nor become markup."""
    plain = " ".join(str(text).split())
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>#|!" else c for c in plain)
