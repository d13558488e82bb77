"""One trial of a comparison, in a process of its own: a pretraining and its held-out bits, kept as
`result.json`.

`python -m hanlin.experiments.trial DIR` reads `DIR/trial.json` and says on stdout, a JSON object a line, how
far it is. It goes on from its checkpoints, and stops, saved, when the process that started it is gone.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from hanlin.common.atomic import read_json, read_json_lines, write_json
from hanlin.common.config import build
from hanlin.common.errors import HanlinError
from hanlin.common.locks import directory_lock
from hanlin.common.manifest import MANIFEST, read_manifest
from hanlin.common.messages import Text
from hanlin.common.process_memory import peak_rss_mb
from hanlin.common.progress import Progress
from hanlin.corpus.builder.build import read_corpus
from hanlin.corpus.readers.read import read_documents
from hanlin.model import ModelConfig, ModelShape, load_model
from hanlin.stages.base import Job
from hanlin.stages.pretrain import PretrainConfig, pretrain
from hanlin.tokenizer import Tokenizer, load_tokenizer
from hanlin.training.checkpoint.format import list_checkpoints

if TYPE_CHECKING:
    from typing_extensions import LiteralString

SPEC, RESULT, METRICS = "trial.json", "result.json", "metrics.jsonl"
# of a measurement: slower than those that follow (memory is taken, kernels are chosen, a graph is compiled)
_FIRST_STEPS = 2


class Trial:
    """What `trial.json` says, with the paths and objects it names."""

    def __init__(self, folder: Path, progress: Progress):
        self.folder, self.progress = folder, progress
        self.spec: dict[str, Any] = read_json(folder / SPEC)
        self.key: str = self.spec["key"]
        self.seed, self.device = self.spec["seed"], self.spec["device"]
        self.dataset, self.words = Path(self.spec["dataset"]), Path(self.spec["tokenizer"])
        self.tokenizer: Tokenizer = load_tokenizer(self.words)
        self.shape: ModelConfig = build(ModelShape, self.spec["model"], str(folder)).config(
            self.tokenizer.vocab_size, self.tokenizer.eos_id
        )
        if not self.config().first_token:
            self.shape = dataclasses.replace(self.shape, bos_token_id=None)
        self.keep: bool = self.spec.get("keep", False)

    def config(self, **train: Any) -> PretrainConfig:
        """The training section, some settings of its loop replaced."""
        section = self.spec["pretrain"]
        return build(PretrainConfig, section | {"train": section["train"] | train}, str(self.folder))

    def train(
        self,
        config: PretrainConfig,
        out: Path,
        work: Path,
        progress: Progress,
        max_seconds: float | None = None,
    ) -> None:
        """Pretrain into `out`, unless this very model is there already."""
        key = f"{self.key}/{out.name}"
        if (out / MANIFEST).is_file() and read_manifest(out).key == key:
            return
        pretrain(
            self.dataset,
            self.words,
            self.shape,
            config,
            Job(out, work, progress, self.seed, key, self.device, max_seconds=max_seconds),
        )

    def measure(self, model: Path) -> dict[str, Any]:
        """Bits and bytes of each held-out document, and the model's own figures."""
        from hanlin.evaluation.likelihood import document_bits, encode_documents

        documents = heldout_documents(self.spec["heldout"])
        opened = load_model(model, device=self.device)
        ids, sizes = encode_documents(self.tokenizer, documents, opened.config.bos_token_id)
        bits = document_bits(opened, ids, context=self.spec["pretrain"]["seq_len"])
        return {
            "bits": [float(f"{value:.8g}") for value in bits],
            "bytes": sizes.tolist(),
            "sources": [d.get("source") for d in documents],
            "parameters": self.shape.parameters(),
            "flops_per_token": self.shape.flops_per_token(self.spec["pretrain"]["seq_len"]),
        }


def heldout_documents(heldout: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The held-out part of a corpus (`corpus`), or the documents of files (`files`)."""
    if heldout.get("corpus"):
        return [dict(document) for document in read_corpus(Path(heldout["corpus"]), "heldout")]
    return [dict(document) for document in read_documents([Path(file) for file in heldout["files"]])]


# ------------------------------------------------------------------ the kinds of trials


def train_trial(trial: Trial) -> dict[str, Any]:
    """The whole training, then the held-out documents."""
    work, model = trial.folder / "work", trial.folder / "model"
    trial.train(trial.config(), model, work, trial.progress)
    if (work / METRICS).is_file():
        os.replace(work / METRICS, trial.folder / METRICS)
    shutil.rmtree(work, ignore_errors=True)
    result = _trained(trial.folder / METRICS, model) | trial.measure(model)
    if not trial.keep:
        shutil.rmtree(model)
    return result


def measure_trial(trial: Trial) -> dict[str, Any]:
    """How long a step takes, and how long it takes until steps take that long."""
    work = trial.folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    # the many steps below are not what the run will have: auto would take them for a long run
    compiled = trial.config().train.compile is True
    config = trial.config(steps=1_000_000, schedule="constant", checkpoint_seconds=1e9, compile=compiled)
    trial.train(config, trial.folder / "model", work, Progress(), max_seconds=trial.spec["seconds"])
    lines = read_json_lines(work / METRICS)
    shutil.rmtree(trial.folder / "model")
    shutil.rmtree(work)
    skip = min(_FIRST_STEPS, len(lines) - 1)
    start = lines[skip - 1]["seconds"] if skip else 0.0
    step = (lines[-1]["seconds"] - start) / (len(lines) - skip)
    return {
        "step_seconds": step,
        "first_seconds": max(0.0, start - skip * step),
        "steps": len(lines),
        "tokens": lines[-1]["tokens"],
    }


def train_series(trial: Trial) -> dict[str, Any]:
    """Several lengths of training as branches of one run at a constant rate: each leaves it where its own
    decay begins.

    WSD's decay starts from the same state whatever came to be its length, so a model trained for 400 steps
    costs a model of 800 steps nothing but its own decay (Hu et al. 2024, MiniCPM, section 4.3).
    """
    trunk, results = trial.folder / "trunk", []
    train = trial.spec["pretrain"]["train"]
    longest = max(trial.spec["branches"])
    warm = max(1, round(min(trial.spec["branches"]) * train["warmup_ratio"]))
    for number, steps in enumerate(sorted(trial.spec["branches"])):
        kept, folder = trial.folder / f"branch-{steps}.json", trial.folder / f"branch-{steps}"
        if not kept.is_file():
            leaves = steps - max(1, round(steps * train["decay_ratio"]))
            at = list_checkpoints(trunk)
            if not at or int(at[0].name.rpartition("-")[2]) < leaves:
                stop = _StopAt(trial.progress, leaves, longest)
                try:
                    constant = trial.config(
                        steps=longest + 1, schedule="constant", warmup_ratio=warm / (longest + 1)
                    )
                    trial.train(constant, trial.folder / "never", trunk, stop)
                except KeyboardInterrupt:
                    if not stop.reached:
                        raise
            work = folder / "work"
            if not list_checkpoints(work):
                shutil.copytree(list_checkpoints(trunk)[0], work / list_checkpoints(trunk)[0].name)
            trial.train(
                trial.config(steps=steps, schedule="wsd", warmup_ratio=warm / steps),
                folder / "model",
                work,
                trial.progress,
            )
            result = _trained(work / METRICS, folder / "model") | trial.measure(folder / "model")
            write_json(
                kept,
                result | {"steps": steps, "tokens": steps * trial.config().rows * trial.config().seq_len},
            )
            os.replace(work / METRICS, trial.folder / f"branch-{steps}.jsonl")
            shutil.rmtree(folder)
        results.append(read_json(kept))
        trial.progress.note(
            "{number} of {count} lengths done", number=number + 1, count=len(trial.spec["branches"])
        )
    shutil.rmtree(trunk, ignore_errors=True)
    return {"branches": results}


class _StopAt(Progress):
    """Asks the loop to save and stop after a step, as a person would; passes on what is said."""

    def __init__(self, progress: Progress, step: int, steps: int):
        self.progress, self.step, self.steps, self.reached = progress, step, steps, False

    def update(self, step: int, steps: int, figures: Mapping[str, Any]) -> None:
        self.progress.update(step, self.steps, figures)
        if step == self.step:
            self.reached = True
            signal.raise_signal(signal.SIGTERM)

    def warn(self, message: LiteralString | Text, /, **fields: Any) -> None:
        self.progress.warn(message, **fields)


def _trained(metrics: Path, model: Path) -> dict[str, Any]:
    lines, said = read_json_lines(metrics), read_manifest(model, verify=False).metrics
    tokens = sum(line["tokens"] for line in lines)
    timed = lines[1:] or lines  # a branch's seconds begin with its trunk's, and the first step is slow
    spent = lines[-1]["seconds"] - (lines[0]["seconds"] if len(lines) > 1 else 0.0)
    return {
        "steps": lines[-1]["step"],
        "tokens": tokens,
        "seconds": said["seconds"],
        "skipped": said["skipped"],
        "tokens_per_second": sum(line["tokens"] for line in timed) / max(spent, 1e-9),
        "peak_rss_mb": round(peak_rss_mb(), 1),
    }


# ------------------------------------------------------------------ the process

_KINDS = {"train": train_trial, "measure": measure_trial, "series": train_series}


class LineProgress(Progress):
    """Says on stdout, a JSON object a line, what happens; ends the process, saved, once the one that started
    it is gone."""

    def __init__(self, interval: float = 1.0):
        self._parent, self._interval, self._last = os.getppid(), interval, 0.0

    def update(self, step: int, steps: int, figures: Mapping[str, Any]) -> None:
        now = time.monotonic()
        if os.getppid() != self._parent:
            signal.raise_signal(signal.SIGTERM)
        if now - self._last >= self._interval or step == steps:
            self._last = now
            self._say({"step": step, "steps": steps, "figures": dict(figures)})

    def warn(self, message: LiteralString | Text, /, **fields: Any) -> None:
        self._say({"warning": Text.of(message, **fields).to_dict()})

    def error(self, error: HanlinError) -> None:
        """The last thing said."""
        self._say({"error": error.text.to_dict()})

    def _say(self, value: Any) -> None:
        try:
            sys.stdout.buffer.write(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n")
            sys.stdout.buffer.flush()
        except BrokenPipeError:  # nobody listens; update() sees to the rest
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(folder: Path) -> int:
    """Run the trial in `folder`: 0 done, 1 failed with a message on stdout, 130 interrupted with its state
    saved."""
    progress = LineProgress()
    try:
        with directory_lock(folder):
            trial = Trial(folder, progress)
            result = _KINDS[trial.spec["task"]](trial)
            write_json(folder / RESULT, {"key": trial.key} | result)
    except HanlinError as error:
        progress.error(error)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
