"""A stand-in for torchrun that costs no import of torch: starts `tiny_job.py` as so many ranks, passes
SIGTERM on to them and waits.

What it was called with goes to the file FAKE_TORCHRUN, a line for each node, for a test to show to the real
torchrun's parser.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

arguments = sys.argv[1:]
module = arguments.index("-m")
given = dict(item.removeprefix("--").split("=", 1) for item in arguments[:module])
nodes, processes = (
    int(given.get(name, os.environ.get(variable, "")))
    for name, variable in (("nnodes", "PET_NNODES"), ("nproc-per-node", "PET_NPROC_PER_NODE"))
)
node = int(given.get("node-rank") or os.environ.get("PET_NODE_RANK") or os.environ["SLURM_PROCID"])
with open(os.environ["FAKE_TORCHRUN"], "a") as calls:
    calls.write(json.dumps(arguments) + "\n")

workers = []
for local in range(processes):
    ranks = {
        "RANK": str(node * processes + local),
        "LOCAL_RANK": str(local),
        "WORLD_SIZE": str(nodes * processes),
    }
    program = [sys.executable, str(Path(__file__).with_name("tiny_job.py")), *arguments[module + 2 :]]
    workers.append(subprocess.Popen(program, env=os.environ | ranks, start_new_session=True))


def end(number, frame):
    raise InterruptedError(number)


signal.signal(signal.SIGTERM, end)
try:
    sys.exit(any([worker.wait() for worker in workers]))
except InterruptedError:
    for worker in workers:
        worker.terminate()
    for worker in workers:
        try:
            worker.wait(float(os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "30")))
        except subprocess.TimeoutExpired:
            worker.kill()
    sys.exit(1)
