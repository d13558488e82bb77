"""The words of `--help`: what verbs and options say, and how a page of help is drawn.

What is said of one verb's parameter stands in the docstring of its function, in the form of numpydoc; the
catalogue of messages knows those texts too. Here is what is said of an option wherever its verb says nothing,
and what has no docstring.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cyclopts import Group
from cyclopts.help import DefaultFormatter

from hanlin.common.messages import Text, prefers_chinese, tr

if TYPE_CHECKING:
    from cyclopts.help import HelpPanel

# Groups and their verbs, in the order in which they are listed.
GROUPS: tuple[tuple[Text, tuple[str, ...]], ...] = (
    (Text("Begin"), ("run", "resume", "report", "recipe", "chat", "serve", "generate", "doctor")),
    (Text("Data"), ("data", "corpus", "tokenizer", "dataset")),
    (
        Text("Train one stage"),
        ("pretrain", "sft", "distill", "on-policy-distill", "preference", "reward", "rl"),
    ),
    (Text("Evaluate and export"), ("eval", "card", "arena", "judge", "merge", "export")),
    (Text("Research"), ("plan", "compare", "ablate", "scaling", "inspect")),
)

VERBS: dict[str, Text] = {
    "run": Text(
        "Run a recipe's whole life cycle; run it again to go on, or to recompute what a change touches"
    ),
    "resume": Text("Go on with an interrupted run, with the recipe it began with"),
    "report": Text("Show the figures of a run, finished or under way, and where its report.html is"),
    "chat": Text("Talk to a model in the terminal"),
    "serve": Text("Serve a model: OpenAI-compatible API and a chat page"),
    "generate": Text("Continue texts, or with --chat answer them"),
    "doctor": Text("Show the environment, and what would help"),
    "eval": Text(
        "Measure a model, with intervals: on the embedded held-out tasks, or bits per byte of files with "
        "--text"
    ),
    "merge": Text("Merge an adapter into its base: a plain model comes of it"),
    "card": Text("Write a model's card: README.md for people and hubs, with its scores"),
    "arena": Text("people compare models blindly: answers, voting page, ranking with intervals"),
    "arena build": Text("Have every model answer every prompt, for people to compare blindly afterwards"),
    "arena serve": Text("Serve the voting page and print a code for each rater"),
    "arena report": Text("Rank the models by the votes, with intervals, and write a page to print"),
    "arena export": Text("Write the votes to a file, or with --paper sheets to vote on without computers"),
    "arena import": Text("Read votes from a CSV file: of paper sheets that were filled in, or of an export"),
    "arena forget": Text("Delete a rater's votes and code"),
    "judge": Text("Have a model behind an OpenAI-compatible URL judge an arena's battles"),
    "export gguf": Text("Write a model as one GGUF file for llama.cpp"),
    "export adapter": Text("Write an adapter as PEFT or llama.cpp opens it"),
    "pretrain": Text(
        "Pretrain a model (configuration: docs/en/stages.md; --params 26m derives shape, steps and rates)"
    ),
    "sft": Text("Fine-tune a model on conversations"),
    "distill": Text("Fine-tune a model on conversations with a larger model's probabilities"),
    "on-policy-distill": Text("Let a model write, and imitate a larger one's probabilities of what it wrote"),
    "preference": Text("Optimise a model for preferences: DPO, SimPO, ORPO, KTO and others"),
    "reward": Text("Train a reward model"),
    "rl": Text("Optimise a model for checkable answers by GRPO"),
    "plan": Text(
        "Reckon before running: memory, speed, time, money; with --params, how each setting is derived"
    ),
    "compare": Text("Compare runs: figures, training curves, a picture"),
    "ablate": Text(
        "Measure what each setting of a pretraining contributes, with intervals, a table and a picture"
    ),
    "scaling": Text("Train a miniseries, fit the scaling law and advise on the size for a budget"),
    "corpus": Text("corpora: clean and deduplicate, look into, compare"),
    "tokenizer": Text("vocabulary: train, encode, inspect, compare"),
    "dataset": Text("encode text into token shards"),
    "export": Text("export a model"),
    "data": Text("public data sets known here"),
    "recipe": Text("recipes: rewrite one of the old shape"),
    "recipe upgrade": Text("Rewrite a recipe or a stage's file of the shape before stages were a list"),
    "inspect": Text("look into a training, or have a model examined"),
    "corpus build": Text(
        "Read, clean and deduplicate files into a corpus directory that accounts for every document"
    ),
    "corpus stats": Text("Show figures by source and by rule"),
    "corpus inspect": Text("Look at what was dropped, changed, found twice"),
    "corpus diff": Text("Show which documents only one of two corpora has"),
    "corpus score": Text("Train a quality score on good and bad examples, or score files with one"),
    "corpus canary": Text(
        "Write documents with canaries for a training corpus: what looks for contamination should find them"
    ),
    "tokenizer train": Text("Learn a byte-level BPE vocabulary from text or corpus files"),
    "tokenizer encode": Text("Show the tokens of a text (or of stdin)"),
    "tokenizer inspect": Text(
        "Show a vocabulary as people read it: shares of scripts, longest, rarest and suspicious tokens"
    ),
    "tokenizer compare": Text("Compare tokenizers on files"),
    "tokenizer advise": Text("Advise on a vocabulary size for a model of so many parameters"),
    "data list": Text("List public data sets: where they are, their fields and licences"),
    "data sample": Text("Let a model write training data: right answers, pairs, pairs against itself"),
    "data fetch": Text("Download a public data set, checked and resumed; its licence is shown first"),
    "dataset build": Text("Encode a corpus directory, or files of any layout, into token shards"),
    "dataset tail": Text("Whether the end of each source is dirtier than the rest of it"),
    "inspect spike": Text("Show the documents of skipped steps, worst first"),
    "inspect model": Text("Have doctors examine a model, and say what to do"),
}

# Said of an option wherever the docstring of its verb does not.
_COMMON: dict[str, Text] = {
    "json": Text("Print JSON on stdout."),
    "device": Text("auto, cpu or an accelerator."),
    "seed": Text("Random seed."),
    "model": Text("A model's directory, or a run's."),
    "config": Text("YAML file of the stage."),
    "overrides": Text("Dotted settings, such as train.steps=200, before those of the file."),
    "out": Text("Directory of the result; the same one again goes on."),
    "run_directory": Text("Directory of a run (--out of hanlin run)."),
    "corpus": Text("A corpus directory, from hanlin corpus build."),
    "files": Text("Paths, globs or directories."),
    "threads": Text("Threads, all cores when 0; the result does not depend on it."),
    "max_new_tokens": Text("Longest answer, in tokens."),
    "temperature": Text("Temperature; 0 takes the likeliest token each time."),
    "tokenizer": Text("A tokenizer's directory, or that of a model."),
    "params": Text("Parameters of the model, such as 26m; the rest follows."),
    "depth": Text("Layers instead of parameters."),
    "tokens": Text("To pretrain on, such as 500m; 20 a parameter when absent."),
    "limit": Text("Entries to show."),
    "picture": Text("Also write an SVG here."),
    "heldout": Text("Corpus directory or text files to measure on, for a file of hanlin pretrain."),
    "help": Text("Show this help."),
    "version": Text("Show the version."),
}

EXAMPLES: dict[str, tuple[tuple[str, Text], ...]] = {
    "": (
        ("hanlin run demo --out runs/demo", Text("from raw text to a model you can talk to")),
        ("hanlin chat runs/demo", Text("talk to it")),
        ("hanlin doctor", Text("look at this machine")),
    ),
    "run": (
        ("hanlin run demo --out runs/demo", Text("the embedded corpus: no data needed")),
        ("hanlin run zh-mini --corpus data/ --sft chats.jsonl --out runs/mine", Text("your own data")),
        ("hanlin run demo pretrain.train.steps=200 --out runs/short", Text("change a setting")),
    ),
    "report": (("hanlin report runs/demo", Text("how far it is, and its figures")),),
    "chat": (
        ("hanlin chat runs/demo", Text("talk")),
        ("hanlin chat runs/demo --temperature 0", Text("the same words each time")),
    ),
    "serve": (
        ("hanlin serve runs/demo", Text("open http://127.0.0.1:8000 in a browser")),
        ("hanlin serve runs/demo --host 0.0.0.0 --api-key SECRET", Text("for other machines too")),
    ),
    "generate": (
        ("hanlin generate runs/demo/models/pretrain 周六早上，天气很好。", Text("go on with a text")),
        ("hanlin generate runs/demo 你好，你是谁？ --chat", Text("answer")),
    ),
    "eval": (
        ("hanlin eval runs/demo --count 200", Text("the embedded tasks")),
        ("hanlin eval runs/mine --text data/unseen.jsonl", Text("bits per byte of unseen text")),
        (
            "hanlin eval runs/mine questions.csv --corpus corpora/mine --canary canaries.record.json",
            Text("was the model trained on these questions?"),
        ),
    ),
    "merge": (
        (
            "hanlin merge models/chat.adapter --out models/merged --text unseen.jsonl",
            Text("and how far it is from what was trained"),
        ),
        (
            "hanlin merge models/chat.adapter --out models/merged --onto original",
            Text("onto the base that was never quantised"),
        ),
    ),
    "card": (
        ("hanlin card runs/demo --scores eval/demo", Text("with the scores that hanlin eval --out kept")),
        ("hanlin card runs/demo --licence apache-2.0 --out cards/demo", Text("into another directory")),
    ),
    "arena": (
        (
            "hanlin arena build --models runs/a runs/b --prompts prompts.jsonl --out arenas/class",
            Text("every model answers every prompt"),
        ),
        ("hanlin arena serve arenas/class --raters 30 --lan", Text("a classroom votes")),
        ("hanlin arena report arenas/class", Text("the ranking, with intervals")),
    ),
    "judge": (
        (
            "hanlin judge arenas/class --url http://127.0.0.1:8000/v1 --model demo --plan",
            Text("how many requests and tokens"),
        ),
    ),
    "plan": (
        ("hanlin plan zh-26m --device rtx4090", Text("how long and how much on a 4090")),
        ("hanlin plan --params 26m", Text("how a 26M model's settings are derived")),
        ("hanlin plan zh-mini --vram 8", Text("does it fit 8 GiB")),
    ),
    "corpus build": (
        ("hanlin corpus build data/ --out corpora/mine --preset zh-web", Text("clean web text of your own")),
    ),
    "tokenizer train": (
        (
            "hanlin tokenizer train corpora/mine/documents.jsonl.zst --vocab-size 6400 --out tokenizers/mine",
            Text("learn a vocabulary"),
        ),
    ),
    "inspect model": (
        ("hanlin inspect model runs/demo", Text("all doctors")),
        ("hanlin inspect model runs/demo --doctors eos,loops", Text("two of them")),
    ),
    "compare": (
        ("hanlin compare runs/a runs/b --picture curves.svg", Text("figures side by side, curves drawn")),
    ),
    "ablate": (
        (
            "hanlin ablate demo --vary pretrain.train.muon=true,false --seeds 3 --out runs/muon",
            Text("does Muon help"),
        ),
    ),
}

_TITLES = {
    "Parameters": Text("Options"),
    "Commands": Text("Help"),
    "Arguments": Text("Arguments"),
}
_EMPTY = ("False", "()", "[]", "None", "", '""', "''")


@functools.cache
def _group(number: int) -> Group:
    title, _ = GROUPS[number]
    return Group(str(title), sort_key=number)


def group_of(verb: str) -> Group | None:
    """The group that a verb is listed in; the same object for all of its verbs."""
    return next((_group(number) for number, (_, verbs) in enumerate(GROUPS) if verb in verbs), None)


def words_of(names: Sequence[str], docstring: str) -> str:
    """What is said of an option, in the reader's language.

    Args:
        names: by which the option is known, with underscores.
        docstring: what the docstring of the verb's function says of it, in English; may be empty.
    """
    if docstring:
        text = " ".join(docstring.split())
        return tr(text)  # type: ignore[arg-type]  # no literal, but the catalogue has it
    return next((str(_COMMON[name]) for name in names if name in _COMMON), "")


def verb(path: str) -> dict[str, Any]:
    """Arguments of `App.command` for the verb of this path: group, help, examples and how the page is
    drawn."""
    found: dict[str, Any] = {"help_formatter": Words(), "help_epilogue": epilogue(path)}
    if path in VERBS:
        found["help"] = str(VERBS[path])
    group = group_of(path)
    if group is not None:
        found |= {
            "group": group,
            "sort_key": [verbs.index(path) for _, verbs in GROUPS if path in verbs][0],
        }
    return found


def epilogue(path: str) -> str:
    """The examples of a verb; nothing where there are none."""
    if path not in EXAMPLES:
        return ""
    lines = [f"  # {what}\n  {command}" for command, what in EXAMPLES[path]]
    return "\n".join([tr("Examples:"), *lines])


class Words(DefaultFormatter):
    """Draws a page of help in the reader's language."""

    def __call__(self, console: Any, options: Any, panel: HelpPanel) -> None:
        entries = [self._entry(entry, panel.format == "parameter") for entry in panel.entries]
        title = str(_TITLES[str(panel.title)]) if str(panel.title) in _TITLES else panel.title
        if str(panel.title) == "Commands" and any(
            not entry.positive_names[0].startswith("-") for entry in entries if entry.positive_names
        ):
            title = tr("Commands")
        super().__call__(console, options, panel.copy(entries=entries, title=title))

    def render_usage(self, console: Any, options: Any, usage: Any) -> None:
        """The line of the usage, its words translated."""
        if not prefers_chinese():
            super().render_usage(console, options, usage)
        elif usage:
            plain = str(usage).replace("Usage: ", "")
            for word in (Text("COMMAND"), Text("[OPTIONS]"), Text("[ARGS]")):
                plain = plain.replace(word.en, word.zh)
            console.print(tr("Usage: {usage}", usage=plain.strip()), markup=False, highlight=False)

    def _entry(self, entry: Any, option: bool) -> Any:
        names = [
            name.lstrip("-").replace("-", "_")
            for name in entry.positive_names
            if option or name.startswith("-")
        ]
        if entry.positional_label:
            names.append(entry.positional_label.lower().replace("-", "_"))
        notes = []
        if entry.default is not None and str(entry.default) not in _EMPTY:
            notes.append(tr("default: {default}", default=entry.default))
        if entry.required:
            notes.append(tr("required"))
        text = words_of(names, _description_text(entry.description) if option else "")
        description = " ".join([text, *(f"[{note}]" for note in notes)]).strip()
        return entry.copy(default=None, required=False, description=description or entry.description)


def _description_text(description: Any) -> str:
    """A description that cyclopts has made drawable, as text again."""
    if description is None:
        return ""
    drawn = getattr(description, "primary_renderable", description)
    return str(getattr(drawn, "plain", getattr(drawn, "markup", drawn)) or "").rstrip()
