"""The corpus artefact: read, clean, search for duplicates, hold some documents out, mix, shuffle, write, and
account for every document.

A build is a row of phases (`tasks.Phase`), each of independent tasks, that leave their results in
`.NAME.state` beside the output. Any number of processes, or datatrove's executors on a cluster, come to the
same bytes; a build that was killed goes on where it was. Texts wait on disk; in memory a task holds a few
batches of them, and a few dozen bytes for each of its documents.
"""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import orjson
import zstandard

from hanlin.common.atomic import atomic_write, read_json, write_json
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import artifact, read_manifest
from hanlin.common.messages import Text, joined, listing, tr
from hanlin.common.progress import Progress
from hanlin.common.savepoint import Savepoint, files_key
from hanlin.common.target import refuse_foreign_target
from hanlin.corpus.builder.ingest import SKETCH, IngestTask, ShardSet, read_so_far
from hanlin.corpus.builder.job import CorpusConfig, shards
from hanlin.corpus.builder.remove_boilerplate import BoilerplateRemoval
from hanlin.corpus.builder.tasks import Phase, run_phases
from hanlin.corpus.builder.tasks import Progress as Tell
from hanlin.corpus.builder.writer import Output, add_up_stats, sizes_of
from hanlin.corpus.dedup.decontamination import Benchmarks
from hanlin.corpus.dedup.search import LEAST_MEMORY, DuplicateSearch
from hanlin.corpus.filters.rule_names import rule_name
from hanlin.corpus.readers.files import Damaged, expand, expected_bytes
from hanlin.corpus.readers.read import check_inputs, damaged_inputs
from hanlin.corpus.readers.schema_types import Document

__all__ = ["CorpusConfig", "CorpusJob", "build_corpus", "read_corpus"]

MEMORY = 1 << 30
STATE = 2  # version of what an interrupted build leaves; one of another version begins anew
_MEGABYTE = 1_000_000
Part = Literal["documents", "heldout"]
Page = Callable[[Path, Mapping[str, Any]], str]
PAGE = "report.html"
# runs phases one after another; seconds of work of each
Engine = Callable[[Sequence[Phase], Tell], Mapping[str, float]]
DEFAULT = CorpusConfig()
_NAMES = ("documents", "characters", "bytes")
TITLES = {
    "clean": Text("read and clean"),
    "copies": Text("find copies"),
    "lines": Text("count lines"),
    "common": Text("find boilerplate"),
    "remove_boilerplate": Text("remove boilerplate"),
    "exact": Text("exact duplicates"),
    "pairs": Text("candidate pairs"),
    "decide": Text("near duplicates"),
    "select": Text("choose documents"),
    "clusters": Text("clusters"),
    "write": Text("write"),
    "finalize": Text("shuffle and compress"),
}


def build_corpus(
    sources: str | Path | Iterable[str | Path] | Iterable[Mapping[str, Any]],
    out: str | Path,
    config: CorpusConfig = DEFAULT,
    *,
    seed: int = 0,
    key: str = "",
    workers: int = 1,
    memory: int = MEMORY,
    progress: Progress | None = None,
    page: Page | None = None,
    engine: Engine | None = None,
    in_recipe: bool = False,
) -> Path:
    """Write the corpus artefact at `out`.

    `documents.jsonl.zst` and `heldout.jsonl.zst` hold `{"text", "source", "tag"?}`, `quarantine.jsonl` the
    records that could not be read, `report.json` what each rule dropped with samples, and each source's
    figures, `clusters.jsonl.zst` the duplicates, `report.html` shows it all to people.

    Args:
        sources: paths, directories and globs, or documents `{"text", "source"?}`.
        seed: decides which documents are held out, and their order.
        key: stored in the manifest for a pipeline to compare.
        workers: processes. With more than one, a script that calls this needs `if __name__ == "__main__":`,
            as `multiprocessing` does.
        memory: bytes that the search for duplicates may take, in all.
        page: makes `report.html`, see `CorpusJob.finish`; without it there is none.
        engine: runs the tasks in place of `workers` processes here, such as `executors.Datatrove`; for files
            only. With tasks on several machines, each may take `memory` / `workers`.
        in_recipe: whether settings are those of a recipe's `corpus` section, and not flags: messages name
            them so.

    Raises:
        HanlinError: unreadable input (see `read_documents`), or nothing left after cleaning.
    """
    out, progress = Path(out), progress or Progress()
    paths, documents = _documents(sources)
    refuse_foreign_target(
        out, "corpus", [*(paths or ()), *(item for item in config.decontaminate if os.path.exists(item))]
    )
    skip = "" if config.skip_bad else "corpus.skip_bad=true" if in_recipe else "--skip-bad"
    if paths is not None and skip:
        check_inputs(paths, "documents", text_key=config.text_key, skip=skip)
    if engine and paths is None:
        raise HanlinError("On a cluster a corpus is made of files. Write the documents to files first.")
    named = files_key(paths, [config.identity(), seed, STATE]) if paths is not None else ""
    with Savepoint(out, named) as savepoint:
        # ranks of a job with other settings that still run somewhere stay apart
        work = savepoint.folder / (named[:16] or "work")
        job = CorpusJob(
            work,
            config,
            paths,
            documents,
            seed=seed,
            workers=workers,
            memory=memory,
            progress=progress,
            in_recipe=in_recipe,
        )
        savepoint.save({"begun": True})
        try:
            seconds = job.run(engine)
            job.finish(out, seconds, key, page)
        except HanlinError as error:
            if (
                len(job.phases[0].missing()) == job.phases[0].count() or job.fruitless
            ):  # nothing there that would spare work
                savepoint.state = None
            if (
                isinstance(error, Damaged)
                and paths
                and len(paths) > 1
                and (damaged := damaged_inputs(paths, skip))
            ):
                raise damaged from error  # all that are, and not one a run
            raise
    return out


def read_corpus(path: str | Path, part: Part = "documents") -> Iterator[Document]:
    """Stream a corpus artefact's documents, or its held-out ones, in order.

    Raises:
        HanlinError: not a corpus, or damaged.
    """
    path = Path(path)
    read_manifest(path, "corpus")
    return read_lines(path / f"{part}.jsonl.zst")


def read_lines(path: Path) -> Iterator[Any]:
    """The values of a compressed file of JSON lines."""
    with (
        open(path, "rb") as file,
        zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as stream,
    ):
        for line in io.BufferedReader(cast(Any, stream), 1 << 20):
            yield orjson.loads(line)


def _documents(sources: Any) -> tuple[list[Path] | None, Iterable[Mapping[str, Any]]]:
    """Paths to read, or the documents themselves; the first item of an iterable tells which."""
    if isinstance(sources, (str, os.PathLike)):
        return expand(sources), ()
    items = iter(sources)
    first = next(items, None)
    if first is None:
        raise HanlinError("No corpus was given.")
    if isinstance(first, (str, os.PathLike)):
        return expand([first, *items]), ()

    def chained() -> Iterator[Document]:
        yield cast(Document, first)
        yield from items

    return None, chained()


@dataclass(frozen=True)
class _Search:
    """The search for duplicates as tasks; each makes its own `DuplicateSearch`, which finds on disk what the
    others did."""

    config: CorpusConfig
    shards: tuple[Path, ...]
    folder: Path
    memory: int

    def _search(self) -> DuplicateSearch:
        self.folder.mkdir(parents=True, exist_ok=True)
        return DuplicateSearch(
            [folder / SKETCH for folder in self.shards], self.config.dedup, self.folder, memory=self.memory
        )

    @property
    def wanted(self) -> bool:
        return self.config.dedup.exact or self.config.dedup.near

    @property
    def result(self) -> Path | None:
        return self.folder / "duplicates" if self.wanted else None

    def ranges(self) -> int:
        return len(self._search().ranges()) if self.config.dedup.near else 0

    def exact(self, _: int, __: Path) -> None:
        self._search().find_exact()

    def pairs(self, task: int, _: Path) -> None:
        self._search().find_pairs(task)

    def decide(self, _: int, folder: Path) -> None:
        search = self._search()
        if not search.result.is_file():
            search.decide(ShardSet(list(self.shards)), scratch=folder)

    def copies(self, _: int, folder: Path) -> None:
        """The whole search, where it is for equal documents alone."""
        self.exact(0, folder)
        self.decide(0, folder)


class CorpusJob:
    """A build as a row of phases, to be run here or by executors of datatrove; `executors.Datatrove` does
    the whole of it.

    Example, for a Ray cluster with a shared file system:
        job = CorpusJob("/shared/work", config, files)
        for phase in job.phases:
            RayPipelineExecutor([phase], tasks=64, logging_dir=f"/shared/logs/{phase.name}").run()
        job.finish("/shared/corpus")

    Attributes:
        phases: in their order; each is a step that datatrove can run with any number of tasks.
    """

    def __init__(
        self,
        folder: str | Path,
        config: CorpusConfig,
        files: Iterable[str | Path] | None,
        documents: Iterable[Mapping[str, Any]] = (),
        *,
        seed: int = 0,
        workers: int = 1,
        memory: int = MEMORY,
        progress: Progress | None = None,
        in_recipe: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.config, self.seed = config, seed
        self._identity, self._parents = config.identity(), config.parents()
        self.fruitless = False
        self._wider = "corpus.preset=" if in_recipe else "--preset "
        self._paths = expand(list(files)) if files is not None else []
        self._workers, self._progress = workers, progress or Progress()
        plan = tuple(tuple(shard) for shard in shards(self._paths, config)) if self._paths else ()
        ingest = IngestTask(
            config, plan, None if self._paths else documents, self._benchmarks(), self._show_reading
        )
        count = max(len(plan), 1)
        self._read, self._expected = 0, [sum(expected_bytes(Path(path)) for path in shard) for shard in plan]

        def folders(name: str) -> tuple[Path, ...]:
            return tuple(self.folder / name / f"{task:05d}" for task in range(count))

        memory = self._task_memory(memory // workers)
        self._cleaned = shard_folders = folders("clean")
        removing: tuple[Phase, ...] = ()
        if config.boilerplate.documents:
            removing = self._boilerplate_phases(shard_folders, folders("lines"), memory)
            shard_folders = folders("remove_boilerplate")
        self._search = _Search(config, shard_folders, self.folder / "search", memory)
        self.output = Output(
            config, seed, shard_folders, self._search.result, folders("select"), folders("write")
        )
        searching = (
            ()
            if not self._search.wanted
            else (
                Phase("exact", self.folder, _One(), self._search.exact),
                Phase("pairs", self.folder, self._search.ranges, self._search.pairs),
                Phase("decide", self.folder, _One(), self._search.decide),
            )
        )
        self.phases: tuple[Phase, ...] = (
            Phase("clean", self.folder, _One(count), ingest),
            *removing,
            *searching,
            Phase("select", self.folder, _One(count), self.output.select),
            Phase("clusters", self.folder, _One(), self.output.clusters),
            Phase("write", self.folder, _One(count), self.output.write, self.output.forget_texts),
            Phase("finalize", self.folder, self.output.buckets, self.output.finalize),
        )

    def _boilerplate_phases(
        self, shard_folders: tuple[Path, ...], counted: tuple[Path, ...], memory: int
    ) -> tuple[Phase, ...]:
        """The phases that take line boilerplate out."""
        only_equal = dataclasses.replace(
            self.config, dedup=dataclasses.replace(self.config.dedup, exact=True, near=False)
        )
        search = _Search(only_equal, shard_folders, self.folder / "equal", memory)
        removal = BoilerplateRemoval(
            self.config,
            shard_folders,
            self.folder / "equal" / "duplicates",
            counted,
            self.folder / "common" / "00000",
            memory,
        )
        return (
            Phase("copies", self.folder, _One(), search.copies),
            Phase("lines", self.folder, _One(len(shard_folders)), removal.count),
            Phase("common", self.folder, _One(), removal.find),
            Phase(
                "remove_boilerplate",
                self.folder,
                _One(len(shard_folders)),
                removal.remove,
                removal.forget_texts,
            ),
        )

    def _benchmarks(self) -> str:
        """The benchmarks' texts in one file, which every task reads."""
        if not self.config.decontaminate:
            return ""
        path = self.folder / "benchmarks.json"
        if not path.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            Benchmarks.read(self.config.decontaminate, self.config.overlap).save(path)
        return str(path)

    def _task_memory(self, memory: int) -> int:
        """What one task of the search may take: as it was when the job began, for its tasks hang on it,
        though not its result."""
        path = self.folder / "plan.json"
        if not path.is_file():
            write_json(path, {"task_memory": max(memory, LEAST_MEMORY)})
        return read_json(path)["task_memory"]

    def _show_reading(self, characters: int = 0) -> None:
        """Show how many megabytes have been read, of files by all processes; of documents handed over, how
        many thousand characters."""
        if not self._paths:
            self._progress.update(characters // 1000, characters // 1000 + 1, {})
            return
        # a task that is about to end is neither there nor under way
        self._read = max(self._read, read_so_far(self._cleaned, self._expected))
        whole = sum(self._expected)
        self._progress.update(max(self._read // _MEGABYTE, 1), max(whole // _MEGABYTE, 1), {})

    def run(self, engine: Engine | None = None) -> dict[str, float]:
        """All phases, by the processes of this machine or by another engine; seconds of work per phase."""
        engine = engine or (lambda phases, tell: run_phases(phases, self._workers, tell))
        numbers = {phase.name: number for number, phase in enumerate(self.phases, 1)}
        shown = ""

        def tell(phase: Phase, done: int, count: int) -> None:
            nonlocal shown
            if shown != phase.name:
                shown = phase.name
                unit = (
                    ""
                    if phase is not self.phases[0]
                    else tr(" (MB)")
                    if self._paths
                    else tr(" (thousand characters)")
                )
                self._progress.stage(numbers[phase.name], len(self.phases), f"{TITLES[phase.name]}{unit}")
            if phase is self.phases[0] and (self._paths or done < count):
                self._show_reading()
            elif count > 1 or done:
                self._progress.update(done, max(count, 1), {})

        seconds = engine(self.phases[:1], tell)
        self._check()
        return {**seconds, **engine(self.phases[1:], tell)}

    def _check(self) -> None:
        """Refuse a corpus of which nothing is left, before more is done with it."""
        stats, reasons, quarantined, _ = add_up_stats(self._cleaned)
        if sum(size[0] for size in stats.kept.values()):
            return
        self.fruitless = True
        read = sum(size[0] for size in stats.read.values())
        if not read and quarantined:
            named = "; ".join(f"{reason} × {count}" for reason, count in list(reasons.items())[:5])
            raise HanlinError(
                "No usable record; {quarantined} were not usable: {named}.",
                quarantined=quarantined,
                named=named,
            )
        self._refuse(read, {rule: about["count"] for rule, about in stats.drops.to_dict().items()})

    def _refuse(self, read: int, reasons: Mapping[str, int]) -> None:
        most = list(reasons.items())[:6]
        dropped = listing(joined([rule_name(rule), f" {count}"]) for rule, count in most)
        raise HanlinError(
            "No training document is left after cleaning ({read} read; dropped: {dropped}). Choose a wider "
            "preset ({wider}zh-short or none), or check that the input is Chinese text.",
            read=read,
            dropped=dropped or Text.in_context("dropped", "none"),
            wider=self._wider,
        )

    def finish(
        self,
        out: str | Path,
        seconds: Mapping[str, float] | None = None,
        key: str = "",
        page: Page | None = None,
    ) -> Path:
        """Put the artefact together at `out`, once all phases are complete.

        Args:
            seconds: of work per phase, as `run` returned them.
            page: makes `report.html` of the artefact's folder and of `config`, `seed`, `metrics` and
                `report` (what the manifest and report.json hold), such as
                `report.corpus_page.render_corpus`; rooms further right are not this one's to know.

        Raises:
            HanlinError: a phase is not complete, or no training document is left.
        """
        for phase in self.phases:
            if missing := phase.missing():
                raise HanlinError(
                    "The phase {phase} has {count} tasks to do: the corpus cannot be put together yet. Run "
                    "them first.",
                    phase=phase.name,
                    count=len(missing),
                )
        resolved = self._identity | {"cleaning": dataclasses.asdict(self.config.cleaning())}
        phases = {phase.name: phase for phase in self.phases}
        with artifact(
            Path(out),
            "corpus",
            parents=self._parents,
            config=resolved,
            seed=self.seed,
            key=key,
            views=(PAGE,),
        ) as writer:
            found = self.output.finish(writer.path, phases["finalize"].paths(), phases["clusters"].path(0))
            stats = found["stats"]
            dropped = {rule: about["count"] for rule, about in stats.drops.to_dict().items()}
            if not sizes_of(found["documents"])[0]:
                self.fruitless = True
                self._refuse(sizes_of(stats.read)[0], dropped)
            writer.metrics = self._metrics(found, dropped) | {
                "seconds": {name: round(value, 2) for name, value in (seconds or {}).items()}
            }
            writer.metrics["seconds_of_cleaning"] = {
                name: round(value, 2) for name, value in found["seconds"].items()
            }
            report = self._report(found)
            write_json(writer.path / "report.json", report)
            if page is not None:
                about = {"config": resolved, "seed": self.seed, "metrics": writer.metrics, "report": report}
                atomic_write(writer.path / PAGE, page(writer.path, about))
        return Path(out)

    def _metrics(self, found: Mapping[str, Any], dropped: Mapping[str, int]) -> dict[str, Any]:
        """Headline figures of the manifest."""
        counts = found["stats"].counts
        parts = {"read": found["stats"].read, "kept": found["documents"], "heldout": found["heldout"]}
        sizes = {part: dict(zip(_NAMES, sizes_of(size), strict=True)) for part, size in parts.items()}
        metrics: dict[str, Any] = {
            f"{name}_{part}": sizes[part][name] for part in ("read", "kept") for name in _NAMES
        }
        metrics |= {
            "heldout_documents": sizes["heldout"]["documents"],
            "heldout_bytes": sizes["heldout"]["bytes"],
            "dropped": dict(dropped),
        }
        if self.config.sample < 1:
            metrics["documents_not_sampled"] = counts["documents_not_sampled"]
        if self.config.mask_pii:
            metrics["masked"] = _named(counts, "masked ")
        if self.config.decontaminate:
            metrics["contaminated"] = _named(counts, "contaminated ")
        return metrics | {"quarantined": found["quarantined"], "quarantine_reasons": found["reasons"]}

    def _report(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """What `report.json` holds: `rules`, `lines`, samples, histograms, and per source what was read,
        cleaned, kept, held out and dropped."""
        stats, sources = found["stats"], {}
        for source, read in sorted(stats.read.items()):
            rules = stats.drops.by_source.get(source, {})
            lines = stats.lines.by_source.get(source, {})
            sizes = {
                "read": read,
                "cleaned": stats.kept.get(source, [0, 0, 0]),
                "kept": found["documents"].get(source, [0, 0, 0]),
                "heldout": found["heldout"].get(source, [0, 0, 0]),
                "dropped": sizes_of(rules),
            }
            sources[source] = {what: dict(zip(_NAMES, values, strict=True)) for what, values in sizes.items()}
            sources[source]["rules"] = {rule: size[0] for rule, size in sorted(rules.items())}
            sources[source]["lines"] = {rule: size[0] for rule, size in sorted(lines.items())}
            sources[source]["lengths"] = dict(
                sorted(stats.lengths[source].items(), key=lambda item: int(item[0]))
            )
            sources[source]["scripts"] = dict(sorted(stats.scripts[source].items()))
            sources[source]["weight"] = self.config.weight(source)
        return {
            "rules": stats.drops.to_dict(),
            "lines": stats.lines.to_dict(),
            "sources": sources,
            "kept": stats.stays.items(),
            "changed": {"count": stats.changed.count, "samples": stats.changed.items()},
            "masked": _named(stats.counts, "masked "),
            "contaminated": _named(stats.counts, "contaminated "),
            "hits": stats.hits.items(),
        }


@dataclass(frozen=True)
class _One:
    """A number of tasks that is known beforehand."""

    count: int = 1

    def __call__(self) -> int:
        return self.count


def _named(counts: Mapping[str, int], prefix: str) -> dict[str, int]:
    return {
        name.removeprefix(prefix): count for name, count in sorted(counts.items()) if name.startswith(prefix)
    }
