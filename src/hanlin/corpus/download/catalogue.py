"""Public Chinese data sets: what they hold, where both hubs keep them, and under which terms, as far as
known.

The table behind `hanlin data list` and `hanlin data fetch`; nothing is downloaded here. `commercial` is
"yes", "no" or "unknown": what the publisher's card says, not legal advice. The texts of the sets with unknown
terms come from mixed origins.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text, listing, tr
from hanlin.common.terminal import table, width

Stage = Literal["pretrain", "sft", "reasoning", "preference", "evaluation"]


@dataclass(frozen=True)
class DataSet:
    """One data set.

    Attributes:
        name: what `hanlin data` calls it.
        stage: what it is for.
        fields: keys of a record.
        huggingface, modelscope: ids on the two hubs, "" where it is not known to be there.
        licence: as stated, "unknown" where nothing is.
        commercial: whether the stated terms allow commercial use.
        size: roughly.
        files: patterns of the files to fetch when none are asked for, where a repository holds more than
            this data set.
    """

    name: str
    stage: Stage
    fields: tuple[str, ...]
    huggingface: str
    modelscope: str
    licence: str
    commercial: Literal["yes", "no", "unknown"]
    size: str = ""
    files: tuple[str, ...] = ()


def _set(
    name: str,
    stage: Stage,
    fields: str,
    hf: str,
    ms: str,
    licence: str,
    commercial: Literal["yes", "no", "unknown"],
    size: str = "",
    files: str = "",
) -> DataSet:
    return DataSet(
        name, stage, tuple(fields.split()), hf, ms, licence, commercial, size, tuple(files.split())
    )


_MESSAGES = "conversations[role,content]"
_SHAREGPT = "conversations[from,value]"
DATASETS: tuple[DataSet, ...] = (
    _set(
        "c4-zh",
        "pretrain",
        "text timestamp url",
        "allenai/c4",
        "",
        "ODC-BY + CommonCrawl terms",
        "unknown",
        "1024 × json.gz",
        "multilingual/c4-zh.*.json.gz",
    ),
    _set(
        "skypile-150b",
        "pretrain",
        "text",
        "Skywork/SkyPile-150B",
        "AI-ModelScope/SkyPile-150B",
        "Skywork Community License",
        "unknown",
    ),
    _set(
        "wikipedia-zh",
        "pretrain",
        "id url title text",
        "wikimedia/wikipedia",
        "",
        "CC BY-SA 3.0/4.0",
        "yes",
        "",
        "20231101.zh/*",
    ),
    _set(
        "wikipedia-cn",
        "pretrain",
        "completion source",
        "pleisto/wikipedia-cn-20230720-filtered",
        "",
        "CC BY-SA 3.0",
        "yes",
    ),
    _set("mnbvc", "pretrain", "文件名 段落[行号,内容]", "liwu/MNBVC", "", "MIT (contents vary)", "unknown"),
    _set(
        "fineweb-edu-chinese",
        "pretrain",
        "text score source",
        "opencsg/chinese-fineweb-edu",
        "opencsg/chinese-fineweb-edu",
        "Apache-2.0",
        "yes",
        "90 M documents",
    ),
    _set(
        "fineweb-edu-chinese-v2.1",
        "pretrain",
        "text score source",
        "opencsg/Fineweb-Edu-Chinese-V2.1",
        "opencsg/Fineweb-Edu-Chinese-V2.1",
        "Apache-2.0",
        "yes",
    ),
    _set(
        "cci3-hq",
        "pretrain",
        "id text score",
        "BAAI/CCI3-HQ",
        "",
        "BAAI usage agreement (gated)",
        "unknown",
        "500 GB",
    ),
    _set(
        "tinystories-chinese",
        "pretrain",
        "story story_zh",
        "adam89/TinyStoriesChinese",
        "",
        "CDLA-Sharing-1.0",
        "yes",
    ),
    _set("tinystories-zh-2m", "pretrain", "text", "RobinChen2001/TinyStories-Zh-2M", "", "MIT", "yes"),
    _set(
        "minimind-pretrain",
        "pretrain",
        "text",
        "jingyaogong/minimind_dataset",
        "gongjy/minimind_dataset",
        "Apache-2.0 (origins mixed)",
        "unknown",
        files="pretrain*",
    ),
    _set(
        "minimind",
        "sft",
        f"text | {_MESSAGES} | chosen rejected",
        "jingyaogong/minimind_dataset",
        "gongjy/minimind_dataset",
        "Apache-2.0 (origins mixed)",
        "unknown",
    ),
    _set(
        "deepctrl",
        "sft",
        "instruction input output history",
        "",
        "deepctrl/deepctrl-sft-data",
        "unknown",
        "unknown",
        "10 M zh + 2 M en",
    ),
    _set(
        "belle-2m",
        "sft",
        "instruction input output",
        "BelleGroup/train_2M_CN",
        "AI-ModelScope/train_2M_CN",
        "GPL-3.0, research",
        "no",
        "2 M",
    ),
    _set(
        "belle-3.5m",
        "sft",
        _SHAREGPT,
        "BelleGroup/train_3.5M_CN",
        "AI-ModelScope/train_3.5M_CN",
        "GPL-3.0, research",
        "no",
        "3.5 M",
    ),
    _set(
        "firefly-1.1m",
        "sft",
        "kind input target",
        "YeungNLP/firefly-train-1.1M",
        "",
        "unknown",
        "unknown",
        "1.1 M",
    ),
    _set(
        "coig-cqia",
        "sft",
        "instruction input output task_type domain",
        "m-a-p/COIG-CQIA",
        "",
        "unknown (platform content)",
        "unknown",
    ),
    _set(
        "infinity-instruct",
        "sft",
        f"{_SHAREGPT} label source",
        "BAAI/Infinity-Instruct",
        "",
        "CC BY-SA 4.0 (gated)",
        "yes",
        "7 M",
    ),
    _set("huatuo-sft", "sft", "data", "FreedomIntelligence/HuatuoGPT-sft-data-v1", "", "Apache-2.0", "yes"),
    _set(
        "r1-distill-110k",
        "reasoning",
        "input reasoning_content content repo_name score",
        "Congliu/Chinese-DeepSeek-R1-Distill-data-110k",
        "liucong/Chinese-DeepSeek-R1-Distill-data-110k",
        "Apache-2.0",
        "yes",
        "110 k",
    ),
    _set(
        "medical-o1-zh",
        "reasoning",
        "Question Complex_CoT Response",
        "FreedomIntelligence/medical-o1-reasoning-SFT",
        "",
        "Apache-2.0",
        "yes",
    ),
    _set(
        "gsm8k-zh",
        "reasoning",
        "question_zh answer_zh answer_only split",
        "meta-math/GSM8K_zh",
        "",
        "MIT",
        "yes",
        "7,473 + 1,319",
    ),
    _set(
        "dpo-en-zh-20k",
        "preference",
        "conversations chosen rejected",
        "llamafactory/DPO-En-Zh-20k",
        "",
        "unknown",
        "unknown",
        "20 k",
    ),
    _set(
        "ultrafeedback-chinese",
        "preference",
        "prompt chosen rejected",
        "opencsg/UltraFeedback-chinese",
        "",
        "unknown",
        "unknown",
    ),
    _set("coig-p", "preference", "conversations chosen rejected", "m-a-p/COIG-P", "", "unknown", "unknown"),
    _set(
        "zhihu-rlhf-3k",
        "preference",
        "prompt chosen rejected",
        "liyucheng/zhihu_rlhf_3k",
        "",
        "unknown (platform content)",
        "unknown",
        "3 k",
    ),
    _set(
        "c-eval",
        "evaluation",
        "id question A B C D answer explanation",
        "ceval/ceval-exam",
        "",
        "CC BY-NC-SA 4.0",
        "no",
        "13,948 questions",
    ),
    _set("cmmlu", "evaluation", "Question A B C D Answer", "haonan-li/cmmlu", "", "CC BY-NC 4.0", "no"),
    _set("clue", "evaluation", "by task", "clue/clue", "", "mixed, research", "no"),
)


def find(name: str) -> DataSet:
    """The data set called `name`.

    Raises:
        HanlinError: there is none; the message has the nearest names.
    """
    for data in DATASETS:
        if data.name == name.lower():
            return data
    close = difflib.get_close_matches(name.lower(), [data.name for data in DATASETS], n=3, cutoff=0.4)
    raise HanlinError(
        "No data set is registered as {name!r}. {hint}See hanlin data list.",
        name=name,
        hint=Text("Did you mean {close}? ", close=listing(close)) if close else Text(""),
    )


_STAGES = {
    "pretrain": Text("pretrain"),
    "sft": Text("sft"),
    "reasoning": Text("reasoning"),
    "preference": Text("preference"),
    "evaluation": Text("evaluation"),
}
_COMMERCIAL = {
    "yes": Text.in_context("permitted", "yes"),
    "no": Text.in_context("permitted", "no"),
    "unknown": Text.in_context("permitted", "unknown"),
}
_COLUMNS = 80


def commercial_text(data: DataSet) -> str:
    """Whether the stated terms allow commercial use, in the reader's language."""
    return str(_COMMERCIAL[data.commercial])


def start_here() -> str:
    """Where somebody begins who has no data yet."""
    return tr(
        "Start here:\n  text   hanlin data fetch tinystories-zh-2m  stories for small models (MIT)\n  "
        "text   hanlin data fetch minimind-pretrain  general Chinese\n  chat   hanlin data fetch minimind "
        "--files 'sft*'"
    )


def catalogue_text(stage: Stage | None = None, commercial: bool = False) -> str:
    """The table as text for 80 columns, two lines a set: what it is, then licence and fields; grouped by
    stage.

    With `commercial` only those whose stated terms allow that use. The names on the hubs are told by
    `data fetch`, and by `--json`.
    """
    chosen = [
        data
        for data in DATASETS
        if stage in (None, data.stage) and (not commercial or data.commercial == "yes")
    ]
    rows = [tr("name for commercial hubs size").split()]
    for data in chosen:
        hubs = " ".join(name for name, there in (("HF", data.huggingface), ("MS", data.modelscope)) if there)
        rows.append([data.name, str(_STAGES[data.stage]), commercial_text(data), hubs, data.size or "–"])
    head, *lines = table(rows)
    below = (_cut(f"    {data.licence} · {' '.join(data.fields)}") for data in chosen)
    hubs = tr("HF: Hugging Face and its mirror hf-mirror; MS: ModelScope.")
    listed = "\n".join([head, *(line for pair in zip(lines, below, strict=True) for line in pair), "", hubs])
    return listed if stage or commercial else f"{start_here()}\n\n{listed}"


def _cut(text: str) -> str:
    """As much of a line as a terminal of 80 columns shows."""
    if width(text) <= _COLUMNS:
        return text
    while width(text) > _COLUMNS - 1:
        text = text[:-1]
    return text + "…"
