"""Training speed and memory beside its peers: forward, backward, clipping, AdamW, in float32, interleaved
step by step.

    python benchmarks/train.py [--shapes 6m,26m] [--rounds 5] [--data FILES…]

Every implementation lives in a process of its own, so that its peak memory is its own; one works at a time, a
few steps per round, round after round, and medians over the rounds are compared. Hanlin runs its real loop
(`training.train`): reading the batch, guards and the log are in its time. Compilation happens before the
clock starts; what it costs is printed beside.

The peers: transformers' Llama and Qwen3, a GPT-2 block as the seeds' projects have it (nanoGPT's), and
minimind's step (its model as published in `model/model_minimind.py`: padded rows, repeated key-value heads,
all logits at once), each rebuilt in `peers.py` from its description. All compute in float32; where the
processor multiplies bfloat16, all do so under autocast too (`+bf16`), which Hanlin does there by itself and
minimind's script does on no CPU. The last tables give real documents to Hanlin, which packs them, and to
minimind's step, which pads them, and counts useful tokens.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peers

SHAPES = {
    "1m": {
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 352,
        "vocab": 1536,
        "length": 256,
        "rows": 16,
    },
    "6m": {
        "hidden_size": 256,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 704,
        "vocab": 6400,
        "length": 256,
        "rows": 16,
    },
    "26m": {
        "hidden_size": 512,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "intermediate_size": 1408,
        "vocab": 6400,
        "length": 512,
        "rows": 4,
    },
}
PEERS = ("minimind", "llama", "qwen3", "gpt2")
TARGETS = {"eager": 1.05, "compiled": 1.05, "minimind": 1.25, "memory": 0.70, "documents": 2.0}


# ------------------------------------------------------------------ workers: one process per implementation


def rows_of(shape: dict[str, Any], step: int) -> Any:
    """Random full rows (B, T), the same for every implementation."""
    import torch

    generator = torch.Generator().manual_seed(step)
    return torch.randint(0, shape["vocab"], (shape["rows"], shape["length"]), generator=generator)


class Peer:
    """A plain step of someone else's: logits of the whole batch, cross entropy, clip, AdamW."""

    def __init__(self, name: str, shape: dict[str, Any], documents: Path | None):
        import torch

        base, *modes = name.split("+")
        mode, self.bf16 = "compiled" in modes, "bf16" in modes or shape.get("device", "cpu") != "cpu"
        torch.manual_seed(0)
        self.shape, self.documents = shape, read_token_ids(documents) if documents else None
        self.device = torch.device(shape.get("device", "cpu"))
        self.model = getattr(
            peers, {"llama": "stock", "qwen3": "stock", "gpt2": "gpt2_block", "minimind": "minimind"}[base]
        )(base, shape).to(self.device)
        self.loss = self._loss
        if mode and self.device.type != "cpu":
            self.loss = torch.compile(self._loss)  # nanoGPT's and transformers' models contain their loss
        elif mode:
            self.model = torch.compile(self.model)
        fused = True if mode or self.device.type != "cpu" else None
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=5e-4, fused=fused)
        self.useful = 0

    def step(self, step: int) -> None:
        import torch

        ids, labels = self.padded(step) if self.documents else (rows_of(self.shape, step), None)
        if labels is None:
            labels = ids
        ids, labels = ids.to(self.device), labels.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            loss = self.loss(ids, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cpu":
            loss.item()

    def _loss(self, ids: Any, labels: Any) -> Any:
        import torch
        import torch.nn.functional as F

        logits = self.model(ids)
        logits = logits if isinstance(logits, torch.Tensor) else logits.logits
        return F.cross_entropy(
            logits[:, :-1].reshape(-1, logits.shape[-1]).float(), labels[:, 1:].reshape(-1), ignore_index=-100
        )

    def obey(self) -> None:
        for count, _ in enumerate(orders(self)):
            self.step(count)

    def padded(self, step: int) -> tuple[Any, Any]:
        """One document per row, cut at the row's length, padded to it: minimind's pretraining data set."""
        import torch

        assert self.documents is not None
        rows, length = self.shape["rows"], self.shape["length"]
        ids, labels = torch.zeros(rows, length, dtype=torch.int64), torch.full((rows, length), -100)
        for row in range(rows):
            document = self.documents[(step * rows + row) % len(self.documents)][:length]
            ids[row, : len(document)] = labels[row, : len(document)] = torch.from_numpy(
                document.astype("int64")
            )
            self.useful += len(document)
        return ids, labels


class Over(Exception):
    """There are no more orders."""


class Ours:
    """Hanlin's loop itself: its batch source takes the orders, and a step is all that the loop does from one
    batch to the next."""

    def __init__(self, name: str, shape: dict[str, Any], documents: Path | None):
        import torch

        from hanlin.common.progress import Progress
        from hanlin.dataset import IGNORE_INDEX, Batch, TextRows, TokenDataset
        from hanlin.model import CausalLM, ModelConfig, init_weights
        from hanlin.stages.supervised import NextTokenLoss
        from hanlin.training import BatchSource, TrainConfig, train

        fields = {field.name for field in dataclasses.fields(ModelConfig)}
        model = CausalLM(
            ModelConfig(
                **{k: v for k, v in shape.items() if k in fields},
                vocab_size=shape["vocab"],
                max_position_embeddings=max(1024, shape["length"]),
            )
        )
        init_weights(model, 0)
        self.device = torch.device(shape.get("device", "cpu"))
        model.to(self.device)
        self.useful = 0
        rows, length = shape["rows"], shape["length"]
        text = TextRows(TokenDataset(documents), length, 0) if documents else None

        def full(step: int) -> Batch:
            ids = rows_of(shape, step)
            labels = torch.cat((ids[:, 1:], torch.full((rows, 1), IGNORE_INDEX)), 1)
            return Batch(
                ids,
                labels,
                torch.arange(length).expand(rows, length),
                torch.arange(rows)[:, None].expand(rows, length),
                [],
            )

        def packed(step: int) -> Batch:
            assert text is not None
            self.useful += rows * length
            return text.batch(list(range(step * rows, (step + 1) * rows)))

        class Source(BatchSource):
            def identity(_) -> dict[str, Any]:
                return {"dataset": "benchmark"}

            def micro_batches(_, step: int, model: Any, shard: Any = None) -> list[Batch]:
                if next(self.orders, self) is self:
                    raise Over
                return [packed(step) if text else full(step)]

        config = TrainConfig(
            steps=10**6,
            muon="muon" in name,
            learning_rate=5e-4,
            checkpoint_seconds=1e9,
            permanent_checkpoint_interval=10**6,
            compile="compiled" in name,
        )
        objective = NextTokenLoss(
            torch.ones(shape["vocab"], dtype=torch.int64), z_loss=1e-4, document_mask="whole" not in name
        )
        work = Path(tempfile.mkdtemp())
        self.start = lambda: train(model, Source(), objective, config, work, Progress())

    def obey(self) -> None:
        self.orders = orders(self)
        with contextlib.suppress(Over):
            self.start()


class Products:
    """Square matrix products in bfloat16, float32 on a CPU: what a step would be if it were nothing else.
    One step is one product."""

    def __init__(self, _: str, shape: dict[str, Any], documents: None):
        import torch

        self.device, self.useful = torch.device(shape.get("device", "cpu")), 0
        dtype = torch.float32 if self.device.type == "cpu" else torch.bfloat16
        self.left, self.right = (
            torch.randn(shape["square"], shape["square"], dtype=dtype, device=self.device) for _ in range(2)
        )

    def obey(self) -> None:
        for _ in orders(self):
            self.left @ self.right


def orders(side: Any) -> Iterator[None]:
    """Yield once for every step to take, by the numbers on stdin; after each number's steps, answer with
    their seconds and the peak memory."""
    from hanlin.common.devices import memory_mb, synchronize

    for line in sys.stdin:
        times, side.useful = [], 0
        synchronize(side.device)
        for _ in range(int(line)):
            began = time.perf_counter()
            yield
            times.append(time.perf_counter() - began)
        began = time.perf_counter()
        synchronize(side.device)
        times[-1] += time.perf_counter() - began  # on an accelerator only their sum means anything
        peak = memory_mb(side.device).get(
            "device_memory_mb", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        )
        print(json.dumps({"seconds": times, "peak_mb": peak, "useful": side.useful}), flush=True)


def read_token_ids(folder: Path) -> list[Any]:
    """Every document of a dataset as an array of token ids."""
    from hanlin.dataset import TokenDataset

    data = TokenDataset(folder)
    return [data.tokens[first:end] for first, end in zip(data.starts, data.starts[1:], strict=False)]


def worker(name: str, shape: dict[str, Any], documents: Path | None) -> None:
    """One implementation, until stdin ends."""
    import torch

    torch.set_num_threads(int(os.environ.get("BENCH_THREADS", os.cpu_count() or 1)))
    side = Ours if name.startswith("hanlin") else Products if name == "products" else Peer
    side(name, shape, documents).obey()


class Worker:
    """The parent's end of a worker."""

    def __init__(self, name: str, shape: dict[str, Any], documents: Path | None):
        self.name, self.times, self.useful, self.peak = name, [], 0, 0.0
        precision = (
            "bfloat16"
            if "bf16" in name.split("+")
            else "float32"
            if shape.get("device", "cpu") == "cpu"
            else "auto"
        )
        environment = os.environ | {
            "GOMP_SPINCOUNT": "1000",
            "HF_HUB_OFFLINE": "1",
            "HANLIN_PRECISION": precision,
        }
        command = [sys.executable, __file__, "--worker", name, "--shape", json.dumps(shape)] + (
            ["--documents", str(documents)] if documents else []
        )
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )

    def run(self, steps: int) -> list[float]:
        """Take some steps; their times."""
        self.order(steps)
        return self.answer()

    def order(self, steps: int) -> None:
        """Ask for some steps."""
        assert self.process.stdin
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()

    def answer(self) -> list[float]:
        """The seconds of the steps asked for."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} died with status {self.process.wait()}; what it said is above")
        answer = json.loads(line)
        self.peak, self.useful = answer["peak_mb"], answer["useful"]
        return answer["seconds"]

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


# ------------------------------------------------------------------ the parent


def compare(
    names: list[str], shape: dict[str, Any], rounds: int, steps: int, documents: Path | None = None
) -> dict[str, dict[str, float]]:
    """Median tokens per second of each implementation (useful ones where documents are given), and its peak
    memory."""
    workers = [Worker(name, shape, documents) for name in names]
    figures: dict[str, dict[str, Any]] = {}
    for each in workers:
        warm = each.run(3)
        figures[each.name] = {"first_step_s": round(warm[0], 2), "rates": [], "step_ms": []}
    tokens = shape["rows"] * shape["length"]
    for _ in range(rounds):
        for each in workers:
            seconds = each.run(steps)
            figures[each.name]["rates"].append(
                (each.useful / sum(seconds)) if documents else tokens / statistics.median(seconds)
            )
            figures[each.name]["step_ms"] += seconds
    for each in workers:
        each.close()
        found = figures[each.name]
        found["tokens_per_s"] = round(statistics.median(found.pop("rates")), 1)
        found["step_ms"] = round(1000 * statistics.median(found["step_ms"]), 1)
        found["peak_mb"] = round(each.peak)
    return figures


def show(title: str, figures: dict[str, dict[str, float]], against: str) -> None:
    print(f"\n{title}\n{'':<18}{'tokens/s':>10}{'step ms':>10}{'ratio':>8}{'peak MB':>9}{'first step s':>14}")
    for name, found in figures.items():
        ratio = found["tokens_per_s"] / figures[against]["tokens_per_s"]
        print(
            f"{name:<18}{found['tokens_per_s']:>10,.0f}{found['step_ms']:>10.1f}{ratio:>8.2f}{found['peak_mb']:>9,.0f}{found['first_step_s']:>14.1f}",
            flush=True,
        )


def judge(label: str, value: float, target: float, below: bool = False) -> bool:
    good = value <= target if below else value >= target
    print(
        f"  {'ok  ' if good else 'MISS'} {label}: {value:.2f} (target {'≤' if below else '≥'} {target:.2f})",
        flush=True,
    )
    return good


def real_documents(
    files: list[Path], vocab: int, count: int, folder: Path, longest: int | None = None
) -> Path:
    """Real documents in a seeded order as a dataset of token ids, by a tokenizer trained on them.

    Args:
        longest: only documents of at most so many characters.
    """
    import numpy as np

    import hanlin
    from hanlin.corpus.readers.read import read_documents
    from hanlin.dataset import build_text_dataset

    texts: list[str] = []
    for file in files:
        wanted = (
            document["text"]
            for document in read_documents([file])
            if longest is None or len(document["text"]) <= longest
        )
        texts += itertools.islice(wanted, count)
    order = np.random.default_rng(0).permutation(len(texts))[: count * 4]
    chosen = [texts[index] for index in order]
    sample = folder / "sample.txt"
    sample.write_text("\n".join(text.replace("\n", " ") for text in chosen), encoding="utf-8")
    hanlin.train_tokenizer([sample], vocab_size=vocab, out=folder / "tokenizer")
    build_text_dataset(
        [{"text": text} for text in chosen], hanlin.load_tokenizer(folder / "tokenizer"), folder / "dataset"
    )
    return folder / "dataset"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--worker")
    parser.add_argument("--shape")
    parser.add_argument("--documents", type=Path)
    parser.add_argument("--shapes", default="6m,26m")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--only", default="")
    parser.add_argument("--data", nargs="*", type=Path, default=[])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, json.loads(options.shape), options.documents)
        return 0
    from hanlin.common.devices import device_capabilities, resolve_device

    good, record, bf16 = True, {}, device_capabilities(resolve_device("cpu")).train_dtype == "bfloat16"
    for label in options.shapes.split(","):
        shape = SHAPES[label]
        names = (
            options.only.split(",")
            if options.only
            else ["hanlin", *PEERS, "hanlin+compiled", "llama+compiled", "qwen3+compiled", "gpt2+compiled"]
        )
        figures = compare(names, shape, options.rounds, options.steps)
        record[label] = figures
        show(
            f"{label}: rows {shape['rows']} x {shape['length']}, vocabulary {shape['vocab']}",
            figures,
            "hanlin" if "hanlin" in figures else names[0],
        )
        rate = {name: found["tokens_per_s"] for name, found in figures.items()}
        if not options.only:
            good &= judge(
                "eager, against the best eager peer",
                rate["hanlin"] / max(rate[name] for name in PEERS),
                TARGETS["eager"],
            )
            good &= judge(
                "compiled, against the best compiled peer",
                rate["hanlin+compiled"]
                / max(rate[f"{name}+compiled"] for name in PEERS if name != "minimind"),
                TARGETS["compiled"],
            )
            good &= judge("against minimind", rate["hanlin"] / rate["minimind"], TARGETS["minimind"])
            good &= judge(
                "against minimind, compiled as a long run is",
                rate["hanlin+compiled"] / rate["minimind"],
                TARGETS["minimind"],
            )
            if bf16:
                named = [
                    "minimind",
                    "hanlin+bf16",
                    *(f"{name}+bf16" for name in PEERS),
                    "hanlin+compiled+bf16",
                ]
                record[f"{label} bfloat16"] = lower = compare(named, shape, options.rounds, options.steps)
                show(f"{label}, in bfloat16, and minimind as its script runs here", lower, "minimind")
                rate = {name: found["tokens_per_s"] for name, found in lower.items()}
                good &= judge(
                    "in bfloat16, eager, against the best eager peer",
                    rate["hanlin+bf16"] / max(rate[f"{name}+bf16"] for name in PEERS),
                    TARGETS["eager"],
                )
                good &= judge(
                    "as each comes on this machine (bfloat16, minimind float32)",
                    rate["hanlin+bf16"] / rate["minimind"],
                    TARGETS["minimind"],
                )
            good &= judge(
                "peak memory over eager Llama's",
                figures["hanlin"]["peak_mb"] / figures["llama"]["peak_mb"],
                TARGETS["memory"],
                below=True,
            )
        for what, longest in (("short", 512), ("all", None)) if options.data else ():
            with tempfile.TemporaryDirectory() as folder:
                documents = real_documents(options.data, shape["vocab"], 1500, Path(folder), longest)
                lengths = list(map(len, read_token_ids(documents)))
                figures = compare(
                    ["hanlin", "minimind"] + (["hanlin+bf16", "minimind+bf16"] if bf16 else []),
                    shape,
                    options.rounds,
                    options.steps,
                    documents,
                )
            record[f"{label} {what} documents"] = figures
            chosen = (
                "of at most 512 characters, as those of minimind's own set" if longest else "of all lengths"
            )
            show(
                f"{label}: {len(lengths)} real documents {chosen}, "
                f"median {statistics.median(lengths):.0f} tokens, "
                f"mean {statistics.mean(lengths):.0f}; useful tokens",
                figures,
                "hanlin",
            )
            ratio = figures["hanlin"]["tokens_per_s"] / figures["minimind"]["tokens_per_s"]
            good &= judge(
                f"useful tokens on {what} documents, against minimind's padding "
                "(what it cuts off costs it nothing here)",
                ratio,
                TARGETS["documents"],
            )
            if bf16:
                ratio = figures["hanlin+bf16"]["tokens_per_s"] / figures["minimind"]["tokens_per_s"]
                good &= judge(
                    "as each comes on this machine (bfloat16, minimind float32)", ratio, TARGETS["documents"]
                )
    if options.json:
        options.json.write_text(json.dumps(record, indent=2))
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
