"""A training without the training: counts steps, saves and ends at SIGTERM as the loop does, goes on from
what was saved.

`STAGE --config FILE --out DIR`, where FILE holds the number of steps. `DIR/log.jsonl` has a line for each
start of each rank, `DIR/steps` the steps that rank 0 did.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

stage, _, config, _, out, *_ = sys.argv[1:]
rank, asked = int(os.environ["RANK"]), []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
folder = Path(out)
folder.mkdir(parents=True, exist_ok=True)
saved = folder / f"saved-{rank}"
step, steps = int(saved.read_text()) if saved.exists() else 0, int(Path(config).read_text())
with open(folder / "log.jsonl", "a") as log:
    log.write(
        json.dumps(
            {
                "stage": stage,
                "rank": rank,
                "world": int(os.environ["WORLD_SIZE"]),
                "from": step,
                "threads": os.environ.get("OMP_NUM_THREADS"),
            }
        )
        + "\n"
    )
print(f"rank {rank} from step {step}", flush=True)
if steps < 0:
    sys.exit(3)
while step < steps and not asked:
    time.sleep(0.05)
    if rank == 0:
        with open(folder / "steps", "a") as done:
            done.write(f"{step}\n")
    step += 1
if asked:
    time.sleep(0.3)  # writing takes a while
saved.write_text(str(step))
sys.exit(143 if asked else 0)
