"""Trials of a comparison: what they share is built once, each runs in a process of its own, finished ones are
kept by key."""

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
class SharedData:
    """What trials of one vocabulary share.

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
        tokenizer = load_tokenizer(self.tokenizer)
        check_export(model.config(tokenizer.vocab_size, tokenizer.eos_id), tokenizer)


@dataclasses.dataclass(frozen=True)
class TrialSpec:
    """One trial: `task` is `train`, `measure` or `series`; `more` what that task wants to know besides."""

    name: str
    shared_data: SharedData
    model: ModelShape
    pretrain: PretrainConfig
    seed: int
    device: str = "auto"
    task: str = "train"
    more: dict[str, Any] = dataclasses.field(default_factory=dict)

    def spec(self) -> dict[str, Any]:
        """The content of `trial.json`."""
        body = {
            "task": self.task,
            "model": to_dict(self.model),
            "pretrain": self.pretrain.training_identity(),
            "seed": self.seed,
            "device": self.device,
        } | self.more
        key = hash_json([body, self.shared_data.key])
        return body | {
            "key": key,
            "dataset": str(self.shared_data.dataset),
            "tokenizer": str(self.shared_data.tokenizer),
            "heldout": self.shared_data.heldout,
        }


def recipe_data(recipe: Recipe, out: Path, progress: Progress) -> SharedData:
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
    return _shared_data(
        folder / "dataset",
        folder / "tokenizer",
        heldout,
        read_manifest(folder / "corpus", verify=False).content_hash,
    )


def file_data(file: StageFile, heldout: Sequence[str]) -> SharedData:
    """The dataset and vocabulary that a stage's file names, and held-out documents given beside it: a corpus
    directory or files.

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
        return _shared_data(*file.text, {"corpus": str(Path(heldout[0]).resolve())}, manifest.content_hash)
    files = expand(list(heldout))
    return _shared_data(
        *file.text,
        {"files": [str(path.resolve()) for path in files]},
        files_key(files, "heldout"),
    )


def _shared_data(dataset: Path, tokenizer: Path, heldout: dict[str, Any], heldout_key: str) -> SharedData:
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
    return SharedData(
        dataset.resolve(),
        tokenizer.resolve(),
        heldout,
        hash_json(hashes),
        load_tokenizer(tokenizer).vocab_size,
    )


class TrialPool:
    """Runs trials below `out`, `jobs` at once, each with its share of the cores.

    A trial that is finished, under the same key, is not run again. Interrupted, every running trial saves
    its state first.
    """

    def __init__(self, out: Path, jobs: int, progress: Progress):
        if jobs < 1:
            raise HanlinError("--jobs must be at least 1, not {jobs}.", jobs=jobs)
        self.out, self.jobs, self.progress = out, jobs, progress
        self.threads = max(1, (os.cpu_count() or 1) // jobs)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._lock, self._stopped = threading.Lock(), False
        self._steps: dict[str, tuple[int, int]] = {}

    def run(self, trials: Sequence[TrialSpec]) -> dict[str, dict[str, Any]]:
        """Results by the trials' names.

        Raises:
            HanlinError: trials failed; the others are finished and kept.
        """
        results: dict[str, dict[str, Any]] = {}
        waiting = []
        for trial in trials:
            found = self._finished(trial)
            if found is None:
                waiting.append(trial)
            else:
                results[trial.name] = found
        if results:
            self.progress.note("{count} trials are done already, kept", count=len(results))
        self._steps = {
            trial.name: (0, trial.pretrain.train.steps) for trial in waiting if trial.task != "measure"
        }
        errors: dict[str, HanlinError] = {}

        def one(trial: TrialSpec) -> None:
            try:
                results[trial.name] = self._run(trial)
                with self._lock:
                    if trial.name in self._steps:
                        self._steps[trial.name] = (self._steps[trial.name][1], self._steps[trial.name][1])
                    self.progress.note(
                        "{count}/{total} {trial} done",
                        count=len(results),
                        total=len(trials),
                        trial=trial.name,
                    )
            except HanlinError as error:
                errors[trial.name] = error

        pool = ThreadPoolExecutor(self.jobs)
        try:
            wait([pool.submit(one, trial) for trial in waiting])
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
            failed = [Text("  {trial}: {error}", trial=name, error=error) for name, error in errors.items()]
            raise HanlinError(
                "{count} trials failed; the others are kept, and the same command goes on:\n{errors}",
                count=len(errors),
                errors=joined(failed, "\n"),
            )
        return results

    def folder(self, trial: TrialSpec) -> Path:
        """Where a trial is."""
        return self.out / f"{trial.name}-{trial.spec()['key'][:8]}"

    def _finished(self, trial: TrialSpec) -> dict[str, Any] | None:
        file = self.folder(trial) / RESULT
        if not file.is_file():
            return None
        try:
            found = read_json(file)
        except HanlinError as error:
            self.progress.warn("must be done again: {error}", error=error)
            return None
        return found if found.get("key") == trial.spec()["key"] else None

    def _run(self, trial: TrialSpec) -> dict[str, Any]:
        folder = self.folder(trial)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / SPEC, trial.spec())
        threads = str(self.threads)
        environment = (
            {"GOMP_SPINCOUNT": "1000"} | os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        )
        last_words: dict[str, Any] = {}
        with open(folder / "log.txt", "ab") as log:
            # A session of its own: Ctrl-C reaches this process alone, which then asks each trial, once, to
            # save and stop.
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
                self._running[trial.name] = process
            assert process.stdout is not None
            for line in process.stdout:
                with contextlib.suppress(orjson.JSONDecodeError):
                    last_words |= self._heard(trial, orjson.loads(line))
            code = process.wait()
        with self._lock:
            del self._running[trial.name]
        if code == 0:
            return read_json(folder / RESULT)
        if "error" in last_words:
            raise HanlinError(Text.from_dict(last_words["error"]))
        raise HanlinError(
            "its process ended with {code}. {tail} All of it: {log}",
            code=code,
            tail=_tail(folder / "log.txt"),
            log=folder / "log.txt",
        )

    def _heard(self, trial: TrialSpec, line: dict[str, Any]) -> dict[str, Any]:
        """Show what a trial says; returns what is to be remembered."""
        with self._lock:
            if "step" in line and trial.name in self._steps:
                self._steps[trial.name] = (min(line["step"], line["steps"]), line["steps"])
                done, total = (sum(part[at] for part in self._steps.values()) for at in (0, 1))
                self.progress.update(done, total, line["figures"])
            elif "warning" in line:
                self.progress.warn(
                    "{trial}: {warning}", trial=trial.name, warning=Text.from_dict(line["warning"])
                )
        return line if "error" in line else {}


def _tail(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return tr("Its last line: ") + (lines[-1][:300] if lines else "—")
