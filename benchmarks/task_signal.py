"""Which evaluation tasks show anything at the size of a first model: FineTasks' criteria (Kydlíček et al.
2024) over checkpoints and seeds of our own.

    python benchmarks/task_signal.py train --data FILES… --work FOLDER [--seeds 4] [--steps 800]
    python benchmarks/task_signal.py measure --work FOLDER --benchmarks FOLDER [--tasks …] [--models …]
    python benchmarks/task_signal.py table --work FOLDER

`train` makes a corpus, a tokenizer and, for each seed, a model of the recipe zh-mini with ten checkpoints at
equal distances; `--old-seeds` of them once more without a start token, so that what the first token is worth
can be seen. `measure` asks each checkpoint the tasks. `table` prints for each task and instrument:

* monotonicity: mean over seeds of Spearman's correlation of step and score; 0.5 asked;
* signal to noise: mean over the later half of the checkpoints of mean / sd over seeds; 20 asked;
* distance from the control: (last score - control) / sd of the last scores over seeds; 3 asked.

Each part goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from hanlin.common.messages import Text

CHECKPOINTS = 10


def train(options: argparse.Namespace) -> None:
    """Corpus, tokenizer, data set, and the models."""
    from hanlin.common.manifest import MANIFEST
    from hanlin.common.progress import make_progress
    from hanlin.corpus.builder.build import build_corpus, read_corpus
    from hanlin.corpus.builder.job import CorpusConfig
    from hanlin.dataset import TextRows, TokenDataset, build_text_dataset
    from hanlin.model import CausalLM, init_weights
    from hanlin.recipe.recipe import load_recipe
    from hanlin.stages.base import write_model
    from hanlin.stages.supervised import NextTokenLoss, RowSource
    from hanlin.tokenizer import load_tokenizer, train_tokenizer
    from hanlin.tokenizer.token_bytes import token_bytes
    from hanlin.training.hooks import Hook
    from hanlin.training.trainer import Trainer

    work, progress = options.work, make_progress()
    recipe = load_recipe("zh-mini")
    if not (work / "corpus" / MANIFEST).is_file():
        build_corpus(options.data, work / "corpus", CorpusConfig(preset="zh-web", source="file"), workers=2)
    if not (work / "tokenizer" / MANIFEST).is_file():
        train_tokenizer(
            work / "corpus" / "documents.jsonl.zst",
            recipe.tokenizer.vocab_size,
            work / "tokenizer",
            max_token_chars=recipe.tokenizer.max_token_chars,
        )
    words = load_tokenizer(work / "tokenizer")
    if not (work / "dataset" / MANIFEST).is_file():
        build_text_dataset(read_corpus(work / "corpus", "documents"), words, work / "dataset")
    stage = recipe.stage("pretrain")
    config = dataclasses.replace(
        stage, train=dataclasses.replace(stage.train, steps=options.steps, checkpoint_seconds=1e9)
    )

    class Publish(Hook):
        """Writes the model at each tenth of the steps."""

        def __init__(self, model: CausalLM, out: Path):
            self.model, self.out = model, out

        def wants_state(self, step: int) -> bool:
            return step % (options.steps // CHECKPOINTS) == 0

        def with_state(self, step: int, save) -> None:
            write_model(
                self.out / f"step{step}", self.model, words, parents={}, config=config, seed=0, metrics={}
            )

    kinds = [("new", seed) for seed in range(1, options.seeds + 1)]
    kinds += [("old", seed) for seed in range(1, options.old_seeds + 1)]
    for kind, seed in kinds:
        out = work / "models" / f"{kind}-{seed}"
        if (out / f"step{options.steps}").is_dir():
            continue
        shape = recipe.model.config(words.vocab_size, words.eos_id)
        if kind == "old":
            shape = dataclasses.replace(shape, bos_token_id=None)
        model = CausalLM(shape)
        init_weights(model, seed)
        rows = TextRows(TokenDataset(work / "dataset"), config.seq_len, seed, shape.bos_token_id)
        objective = NextTokenLoss(token_bytes(words), config.z_loss, config.document_mask)
        trainer = Trainer(
            model, RowSource(rows, config), objective, config.train, work / "run" / f"{kind}-{seed}", progress
        )
        trainer.add_hook(Publish(model, out))
        trainer.run()
        print(f"{kind}-{seed}: {options.steps} steps", flush=True)


def measure(options: argparse.Namespace) -> None:
    """Each checkpoint on the tasks."""
    from hanlin.common.progress import Progress
    from hanlin.pipeline.benchmarks import Asked, evaluate_benchmarks

    class Warnings(Progress):
        """Says what is left out, once."""

        said: set[str] = set()

        def warn(self, message, /, **fields) -> None:
            text = str(Text.of(message, **fields))
            if text not in self.said:
                print(text, flush=True)
                self.said.add(text)

    folders = sorted((options.work / "models").glob("*/step*"), key=lambda folder: int(folder.name[4:]))
    last = max((int(folder.name[4:]) for folder in folders), default=0)
    for folder in folders:
        if options.models and folder.parent.name not in options.models:
            continue
        asked = Asked(
            folder,
            options.benchmarks,
            names=tuple(options.tasks),
            suite="" if options.tasks else "quick",
            # counting takes as long as the tasks, and the table shows the controls of the end
            ngram=options.work / "dataset" if folder.name == f"step{last}" else None,
        )
        out = options.work / "scores" / folder.parent.name / folder.name
        found = evaluate_benchmarks(asked, out, Warnings())
        print(
            f"{folder.parent.name} {folder.name}  "
            + "  ".join(f"{name} {outcome.metrics[name].value:.3f}" for name, outcome in found.items()),
            flush=True,
        )


def series(work: Path, kind: str) -> dict[str, dict[str, dict[int, dict]]]:
    """metric → seed → step → metric as a dictionary, of the models of a kind."""
    found: dict[str, dict[str, dict[int, dict]]] = defaultdict(lambda: defaultdict(dict))
    for file in (work / "scores").glob(f"{kind}-*/step*/results_hanlin.json"):
        for entry in json.loads(file.read_text(encoding="utf-8")).values():
            for name, metric in entry["metrics"].items():
                found[name][file.parent.parent.name][int(file.parent.name[4:])] = metric
    return found


def ranks(values: np.ndarray) -> np.ndarray:
    """Mean ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]


def table(options: argparse.Namespace) -> None:
    """The criteria, a line for each metric; and what the start token changed."""
    old = series(options.work, "old")
    print(
        f"{'metric':<34}{'last':>8}{'control':>9}{'sd':>8}{'monotonic':>11}{'signal/noise':>14}{'σ over':>9}"
    )
    for name, seeds in sorted(series(options.work, "new").items()):
        steps = sorted(set.intersection(*(set(by_step) for by_step in seeds.values())))
        values = np.array([[by_step[step]["value"] for step in steps] for by_step in seeds.values()])
        first = next(iter(seeds.values()))[steps[-1]]
        sign = 1 if first["higher_is_better"] else -1
        order = ranks(np.arange(len(steps)).astype(float))
        monotonic = np.mean([np.corrcoef(order, sign * ranks(row))[0, 1] for row in values])
        late = values[:, len(steps) // 2 :]
        deviation = late.std(axis=0, ddof=1)
        noise = float(np.mean(np.abs(late.mean(axis=0)) / np.maximum(deviation, 1e-12)))
        control = first.get("control", {}).get("value", first.get("chance"))
        last, sd = float(values[:, -1].mean()), float(values[:, -1].std(ddof=1))
        over = "" if control is None else f"{sign * (last - control) / max(sd, 1e-12):>9.1f}"
        beside = "" if control is None else f"{control:.3f}"
        print(f"{name:<34}{last:>8.3f}{beside:>9}{sd:>8.4f}{monotonic:>11.2f}{noise:>14.0f}{over}")
        if name in old:
            without = [by_step[max(by_step)]["value"] for by_step in old[name].values()]
            same = [seeds[f"new-{seed.partition('-')[2]}"][steps[-1]]["value"] for seed in old[name]]
            print(f"  without a start token {np.mean(without):.3f}, with it {np.mean(same):.3f} (same seeds)")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    part = parts.add_parser("train")
    part.add_argument("--data", type=Path, nargs="+", required=True)
    part.add_argument("--seeds", type=int, default=4)
    part.add_argument("--old-seeds", type=int, default=2)
    part.add_argument("--steps", type=int, default=800)
    part.add_argument("--work", type=Path, required=True)
    part = parts.add_parser("measure")
    part.add_argument("--work", type=Path, required=True)
    part.add_argument("--benchmarks", type=Path, required=True)
    part.add_argument("--tasks", nargs="*", default=())
    part.add_argument("--models", nargs="*", default=(), help="new-1 old-1 …; all when absent")
    part = parts.add_parser("table")
    part.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    {"train": train, "measure": measure, "table": table}[options.part](options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
