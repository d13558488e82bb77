"""A process that has torch loaded and forks a child per job, so that a kill costs a tenth of a second and not
an import.

    python -m tests.training.zygote WORLD    then one JSON job a line on stdin, one JSON answer a line on
                                             stdout

A job {"stage", "work", "fail_at"?, "kill_after"?, "async_save"?} trains that stage in `work`, dying at a
failpoint or by SIGKILL after some seconds when asked to; the answer has its exit code, its seconds, and for a
run that ended the digest of all that must agree.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
STAGES = ("pretrain", "sft", "dpo", "kto", "reward", "grpo")
TEXTS = [
    f"小明在{place}看见了{n}只小鸟，小红把书给了他。" for place in ("学校", "公园", "家里") for n in range(40)
]
PAIRS = [
    {
        "prompt": [{"role": "user", "content": f"小明{n}在学校吗？"}],
        "chosen": "小明在学校。" * (1 + n % 3),
        "rejected": "12345" * (1 + n % 2),
    }
    for n in range(24)
]
TALKS = [
    {
        "messages": [
            {"role": "user", "content": f"{n}加1等于几？"},
            {"role": "assistant", "content": f"{n + 1}"},
        ],
        "answer": n + 1,
    }
    for n in range(40)
]
STEPS = 7


def build_world(folder: Path) -> None:
    """Everything the stages read: a tokenizer, a model, text, conversations, pairs."""
    from hanlin.dataset import build_conversation_dataset, build_text_dataset
    from hanlin.stages.base import write_model
    from hanlin.stages.pairs import build_pair_dataset
    from hanlin.stages.preference.labelled import build_labelled_dataset
    from tests.support import tiny_model, tiny_tokenizer

    tokenizer = tiny_tokenizer(folder / "tokenizer")
    model = tiny_model("qwen3", tokenizer, hidden_size=32)
    write_model(folder / "model", model, tokenizer, parents={}, config=model.config, seed=0, metrics={})
    build_text_dataset([{"text": text} for text in TEXTS], tokenizer, folder / "text")
    build_conversation_dataset(TALKS, tokenizer, folder / "talks", max_length=128)
    build_pair_dataset(PAIRS, tokenizer, folder / "pairs", max_length=128)
    build_labelled_dataset(PAIRS, tokenizer, folder / "labelled", max_length=128)


def train_stage(stage: str, world: Path, work: Path, async_save: bool = False) -> str:
    """Train one stage as the command line does; the digest of weights, optimiser, guard, generators and the
    next three batches."""
    import hanlin.stages.base as job_module
    from hanlin.common.progress import Progress
    from hanlin.model import ModelConfig
    from hanlin.stages.grpo import GRPOConfig, grpo
    from hanlin.stages.preference.kto import KTO
    from hanlin.stages.preference.stage import PreferenceConfig, optimise_preferences
    from hanlin.stages.pretrain import pretrain
    from hanlin.stages.reward_model import RewardConfig, reward
    from hanlin.stages.supervised import SupervisedConfig, finetune
    from hanlin.training import TrainConfig, train, trainer

    digests: list[str] = []

    def watched(model, source, objective, *arguments, **options):
        if stage == "poisoned":
            trainer._reads_later = lambda device: True  # as on an accelerator
            objective = poison(objective, source, range(2, 5))
        if stage == "replay":
            objective = poison(objective, source, range(3, 6))
            remember(source)
        result = train(model, source, objective, *arguments, **options)
        digests.append(digest(model, source, work))
        return result

    common = {
        "steps": STEPS,
        "checkpoint_seconds": 0.0,
        "permanent_checkpoint_interval": 2,
        "async_save": async_save,
    }
    adam = TrainConfig(learning_rate=1e-3, muon=False, **common)
    job = job_module.Job(work / "model", work, Progress(), seed=3)
    supervised = SupervisedConfig(
        TrainConfig(learning_rate=3e-3, **common), seq_len=64, batch_tokens=256, micro_tokens=128
    )
    model = world / "model"
    job_module.train = watched
    try:
        if stage in ("pretrain", "poisoned", "replay"):
            shape = ModelConfig(
                vocab_size=400,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=64,
            )
            pretrain(world / "text", world / "tokenizer", shape, supervised, job)
        elif stage == "sft":
            finetune(model, world / "talks", supervised, job)
        elif stage == "dpo":
            optimise_preferences(
                model, world / "pairs", PreferenceConfig(seq_len=128, pairs=4, train=adam), job
            )
        elif stage == "kto":
            config = PreferenceConfig(seq_len=128, pairs=6, loss=KTO(), train=adam)
            optimise_preferences(model, world / "labelled", config, job)
        elif stage == "reward":
            reward(model, world / "pairs", RewardConfig(seq_len=128, pairs=4, train=adam), job)
        else:
            config = GRPOConfig(seq_len=128, prompts=2, group_size=3, max_new_tokens=6, train=adam)
            grpo(model, TALKS, lambda record, text, opened: float(len(text) % 3), config, job)
    finally:
        job_module.train = train
    return digests[0]


def poison(objective: Any, source: Any, places: range) -> Any:
    """The objective, with a NaN for the samples at some places of the order."""
    bad = {tuple(batch.documents) for place in places for batch in source.micro_batches(place, None)}

    class Poisoned(type(objective)):
        def __call__(self, model, batch):
            loss, figures = super().__call__(model, batch)
            return (loss * float("nan") if tuple(batch.documents) in bad else loss), figures

    objective.__class__ = Poisoned
    return objective


def remember(source: Any) -> None:
    """Make a source of rows one that remembers: beside a step's rows it gives some of earlier steps again,
    by lot."""
    from hanlin.dataset import Batch

    class Replaying(type(source)):
        def micro_batches(self, step, model, *shard):
            batches = super().micro_batches(step, model, *shard)
            replayed = []
            if len(self.memory) > 1:
                self.draws = (self.draws * 6364136223846793005 + 1442695040888963407 + step) % 2**64
                replayed = [self.memory.pop((self.draws >> 33) % len(self.memory))]
            self.memory.append(batches[0])
            return batches + replayed

        def state_dict(self):
            return {"draws": self.draws, "memory": [dataclasses.asdict(batch) for batch in self.memory]}

        def load_state_dict(self, state):
            self.draws = state["draws"]
            self.memory = [Batch(**fields) for fields in state["memory"]]

    source.__class__ = Replaying
    source.memory, source.draws = [], 1


def digest(model: Any, source: Any, work: Path) -> str:
    """SHA-256 of all that must agree: weights now; optimiser, generators, guard of the last checkpoint; the
    next three batches."""
    from hanlin.training.checkpoint.format import list_checkpoints

    newest = list_checkpoints(work)[0]
    state = json.loads((newest / "state.json").read_text())
    del state["seconds"]
    found = hashlib.sha256(json.dumps([newest.name, state], sort_keys=True).encode())
    if (newest / "source.safetensors").is_file():
        found.update((newest / "source.safetensors").read_bytes())
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode() + tensor.numpy().tobytes())
    for name in ("model", "optimizer", "generators"):
        found.update((newest / f"{name}.safetensors").read_bytes())
    for step in range(STEPS, STEPS + 3):
        for batch in source.micro_batches(step + state["data_offset"], model):
            found.update(batch.ids.numpy().tobytes())
    return found.hexdigest()


def alone(prefix: list[str], world: Path, stage: str, work: Path) -> tuple[int, str, str]:
    """One job in a process of its own, behind `prefix` (a clock or a disk that lies): exit code, digest,
    what it said."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HANLIN_LANG": "en"}
    work.mkdir(parents=True, exist_ok=True)
    command = [
        *prefix,
        sys.executable,
        "-m",
        "tests.training.zygote",
        str(world),
        json.dumps({"stage": stage, "work": str(work)}),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=300)
    found = done.stdout.strip().splitlines()
    return done.returncode, found[-1] if found else "", done.stderr


def serve(world: Path) -> None:
    """Do the jobs of stdin, each in a child of its own."""
    import torch

    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    import torch._dynamo  # noqa: F401 - an optimiser's first step imports it, for seconds

    import hanlin.stages.grpo
    import hanlin.stages.preference.stage
    import hanlin.stages.pretrain
    import hanlin.stages.reward_model  # noqa: F401
    import tests.support  # noqa: F401

    for line in sys.stdin:
        job = json.loads(line)
        work = Path(job["work"])
        work.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            with open(work / "log.txt", "ab", buffering=0) as log:
                os.dup2(log.fileno(), 2)
                os.dup2(log.fileno(), 1)
            run_child(job, world, work)
        timer = (
            threading.Timer(job["kill_after"], os.kill, (child, signal.SIGKILL))
            if "kill_after" in job
            else None
        )
        if timer:
            timer.start()
        _, status = os.waitpid(child, 0)
        if timer:
            timer.cancel()
        answer: dict[str, Any] = {
            "code": os.waitstatus_to_exitcode(status),
            "seconds": time.monotonic() - began,
        }
        if answer["code"] == 0:
            answer["digest"] = (work / "digest.txt").read_text()
        print(json.dumps(answer), flush=True)


def run_child(job: dict[str, Any], world: Path, work: Path, answer: Any = None) -> None:
    """Never returns. The digest goes to a file in `work`, or to `answer` where that is given."""
    import random
    import traceback

    import numpy as np
    import torch

    # a resume must restore the generators, not inherit them
    seed = time.time_ns() % 1000 if list(work.glob("step-*")) else 0
    for generator in (random.seed, np.random.seed, torch.manual_seed):
        generator(seed)
    code = 1
    try:
        if job.get("fail_at"):
            os.environ["HANLIN_FAIL_AT"] = job["fail_at"]
        if job["stage"] == "world":
            build_world(world)
            result = ""
        else:
            result = train_stage(job["stage"], world, work, job.get("async_save", False))
        if answer is None:
            (work / "digest.txt").write_text(result)
        else:
            print(result, file=answer, flush=True)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


class Zygote:
    """The other side of the pipe."""

    def __init__(self, world: Path):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.training.zygote", str(world)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )
        self.world = world
        assert self.run("world", world.parent / "world-work")["code"] == 0

    def run(self, stage: str, work: Path, **options: Any) -> dict[str, Any]:
        """Do one job and wait for it."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({"stage": stage, "work": str(work), **options}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(30)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        once = json.loads(sys.argv[2])
        run_child(once, Path(sys.argv[1]), Path(once["work"]), sys.stdout)
    serve(Path(sys.argv[1]))
