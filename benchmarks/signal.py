"""Which evaluation tasks show anything at the size of a first model: FineTasks' criteria (Kydlíček et al. 2024)
over checkpoints and seeds of our own.

    python benchmarks/signal.py train --data FILES… --work FOLDER [--seeds 4] [--steps 800] [--old-seeds 2]
    python benchmarks/signal.py measure --work FOLDER --benchmarks FOLDER [--tasks …]
    python benchmarks/signal.py table --work FOLDER

`train` makes a corpus, a tokenizer and, for each seed, a model of the recipe zh-mini with ten checkpoints at
equal distances; `--old-seeds` of them once more without a start token, so that what the first token is worth
can be seen. `measure` asks each checkpoint the tasks. `table` prints for each task and instrument: monotonicity
(mean Spearman correlation of step and score, 0.5 asked), signal to noise (mean over the later half of the
checkpoints of mean/sd over seeds, 20 asked), and the distance of the last score from the control in sd of the
seeds (3 asked). Each part goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

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
    options = parser.parse_args()
    {"train": train}[options.part](options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
