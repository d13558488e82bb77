"""Arenas without models, and raters that are functions."""

from __future__ import annotations

import contextlib
import math
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from hanlin.arena.answers import Answer  # noqa: E402
from hanlin.arena.app import Attempts, Pace, create_app  # noqa: E402
from hanlin.arena.prompts import Prompt  # noqa: E402
from hanlin.arena.rules import SECRET, ArenaConfig, make_secret, read_arena, read_secret  # noqa: E402
from hanlin.arena.store import Store  # noqa: E402
from hanlin.serving.server import bind, make_server  # noqa: E402

NAMES = ("xiaoming-7b", "xiaohong-14b", "xiaogang-2b", "laowang-1b")


def make_arena(
    folder: Path,
    models: int = 3,
    prompts: int = 24,
    battles: int = 20,
    text: Callable[[int, int], str] = lambda prompt, model: (
        f"第{prompt}题的回答，写法{model}。" + "好" * model
    ),
) -> Store:
    """An arena whose answers are `text(prompt, model)`, with two categories."""
    folder.mkdir(parents=True, exist_ok=True)
    config = ArenaConfig(
        models=tuple({"name": name, "path": f"/models/{name}"} for name in NAMES[:models]),
        prompts={"file": "prompts.jsonl", "count": prompts, "sha256": "0" * 64},
        sampling={"max_new_tokens": 64},
        seed=7,
        battles=battles,
        hidden=(),
    )
    config.write(folder)
    (folder / SECRET).write_text("5a" * 32)  # sides are the same in every run of the tests
    (folder / SECRET).chmod(0o600)
    store = Store(folder, make_secret(folder), create=True)
    store.add_prompts([Prompt(f"问题{i}？", "算术" if i % 2 else "故事") for i in range(prompts)])
    for number, name in enumerate(NAMES[:models]):
        store.add_model(number, name, f"/models/{name}", "0" * 64, "{}")
        store.add_answers(
            number, [(i, Answer(text(i, number), 9, "stop", i, False, 0)) for i in range(prompts)]
        )
    return store


def opened(folder: Path) -> tuple[Store, ArenaConfig]:
    """An arena opened again."""
    return Store(folder, read_secret(folder)), read_arena(folder)


class Seen(NamedTuple):
    """A battle as a simulated rater meets it; `kind` and `models` (left, right) are what people cannot
    see."""

    kind: str
    models: tuple[int, int]
    prompt: int
    left_is_good: bool


Judge = Callable[[Seen], str]


def vote_all(store: Store, config: ArenaConfig, judges: list[Judge], seconds: float = 8.0) -> None:
    """Each judge takes a code and settles its whole plan, with so many seconds for each battle."""
    codes = store.ensure_raters(len(judges))
    schedule = store.schedule(config)
    for code, judge in zip(codes, judges, strict=False):
        rater = store.rater_of(code)
        assert rater is not None
        store.join(rater, schedule)
        with store.transaction() as db:
            for row in store.battles_of(rater):
                first, second = (
                    (row["second"], row["first"]) if row["swapped"] else (row["first"], row["second"])
                )
                seen = Seen(row["kind"], (first, second), row["prompt"], not row["swapped"])
                db.execute(
                    "INSERT INTO vote VALUES (?, ?, ?, '', ?, 'page')",
                    (row["id"], judge(seen), round(1000 * seconds), time.time()),
                )


def honest(theta: list[float], rng: random.Random, ties: float = 0.0, taste: float = 0.0) -> Judge:
    """A rater who prefers by Bradley–Terry, takes checks right, and differs from others by `taste`."""
    own = [value + rng.gauss(0, taste) for value in theta]

    def judge(seen: Seen) -> str:
        if seen.kind == "gold":
            return "left" if seen.left_is_good else "right"
        if rng.random() < ties:
            return "tie"
        left, right = (own[model] for model in seen.models)
        return "left" if rng.random() < 1 / (1 + math.exp(right - left)) else "right"

    return judge


class Live(NamedTuple):
    """A running arena."""

    url: str
    store: Store
    config: ArenaConfig
    codes: list[str]


@contextlib.contextmanager
def serving(
    folder: Path,
    raters: int = 3,
    attempts: Attempts | None = None,
    pace: Pace | None = None,
    hosts: tuple[str, ...] | None = None,
    **arena,
) -> Iterator[Live]:
    """Serve a new arena on a loopback port."""
    store = make_arena(folder, **arena)
    config = read_arena(folder)
    codes = store.ensure_raters(raters)
    listener = bind("127.0.0.1", 0)
    app = create_app(
        store, config, hosts=hosts, attempts=attempts, pace=pace or Pace(burst=1e6, per_second=1e6)
    )
    server = make_server(app)
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield Live(f"http://127.0.0.1:{listener.getsockname()[1]}", store, config, codes)
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        assert not thread.is_alive()
        store.close()


def count(folder: Path, table: str) -> int:
    """Rows of a table, read past the store."""
    with contextlib.closing(sqlite3.connect(folder / "arena.db")) as db:
        return db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]
