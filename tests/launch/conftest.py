"""Stand-ins for the commands that launch files call."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
STAND_INS = {
    "torchrun": "fake_torchrun.py",
    **dict.fromkeys(("sbatch", "srun", "scancel", "scontrol"), "fake_slurm.py"),
}


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """Put the stand-ins first on PATH; the folder they keep their records in."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, program in STAND_INS.items():
        subcommand = "" if name == "torchrun" else name
        (commands / name).write_text(f'#!/bin/sh\nexec {sys.executable} {HERE / program} {subcommand} "$@"\n')
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:/usr/local/bin:/usr/bin:/bin")
    monkeypatch.setenv("FAKE_SLURM", str(tmp_path))
    monkeypatch.setenv("FAKE_TORCHRUN", str(tmp_path / "torchrun.jsonl"))
    for name in ("OMP_NUM_THREADS", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path
