"""The command line: one verb per line of the table in the documentation. Heavy imports wait until a verb runs."""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from .common.errors import HanlinError, first_process, prefers_chinese, tr
from .common.terminal import for_stream

if TYPE_CHECKING:

    from .pipeline.dial import Dial

app = App(
    name="hanlin",
    help=tr("从原始中文文本到能对话的语言模型。", "From raw Chinese text to a language model you can talk to."),
    version_flags=["--version"],
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # main() says what became of the work
)
Many = Annotated[tuple[str, ...], Parameter(consume_multiple=True)]
Files = Annotated[tuple[Path, ...], Parameter(consume_multiple=True)]
Flag = Annotated[bool, Parameter(negative=())]


def show(value: Any, as_json: bool, text: str | None = None) -> None:
    """Print a result on stdout: JSON when asked for, else text."""
    if as_json or text is None:
        import orjson

        sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS, default=str).decode() + "\n")
    else:
        print(for_stream(text, sys.stdout) if sys.stdout else "")  # names and texts of data may hold escape sequences


# ------------------------------------------------------------------ the whole life


@app.command
def run(
    recipe: str = "demo",
    /,
    *overrides: str,
    out: Path,
    corpus: Many = (),
    sft: Many = (),
    params: str | None = None,
    depth: int | None = None,
    tokens: str | None = None,
    device: str | None = None,
    track: Many = (),
    json: Flag = False,
) -> None:
    """Run a recipe's whole life cycle; run it again to go on, or to recompute what a change touches.

    Parameters
    ----------
    recipe
        A shipped recipe (demo, zh-mini …) or a YAML file.
    overrides
        Dotted settings, such as pretrain.train.steps=200.
    out
        Directory of the run.
    corpus
        Text files, globs or directories instead of the recipe's.
    sft
        Conversation files instead of the recipe's.
    params
        Size of the model, such as 26m: shape, vocabulary, steps, batch and rates follow from it instead of the recipe's.
    depth
        Layers instead of params.
    tokens
        To pretrain on, such as 500m; 20 a parameter when absent.
    device
        auto, cpu or an accelerator.
    track
        Trackers besides metrics.jsonl: trackio, swanlab, wandb, tensorboard.
    json
        Print the report on stdout.
    """
    from .pipeline import load_recipe, run_recipe

    extra: dict[str, Any] = {}
    if corpus:
        extra["corpus"] = {"files": corpus}
    if sft:
        extra["sft"] = {"files": sft}
    if device:
        extra["device"] = device
    if track:
        extra["track"] = track
    loaded = load_recipe(recipe, overrides, extra, params=params, depth=depth, tokens=tokens, on_dial=_show_dial)
    report = run_recipe(loaded, out)
    show(report, json, _summary(report, out))


def _show_dial(dial: Dial) -> None:
    from .pipeline.dial import dial_text

    print(dial_text(dial) + "\n", file=sys.stderr)


def _summary(report: dict[str, Any], out: Path) -> str:
    lines = []
    for stage in report["stages"]:
        for name, metric in stage["metrics"].items():
            if "/" in name:
                continue
            control = metric.get("control")
            beside = f"   ({control['name']} {control['value']:.3f})" if control else ""
            lines.append(f"  {stage['name']:<11} {name:<18} {metric['value']:.3f}  [{metric['low']:.3f}, {metric['high']:.3f}]  n={metric['n']}{beside}")
    head = tr(f"用时 {report['seconds'] / 60:.1f} 分钟，内存峰值 {report['peak_rss_mb'] / 1024:.2f} GiB", f"{report['seconds'] / 60:.1f} minutes, peak memory {report['peak_rss_mb'] / 1024:.2f} GiB")
    foot = tr(
        f"报告：{out / 'report.html'}\n聊天：hanlin chat {out}\n服务：hanlin serve {out}",
        f"report: {out / 'report.html'}\nchat:   hanlin chat {out}\nserve:  hanlin serve {out}",
    )
    return "\n".join([head, *lines, foot])


app.command(
    "hanlin.cli_plan:plan", name="plan",
    help=tr("动手之前先算：内存、速度、时间、费用；--params 看各项设置如何推出", "Reckon before running: memory, speed, time, money; with --params, how each setting is derived"),
)  # fmt: skip


@app.command
def resume(run_directory: Path, /, *, json: Flag = False) -> None:
    """Go on with an interrupted run, with the recipe it began with."""
    from .common.atomic import read_json
    from .common.config import build
    from .pipeline import RECIPE_FILE, Recipe, run_recipe

    file = run_directory / RECIPE_FILE
    if not file.is_file():
        raise HanlinError(f"{run_directory} 不是一次运行（没有 {RECIPE_FILE}）。", f"{run_directory} is not a run (no {RECIPE_FILE}).")
    report = run_recipe(build(Recipe, read_json(file), str(file)), run_directory)
    show(report, json, _summary(report, run_directory))


@app.command
def report(run_directory: Path, /, *, json: Flag = False) -> None:
    """Show the figures of a finished run and where its report.html is."""
    from .common.atomic import read_json

    found = read_json(run_directory / "report.json")
    show(found, json, _summary(found, run_directory))


for verb, zh, en in (
    ("ablate", "消融：每项设置各有多少贡献，带区间的表和图", "Measure what each setting of a pretraining contributes, with intervals, a table and a picture"),
    ("scaling", "训练一组大小和长度，拟合规模律，给出预算下的大小", "Train a miniseries, fit the scaling law and advise on the size for a budget"),
    ("compare", "并排比较几次运行：指标、训练曲线、图", "Compare runs: figures, training curves, a picture"),
):
    app.command(f"hanlin.cli_experiments:{verb}", name=verb, help=tr(zh, en))


# ------------------------------------------------------------------ text

corpus_app = App(name="corpus", help=tr("语料：清洗、去重、查看、比较", "corpora: clean and deduplicate, look into, compare"))
tokenizer_app = App(name="tokenizer", help=tr("词表：训练、编码、查看、比较", "vocabulary: train, encode, inspect, compare"))
dataset_app = App(name="dataset", help=tr("把文本编码成词元数据集", "encode text into token shards"))
export_app = App(name="export", help=tr("导出模型", "export a model"))
data_app = App(name="data", help=tr("已知的公开数据集", "public data sets known here"))
inspect_app = App(name="inspect", help=tr("查看一次训练里发生的事", "look into what happened in a training"))
for sub in (corpus_app, tokenizer_app, dataset_app, export_app, data_app, inspect_app):
    app.command(sub)


def _add_verbs(group: App, prefix: str, *verbs: tuple[str, str, str]) -> None:
    for verb, zh, en in verbs:
        group.command(prefix + verb, name=verb, help=tr(zh, en))


_add_verbs(
    corpus_app,
    "hanlin.cli_corpus:",
    ("build", "读取、清洗、去重，写成语料目录；每一篇的去向都有账可查", "Read, clean and deduplicate files into a corpus directory that accounts for every document"),
    ("stats", "各来源、各规则的数字", "Show figures by source and by rule"),
    ("inspect", "查看丢掉的、改动的、重复的文档", "Look at what was dropped, changed, found twice"),
    ("diff", "两个语料各自独有的文档", "Show which documents only one of two corpora has"),
    ("score", "从好坏例子学一个质量分，或给文件打分", "Train a quality score on good and bad examples, or score files with one"),
)
_add_verbs(
    tokenizer_app,
    "hanlin.cli_tokenizer:tokenizer_",
    ("train", "从文本或语料学一个字节级 BPE 词表", "Learn a byte-level BPE vocabulary from text or corpus files"),
    ("encode", "显示一段文字（或标准输入）的词元", "Show the tokens of a text (or of stdin)"),
    ("inspect", "查看词表：各类文字的占比，最长、最少用、可疑的词元", "Show a vocabulary as people read it: shares of scripts, longest, rarest and suspicious tokens"),
    ("compare", "在文件上比较几个分词器", "Compare tokenizers on files"),
    ("advise", "某个参数量适合多大的词表", "Advise on a vocabulary size for a model of so many parameters"),
)
data_app.command("hanlin.cli_data:list_sets", name="list", help=tr("列出公开数据集：在哪里、有哪些字段、什么许可", "List public data sets: where they are, their fields and licences"))
data_app.command("hanlin.cli_data:fetch_set", name="fetch", help=tr("下载公开数据集：先看许可，断点续传，核对", "Download a public data set, checked and resumed; its licence is shown first"))
dataset_app.command("hanlin.cli_tokenizer:dataset_build", name="build", help=tr("把语料或文件编码成词元分片", "Encode a corpus directory, or files of any layout, into token shards"))
dataset_app.command("hanlin.cli_experiments:tail", name="tail", help=tr("各来源的结尾是否比前面脏", "Whether the end of each source is dirtier than the rest of it"))
inspect_app.command("hanlin.cli_inspect:spike", name="spike", help=tr("跳过的步里有哪些文档，最坏的在前", "Show the documents of skipped steps, worst first"))


def bytes_of(size: str) -> int:
    """`4GiB` or `500MB` as bytes; half of the machine's memory for an empty one."""
    if not size:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 if hasattr(os, "sysconf") else 0
    units = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?i?)b?", size.strip().lower())
    if match is None or match[2] not in units:
        raise HanlinError(f"看不懂的大小 {size!r}，请写成 4GiB 或 500MB。", f"Not a size: {size!r}. Write it as 4GiB or 500MB.")
    return int(float(match[1]) * units[match[2]])


# ------------------------------------------------------------------ single stages


def _stage(name: str, config: Path, out: Path, overrides: tuple[str, ...]) -> None:
    from .pipeline.single import run_stage

    _show_once(run_stage(name, config, out, overrides))


def _show_once(result: Any) -> None:
    if first_process():
        show(result, True)


def _add_stage(name: str, zh: str, en: str) -> None:
    def command(*overrides: str, config: Path, out: Path) -> None:
        _stage(name, config, out, overrides)

    command.__doc__ = tr(zh, en)
    app.command(command, name=name)


def _pretrain(*overrides: str, config: Path, out: Path, params: str | None = None, depth: int | None = None, tokens: str | None = None) -> None:
    from .pipeline.single import run_stage

    dial = {name: value for name, value in (("params", params), ("depth", depth), ("tokens", tokens)) if value is not None}
    _show_once(run_stage("pretrain", config, out, overrides, dial))


_pretrain.__doc__ = tr("预训练一个模型（配置见 docs/zh/stages.md；--params 26m 推出大小、步数与学习率）。", "Pretrain a model (configuration: docs/en/stages.md; --params 26m derives shape, steps and rates).")
app.command(_pretrain, name="pretrain")
_add_stage("sft", "用对话微调模型。", "Fine-tune a model on conversations.")
_add_stage("distill", "用带思维链的对话微调模型。", "Fine-tune a model on conversations with reasoning.")
_add_stage("dpo", "用偏好对做 DPO。", "Optimise a model for preferences by DPO.")
_add_stage("reward", "训练奖励模型。", "Train a reward model.")
_add_stage("grpo", "用可核对的答案做 GRPO。", "Optimise a model for checkable answers by GRPO.")


# ------------------------------------------------------------------ using a model


@app.command(name="eval")
def evaluate(model: Path, /, *, tasks: Many = (), count: int = 500, json: Path | None = None) -> None:
    """Measure a model on the embedded held-out tasks, with intervals.

    Parameters
    ----------
    tasks
        story_answers, problems_solved, preferred_manner, task_reward; all of them when absent.
    count
        Items per task.
    json
        Also write the figures to this file.
    """
    from .common.atomic import write_json
    from .pipeline import evaluate_model

    if count < 1:
        raise HanlinError(f"--count 应至少为 1，不能是 {count}：没有题目就没有分数。", f"--count must be at least 1, not {count}: without items there is no score.")
    result = evaluate_model(model, tasks or None, count)
    if json is not None:
        write_json(json, result)
    show(result, True)


@app.command
def generate(
    model: Path, *prompts: str, chat: Flag = False, max_new_tokens: int = 128, temperature: float = 0.7, seed: int = 0, json: Flag = False
) -> None:
    """Continue texts, or with --chat answer them.

    Parameters
    ----------
    prompts
        Texts; a line each from stdin when there are none.
    """
    from .inference import SamplingParams, generate_text, load_chat_model, resolve_model_dir

    if not prompts and sys.stdin is None:
        raise HanlinError(
            "没有给出文字，标准输入也已关闭，没有可以续写的内容。请写成：hanlin generate 模型 文字。",
            "No text was given and standard input is closed: there is nothing to continue. Write: hanlin generate MODEL TEXT.",
        )
    params = SamplingParams(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    loaded, tokenizer = load_chat_model(model)
    texts = list(prompts) or [line.rstrip("\n") for line in sys.stdin]
    asked: list[Any] = [[{"role": "user", "content": text}] for text in texts] if chat else texts
    answers = generate_text(loaded, tokenizer, asked, params=params)
    shown = "\n\n".join(a if chat else p + a for p, a in zip(texts, answers, strict=True))
    show([{"prompt": p, "text": a} for p, a in zip(texts, answers, strict=True)], json, shown)
    silent = answers.count("")
    if silent and max_new_tokens:
        before = resolve_model_dir(model).parent / "models" / "pretrain"
        zh = f"续写文本请用只预训练过的模型：{before}" if not chat and before.is_dir() else "可以换一个 --seed 或开头再试。"
        en = f"To continue texts use the model that was only pretrained: {before}" if not chat and before.is_dir() else "Try another --seed or another beginning."
        print(tr(f"模型立刻结束了，什么也没写（{silent}/{len(texts)}）。{zh}", f"The model ended at once and wrote nothing ({silent}/{len(texts)}). {en}"), file=sys.stderr)


@app.command
def chat(model: Path, /, *, device: str | None = None, temperature: float | None = None, max_new_tokens: int | None = None, seed: int | None = None) -> None:
    """Talk to a model in the terminal."""
    from .inference.chat import chat as talk

    options = {"temperature": temperature, "max_new_tokens": max_new_tokens, "seed": seed}
    talk(model, device=device, **{name: value for name, value in options.items() if value is not None})


@app.command
def serve(
    model: Path,
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    allow_origin: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    device: str | None = None,
) -> None:
    """Serve a model: OpenAI-compatible API and a chat page.

    Parameters
    ----------
    host
        Another address than 127.0.0.1 needs an API key.
    api_key
        Required of every request when set (or HANLIN_API_KEY).
    allow_origin
        A web page's origin, http://localhost:3000 for example, whose scripts may call the API; may be repeated. "*" for all needs an API key.
    """
    from .serving import serve as start

    api_key = api_key or os.environ.get("HANLIN_API_KEY")
    start(model, host=host, port=port, api_key=api_key, origins=allow_origin, device=device)


@export_app.command(name="gguf")
def export_to_gguf(model: Path, /, *, out: Path, dtype: str = "f32") -> None:
    """Write a model as one GGUF file for llama.cpp.

    Parameters
    ----------
    dtype
        f32, f16 or q8_0.
    """
    from .export import export_gguf
    from .inference import resolve_model_dir

    print(export_gguf(resolve_model_dir(model), out, dtype))


@app.command
def doctor(*, json: Flag = False) -> None:
    """Show the environment, and what would help."""
    from .doctor import examine, render

    found = examine()
    show(found, json, render(found))


def _program() -> str:
    """How this program was called, to be typed again."""
    program = sys.argv[0]
    if os.path.basename(program) in ("cli.py", "__main__.py"):
        return "hanlin"
    found = shutil.which(os.path.basename(program))
    return os.path.basename(program) if found and os.path.realpath(found) == os.path.realpath(program) else program


def main() -> None:
    """Entry point: 0 done, 1 failed with a message, 2 wrong usage, 130 or 143 interrupted (Ctrl-C, SIGTERM) with the state saved."""
    # Threads that spin for some microseconds and then sleep. Spinning on, as they do by themselves, slows training tenfold on a machine
    # with other work; sleeping at once costs a fifth of the speed on one without (both measured here, docs/*/lab-log.md).
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if isinstance(sys.stdout, io.TextIOWrapper):  # an ASCII terminal sees escapes in place of Chinese, and no stack trace
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app(sys.argv[1:])
    except HanlinError as error:
        if not error.told:
            print(("错误：" if prefers_chinese() else "error: ") + for_stream(str(error), sys.stderr), file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt as error:
        if not first_process():
            raise SystemExit(128 + getattr(error, "signal", signal.SIGINT)) from None
        again = shlex.join([_program(), *sys.argv[1:]])
        message = tr(
            f"已中断。已完成的都已保存，没有写到一半的产物。从断点继续：\n  {again}",
            f"Interrupted. What was finished is saved and nothing is half-written. To go on from there:\n  {again}",
        )
        print("\n" + message, file=sys.stderr)
        raise SystemExit(128 + getattr(error, "signal", signal.SIGINT)) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except OSError as error:
        print(("错误：" if prefers_chinese() else "error: ") + f"{error.strerror or error}" + (f" ({error.filename})" if error.filename else ""), file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
