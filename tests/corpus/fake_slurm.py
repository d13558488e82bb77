"""A stand-in for Slurm's commands on one machine: `python fake_slurm.py COMMAND ARGUMENTS…`, called by small
scripts of those names.

It keeps to what their manuals say of the options used here: sbatch reads `#SBATCH` lines and returns at once,
every task of an array runs the script with bash and its own SLURM_ARRAY_TASK_ID, at most `%N` at a time;
squeue lists jobs that have not ended; sacct tells how tasks ended. Jobs are kept in the folder FAKE_SLURM.
What happens on a cluster between machines is not played.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FOLDER = Path(os.environ["FAKE_SLURM"])


def options(arguments: list[str]) -> dict[str, str]:
    return dict(
        item.removeprefix("--").split("=", 1) for item in arguments if item.startswith("--") and "=" in item
    )


def sbatch(arguments: list[str]) -> None:
    script = Path(arguments[-1]).read_text()
    directives = options(
        [line.removeprefix("#SBATCH ").strip() for line in script.splitlines() if line.startswith("#SBATCH ")]
    )
    if directives["partition"] == "closed":
        sys.exit("sbatch: error: invalid partition specified: closed")
    number = 1000 + len(list(FOLDER.glob("*.job")))
    folder = FOLDER / f"{number}.job"
    folder.mkdir()
    (folder / "script").write_text(script)
    export = dict(item.split("=") for item in options(arguments).get("export", "").split(",") if "=" in item)
    (folder / "job.json").write_text(json.dumps({"directives": directives, "export": export}))
    subprocess.Popen(
        [sys.executable, __file__, "controller", str(number)],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    print(f"Submitted batch job {number}")


def controller(arguments: list[str]) -> None:
    """Runs an array; its process group is the job's."""
    number, folder = arguments[0], FOLDER / f"{arguments[0]}.job"
    (folder / "group").write_text(str(os.getpid()))
    job = json.loads((folder / "job.json").read_text())
    first, last, limit = re.fullmatch(r"(\d+)-(\d+)(?:%(\d+))?", job["directives"]["array"]).groups()  # type: ignore[union-attr]

    def run(task: int) -> None:
        output = job["directives"]["output"].replace("%A", number).replace("%a", str(task))
        environment = (
            os.environ
            | job["export"]
            | {
                "SLURM_JOB_ID": str(int(number) * 100 + task),
                "SLURM_ARRAY_JOB_ID": number,
                "SLURM_ARRAY_TASK_ID": str(task),
                "SLURM_NODELIST": f"node{task % 2 + 1}",
                "SLURM_JOB_NAME": job["directives"]["job-name"],
            }
        )
        with open(output, "wb") as file:
            code = subprocess.run(
                ["bash", str(folder / "script")], env=environment, stdout=file, stderr=subprocess.STDOUT
            ).returncode
        state = "COMPLETED" if code == 0 else "OUT_OF_MEMORY" if code in (137, -9) else "FAILED"
        (folder / f"{task}.state").write_text(state)

    with ThreadPoolExecutor(int(limit or 4)) as pool:
        list(pool.map(run, range(int(first), int(last) + 1)))
    (folder / "ended").touch()


def named(name: str) -> list[Path]:
    return [
        path
        for path in sorted(FOLDER.glob("*.job"))
        if json.loads((path / "job.json").read_text())["directives"]["job-name"] == name
    ]


def squeue(arguments: list[str]) -> None:
    for path in named(options(arguments)["name"]):
        if not (path / "ended").exists():
            print(path.stem)


def sacct(arguments: list[str]) -> None:
    for path in named(options(arguments)["name"]):
        for state in sorted(path.glob("*.state")):
            print(state.read_text())


def scancel(arguments: list[str]) -> None:
    for path in named(options(arguments)["name"]):
        while not (path / "group").exists():
            time.sleep(0.05)
        if not (path / "ended").exists():
            os.killpg(int((path / "group").read_text()), signal.SIGTERM)
            (path / "ended").touch()


def scontrol(arguments: list[str]) -> None:
    assert arguments[:2] == ["show", "hostnames"]
    print(arguments[2])


def srun(arguments: list[str]) -> None:
    assert arguments[:3] == ["-l", "-n", "1"]
    os.execvp(arguments[3], arguments[3:])


COMMANDS = {
    function.__name__: function for function in (sbatch, controller, squeue, sacct, scancel, scontrol, srun)
}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](sys.argv[2:])
