"""How fast the voting page answers a class: 30 raters in parallel, 20 votes each, one process that serves.

    python benchmarks/arena.py [--raters 30] [--think 0.2]

The target is that 95 of 100 requests are answered within 100 ms. Each rater thinks for a random time before a
vote, which is far shorter than people need. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.arena.arenas import count, make_arena

TARGET = 0.1  # seconds, 95th percentile


def rater(url: str, code: str, think: float, seed: int) -> list[float]:
    """One rater's whole plan; the seconds each vote took."""
    rng = random.Random(seed)
    taken = []
    with httpx.Client(base_url=url, timeout=60) as client:
        state = client.post("/api/login", json={"code": code}).json()
        while state["battle"]:
            time.sleep(rng.uniform(0, 2 * think))
            began = time.perf_counter()
            answer = client.post(
                "/api/vote",
                json={"token": state["battle"]["token"], "outcome": rng.choice(["left", "right"])},
            )
            taken.append(time.perf_counter() - began)
            state = answer.raise_for_status().json()
    return taken


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--raters", type=int, default=30)
    parser.add_argument("--think", type=float, default=1.0, help="mean seconds before a vote")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_arena(folder, prompts=60).close()
        command = [sys.executable, "-m", "hanlin", "arena", "serve", name, "--raters", str(given.raters)]
        server = subprocess.Popen(
            [*command, "--port", "0"],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"HANLIN_LANG": "en"},
        )
        assert server.stdout is not None
        lines = [server.stdout.readline().split() for _ in range(given.raters)]
        url = lines[0][2].partition("/#")[0]
        for _ in range(200):
            try:
                httpx.get(url + "/health")
                break
            except httpx.TransportError:
                time.sleep(0.05)
        try:
            with concurrent.futures.ThreadPoolExecutor(given.raters) as pool:
                every = pool.map(lambda item: rater(url, item[1][1], given.think, item[0]), enumerate(lines))
                taken = sorted(second for one in every for second in one)
        finally:
            server.terminate()
            server.wait()
        found = {
            "votes": len(taken),
            "stored": count(folder, "vote"),
            "median_ms": round(1000 * taken[len(taken) // 2], 1),
            "p95_ms": round(1000 * taken[int(0.95 * len(taken))], 1),
            "most_ms": round(1000 * taken[-1], 1),
        }
    found["within_target"] = found["p95_ms"] <= 1000 * TARGET
    print(json.dumps(found))


if __name__ == "__main__":
    main()
