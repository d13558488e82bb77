"""The parts of `gpu.py` that are not a race of steps: attention within documents, flat memory, the seed's
headline, zh-26m.

Each takes the options and a log to say and judge things in.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import recipes

SEED_SHAPE = {
    "hidden_size": 640,
    "num_hidden_layers": 14,
    "num_attention_heads": 10,
    "num_key_value_heads": 10,
    "vocab": 50304,
    "length": 1024,
    "rows": 32,
}
TINY_SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab": 512,
    "length": 64,
    "rows": 4,
}
TARGETS = {"sooner": 3.0, "growth": 0.01, "error": 0.02}


def texts(options: Any, folder: Path, log: Any) -> list[Path]:
    """The files given, or as many embedded stories as a dry run needs."""
    if options.data:
        return options.data
    from hanlin.corpus import tinyworld

    log.say("no --data: tinyworld text, which says nothing about real text")
    file = folder / "tinyworld.jsonl"
    count = 400 if options.dry_run else 200_000
    file.write_text(
        "".join(
            json.dumps(document, ensure_ascii=False) + "\n" for document in tinyworld.documents(1, count)
        ),
        encoding="utf-8",
    )
    return [file]


# ------------------------------------------------------------------ attention within documents


def attention(options: Any, log: Any) -> None:
    """Each way to keep packed documents apart: its error against float32, forward and backward, and its
    time."""
    import torch

    from hanlin.common.devices import device_capabilities, synchronize
    from hanlin.common.documents import document_starts
    from hanlin.model.attention.backends import BACKENDS, Rows
    from hanlin.model.attention.reference import attend

    device, dry = options.device, options.dry_run
    dtype = getattr(torch, device_capabilities(device).train_dtype)
    chosen = [name for name in BACKENDS if name != "tiles" or device.type == "cpu"]

    def causal(q: Any, k: Any, v: Any) -> Any:
        return attend(*(x.transpose(1, 2) for x in (q, k, v)), None).transpose(1, 2)

    def way_of(name: str, ids: Any, q: Any) -> Callable[..., Any]:
        """The back end with what a batch prepares for it, outside the clock as in a step, where all layers
        share it."""
        if name not in BACKENDS:
            return causal
        rows = Rows(ids.to(q.device), document_starts(ids).to(q.device), *ids.shape, q.device, q.dtype)
        return functools.partial(_run, BACKENDS[name], BACKENDS[name].prepare(rows))

    for length, groups in ((64, 2), (64, 1)) if dry else ((1024, 12), (2048, 12), (1024, 4)):
        rows, heads = (2, 2) if dry else (16384 // length, 12)
        generator = torch.Generator().manual_seed(0)
        size = 20 if dry else 300
        ids = (torch.rand(rows, length, generator=generator) < 1 / size).cumsum(1) + torch.arange(rows)[
            :, None
        ] * length
        q, k, v = (
            torch.randn(rows, length, n, 64, generator=generator).to(device, dtype).requires_grad_()
            for n in (heads, groups, groups)
        )
        above = torch.randn(q.shape, generator=generator).to(device, dtype)
        leaves = [x.detach().float().requires_grad_() for x in (q, k, v)]
        wanted = gradients(way_of("plain", ids, leaves[0]), leaves, above.float())
        log.say(
            f"\n{rows} rows of {length}, {heads} heads, {groups} of keys, "
            f"documents of about {size} tokens, {dtype}"
        )
        for name in [*chosen, "causal, documents not kept apart"]:
            try:
                way = way_of(name, ids, q)
                found = gradients(way, [q, k, v], above)
                synchronize(device)
                times = []
                for _ in range(2 if dry else 20):
                    began = time.perf_counter()
                    gradients(way, [q, k, v], above)
                    synchronize(device)
                    times.append(time.perf_counter() - began)
            except Exception as error:  # what a device does not have is a result
                log.say(
                    f"  {name}: not here "
                    f"({type(error).__name__}: {(str(error).strip().splitlines() or ['?'])[0][:120]})"
                )
                log.record.setdefault("not_here", {})[name] = (str(error).strip().splitlines() or ["?"])[0][
                    :200
                ]
                continue
            error = max(
                float((ours.float() - theirs).norm() / theirs.norm())
                for ours, theirs in zip(found, wanted, strict=True)
            )
            log.say(f"  {name:<34}{1000 * statistics.median(times):>9.2f} ms   relative error {error:.4f}")
            if not name.startswith("causal"):
                log.judge(f"error of {name}", error, TARGETS["error"], below=True)
            log.record.setdefault("ways", []).append(
                {
                    "name": name,
                    "length": length,
                    "groups": groups,
                    "ms": 1000 * statistics.median(times),
                    "error": error,
                }
            )


def _run(backend: Any, shared: Any, q: Any, k: Any, v: Any) -> Any:
    return backend.run(q, k, v, shared)


def gradients(way: Callable[..., Any], inputs: list[Any], above: Any) -> list[Any]:
    """Output and gradients of the inputs."""
    import torch

    out = way(*inputs)
    return [out.detach(), *torch.autograd.grad(out, inputs, above)]


# ------------------------------------------------------------------ memory


def memory(options: Any, log: Any) -> None:
    """Hanlin's loop on a token dataset at the length where the seed's run met NaN: what the allocator holds,
    step after step."""
    import torch

    from hanlin.common.devices import memory_mb
    from hanlin.common.progress import Progress
    from hanlin.dataset import TextRows, TokenDataset
    from hanlin.model import CausalLM, ModelShape, init_weights
    from hanlin.stages.supervised import NextTokenLoss, RowSource, SupervisedConfig
    from hanlin.tokenizer.token_bytes import token_bytes
    from hanlin.training import TrainConfig, train

    shape = TINY_SHAPE if options.dry_run else SEED_SHAPE | {"length": 2048, "rows": 16}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        words = recipes.prepare(
            texts(options, folder, log),
            folder,
            int(min(options.megabytes, 5.0) * 1e6),
            5,
            shape["vocab"],
            shape["length"],
            options.tokenizer,
        )
        fields = {key: value for key, value in shape.items() if key not in ("vocab", "length", "rows")}
        model = CausalLM(
            ModelShape(**fields, max_position_embeddings=shape["length"]).config(
                words.vocab_size, words.eos_id
            )
        )
        init_weights(model, 1)
        model.to(options.device)
        settings = TrainConfig(
            steps=options.steps,
            learning_rate=1e-3,
            checkpoint_seconds=1e9,
            permanent_checkpoint_interval=10**6,
            compile=not options.dry_run,
        )
        config = SupervisedConfig(
            settings,
            seq_len=shape["length"],
            batch_tokens=shape["length"] * shape["rows"],
            micro_tokens=shape["length"] * shape["rows"],
        )
        samples: list[dict[str, float]] = []
        losses: list[float] = []

        class Watched(RowSource):
            """The rows; every so many steps what is held is written down, and what was held at most begins
            anew."""

            def micro_batches(self, step: int, model: Any, *shard: Any) -> Any:
                if step % max(1, options.steps // 200) == 0:
                    samples.append({"step": step, **held(options.device, memory_mb)})
                return super().micro_batches(step, model, *shard)

        class Heard(Progress):
            def update(self, step: int, steps: int, figures: dict[str, float]) -> None:
                losses.append(figures["loss"])

        source = Watched(TextRows(TokenDataset(folder / "dataset"), shape["length"], 1), config)
        objective = NextTokenLoss(token_bytes(words), z_loss=1e-4)
        limit = max(10.0, options.deadline - time.monotonic() - 20)
        result = train(model, source, objective, settings, folder / "work", Heard(), max_seconds=limit)
    log.record |= {
        "samples": samples,
        "losses": losses[:: max(1, len(losses) // 200)],
        "seconds_training": result.seconds,
    }
    log.say(
        f"{len(losses):,} steps of {config.batch_tokens:,} tokens in {result.seconds:.0f} s, "
        f"{len(losses) * config.batch_tokens / result.seconds:,.0f} tokens/s; "
        f"loss {losses[0]:.3f} → {statistics.mean(losses[-20:]):.3f}"
    )
    if len(losses) < options.steps:
        log.missing(f"only {len(losses)} of {options.steps} steps fitted the time")
    for name in samples[0]:
        if name != "step":
            values = [sample[name] for sample in samples]
            log.say(
                f"{name}: {values[0]:,.0f} at first, {max(values):,.0f} at most, {values[-1]:,.0f} at last"
            )
            log.judge(f"growth of {name} over the second half", growth(values), TARGETS["growth"], below=True)
    log.judge("steps skipped by the guards (NaN among them)", result.skipped, 0, below=True)
    log.judge(
        "losses that are not finite", sum(not torch.tensor(loss).isfinite() for loss in losses), 0, below=True
    )


def held(device: Any, memory_mb: Callable[..., dict[str, float]]) -> dict[str, float]:
    """MiB: what the device's allocator held at most since the last question and what it keeps; for a CPU the
    process."""
    import torch

    if device.type == "cpu":
        return {"resident MiB": memory_mb(device)["memory_mb"]}
    library = getattr(torch, device.type)
    found = {
        "allocated MiB at most": library.max_memory_allocated(device) / 2**20,
        "reserved MiB": library.memory_reserved(device) / 2**20,
    }
    library.reset_peak_memory_stats(device)
    return found


def growth(values: list[float]) -> float:
    """Relative growth over the second half of a series, by the straight line that fits it best: the first
    half may still settle."""
    values = values[len(values) // 2 :]
    count, mean = len(values), statistics.mean(values)
    middle = (count - 1) / 2
    spread = sum((at - middle) ** 2 for at in range(count))
    slope = sum((at - middle) * (value - mean) for at, value in enumerate(values)) / spread if spread else 0.0
    return slope * (count - 1) / mean


# ------------------------------------------------------------------ the seed's headline


def headline(options: Any, log: Any) -> None:
    """The seed's recipe for so many seconds, then ours for a third of them, and, when that misses, for more:
    who is where when.

    The seed's is given what it did not have: bfloat16 on this card, a compiled step, no recomputation of
    activations, all 32 rows of a step at once.
    """
    from hanlin.recipe.sizing import learning_rate

    dry = options.dry_run
    shape = TINY_SHAPE if dry else SEED_SHAPE
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        words = recipes.prepare(
            texts(options, folder, log),
            folder,
            int(options.megabytes * 1e6),
            20,
            shape["vocab"],
            shape["length"],
            options.tokenizer,
        )
        shape = shape | {"vocab": -(-words.vocab_size // 64) * 64}
        heldout = folder / "heldout.json"

        def run(side: Any, seconds: float) -> dict[str, Any]:
            side.gradients(0)  # compiles, outside the clock; nothing is updated
            side.model.zero_grad(set_to_none=True)
            found = recipes.learn(side, seconds, heldout)
            found["bits_per_byte"] = recipes.bits_per_byte(found)
            found["document_bits"] = found.pop("documents")
            return found

        seed = run(
            recipes.Other("seed", folder, 1, shape, str(options.device), compiled=not dry), options.seconds
        )
        log.record["seed"] = seed
        log.say(
            f"{'seed':<8}{seed['seconds']:>8.1f} s {seed['steps']:>6,} steps {seed['tokens']:>12,} tokens "
            f"{seed['bits_per_byte']:.4f} bits per byte"
        )
        outside = seed["parameters"] - shape["vocab"] * shape["hidden_size"]
        reached = None
        for share in (
            TARGETS["sooner"] * 1.01,
            2.0,
            1.0,
        ):  # a little less than a third, since the last step ends after the bell
            budget = options.seconds / share
            if share < TARGETS["sooner"] and time.monotonic() + budget + 60 > options.deadline:
                log.say(f"no time left to see whether {budget:.0f} s would do")
                break
            tokens = seed["tokens"] / share
            rate = learning_rate(outside, tokens)
            ours = run(recipes.Hanlin(folder, 1, shape, str(options.device), rate, compiled=not dry), budget)
            log.record.setdefault("hanlin", []).append(ours | {"share": share, "learning_rate": rate})
            log.say(
                f"{'hanlin':<8}{ours['seconds']:>8.1f} s {ours['steps']:>6,} steps "
                f"{ours['tokens']:>12,} tokens {ours['bits_per_byte']:.4f} bits per byte, "
                f"peak rate {rate:.2g}"
            )
            if not ours["finite"]:
                log.missing("a loss of ours was not finite")
            if ours["bits_per_byte"] <= seed["bits_per_byte"]:
                reached = seed["seconds"] / ours["seconds"]
                break
        log.record["seed_finite"] = seed["finite"]
        log.judge(
            "times sooner at the seed's final bits per byte (at least: budgets are a third, half, all)",
            reached or 0.0,
            TARGETS["sooner"],
        )


# ------------------------------------------------------------------ zh-26m


def zh26m(options: Any, log: Any) -> None:
    """The recipe by the command line, as many steps as the time allows; its samples beside its figures."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, out = Path(temporary), Path(temporary) / "run"
        files = texts(options, folder, log)
        chats = options.sft or conversations(folder, log, 300 if options.dry_run else 30_000)
        command = [
            sys.executable,
            "-m",
            "hanlin",
            "run",
            "zh-26m",
            *overrides(options),
            "--out",
            str(out),
            "--device",
            str(options.device),
        ]
        command += [word for file in files for word in ("--corpus", str(file))] + ["--sft", str(chats)]
        log.say(" ".join(["hanlin", *command[3:]]).replace(temporary, "…"))
        limit = None if options.dry_run else max(60.0, options.deadline - time.monotonic())
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, env=os.environ | {"HANLIN_LANG": "en"}, timeout=limit
        )
        if done.returncode:
            raise RuntimeError(f"hanlin run ended with status {done.returncode}")
        report = json.loads((out / "report.json").read_text())
    log.record["report"] = report
    for stage in report["stages"]:
        log.say(f"\n{stage['name']}: {stage['seconds']:.1f} s")
        for name, metric in stage["metrics"].items():
            control = metric.get("control")
            log.say(
                f"  {name} {metric['value']:.4g} [{metric['low']:.4g}, {metric['high']:.4g}] n={metric['n']}"
                + (f"; {control['name']} {control['value']:.4g}" if control else "")
            )
        for sample in stage["samples"]:
            log.say("  " + json.dumps(sample, ensure_ascii=False))
    log.judge("stages of zh-26m with samples", sum(bool(stage["samples"]) for stage in report["stages"]), 2)


def overrides(options: Any) -> list[str]:
    """Settings for the time there is: a third of it for pretraining at a third of the machine's products, a
    tenth for SFT."""
    from hanlin.common.devices import matmul_peak
    from hanlin.pipeline import load_recipe

    if options.dry_run:
        tiny = [
            "model.hidden_size=64",
            "model.num_hidden_layers=2",
            "model.num_attention_heads=2",
            "model.num_key_value_heads=1",
            "model.intermediate_size=160",
            "model.max_position_embeddings=512",
        ]
        tiny += [
            "tokenizer.vocab_size=600",
            "evaluation.count=5",
            "evaluation.max_new_tokens=8",
            "corpus.preset=zh-short",
            "sft.data.limit=200",
        ]
        small = [
            f"{stage}.{key}"
            for stage in ("pretrain", "sft")
            for key in ("seq_len=256", "batch_tokens=1024", "micro_tokens=1024", "train.steps=4")
        ]
        return tiny + small
    recipe = load_recipe("zh-26m", ["corpus.files=[x]"])
    rate = (
        matmul_peak(options.device)
        / 3
        / dataclasses.replace(recipe.model, residual_init="zero")
        .config(recipe.tokenizer.vocab_size, 0)
        .flops_per_token(recipe.pretrain.seq_len)
    )
    seconds = 60 * options.minutes
    assert recipe.sft is not None
    found = []
    for name, section, share in (("pretrain", recipe.pretrain, 1 / 3), ("sft", recipe.sft, 0.1)):
        steps = min(section.train.steps, max(20, int(seconds * share * rate / section.batch_tokens)))
        found.append(f"{name}.train.steps={steps}")
    return [*found, "evaluation.count=100", "sft.data.limit=20000"]


def conversations(folder: Path, log: Any, count: int) -> Path:
    """Embedded conversations, where none were given."""
    from hanlin.corpus import tinyworld

    log.say("no --sft: embedded conversations")
    file = folder / "chats.jsonl"
    lines = (
        json.dumps({"messages": one["messages"]}, ensure_ascii=False)
        for one in tinyworld.chat_conversations(1, count, "train")
    )
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file
