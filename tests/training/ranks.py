"""One stage in several processes, forked from one that has torch loaded; rank r answers in
`WORK/rank-r.json`.

The job: {"stage", "processes", "world", "work", "parallel", "stop_after"?: leave after so many steps as a
killed run would, "room"?: rows that fit in memory, on one rank only when "short_rank" says which, "compile"?,
"dtype"?: train in it, as another device would, with "loss_scale"?: to begin with, "ds_config"?: DeepSpeed's
file, "muon"?: false for AdamW alone, "nan"? and "spikes"?: places in the order of samples where the last
rank's loss is NaN, and where the guard says that a finite step is bad, "seconds"?: between checkpoints,
"async_save"?, "fail_at"?: a failpoint, of the first rank or of "fail_rank", "disk"?: [rank, errno, nth]: its
nth file of tensors fails half-way, "on_save_error"?, "replay"?: the source remembers, "rewarded"?: only
answers to every so-manieth problem earn anything}.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.training.zygote import ROOT, TALKS, build_world, remember

STEPS = 8


def train_stage(job_spec: dict[str, Any], strategy: Any) -> dict[str, Any]:
    """Train; what this rank ended with."""
    import hanlin.stages.base as job_module
    from hanlin.common.devices import CAPABILITIES
    from hanlin.common.progress import Progress
    from hanlin.model import ModelConfig
    from hanlin.stages.grpo import GRPOConfig, grpo
    from hanlin.stages.preference.stage import PreferenceConfig, optimise_preferences
    from hanlin.stages.pretrain import pretrain
    from hanlin.stages.reward_model import RewardConfig, reward
    from hanlin.stages.supervised import SupervisedConfig, finetune
    from hanlin.training import TrainConfig, precision, train

    stage, world, work = job_spec["stage"], Path(job_spec["world"]), Path(job_spec["work"])
    answer: dict[str, Any] = {}
    CAPABILITIES["cpu"] = dataclasses.replace(
        CAPABILITIES["cpu"], train_dtype=job_spec.get("dtype", "float32")
    )
    if stage == "muon":
        return muon_sharded_and_whole(strategy)
    precision.INITIAL = job_spec.get("loss_scale", precision.INITIAL)

    def watched(model, source, objective, *arguments, **options):
        if "room" in job_spec and job_spec.get("short_rank", strategy.group.rank) == strategy.group.rank:
            _limit(objective, job_spec["room"])
        if job_spec.get("replay"):
            remember(source)
        _spoil(source, objective, job_spec, last=strategy.group.rank == strategy.group.world_size - 1)
        if strategy.group.is_rank0:  # metrics.jsonl rounds to six figures
            log, file = options["log"], open(work / "losses.jsonl", "a")  # noqa: SIM115
            written = log.log
            log.log = lambda values, step: (
                written(values, step),
                print(json.dumps([step, values["loss"]]), file=file, flush=True),
            )
        result = train(model, source, objective, *arguments, **options)
        digest = hashlib.sha256()
        answer["cut"] = sorted(name for name, tensor in model.named_parameters() if not tensor.numel())
        for name, tensor in sorted(model.state_dict().items()):
            whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
            digest.update(name.encode() + whole.numpy().tobytes())
        answer.update(
            digest=digest.hexdigest(), graphs=torch._dynamo.utils.counters["stats"]["unique_graphs"]
        )
        return result

    common = {
        "steps": STEPS,
        "checkpoint_seconds": job_spec.get("seconds", 0.0),
        "permanent_checkpoint_interval": 2,
        "parallel": job_spec.get("parallel", "ddp"),
    }
    common |= {"compile": job_spec.get("compile", "auto"), "deepspeed_config": job_spec.get("ds_config")}
    common |= {
        "async_save": job_spec.get("async_save", "auto"),
        "on_save_error": job_spec.get("on_save_error", "stop"),
    }
    adam = TrainConfig(learning_rate=1e-3, muon=False, **common)
    job = job_module.Job(work / "model", work / "run", Progress(), seed=3, strategy=strategy)
    # 7 rows, uneven for all
    supervised = SupervisedConfig(
        TrainConfig(learning_rate=3e-3, muon=job_spec.get("muon", True), **common),
        seq_len=64,
        batch_tokens=448,
        micro_tokens=128,
    )
    job_module.train = watched
    if stage == "pretrain":
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
        finetune(world / "model", world / "talks", supervised, job)
    elif stage == "dpo":
        optimise_preferences(
            world / "model", world / "pairs", PreferenceConfig(seq_len=128, pairs=5, train=adam), job
        )
    elif stage == "reward":
        reward(world / "model", world / "pairs", RewardConfig(seq_len=128, pairs=5, train=adam), job)
    else:
        config = GRPOConfig(seq_len=64, prompts=5, group_size=4, max_new_tokens=6, train=adam)
        rewarded = job_spec.get("rewarded", 1)

        def reward_of(record, text, opened):
            return float(sum(map(ord, text)) % 7) if record["answer"] % rewarded == 0 else 0.0

        grpo(world / "model", TALKS, reward_of, config, job)
    return answer


def _spoil(source: Any, objective: Any, spec: dict[str, Any], last: bool) -> None:
    """What is to go wrong at some places of the order of samples."""
    from hanlin.training.guards import SpikeGuard

    read, judge, at = source.micro_batches, SpikeGuard.judge, [0]

    def micro_batches(step, model, shard):
        if step >= spec.get("stop_after", step + 1):
            os._exit(9)
        at[0] = step
        return read(step, model, shard)

    def judged(guard, loss, norm):
        verdict = judge(guard, loss, norm)
        return dataclasses.replace(verdict, bad=verdict.bad | (at[0] in spec.get("spikes", ())))

    class Poisoned(type(objective)):
        def __call__(self, model, batch):
            loss, figures = super().__call__(model, batch)
            return (loss * float("nan") if last and at[0] in spec.get("nan", ()) else loss), figures

    source.micro_batches, SpikeGuard.judge, objective.__class__ = micro_batches, judged, Poisoned


def muon_sharded_and_whole(strategy: Any) -> dict[str, Any]:
    """The largest difference after three steps, with rows that do not divide, and a matrix of fewer rows
    than there are ranks."""
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    from hanlin.training.optim.optimizers import Muon

    torch.manual_seed(1)
    start = [torch.randn(shape) for shape in [(5, 7)] * 4 + [(2, 9)] + [(8, 3)] * 2]
    placements = [Shard(0)] if strategy.mesh.ndim == 1 else [Replicate(), Shard(0)]
    whole = [torch.nn.Parameter(tensor.clone()) for tensor in start]
    cut = [
        torch.nn.Parameter(distribute_tensor(tensor.clone(), strategy.mesh, placements)) for tensor in start
    ]
    optimizers = [Muon(parameters, lr=0.02, weight_decay=0.1) for parameters in (whole, cut)]
    for _ in range(3):
        for one, other in zip(whole, cut, strict=True):
            one.grad = torch.randn(one.shape)
            other.grad = distribute_tensor(one.grad, strategy.mesh, placements)
        for optimizer in optimizers:
            optimizer.step()
    return {
        "difference": max(
            float((one - other.full_tensor()).abs().max()) for one, other in zip(whole, cut, strict=True)
        ),
        "moved": float((whole[0] - start[0]).abs().max()),
    }


def _limit(objective: Any, room: int) -> None:
    """Memory for so many rows."""

    class Limited(type(objective)):
        def __call__(self, model, batch):
            if len(batch.ids) > room:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().__call__(model, batch)

    objective.__class__ = Limited


def _break_disk(number: int, nth: int) -> None:
    """The file system fails in the middle of this process' nth file of tensors, and from then on."""
    from torch.distributed.checkpoint.filesystem import FileSystem

    create, files = FileSystem.create_stream, [0]

    @contextlib.contextmanager
    def create_stream(self, path, mode):
        files[0] += 1
        with create(self, path, mode) as stream:
            if files[0] < nth:
                yield stream
                return

            class Failing:
                def __getattr__(self, name):
                    return getattr(stream, name)

                def write(self, data):
                    stream.write(data[: len(data) // 2])
                    raise OSError(number, os.strerror(number), str(path))

            yield Failing()

    FileSystem.create_stream = create_stream  # type: ignore[method-assign]


def as_rank(rank: int, spec: dict[str, Any], port: int) -> int:
    """Be one of the processes of a job, as torchrun would have started it."""
    from hanlin.common.errors import HanlinError
    from hanlin.training.distributed.launch import init_distributed

    size = spec["processes"]
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(spec.get("local", size)),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    if "fail_at" in spec and rank == spec.get("fail_rank", 0):
        os.environ["HANLIN_FAIL_AT"] = spec["fail_at"]
    if "disk" in spec and rank == spec["disk"][0]:
        _break_disk(*spec["disk"][1:])
    try:
        with init_distributed(spec.get("parallel", "ddp"), "cpu", spec.get("ds_config")) as (strategy, _):
            said = train_stage(spec, strategy)
    except HanlinError as error:
        said = {"error": error.en}
    written = Path(spec["work"]) / f"rank-{rank}.part"
    written.write_text(json.dumps(said))
    # whole or not at all: whoever is left over is killed at any moment
    written.rename(written.with_suffix(".json"))
    return int("error" in said)


def serve() -> None:
    """A job a line on stdin; on stdout the worst exit code of its processes, each a fork of this one, which
    has torch loaded."""
    import hanlin.stages.grpo
    import hanlin.stages.reward_model  # noqa: F401

    torch.set_num_threads(1)
    for line in sys.stdin:
        spec = json.loads(line)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        children = []
        for rank in range(spec["processes"]):
            child = os.fork()
            if not child:
                os.dup2(2, 1)
                try:
                    code = as_rank(rank, spec, port)
                except BaseException:  # noqa: BLE001 - a fork ends here whatever happens
                    traceback.print_exc()
                    code = 70
                sys.stderr.flush()
                os._exit(code)
            children.append(child)
        codes = []
        for _ in children:
            _, status = os.wait()
            codes.append(os.waitstatus_to_exitcode(status))
            if (
                codes[-1] and {"stop_after", "fail_at"} & spec.keys()
            ):  # the others are killed, as torchrun does
                for child in children:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(child, signal.SIGKILL)
        print(max(map(abs, codes)), flush=True)


@contextlib.contextmanager
def started(
    world: Path, preload: str = "", **environment: str
) -> Iterator[Callable[..., tuple[int, list[dict[str, Any]]]]]:
    """run(work, processes, stage, …) → exit code and what each rank answered, over data built in `world`;
    `preload`: modules to fork with."""
    build_world(world)
    settings = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "HANLIN_LANG": "en",
        "HANLIN_DIST_TIMEOUT": "60",
        **environment,
    }
    command = [
        sys.executable,
        "-c",
        f"{preload and f'import {preload}'}\nfrom tests.training.ranks import serve\nserve()",
    ]
    server = subprocess.Popen(
        command, cwd=ROOT, env=settings, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdin and server.stdout

    def run(work: Path, processes: int, stage: str, **options: Any) -> tuple[int, list[dict[str, Any]]]:
        assert server.stdin and server.stdout
        work.mkdir(parents=True, exist_ok=True)
        for old in work.glob("rank-*.json"):
            old.unlink()
        print(
            json.dumps(
                {"stage": stage, "processes": processes, "world": str(world), "work": str(work), **options}
            ),
            file=server.stdin,
            flush=True,
        )
        code = int(server.stdout.readline())
        return code, [json.loads(file.read_text()) for file in sorted(work.glob("rank-*.json"))]

    run.world = world  # type: ignore[attr-defined]
    yield run
    server.stdin.close()
    server.wait(30)


def losses(work: Path) -> list[float]:
    lines = [json.loads(line) for line in (work / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    exact = dict(json.loads(line) for line in (work / "losses.jsonl").read_text().splitlines())
    return [exact[step] for step in range(1, STEPS + 1)]


def weights(work: Path):
    return safetensors.torch.load_file(work / "model" / "model.safetensors")


def same_training(one: Path, other: Path, within: float = 1e-6) -> None:
    assert losses(other) == pytest.approx(losses(one), abs=within, nan_ok=True)
    mine, theirs = weights(one), weights(other)
    assert (
        mine.keys() == theirs.keys()
        and max(float((mine[name] - theirs[name]).abs().max()) for name in mine) < 20 * within
    )


if __name__ == "__main__":
    serve()
