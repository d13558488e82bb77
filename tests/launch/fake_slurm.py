"""A stand-in for Slurm on one machine, for `launch/slurm.sh`: `python fake_slurm.py COMMAND ARGUMENTS…`,
called by small scripts of those names.

It keeps to what Slurm's manuals and sources say of what the script uses: sbatch reads `#SBATCH` lines and
returns at once; `--signal=B:` reaches the batch shell alone; srun runs a task on each node and turns SIGTERM
into SIGKILL for its tasks; scancel with a signal reaches the tasks and not the batch shell; a requeued job
starts from the top under the same number, with SLURM_RESTART_COUNT one higher. Every node is this machine.
FAKE_SLURM is the folder of jobs, FAKE_SLURM_LIMIT the seconds until the signal, FAKE_SLURM_GRACE until the
kill. With FAKE_SLURM_WATCH, a file, the signal comes sooner: as soon as the file has grown by
FAKE_SLURM_LINES lines since the start.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ["FAKE_SLURM"])
LIMIT, GRACE = (
    float(os.environ.get("FAKE_SLURM_LIMIT", "60")),
    float(os.environ.get("FAKE_SLURM_GRACE", "30")),
)
WATCHED, LINES = (
    Path(os.environ.get("FAKE_SLURM_WATCH", os.devnull)),
    int(os.environ.get("FAKE_SLURM_LINES", "1")),
)


def options(items: list[str]) -> dict[str, str]:
    return {
        name: value
        for name, _, value in (
            item.removeprefix("--").partition("=") for item in items if item.startswith("--")
        )
    }


def sbatch(arguments: list[str]) -> None:
    place = next(index for index, argument in enumerate(arguments) if not argument.startswith("--"))
    script = Path(arguments[place])
    directives = options(
        [
            line.removeprefix("#SBATCH ").strip()
            for line in script.read_text().splitlines()
            if line.startswith("#SBATCH ")
        ]
    )
    number = 1000 + os.getpid() % 9000
    folder = FOLDER / f"{number}.job"
    folder.mkdir()
    job = {
        "script": str(script.resolve()),
        "arguments": arguments[place + 1 :],
        "directives": directives | options(arguments[:place]),
    }
    (folder / "job.json").write_text(json.dumps(job))
    with open(folder / "controller.log", "wb") as log:
        subprocess.Popen(
            [sys.executable, __file__, "controller", str(number)],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    print(f"Submitted batch job {number}")


def controller(arguments: list[str]) -> None:
    """Runs a job until it ends without being requeued; a line of `runs.jsonl` for each start."""
    number, folder = arguments[0], FOLDER / f"{arguments[0]}.job"
    job = json.loads((folder / "job.json").read_text())
    wanted, restarts = job["directives"], 0
    to, _, _ = wanted["signal"].partition("@")
    assert to.startswith("B:"), "signals for the tasks themselves are not played"
    while True:
        environment = os.environ | {
            "SLURM_JOB_ID": number,
            "SLURM_NNODES": wanted["nodes"],
            "SLURM_JOB_NODELIST": f"localhost*{wanted['nodes']}",
            "SLURM_GPUS_ON_NODE": wanted["gpus-per-node"],
            "SLURM_CPUS_PER_TASK": wanted["cpus-per-task"],
        }
        if restarts:
            environment["SLURM_RESTART_COUNT"] = str(restarts)
        with open(
            wanted["output"].replace("%j", number), "ab" if wanted.get("open-mode") == "append" else "wb"
        ) as log:
            batch = subprocess.Popen(
                ["bash", job["script"], *job["arguments"]], env=environment, stdout=log, stderr=log
            )
            (folder / "batch.pid").write_text(str(batch.pid))
            signalled = time_is_up(batch)
            code = batch.returncode
            if signalled:
                batch.send_signal(getattr(signal, f"SIG{to.removeprefix('B:')}"))
                try:
                    code = batch.wait(GRACE)
                except subprocess.TimeoutExpired:
                    kill_tasks(folder, signal.SIGKILL)
                    batch.kill()
                    code = batch.wait()
        requeue = (folder / "requeue").exists()
        with open(folder / "runs.jsonl", "a") as runs:
            runs.write(json.dumps({"code": code, "signalled": signalled, "requeued": requeue}) + "\n")
        if not requeue or restarts > 10:
            (folder / "ended").touch()
            return
        (folder / "requeue").unlink()
        restarts += 1


def time_is_up(batch: subprocess.Popen[bytes]) -> bool:
    """Wait for the job's end or its limit; whether the limit came first."""
    end, lines = time.monotonic() + LIMIT, written()
    while batch.poll() is None:
        if time.monotonic() >= end or written() >= lines + LINES:
            return True
        time.sleep(0.05)
    return False


def written() -> int:
    return WATCHED.read_bytes().count(b"\n") if WATCHED.exists() else 0


def kill_tasks(folder: Path, number: int) -> None:
    for path in folder.glob("task-*.pid"):
        try:
            os.kill(int(path.read_text()), number)
        except ProcessLookupError:
            path.unlink()


def srun(arguments: list[str]) -> None:
    folder = FOLDER / f"{os.environ['SLURM_JOB_ID']}.job"
    first = next(index for index, argument in enumerate(arguments) if not argument.startswith("--"))
    tasks: list[Any] = []

    def abort(number: int, frame: Any) -> None:
        print("srun: forcing job termination", file=sys.stderr)
        for task in tasks:
            task.kill()

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, abort)
    for rank in range(int(os.environ["SLURM_NNODES"])):
        task = subprocess.Popen(
            arguments[first:], env=os.environ | {"SLURM_PROCID": str(rank)}, start_new_session=True
        )
        (folder / f"task-{task.pid}.pid").write_text(str(task.pid))
        tasks.append(task)
    sys.exit(max(task.wait() % 256 for task in tasks))


def scancel(arguments: list[str]) -> None:
    number = options(arguments)["signal"]
    kill_tasks(FOLDER / f"{arguments[-1]}.job", getattr(signal, f"SIG{number}"))


def scontrol(arguments: list[str]) -> None:
    if arguments[:2] == ["show", "hostnames"]:
        name, _, count = arguments[2].partition("*")
        os.write(1, "\n".join([name] * int(count)).encode() + b"\n")
        return
    assert arguments[0] == "requeue"
    folder = FOLDER / f"{arguments[1]}.job"
    if "requeue" not in json.loads((folder / "job.json").read_text())["directives"]:
        sys.exit("Requested operation is presently disabled for job")
    (folder / "requeue").touch()
    os.kill(int((folder / "batch.pid").read_text()), signal.SIGTERM)


COMMANDS = {function.__name__: function for function in (sbatch, controller, srun, scancel, scontrol)}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](sys.argv[2:])
