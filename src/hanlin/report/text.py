"""The report's words in both languages: what each stage does, what each figure means. Names of report.json to plain speech."""

from __future__ import annotations

import html
import math
import re
from typing import Any, NamedTuple

from hanlin.corpus.filters.rule_names import RULE_NAMES
from hanlin.evaluation.statistics import Control, Metric


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
        Text(
            "故意混入的脏文档里，被清掉的比例",
            "share of deliberately injected dirty documents that were removed",
        ),
    ),
    "good_lost": MetricText(
        Text("好文档误伤率", "Good documents lost"),
        Text("好文档里被误删的比例，越低越好", "share of good documents removed by mistake; lower is better"),
    ),
    "bits_per_byte": MetricText(
        Text("每字节比特数", "Bits per byte"),
        Text(
            "预测没见过的文本，平均每个字节要花多少比特，越低越好",
            "bits needed to predict each byte of unseen text; lower is better",
        ),
        share=False,
    ),
    "answer_bits_per_byte": MetricText(
        Text("回答的每字节比特数", "Bits per byte of answers"),
        Text(
            "预测没见过的对话里助手的话要花多少比特，越低越好",
            "bits needed to predict each byte of unseen answers; lower is better",
        ),
        share=False,
    ),
    "story_answers": MetricText(
        Text("故事问答正确率", "Story questions answered"),
        Text("关于没见过的故事，答案完全正确的比例", "share of exact answers about unseen stories"),
    ),
    "problems_solved": MetricText(
        Text("应用题解对率", "Problems solved"),
        Text(
            "没见过的应用题，先思考再作答，答对的比例",
            "share of unseen word problems answered rightly after thinking",
        ),
    ),
    "preferred_manner": MetricText(
        Text("得体回答的比例", "Preferred manner"),
        Text(
            "自由回答里，语气是人们偏好的那一种的比例",
            "share of free answers given in the manner people prefer",
        ),
    ),
    "pair_accuracy": MetricText(
        Text("偏好判断正确率", "Pairs judged rightly"),
        Text(
            "没见过的偏好对里，给较好的回答打分更高的比例",
            "share of unseen pairs in which the better answer scores higher",
        ),
    ),
    "task_reward": MetricText(
        Text("任务得分", "Task reward"),
        Text("没见过的题目上，得到奖励的比例", "share of unseen problems that earn the reward"),
    ),
    "greetings": MetricText(
        Text("问候答对率", "Greetings answered"),
        Text(
            "问候、道谢、问名字，答得与所教的一字不差的比例",
            "share of greetings, thanks and questions of its name answered to the letter",
        ),
    ),
    "story_requests": MetricText(
        Text("会讲故事", "Stories told"),
        Text("请它讲故事时，讲出完整故事的比例", "share of requests for a story that got a whole one"),
    ),
    "outside_declined": MetricText(
        Text("不懂就说", "Outside questions declined"),
        Text(
            "问它不知道的事，老实说不知道的比例",
            "share of questions from outside its world that it declines to answer",
        ),
    ),
    "word_problems": MetricText(
        Text("应用题解对率（自己决定想不想）", "Word problems solved, thinking or not"),
        Text(
            "一到五步的应用题，要不要先思考由模型决定",
            "unseen problems of one to five steps; whether to think first is the model's choice",
        ),
    ),
    "later_turns": MetricText(
        Text("多轮对话里的答对率", "Later turns answered"),
        Text(
            "换了话题的第二轮起，答对的比例；对照是同样的问题单独问",
            "share of turns after the first, each about something else, answered rightly; the control asks the same alone",
        ),
    ),
    "ends_by_itself": MetricText(
        Text("自己停下的比例", "Ends by itself"),
        Text("回答在长度上限之前自己结束的比例", "share of answers that end before they are cut off"),
    ),
    "thinking_closes": MetricText(
        Text("想完了的比例", "Thinking closes"),
        Text("开了头的思考里，写到 </think> 的比例", "share of thoughts begun that reach </think>"),
    ),
    "inside_answered": MetricText(
        Text("该答的都答了", "Inside questions answered"),
        Text(
            "小世界里的问题，没有推说不知道的比例",
            "share of questions from inside its world that were not declined",
        ),
    ),
    "pairs_preferred": MetricText(
        Text("偏好对排对率", "Pairs ranked rightly"),
        Text(
            "没见过的偏好对里，模型认为较好的回答更可能的比例",
            "share of unseen pairs whose better answer the model finds more likely",
        ),
    ),
}

CONTROLS: dict[str, Text] = {
    "5-gram": Text("五元语法模型", "5-gram model"),
    "base": Text("预训练模型", "base model"),
    "before": Text("上一阶段的模型", "previous model"),
    "direct": Text("同等训练、直接作答", "same training, direct answers"),
    "length": Text("只看长度", "length alone"),
    "sft": Text("用同样时间继续 SFT", "SFT for the same time"),
    "alone": Text("同样的问题单独问", "the same questions asked alone"),
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
            "把最终发布的模型在所有没见过的题目上重新考一遍。",
            "The published model sits every test once more, on items it has never seen.",
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
    "last_merge_count": Text("最后一次合并见过的次数", "count of the last merge"),
    "unreachable": Text("永远用不到的词元", "tokens never reached"),
    "unreachable_tokens": Text("用不到的词元（十六进制）", "unreachable tokens, in hexadecimal"),
    "sources": Text("各来源的文档", "documents by source"),
    "nothing_to_learn": Text("没有可学内容、未用", "nothing to learn, left out"),
    "texts": Text("混入的预训练文本", "pretraining texts mixed in"),
    "skipped": Text("跳过的步", "steps skipped"),
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


# Names inside of facts.
PARTS: dict[str, Text] = {
    "grpo": Text("强化学习", "GRPO"),
    "sft": Text("对照", "control"),
    "spam": Text("广告", "spam"),
    "html": Text("网页代码", "HTML"),
    "system": Text("系统", "system"),
    "processor": Text("处理器", "processor"),
    "cores": Text("核数", "cores"),
    "threads": Text("线程", "threads"),
    "memory_gib": Text("内存 GiB", "memory, GiB"),
    "device": Text("设备", "device"),
}

# Shown elsewhere, or of no use to a reader.
HIDDEN_FACTS = frozenset(
    {
        "dropped",
        "quarantine_reasons",
        "side",
        "seconds_of_cleaning",
        "before",
        "control",
        "sampled",
        "pretrained_bits_per_byte",
    }
)


_ENDINGS = {
    "/sampled": Text("（采样）", "(sampled)"),
    "/published": Text("（发布的那一次）", "(the published run)"),
}


def metric_text(name: str) -> MetricText:
    """A metric's words; `bits_per_byte/故事` is the part of `bits_per_byte` called 故事, and an unknown name explains itself."""
    for ending, added in _ENDINGS.items():
        if name.endswith(ending):
            plain = metric_text(name.removesuffix(ending))
            return plain._replace(name=Text(plain.name.zh + added.zh, f"{plain.name.en} {added.en}"))
    base, slash, part = name.partition("/")
    known = METRICS.get(base, MetricText(Text(base, base), Text("", ""), share=False))
    if not slash:
        return known
    if part in STAGES:
        title = STAGES[part].title
        return known._replace(
            name=Text(f"{known.name.zh}（{title.zh}）", f"{known.name.en} ({title.en.lower()})")
        )
    return known._replace(
        name=Text(f"{known.name.zh}：{part}", f"{known.name.en}: {part}"), meaning=Text("", "")
    )


def in_words(sentence: Text) -> Text:
    """A sentence with the metrics' and stages' names of report.json replaced by their words."""
    names = "|".join(re.escape(name) for name in sorted({**METRICS, **STAGES}, key=len, reverse=True))
    pattern = re.compile(rf"(?<![\w/-])(?:{names})(?:/\w+)?(?![\w/-])", re.ASCII)

    def words(name: str) -> Text:
        return STAGES[name].title if name in STAGES else metric_text(name).name

    return Text(
        pattern.sub(lambda m: words(m[0]).zh, sentence.zh),
        pattern.sub(lambda m: words(m[0]).en.lower(), sentence.en),
    )


def stage_text(name: str) -> StageText:
    """A stage's words; an unknown stage is called by its name."""
    return STAGES.get(name, StageText(Text(name, name), Text("", "")))


_CUT = re.compile(r"(\d+)-gram on (\S+) tokens")


def control_text(name: str) -> Text:
    """A control's words; `5-gram on 10M tokens` counted fewer tokens than the model was trained on."""
    cut = _CUT.fullmatch(name)
    if cut is None:
        return lookup(CONTROLS, name)
    order = {"5": "五"}.get(cut[1], cut[1])
    return Text(
        f"{order}元语法模型（只数了 {cut[2]} 词元）", f"{cut[1]}-gram model (counted on {cut[2]} tokens only)"
    )


def lookup(table: dict[str, Text], name: str) -> Text:
    """The words for a name, or the name itself."""
    return table.get(name, Text(name, name))


def show(value: float, share: bool) -> str:
    """A value as people read it: `83.4%` of a share, `99.52%` near its ends, three decimals of anything else."""
    if not share:
        return f"{value:.3f}"
    return f"{100 * value:.2f}%" if 0 < value < 0.01 or 0.99 < value < 1 else f"{100 * value:.1f}%"


def span(score: Metric | Control, share: bool, dash: bool = False) -> Text:
    """An interval as people read it, `[83.0%, 84.1%]` or `83.0% – 84.1%`; that of a mean of one item is not known."""
    if math.isinf(score.low):
        return Text("区间不知道", "interval not known")
    low, high = show(score.low, share), show(score.high, share)
    shown = f"{low} – {high}" if dash else f"[{low}, {high}]"
    return Text(shown, shown)


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
