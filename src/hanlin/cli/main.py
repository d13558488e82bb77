"""The command line: one verb per line of the table in the documentation. Heavy imports wait until a verb
runs."""

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

from hanlin.cli.help_text import Words, epilogue, verb
from hanlin.common.errors import HanlinError, first_process
from hanlin.common.messages import Text, language_unsaid, tr
from hanlin.common.terminal import for_stream

if TYPE_CHECKING:
    from hanlin.recipe.sizing import Sizing

app = App(
    name="hanlin",
    help=tr("From raw Chinese text to a language model you can talk to."),
    version_flags=["--version"],
    help_format="plaintext",
    help_formatter=Words(),
    help_epilogue=epilogue(""),
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # main() says what became of the work
)
Many = Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative=())]
Files = Annotated[tuple[Path, ...], Parameter(consume_multiple=True, negative=())]
Flag = Annotated[bool, Parameter(negative=())]


def show(value: Any, as_json: bool, text: str | None = None) -> None:
    """Print a result on stdout: JSON when asked for, else text."""
    if as_json or text is None:
        import orjson

        sys.stdout.write(
            orjson.dumps(
                value,
                option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS,
                default=str,
            ).decode()
            + "\n"
        )
    else:
        # names and texts of data may hold escape sequences
        print(for_stream(text, sys.stdout) if sys.stdout else "")


# ------------------------------------------------------------------ the whole life


@app.command(**verb("run"))
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
    scale: float | None = None,
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
        Size of the model, such as 26m: shape, vocabulary, steps, batch and rates follow from it instead of
        the recipe's.
    scale
        A recipe in small, such as 0.1, to try it from end to end: so much of its parameters, steps and batch.
    track
        Trackers besides metrics.jsonl: trackio, swanlab, wandb, tensorboard.
    json
        Print the report on stdout.
    """
    from hanlin.pipeline import load_recipe, run_recipe

    overrides, (corpus, sft) = _settings_among_files(overrides, corpus, sft)
    extra: dict[str, Any] = {}
    if corpus:
        extra["corpus"] = {"kind": "files", "files": corpus}
    if sft:
        extra["sft"] = {"data": {"kind": "files", "files": sft}}
    if device:
        extra["device"] = device
    if track:
        extra["track"] = track
    loaded = load_recipe(
        recipe,
        overrides,
        extra,
        params=params,
        depth=depth,
        tokens=tokens,
        scale=scale,
        on_sizing=_show_sizing,
    )
    report = run_recipe(loaded, out)
    if first_process():
        show(report, json, _summary(report, out))


def _settings_among_files(
    overrides: tuple[str, ...], *lists: tuple[str, ...]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Settings that stand behind --corpus or --sft, where files are expected, are taken for settings: no
    file is called so.

    Raises:
        HanlinError: what is left of a list is nothing.
    """
    kept: list[tuple[str, ...]] = []
    for words in lists:
        settings = [
            word
            for word in words
            if re.fullmatch(r"[A-Za-z_][\w-]*(\.[\w-]+)*=.*", word) and not Path(word).exists()
        ]
        overrides = (*overrides, *settings)
        files = tuple(word for word in words if word not in settings)
        if settings and not files:
            raise HanlinError(
                "{settings} is a setting, not a file: --corpus or --sft has no file behind it.",
                settings=settings[0],
            )
        kept.append(files)
    return overrides, kept


def _show_sizing(sizing: Sizing) -> None:
    from hanlin.recipe.sizing import sizing_text

    print(sizing_text(sizing) + "\n", file=sys.stderr)


def _summary(report: dict[str, Any], out: Path) -> str:
    from hanlin.report.summary import summary_text

    return summary_text(report, out)


app.command("hanlin.cli.plan:plan", name="plan", **verb("plan"))


@app.command(**verb("resume"))
def resume(run_directory: Path, /, *, json: Flag = False) -> None:
    """Go on with an interrupted run, with the recipe it began with."""
    from hanlin.common.atomic import read_json
    from hanlin.pipeline import RECIPE_FILE, run_recipe
    from hanlin.recipe.recipe import read_recipe

    file = run_directory / RECIPE_FILE
    if not file.is_file():
        raise HanlinError(
            "{run_directory} is not a run (no {recipe_file}).",
            run_directory=run_directory,
            recipe_file=RECIPE_FILE,
        )
    report = run_recipe(read_recipe(file, read_json(file)), run_directory)
    if first_process():
        show(report, json, _summary(report, run_directory))


@app.command(**verb("report"))
def report(run_directory: Path, /, *, json: Flag = False) -> None:
    """Show the figures of a run, finished or under way, and where its report.html is."""
    import dataclasses

    from hanlin.report.summary import run_state, state_text

    state = run_state(run_directory)
    found = (
        state.report
        if state.report is not None and not state.changed
        else dataclasses.asdict(state) | {"unfinished": state.unfinished}
    )
    show(found, json, state_text(state, run_directory))


for name in ("ablate", "scaling"):
    app.command(f"hanlin.cli.experiments:{name}", name=name, **verb(name))
app.command("hanlin.cli.arena:judge", name="judge", **verb("judge"))
app.command("hanlin.cli.compare:compare", name="compare", **verb("compare"))


# ------------------------------------------------------------------ text

_GROUPS = ("corpus", "tokenizer", "dataset", "data", "recipe", "export", "inspect", "arena")
corpus_app, tokenizer_app, dataset_app, data_app, recipe_app, export_app, inspect_app, arena_app = (
    App(name=name, **verb(name)) for name in _GROUPS
)
for sub in (corpus_app, tokenizer_app, dataset_app, export_app, data_app, recipe_app, inspect_app, arena_app):
    app.command(sub)


def _add_verbs(group: App, prefix: str, **functions: str) -> None:
    """Verbs whose file is loaded when one of them is asked for."""
    for name, function in functions.items():
        group.command(f"{prefix}:{function}", name=name, **verb(f"{group.name[0]} {name}"))


_add_verbs(
    corpus_app,
    "hanlin.cli.corpus",
    **{name: name for name in ("build", "stats", "inspect", "diff", "score", "canary")},
)
_add_verbs(
    tokenizer_app,
    "hanlin.cli.tokenizer",
    **{name: f"tokenizer_{name}" for name in ("train", "encode", "inspect", "compare", "advise")},
)
_add_verbs(recipe_app, "hanlin.cli.recipe", upgrade="upgrade")
_add_verbs(data_app, "hanlin.cli.data", list="list_sets", fetch="fetch_set")
_add_verbs(data_app, "hanlin.cli.sample", sample="sample")
_add_verbs(dataset_app, "hanlin.cli.dataset", build="build", tail="tail")
_add_verbs(inspect_app, "hanlin.cli.inspect", spike="spike", model="model")
_add_verbs(
    arena_app,
    "hanlin.cli.arena",
    **{name: name for name in ("build", "serve", "report", "export", "forget")},
    **{"import": "import_votes"},
)


def bytes_of(size: str) -> int:
    """`4GiB` or `500MB` as bytes; half of the machine's memory for an empty one."""
    if not size:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 if hasattr(os, "sysconf") else 0
    units = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?i?)b?", size.strip().lower())
    if match is None or match[2] not in units:
        raise HanlinError("Not a size: {size!r}. Write it as 4GiB or 500MB.", size=size)
    return int(float(match[1]) * units[match[2]])


# ------------------------------------------------------------------ single stages


def _stage(kind: str, config: Path, out: Path, overrides: tuple[str, ...]) -> None:
    from hanlin.pipeline.stage_command import run_stage

    _show_once(run_stage(kind, config, out, overrides))


def _show_once(result: Any) -> None:
    if first_process():
        show(result, True)


def _add_stage(name: str, kind: str, others: tuple[str, ...]) -> None:
    def command(*overrides: str, config: Path, out: Path) -> None:
        _stage(kind, config, out, overrides)

    app.command(command, name=(name, *others), **verb(name))


def _pretrain(
    *overrides: str,
    config: Path,
    out: Path,
    params: str | None = None,
    depth: int | None = None,
    tokens: str | None = None,
) -> None:
    from hanlin.pipeline.stage_command import run_stage

    sizing = {
        name: value
        for name, value in (("params", params), ("depth", depth), ("tokens", tokens))
        if value is not None
    }
    _show_once(run_stage("pretrain", config, out, overrides, sizing))


app.command(_pretrain, name="pretrain", **verb("pretrain"))
# Verb → kind of stage; some verbs have a second name that people know.
for verb_name, kind, others in (
    ("sft", "sft", ()),
    ("distill", "distill", ()),
    ("on-policy-distill", "on_policy_distill", ()),
    ("preference", "preference", ("dpo",)),
    ("reward", "reward_model", ()),
    ("rl", "rl", ("grpo",)),
):
    _add_stage(verb_name, kind, others)


# ------------------------------------------------------------------ using a model


app.command("hanlin.cli.evaluate:evaluate", name="eval", **verb("eval"))
app.command("hanlin.cli.card:card", name="card", **verb("card"))
app.command("hanlin.cli.merge:merge", name="merge", **verb("merge"))


@app.command(**verb("generate"))
def generate(
    model: Path,
    *prompts: str,
    chat: Flag = False,
    adapter: Path | None = None,
    max_new_tokens: int = 128,
    temperature: float = 0.7,
    seed: int = 0,
    json: Flag = False,
) -> None:
    """Continue texts, or with --chat answer them.

    Parameters
    ----------
    prompts
        Texts; a line each from stdin when there are none.
    chat
        Answer as in a conversation.
    adapter
        Directory of an adapter that was trained on this model.
    """
    from hanlin.inference import SamplingParams, generate_text, load_chat_model, resolve_model_dir

    if not prompts and sys.stdin is None:
        raise HanlinError(
            "No text was given and standard input is closed: there is nothing to continue. Write: hanlin "
            "generate MODEL TEXT."
        )
    params = SamplingParams(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    loaded, tokenizer = load_chat_model(model, adapter=adapter)
    texts = list(prompts) or [line.rstrip("\n") for line in sys.stdin]
    asked: list[Any] = [[{"role": "user", "content": text}] for text in texts] if chat else texts
    answers = generate_text(loaded, tokenizer, asked, params=params)
    shown = "\n\n".join(a if chat else p + a for p, a in zip(texts, answers, strict=True))
    show([{"prompt": p, "text": a} for p, a in zip(texts, answers, strict=True)], json, shown)
    silent = answers.count("")
    if silent and max_new_tokens:
        before = resolve_model_dir(model).parent / "models" / "pretrain"
        advice = Text("Try another --seed or another beginning.")
        if not chat and before.is_dir():
            advice = Text("To continue texts use the model that was only pretrained: {before}", before=before)
        print(
            tr(
                "The model ended at once and wrote nothing ({silent}/{count}). {advice}",
                silent=silent,
                count=len(texts),
                advice=advice,
            ),
            file=sys.stderr,
        )


@app.command(**verb("chat"))
def chat(
    model: Path,
    /,
    *,
    adapter: Path | None = None,
    device: str | None = None,
    temperature: float | None = None,
    max_new_tokens: int | None = None,
    seed: int | None = None,
) -> None:
    """Talk to a model in the terminal.

    Parameters
    ----------
    adapter
        Directory of an adapter that was trained on this model.
    """
    from hanlin.cli.chat import chat as talk

    options = {
        "adapter": adapter,
        "temperature": temperature,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
    }
    talk(model, device=device, **{name: value for name, value in options.items() if value is not None})


@app.command(**verb("serve"))
def serve(
    model: Path,
    /,
    *,
    adapter: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    allow_origin: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    device: str | None = None,
) -> None:
    """Serve a model: OpenAI-compatible API and a chat page.

    Parameters
    ----------
    adapter
        NAME=DIR, an adapter that was trained on this model, which clients call by its name; may be repeated.
    host
        Another address than 127.0.0.1 needs an API key.
    port
        Port.
    api_key
        Required of every request when set (or HANLIN_API_KEY).
    allow_origin
        A web page's origin, http://localhost:3000 for example, whose scripts may call the API; may be
        repeated. "*" for all needs an API key.
    """
    from hanlin.serving import serve as start

    api_key = api_key or os.environ.get("HANLIN_API_KEY")
    start(
        model,
        host=host,
        port=port,
        api_key=api_key,
        adapters=adapter,
        origins=allow_origin,
        device=device,
    )


export_app.command("hanlin.cli.export:gguf", name="gguf", **verb("export gguf"))
export_app.command("hanlin.cli.export:adapter", name="adapter", **verb("export adapter"))


@app.command(**verb("doctor"))
def doctor(*, json: Flag = False) -> None:
    """Show the environment, and what would help."""
    from hanlin.cli.doctor import examine, render

    found = examine()
    show(found, json, render(found))


def _program() -> str:
    """How this program was called, to be typed again."""
    program = sys.argv[0]
    if os.path.basename(program) in ("cli.py", "__main__.py"):
        return "hanlin"
    found = shutil.which(os.path.basename(program))
    return (
        os.path.basename(program)
        if found and os.path.realpath(found) == os.path.realpath(program)
        else program
    )


def main() -> None:
    """Entry point: 0 done, 1 failed with a message, 2 wrong usage, 130 or 143 interrupted (Ctrl-C, SIGTERM)
    with the state saved."""
    # Threads that spin for some microseconds and then sleep. Spinning on, as they do by themselves, slows
    # training tenfold on a machine with other work; sleeping at once costs a fifth of the speed on one
    # without (both measured here, docs/*/lab-log.md).
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if isinstance(
        sys.stdout, io.TextIOWrapper
    ):  # an ASCII terminal sees escapes in place of Chinese, and no stack trace
        sys.stdout.reconfigure(errors="backslashreplace")
    if (
        language_unsaid()
        and first_process()
        and sys.stdout.isatty()
        and sys.stderr.isatty()
        and "--json" not in sys.argv
    ):
        print("中文：export HANLIN_LANG=zh", file=sys.stderr)
    try:
        app(sys.argv[1:])
    except HanlinError as error:
        if not error.already_reported:
            print(
                tr("error: ") + for_stream(str(error), sys.stderr),
                file=sys.stderr,
            )
        raise SystemExit(1) from None
    except KeyboardInterrupt as error:
        if not first_process():
            raise SystemExit(128 + getattr(error, "signal", signal.SIGINT)) from None
        again = shlex.join([_program(), *sys.argv[1:]])
        message = tr(
            "Interrupted. What was finished is saved and nothing is half-written. To go on from there:\n  "
            "{again}",
            again=again,
        )
        print("\n" + message, file=sys.stderr)
        raise SystemExit(128 + getattr(error, "signal", signal.SIGINT)) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except OSError as error:
        print(
            tr("error: ") + f"{error.strerror or error}" + (f" ({error.filename})" if error.filename else ""),
            file=sys.stderr,
        )
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
