"""Cells of a comparison: what they share is built once, each runs in a process of its own, finished ones are kept by key."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import orjson

from hanlin.common.atomic import read_json, write_json
from hanlin.common.config import to_dict
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import MANIFEST, hash_json, read_manifest
from hanlin.common.messages import Text, joined, tr
from hanlin.common.progress import Progress
from hanlin.common.savepoint import files_key
from hanlin.corpus.readers.files import expand
from hanlin.experiments.trial import RESULT, SPEC, heldout_documents
from hanlin.export import check_export
from hanlin.model import ModelShape
from hanlin.pipeline.recipe_run import RecipeRun
from hanlin.pipeline.run_context import RunContext
from hanlin.pipeline.stage_command import StageFile
from hanlin.pipeline.stage_run import publish
from hanlin.planning.measure_step import python_running
from hanlin.recipe.recipe import Recipe
from hanlin.stages.pretrain import PretrainConfig
from hanlin.tokenizer import load_tokenizer

_DATA: tuple[str, ...] = ("corpus", "tokenizer", "dataset")


@dataclasses.dataclass(frozen=True)
class Ground:
    """What cells of one vocabulary share.

    Attributes:
        heldout: where the held-out documents are, see `heldout_documents`.
        key: of the contents of all of it.
    """

    dataset: Path
    tokenizer: Path
    heldout: dict[str, Any]
    key: str
    vocab_size: int

    def check(self, model: ModelShape) -> None:
        """Refuse a model that could not be exported, before a step is taken."""
        words = load_tokenizer(self.tokenizer)
        check_export(model.config(words.vocab_size, words.eos_id), words)


@dataclasses.dataclass(frozen=True)
class CellSpec:
    """One cell: `task` is `train`, `probe` or `series`; `more` what that task wants to know besides."""

    name: str
    ground: Ground
    model: ModelShape
    pretrain: PretrainConfig
    seed: int
    device: str = "auto"
    task: str = "train"
    more: dict[str, Any] = dataclasses.field(default_factory=dict)

    def spec(self) -> dict[str, Any]:
        """The content of `cell.json`."""
        body = {
            "task": self.task,
            "model": to_dict(self.model),
            "pretrain": self.pretrain.training_identity(),
            "seed": self.seed,
            "device": self.device,
        } | self.more
        key = hash_json([body, self.ground.key])
        return body | {
            "key": key,
            "dataset": str(self.ground.dataset),
            "tokenizer": str(self.ground.tokenizer),
            "heldout": self.ground.heldout,
        }


def recipe_ground(recipe: Recipe, out: Path, progress: Progress) -> Ground:
    """Corpus, vocabulary and token dataset of a recipe below `out`; recipes with the same corpus share it."""
    corpus = hash_json([to_dict(recipe.corpus), recipe.seed])[:10]
    folder = out / f"{corpus}-{hash_json(to_dict(recipe.tokenizer))[:10]}"
    if not (folder / "corpus" / MANIFEST).is_file():
        for other in sorted(out.glob(f"{corpus}-*/steps/corpus.json")):
            publish(other.parent.parent / "corpus", folder / "corpus")
            (folder / "steps").mkdir(parents=True, exist_ok=True)
            shutil.copyfile(other, folder / "steps" / "corpus.json")
            break
    context = RunContext(recipe, folder, progress)
    context.runner.names = [*_DATA]
    steps = RecipeRun(context)
    steps.corpus()
    steps.tokenizer()
    steps.dataset()
    heldout = {"corpus": str((folder / "corpus").resolve())}
    return _ground(
        folder / "dataset",
        folder / "tokenizer",
        heldout,
        read_manifest(folder / "corpus", verify=False).content_hash,
    )


def file_ground(file: StageFile, heldout: Sequence[str]) -> Ground:
    """The dataset and vocabulary that a stage's file names, and held-out documents given beside it: a corpus directory or files.

    Raises:
        HanlinError: no held-out documents are given.
    """
    if not heldout:
        raise HanlinError(
            "A stage's file names a token dataset and no held-out text to measure on. Give --heldout: a "
            "corpus directory (its held-out part), or text files."
        )
    if len(heldout) == 1 and (Path(heldout[0]) / MANIFEST).is_file():
        manifest = read_manifest(heldout[0], "corpus")
        return _ground(*file.text, {"corpus": str(Path(heldout[0]).resolve())}, manifest.content_hash)
    files = expand(list(heldout))
    return _ground(
        *file.text,
        {"files": [str(path.resolve()) for path in files]},
        files_key(files, "heldout"),
    )


def _ground(dataset: Path, tokenizer: Path, heldout: dict[str, Any], heldout_key: str) -> Ground:
    hashes = [
        read_manifest(dataset, "dataset").content_hash,
        read_manifest(tokenizer, "tokenizer").content_hash,
        heldout_key,
    ]
    if not heldout_documents(heldout):
        raise HanlinError(
            "There are no held-out documents to compare on. Keep some of the corpus out "
            "(corpus.heldout_fraction=0.02)."
        )
    return Ground(
        dataset.resolve(),
        tokenizer.resolve(),
        heldout,
        hash_json(hashes),
        load_tokenizer(tokenizer).vocab_size,
    )


class CellPool:
    """Runs cells below `out`, `jobs` at once, each with its share of the cores.

    A cell that is finished, under the same key, is not run again. Interrupted, every running cell saves its state first.
    """

    def __init__(self, out: Path, jobs: int, progress: Progress):
        if jobs < 1:
            raise HanlinError("--jobs must be at least 1, not {jobs}.", jobs=jobs)
        self.out, self.jobs, self.progress = out, jobs, progress
        self.threads = max(1, (os.cpu_count() or 1) // jobs)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._lock, self._stopped = threading.Lock(), False
        self._steps: dict[str, tuple[int, int]] = {}

    def run(self, cells: Sequence[CellSpec]) -> dict[str, dict[str, Any]]:
        """Results by the cells' names.

        Raises:
            HanlinError: cells failed; the others are finished and kept.
        """
        results: dict[str, dict[str, Any]] = {}
        waiting = []
        for cell in cells:
            found = self._finished(cell)
            if found is None:
                waiting.append(cell)
            else:
                results[cell.name] = found
        if results:
            self.progress.note("{count} cells are done already, kept", count=len(results))
        self._steps = {cell.name: (0, cell.pretrain.train.steps) for cell in waiting if cell.task != "probe"}
        errors: dict[str, HanlinError] = {}

        def one(cell: CellSpec) -> None:
            try:
                results[cell.name] = self._run(cell)
                with self._lock:
                    if cell.name in self._steps:
                        self._steps[cell.name] = (self._steps[cell.name][1], self._steps[cell.name][1])
                    self.progress.note(
                        "{count}/{cells_count} {cell} done",
                        count=len(results),
                        cells_count=len(cells),
                        cell=cell.name,
                    )
            except HanlinError as error:
                errors[cell.name] = error

        pool = ThreadPoolExecutor(self.jobs)
        try:
            wait([pool.submit(one, cell) for cell in waiting])
        finally:
            self._stopped = True
            pool.shutdown(wait=False, cancel_futures=True)
            with self._lock:
                running = list(self._running.values())
            for process in running:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
            for process in running:
                process.wait()
            self._stopped = False
        if errors:
            failed = [Text("  {cell}: {error}", cell=name, error=error) for name, error in errors.items()]
            raise HanlinError(
                "{count} cells failed; the others are kept, and the same command goes on:\n{errors}",
                count=len(errors),
                errors=joined(failed, "\n"),
            )
        return results

    def folder(self, cell: CellSpec) -> Path:
        """Where a cell is."""
        return self.out / f"{cell.name}-{cell.spec()['key'][:8]}"

    def _finished(self, cell: CellSpec) -> dict[str, Any] | None:
        file = self.folder(cell) / RESULT
        if not file.is_file():
            return None
        try:
            found = read_json(file)
        except HanlinError as error:
            self.progress.warn("must be done again: {error}", error=error)
            return None
        return found if found.get("key") == cell.spec()["key"] else None

    def _run(self, cell: CellSpec) -> dict[str, Any]:
        folder = self.folder(cell)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / SPEC, cell.spec())
        threads = str(self.threads)
        environment = (
            {"GOMP_SPINCOUNT": "1000"} | os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        )
        said: dict[str, Any] = {}
        with open(folder / "log.txt", "ab") as log:
            # A session of its own: Ctrl-C reaches this process alone, which then asks each cell, once, to save and stop.
            with self._lock:
                if self._stopped:
                    raise HanlinError("interrupted")
                process = subprocess.Popen(
                    [*python_running("hanlin.experiments.trial"), str(folder)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=environment,
                    start_new_session=True,
                )
                self._running[cell.name] = process
            assert process.stdout is not None
            for line in process.stdout:
                with contextlib.suppress(orjson.JSONDecodeError):
                    said |= self._heard(cell, orjson.loads(line))
            code = process.wait()
        with self._lock:
            del self._running[cell.name]
        if code == 0:
            return read_json(folder / RESULT)
        if "error" in said:
            raise HanlinError(Text.from_dict(said["error"]))
        raise HanlinError(
            "its process ended with {code}. {tail} All of it: {log}",
            code=code,
            tail=_tail(folder / "log.txt"),
            log=folder / "log.txt",
        )

    def _heard(self, cell: CellSpec, line: dict[str, Any]) -> dict[str, Any]:
        """Show what a cell says; returns what is to be remembered."""
        with self._lock:
            if "step" in line and cell.name in self._steps:
                self._steps[cell.name] = (min(line["step"], line["steps"]), line["steps"])
                done, total = (sum(part[at] for part in self._steps.values()) for at in (0, 1))
                self.progress.update(done, total, line["figures"])
            elif "warning" in line:
                self.progress.warn(
                    "{cell}: {warning}", cell=cell.name, warning=Text.from_dict(line["warning"])
                )
        return line if "error" in line else {}


def _tail(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return tr("Its last line: ") + (lines[-1][:300] if lines else "—")
