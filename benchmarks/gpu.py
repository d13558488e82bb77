"""Training on one accelerator: speed beside peers, memory, the seed's headline, a 26M model from text to
talk.

    python benchmarks/gpu.py --data FILES… [--sft FILE] [--parts speed,attention,memory,headline,zh26m]
                             [--minutes 9] [--out FOLDER]
    python benchmarks/gpu.py --dry-run          every path in small, on a CPU; nothing is judged

Every part runs alone, within `--minutes`, and leaves `PART.json` and `PART.log` in the folder, with hardware,
versions and commit.

  speed      bfloat16, 14x640 and 12x768 at lengths 1024 and 2048: Hanlin's real loop (AdamW, eager and
             compiled; compiled with Muon, and with documents kept apart) beside a GPT-2 block as nanoGPT
             trains it (fused AdamW, loss compiled with the model) and transformers' Llama; each in a process
             of its own, interleaved, medians. MFU is against bfloat16 products of 8192² in the same rounds.
             Vocabulary 50,304 for all: the seed's 50,257 rounded up to a multiple of 64, as nanoGPT does.
  attention  the ways to keep packed documents apart: right or not, and how fast.
  memory     2,000 steps of 14x640 at length 2048 from a token dataset: memory flat, no step skipped, no NaN.
  headline   14x640 by the seed's recipe for `--seconds`, then by ours for a third of them: held-out bits
             per byte.
  zh26m      `hanlin run zh-26m`: corpus, tokenizer, pretraining, SFT, samples.

Where nothing can be downloaded: bring wheels of what the message names as missing, `pip install
--no-build-isolation --no-deps .`, and run this file, not `make`, one part at a time where a command may take
ten minutes. A log is written line by line.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gpu_parts
import train

SHAPES = {
    "12x768": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
        "intermediate_size": 2048,
        "vocab": 50304,
    },
    "14x640": {
        "hidden_size": 640,
        "num_hidden_layers": 14,
        "num_attention_heads": 10,
        "num_key_value_heads": 10,
        "intermediate_size": 1728,
        "vocab": 50304,
    },
}
TINY = {
    "2x64": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "intermediate_size": 160,
        "vocab": 512,
    }
}
OURS = ("hanlin+whole", "hanlin+whole+compiled", "hanlin+whole+compiled+muon", "hanlin+compiled")
JUDGED = "hanlin+whole+compiled"
TARGETS = {"mfu": 0.45, "peers": 1.0}
NEEDED = {
    "torch": "torch",
    "numpy": "numpy",
    "hanlin": "hanlin",
    "safetensors": "safetensors",
    "tokenizers": "tokenizers",
    "orjson": "orjson",
    "zstandard": "zstandard",
    "cyclopts": "cyclopts",
    "PyYAML": "yaml",
    "rich": "rich",
}


class Log:
    """What a part says, on the screen and in its file; and the figures behind it."""

    def __init__(self, folder: Path, part: str, dry: bool):
        self.folder, self.part, self.dry, self.good = folder, part, dry, True
        self.lines: list[str] = []
        self.record: dict[str, Any] = {"part": part, "dry_run": dry}

    def say(self, text: str = "") -> None:
        """One more line; written at once, with the figures so far, since a run may be cut off."""
        self.lines.append(text)
        print(text, flush=True)
        self.close()

    def judge(self, what: str, value: float, target: float, below: bool = False) -> bool:
        """Hold a figure against its target; a dry run judges nothing."""
        good = value <= target if below else value >= target
        self.say(
            f"  {'dry ' if self.dry else 'ok  ' if good else 'MISS'} {what}: {value:.4g} "
            f"(target {'≤' if below else '≥'} {target:g})"
        )
        self.record.setdefault("judged", []).append(
            {"what": what, "value": value, "target": target, "met": good}
        )
        self.good &= good or self.dry
        return good

    def missing(self, what: str) -> None:
        """Say what was left out: a target that nobody measured is not met."""
        self.say(f"  {'dry ' if self.dry else 'MISS'} {what}")
        self.record.setdefault("left_out", []).append(what)
        self.good &= self.dry

    def close(self) -> None:
        """Write both files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{self.part}.json").write_text(json.dumps(self.record, indent=2, ensure_ascii=False))
        (self.folder / f"{self.part}.log").write_text("\n".join(self.lines) + "\n", encoding="utf-8")


# ------------------------------------------------------------------ where it ran


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def first_line(*command: str) -> str:
    """What a program says, or `unknown` where there is none."""
    if not shutil.which(command[0]):
        return "unknown"
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    return (done.stdout.splitlines() or ["unknown"])[0].strip()


def environment(device: Any) -> dict[str, Any]:
    """Hardware, driver, versions and commit."""
    import torch

    found: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "device": str(device),
    }
    if device.type != "cpu":
        library = getattr(torch, device.type)
        properties = library.get_device_properties(device)
        found |= {"name": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1)}
        found["driver"] = (
            first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
            if device.type == "cuda"
            else "unknown"
        )
    found |= {
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
    }
    found |= {name: version(name) for name in ("torch", "triton", "transformers", "numpy", "hanlin")}
    return found | {"commit": os.environ.get("COMMIT") or first_line("git", "rev-parse", "HEAD")}


# ------------------------------------------------------------------ speed


def flops_per_token(name: str, shape: dict[str, Any]) -> float:
    """Training FLOPs of a token, counted for all alike: 6 a matrix weight, causal attention."""
    from hanlin.model import ModelConfig

    fields = {
        key: value
        for key, value in shape.items()
        if key
        in (
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "intermediate_size",
        )
    }
    if name.startswith("gpt2"):
        fields |= {"family": "gpt2", "intermediate_size": 4 * shape["hidden_size"]}
    return ModelConfig(
        vocab_size=shape["vocab"], max_position_embeddings=shape["length"], **fields
    ).flops_per_token(shape["length"])


def side_by_side(
    names: list[str], shape: dict[str, Any], rounds: int, steps: int, products: int, log: Log
) -> dict[str, dict[str, float]]:
    """Medians over the rounds: tokens per second and peak memory of each, FLOP/s of plain products. All
    compile at once, then one works at a time."""
    started = [train.Worker(name, shape, None) for name in ("products", *names)]
    for each in started:
        each.order(3)
    first: dict[str, float] = {}
    workers = []
    for each in started:
        try:
            first[each.name] = each.answer()[0]
            workers.append(each)
        except RuntimeError as error:
            if each.name in ("products", JUDGED):
                raise
            log.missing(str(error))
    rates: dict[str, list[float]] = {each.name: [] for each in workers}
    for _ in range(rounds):
        for each in workers:
            count = products if each.name == "products" else steps
            work = 2 * shape["square"] ** 3 if each.name == "products" else shape["rows"] * shape["length"]
            rates[each.name].append(work * count / sum(each.run(count)))
    for each in workers:
        each.close()
    peak = statistics.median(rates.pop("products"))
    found: dict[str, dict[str, float]] = {"products": {"flops": peak}}
    for each in workers[1:]:
        rate = statistics.median(rates[each.name])
        found[each.name] = {
            "tokens_per_s": rate,
            "mfu": rate * flops_per_token(each.name, shape) / peak,
            "peak_gib": each.peak / 1024,
            "spread": (max(rates[each.name]) - min(rates[each.name])) / rate,
            "first_step_s": first[each.name],
        }
    return found


def speed(options: argparse.Namespace, log: Log) -> None:
    """Tokens per second, MFU and memory beside peers."""
    llama = ["llama"] if importlib.util.find_spec("transformers") else []
    if not llama:
        log.missing(
            "transformers is not installed: its Llama is left out; "
            "minimind's block (Llama's, with QK-norm) stands in"
        )
    others = ["gpt2", *(llama or ["minimind"])]
    names = [*OURS, *others, *(f"{name}+compiled" for name in others)]
    cells = [(label, shape, length) for length in (1024, 2048) for label, shape in SHAPES.items()]
    rounds, steps, products, square = 5, 10, 20, 8192
    if options.dry_run:
        names, cells, (rounds, steps, products, square) = (
            ["hanlin+whole", JUDGED, "hanlin", "gpt2", "gpt2+compiled", "minimind"],
            [("2x64", TINY["2x64"], 64)],
            (2, 2, 2, 256),
        )
    for label, base, length in cells:
        if time.monotonic() > options.deadline - 100 and not options.dry_run:
            log.missing(f"{label} at {length}: no time left")
            continue
        tokens = 256 if options.dry_run else options.step_tokens
        shape = base | {
            "length": length,
            "rows": tokens // length,
            "square": square,
            "device": str(options.device),
        }
        found = side_by_side(names, shape, rounds, steps, products, log)
        log.record.setdefault("cells", {})[f"{label}/{length}"] = found
        log.say(
            f"\n{label}, length {length}, {tokens:,} tokens a step, vocabulary {base['vocab']:,}; "
            f"plain products {found['products']['flops'] / 1e12:.1f} TFLOP/s"
        )
        log.say(f"{'':<28}{'tokens/s':>12}{'MFU':>8}{'peak GiB':>10}{'spread':>8}{'first step s':>14}")
        for name in filter(found.__contains__, names):
            one = found[name]
            log.say(
                f"{name:<28}{one['tokens_per_s']:>12,.0f}{one['mfu']:>8.1%}{one['peak_gib']:>10.1f}{one['spread']:>8.1%}{one['first_step_s']:>14.1f}"
            )
        peers = {
            name: found[name]["tokens_per_s"]
            for name in names
            if name in found and not name.startswith("hanlin")
        }
        if not peers:
            log.missing("no peer ran")
            continue
        fastest = max(peers, key=lambda name: peers[name])
        log.judge(
            f"{JUDGED} against the fastest peer ({fastest})",
            found[JUDGED]["tokens_per_s"] / peers[fastest],
            TARGETS["peers"],
        )
        if label == "12x768":
            log.judge(f"MFU of {JUDGED} at length {length}", found[JUDGED]["mfu"], TARGETS["mfu"])


# ------------------------------------------------------------------ all parts

PARTS = {
    "speed": speed,
    "attention": gpu_parts.attention,
    "memory": gpu_parts.memory,
    "headline": gpu_parts.headline,
    "zh26m": gpu_parts.zh26m,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--device", help="the accelerator there is, when absent")
    parser.add_argument(
        "--data",
        nargs="*",
        type=Path,
        default=[],
        help="pretraining text; without it, embedded tinyworld text",
    )
    parser.add_argument("--sft", type=Path, help="conversations of zh26m")
    parser.add_argument(
        "--tokenizer", type=Path, help="of memory and headline; trained on the text when absent"
    )
    parser.add_argument("--megabytes", type=float, default=40.0, help="of each file of text")
    parser.add_argument("--step-tokens", type=int, default=16384, help="of speed")
    parser.add_argument("--steps", type=int, default=2000, help="of memory")
    parser.add_argument("--seconds", type=float, default=180.0, help="of the seed's recipe")
    parser.add_argument("--minutes", type=float, default=9.0, help="for each part")
    parser.add_argument(
        "--out",
        type=Path,
        help="of figures and logs; in benchmarks/results when absent, of a dry run in runs",
    )
    options = parser.parse_args()
    unknown = set(options.parts.split(",")) - set(PARTS)
    if unknown:
        parser.error(f"unknown parts {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")

    absent = [package for package, module in NEEDED.items() if not importlib.util.find_spec(module)]
    if absent:
        print(
            f"缺少 {'、'.join(absent)}：什么也没有测；请先安装（没有网络的机器，带上它们的 wheel）。",
            file=sys.stderr,
        )
        print(
            f"{', '.join(absent)} missing, so nothing was measured; "
            "install them first (where there is no network, carry their wheels).",
            file=sys.stderr,
        )
        return 2
    from hanlin.common.devices import resolve_device

    options.device = resolve_device("cpu" if options.dry_run else options.device)
    if options.device.type == "cpu" and not options.dry_run:
        print(
            "没有加速器：什么也没有测；用 --dry-run 在 CPU 上走一遍。"
            "There is no accelerator, so nothing was measured; --dry-run goes through it on a CPU.",
            file=sys.stderr,
        )
        return 2
    if options.dry_run:
        options.seconds, options.steps, options.megabytes = 3.0, 30, 0.2
    home = Path(__file__).parent
    options.out = (
        options.out
        or (home.parent / "runs" if options.dry_run else home / "results") / f"gpu-{datetime.date.today()}"
    )
    good = True
    for part in options.parts.split(","):
        log = Log(options.out, part, options.dry_run)
        log.record["environment"] = environment(options.device)
        log.say(
            f"== {part}: " + ", ".join(f"{key} {value}" for key, value in log.record["environment"].items())
        )
        began = time.monotonic()
        options.deadline = began + 60 * options.minutes
        try:
            PARTS[part](options, log)
        except Exception as error:  # the other parts are worth their time
            log.missing(f"{part} failed: {type(error).__name__}: {error}")
            if options.dry_run:
                raise
        finally:
            log.record["seconds"] = time.monotonic() - began
            judged = "all targets met" if log.good else "targets missed"
            verdict = "dry run, nothing judged" if options.dry_run else judged
            log.say(f"== {part}: {log.record['seconds']:.0f} s, {verdict}")
            log.close()
        good &= log.good
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
