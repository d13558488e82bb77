"""A training on two machines, one of which is lost half way: `python -m tests.launch.elastic FAULT
[DIRECTORY]` prints what happened.

FAULT is `killed` (SIGKILL to every process of the second machine), `hung` (SIGSTOP) or `cut` (the wire goes
down).
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from tests.launch.machines import ADDRESSES, Machines

ROOT, HERE = Path(__file__).parents[2], Path(__file__).parent
FAULTS = ("killed", "hung", "cut")
TIMEOUT = 10.0  # seconds until a collective that does not end is given up
STEPS, FAULT_AT = 80, 25
MODULE = "hanlin"
PORT = 29501


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a disturbed run did.

    Attributes:
        saved: newest checkpoint when the fault came; resumed: the step it went on from.
        seconds: from the fault to the first new step.
        restarts: times the workers of the surviving machine were started again.
        losses: of every step, in full.
    """

    fault: str
    saved: int
    resumed: int
    seconds: float
    restarts: int
    losses: dict[int, float]


def build_world(folder: Path) -> Path:
    """A tokenizer, a dataset and a configuration that takes a minute; the configuration's path."""
    from hanlin.corpus import tinyworld
    from hanlin.dataset import build_text_dataset
    from hanlin.tokenizer import train_tokenizer

    # enough that no step sees a text again
    texts = [record["text"] for record in tinyworld.documents(1, 2000, "train")]
    tokenizer = train_tokenizer(iter(texts), vocab_size=1024, out=folder / "tokenizer")
    build_text_dataset([{"text": text} for text in texts], tokenizer, folder / "text")
    config = {
        "dataset": str(folder / "text"),
        "tokenizer": str(folder / "tokenizer"),
        "device": "cpu",
        "track": ["trackio"],
        "model": {
            "hidden_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128,
        },
        "pretrain": {
            "seq_len": 128,
            "batch_tokens": 2048,
            "micro_tokens": 512,
            "train": {"steps": STEPS, "learning_rate": 1e-3, "checkpoint_seconds": 1.0, "compile": False},
        },
    }
    path = folder / "pretrain.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def environment(place: Path) -> dict[str, str]:
    """Variables of a run that tracks to `place`."""
    return {
        "OMP_NUM_THREADS": "1",
        "HANLIN_LANG": "en",
        "HANLIN_DIST_TIMEOUT": str(int(TIMEOUT)),
        "TRACK_FILE": str(place / "track.jsonl"),
        "PYTHONPATH": f"{HERE / 'trackers'}:{ROOT}",
        "GLOO_SOCKET_IFNAME": "wire",
        "PYTHONUNBUFFERED": "1",
    }


def tracked(place: Path) -> list[dict[str, Any]]:
    """Lines tracked so far, the one being written left out."""
    path = place / "track.jsonl"
    return (
        [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        if path.exists()
        else []
    )


def undisturbed(config: Path, place: Path) -> dict[int, float]:
    """Losses of one process that nothing happens to."""
    place.mkdir(parents=True)
    command = [
        sys.executable,
        "-m",
        MODULE,
        "pretrain",
        "--config",
        str(config),
        "--out",
        str(place / "model"),
    ]
    subprocess.run(command, env=os.environ | environment(place), check=True, capture_output=True, cwd=ROOT)
    return {line["step"]: line["loss"] for line in tracked(place)}


def node_command(machine: int, config: Path, place: Path) -> list[str]:
    """torchrun for one of the machines. Without is_host none of them would keep the rendezvous: names do not
    resolve in a namespace.

    A machine is struck off after three heartbeats, nine seconds here.
    """
    rendezvous = (
        f"is_host={str(machine == 0).lower()},join_timeout=60,last_call_timeout=6,keep_alive_interval=3"
    )
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nnodes=1:2",
        "--nproc-per-node=1",
        "--max-restarts=5",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={ADDRESSES[0]}:{PORT}",
        f"--rdzv-id={place.name}",
        f"--rdzv-conf={rendezvous}",
        f"--local-addr={ADDRESSES[machine]}",
        "-m",
        MODULE,
        "pretrain",
        "--config",
        str(config),
        "--out",
        str(place / "model"),
    ]


def wait_for(condition: Any, seconds: float, what: str, place: Path) -> Any:
    """The first true answer; after so many seconds, what the machines said."""
    late = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > late:
            said = "\n".join(
                f"--- {path.name}\n" + path.read_text(errors="replace")[-3000:]
                for path in sorted(place.glob("node-*.log"))
            )
            raise AssertionError(f"{what}: not within {seconds} s\n{said}")
        time.sleep(0.05)
    return found


def newest_checkpoint(place: Path) -> int:
    """Step of the newest whole checkpoint."""
    found = [
        int(match[1])
        for path in place.glob(".model.work/*/step-*")
        if (match := re.fullmatch(r"step-0*(\d+)", path.name))
    ]
    return max(found, default=-1)


def disturbed(fault: str, config: Path, place: Path) -> Outcome:
    """Train on two machines, lose the second after some steps, wait for the end on the first."""
    place.mkdir(parents=True)
    with Machines() as machines:
        nodes = [
            machines.start(
                machine,
                node_command(machine, config, place),
                place / f"node-{machine}.log",
                **environment(place),
            )
            for machine in (0, 1)
        ]
        wait_for(
            lambda: any(line["step"] >= FAULT_AT for line in tracked(place)) and newest_checkpoint(place) > 0,
            240,
            f"step {FAULT_AT}",
            place,
        )
        before, saved, at = tracked(place), newest_checkpoint(place), time.time()
        assert len({line["pid"] for line in before}) == 1, "nothing has started again so far"
        if fault == "cut":
            machines.cut()
        else:
            machines.signal(1, signal.SIGKILL if fault == "killed" else signal.SIGSTOP)
        old = before[0]["pid"]
        first = wait_for(
            lambda: next((line for line in tracked(place) if line["pid"] != old), None),
            240,
            f"a step after the node was {fault}",
            place,
        )
        wait_for(lambda: nodes[0].poll() is not None, 240, "the end", place)
        assert nodes[0].returncode == 0, (place / "node-0.log").read_text()[-3000:]
    lines = tracked(place)
    pids = list(dict.fromkeys(line["pid"] for line in lines))
    return Outcome(
        fault,
        saved,
        first["step"] - 1,
        first["time"] - at,
        len(pids) - 1,
        {line["step"]: line["loss"] for line in lines},
    )


def report(outcome: Outcome, losses: dict[int, float]) -> str:
    """A line on a disturbed run against the undisturbed one."""
    apart = max(abs(losses[step] - outcome.losses.get(step, float("inf"))) for step in losses)
    return (
        f"{outcome.fault}: newest checkpoint at the fault {outcome.saved}, "
        f"went on from step {outcome.resumed}, first new step after {outcome.seconds:.1f} s "
        f"(timeout {TIMEOUT:.0f} s), {outcome.restarts} restart(s), {len(outcome.losses)} steps, "
        f"largest difference of a loss {apart:.2e}"
    )


def main() -> None:
    """Run one fault, or all of them, and print what happened."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the machines end, too
    faults = FAULTS if sys.argv[1] == "all" else (sys.argv[1],)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        config = build_world(place)
        losses = undisturbed(config, place / "alone")
        print(f"alone: {len(losses)} steps, loss {losses[1]:.6f} to {losses[STEPS]:.6f}", flush=True)
        for fault in faults:
            print(report(disturbed(fault, config, place / fault), losses), flush=True)


if __name__ == "__main__":
    main()
