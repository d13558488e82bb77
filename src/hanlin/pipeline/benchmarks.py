"""`hanlin eval` on public benchmarks: from the files that the user downloaded to scores, a record of each
item, and a table. Interrupted, it goes on with the benchmark it was at."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from hanlin.common.atomic import atomic_write, read_json, write_json
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import MANIFEST, sha256_file
from hanlin.common.messages import Text, listing, tr
from hanlin.common.progress import Progress
from hanlin.common.terminal import table
from hanlin.dataset import TokenDataset
from hanlin.evaluation.benchmarks.base import BENCHMARKS, Benchmark, Verdict, read_items
from hanlin.evaluation.benchmarks.folder import Folder
from hanlin.evaluation.benchmarks.items import Form, Item
from hanlin.evaluation.benchmarks.own import PROMPTS, read_own
from hanlin.evaluation.benchmarks.run import Outcome, Question, ask, lm_eval_results
from hanlin.evaluation.benchmarks.sampling import sample
from hanlin.evaluation.benchmarks.suites import SUITE_PROTOCOL, SUITES, Entry
from hanlin.evaluation.benchmarks.written import judge
from hanlin.evaluation.contamination.verdict import contamination_line
from hanlin.evaluation.likelihood import CONTROL_TOKENS
from hanlin.evaluation.ngram import NGramModel
from hanlin.evaluation.statistics import Metric, ranking
from hanlin.inference import load_chat_model, resolve_model_dir
from hanlin.report.text import control_text
from hanlin.stages.base import content_hash

RESULTS = "results_hanlin.json"


@dataclasses.dataclass(frozen=True)
class Asked:
    """What `hanlin eval` was asked to do.

    Attributes:
        data: directory of the benchmarks' files.
        own: file of the user's own questions.
        names: of benchmarks, or `BENCHMARK/FORM`.
        suite: of `SUITES`, in place of names.
        protocol: empty for the suite's own, else `hanlin-zh`.
        split: empty for the benchmarks' own.
        shots: shown before each item.
        ngram: directory of the token dataset that the 5-gram control counts; that of the run which the model
            belongs to when absent.
    """

    model: Path
    data: Path | None = None
    own: Path | None = None
    names: tuple[str, ...] = ()
    suite: str = ""
    protocol: str = ""
    split: str = ""
    shots: int = 0
    chat: bool = False
    ngram: Path | None = None


def questions_of(asked: Asked, progress: Progress) -> list[Question]:
    """The benchmarks with their items, read and checked. Of a suite, those whose files are not there are said
    and left out.

    Raises:
        HanlinError: an unknown name, suite, protocol or form; no files of any.
    """
    if asked.own is not None:
        return _own_questions(asked.own, asked)
    assert asked.data is not None
    folder = Folder(asked.data)
    protocol = asked.protocol or SUITE_PROTOCOL.get(asked.suite, "hanlin-zh")
    found, missing = [], []
    for entry in _entries(asked):
        benchmark = BENCHMARKS.get(entry.benchmark)()
        if asked.suite and not benchmark.is_in(folder):
            missing.append(benchmark.name)
            continue
        found.append(_question(benchmark, entry, protocol, asked, folder, progress))
    if missing:
        progress.warn(
            "{data} has no files of {missing}: left out of the suite {suite}.",
            data=asked.data,
            missing=listing(dict.fromkeys(missing)),
            suite=asked.suite,
        )
    if not found:
        raise HanlinError("{data} has files of no benchmark that was asked for.", data=asked.data)
    return found


def _own_questions(file: Path, asked: Asked) -> list[Question]:
    """The user's own: those with choices by the likelihood of their texts and by that of their letters."""
    items, kind = read_own(file)

    class Own(Benchmark):
        name = file.stem
        title = Text.rendered(zh=file.stem, en=file.stem)
        licence = home = ""
        split = file.name
        counts = {}
        prompts = {"hanlin-zh": PROMPTS[kind]}

        def read(self, folder: Folder, split: str) -> Iterator[Item]:
            yield from items

        def check(self, item: Item, text: str) -> Verdict:
            return judge(item.answer, text)

    benchmark = Own()
    return [
        Question(
            benchmark,
            "hanlin-zh",
            form,
            prompt,
            file.name,
            tuple(items),
            chat=asked.chat and form == "answer",
        )
        for form, prompt in PROMPTS[kind].items()
    ]


def _entries(asked: Asked) -> list[Entry]:
    if asked.suite:
        if asked.suite not in SUITES:
            raise HanlinError(
                "There is no suite {suite!r}. There are: {known}.", suite=asked.suite, known=listing(SUITES)
            )
        return list(SUITES[asked.suite])
    entries = []
    for name in asked.names:
        benchmark, _, form = name.partition("/")
        known: Form | None = next((f for f in ("cloze", "letters", "pairs", "answer") if f == form), None)
        if form and known is None:
            raise HanlinError(
                "{name}: there is no form {form!r}. There are: {known}.",
                name=name,
                form=form,
                known=listing(("cloze", "letters", "pairs", "answer")),
            )
        entries.append(Entry(benchmark, form=known))
    return entries


def _question(
    benchmark: Benchmark, entry: Entry, protocol: str, asked: Asked, folder: Folder, progress: Progress
) -> Question:
    form, prompt = benchmark.prompt(protocol, entry.form)
    split = asked.split or benchmark.split
    items = read_items(benchmark, folder, split, progress.warn)
    if entry.sample:
        items = sample(items, entry.sample)
    shots = []
    if asked.shots:
        if not benchmark.shots_split:
            raise HanlinError("{benchmark} has no examples to show as shots.", benchmark=benchmark.name)
        shots = read_items(benchmark, folder, benchmark.shots_split, progress.warn)[: asked.shots]
    return Question(
        benchmark,
        protocol,
        form,
        prompt,
        split,
        tuple(items),
        entry.sample,
        tuple(shots),
        asked.chat and form == "answer",
    )


def evaluate_benchmarks(
    asked: Asked, out: Path | None, progress: Progress, todo: Sequence[Question] | None = None
) -> dict[str, Outcome]:
    """Ask everything; with `out`, keep `samples_NAME.jsonl` and `results_hanlin.json` there, and take from
    there what was asked before in the same way.

    Args:
        todo: what `questions_of` read, where it has been read before.

    Raises:
        HanlinError: see `questions_of`; no model.
    """
    todo = questions_of(asked, progress) if todo is None else todo
    model, tokenizer = load_chat_model(asked.model)
    model_hash = content_hash(resolve_model_dir(asked.model))
    control, ngram_hash = _ngram(asked, tokenizer.vocab_size)
    found: dict[str, Outcome] = {}
    progress.expect({question.name: float(len(question.items)) for question in todo})
    for number, question in enumerate(todo, start=1):
        key = question.key(model_hash, ngram_hash)
        kept = None if out is None else _kept(out, question.name, key)
        if kept is not None:
            found[question.name] = kept
            continue
        progress.stage(number, len(todo), question.name)
        done, count, began = 0, len(question.items), time.monotonic()

        def tell(items: int, count: int = count) -> None:
            nonlocal done
            done += items
            progress.update(done, count, {})

        outcome = ask(question, model, tokenizer, ngram=control, on_items=tell)
        found[question.name] = outcome
        main = outcome.metrics[question.name]
        progress.done(time.monotonic() - began, f"{main.value:.1%}")
        if out is not None:
            _keep(out, question.name, key, model_hash, outcome)
    progress.close()
    if out is not None:
        write_json(out / "results_lm_eval.json", lm_eval_results(found, {"model": str(asked.model)}))
    return found


def _ngram(asked: Asked, vocab_size: int) -> tuple[NGramModel | None, str]:
    """The 5-gram control of the model's training text, and the hash of what it counts."""
    folder = asked.ngram or asked.model / "dataset"
    if not (folder / MANIFEST).is_file():
        return None, ""
    training = TokenDataset(folder, verify=False)
    every = max(1, -(-len(training.tokens) // CONTROL_TOKENS))
    counted = [training.document(index) for index in range(0, len(training), every)]
    return NGramModel(vocab_size).fit(counted), training.manifest.content_hash


# ------------------------------------------------------------------ what is kept


def samples_file(out: Path, name: str) -> Path:
    """Where the items' records of a score are."""
    return out / f"samples_{name.replace('/', '_')}.jsonl"


def _keep(out: Path, name: str, key: str, model_hash: str, outcome: Outcome) -> None:
    """Write the items' records, then the entry that vouches for them."""
    out.mkdir(parents=True, exist_ok=True)
    file = samples_file(out, name)
    atomic_write(file, b"".join(orjson.dumps(sample) + b"\n" for sample in outcome.samples))
    results = read_results(out)
    results[name] = {
        "key": key,
        "model": model_hash,
        "samples_sha256": sha256_file(file),
        "metrics": {metric: value.to_dict() for metric, value in outcome.metrics.items()},
        "notes": dict(outcome.notes),
    }
    write_json(out / RESULTS, results)


def read_results(out: Path) -> dict[str, Any]:
    """The entries of `results_hanlin.json` by score; none where there is no such file."""
    file = out / RESULTS
    if not file.is_file():
        return {}
    found = read_json(file)
    if not isinstance(found, dict):
        raise HanlinError("{file} is not what hanlin eval writes. Give another --out.", file=file)
    return found


def _kept(out: Path, name: str, key: str) -> Outcome | None:
    """What is there already of this very question, whole."""
    entry, file = read_results(out).get(name), samples_file(out, name)
    if not isinstance(entry, dict) or entry.get("key") != key or not file.is_file():
        return None
    if sha256_file(file) != entry["samples_sha256"]:
        return None
    return Outcome(
        {metric: Metric.from_dict(value) for metric, value in entry["metrics"].items()},
        entry["notes"],
        read_samples(file),
    )


def read_samples(file: Path) -> list[dict[str, Any]]:
    """Records of items, ours or lm-evaluation-harness's.

    Raises:
        HanlinError: a line that is no record.
    """
    found = []
    for number, line in enumerate(file.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            found.append(orjson.loads(line))
        except orjson.JSONDecodeError as error:
            raise HanlinError(
                "{file}, line {line} is no JSON: {reason}.", file=file, line=number, reason=error
            ) from error
    return found


# ------------------------------------------------------------------ words

_VERDICTS = {
    "better": Text.in_context("verdict", "above it"),
    "worse": Text.in_context("verdict", "below it"),
    "overlap": Text.in_context("verdict", "no telling apart"),
    "few": Text("too few items to tell"),
}


def outcome_table(outcomes: dict[str, Outcome]) -> str:
    """Scores beside their controls, as a person reads them; below, what decides the numbers."""
    head = [
        tr("benchmark"),
        tr("items"),
        tr("score"),
        tr("interval"),
        tr("control"),
        "",
        tr("bits per byte"),
        tr("margin"),
    ]
    rows = [head]
    for name, outcome in outcomes.items():
        metric = outcome.metrics[name]
        control = ""
        verdict = ""
        if metric.control is not None:
            control = f"{control_text(metric.control.name)} {metric.control.value:.1%}"
            verdict = str(_VERDICTS[ranking(metric, metric.control, metric.higher_is_better)])
        bits = outcome.metrics.get(f"{name}/gold_bits_per_byte")
        margin = outcome.metrics.get(f"{name}/margin")
        rows.append(
            [
                name,
                f"{metric.n:,}",
                f"{metric.value:.1%}",
                f"{metric.low:.1%} – {metric.high:.1%}",
                control,
                verdict,
                "" if bits is None else f"{bits.value:.3f}",
                "" if margin is None else f"{margin.value:+.3f}",
            ]
        )
    lines = table(rows, right=(1, 2, 6, 7))
    for name, outcome in outcomes.items():
        notes = outcome.notes
        by = "  ".join(f"{rule} {value:.1%}" for rule, value in notes.get("by_normalisation", {}).items())
        lines.append("")
        lines.append(
            tr(
                "{name}: protocol {protocol}, {split}, {shots} shots; prompt {prompt}, data {data}.",
                name=name,
                protocol=notes["protocol"],
                split=notes["sample"] or notes["split"],
                shots=notes["shots"],
                prompt=notes["prompt_sha256"][:8],
                data=notes["data_sha256"][:8],
            )
        )
        if by:
            others = "  ".join(
                f"{control_text(rule)} {value:.1%}" for rule, value in notes["controls"].items()
            )
            lines.append(tr("  by rule ({main} decides): {by}", main=notes["main"], by=by))
            lines.append(tr("  controls: {controls}", controls=others))
        if notes.get("cut"):
            lines.append(
                tr(
                    "  {cut:.1%} of the items are longer than the model and lost their beginning",
                    cut=notes["cut"],
                )
            )
        if notes.get("straddling"):
            lines.append(
                tr(
                    "  {share:.1%} of the items have a token that holds the end of the question and the "
                    "beginning of a choice",
                    share=notes["straddling"],
                )
            )
        if notes.get("contamination"):
            lines.append("  " + contamination_line(notes["contamination"]))
    return "\n".join(lines)
