"""Two machines that are not: network namespaces joined by a pair of virtual interfaces, over which torchrun
really speaks TCP.

What this shows: rendezvous, the loss of a node, of its answers, of the wire. What it does not: NCCL,
accelerators, bandwidth. Both see one file system, as nodes of a cluster see a shared one. It needs Linux and
root.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

ADDRESSES = ("10.77.0.1", "10.77.0.2")


def why_not() -> str:
    """Why namespaces cannot be made here; empty where they can."""
    if not shutil.which("ip"):
        return "no `ip` command (iproute2)"
    if os.geteuid() != 0:
        return "needs root"
    probe = f"hanlin-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", probe], capture_output=True)
    return made.stderr.strip()


class Machines:
    """A context in which two machines exist; every process in them ends with it."""

    def __init__(self) -> None:
        self.names = tuple(f"hanlin{os.getpid()}{letter}" for letter in "ab")
        self.started: list[subprocess.Popen] = []

    def __enter__(self) -> Machines:
        for name in self.names:
            _ip("netns", "add", name)
        first, second = self.names
        _ip("link", "add", "wire", "netns", first, "type", "veth", "peer", "name", "wire", "netns", second)
        for name, address in zip(self.names, ADDRESSES, strict=True):
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", "wire")
            for device in ("lo", "wire"):
                _ip("-n", name, "link", "set", device, "up")
        return self

    def __exit__(self, *_: object) -> None:
        for machine in (0, 1):
            self.signal(machine, signal.SIGKILL)
        for process in self.started:
            process.wait()
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)

    def start(self, machine: int, command: Sequence[str], log: Path, **environment: str) -> subprocess.Popen:
        """Start a command on a machine; what it says goes to `log`."""
        with open(log, "ab") as file:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.names[machine], *command],
                stdout=file,
                stderr=file,
                env=os.environ | environment,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def processes(self, machine: int) -> list[int]:
        """Process ids on a machine."""
        said = subprocess.run(
            ["ip", "netns", "pids", self.names[machine]], capture_output=True, text=True
        ).stdout
        return [int(line) for line in said.split()]

    def signal(self, machine: int, number: int) -> None:
        """Send a signal to every process on a machine."""
        for process in self.processes(machine):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)

    def cut(self) -> None:
        """Take the wire down."""
        _ip("-n", self.names[1], "link", "set", "wire", "down")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
