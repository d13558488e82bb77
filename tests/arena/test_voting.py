"""The voting page's routes: one vote a battle whatever comes, and no model's name in anything that leaves."""

from __future__ import annotations

import concurrent.futures
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hanlin.arena import store as store_module
from hanlin.arena.app import STATIC, Attempts, Pace
from hanlin.arena.rules import read_arena
from hanlin.arena.store import ALPHABET, REASONS
from tests.arena.arenas import NAMES, count, make_arena, opened, serving

httpx = pytest.importorskip("httpx")


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("arena"), raters=40) as server:
        server.codes.reverse()
        yield server


def enter(live, code: str | None = None):
    """A rater's browser, and what it sees first."""
    client = httpx.Client(base_url=live.url, timeout=30)
    answer = client.post("/api/login", json={"code": code or live.codes.pop()})
    assert answer.status_code == 200, answer.text
    return client, answer.json()


def votes(live) -> int:
    return count(live.store.path.parent, "vote")


def test_two_hundred_posts_of_one_token_are_one_vote(live):
    client, state = enter(live)
    before, token = votes(live), state["battle"]["token"]
    barrier = threading.Barrier(20)

    def post(number: int) -> int:
        if number < 20:
            barrier.wait()
        body = {"token": token, "outcome": ("left", "right")[number % 2]}
        return client.post("/api/vote", json=body).status_code

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        statuses = list(pool.map(post, range(200)))
    assert statuses.count(200) == 1 and statuses.count(409) == 199
    assert votes(live) == before + 1


def test_a_refresh_shows_the_same_battle(live):
    client, state = enter(live)
    again = [client.get("/api/battle").json() for _ in range(3)]
    assert all({**each, "undo": 0} == {**state, "undo": 0} for each in again)
    after = client.post("/api/vote", json={"token": state["battle"]["token"], "outcome": "tie"}).json()
    assert after["battle"]["token"] != state["battle"]["token"] and after["done"] == 1


def test_the_back_button_is_harmless(live):
    """The page shown before has a token that is used: no write, and the current battle stays."""
    client, state = enter(live)
    client.post("/api/vote", json={"token": state["battle"]["token"], "outcome": "left"})
    before = votes(live)
    answer = client.post("/api/vote", json={"token": state["battle"]["token"], "outcome": "right"})
    assert (answer.status_code, answer.json()) == (409, {"error": "used_token"})
    assert votes(live) == before


def test_a_token_belongs_to_its_rater(live):
    one, state = enter(live)
    other, _ = enter(live)
    before = votes(live)
    answer = other.post("/api/vote", json={"token": state["battle"]["token"], "outcome": "left"})
    assert answer.status_code == 409 and votes(live) == before
    assert (
        one.post("/api/vote", json={"token": state["battle"]["token"], "outcome": "left"}).status_code == 200
    )


def test_skips_and_reasons_are_stored(live):
    client, state = enter(live)
    state = client.post("/api/vote", json={"token": state["battle"]["token"], "outcome": "skip"}).json()
    reasons = ["facts", "short", "nonsense"]
    client.post("/api/vote", json={"token": state["battle"]["token"], "outcome": "left", "reasons": reasons})
    stored = [vote for vote in live.store.votes() if vote.rater == rater_of(client)]
    assert [(vote.outcome, vote.reasons) for vote in stored] == [("skip", ()), ("left", ("facts", "short"))]


def rater_of(client) -> int:
    return int(client.cookies["hanlin_arena"].partition(".")[0])


def test_undo_brings_the_battle_back_with_another_token(live, monkeypatch):
    client, state = enter(live)
    first = state["battle"]
    client.post("/api/vote", json={"token": first["token"], "outcome": "left"})
    before = votes(live)
    back = client.post("/api/undo", json={}).json()
    assert votes(live) == before - 1 and back["done"] == 0
    assert back["battle"]["prompt"] == first["prompt"] and back["battle"]["left"] == first["left"]
    assert back["battle"]["token"] != first["token"]
    assert client.post("/api/vote", json={"token": first["token"], "outcome": "left"}).status_code == 409
    again = client.post("/api/vote", json={"token": back["battle"]["token"], "outcome": "right"}).json()
    assert again["done"] == 1 and again["undo"] > 8
    monkeypatch.setattr(store_module, "UNDO_SECONDS", 0)
    answer = client.post("/api/undo", json={})
    assert (answer.status_code, answer.json()) == (409, {"error": "nothing_to_undo"})


def test_a_token_expires_and_the_battle_stays(live, monkeypatch):
    monkeypatch.setattr(store_module, "TOKEN_SECONDS", 0.05)
    client, state = enter(live)
    time.sleep(0.1)
    answer = client.post("/api/vote", json={"token": state["battle"]["token"], "outcome": "left"})
    assert (answer.status_code, answer.json()) == (409, {"error": "expired_token"})
    monkeypatch.setattr(store_module, "TOKEN_SECONDS", 60)
    fresh = client.get("/api/battle").json()["battle"]
    assert fresh["token"] != state["battle"]["token"] and fresh["left"] == state["battle"]["left"]


def test_no_response_names_a_model_or_an_address(live):
    """Everything a rater's browser gets in a whole plan, headers and files included."""
    client, state = enter(live)
    received = [str(dict(client.get("/").headers))]
    for name in (
        "/",
        "/health",
        *(f"/static/{file.name}" for file in STATIC.iterdir()),
        "/static/markdown.js",
    ):
        received.append(client.get(name).text)
    while state["battle"]:
        answer = client.post("/api/vote", json={"token": state["battle"]["token"], "outcome": "left"})
        received += [answer.text, str(dict(answer.headers))]
        state = answer.json()
    received += [
        client.get(path).text for path in ("/nowhere", "/openapi.json", "/arena.json", "/static/../store.py")
    ]
    everything = "\n".join(received)
    assert len(received) > 25 and "问题" in everything
    for secret in (*NAMES, "/models/", live.store.secret.hex(), "gold", "swapped"):
        assert secret not in re.sub(r"--\w+|/\*.*?\*/", "", everything), secret
    assert set(state) == {"done", "total", "undo", "battle"} and state["done"] == state["total"] == 20


def test_nothing_without_a_session_or_with_a_forged_one(live):
    client = httpx.Client(base_url=live.url)
    for path, method in (("/api/battle", "GET"), ("/api/vote", "POST"), ("/api/undo", "POST")):
        body = {"json": {"token": "0" * 32, "outcome": "left"}} if method == "POST" else {}
        assert client.request(method, path, **body).status_code == 401
    for cookie in ("1.", "1." + "0" * 32, "x", "999999999." + "0" * 32, "1.é".encode().decode("latin-1")):
        answer = client.get("/api/battle", headers={b"cookie": f"hanlin_arena={cookie}".encode("latin-1")})
        assert answer.status_code == 401, cookie


def test_the_cookie_is_strict_and_pages_of_other_origins_are_refused(live):
    client, _ = enter(live)
    code = live.codes[-1]
    header = client.post("/api/login", json={"code": code}).headers["set-cookie"].lower()
    assert "httponly" in header and "samesite=strict" in header
    for path in ("/api/login", "/api/vote", "/api/undo"):
        answer = client.post(path, json={"code": code}, headers={"origin": "http://evil.example"})
        assert answer.status_code == 403
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy


def test_ten_wrong_codes_and_the_address_waits(tmp_path):
    with serving(tmp_path, attempts=Attempts(wait=0.3)) as live:
        inside, _ = enter(live, live.codes[0])
        stranger = httpx.Client(base_url=live.url)
        tries = [stranger.post("/api/login", json={"code": f"AAAA{i:02d}"}).status_code for i in range(12)]
        assert tries == [403] * 10 + [429] * 2
        assert stranger.post("/api/login", json={"code": live.codes[1]}).status_code == 429
        assert inside.get("/api/battle").status_code == 200  # who is in stays in
        time.sleep(0.35)
        assert stranger.post("/api/login", json={"code": live.codes[1]}).status_code == 200
        assert stranger.post("/api/login", json={"code": "AAAAAA"}).status_code == 403


def test_a_rater_who_hammers_is_slowed_down(tmp_path):
    with serving(tmp_path, pace=Pace(burst=5, per_second=0.001)) as live:
        client, _ = enter(live, live.codes[0])
        assert [client.get("/api/battle").status_code for _ in range(7)] == [200] * 5 + [429] * 2
        other, _ = enter(live, live.codes[1])
        assert other.get("/api/battle").status_code == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"token": "x", "outcome": "model"}, 400),
        ({"token": "x"}, 400),
        ({"token": "x" * 65, "outcome": "left"}, 400),
        ({"token": 5, "outcome": "left"}, 400),
        ({"token": "x", "outcome": "left", "reasons": ["facts"] * 99}, 400),
        ({"token": "' OR 1=1 --", "outcome": "left"}, 409),
        ({"token": "", "outcome": "left"}, 409),
    ],
)
def test_what_is_no_vote_is_refused(live, body, status):
    client, _ = enter(live, live.codes[0])
    before = votes(live)
    answer = client.post("/api/vote", json=body)
    assert answer.status_code == status and set(answer.json()) == {"error"}
    assert votes(live) == before


def test_a_host_name_of_someone_else_is_not_answered(tmp_path):
    with serving(tmp_path, hosts=("127.0.0.1", "localhost")) as live:
        assert httpx.get(live.url, headers={"host": "evil.example"}).status_code == 403
        assert httpx.get(live.url).status_code == 200


# ---------------------------------------------------------------- codes and raters


def test_codes_are_unambiguous_and_only_their_hashes_are_stored(tmp_path):
    store = make_arena(tmp_path)
    codes = store.ensure_raters(60)
    assert len(set(codes)) == 60 == count(tmp_path, "rater")
    assert all(len(code) == 6 and set(code) <= set(ALPHABET) for code in codes)
    assert not set("01OIL") & set(ALPHABET)
    assert store.ensure_raters(60) == codes and store.ensure_raters(61)[:60] == codes
    store.close()
    content = b"".join(file.read_bytes() for file in tmp_path.iterdir() if file.name != "secret")
    assert not any(code.encode() in content for code in codes)
    assert (tmp_path / "secret").stat().st_mode & 0o077 == 0


def test_a_code_is_read_as_people_type_it(tmp_path):
    store = make_arena(tmp_path)
    code = store.ensure_raters(1)[0]
    rater = store.rater_of(code)
    assert rater is not None
    assert store.rater_of(f" {code[:3].lower()}-{code[3:].lower()} ") == rater
    assert store.rater_of(code[:5]) is None and store.rater_of("") is None


def test_forgetting_takes_the_votes_and_the_code(live):
    code = live.codes.pop()
    client, state = enter(live, code)
    client.post("/api/vote", json={"token": state["battle"]["token"], "outcome": "left"})
    before = votes(live)
    assert live.store.forget(rater_of(client)) == 1
    assert votes(live) == before - 1
    assert client.get("/api/battle").status_code == 401
    assert client.post("/api/login", json={"code": code}).status_code == 403
    assert code not in live.store.ensure_raters(len(live.codes))


def test_the_words_of_every_fault_and_reason_are_there():
    words = (STATIC / "words.js").read_text(encoding="utf-8")
    known = set(re.findall(r"^  (\w+): \[", words, re.M))
    source = (STATIC.parent / "app.py").read_text(encoding="utf-8") + (STATIC.parent / "store.py").read_text(
        encoding="utf-8"
    )
    codes = set(re.findall(r'Refused\(\d+, "(\w+)"\)', source)) - {"no_session"}  # shows the log-in
    assert len(codes) >= 7 and codes | set(REASONS) <= known
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    script = (STATIC / "vote.js").read_text(encoding="utf-8")
    assert (
        set(re.findall(r'data-t(?:-\w+)?="(\w+)"', page)) | set(re.findall(r'\bt\("(\w+)"', script)) <= known
    )
    assert re.findall(r'REASONS = \["(.*?)"\]', words)[0].split('", "') == list(REASONS)
    assert set(re.findall(r'\$\("([\w-]+)"\)', script)) <= set(re.findall(r'id="([\w-]+)"', page))


# ---------------------------------------------------------------- accidents

VOTER = """
import sys
from pathlib import Path
from hanlin.arena.rules import read_arena, read_secret
from hanlin.arena.store import Store
store, config = Store(Path(sys.argv[1]), read_secret(Path(sys.argv[1]))), read_arena(Path(sys.argv[1]))
rater = store.rater_of(sys.argv[2])
while (shown := store.current(rater, config)) is not None:
    store.vote(rater, shown.token, "left", [])
    print(shown.number, flush=True)
"""


def test_killed_while_voting_no_vote_is_lost_or_double(tmp_path):
    """A process is killed again and again; every vote it had acknowledged is there, once."""
    store = make_arena(tmp_path, prompts=60, battles=60)
    config = read_arena(tmp_path)
    code = store.ensure_raters(1)[0]
    rater = store.rater_of(code)
    assert rater is not None
    store.join(rater, store.schedule(config))
    store.close()
    rng = random.Random(5)
    acknowledged: list[int] = []
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", VOTER, str(tmp_path), code],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            acknowledged.append(int(line))
            if rng.random() < 0.15:
                os.kill(process.pid, signal.SIGKILL)
                break
        acknowledged += map(int, process.stdout.read().split())
        process.wait()
    assert len(acknowledged) > 5 and acknowledged == sorted(set(acknowledged))
    store, _ = opened(tmp_path)
    stored = [vote.position for vote in store.votes()]
    assert set(acknowledged) <= set(stored) and len(stored) - len(acknowledged) <= 6
    assert stored == list(range(1, len(stored) + 1))
    assert store.rows("PRAGMA integrity_check")[0][0] == "ok"


def test_a_locked_file_is_said_and_nothing_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "PATIENCE", 0.05)
    with serving(tmp_path) as live:
        client, state = enter(live, live.codes[0])
        other = sqlite3.connect(tmp_path / "arena.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        answer = client.post("/api/vote", json={"token": state["battle"]["token"], "outcome": "left"})
        assert (answer.status_code, answer.json()) == (503, {"error": "busy"})
        other.execute("ROLLBACK")
        other.close()
        answer = client.post("/api/vote", json={"token": state["battle"]["token"], "outcome": "left"})
        assert answer.status_code == 200 and votes(live) == 1


@pytest.mark.nightly
def test_ten_thousand_hostile_requests_leave_one_vote_a_battle(tmp_path):
    """Old tokens, tokens of others, undos, refreshes, nonsense, all at once."""
    rng = random.Random(9)
    with serving(tmp_path, raters=8) as live:
        clients = [enter(live, code)[0] for code in live.codes]
        tokens: list[str] = ["0" * 32]

        def hostile(_: int) -> int:
            client, kind = rng.choice(clients), rng.random()
            if kind < 0.25:
                battle = client.get("/api/battle").json()["battle"]
                if battle:
                    tokens.append(battle["token"])
                return 200
            if kind < 0.3:
                return client.post("/api/undo", json={}).status_code
            if kind < 0.35:
                return client.post("/api/vote", content=b'{"token": [' * rng.randint(1, 50)).status_code
            body = {"token": rng.choice(tokens[-40:]), "outcome": rng.choice(["left", "right", "skip"])}
            return client.post("/api/vote", json=body).status_code

        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            statuses = list(pool.map(hostile, range(10_000)))
        assert set(statuses) <= {200, 400, 409}
        rows = live.store.rows("SELECT COUNT(*) AS n, COUNT(DISTINCT battle) AS battles FROM vote")[0]
        assert rows["n"] == rows["battles"] > 0
        undone = live.store.rows("SELECT COUNT(*) AS n FROM event WHERE kind = 'undo'")[0]["n"]
        accepted = live.store.rows("SELECT COUNT(*) AS n FROM vote")[0]["n"] + undone
        for battle in live.store.rows("SELECT rater, COUNT(*) AS n FROM battle GROUP BY rater"):
            assert battle["n"] == 20
        assert accepted <= statuses.count(200)
