"""The report's words in both languages: what each stage does, what each figure means. Names of report.json to plain speech."""

from __future__ import annotations

import html
import re
from typing import Any, NamedTuple

from ..corpus.rule_names import RULE_NAMES


class Text(NamedTuple):
    """One thing said in two languages."""

    zh: str
    en: str


class MetricText(NamedTuple):
    """How a metric is called, what it counts, and whether it is a share (shown in per cent)."""

    name: Text
    meaning: Text
    share: bool = True


class StageText(NamedTuple):
    """A stage's title, what it does, and the metric it is judged by."""

    title: Text
    does: Text
    aim: str | None = None


METRICS: dict[str, MetricText] = {
    "dirt_removed": MetricText(
        Text("脏文档清除率", "Dirt removed"),
        Text("故意混入的脏文档里，被清掉的比例", "share of deliberately injected dirty documents that were removed"),
    ),
    "good_lost": MetricText(
        Text("好文档误伤率", "Good documents lost"),
        Text("好文档里被误删的比例，越低越好", "share of good documents removed by mistake; lower is better"),
    ),
    "bits_per_byte": MetricText(
        Text("每字节比特数", "Bits per byte"),
        Text("预测没见过的文本，平均每个字节要花多少比特，越低越好", "bits needed to predict each byte of unseen text; lower is better"),
        share=False,
    ),
    "answer_bits_per_byte": MetricText(
        Text("回答的每字节比特数", "Bits per byte of answers"),
        Text("预测没见过的对话里助手的话要花多少比特，越低越好", "bits needed to predict each byte of unseen answers; lower is better"),
        share=False,
    ),
    "story_answers": MetricText(
        Text("故事问答正确率", "Story questions answered"),
        Text("关于没见过的故事，答案完全正确的比例", "share of exact answers about unseen stories"),
    ),
    "problems_solved": MetricText(
        Text("应用题解对率", "Problems solved"),
        Text("没见过的应用题，先思考再作答，答对的比例", "share of unseen word problems answered rightly after thinking"),
    ),
    "preferred_manner": MetricText(
        Text("得体回答的比例", "Preferred manner"),
        Text("自由回答里，语气是人们偏好的那一种的比例", "share of free answers given in the manner people prefer"),
    ),
    "pair_accuracy": MetricText(
        Text("偏好判断正确率", "Pairs judged rightly"),
        Text("没见过的偏好对里，给较好的回答打分更高的比例", "share of unseen pairs in which the better answer scores higher"),
    ),
    "task_reward": MetricText(
        Text("任务得分", "Task reward"), Text("没见过的题目上，得到奖励的比例", "share of unseen problems that earn the reward")
    ),
}

CONTROLS: dict[str, Text] = {
    "5-gram": Text("五元语法模型", "5-gram model"),
    "base": Text("预训练模型", "base model"),
    "before": Text("上一阶段的模型", "previous model"),
    "direct": Text("同等训练、直接作答", "same training, direct answers"),
    "length": Text("只看长度", "length alone"),
    "sft": Text("用同样时间继续 SFT", "SFT for the same time"),
}

STAGES: dict[str, StageText] = {
    "corpus": StageText(
        Text("清洗语料", "Cleaning the text"),
        Text(
            "逐条检查原始文本，去掉乱码、广告、网页残渣和重复的文档。",
            "Every raw document is checked; garbled text, advertisements, page remains and duplicates are removed.",
        ),
        "dirt_removed",
    ),
    "tokenizer": StageText(
        Text("训练分词器", "Training the tokenizer"),
        Text(
            "统计哪些字节常常连在一起，把文字切成模型认识的词元。",
            "Bytes that often stand together become tokens, the units the model reads and writes.",
        ),
    ),
    "dataset": StageText(
        Text("编码数据集", "Encoding the data set"),
        Text(
            "把全部文本一次编码成词元，存成可以直接读取的文件。",
            "All text is encoded once into tokens, in files that can be read directly.",
        ),
    ),
    "pretrain": StageText(
        Text("预训练", "Pretraining"),
        Text(
            "从随机的权重开始，反复练习预测下一个词元，学会语言本身。",
            "From random weights, the model practises predicting the next token, and so learns the language itself.",
        ),
        "bits_per_byte",
    ),
    "sft": StageText(
        Text("监督微调", "Supervised fine-tuning"),
        Text(
            "给模型看一问一答的对话，教它回答问题，而不只是续写。",
            "Shown questions with their answers, the model learns to answer instead of merely continuing text.",
        ),
        "story_answers",
    ),
    "distill": StageText(
        Text("思维链蒸馏", "Chain-of-thought distillation"),
        Text(
            "学习带推理过程的示范：先在 <think> 里一步步想，再给出答案。",
            "From worked demonstrations the model learns to think step by step inside <think> before it answers.",
        ),
        "problems_solved",
    ),
    "dpo": StageText(
        Text("偏好优化", "Preference optimisation"),
        Text(
            "看成对的回答，学会选择人们更喜欢的那种说法（DPO）。",
            "From pairs of answers the model learns to prefer the manner that people prefer (DPO).",
        ),
        "preferred_manner",
    ),
    "reward": StageText(
        Text("奖励模型", "Reward model"),
        Text(
            "训练一个打分的模型：两个回答放在一起，它应当给较好的那个更高的分。",
            "A second model learns to score answers: of two, the better one should score higher.",
        ),
        "pair_accuracy",
    ),
    "grpo": StageText(
        Text("强化学习", "Reinforcement learning"),
        Text(
            "让模型自己多次尝试，答对的做法得到加强（GRPO）；没有人示范怎么做。",
            "The model tries each problem several times and what earned the reward is reinforced (GRPO); nobody shows it how.",
        ),
        "task_reward",
    ),
    "evaluation": StageText(
        Text("总评", "Final evaluation"),
        Text(
            "把最终发布的模型在所有没见过的题目上重新考一遍。", "The published model sits every test once more, on items it has never seen."
        ),
    ),
    "gguf": StageText(
        Text("导出", "Export"),
        Text(
            "写成一个 GGUF 文件，llama.cpp、Ollama 等程序可以直接打开。",
            "One GGUF file is written, which llama.cpp, Ollama and their kin open as it is.",
        ),
    ),
}

FACTS: dict[str, Text] = {
    "documents_read": Text("读入文档", "documents read"),
    "documents_kept": Text("留下文档", "documents kept"),
    "characters_read": Text("读入字数", "characters read"),
    "characters_kept": Text("留下字数", "characters kept"),
    "bytes_read": Text("读入字节", "bytes read"),
    "bytes_kept": Text("留下字节", "bytes kept"),
    "documents": Text("文档", "documents"),
    "heldout_documents": Text("留作测试的文档", "documents held out"),
    "heldout_bytes": Text("留作测试的字节", "bytes held out"),
    "quarantined": Text("读不出的记录", "unreadable records"),
    "masked": Text("已遮盖的个人信息", "personal data masked"),
    "by_kind": Text("各类脏文档：总数 · 已清除", "dirt by kind: injected · removed"),
    "by_seed": Text("各个随机种子的得分", "score of each seed"),
    "seconds": Text("各次训练用时（秒）", "seconds of each training"),
    "distinct_pretokens": Text("不同的片段", "distinct pre-tokens"),
    "distinct_pieces": Text("不同的片段", "distinct pieces"),
    "bigram_floor": Text("低于此频次的字对处切开", "cut at character bigrams rarer than"),
    "passes": Text("读语料遍数", "passes over the corpus"),
    "characters": Text("字数", "characters"),
    "bytes": Text("字节", "bytes"),
    "tokens": Text("词元", "tokens"),
    "target_tokens": Text("要学的词元", "tokens to learn"),
    "merges": Text("合并规则", "merges"),
    "parameters": Text("参数", "parameters"),
    "pairs": Text("偏好对", "pairs"),
    "training_seconds": Text("训练用时（秒）", "training seconds"),
    "too_long": Text("过长未用", "too long, left out"),
    "file": Text("文件", "file"),
}

CURVES: dict[str, Text] = {
    "bits_per_byte": Text("每字节比特数", "Bits per byte"),
    "reward": Text("奖励", "Reward"),
    "accuracy": Text("偏好判断正确率", "Pairs judged rightly"),
    "loss": Text("损失", "Loss"),
    "lr": Text("学习率", "Learning rate"),
    "grad_norm": Text("梯度范数", "Gradient norm"),
    "tokens_per_second": Text("每秒词元", "Tokens per second"),
}

RULES: dict[str, Text] = {name: Text(*words) for name, words in RULE_NAMES.items()}


HIDDEN_FACTS = frozenset({"dropped", "quarantine_reasons", "side"})  # shown elsewhere, or of no use to a reader


def metric_text(name: str) -> MetricText:
    """A metric's words; `bits_per_byte/故事` is the part of `bits_per_byte` called 故事, and an unknown name explains itself."""
    base, slash, part = name.partition("/")
    known = METRICS.get(base, MetricText(Text(base, base), Text("", ""), share=False))
    if not slash:
        return known
    return known._replace(name=Text(f"{known.name.zh}：{part}", f"{known.name.en}: {part}"), meaning=Text("", ""))


def in_words(sentence: Text) -> Text:
    """A sentence with the metrics' and stages' names of report.json replaced by their words."""
    known = {**{name: text.name for name, text in METRICS.items()}, **{name: text.title for name, text in STAGES.items()}}
    pattern = re.compile("|".join(rf"(?<![\w-]){re.escape(name)}(?![\w-])" for name in sorted(known, key=len, reverse=True)))
    return Text(pattern.sub(lambda m: known[m[0]].zh, sentence.zh), pattern.sub(lambda m: known[m[0]].en.lower(), sentence.en))


def stage_text(name: str) -> StageText:
    """A stage's words; an unknown stage is called by its name."""
    return STAGES.get(name, StageText(Text(name, name), Text("", "")))


def lookup(table: dict[str, Text], name: str) -> Text:
    """The words for a name, or the name itself."""
    return table.get(name, Text(name, name))


def show(value: float, share: bool) -> str:
    """A value as people read it: `83.4%` of a share, `99.52%` near its ends, three decimals of anything else."""
    if not share:
        return f"{value:.3f}"
    return f"{100 * value:.2f}%" if 0 < value < 0.01 or 0.99 < value < 1 else f"{100 * value:.1f}%"


def duration(seconds: float) -> Text:
    """`3 分 20 秒`, `1 小时 05 分`."""
    seconds = max(0.0, seconds)
    if seconds < 60:
        shown = f"{seconds:.1f}" if seconds < 10 else f"{seconds:.0f}"
        return Text(f"{shown} 秒", f"{shown} s")
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return Text(f"{minutes} 分 {rest:02d} 秒", f"{minutes} min {rest:02d} s")
    hours, minutes = divmod(minutes, 60)
    return Text(f"{hours} 小时 {minutes:02d} 分", f"{hours} h {minutes:02d} min")


def memory(megabytes: float) -> str:
    """`640 MB`, `2.1 GB`, kept on one line."""
    return f"{megabytes:.0f}\u00a0MB" if megabytes < 1000 else f"{megabytes / 1000:.1f}\u00a0GB"


def esc(value: Any) -> str:
    """Any value as text that cannot become markup."""
    return html.escape(str(value), quote=True)


def both(zh: str, en: str) -> str:
    """A text in two languages, escaped; the style sheet shows one."""
    return f'<span lang="zh-CN">{esc(zh)}</span><span lang="en">{esc(en)}</span>'
