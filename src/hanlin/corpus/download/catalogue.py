"""Public Chinese data sets: what they hold, where both hubs keep them, and under which terms, as far as
known.

The table behind `hanlin data list` and `hanlin data fetch`; nothing is downloaded here. `commercial` is
"yes", "no" or "unknown": what the publisher's card says, not legal advice. The texts of the sets with unknown
terms come from mixed origins.
"""

from __future__ import annotations

import difflib

from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text, listing, tr
from hanlin.common.terminal import table, width
from hanlin.corpus.download.benchmark_sets import BENCHMARK_SETS
from hanlin.corpus.download.data_set import DataSet, Stage, data_set

_MESSAGES = "conversations[role,content]"
_SHAREGPT = "conversations[from,value]"
DATASETS: tuple[DataSet, ...] = (
    data_set(
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
    data_set(
        "skypile-150b",
        "pretrain",
        "text",
        "Skywork/SkyPile-150B",
        "AI-ModelScope/SkyPile-150B",
        "Skywork Community License",
        "unknown",
    ),
    data_set(
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
    data_set(
        "wikipedia-cn",
        "pretrain",
        "completion source",
        "pleisto/wikipedia-cn-20230720-filtered",
        "",
        "CC BY-SA 3.0",
        "yes",
    ),
    data_set(
        "mnbvc", "pretrain", "文件名 段落[行号,内容]", "liwu/MNBVC", "", "MIT (contents vary)", "unknown"
    ),
    data_set(
        "fineweb-edu-chinese",
        "pretrain",
        "text score source",
        "opencsg/chinese-fineweb-edu",
        "opencsg/chinese-fineweb-edu",
        "Apache-2.0",
        "yes",
        "90 M documents",
    ),
    data_set(
        "fineweb-edu-chinese-v2.1",
        "pretrain",
        "text score source",
        "opencsg/Fineweb-Edu-Chinese-V2.1",
        "opencsg/Fineweb-Edu-Chinese-V2.1",
        "Apache-2.0",
        "yes",
    ),
    data_set(
        "cci3-hq",
        "pretrain",
        "id text score",
        "BAAI/CCI3-HQ",
        "",
        "BAAI usage agreement (gated)",
        "unknown",
        "500 GB",
    ),
    data_set(
        "tinystories-chinese",
        "pretrain",
        "story story_zh",
        "adam89/TinyStoriesChinese",
        "",
        "CDLA-Sharing-1.0",
        "yes",
    ),
    data_set("tinystories-zh-2m", "pretrain", "text", "RobinChen2001/TinyStories-Zh-2M", "", "MIT", "yes"),
    data_set(
        "minimind-pretrain",
        "pretrain",
        "text",
        "jingyaogong/minimind_dataset",
        "gongjy/minimind_dataset",
        "Apache-2.0 (origins mixed)",
        "unknown",
        files="pretrain*",
    ),
    data_set(
        "minimind",
        "sft",
        f"text | {_MESSAGES} | chosen rejected",
        "jingyaogong/minimind_dataset",
        "gongjy/minimind_dataset",
        "Apache-2.0 (origins mixed)",
        "unknown",
    ),
    data_set(
        "deepctrl",
        "sft",
        "instruction input output history",
        "",
        "deepctrl/deepctrl-sft-data",
        "unknown",
        "unknown",
        "10 M zh + 2 M en",
    ),
    data_set(
        "belle-2m",
        "sft",
        "instruction input output",
        "BelleGroup/train_2M_CN",
        "AI-ModelScope/train_2M_CN",
        "GPL-3.0, research",
        "no",
        "2 M",
    ),
    data_set(
        "belle-3.5m",
        "sft",
        _SHAREGPT,
        "BelleGroup/train_3.5M_CN",
        "AI-ModelScope/train_3.5M_CN",
        "GPL-3.0, research",
        "no",
        "3.5 M",
    ),
    data_set(
        "firefly-1.1m",
        "sft",
        "kind input target",
        "YeungNLP/firefly-train-1.1M",
        "",
        "unknown",
        "unknown",
        "1.1 M",
    ),
    data_set(
        "coig-cqia",
        "sft",
        "instruction input output task_type domain",
        "m-a-p/COIG-CQIA",
        "",
        "unknown (platform content)",
        "unknown",
    ),
    data_set(
        "infinity-instruct",
        "sft",
        f"{_SHAREGPT} label source",
        "BAAI/Infinity-Instruct",
        "",
        "CC BY-SA 4.0 (gated)",
        "yes",
        "7 M",
    ),
    data_set(
        "huatuo-sft", "sft", "data", "FreedomIntelligence/HuatuoGPT-sft-data-v1", "", "Apache-2.0", "yes"
    ),
    data_set(
        "r1-distill-110k",
        "reasoning",
        "input reasoning_content content repo_name score",
        "Congliu/Chinese-DeepSeek-R1-Distill-data-110k",
        "liucong/Chinese-DeepSeek-R1-Distill-data-110k",
        "Apache-2.0",
        "yes",
        "110 k",
    ),
    data_set(
        "medical-o1-zh",
        "reasoning",
        "Question Complex_CoT Response",
        "FreedomIntelligence/medical-o1-reasoning-SFT",
        "",
        "Apache-2.0",
        "yes",
    ),
    data_set(
        "gsm8k-zh",
        "reasoning",
        "question_zh answer_zh answer_only split",
        "meta-math/GSM8K_zh",
        "",
        "MIT",
        "yes",
        "7,473 + 1,319",
        measures="gsm8k_zh",
    ),
    data_set(
        "dpo-en-zh-20k",
        "preference",
        "conversations chosen rejected",
        "llamafactory/DPO-En-Zh-20k",
        "",
        "unknown",
        "unknown",
        "20 k",
    ),
    data_set(
        "ultrafeedback-chinese",
        "preference",
        "prompt chosen rejected",
        "opencsg/UltraFeedback-chinese",
        "",
        "unknown",
        "unknown",
    ),
    data_set(
        "coig-p", "preference", "conversations chosen rejected", "m-a-p/COIG-P", "", "unknown", "unknown"
    ),
    data_set(
        "zhihu-rlhf-3k",
        "preference",
        "prompt chosen rejected",
        "liyucheng/zhihu_rlhf_3k",
        "",
        "unknown (platform content)",
        "unknown",
        "3 k",
    ),
    *BENCHMARK_SETS,
    data_set("clue", "evaluation", "by task", "clue/clue", "", "mixed, research", "no"),
)


def find(name: str) -> DataSet:
    """The data set called `name`, or the one that the benchmark of that name reads.

    Raises:
        HanlinError: there is none; the message has the nearest names.
    """
    by_name = {benchmark: data for data in DATASETS for benchmark in data.measures}
    by_name |= {data.name: data for data in DATASETS}
    if name.lower() in by_name:
        return by_name[name.lower()]
    close = difflib.get_close_matches(name.lower(), by_name, n=3, cutoff=0.4)
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
        if (stage is None or data.is_for(stage)) and (not commercial or data.commercial == "yes")
    ]
    rows = [tr("name for commercial hubs size").split()]
    for data in chosen:
        known = (("HF", data.huggingface), ("MS", data.modelscope), ("GH", data.github))
        hubs = " ".join(name for name, there in known if there)
        rows.append([data.name, str(_STAGES[data.stage]), commercial_text(data), hubs, data.size or "–"])
    head, *lines = table(rows)
    below = (_cut(f"    {data.licence} · {' '.join(data.fields)}") for data in chosen)
    hubs = tr("HF: Hugging Face and its mirror hf-mirror; MS: ModelScope; GH: GitHub.")
    listed = "\n".join([head, *(line for pair in zip(lines, below, strict=True) for line in pair), "", hubs])
    return listed if stage or commercial else f"{start_here()}\n\n{listed}"


def _cut(text: str) -> str:
    """As much of a line as a terminal of 80 columns shows."""
    if width(text) <= _COLUMNS:
        return text
    while width(text) > _COLUMNS - 1:
        text = text[:-1]
    return text + "…"
