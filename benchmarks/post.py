"""Post-training beside its peers: TRL, PEFT and bitsandbytes, on the same model, rows and threads, in
float32.

    python benchmarks/post.py --peers PYTHON --sft FILE --pairs FILE [--shapes 6m,26m] [--rounds 5]
        [--parts sft,dpo,reward,lora,qlora]

Every side lives in a process of its own, so that its peak memory is its own; one works at a time, some steps
per round, round after round, and medians over the rounds are compared. Each runs its own real loop: Hanlin
its stage, TRL its trainer. PYTHON is an interpreter that has trl, peft and bitsandbytes (`make bench-post`
makes an environment for them).

The rows are real conversations and real pairs of at most 256 and 220 tokens, by one tokenizer of 6,400
entries. TRL pads as it does on a CPU, and is asked for float32 and against gradient checkpointing, which its
defaults would have: both cost it time. Useful tokens are those that are no padding. Exit status 1 below a
target.
"""

from __future__ import annotations

import argparse
import contextlib
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

ROWS, SFT_TOKENS, PAIRS, PAIR_TOKENS = 16, 256, 8, 220
SHAPES = {
    "6m": {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2}
    | {"intermediate_size": 704},
    "26m": {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 8}
    | {"intermediate_size": 1408},
    "300m": {
        "hidden_size": 1024,
        "num_hidden_layers": 22,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
    }
    | {"intermediate_size": 3072},
}
PARTS = ("sft", "dpo", "reward", "lora", "qlora")
LORA = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Over(BaseException):
    """There are no more orders."""


# ------------------------------------------------------------------ the two sides, each in its own process


class Side:
    """A worker: takes a number of steps for each number on stdin, and answers with seconds, useful tokens,
    peak memory and the bytes of gradients and optimiser state."""

    def __init__(self, part: str, folder: Path):
        self.part, self.folder = part, folder
        self.useful = 0
        self.state: Any = dict

    def orders(self) -> Iterator[None]:
        for line in sys.stdin:
            self.useful = 0
            began = time.perf_counter()
            for _ in range(int(line)):
                yield
            seconds = time.perf_counter() - began
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            answer = {"seconds": seconds, "useful": self.useful, "peak_mb": peak, "state": self.state()}
            print(json.dumps(answer), flush=True)

    def obey(self) -> None:
        self.steps = self.orders()
        with contextlib.suppress(Over):
            self.start()

    def next(self) -> None:
        """Wait for the order to take a step."""
        if next(self.steps, self) is self:
            raise Over

    def start(self) -> None:
        raise NotImplementedError


def state_bytes(parameters: Any, optimizers: Any) -> dict[str, int]:
    """Bytes of gradients and of optimiser state."""
    import torch

    states = [value for each in optimizers for slot in each.state.values() for value in slot.values()]
    held = sum(v.numel() * v.element_size() for v in states if isinstance(v, torch.Tensor))
    wanted = sum(p.numel() * p.element_size() for p in parameters if p.requires_grad)
    return {"gradients": wanted, "optimizer": held}


class Ours(Side):
    """Hanlin's stage: its batch source takes the orders."""

    def start(self) -> None:
        from hanlin.common.progress import Progress
        from hanlin.model.lora import LoRA
        from hanlin.stages.base import Job
        from hanlin.training import TrainConfig
        from hanlin.training.trainer import Trainer

        side, kept = self, {}
        begin = Trainer.__init__

        def watched(trainer: Trainer, model: Any, source: Any, *rest: Any, **more: Any) -> None:
            batches = source.micro_batches

            def taken(*where: Any) -> Any:
                side.next()
                found = batches(*where)
                side.useful += sum(int((batch.doc_ids >= 0).sum()) for batch in found)
                return found

            source.micro_batches = taken
            begin(trainer, model, source, *rest, **more)
            kept["trainer"] = trainer

        def state() -> dict[str, int]:
            trainer = kept["trainer"]
            return state_bytes(trainer.model.parameters(), trainer.optimizers.all)

        Trainer.__init__ = watched  # type: ignore[method-assign]
        self.state = state
        train = TrainConfig(
            steps=10**6,
            muon=False,
            learning_rate=1e-4,
            checkpoint_seconds=1e9,
            permanent_checkpoint_interval=10**6,
            compile=False,
        )
        kind, _, adapter = self.part.partition("+")
        wrapped = None
        if adapter:
            wrapped = LoRA(r=64 if adapter == "qlora" else 16, base="nf4" if adapter == "qlora" else "")
        work = Path(tempfile.mkdtemp())
        job = Job(work / "out", work / "work", Progress(), adapter=wrapped)
        self.stage(kind, adapter, train, job)

    def stage(self, kind: str, adapter: str, train: Any, job: Any) -> None:
        from hanlin.stages.reward_model import RewardConfig, reward
        from hanlin.stages.supervised import SupervisedConfig, finetune

        model = self.folder / "model"
        if kind == "sft":
            rows = 2 if adapter == "qlora" else ROWS
            config = SupervisedConfig(
                train, SFT_TOKENS, rows * SFT_TOKENS, rows * SFT_TOKENS, checkpoint_activations=rows == 2
            )
            finetune(model, self.folder / "talks", config, job)
        elif kind == "reward":
            reward(model, self.folder / "pairs", RewardConfig(2 * PAIR_TOKENS, PAIRS, train), job)
        else:
            self.preference(model, train, job)

    def preference(self, model: Path, train: Any, job: Any) -> None:
        from hanlin.stages.preference.losses import DPO
        from hanlin.stages.preference.stage import PreferenceConfig, optimise_preferences

        loss = DPO(beta=0.1, length_normalized=False, sft_weight=0.0)
        config = PreferenceConfig(seq_len=2 * PAIR_TOKENS, pairs=PAIRS, train=train, loss=loss)
        optimise_preferences(model, self.folder / "pairs", config, job)


class Theirs(Side):
    """TRL's trainer, with PEFT where there is an adapter: a callback takes the orders."""

    def start(self) -> None:
        import datasets
        import torch
        import transformers
        import trl

        side = self
        kind, _, adapter = self.part.partition("+")
        tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder / "model")
        records = [json.loads(line) for line in (self.folder / f"{kind}.jsonl").open(encoding="utf-8")]
        data = datasets.Dataset.from_list(records)
        same: dict[str, Any] = {
            "output_dir": tempfile.mkdtemp(),
            "max_steps": 10**6,
            "learning_rate": 1e-4,
            "report_to": [],
            "save_strategy": "no",
            "logging_steps": 10**6,
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "per_device_train_batch_size": 2 if adapter == "qlora" else ROWS if kind == "sft" else PAIRS,
            "disable_tqdm": True,
        }

        class Orders(transformers.TrainerCallback):
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                side.next()

        def counted(trainer: Any) -> Any:
            begin = trainer.training_step

            def step(model: Any, inputs: Any, *rest: Any) -> Any:
                side.useful += sum(
                    int(value.sum()) for name, value in inputs.items() if "attention_mask" in name
                )
                return begin(model, inputs, *rest)

            trainer.training_step = step
            side.state = lambda: state_bytes(trainer.model.parameters(), [trainer.optimizer])
            return trainer

        peft_config = None
        if adapter:
            import peft

            peft_config = peft.LoraConfig(
                r=64 if adapter == "qlora" else 16,
                lora_alpha=32,
                target_modules=list(LORA),
                task_type="CAUSAL_LM",
            )
        if kind == "reward":
            model = transformers.AutoModelForSequenceClassification.from_pretrained(
                self.folder / "model", num_labels=1, dtype=torch.float32
            )
        else:
            quantized = {}
            if adapter == "qlora":
                quantized["quantization_config"] = transformers.BitsAndBytesConfig(
                    load_in_4bit=True,
                    bnb_4bit_quant_type="nf4",
                    bnb_4bit_use_double_quant=True,
                    bnb_4bit_compute_dtype=torch.float32,
                )
                same["gradient_checkpointing"] = True
            model = transformers.AutoModelForCausalLM.from_pretrained(
                self.folder / "model", dtype=torch.float32, **quantized
            )
        given = {"train_dataset": data, "processing_class": tokenizer, "callbacks": [Orders()]}
        given |= {"peft_config": peft_config} if peft_config else {}
        if kind == "sft":
            trainer = trl.SFTTrainer(model, args=trl.SFTConfig(max_length=SFT_TOKENS, **same), **given)
        elif kind == "dpo":
            trainer = trl.DPOTrainer(model, args=trl.DPOConfig(max_length=PAIR_TOKENS, **same), **given)
        else:
            trainer = trl.RewardTrainer(model, args=trl.RewardConfig(max_length=PAIR_TOKENS, **same), **given)
        counted(trainer).train()


def work(name: str, part: str, folder: Path) -> None:
    """One side, until stdin ends."""
    import torch

    torch.set_num_threads(int(os.environ.get("BENCH_THREADS", os.cpu_count() or 1)))
    torch.manual_seed(0)
    (Ours if name == "hanlin" else Theirs)(part, folder).obey()
    os._exit(0)  # threads of others' loaders would keep it


# ------------------------------------------------------------------ the parent


class Worker:
    """The parent's end of a side."""

    def __init__(self, name: str, part: str, folder: Path, python: str):
        self.name, self.rates, self.last = f"{name} {part}", [], {}
        environment = os.environ | {
            "HF_HUB_OFFLINE": "1",
            "HANLIN_PRECISION": "float32",
            "GOMP_SPINCOUNT": "1000",
        }
        command = [python, __file__, "--worker", name, "--part", part, "--folder", str(folder)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def run(self, steps: int) -> None:
        """Take some steps."""
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        while line := self.process.stdout.readline():
            if line.startswith('{"seconds"'):  # TRL prints as well
                self.last = json.loads(line)
                return
        raise RuntimeError(f"{self.name} died:\n{self.process.stderr.read()[-3000:]}")

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def compare(sides: list[Worker], rounds: int, steps: int) -> None:
    """Interleaved rounds; each side keeps its useful tokens per second of every one."""
    for each in sides:
        each.run(2)
    for _ in range(rounds):
        for each in sides:
            each.run(steps)
            each.rates.append(each.last["useful"] / each.last["seconds"])
    for each in sides:
        each.close()


def show(title: str, sides: list[Worker]) -> None:
    print(f"\n{title}\n{'':<20}{'useful tokens/s':>16}{'spread':>16}{'peak MB':>9}{'state MB':>10}")
    for each in sides:
        state = sum(each.last["state"].values()) / 2**20
        spread = f"{min(each.rates):,.0f}…{max(each.rates):,.0f}"
        rate = statistics.median(each.rates)
        print(
            f"{each.name:<20}{rate:>16,.0f}{spread:>16}{each.last['peak_mb']:>9,.0f}{state:>10.1f}",
            flush=True,
        )


def judge(label: str, value: float, target: float, below: bool = False) -> bool:
    good = value <= target if below else value >= target
    print(
        f"  {'ok  ' if good else 'MISS'} {label}: {value:.2f} (target {'≤' if below else '≥'} {target:.2f})",
        flush=True,
    )
    return good


def ratio(one: Worker, other: Worker) -> float:
    """Of the medians of useful tokens per second."""
    return statistics.median(one.rates) / statistics.median(other.rates)


def prepare(shape: str, folder: Path, sft: Path, pairs: Path) -> None:
    """`model`, `talks` and `pairs` as Hanlin reads them, `sft.jsonl`, `dpo.jsonl` and `reward.jsonl` as TRL
    does: the same rows in the same order."""
    import itertools

    from hanlin.corpus.readers.read import read_conversations, read_preferences
    from hanlin.dataset import build_conversation_dataset
    from hanlin.model import CausalLM, ModelConfig, init_weights
    from hanlin.stages.base import write_model
    from hanlin.stages.pairs import build_pair_dataset, conversation
    from hanlin.tokenizer import load_tokenizer, train_tokenizer

    talks = list(itertools.islice(read_conversations([sft]), 12000))
    both = list(read_preferences([pairs]))
    words = folder.parent / "words"
    if not words.is_dir():
        text = "\n".join(
            m["content"].replace("\n", " ") for talk in talks for m in talk["messages"] if m["content"]
        )
        (folder.parent / "text.txt").write_text(text, encoding="utf-8")
        train_tokenizer([folder.parent / "text.txt"], 6400, words)
    tokenizer = load_tokenizer(words)

    def short(messages: Any, most: int) -> bool:
        return len(tokenizer.encode_conversation(messages)[0]) <= most

    talks = [talk for talk in talks if short(talk["messages"], SFT_TOKENS)][:4000]
    both = [
        pair
        for pair in both
        if all(
            short(conversation(pair["prompt"], pair[side]), PAIR_TOKENS) for side in ("chosen", "rejected")
        )
    ]
    folder.mkdir(parents=True)
    config = ModelConfig(
        **SHAPES[shape],
        vocab_size=tokenizer.vocab_size,
        max_position_embeddings=1024,
        bos_token_id=tokenizer.eos_id,
        eos_token_id=tokenizer.eos_id,
        pad_token_id=tokenizer.eos_id,
    )
    model = CausalLM(config)
    init_weights(model, 0)
    write_model(folder / "model", model, tokenizer, parents={}, config=config, seed=0, metrics={})
    build_conversation_dataset(iter(talks), tokenizer, folder / "talks", max_length=SFT_TOKENS)
    build_pair_dataset(both, tokenizer, folder / "pairs", max_length=PAIR_TOKENS)
    plain = [
        {"messages": [{"role": m["role"], "content": m["content"]} for m in t["messages"]]} for t in talks
    ]
    sided = [
        {"prompt": p["prompt"]}
        | {side: [{"role": "assistant", "content": p[side]["content"]}] for side in ("chosen", "rejected")}
        for p in both
    ]
    for name, records in (("sft", plain), ("dpo", sided), ("reward", sided)):
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    print(
        f"{shape}: {config.parameters() / 1e6:.1f}M parameters, {len(talks)} conversations, "
        f"{len(both)} pairs",
        flush=True,
    )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--worker", default="")
    parser.add_argument("--part", default="")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--peers", default=sys.executable)
    parser.add_argument("--sft", type=Path)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--shapes", default="6m,26m")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.part, options.folder)
        return 0
    parts, good = options.parts.split(","), True
    with tempfile.TemporaryDirectory() as root:

        def sides(shape: str, *names: str) -> list[Worker]:
            folder = Path(root) / shape
            if not folder.is_dir():
                prepare(shape, folder, options.sft, options.pairs)
            found = [name.split(" ") for name in names]
            return [
                Worker(name, part, folder, sys.executable if name == "hanlin" else options.peers)
                for name, part in found
            ]

        for shape in options.shapes.split(","):
            steps = 6 if shape == "6m" else 2
            for part, title, target in (
                ("sft", f"SFT {ROWS} × {SFT_TOKENS}", 2.0),
                ("dpo", f"DPO {PAIRS} pairs × {PAIR_TOKENS}", 2.0),
                ("reward", f"reward {PAIRS} pairs × {PAIR_TOKENS}", 1.5),
            ):
                if part in parts:
                    ours, theirs = pair = sides(shape, f"hanlin {part}", f"trl {part}")
                    compare(pair, options.rounds, steps)
                    show(f"{title}, {shape}", pair)
                    good &= judge(f"{part} {shape}, speed over TRL", ratio(ours, theirs), target)
                    if part == "dpo":
                        share = ours.last["peak_mb"] / theirs.last["peak_mb"]
                        good &= judge(f"dpo {shape}, peak memory over TRL's", share, 0.6, below=True)
            if "lora" in parts:
                full, low, theirs = three = sides(shape, "hanlin sft", "hanlin sft+lora", "trl sft+lora")
                compare(three, options.rounds, steps)
                show(f"LoRA r=16, {shape}", three)
                state = sum(low.last["state"].values()) / sum(full.last["state"].values())
                good &= judge(f"LoRA {shape}, speed over full fine-tuning", ratio(low, full), 1.25)
                good &= judge(f"LoRA {shape}, gradients and optimiser over full", state, 0.15, below=True)
                good &= judge(f"LoRA {shape}, speed over PEFT and TRL", ratio(low, theirs), 1.5)
        if "qlora" in parts:
            ours, theirs = pair = sides("300m", "hanlin sft+qlora", "trl sft+qlora")
            compare(pair, 1, 1)
            show("QLoRA r=64, 300m, 2 × 256", pair)
            share = ours.last["peak_mb"] / theirs.last["peak_mb"]
            good &= judge("QLoRA 300m, peak memory over PEFT and bitsandbytes", share, 0.8, below=True)
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
