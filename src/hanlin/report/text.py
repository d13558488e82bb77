"""The report's words in both languages: what each stage does, what each figure means. Names of report.json to
plain speech."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from hanlin.common.messages import Text, verbatim
from hanlin.corpus.filters.rule_names import RULE_NAMES
from hanlin.evaluation.benchmarks.base import BENCHMARKS
from hanlin.evaluation.statistics import Control, Metric
from hanlin.evaluation.tasks.base import task_entries

if TYPE_CHECKING:
    from typing_extensions import LiteralString


class MetricText(NamedTuple):
    """How a metric is called, what it counts, and whether it is a share (shown in per cent)."""

    name: Text
    meaning: Text
    share: bool = True


class StageText(NamedTuple):
    """A stage's title, and what it does."""

    title: Text
    does: Text


# Tasks bring their words with them.
METRICS: dict[str, MetricText] = {
    "cleaning/recall": MetricText(
        Text("Dirt removed"),
        Text("share of deliberately injected dirty documents that were removed"),
    ),
    "cleaning/false_positive_rate": MetricText(
        Text("Good documents lost"),
        Text("share of good documents removed by mistake; lower is better"),
    ),
    "bits_per_byte": MetricText(
        Text("Bits per byte"),
        Text("bits needed to predict each byte of unseen text; lower is better"),
        share=False,
    ),
    "answer_bits_per_byte": MetricText(
        Text("Bits per byte of answers"),
        Text("bits needed to predict each byte of unseen answers; lower is better"),
        share=False,
    ),
    "stop_rate": MetricText(
        Text("Ends by itself"),
        Text("share of answers that end before they are cut off"),
    ),
    "bleu": MetricText(
        Text("BLEU"), Text("n-grams shared with the reference answers, from 0 to 100"), share=False
    ),
    "chrf": MetricText(
        Text("chrF2"), Text("character n-grams shared with the reference answers, from 0 to 100"), share=False
    ),
    "rouge_l": MetricText(
        Text("ROUGE-L"), Text("longest common subsequence with the reference answers, in characters")
    ),
    "repetition_4": MetricText(
        Text("Repetition"), Text("share of 4-grams of characters that an answer repeats; lower is better")
    ),
    "repetition_4/references": MetricText(
        Text("Repetition of the references"), Text("the same of the reference answers")
    ),
    "reference_bits_per_byte": MetricText(
        Text("Bits per byte of the references"),
        Text("bits needed to predict each byte of the reference answers; lower is better"),
        share=False,
    ),
    "reference_perplexity": MetricText(
        Text("Perplexity of the references"),
        Text("per token, so not to be compared between tokenizers; lower is better"),
        share=False,
    ),
    "pair_accuracy": MetricText(
        Text("Pairs judged rightly"),
        Text("share of unseen pairs in which the better answer scores higher"),
    ),
    "reward_mean": MetricText(
        Text("Task reward"),
        Text("share of unseen problems that earn the reward"),
    ),
    "ends_by_itself": MetricText(
        Text("Ends by itself"),
        Text("share of answers that end before they are cut off"),
    ),
    "thinking_closes": MetricText(
        Text("Thinking closes"),
        Text("share of thoughts begun that reach </think>"),
    ),
    "inside_answered": MetricText(
        Text("Inside questions answered"),
        Text("share of questions from inside its world that were not declined"),
    ),
    "pairs_preferred": MetricText(
        Text("Pairs ranked rightly"),
        Text("share of unseen pairs whose better answer the model finds more likely"),
    ),
    "chosen_bits_per_token": MetricText(
        Text("Bits per token of preferred answers"),
        Text("bits needed to predict each token of unseen better answers; lower is better"),
        share=False,
    ),
    "greedy_repetition": MetricText(
        Text("Greedy repetition"),
        Text("share of 4-token runs of greedy replies that stood before in the reply"),
    ),
}

CONTROLS: dict[str, Text] = {
    "5-gram": Text("5-gram model"),
    "base": Text("base model"),
    "before": Text("previous model"),
    "direct": Text("same training, direct answers"),
    "length": Text("length alone"),
    "sft": Text("SFT for the same time"),
    "equal-time-sft": Text("SFT for the same time"),
    "alone": Text("the same questions asked alone"),
    "chance": Text("chance"),
    "majority": Text("the commonest label"),
    "longest": Text("the longest choice"),
    "answer only": Text("without the question"),
}

# What a run does besides the stages of its recipe, which bring their words with them; by kind.
STEPS: dict[str, StageText] = {
    "corpus": StageText(
        Text("Cleaning the text"),
        Text(
            "Every raw document is checked; garbled text, advertisements, page remains and duplicates are "
            "removed."
        ),
    ),
    "tokenizer": StageText(
        Text("Training the tokenizer"),
        Text("Bytes that often stand together become tokens, the units the model reads and writes."),
    ),
    "dataset": StageText(
        Text("Encoding the data set"),
        Text("All text is encoded once into tokens, in files that can be read directly."),
    ),
    "evaluation": StageText(
        Text("Final evaluation"),
        Text("The published model sits every test once more, on items it has never seen."),
    ),
    "export": StageText(
        Text("Export"),
        Text("One GGUF file is written, which llama.cpp, Ollama and their kin open as it is."),
    ),
}

FACTS: dict[str, Text] = {
    "documents_read": Text("documents read"),
    "documents_kept": Text("documents kept"),
    "characters_read": Text("characters read"),
    "characters_kept": Text("characters kept"),
    "bytes_read": Text("bytes read"),
    "bytes_kept": Text("bytes kept"),
    "documents": Text("documents"),
    "heldout_documents": Text("documents held out"),
    "heldout_bytes": Text("bytes held out"),
    "quarantined": Text("unreadable records"),
    "masked": Text("personal data masked"),
    "by_kind": Text("dirt by kind: injected · removed"),
    "by_seed": Text("score of each seed"),
    "seconds": Text("seconds of each training"),
    "last_merge_count": Text("count of the last merge"),
    "unreachable": Text("tokens never reached"),
    "unreachable_tokens": Text("unreachable tokens, in hexadecimal"),
    "sources": Text("documents by source"),
    "nothing_to_learn": Text("nothing to learn, left out"),
    "texts": Text("pretraining texts mixed in"),
    "skipped": Text("steps skipped"),
    "distinct_pretokens": Text("distinct pre-tokens"),
    "distinct_pieces": Text("distinct pieces"),
    "bigram_floor": Text("cut at character bigrams rarer than"),
    "passes": Text("passes over the corpus"),
    "characters": Text.in_context("how many", "characters"),
    "bytes": Text("bytes"),
    "tokens": Text("tokens"),
    "target_tokens": Text("tokens to learn"),
    "merges": Text("merges"),
    "parameters": Text("parameters"),
    "pairs": Text("pairs"),
    "training_seconds": Text("training seconds"),
    "equal_pairs": Text("pairs with the same answer twice"),
    "answers": Text("answers"),
    "good": Text("labelled good"),
    "bad": Text("labelled bad"),
    "too_long": Text("too long, left out"),
    "file": Text("file"),
}

CURVES: dict[str, Text] = {
    "bits_per_byte": Text("Bits per byte"),
    "reward": Text("Reward"),
    "accuracy": Text("Pairs judged rightly"),
    "chosen_log_ratio": Text("Better answers against the reference, log-probability per token"),
    "rejected_log_ratio": Text("Worse answers against the reference, log-probability per token"),
    "margin": Text("Margin"),
    "kl": Text("KL from the reference"),
    "loss": Text("Loss"),
    "lr": Text("Learning rate"),
    "grad_norm": Text("Gradient norm"),
    "tokens_per_second": Text("Tokens per second"),
}

RULES: dict[str, Text] = RULE_NAMES


# Names inside of facts.
PARTS: dict[str, Text] = {
    "grpo": Text("GRPO"),
    "sft": Text("control"),
    "spam": Text("spam"),
    "html": Text("HTML"),
    "system": Text("system"),
    "processor": Text("processor"),
    "cores": Text("cores"),
    "threads": Text("threads"),
    "memory_gib": Text("memory, GiB"),
    "device": Text("device"),
}

# Shown elsewhere, or of no use to a reader.
HIDDEN_FACTS = frozenset(
    {
        "dropped",
        "quarantine_reasons",
        "asked",
        "scores",
        "doctors",
        "references",
        "seconds_by_seed",
        "seconds_of_cleaning",
        "before",
        "curves",
        "sampled",
        "pretrained_bits_per_byte",
    }
)


_FORMS = {
    "cloze": Text("share of items whose right answer is the likeliest after the question"),
    "letters": Text("share of items whose right letter is the likeliest, the choices being listed"),
    "pairs": Text("share of pairs whose right sentence is the likelier"),
    "answer": Text("share of items whose written answer is right"),
}

_ENDINGS = {
    "/sampled": Text("(sampled)"),
    "/published": Text("(the published run)"),
}


def metric_text(name: str) -> MetricText:
    """A metric's words; `bits_per_byte/故事` is the part of `bits_per_byte` called 故事, and an unknown name
    explains itself."""
    for ending, added in _ENDINGS.items():
        if name.endswith(ending):
            plain = metric_text(name.removesuffix(ending))
            return plain._replace(name=Text("{plain} {added}", plain=plain.name, added=added))
    known = _known(name)
    if known is not None:
        return known
    base, _, part = name.partition("/")
    whole = _known(base)
    if whole is None:
        return MetricText(verbatim(name), Text(""), share=False)
    return whole._replace(name=Text("{known}: {part}", known=whole.name, part=part), meaning=Text(""))


def _known(name: str) -> MetricText | None:
    """The words of a metric or task of that very name."""
    task = task_entries().get(name)
    benchmark, _, form = name.partition("/")
    if benchmark in BENCHMARKS and form.partition("/")[0] in _FORMS:
        title = BENCHMARKS.get(benchmark).title
        return MetricText(Text("{title} ({form})", title=title, form=form), _FORMS[form.partition("/")[0]])
    return METRICS.get(name) if task is None else MetricText(task.title, task.meaning)


def in_words(sentence: Text, titles: Mapping[str, Text] | None = None) -> Text:
    """A sentence with the metrics' names of report.json, and the stages' ids, replaced by their words.

    Args:
        titles: the stages' by their ids.
    """
    titles = titles or {}
    names = "|".join(
        re.escape(name) for name in sorted({**METRICS, **task_entries(), **titles}, key=len, reverse=True)
    )
    pattern = re.compile(rf"(?<![\w/-])(?:{names})(?:/[\w-]+)*(?![\w/-])", re.ASCII)

    def words(name: str) -> Text:
        return titles[name] if name in titles else metric_text(name).name

    return Text.rendered(
        en=pattern.sub(lambda m: words(m[0]).en.lower(), sentence.en),
        zh=pattern.sub(lambda m: words(m[0]).zh, sentence.zh),
    )


def stage_text(stage: Mapping[str, Any]) -> StageText:
    """The words of an entry of report.json: its own, those of its kind of step, or its id."""
    title, does = stage.get("title"), stage.get("does")
    if title:
        return StageText(Text.from_dict(title), Text.from_dict(does) if does else Text(""))
    kind = stage.get("kind") or stage["id"]
    return STEPS.get(kind, StageText(KIND_TITLES.get(kind, verbatim(stage["id"])), Text("")))


# Stages bring their titles with them; these are for what has none yet: an entry of a recipe, a report of
# before.
KIND_TITLES = {
    "pretrain": Text("Pretraining"),
    "sft": Text("Supervised fine-tuning"),
    "preference": Text("Preference optimisation"),
    "reward_model": Text("Reward model"),
    "rl": Text("Reinforcement learning"),
}

_CUT = re.compile(r"(\d+)-gram on (\S+) tokens")


def control_text(name: str) -> Text:
    """A control's words; `5-gram on 10M tokens` counted fewer tokens than the model was trained on."""
    cut = _CUT.fullmatch(name)
    if cut is None:
        return lookup(CONTROLS, name)
    order = Text.in_context("order of an n-gram", "5") if cut[1] == "5" else cut[1]
    return Text("{order}-gram model (counted on {tokens} tokens only)", order=order, tokens=cut[2])


def lookup(table: dict[str, Text], name: str) -> Text:
    """The words for a name, or the name itself."""
    return table.get(name, verbatim(name))


def show(value: float, share: bool) -> str:
    """A value as people read it: `83.4%` of a share, `99.52%` near its ends, three decimals of anything
    else."""
    if not share:
        return f"{value:.3f}"
    return f"{100 * value:.2f}%" if 0 < value < 0.01 or 0.99 < value < 1 else f"{100 * value:.1f}%"


def show_difference(value: float, share: bool) -> str:
    """A difference as people read it: `+3.0` points of shares, three decimals of anything else."""
    return f"{100 * value:+.1f}" if share else f"{value:+.3f}"


def apart_text(value: float | None, low: float | None, high: float | None, share: bool) -> Text:
    """A difference with its interval, or the interval alone: `+3.0 points [+0.4, +5.6]`."""
    if low is None or high is None:
        return Text("interval not known")
    ends = f"[{show_difference(low, share)}, {show_difference(high, share)}]"
    if value is None:
        return Text("{ends} points", ends=ends) if share else verbatim(ends)
    shown = show_difference(value, share)
    return Text("{shown} points {ends}", shown=shown, ends=ends) if share else verbatim(f"{shown} {ends}")


def span(score: Metric | Control, share: bool, dash: bool = False) -> Text:
    """An interval as people read it, `[83.0%, 84.1%]` or `83.0% – 84.1%`; that of a mean of one item is not
    known."""
    if math.isinf(score.low):
        return Text("interval not known")
    low, high = show(score.low, share), show(score.high, share)
    shown = f"{low} – {high}" if dash else f"[{low}, {high}]"
    return verbatim(shown)


def duration(seconds: float) -> Text:
    """`3 分 20 秒`, `1 小时 05 分`."""
    seconds = max(0.0, seconds)
    if seconds < 60:
        shown = f"{seconds:.1f}" if seconds < 10 else f"{seconds:.0f}"
        return Text("{shown} s", shown=shown)
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return Text("{minutes} min {rest:02d} s", minutes=minutes, rest=rest)
    hours, minutes = divmod(minutes, 60)
    return Text("{hours} h {minutes:02d} min", hours=hours, minutes=minutes)


def memory(megabytes: float) -> str:
    """`640 MB`, `2.1 GB`, kept on one line."""
    return f"{megabytes:.0f}\u00a0MB" if megabytes < 1000 else f"{megabytes / 1000:.1f}\u00a0GB"


def esc(value: Any) -> str:
    """Any value as text that cannot become markup."""
    return html.escape(str(value), quote=True)


def both(message: LiteralString | Text, /, **fields: Any) -> str:
    """A text in two languages, escaped; the style sheet shows one."""
    text = Text.of(message, **fields)
    return f'<span lang="zh-CN">{esc(text.zh)}</span><span lang="en">{esc(text.en)}</span>'
