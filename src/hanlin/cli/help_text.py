"""The words of `--help`: what each verb and each option says in both languages, and how a page of help is drawn.

English texts that are not here are those of the functions' docstrings. A test holds that no text is missing in either language.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from cyclopts import Group
from cyclopts.help import DefaultFormatter

from hanlin.common.errors import prefers_chinese, tr

if TYPE_CHECKING:
    from cyclopts.help import HelpPanel

# Group → its verbs; the order in which they are listed.
GROUPS: dict[tuple[str, str], tuple[str, ...]] = {
    ("开始", "Begin"): ("run", "resume", "report", "chat", "serve", "generate", "doctor"),
    ("数据", "Data"): ("data", "corpus", "tokenizer", "dataset"),
    ("训练一个阶段", "Train one stage"): ("pretrain", "sft", "distill", "dpo", "reward", "grpo"),
    ("评测与导出", "Evaluate and export"): ("eval", "export"),
    ("研究", "Research"): ("plan", "compare", "ablate", "scaling", "inspect"),
}

VERBS: dict[str, tuple[str, str]] = {
    "run": (
        "从原始文本到能对话的模型，走完一个配方的全部阶段；同一条命令再跑一次会接着做",
        "Run a recipe's whole life cycle; run it again to go on, or to recompute what a change touches",
    ),
    "resume": (
        "用开始时的配方接着做被中断的运行",
        "Go on with an interrupted run, with the recipe it began with",
    ),
    "report": (
        "看一次运行的成绩（运行中也可以），以及 report.html 在哪里",
        "Show the figures of a run, finished or under way, and where its report.html is",
    ),
    "chat": ("在终端里和模型聊天", "Talk to a model in the terminal"),
    "serve": (
        "启动服务：兼容 OpenAI 的接口和聊天网页",
        "Serve a model: OpenAI-compatible API and a chat page",
    ),
    "generate": ("续写文字；加 --chat 则回答", "Continue texts, or with --chat answer them"),
    "doctor": ("检查环境：设备、内存、依赖，以及怎样改进", "Show the environment, and what would help"),
    "eval": (
        "给模型打分，带区间：内置的留出题，或 --text 文件的每字节比特数",
        "Measure a model, with intervals: on the embedded held-out tasks, or bits per byte of files with --text",
    ),
    "export gguf": (
        "写成一个 GGUF 文件，供 llama.cpp、Ollama 使用",
        "Write a model as one GGUF file for llama.cpp",
    ),
    "pretrain": (
        "预训练一个模型（配置见 docs/zh/stages.md；--params 26m 推出大小、步数与学习率）",
        "Pretrain a model (configuration: docs/en/stages.md; --params 26m derives shape, steps and rates)",
    ),
    "sft": ("用对话微调模型", "Fine-tune a model on conversations"),
    "distill": ("用带思维链的对话微调模型", "Fine-tune a model on conversations with reasoning"),
    "dpo": ("用偏好对做 DPO", "Optimise a model for preferences by DPO"),
    "reward": ("训练奖励模型", "Train a reward model"),
    "grpo": ("用可核对的答案做 GRPO", "Optimise a model for checkable answers by GRPO"),
    "plan": (
        "动手之前先算：内存、速度、时间、费用；--params 看各项设置如何推出",
        "Reckon before running: memory, speed, time, money; with --params, how each setting is derived",
    ),
    "compare": ("并排比较几次运行：指标、训练曲线、图", "Compare runs: figures, training curves, a picture"),
    "ablate": (
        "消融：每项设置各有多少贡献，带区间的表和图",
        "Measure what each setting of a pretraining contributes, with intervals, a table and a picture",
    ),
    "scaling": (
        "训练一组大小和长度，拟合规模律，给出预算下的大小",
        "Train a miniseries, fit the scaling law and advise on the size for a budget",
    ),
    "corpus": ("语料：清洗、去重、查看、比较", "corpora: clean and deduplicate, look into, compare"),
    "tokenizer": ("词表：训练、编码、查看、比较", "vocabulary: train, encode, inspect, compare"),
    "dataset": ("把文本编码成词元数据集", "encode text into token shards"),
    "export": ("导出模型", "export a model"),
    "data": ("已知的公开数据集", "public data sets known here"),
    "inspect": ("查看一次训练里发生的事", "look into what happened in a training"),
    "corpus build": (
        "读取、清洗、去重，写成语料目录；每一篇的去向都有账可查",
        "Read, clean and deduplicate files into a corpus directory that accounts for every document",
    ),
    "corpus stats": ("各来源、各规则的数字", "Show figures by source and by rule"),
    "corpus inspect": ("查看丢掉的、改动的、重复的文档", "Look at what was dropped, changed, found twice"),
    "corpus diff": ("两个语料各自独有的文档", "Show which documents only one of two corpora has"),
    "corpus score": (
        "从好坏例子学一个质量分，或给文件打分",
        "Train a quality score on good and bad examples, or score files with one",
    ),
    "tokenizer train": (
        "从文本或语料学一个字节级 BPE 词表",
        "Learn a byte-level BPE vocabulary from text or corpus files",
    ),
    "tokenizer encode": ("显示一段文字（或标准输入）的词元", "Show the tokens of a text (or of stdin)"),
    "tokenizer inspect": (
        "查看词表：各类文字的占比，最长、最少用、可疑的词元",
        "Show a vocabulary as people read it: shares of scripts, longest, rarest and suspicious tokens",
    ),
    "tokenizer compare": ("在文件上比较几个分词器", "Compare tokenizers on files"),
    "tokenizer advise": (
        "某个参数量适合多大的词表",
        "Advise on a vocabulary size for a model of so many parameters",
    ),
    "data list": (
        "列出公开数据集：在哪里、有哪些字段、什么许可",
        "List public data sets: where they are, their fields and licences",
    ),
    "data fetch": (
        "下载公开数据集：先看许可，断点续传，核对",
        "Download a public data set, checked and resumed; its licence is shown first",
    ),
    "dataset build": (
        "把语料或文件编码成词元分片",
        "Encode a corpus directory, or files of any layout, into token shards",
    ),
    "dataset tail": (
        "各来源的结尾是否比前面脏",
        "Whether the end of each source is dirtier than the rest of it",
    ),
    "inspect spike": ("跳过的步里有哪些文档，最坏的在前", "Show the documents of skipped steps, worst first"),
}

# Said of an option wherever it is not said otherwise.
_COMMON: dict[str, tuple[str, str]] = {
    "json": ("在标准输出上打印 JSON", "Print JSON on stdout."),
    "device": ("auto、cpu 或某个加速卡", "auto, cpu or an accelerator."),
    "seed": ("随机种子", "Random seed."),
    "model": ("模型目录，或一次运行的目录", "A model's directory, or a run's."),
    "config": ("YAML 配置文件", "YAML file of the stage."),
    "overrides": (
        "点号写法的设置，如 train.steps=200，优先于文件",
        "Dotted settings, such as train.steps=200, before those of the file.",
    ),
    "out": ("结果写到这个目录；再用同一个会接着做", "Directory of the result; the same one again goes on."),
    "run_directory": ("运行目录（hanlin run 的 --out）", "Directory of a run (--out of hanlin run)."),
    "corpus": ("语料目录（来自 hanlin corpus build）", "A corpus directory, from hanlin corpus build."),
    "files": ("文件、通配符或目录", "Paths, globs or directories."),
    "threads": (
        "线程数，0 为全部核；结果与它无关",
        "Threads, all cores when 0; the result does not depend on it.",
    ),
    "max_new_tokens": ("回答最多多少词元", "Longest answer, in tokens."),
    "temperature": ("温度，0 为每步取最可能的词元", "Temperature; 0 takes the likeliest token each time."),
    "tokenizer": ("分词器目录，或带分词器的模型", "A tokenizer's directory, or that of a model."),
    "params": ("参数量，如 26m；其余由此推出", "Parameters of the model, such as 26m; the rest follows."),
    "depth": ("用层数代替参数量", "Layers instead of parameters."),
    "tokens": (
        "预训练读多少词元，如 500m；不给则每个参数 20 个",
        "To pretrain on, such as 500m; 20 a parameter when absent.",
    ),
    "limit": ("最多显示多少条", "Entries to show."),
    "picture": ("另写一张 SVG 图到这里", "Also write an SVG here."),
    "heldout": (
        "用来测量的语料目录或文本文件（给 hanlin pretrain 的配置时）",
        "Corpus directory or text files to measure on, for a file of hanlin pretrain.",
    ),
    "help": ("显示这段说明", "Show this help."),
    "version": ("显示版本", "Show the version."),
}

_OWN: dict[str, dict[str, tuple[str, str | None]]] = {
    "run": {
        "recipe": ("自带的配方（demo、zh-mini……）或 YAML 文件", None),
        "overrides": ("点号写法的设置，如 pretrain.train.steps=200", None),
        "out": ("运行目录", None),
        "corpus": ("用这些文本文件、通配符或目录代替配方里的", None),
        "sft": ("用这些对话文件代替配方里的", None),
        "params": ("模型大小，如 26m：形状、词表、步数、批次、学习率都由此推出，不用配方里的", None),
        "track": ("metrics.jsonl 之外的记录器：trackio、swanlab、wandb、tensorboard", None),
        "json": ("在标准输出上打印报告", None),
    },
    "eval": {
        "tasks": ("要测的任务名，不给则全部", "Names of tasks; all of them when absent."),
        "count": (
            "每个任务多少题；用 --text 时最多多少篇",
            "Items per task; with --text, documents at most.",
        ),
        "text": (
            "改测这些文件的每字节比特数，分来源",
            "Measure bits per byte of these files instead, by source.",
        ),
        "json": ("另把结果写到这个文件", None),
    },
    "generate": {
        "prompts": ("要续写的文字；不给则从标准输入逐行读", None),
        "chat": ("当作对话来回答", "Answer as in a conversation."),
    },
    "serve": {
        "host": ("监听地址；不是 127.0.0.1 时必须有密钥", None),
        "port": ("端口", "Port."),
        "api_key": ("每个请求都要带的密钥（或用 HANLIN_API_KEY）", None),
        "allow_origin": (
            "放行这个来源的网页调用接口，如 http://localhost:3000；可写多次；“*” 为全部，须有密钥",
            None,
        ),
    },
    "export gguf": {"dtype": ("f32、f16 或 q8_0", None), "out": ("写到这个文件", "The file to write.")},
    "plan": {
        "recipe": ("自带的配方或 YAML 文件；不给则只看 --params 如何推出各项", None),
        "overrides": ("点号写法的设置，如 pretrain.seq_len=1024", None),
        "device": (
            "设备表里的名字（如 rtx4090、t4、910b），或 this（本机，试跑几步）",
            "A name of the table, such as rtx4090, t4 or 910b, or this machine, where a few steps are run.",
        ),
        "vram": (
            "表里没有的卡：显存多少 GiB；速度按 RTX 3060 估",
            "For a card that is not in the table, its memory in GiB; its speed is taken to be an RTX 3060's.",
        ),
        "nodes": ("机器数", None),
        "gpus": ("每台机器的卡数", None),
        "network": ("机器之间的网速，Gbit/s", None),
        "price": ("一张卡一小时多少元，代替表里的", None),
        "steps": ("在本机试跑多少步", None),
    },
    "compare": {
        "runs": ("运行目录、模型、消融的一格或 metrics.jsonl，做完与否都行", None),
        "stage": ("看哪个阶段的曲线", None),
    },
    "ablate": {
        "recipe": ("自带的配方、YAML 文件，或 hanlin pretrain 的配置（再加 --heldout）", None),
        "overrides": ("每一格都用的设置，如 corpus.documents=2000", None),
        "out": ("消融目录", None),
        "vary": ("键=值,值，每个键写一次；第一个值是基线", None),
        "seeds": ("每种设置跑几个种子；只有一个不排名", None),
        "steps": ("每格多少步，代替配方里的", None),
        "seconds": ("改为每格给多少秒：先短测速度，再定步数", None),
        "jobs": ("同时跑几格，平分各核", None),
        "grid": ("所有组合都跑", None),
        "one_at_a_time": ("一次只变一项（默认）", None),
        "keep_models": ("留下每格的模型", None),
        "json": ("在标准输出上打印表", None),
    },
    "scaling": {
        "recipe": ("自带的配方、YAML 文件，或 hanlin pretrain 的配置（再加 --heldout）", None),
        "overrides": ("每次训练都用的设置", None),
        "out": ("这一组的目录", None),
        "params": ("各个大小（含嵌入），如 0.3m,0.6m,1.2m,2.4m", None),
        "tokens_per_param": ("各个长度：每个参数多少词元", None),
        "budget": ("预算：90s、30m、1h、2d（本机时间）或 1e16（FLOP），可写多次", None),
        "seeds": ("每个大小跑几个种子", None),
        "jobs": ("同时跑几个，平分各核", None),
        "json": ("在标准输出上打印规律", None),
    },
    "corpus build": {
        "files": (
            "文件、通配符或目录，常见布局都认得；也可写设置，如 dedup.threshold=0.7、weights.web=2",
            None,
        ),
        "out": ("语料目录", "Directory of the corpus."),
        "preset": ("清洗规则：zh-web、zh-short、books、code、dialogue、none", None),
        "config": ("YAML 设置文件，命令行上的优先", None),
        "workers": ("进程数，0 为全部核；Slurm、Ray 上是同时的份数，0 不限", None),
        "memory": ("查重最多用多少内存；Slurm、Ray 上按份算", None),
        "heldout": ("每个来源留出多少比例作评测", None),
        "text_key": ("正文在哪个键或列里，认不出时写明", None),
        "skip_bad": ("跳过读不了的文件，记在账上", None),
        "mask_pii": ("把个人信息换成标记", None),
        "decontaminate": (
            "评测集的文件，或 c-eval 这样的名字（先 hanlin data fetch）；含其段落的文档会丢掉",
            None,
        ),
        "seed": ("决定留出哪些文档和它们的顺序", None),
        "executor": ("用 datatrove 跑：local、slurm 或 ray；各机看到的路径要相同", None),
        "tasks": ("每个步骤分成几份，0 为一个任务一份", None),
        "executor_option": ("给执行器的 名=值，如 partition=cpu time=20:00:00", None),
    },
    "corpus inspect": {
        "cluster": ("某一簇重复文档的编号，或其中一篇的编号", None),
        "rule": ("这条规则丢掉的例子；kept、changed 看留下的", None),
        "find": ("含这段文字的文档", None),
    },
    "corpus diff": {
        "left": ("一个语料目录", "A corpus directory."),
        "right": ("另一个语料目录", "Another corpus directory."),
    },
    "corpus score": {
        "files": ("要打分的文件、通配符或目录", None),
        "model": ("训练好的评分器", None),
        "good": ("好例子的文件，训练用", None),
        "bad": ("坏例子的文件，训练用", None),
        "out": ("评分器写到这个目录", None),
        "ngrams": ("字片段的长度，如 1-3 或 2,3", None),
        "max_class_chars": ("每一类最多学多少字，多的按哈希抽取", None),
    },
    "tokenizer train": {
        "vocab_size": ("词表大小，含 256 个字节和控制词元", None),
        "max_token_chars": ("最长的词元多少字", None),
        "min_frequency": ("合并至少出现多少次", None),
        "memory": ("内存上限，如 4GiB；不给则用一半", None),
        "plain": ("不对齐字边界的合并，与 Hugging Face 相同", None),
    },
    "tokenizer encode": {"text": ("要切的文字；不给则读标准输入", "The text; stdin when absent.")},
    "tokenizer inspect": {"on": ("在这些文件上数每个词元的使用次数", None)},
    "tokenizer compare": {
        "tokenizers": ("Hanlin 的分词器或模型目录，或任何 tokenizer.json", None),
        "on": ("文本或语料文件", None),
        "max_bytes": ("每个文件最多读多少，如 20MB；不给则全部", None),
    },
    "tokenizer advise": {
        "params": ("模型参数量，如 26m", "Parameters of the model, such as 26m."),
        "hidden_size": (
            "模型宽度；不给则按参数量估",
            "Width of the model; guessed from the parameters when absent.",
        ),
    },
    "dataset tail": {
        "dataset": ("来自 hanlin dataset build，按文本原来的顺序；打乱过的语料没有结尾可看", None)
    },
    "data list": {
        "stage": ("只看某个阶段的：pretrain、sft、reasoning、preference、evaluation", None),
        "commercial": ("只看写明可商用的", None),
    },
    "data fetch": {
        "name": ("hanlin data list 里的名字", None),
        "out": ("文件目录；不给则 data/名字", None),
        "from": ("hf、hf-mirror、modelscope，或 file（文件已在手边，见 --path）", None),
        "path": ("--from file 时的文件或目录", None),
        "files": ("只要匹配这些的文件，如 '*00000*.parquet'", None),
        "revision": ("分支、标签或提交", None),
        "yes": ("不再询问，接受许可", None),
    },
    "inspect spike": {"run": ("运行目录或单个阶段的目录，做完与否都行", None), "step": ("只看这一步", None)},
}

EXAMPLES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "": (
        (
            "hanlin run demo --out runs/demo",
            "从原始文本到能对话的模型",
            "from raw text to a model you can talk to",
        ),
        ("hanlin chat runs/demo", "和它聊天", "talk to it"),
        ("hanlin doctor", "看看这台机器", "look at this machine"),
    ),
    "run": (
        (
            "hanlin run demo --out runs/demo",
            "内置的语料，不用准备数据",
            "the embedded corpus: no data needed",
        ),
        (
            "hanlin run zh-mini --corpus data/ --sft chats.jsonl --out runs/mine",
            "自己的数据",
            "your own data",
        ),
        ("hanlin run demo pretrain.train.steps=200 --out runs/short", "改一项设置", "change a setting"),
    ),
    "report": (("hanlin report runs/demo", "做完了没有、成绩如何", "how far it is, and its figures"),),
    "chat": (
        ("hanlin chat runs/demo", "聊天", "talk"),
        ("hanlin chat runs/demo --temperature 0", "每次说得一样", "the same words each time"),
    ),
    "serve": (
        (
            "hanlin serve runs/demo",
            "在浏览器打开 http://127.0.0.1:8000",
            "open http://127.0.0.1:8000 in a browser",
        ),
        (
            "hanlin serve runs/demo --host 0.0.0.0 --api-key SECRET",
            "让别的机器也能用",
            "for other machines too",
        ),
    ),
    "generate": (
        ("hanlin generate runs/demo/models/pretrain 周六早上，天气很好。", "续写", "go on with a text"),
        ("hanlin generate runs/demo 你好，你是谁？ --chat", "回答", "answer"),
    ),
    "eval": (
        ("hanlin eval runs/demo --count 200", "内置的题目", "the embedded tasks"),
        (
            "hanlin eval runs/mine --text data/unseen.jsonl",
            "没见过的文本上每字节多少比特",
            "bits per byte of unseen text",
        ),
    ),
    "plan": (
        (
            "hanlin plan zh-26m --device rtx4090",
            "在 4090 上要多久、多少钱",
            "how long and how much on a 4090",
        ),
        ("hanlin plan --params 26m", "26M 的模型各项设置如何推出", "how a 26M model's settings are derived"),
        ("hanlin plan zh-mini --vram 8", "8 GiB 显存放得下吗", "does it fit 8 GiB"),
    ),
    "corpus build": (
        (
            "hanlin corpus build data/ --out corpora/mine --preset zh-web",
            "清洗自己的网页文本",
            "clean web text of your own",
        ),
    ),
    "tokenizer train": (
        (
            "hanlin tokenizer train corpora/mine/documents.jsonl.zst --vocab-size 6400 --out tokenizers/mine",
            "学一个词表",
            "learn a vocabulary",
        ),
    ),
    "compare": (
        (
            "hanlin compare runs/a runs/b --picture curves.svg",
            "指标并排，曲线成图",
            "figures side by side, curves drawn",
        ),
    ),
    "ablate": (
        (
            "hanlin ablate demo --vary pretrain.train.muon=true,false --seeds 3 --out runs/muon",
            "Muon 有用吗",
            "does Muon help",
        ),
    ),
}

_TITLES = {
    "Parameters": ("选项", "Options"),
    "Commands": ("帮助", "Help"),
    "Arguments": ("参数", "Arguments"),
}
_EMPTY = ("False", "()", "[]", "None", "", '""', "''")


@functools.cache
def _group(title: tuple[str, str]) -> Group:
    return Group(tr(*title), sort_key=list(GROUPS).index(title))


def group_of(verb: str) -> Group | None:
    """The group that a verb is listed in; the same object for all of its verbs."""
    return next((_group(title) for title, verbs in GROUPS.items() if verb in verbs), None)


def words_of(path: str, parameter: str) -> str | None:
    """What an option says in the reader's language; None where only its docstring speaks, in English."""
    own = _OWN.get(path, {}).get(parameter)
    zh, en = own if own is not None else _COMMON.get(parameter, (None, None))
    return zh if prefers_chinese() else en


def verb(path: str) -> dict[str, Any]:
    """Arguments of `App.command` for the verb of this path: group, help, examples and how the page is drawn."""
    found: dict[str, Any] = {"help_formatter": Words(path), "help_epilogue": epilogue(path)}
    if path in VERBS:
        found["help"] = tr(*VERBS[path])
    group = group_of(path)
    if group is not None:
        found |= {
            "group": group,
            "sort_key": [verbs.index(path) for verbs in GROUPS.values() if path in verbs][0],
        }
    return found


def epilogue(path: str) -> str:
    """The examples of a verb; nothing where there are none."""
    if path not in EXAMPLES:
        return ""
    lines = [f"  # {tr(zh, en)}\n  {command}" for command, zh, en in EXAMPLES[path]]
    return "\n".join([tr("例：", "Examples:"), *lines])


class Words(DefaultFormatter):
    """Draws a page of help in the reader's language.

    Args:
        path: of the verb, such as `corpus build`.
    """

    def __init__(self, path: str):
        super().__init__()
        self.path = path

    def __call__(self, console: Any, options: Any, panel: HelpPanel) -> None:
        entries = [self._entry(entry, panel.format == "parameter") for entry in panel.entries]
        title = tr(*_TITLES[str(panel.title)]) if str(panel.title) in _TITLES else panel.title
        if str(panel.title) == "Commands" and any(
            not entry.positive_names[0].startswith("-") for entry in entries if entry.positive_names
        ):
            title = tr("命令", "Commands")
        super().__call__(console, options, panel.copy(entries=entries, title=title))

    def render_usage(self, console: Any, options: Any, usage: Any) -> None:
        """The line of the usage, its words translated."""
        if not prefers_chinese():
            super().render_usage(console, options, usage)
        elif usage:
            words = {"Usage: ": "", "COMMAND": "命令", "[OPTIONS]": "[选项]", "[ARGS]": "[参数]"}
            plain = str(usage)
            for english, chinese in words.items():
                plain = plain.replace(english, chinese)
            console.print(f"用法：{plain.strip()}", markup=False, highlight=False)

    def _entry(self, entry: Any, option: bool) -> Any:
        names = [
            name.lstrip("-").replace("-", "_")
            for name in entry.positive_names
            if option or name.startswith("-")
        ]
        if entry.positional_label:
            names.append(entry.positional_label.lower().replace("-", "_"))
        said = next((text for name in names if (text := words_of(self.path, name)) is not None), None)
        notes = []
        if entry.default is not None and str(entry.default) not in _EMPTY:
            notes.append(tr(f"默认 {entry.default}", f"default: {entry.default}"))
        if entry.required:
            notes.append(tr("必填", "required"))
        changes: dict[str, Any] = {"default": None, "required": False}
        if said is not None or notes:
            text = said if said is not None else _plain(entry.description)
            changes["description"] = " ".join([text, *(f"[{note}]" for note in notes)]).strip()
        return entry.copy(**changes)


def _plain(description: Any) -> str:
    """A description that cyclopts has made drawable, as text again."""
    if description is None:
        return ""
    drawn = getattr(description, "primary_renderable", description)
    return str(getattr(drawn, "plain", getattr(drawn, "markup", drawn)) or "").rstrip()
