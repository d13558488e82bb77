"""The verbs of `hanlin corpus`. `cli` names them and loads this file when one is asked for; what is heavy
waits until one runs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanlin.cli.main import Flag, Many, bytes_of, show
from hanlin.common.errors import HanlinError
from hanlin.common.messages import listing, tr

if TYPE_CHECKING:
    from hanlin.corpus.builder.executors import Datatrove
    from hanlin.corpus.builder.job import CorpusConfig

_OVERRIDE = re.compile(r"[A-Za-z_]\w*(\.[^=/]+)*=.*", re.DOTALL)


def build(
    *files: str,
    out: Path,
    preset: str | None = None,
    config: Path | None = None,
    workers: int = 0,
    memory: str = "1GiB",
    heldout: float | None = None,
    mask_pii: Flag = False,
    decontaminate: Many = (),
    text_key: str | None = None,
    skip_bad: Flag = False,
    seed: int = 1,
    executor: str | None = None,
    tasks: int = 0,
    executor_option: Many = (),
    json: Flag = False,
) -> None:
    """Read, clean and deduplicate files into a corpus directory, with a page that accounts for every
    document.

    Killed or interrupted, the same command goes on where it was.

    Parameters
    ----------
    files
        Paths, globs or directories, every layout people have is recognised; and settings such as
        dedup.threshold=0.7, rules.min_chars=30, weights.web=2.
    out
        Directory of the corpus.
    preset
        Cleaning rules: zh-web, zh-short, books, code, dialogue, none.
    config
        YAML file of settings; those on the command line come before it.
    workers
        Processes; as many as there are cores when 0. The files do not depend on it. With Slurm or Ray: ranks
        at once; no limit when 0.
    memory
        That the search for duplicates may take, in all; with Slurm or Ray for each rank.
    heldout
        Share of each source's documents to keep out for evaluation.
    mask_pii
        Replace personal data by tags.
    decontaminate
        Files of benchmarks, or names such as c-eval that hanlin data fetch has fetched; documents that hold
        passages of them are dropped.
    text_key
        Key or column that holds the text, where it is not recognised.
    skip_bad
        Go on without files that cannot be read; they are counted and listed in quarantine.jsonl.
    seed
        Decides which documents are held out, and their order.
    executor
        Have datatrove run the tasks: local, slurm or ray. All machines must see the files and the output
        under the same paths.
    tasks
        Ranks the executor starts for each phase; one for each task when 0.
    executor_option
        name=value for the executor, such as partition=cpu time=20:00:00 (Slurm) or address=auto (Ray).
    """
    from hanlin.common.progress import make_progress
    from hanlin.common.target import refuse_foreign_target
    from hanlin.corpus.builder.build import PAGE, build_corpus
    from hanlin.corpus.builder.explain import stats, stats_text
    from hanlin.report.corpus_page import render_corpus

    flags = {
        "preset": preset,
        "heldout_fraction": heldout,
        "mask_pii": mask_pii or None,
        "decontaminate": decontaminate or None,
        "text_key": text_key,
        "skip_bad": skip_bad or None,
    }
    paths, resolved = _settings(
        files, config, {name: value for name, value in flags.items() if value is not None}
    )
    engine = _engine(executor, tasks, max(workers, 0), executor_option)
    here = 1 if executor in ("slurm", "ray") else workers if workers > 0 else os.cpu_count() or 1
    progress = make_progress()
    try:
        refuse_foreign_target(out, "corpus", [config] if config else [])
        build_corpus(
            paths,
            out,
            resolved,
            seed=seed,
            workers=here,
            memory=bytes_of(memory),
            progress=progress,
            page=render_corpus,
            engine=engine,
        )
    finally:
        progress.close()
    found = stats(out)
    page = tr("report (open it in a browser): {out}", out=out / PAGE)
    show(found["metrics"] | {"report": str(out / PAGE)}, json, f"{stats_text(found)}\n\n{page}")


def _engine(executor: str | None, tasks: int, workers: int, options: Sequence[str]) -> Datatrove | None:
    """What runs the tasks, None for processes of ours."""
    if executor is None:
        if tasks or options:
            raise HanlinError("--tasks and --executor-option go with --executor.")
        return None
    from hanlin.corpus.builder.executors import Datatrove, kind_of, parse_options

    kind = kind_of(executor)
    return Datatrove(kind, tasks, workers, parse_options(kind, options))


def _settings(
    arguments: Sequence[str], file: Path | None, flags: Mapping[str, Any]
) -> tuple[list[str], CorpusConfig]:
    """Paths to read, and the configuration: of the file, then of overrides, then of flags. Here nothing is
    held out unless it is asked for."""
    from hanlin.common.config import apply_overrides, build, load_yaml
    from hanlin.corpus.builder.job import CorpusConfig

    overrides = [item for item in arguments if _OVERRIDE.fullmatch(item) and not os.path.lexists(item)]
    values = {"heldout_fraction": 0.0} | (load_yaml(file) if file else {})
    values = apply_overrides(values, overrides) | dict(flags)
    where = str(file) if file and not overrides and not flags else tr("corpus settings")
    return [item for item in arguments if item not in overrides], build(CorpusConfig, values, where)


def stats(corpus: Path, /, *, json: Flag = False) -> None:
    """Show what a corpus holds: figures by source and by rule."""
    from hanlin.corpus.builder import explain

    found = explain.stats(corpus)
    show(found, json, explain.stats_text(found))


def inspect(
    corpus: Path,
    /,
    *,
    cluster: int | None = None,
    rule: str | None = None,
    find: str | None = None,
    limit: int = 20,
    json: Flag = False,
) -> None:
    """Look into a corpus: what rules dropped or changed, duplicates, documents that contain a text. Without
    an option: what can be looked at.

    Parameters
    ----------
    cluster
        Number of a cluster of duplicates, or of a document in one.
    rule
        Samples of what this rule dropped; `kept` and `changed` for those of documents that stayed.
    find
        Documents that contain this text.
    """
    from hanlin.corpus.builder import explain

    asked = [
        name
        for name, value in {"--cluster": cluster, "--rule": rule, "--find": find}.items()
        if value is not None
    ]
    if len(asked) > 1:
        raise HanlinError("Give one of {asked} at a time.", asked=listing(asked))
    limit = max(limit, 1)
    if cluster is not None:
        found = explain.cluster(corpus, cluster)
        show(found, json, explain.cluster_text(found, limit))
    elif rule is not None:
        found = explain.samples(corpus, rule)[:limit]
        show(found, json, explain.samples_text(found))
    elif find is not None:
        found = explain.find(corpus, find, limit)
        nothing = tr("No document contains {find!r}.", find=find)
        show(found, json, explain.samples_text(found) if found else nothing)
    else:
        found = explain.contents(corpus, limit)
        show(found, json, explain.contents_text(found, corpus))


def diff(left: Path, right: Path, /, *, json: Flag = False) -> None:
    """Show which documents only one of two corpora has; other punctuation or spaces make no other document.

    Parameters
    ----------
    left
        A corpus directory.
    right
        Another corpus directory.
    """
    from hanlin.corpus.builder import explain

    found = explain.difference(left, right)
    show(found, json, explain.difference_text(found))


def score(
    *files: str,
    model: Path | None = None,
    good: Many = (),
    bad: Many = (),
    out: Path | None = None,
    ngrams: str = "1-3",
    max_class_chars: int = 8_000_000,
    seed: int = 1,
    json: Flag = False,
) -> None:
    """Train a quality score on good and bad examples, or score files with one.

    Parameters
    ----------
    files
        To be scored: paths, globs or directories.
    model
        A trained scorer, for scoring.
    good
        Files of good examples, for training.
    bad
        Files of bad examples, for training.
    out
        Directory for the trained scorer.
    ngrams
        Lengths of the character n-grams, such as 1-3 or 2,3.
    max_class_chars
        Characters of each class to learn from; a larger class is thinned by hash.
    """
    from hanlin.corpus.filters.quality import ScoreConfig, Scorer, deciles_text, score_files

    if model is not None and files and not (good or bad or out):
        found = score_files(Scorer.load(model), files)
        texts = [
            f"{name}: {tr('documents')} {item['documents']}, {tr('mean')} {item['mean']:.3f}, ≥ 0.5: "
            f"{item['at_least_half']:.1%}\n{deciles_text(item['deciles'])}"
            for name, item in found.items()
            if item["documents"]
        ]
        show(found, json, "\n\n".join(texts))
        return
    if not (good and bad and out) or files or model is not None:
        raise HanlinError(
            "To train: hanlin corpus score --good FILES --bad FILES --out DIR. To score: hanlin corpus "
            "score FILES --model DIR."
        )
    match = re.fullmatch(r"(\d)-(\d)", ngrams.strip())
    parts = [str(n) for n in range(int(match[1]), int(match[2]) + 1)] if match else ngrams.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise HanlinError("Not lengths of n-grams: {ngrams!r}. Write 1-3 or 2,3.", ngrams=ngrams)
    from hanlin.corpus.builder.quality_fit import fit_scorer, report_text

    report = fit_scorer(
        good, bad, out, ScoreConfig(orders=tuple(map(int, parts)), max_class_chars=max_class_chars), seed=seed
    )
    show(report, json, report_text(report))


def canary(*, out: Path, seed: int, times: str = "1,4,16", each: int = 20, json: Flag = False) -> None:
    """Write documents with canaries, to be mixed into a training corpus: what looks for contamination should
    find them there later.

    Beside them the record of what was planted is written; hanlin eval --canary takes it.

    Parameters
    ----------
    out
        File for the documents (jsonl).
    seed
        A number of your own: whoever knows it knows the canaries.
    times
        How often they are planted, a group for each.
    each
        Canaries of a group.
    """
    from hanlin.corpus.canaries import Canaries

    parts = [part.strip() for part in times.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise HanlinError("Not numbers of times: {times!r}. Write 1,4,16.", times=times)
    canaries = Canaries(seed, tuple(map(int, parts)), each)
    record = canaries.write(out)
    count = each * sum(canaries.times)
    show(
        {"documents": str(out), "count": count, "record": str(record)},
        json,
        tr(
            "{count} documents with canaries: {out}. Add the file to those that the corpus is built from, "
            "and keep {record} for hanlin eval --canary.",
            count=count,
            out=out,
            record=record,
        ),
    )
