"""One token for each digit, or one for up to three: the same model and steps on the same text, by two
tokenizers that differ in nothing else.

    python benchmarks/digits.py FILES… --math math_zh.jsonl.zst [--steps 250] [--seeds 3] [--jobs 2]

Hanlin's split pattern cuts numbers into single digits (as Qwen and DeepSeek-V1 do); the other tokenizer's is
the same with
`\\p{N}{1,3}` (as GPT-4's cl100k_base). Both are byte-level BPE trained by Hugging Face's `tokenizers`, since
Hanlin's own core knows one
pattern only. Every step takes the same number of tokens, so single digits see less text of numbers for the
same work. Judged by bits
per byte of held-out documents, each in windows of 256 tokens whose first token is given; for the
mathematical problems also by the
bits of their digits alone, for each digit. Intervals are over seeds alone, not over documents. Rows are
packed by best fit, which now and
then makes a seventeenth of sixteen: that costs time, which is not judged.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recipes import half_width

MODEL = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 352,
    "max_position_embeddings": 512,
}
VOCAB, ROWS, LENGTH = 4096, 16, 256
KINDS = ("one", "three")


def problems(file: Path) -> Iterator[str]:
    """Problem, equation and answer of the verified records."""
    import zstandard

    with zstandard.open(file, "rt", encoding="utf-8") as lines:
        for record in map(json.loads, lines):
            if record.get("verified"):
                yield f"{record['question']}\n{record['equation']}\n答案：{record['answer']}"


def gather(files: list[Path], math_file: Path, per_source: int, held: int) -> dict[str, dict[str, list[str]]]:
    """Texts of every source, for training and held out: {"train": {source: […]}, "heldout": {source:
    […]}}."""
    import numpy as np

    from hanlin.corpus.readers.read import read_documents

    rng = np.random.default_rng(0)
    found: dict[str, dict[str, list[str]]] = {"train": {}, "heldout": {}}
    for file in [*files, math_file]:
        texts, size = [], 0
        for text in (
            problems(math_file)
            if file == math_file
            else (document["text"] for document in read_documents([file]))
        ):
            texts.append(text)
            size += len(text.encode())
            if size > per_source:
                break
        order = rng.permutation(len(texts))
        count = min(held * (10 if file == math_file else 1), len(texts) // 10)
        source = file.name.split(".")[0]
        found["heldout"][source] = [texts[i] for i in order[:count]]
        found["train"][source] = [texts[i] for i in order[count:]]
    return found


def train_words(texts: list[str], kind: str, out: Path) -> None:
    """A byte-level BPE tokenizer whose numbers are cut as `kind` says."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    from hanlin.tokenizer.special import PATTERN

    assert PATTERN.startswith(r"\p{N}|")
    pattern = PATTERN if kind == "one" else PATTERN.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=24,
        show_progress=False,
    )
    words.train_from_iterator(texts, trainer)
    words.save(str(out))


def prepare(texts: dict[str, dict[str, list[str]]], kind: str, folder: Path) -> None:
    """`KIND.json`: token ids of the training documents, and of held-out windows with each token's bytes and
    digits."""
    from tokenizers import Tokenizer

    everything = [text for part in texts["train"].values() for text in part]
    train_words(everything, kind, folder / f"{kind}-tokenizer.json")
    words = Tokenizer.from_file(str(folder / f"{kind}-tokenizer.json"))
    end = words.token_to_id("<end>")
    documents = [[*each.ids, end] for each in words.encode_batch(everything)]
    heldout = []
    for source, part in texts["heldout"].items():
        for text in part:
            encoded = words.encode(text)
            sizes = [len(token) for token in encoded.tokens]  # a sign for each byte
            digits = [len(re.findall("[0-9]", token)) for token in encoded.tokens]
            for at in range(0, len(encoded.ids) - 1, LENGTH):
                cut = slice(at, at + LENGTH)
                if len(encoded.ids[cut]) > 1:
                    heldout.append(
                        {
                            "source": source,
                            "ids": encoded.ids[cut],
                            "bytes": sizes[cut],
                            "digits": digits[cut],
                        }
                    )
    (folder / f"{kind}.json").write_text(json.dumps({"documents": documents, "heldout": heldout}))


def learn(kind: str, seed: int, steps: int, folder: Path) -> dict[str, Any]:
    """Train one model; bits and bytes of every source, bits and digits of the digits."""
    import numpy as np
    import torch

    from hanlin.common.devices import allocator_keep_freed
    from hanlin.dataset import pack_sequences
    from hanlin.model import CausalLM, ModelShape, init_weights
    from hanlin.stages.supervised import NextTokenLoss
    from hanlin.training.optim.optimizers import Optimizers
    from hanlin.training.schedule import learning_rate_factor

    allocator_keep_freed()
    data = json.loads((folder / f"{kind}.json").read_text())
    model = CausalLM(ModelShape(**MODEL).config(VOCAB, 0))
    init_weights(model, seed)
    objective = NextTokenLoss(torch.ones(VOCAB, dtype=torch.int64), z_loss=1e-4)
    optimizers = Optimizers(model, learning_rate=5e-3)
    documents = data["documents"]
    order = iter(np.random.default_rng(seed).permutation(len(documents)).tolist() * 50)
    rest: list[int] = []
    for step in range(steps):
        pieces, room = [], ROWS * LENGTH
        while room > 0:
            rest = rest or documents[next(order)]
            piece, rest = rest[: (room - 1) % LENGTH + 1], rest[(room - 1) % LENGTH + 1 :]
            pieces.append((piece, [1] * len(piece)))
            room -= len(piece)
        batch = pack_sequences(pieces, LENGTH)
        loss, _ = objective(model, batch)
        (loss / batch.num_loss_tokens).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizers.step(learning_rate_factor(step, steps, schedule="wsd", warmup_ratio=0.05, decay_ratio=0.5))
    model.eval()
    sums: dict[str, list[float]] = {}
    with torch.no_grad():
        for window in data["heldout"]:
            ids = torch.tensor(window["ids"])[None]
            log_probs = torch.log_softmax(model(ids)[0, :-1].float(), -1).gather(1, ids[0, 1:, None]).squeeze(
                1
            ) / -math.log(2)
            digits = torch.tensor(window["digits"][1:])
            found = sums.setdefault(window["source"], [0.0, 0, 0.0, 0])
            for index, value in enumerate(
                (
                    float(log_probs.sum()),
                    sum(window["bytes"][1:]),
                    float(log_probs[digits > 0].sum()),
                    int(digits.sum()),
                )
            ):
                found[index] += value
    return {"kind": kind, "seed": seed, "sources": sums}


def rate(run: dict[str, Any], source: str | None, at: int = 0) -> float:
    """Bits per byte (`at` 0) or per digit (2) of a source, or of all."""
    parts = [values for name, values in run["sources"].items() if source in (None, name)]
    return sum(values[at] for values in parts) / max(1, sum(values[at + 1] for values in parts))


def report(runs: list[dict[str, Any]]) -> None:
    """A line for every source: single digits, three digits, and the difference over seeds."""
    by = {
        kind: sorted((run for run in runs if run["kind"] == kind), key=lambda run: run["seed"])
        for kind in KINDS
    }
    sources = sorted(by["one"][0]["sources"])
    lines = [
        ("all, bits per byte", None, 0),
        *((f"{source}, bits per byte", source, 0) for source in sources),
        ("all, bits per digit", None, 2),
        ("math_zh, bits per digit", "math_zh", 2),
    ]
    print(f"\n{'':<36}{'one digit':>11}{'up to three':>13}{'difference':>24}")
    for label, source, at in lines:
        ones, threes = ([rate(run, source, at) for run in by[kind]] for kind in KINDS)
        change = [one / three - 1 for one, three in zip(ones, threes, strict=True)]
        print(
            f"{label:<36}{statistics.mean(ones):>11.4f}{statistics.mean(threes):>13.4f}"
            f"{statistics.mean(change):>+12.1%} ± {half_width(change):.1%}"
        )


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument(
        "--math", type=Path, required="--run" not in sys.argv, help="problems with question, equation, answer"
    )
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--megabytes", type=float, default=0.6, help="of each source")
    parser.add_argument(
        "--held", type=int, default=12, help="documents of each source, ten times as many problems"
    )
    parser.add_argument("--run", help="KIND:SEED, in a process of its own")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.run:
        import torch

        torch.set_num_threads(max(1, (os.cpu_count() or 1) // options.jobs))
        kind, seed = options.run.split(":")
        print(json.dumps(learn(kind, int(seed), options.steps, options.folder)))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        texts = gather(options.files, options.math, int(options.megabytes * 1e6), options.held)
        for kind in KINDS:
            prepare(texts, kind, folder)
            count = sum(map(len, json.loads((folder / f"{kind}.json").read_text())["documents"]))
            print(f"{kind}: {count:,} training tokens", flush=True)

        def one(cell: str) -> dict[str, Any]:
            command = [
                sys.executable,
                __file__,
                "--run",
                cell,
                "--folder",
                str(folder),
                "--steps",
                str(options.steps),
                "--jobs",
                str(options.jobs),
            ]
            done = subprocess.run(
                command,
                check=True,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"HANLIN_PRECISION": "float32"},
            )
            run = json.loads(done.stdout)
            print(f"{cell:<8} {rate(run, None):.4f} bits per byte", flush=True)
            return run

        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            report(
                list(
                    pool.map(
                        one, [f"{kind}:{seed}" for seed in range(1, options.seeds + 1) for kind in KINDS]
                    )
                )
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
