"""A restart finds its own processes in a store that remembers those of the start before, as torchrun's agent
keeps one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# In one process that has torch loaded: the agent's store, then two starts of two processes. In the first,
# both join and are killed; in the second, process 1 comes well before process 0, so that all it can find of
# it is what the first start has left.
DRILL = """
import os, signal, sys, time
import torch.distributed as dist
from hanlin.training.distributed.launch import init_distributed

agent = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
os.environ |= {
    "TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(agent.port),\
 "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
}

def start(rank, ends, wait=0.0):
    child = os.fork()
    if child:
        return child
    time.sleep(wait)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    with init_distributed("ddp", "cpu") as (strategy, _):
        said = strategy.group.all_gather_object(rank)
        if not ends:
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGKILL)
    os._exit(0 if said == [0, 1] else 3)

first = [start(rank, False) for rank in (0, 1)]
assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in first] == [-9, -9]
second = [start(1, True), start(0, True, wait=1.0)]
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in second]
print(codes)
sys.exit(any(codes))
"""


def test_a_restart_does_not_meet_the_dead_of_the_start_before():
    environment = {**os.environ, "HANLIN_DIST_TIMEOUT": "15", "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", DRILL], cwd=root, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
