"""What datatrove's Slurm executor leaves to its user: to wait until a job array has ended, and to say why
ranks failed."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hanlin.common.errors import HanlinError
from hanlin.common.messages import listing

_LONGEST = 30.0  # seconds between two looks at the queue
_PATIENCE = 20  # looks at the queue that may fail one after another, as when Slurm's controller restarts
_names: dict[str, str] = {}  # of the last job of each phase


def check(options: Mapping[str, Any]) -> None:
    """Refuse what cannot become a job.

    Raises:
        HanlinError: there is no Slurm here, this is itself a task of a job array, or an option is missing.
    """
    if missing := [name for name in ("partition", "time") if name not in options]:
        raise HanlinError(
            "The Slurm executor needs {missing}, for instance --executor-option partition=cpu time=20:00:00.",
            missing=listing(missing),
        )
    if not shutil.which("sbatch"):
        raise HanlinError("There is no sbatch on this machine. Run this on a login node of Slurm.")
    if "SLURM_ARRAY_TASK_ID" in os.environ:  # datatrove would take this process for one of its ranks
        raise HanlinError("This cannot be started inside a Slurm job array. Run it on a login node.")


def launch(executor: Any, given: Mapping[str, Any], options: Mapping[str, Any], phase: str) -> None:
    """Submit the ranks with datatrove's executor class and wait until none of them is in the queue.
    Interrupted, the job is cancelled.

    Ranks start the Python that runs this, unless `env_command`, `condaenv` or `venv_path` says otherwise.

    Raises:
        HanlinError: sbatch refuses the job, or squeue does not answer.
    """
    options = dict(options)
    if not {"env_command", "condaenv", "venv_path"} & set(options):
        options["env_command"] = f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"'
    name = _names[phase] = f"{options.pop('job_name', 'hanlin')}-{phase}-{secrets.token_hex(3)}"
    job = executor(**given, **options, job_name=name)
    job.launch_merge_stats = _nothing  # it would wait in the queue for ever if a rank failed
    try:
        job.run()
        _wait(name)
    except subprocess.CalledProcessError as error:
        said = (error.output or b"").decode("utf-8", "replace").strip()
        raise HanlinError(
            "sbatch did not accept the job (it returned {returncode}) {said}. Check the options, such as "
            "partition, time and qos.",
            returncode=error.returncode,
            said=said,
        ) from None
    except BaseException:
        _ask("scancel", f"--name={name}")
        raise


def states(phase: str) -> str:
    """How the ranks of this phase's last job that failed ended, as Slurm's accounting has it, such as
    `OUT_OF_MEMORY × 3`."""
    found = _ask(
        "sacct",
        f"--name={_names.get(phase, '')}",
        "--allocations",
        "--noheader",
        "--parsable2",
        "--format=State",
    )
    counts = Counter(line.split()[0] for line in (found or "").splitlines() if line.strip())
    del counts["COMPLETED"]
    return ", ".join(f"{state} × {count}" for state, count in sorted(counts.items()))


def _wait(name: str) -> None:
    pause, failed = 0.5, 0
    while True:
        time.sleep(pause)
        queue = _ask("squeue", f"--name={name}", "--noheader", "--format=%i")
        if queue == "":
            return
        failed = failed + 1 if queue is None else 0
        if failed > _PATIENCE:
            raise HanlinError(
                "squeue does not answer, so how far the job is cannot be told. Run the same command: it "
                "goes on from where it was."
            )
        pause = min(pause * 1.5, _LONGEST)


def _ask(*command: str) -> str | None:
    """What a command of Slurm says, None if it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _nothing() -> None:
    """In place of something that is not wanted."""
