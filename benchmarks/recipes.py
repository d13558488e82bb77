"""Learning per second: Hanlin's recipe beside those people come from, on the same text, parameters and
wall-clock seconds.

    python benchmarks/recipes.py FILES… [--seconds 300] [--seeds 3] [--jobs 2] [--out recipes.json]

All read the same tokens (one tokenizer, trained on the training part) and are judged on the same held-out
documents: bits per byte of windows of 256 tokens, each alone in its row, their first token given. Schedules
follow the clock, so each recipe ends decayed when its seconds are over. `--jobs` runs share the machine, each
with its share of the cores; their order is shuffled so that no recipe has the quiet hours.

Recipes, each rebuilt here from its published settings, at a batch of 4,096 tokens as Hanlin's:
  hanlin     its default: qwen3 family, zero init of residual projections, documents packed with masks, Muon +
             AdamW groups, WSD, z-loss, clip 1.
  seed       NanoZhGPT's (`train/train_xpu.py`): a GPT-2 block, N(0, 0.02) for all matrices, windows of the
             token stream across documents, AdamW 3e-4 (0.9, 0.95), decay 0.1 on everything, warm-up over 2 %
             (500 of 20,000 steps there) and cosine to a tenth, clip 1. Each row is a window of its own here;
             there a whole micro-batch is one stretch of text, which is less kind.
  minimind   its pretraining script (`trainer/train_pretrain.py`): its model (float norms, repeated heads),
             one document per row, cut and padded to 340 tokens, AdamW 5e-4 (0.9, 0.999), decay 0.01 on
             everything, no warm-up, cosine to a tenth, clip 1. Long documents are cut into rows here, not
             thrown away, which is kinder than the original.
  nanochat   its optimiser (`nanochat/optim.py`, `scripts/base_train.py`) on Hanlin's model, untied as there
             (so 26 % more weights), and Hanlin's data: Muon 0.02·sqrt(max(1, rows/columns)) with row
             equilibration and NorMuon's second moment (0.9), momentum 0.85 → 0.97 over 400 steps and → 0.90
             in the decay, embeddings 0.3 (0.8, 0.995), head 0.008 (0.8, 0.96), rates · sqrt(batch/2^19),
             those of the tables · sqrt(768/width), cautious decay whose sum over the run is the one of its
             d12, 40 steps of warm-up, linear decay over 65 % to 5 %, no clip. Newton-Schulz as Hanlin's, not
             Polar Express. Its rates were found at a batch 128 times as large.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import peers

WIDTHS = {
    "hidden_size": 160,
    "num_hidden_layers": 6,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "vocab": 4096,
    "length": 256,
    "rows": 16,
}
# the same number of weights: SwiGLU's three matrices against GELU's two, learned positions against none
SHAPES = {
    "hanlin": WIDTHS | {"intermediate_size": 432},
    "minimind": WIDTHS | {"intermediate_size": 432, "length": 340, "rows": 12},
    "seed": WIDTHS,
    "nanochat": WIDTHS | {"intermediate_size": 432, "tie_word_embeddings": False},
}
RECIPES = tuple(SHAPES)
WINDOW = 256
TARGETS = {"seed": 0.10, "minimind": 0.05}


# ------------------------------------------------------------------ one run


class Hanlin:
    """Hanlin's model, objective, optimisers and schedule; the loop around them is the benchmark's."""

    def __init__(
        self,
        folder: Path,
        seed: int,
        shape: dict[str, Any] | None = None,
        device: str = "cpu",
        rate: float = 5e-3,
        compiled: bool = False,
    ):
        import torch

        from hanlin.common.devices import allocator_keep_freed
        from hanlin.dataset import TextRows, TokenDataset
        from hanlin.model import CausalLM, ModelShape, choose_kernels, init_weights
        from hanlin.stages.supervised import NextTokenLoss
        from hanlin.training.optim.optimizers import Optimizers
        from hanlin.training.schedule import learning_rate_factor

        allocator_keep_freed()
        self.shape, self.device = shape or SHAPES["hanlin"], torch.device(device)
        fields = {key: value for key, value in self.shape.items() if key not in ("vocab", "length", "rows")}
        self.model = CausalLM(
            ModelShape(**fields, max_position_embeddings=max(512, self.shape["length"])).config(
                self.shape["vocab"], 0
            )
        )
        init_weights(self.model, seed)
        self.model.to(self.device)
        choose_kernels(self.model, self.device, lambda zh, en: print(en, flush=True))
        if compiled:
            self.model.compile_decoder()
        self.rows = TextRows(TokenDataset(folder / "dataset"), self.shape["length"], seed)
        self.objective = NextTokenLoss(torch.ones(self.shape["vocab"], dtype=torch.int64), z_loss=1e-4)
        self.optimizers = Optimizers(self.model, learning_rate=rate)
        self.factor = lambda done: learning_rate_factor(
            int(min(done, 0.9999) * 10_000), 10_000, schedule="wsd", warmup_ratio=0.02, decay_ratio=0.5
        )

    def gradients(self, step: int) -> tuple[int, Any]:
        """Targets read and the mean loss of a step, whose gradients are left on the parameters."""
        count = self.shape["rows"]
        batch = self.rows.batch(list(range(step * count, (step + 1) * count))).to(self.device)
        with in_its_type(self.device):
            loss, _ = self.objective(self.model, batch)
        loss = loss / batch.num_loss_tokens
        loss.backward()
        return batch.num_loss_tokens, loss.detach()

    def update(self, done: float) -> None:
        """Clip, and take the step at the schedule's place `done` (0 … 1)."""
        import torch

        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizers.step(self.factor(done))

    def logits(self, ids: Any) -> Any:
        return self.model(ids)


class Other:
    """A recipe of AdamW alone, all weights in one group."""

    def __init__(
        self,
        name: str,
        folder: Path,
        seed: int,
        shape: dict[str, Any] | None = None,
        device: str = "cpu",
        compiled: bool = False,
    ):
        import numpy as np
        import torch

        from hanlin.dataset import TokenDataset

        torch.manual_seed(seed)
        self.name, self.shape, self.device = name, shape or SHAPES[name], torch.device(device)
        self.model = (peers.gpt2_block if name == "seed" else peers.minimind)(name, self.shape)
        for module in self.model.modules():
            if isinstance(module, (torch.nn.Linear, torch.nn.Embedding)):
                torch.nn.init.normal_(module.weight, std=0.02)
        self.model.to(self.device)
        self.loss = torch.compile(self._loss) if compiled else self._loss
        self.rate, betas, decay = {"seed": (3e-4, (0.9, 0.95), 0.1), "minimind": (5e-4, (0.9, 0.999), 0.01)}[
            name
        ]
        fused = None if self.device.type == "cpu" else True
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=self.rate, betas=betas, weight_decay=decay, fused=fused
        )
        data = TokenDataset(folder / "dataset")
        self.tokens = np.asarray(data.tokens, dtype=np.int64)
        self.random = np.random.default_rng(seed)
        length = self.shape["length"]
        spans = [
            (a, min(a + length, e))
            for s, e in zip(data.starts, data.starts[1:], strict=False)
            for a in range(s, e, length)
        ]
        self.spans = [spans[i] for i in self.random.permutation(len(spans))]

    def batch(self, step: int) -> tuple[Any, Any]:
        """(ids, labels), (B, T): random windows of the stream, or documents padded one per row."""
        import torch

        rows, length = self.shape["rows"], self.shape["length"]
        ids, labels = torch.zeros(rows, length, dtype=torch.int64), torch.full((rows, length), -100)
        for row in range(rows):
            if self.name == "seed":
                start = int(self.random.integers(0, len(self.tokens) - length))
                span = (start, start + length)
            else:
                span = self.spans[(step * rows + row) % len(self.spans)]
            part = torch.from_numpy(self.tokens[slice(*span)])
            ids[row, : len(part)] = labels[row, : len(part)] = part
        return ids, labels

    def _loss(self, ids: Any, labels: Any) -> Any:
        import torch.nn.functional as F

        logits = self.model(ids)
        return F.cross_entropy(
            logits[:, :-1].reshape(-1, logits.shape[-1]).float(), labels[:, 1:].reshape(-1), ignore_index=-100
        )

    def gradients(self, step: int) -> tuple[int, Any]:
        """As Hanlin's."""
        from hanlin.common.devices import to_device_async

        ids, labels = self.batch(step)
        targets = int((labels[:, 1:] != -100).sum())
        with in_its_type(self.device):
            loss = self.loss(to_device_async(ids, self.device), to_device_async(labels, self.device))
        loss.backward()
        return targets, loss.detach()

    def update(self, done: float) -> None:
        """As Hanlin's."""
        import torch

        warm = 0.02 if self.name == "seed" else 0.0
        factor = (
            done / warm
            if done < warm
            else 0.1 + 0.45 * (1 + math.cos(math.pi * (min(done, 1.0) - warm) / (1 - warm)))
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * factor
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def logits(self, ids: Any) -> Any:
        return self.model(ids)


class Nanochat(Hanlin):
    """Nanochat's optimiser, rates and schedule on Hanlin's model and data."""

    # its reference batch and width; Σ rate·decay over its d12: 0.02 · 0.28 · 2,500 steps
    BATCH, WIDTH, DECAY = (
        2**19,
        768,
        14.0,
    )

    def __init__(self, folder: Path, seed: int):
        import torch

        super().__init__(folder, seed, SHAPES["nanochat"])
        named = dict(self.model.named_parameters())
        embedding, head = (named.pop(name) for name in ("model.embed_tokens.weight", "lm_head.weight"))
        torch.nn.init.normal_(embedding, std=0.8)
        torch.nn.init.normal_(head, std=0.001)
        by_batch = math.sqrt(self.shape["rows"] * self.shape["length"] / self.BATCH)
        by_width = math.sqrt(self.WIDTH / self.shape["hidden_size"])
        self.rate = 0.02 * by_batch
        self.matrices = [p for p in named.values() if p.ndim == 2]
        groups = [
            {
                "params": [embedding],
                "lr": 0.3 * by_batch * by_width,
                "betas": (0.8, 0.995),
                "weight_decay": 0.001,
            },
            {"params": [head], "lr": 0.008 * by_batch * by_width, "betas": (0.8, 0.96), "weight_decay": 0.01},
            {
                "params": [p for p in named.values() if p.ndim < 2],
                "lr": 0.5 * by_batch * 0.01,
                "betas": (0.8, 0.95),
                "weight_decay": 0.0,
            },
        ]
        self.adam = torch.optim.AdamW(groups, eps=1e-10)
        self.peaks = [group["lr"] for group in groups]
        self.momenta = [torch.zeros_like(p) for p in self.matrices]
        self.seconds = [
            torch.zeros_like(p.mean(-1 if p.shape[0] >= p.shape[1] else 0, keepdim=True))
            for p in self.matrices
        ]
        self.steps, self.before = 0, 0.0

    def update(self, done: float) -> None:
        """The step at `done` (0 … 1) of the clock."""
        import torch

        from hanlin.training.optim.optimizers import orthogonalize

        self.steps += 1
        falling = max(0.0, (done - 0.35) / 0.65)
        factor = min(1.0, self.steps / 40, 1 - 0.95 * falling)
        momentum = 0.97 - 0.07 * falling if falling else 0.85 + 0.12 * min(1.0, self.steps / 400)
        decay = self.DECAY * (done - self.before) * (1 + math.cos(math.pi * done)) / 2 * factor
        self.before = done
        with torch.no_grad():
            for matrix, first, second in zip(self.matrices, self.momenta, self.seconds, strict=True):
                first.lerp_(matrix.grad, 1 - momentum)
                wanted = matrix.grad.lerp(first, momentum)
                wanted = wanted * (
                    wanted.norm() / math.sqrt(len(wanted)) / wanted.norm(dim=-1, keepdim=True).clamp_min(1e-6)
                )
                step = orthogonalize(wanted[None])[0]
                step *= math.sqrt(min(step.shape)) / step.norm().clamp_min(1e-6)
                size = step.norm()
                second.lerp_(step.square().mean(-1 if second.shape[1] == 1 else 0, keepdim=True), 1 - 0.9)
                step = step * second.clamp_min(1e-10).rsqrt()
                step *= size / step.norm().clamp_min(1e-10)
                agrees = (step * matrix) >= 0
                matrix -= (
                    self.rate * factor * math.sqrt(max(1.0, matrix.shape[0] / matrix.shape[1])) * step
                    + decay * matrix * agrees
                )
                matrix.grad = None
        for group, peak in zip(self.adam.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)


def in_its_type(device: Any) -> Any:
    """Autocast to the device's training type; nothing where that is float32."""
    import torch

    from hanlin.common.devices import device_capabilities

    dtype = device_capabilities(device).train_dtype
    return torch.autocast(device.type, getattr(torch, dtype), enabled=dtype != "float32")


def learn(side: Any, seconds: float, heldout: Path) -> dict[str, Any]:
    """Train for so many seconds; held-out bits per byte by source. The caller compiled before: the clock
    starts here."""
    import torch

    from hanlin.common.devices import synchronize

    began, step, tokens, losses = time.monotonic(), 0, 0, []
    while (spent := time.monotonic() - began) < seconds:
        targets, loss = side.gradients(step)
        side.update(spent / seconds)
        tokens, step = tokens + targets, step + 1
        losses.append(loss)
        if step % 20 == 0:
            synchronize(side.device)  # else the host's clock runs ahead of the device
    synchronize(side.device)
    taken = time.monotonic() - began
    finite = bool(torch.stack(losses).isfinite().all())
    side.model.eval()
    found: dict[str, list[list[float]]] = {}
    with torch.no_grad(), in_its_type(side.device):
        for document in json.loads(heldout.read_text())["documents"]:
            nats = torch.zeros((), device=side.device)
            for window in document["windows"]:
                ids = torch.tensor(window, device=side.device)[None]
                log_probs = torch.log_softmax(side.logits(ids)[0, :-1].float(), -1)
                nats -= log_probs.gather(1, ids[0, 1:, None]).sum()
            found.setdefault(document["source"], []).append([float(nats) / math.log(2), document["bytes"]])
    weights = sum(p.numel() for p in side.model.parameters())
    return {
        "steps": step,
        "seconds": taken,
        "tokens": tokens,
        "finite": finite,
        "parameters": weights,
        "documents": found,
    }


# ------------------------------------------------------------------ the experiment


def prepare(
    files: list[Path],
    folder: Path,
    per_source: int,
    held: int,
    vocab: int = WIDTHS["vocab"],
    window: int = WINDOW,
    tokenizer: Path | None = None,
) -> Any:
    """Dataset, and a tokenizer unless one is given, from the training part; held-out windows as token ids.
    The tokenizer."""
    import numpy as np

    import hanlin
    from hanlin.corpus.readers.read import read_documents
    from hanlin.dataset import build_text_dataset

    rng = np.random.default_rng(0)
    train_texts: list[str] = []
    heldout: list[tuple[str, str]] = []
    for file in files:
        texts, size = [], 0
        for document in read_documents([file]):
            text = document["text"]
            size += len(text.encode())
            texts.append(text)
            if size > per_source:
                break
        order = rng.permutation(len(texts))
        count = min(held, len(texts) // 10)
        heldout += [(file.name.split(".")[0], texts[i]) for i in order[:count]]
        train_texts += [texts[i] for i in order[count:]]
    (folder / "train.jsonl").write_text(
        "".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in train_texts), encoding="utf-8"
    )
    if tokenizer is None:
        hanlin.train_tokenizer([folder / "train.jsonl"], vocab_size=vocab, out=folder / "tokenizer")
    words = hanlin.load_tokenizer(tokenizer or folder / "tokenizer")
    data = build_text_dataset([folder / "train.jsonl"], words, folder / "dataset")
    documents = []
    for source, text in heldout:
        ids = list(map(int, words.encode(text)))[: 8 * WINDOW]
        windows = [
            ids[at : at + window] for at in range(0, len(ids), window) if len(ids[at : at + window]) > 1
        ]
        size = sum(len(words.decode_bytes(each[1:])) for each in windows)
        if windows:
            documents.append({"source": source, "windows": windows, "bytes": size})
    (folder / "heldout.json").write_text(json.dumps({"documents": documents}))
    print(
        f"{len(files)} sources, {len(train_texts):,} training documents, {len(data.tokens):,} tokens; "
        f"{len(documents)} held out",
        flush=True,
    )
    return words


def bits_per_byte(run: dict[str, Any], source: str | None = None) -> float:
    pairs = [
        pair for name, documents in run["documents"].items() if source in (None, name) for pair in documents
    ]
    return sum(bits for bits, _ in pairs) / sum(size for _, size in pairs)


def half_width(values: list[float]) -> float:
    """Half of the 95 % t interval of their mean; not a number for one."""
    factor = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}.get(len(values), 2.0)
    return factor * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--megabytes", type=float, default=3.0, help="of each source")
    parser.add_argument("--held", type=int, default=20, help="documents of each source")
    parser.add_argument(
        "--precision", default="float32", help="of all of them on a CPU: their scripts know no other there"
    )
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--run", help="RECIPE:SEED, in a process of its own")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.run:
        import torch

        torch.set_num_threads(max(1, (os.cpu_count() or 1) // options.jobs))
        name, seed = options.run.split(":")
        side = (
            Other(name, options.folder, int(seed))
            if name in ("seed", "minimind")
            else (Nanochat if name == "nanochat" else Hanlin)(options.folder, int(seed))
        )
        print(
            json.dumps(
                {"recipe": name, "seed": int(seed)}
                | learn(side, options.seconds, options.folder / "heldout.json")
            )
        )
        return 0
    names = options.recipes.split(",")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(options.files, folder, int(options.megabytes * 1e6), options.held)
        cells = [f"{name}:{seed}" for seed in range(1, options.seeds + 1) for name in names]
        random.Random(0).shuffle(cells)

        def one(cell: str) -> dict[str, Any]:
            command = [
                sys.executable,
                __file__,
                "--run",
                cell,
                "--folder",
                str(folder),
                "--seconds",
                str(options.seconds),
                "--jobs",
                str(options.jobs),
            ]
            done = subprocess.run(
                command,
                check=True,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"GOMP_SPINCOUNT": "1000", "HANLIN_PRECISION": options.precision},
            )
            run = json.loads(done.stdout)
            print(
                f"{cell:<12} {run['steps']:>6} steps {run['tokens']:>11,} tokens  "
                f"{bits_per_byte(run):.4f} bits per byte",
                flush=True,
            )
            return run

        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            runs = list(pool.map(one, cells))
    if options.out:
        options.out.write_text(json.dumps(runs))
    return 0 if report(runs, names) else 1


def report(runs: list[dict[str, Any]], names: list[str]) -> bool:
    """Tables over sources and seeds; whether the targets are met."""
    by = {
        name: sorted((run for run in runs if run["recipe"] == name), key=lambda run: run["seed"])
        for name in names
    }
    print(f"\n{'':<28}" + "".join(f"{name:>12}" for name in names))
    print(f"{'parameters':<28}" + "".join(f"{by[name][0]['parameters']:>12,}" for name in names))
    print(
        f"{'useful tokens, mean':<28}"
        + "".join(f"{sum(r['tokens'] for r in by[name]) / len(by[name]):>12,.0f}" for name in names)
    )
    for source in [None, *sorted(by[names[0]][0]["documents"])]:
        print(
            f"{source or 'all held-out text':<28}"
            + "".join(f"{sum(bits_per_byte(r, source) for r in by[n]) / len(by[n]):>12.4f}" for n in names)
        )
    good = True
    for other, target in TARGETS.items():
        if other not in by or "hanlin" not in by:
            continue
        gains = [
            1 - bits_per_byte(ours) / bits_per_byte(theirs)
            for ours, theirs in zip(by["hanlin"], by[other], strict=True)
        ]
        mean = sum(gains) / len(gains)
        met = mean >= target
        good &= met
        print(
            f"{'ok  ' if met else 'MISS'} fewer bits per byte than {other}: "
            f"{mean:.1%} ± {half_width(gains):.1%} over {len(gains)} seeds (target {target:.0%})"
        )
    return good


if __name__ == "__main__":
    raise SystemExit(main())
