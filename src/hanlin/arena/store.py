"""The one file of an arena's prompts, answers, raters, battles and votes: SQLite in WAL mode.

A vote is one row that is unique for its battle, written in one transaction that is on the disk before it is
acknowledged: a battle has one vote or none, whoever sends what how often, and whenever the process dies. No
address of a rater is stored, and of a rater's code a keyed hash.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import hmac
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from hanlin.arena.answers import Answer
from hanlin.arena.gold import checks
from hanlin.arena.prompts import Prompt
from hanlin.arena.rules import DATABASE, ArenaConfig
from hanlin.arena.schedule import Matchup, Schedule
from hanlin.common.errors import HanlinError

Outcome = Literal["left", "right", "tie", "bad", "skip"]
OUTCOMES: tuple[Outcome, ...] = ("left", "right", "tie", "bad", "skip")
REASONS = ("fluency", "relevance", "facts", "repetition", "short", "long", "unsafe")
ALPHABET = "23456789ABCDEFGHJKMNPQRSTUVWXYZ"  # no 0 O 1 I L
CODE_LENGTH = 6
TOKEN_SECONDS = 30 * 60
UNDO_SECONDS = 10
PATIENCE = 5.0  # seconds for another process to let go of the file

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS prompt (
  id INTEGER PRIMARY KEY, text TEXT NOT NULL, category TEXT NOT NULL, sha TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS model (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, path TEXT NOT NULL, sha TEXT NOT NULL,
  sampling TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS answer (
  id INTEGER PRIMARY KEY, prompt INTEGER NOT NULL REFERENCES prompt, model INTEGER NOT NULL REFERENCES model,
  text TEXT NOT NULL, tokens INTEGER NOT NULL, finish_reason TEXT NOT NULL, seed INTEGER NOT NULL,
  thought INTEGER NOT NULL, hidden INTEGER NOT NULL, UNIQUE (prompt, model));
CREATE TABLE IF NOT EXISTS rater (
  id INTEGER PRIMARY KEY, code_hash TEXT UNIQUE, name TEXT, created REAL NOT NULL,
  number INTEGER UNIQUE, forgotten INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS battle (
  id INTEGER PRIMARY KEY, rater INTEGER NOT NULL REFERENCES rater, position INTEGER NOT NULL,
  kind TEXT NOT NULL, prompt INTEGER NOT NULL, first INTEGER NOT NULL, second INTEGER NOT NULL,
  swapped INTEGER NOT NULL, token_hash TEXT UNIQUE, issue INTEGER NOT NULL DEFAULT 0, issued REAL,
  expires REAL, UNIQUE (rater, position));
CREATE TABLE IF NOT EXISTS vote (
  battle INTEGER PRIMARY KEY REFERENCES battle, outcome TEXT NOT NULL, ms INTEGER, reasons TEXT NOT NULL,
  at REAL NOT NULL, source TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS event (at REAL NOT NULL, kind TEXT NOT NULL, rater INTEGER, detail TEXT NOT NULL);
"""


class Refused(Exception):
    """A vote that is not written.

    Attributes:
        status: of HTTP.
        code: for the page.
    """

    def __init__(self, status: int, code: str):
        super().__init__(code)
        self.status, self.code = status, code


@dataclasses.dataclass(frozen=True)
class Shown:
    """What a rater sees of a battle: no model's name, nothing that a name could be told from."""

    token: str
    prompt: str
    left: str
    right: str
    thought: bool
    number: int
    total: int
    can_undo: float


@dataclasses.dataclass(frozen=True)
class Voted:
    """A settled battle, told by models and not by sides.

    Attributes:
        rater: its number in the database; `judge` is the name of a judge, empty for a person.
        prompt: its number; of a check, the number of the check.
        first, second: models; for a check 0 is the good answer.
        swapped: the second model was on the left.
        outcome: as it was given, by side.
        ms: between showing and voting; None from paper.
    """

    rater: int
    judge: str
    position: int
    kind: str
    prompt: int
    first: int
    second: int
    swapped: bool
    outcome: Outcome
    ms: int | None
    reasons: tuple[str, ...]
    at: float
    source: str

    @property
    def verdict(self) -> str:
        """`first`, `second`, `tie`, `bad` or `skip`: the outcome whatever the sides were."""
        if self.outcome not in ("left", "right"):
            return self.outcome
        return "second" if (self.outcome == "left") == self.swapped else "first"


def busy(path: Path, error: sqlite3.Error) -> HanlinError:
    """What to do about an error of SQLite."""
    if "locked" in str(error) or "busy" in str(error):
        return HanlinError(
            "{path} is locked by another process. Wait until it is done, or end it, and run this again; "
            "the votes that are in it stay.",
            path=path,
        )
    return HanlinError(
        "{path} cannot be read or written: {error}. Copy it before anything else; the votes that are in it "
        "stay.",
        path=path,
        error=error,
    )


class Store:
    """An open arena. One connection, one writer at a time; may be used from many threads.

    Args:
        secret: None where raters are not dealt with.

    Raises:
        HanlinError: the file is missing, damaged or locked.
    """

    def __init__(self, folder: Path, secret: bytes | None = None, *, create: bool = False):
        self.path = folder / DATABASE
        self.secret = secret or b""
        self._lock = threading.RLock()
        if not create and not self.path.is_file():
            raise HanlinError("{path} is missing: the arena was not built to its end.", path=self.path)
        try:
            self._db = sqlite3.connect(
                self.path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
            )
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA foreign_keys = ON")
            self._db.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise busy(self.path, error) from None

    def close(self) -> None:
        """Close the file; its write-ahead log is merged into it."""
        self._db.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, alone among writers.

        Raises:
            HanlinError: another process does not let go of the file.
        """
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                raise busy(self.path, error) from None
            try:
                yield self._db
                self._db.execute("COMMIT")
            except sqlite3.OperationalError as error:
                self._db.execute("ROLLBACK")
                raise busy(self.path, error) from None
            except BaseException:
                self._db.execute("ROLLBACK")
                raise

    def rows(self, query: str, parameters: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """The rows of a query.

        Raises:
            HanlinError: the file is damaged or locked.
        """
        with self._lock:
            try:
                return self._db.execute(query, parameters).fetchall()
            except sqlite3.DatabaseError as error:
                raise busy(self.path, error) from None

    # ------------------------------------------------------------ what is compared

    def meta(self, key: str) -> str | None:
        """A value that was noted when the arena was built."""
        found = self.rows("SELECT value FROM meta WHERE key = ?", (key,))
        return found[0]["value"] if found else None

    def note(self, key: str, value: str) -> None:
        """Note a value, once: a second one changes nothing."""
        with self.transaction() as db:
            db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (key, value))

    def add_prompts(self, prompts: Sequence[Prompt]) -> None:
        """The prompts, numbered in their order."""
        with self.transaction() as db:
            db.executemany(
                "INSERT OR IGNORE INTO prompt VALUES (?, ?, ?, ?)",
                [(i, prompt.text, prompt.category, prompt.digest) for i, prompt in enumerate(prompts)],
            )

    def add_model(self, number: int, name: str, path: str, sha: str, sampling: str) -> None:
        """A model; the same one again changes nothing."""
        with self.transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO model VALUES (?, ?, ?, ?, ?)", (number, name, path, sha, sampling)
            )

    def add_answers(self, model: int, answers: Sequence[tuple[int, Answer]]) -> None:
        """Answers of a model by the prompts' numbers; those there are stay."""
        with self.transaction() as db:
            db.executemany(
                "INSERT OR IGNORE INTO answer (prompt, model, text, tokens, finish_reason, seed, thought, "
                "hidden) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (n, model, a.text, a.tokens, a.finish_reason, a.seed, a.thought, a.hidden)
                    for n, a in answers
                ],
            )

    def prompts(self) -> list[Prompt]:
        """By their numbers."""
        return [Prompt(row["text"], row["category"]) for row in self.rows("SELECT * FROM prompt ORDER BY id")]

    def models(self) -> list[sqlite3.Row]:
        """By their numbers."""
        return self.rows("SELECT * FROM model ORDER BY id")

    def answers(self) -> dict[tuple[int, int], sqlite3.Row]:
        """By (prompt, model)."""
        return {(row["prompt"], row["model"]): row for row in self.rows("SELECT * FROM answer")}

    def schedule(self, config: ArenaConfig) -> Schedule:
        """The plan of every rater of this arena."""
        answers = self.answers()
        prompts, models = len(self.prompts()), len(self.models())
        same = {
            Matchup(prompt, first, second)
            for prompt in range(prompts)
            for first in range(models)
            for second in range(first + 1, models)
            if answers[prompt, first]["text"] == answers[prompt, second]["text"]
        }
        count = len(checks(config.seed))
        return Schedule(prompts, models, config.battles, config.seed, self.secret, count, same)

    # ------------------------------------------------------------ raters

    def code(self, index: int) -> str:
        """The code of the `index`-th rater, derived from the secret: it can be printed again and is not
        stored."""
        number = int.from_bytes(self._keyed(f"code {index}")[:16], "big")
        letters = []
        for _ in range(CODE_LENGTH):
            number, digit = divmod(number, len(ALPHABET))
            letters.append(ALPHABET[digit])
        return "".join(letters)

    def ensure_raters(self, count: int) -> list[str]:
        """Codes of at least so many raters who are not forgotten, new ones where there are fewer."""
        with self.transaction() as db:
            known = db.execute("SELECT id, code_hash FROM rater WHERE name IS NULL ORDER BY id").fetchall()
            taken = {row["code_hash"] for row in known}
            alive = sum(row["code_hash"] is not None for row in known)
            index = int(self._value(db, "codes") or 0)
            while alive < count:
                hashed = self.code_hash(self.code(index))
                index += 1
                if hashed not in taken:
                    db.execute("INSERT INTO rater (code_hash, created) VALUES (?, ?)", (hashed, time.time()))
                    taken.add(hashed)
                    alive += 1
            db.execute("INSERT OR REPLACE INTO meta VALUES ('codes', ?)", (str(index),))
        return self.codes()

    def codes(self) -> list[str]:
        """The codes of all raters who are not forgotten, in the order of their making."""
        alive = {row["code_hash"] for row in self.rows("SELECT code_hash FROM rater WHERE name IS NULL")}
        made = (self.code(index) for index in range(int(self.meta("codes") or 0)))
        return [code for code in made if self.code_hash(code) in alive]

    def code_hash(self, code: str) -> str:
        """The form in which a code is stored."""
        return self._keyed(f"rater {normal_code(code)}").hex()

    def rater_of(self, code: str) -> int | None:
        """The rater of a code; None if it is nobody's."""
        found = self.rows("SELECT id FROM rater WHERE code_hash = ?", (self.code_hash(code),))
        return found[0]["id"] if found else None

    def put_judge(self, name: str, outcomes: Sequence[tuple[Matchup, Outcome]], facts: str) -> None:
        """A judge's verdicts in place of earlier ones of the same name, with its figures as JSON; in each
        battle the matchup's first model is on the left."""
        now = time.time()
        with self.transaction() as db:
            found = db.execute("SELECT id FROM rater WHERE name = ?", (name,)).fetchone()
            if found is None:
                found = {
                    "id": db.execute("INSERT INTO rater (name, created) VALUES (?, ?)", (name, now)).lastrowid
                }
            rater = found["id"]
            db.execute("DELETE FROM vote WHERE battle IN (SELECT id FROM battle WHERE rater = ?)", (rater,))
            db.execute("DELETE FROM battle WHERE rater = ?", (rater,))
            for position, (matchup, outcome) in enumerate(outcomes, start=1):
                battle = db.execute(
                    "INSERT INTO battle (rater, position, kind, prompt, first, second, swapped) "
                    "VALUES (?, ?, 'judge', ?, ?, ?, 0)",
                    (rater, position, matchup.prompt, matchup.first, matchup.second),
                ).lastrowid
                db.execute("INSERT INTO vote VALUES (?, ?, NULL, '', ?, 'judge')", (battle, outcome, now))
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, facts))

    def session(self, rater: int) -> str:
        """What a rater's cookie holds."""
        return f"{rater}.{self._keyed(f'session {rater}')[:16].hex()}"

    def rater_of_session(self, cookie: str) -> int | None:
        """The rater of a cookie; None if it is forged, or the rater is forgotten."""
        number, _, _ = cookie.partition(".")
        if not number.isascii() or not number.isdecimal() or len(number) > 9:
            return None
        if not hmac.compare_digest(cookie.encode("utf-8", "replace"), self.session(int(number)).encode()):
            return None
        found = self.rows("SELECT id FROM rater WHERE id = ? AND forgotten = 0", (int(number),))
        return found[0]["id"] if found else None

    def forget(self, rater: int) -> int:
        """Delete what a rater voted, and the code's hash; the number of votes deleted. The place in the
        schedule stays taken."""
        with self.transaction() as db:
            owned = "battle IN (SELECT id FROM battle WHERE rater = ?)"
            count = db.execute(f"DELETE FROM vote WHERE {owned}", (rater,)).rowcount
            db.execute("DELETE FROM battle WHERE rater = ?", (rater,))
            db.execute("DELETE FROM event WHERE rater = ?", (rater,))
            db.execute("UPDATE rater SET code_hash = NULL, forgotten = 1 WHERE id = ?", (rater,))
        return count

    def join(self, rater: int, schedule: Schedule) -> None:
        """Give a rater the next stretch of the schedule; one who has a plan keeps it."""
        with self.transaction() as db:
            if db.execute("SELECT number FROM rater WHERE id = ?", (rater,)).fetchone()["number"] is not None:
                return
            number = db.execute("SELECT COALESCE(MAX(number) + 1, 0) FROM rater").fetchone()[0]
            db.execute("UPDATE rater SET number = ? WHERE id = ?", (number, rater))
            db.executemany(
                "INSERT INTO battle (rater, position, kind, prompt, first, second, swapped) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (rater, i, p.kind, p.matchup.prompt, p.matchup.first, p.matchup.second, p.swapped)
                    for i, p in enumerate(schedule.plan(number), start=1)
                ],
            )

    # ------------------------------------------------------------ battles and votes

    def current(self, rater: int, config: ArenaConfig) -> Shown | None:
        """The battle that a rater is to judge: the same one however often it is asked for; None at the end
        of the plan. The token changes only when it has expired."""
        now = time.time()
        row = self._current(rater)
        if row is not None and (row["expires"] is None or row["expires"] < now):
            with self.transaction() as db:
                row = self._current(rater)
                if row is not None and (row["expires"] is None or row["expires"] < now):
                    self._issue(db, row, now)
                    row = self._current(rater)
        if row is None:
            return None
        done, total, _ = self.progress(rater)
        prompt, left, right, thought = self.texts(row, config)
        undo = self._undoable(rater, now)
        remaining = 0.0 if undo is None else round(undo["at"] + UNDO_SECONDS - now, 1)
        return Shown(self._token(row), prompt, left, right, thought, done + 1, total, remaining)

    def progress(self, rater: int) -> tuple[int, int, float]:
        """Battles settled, battles in all, and for how many seconds the last vote may be taken back."""
        row = self.rows(
            "SELECT COUNT(*) AS total, COUNT(vote.battle) AS done FROM battle "
            "LEFT JOIN vote ON vote.battle = battle.id WHERE rater = ?",
            (rater,),
        )[0]
        now = time.time()
        undo = self._undoable(rater, now)
        return row["done"], row["total"], 0.0 if undo is None else undo["at"] + UNDO_SECONDS - now

    def texts(self, row: sqlite3.Row, config: ArenaConfig) -> tuple[str, str, str, bool]:
        """Prompt, left and right answer of a battle, and whether reasoning was taken out of one."""
        if row["kind"] == "gold":
            check = checks(config.seed)[row["prompt"]]
            sides = [check.good, check.broken]
            prompt, thought = check.prompt, False
        else:
            found = {
                answer["model"]: answer
                for answer in self.rows(
                    "SELECT * FROM answer WHERE prompt = ? AND model IN (?, ?)",
                    (row["prompt"], row["first"], row["second"]),
                )
            }
            sides = [found[row["first"]]["text"], found[row["second"]]["text"]]
            thought = any(answer["thought"] for answer in found.values())
            prompt = self.rows("SELECT text FROM prompt WHERE id = ?", (row["prompt"],))[0]["text"]
        left, right = sides[::-1] if row["swapped"] else sides
        return prompt, left, right, thought

    def vote(self, rater: int, token: str, outcome: Outcome, reasons: Sequence[str]) -> None:
        """Write a vote: the first for the token of a battle that is being judged.

        Raises:
            Refused: 409 for a token that is used, expired or nobody's; nothing was written.
        """
        now = time.time()
        with self.transaction() as db:
            row = db.execute(
                "SELECT * FROM battle WHERE token_hash = ? AND rater = ?", (_token_hash(token), rater)
            ).fetchone()
            if row is None:
                raise Refused(409, "unknown_token")
            if row["expires"] < now:
                raise Refused(409, "expired_token")
            try:
                db.execute(
                    "INSERT INTO vote VALUES (?, ?, ?, ?, ?, 'page')",
                    (row["id"], outcome, round(1000 * (now - row["issued"])), " ".join(reasons), now),
                )
            except sqlite3.IntegrityError:
                raise Refused(409, "used_token") from None

    def undo(self, rater: int) -> None:
        """Take a rater's last vote back, if it was given on the page in the last seconds: its battle comes
        again, with another token.

        Raises:
            Refused: there is no such vote.
        """
        now = time.time()
        with self.transaction() as db:
            row = self._undoable(rater, now)
            if row is None:
                raise Refused(409, "nothing_to_undo")
            db.execute("DELETE FROM vote WHERE battle = ?", (row["id"],))
            self._issue(db, row, now, shown=row["issued"])
            db.execute("INSERT INTO event VALUES (?, 'undo', ?, ?)", (now, rater, row["outcome"]))

    def record(
        self,
        rater: int,
        position: int,
        outcome: Outcome,
        reasons: Sequence[str],
        source: str,
        db: sqlite3.Connection,
    ) -> bool:
        """Write a vote from elsewhere within a transaction; False where the battle has one, which stays.

        Raises:
            KeyError: the rater's plan has no such battle.
        """
        row = db.execute(
            "SELECT id FROM battle WHERE rater = ? AND position = ?", (rater, position)
        ).fetchone()
        if row is None:
            raise KeyError(position)
        return bool(
            db.execute(
                "INSERT OR IGNORE INTO vote VALUES (?, ?, NULL, ?, ?, ?)",
                (row["id"], outcome, " ".join(reasons), time.time(), source),
            ).rowcount
        )

    def battles_of(self, rater: int) -> list[sqlite3.Row]:
        """A rater's plan, in order."""
        return self.rows("SELECT * FROM battle WHERE rater = ? ORDER BY position", (rater,))

    def votes(self) -> list[Voted]:
        """All settled battles, by rater and place in the plan."""
        return [
            Voted(
                row["rater"],
                row["name"] or "",
                row["position"],
                row["kind"],
                row["prompt"],
                row["first"],
                row["second"],
                bool(row["swapped"]),
                row["outcome"],
                row["ms"],
                tuple(row["reasons"].split()),
                row["at"],
                row["source"],
            )
            for row in self.rows(
                "SELECT vote.*, battle.*, rater.name FROM vote JOIN battle ON battle.id = vote.battle "
                "JOIN rater ON rater.id = battle.rater ORDER BY battle.rater, battle.position"
            )
        ]

    def event(self, kind: str, detail: str, rater: int | None = None) -> None:
        """Note what happened beside the votes."""
        with self.transaction() as db:
            db.execute("INSERT INTO event VALUES (?, ?, ?, ?)", (time.time(), kind, rater, detail))

    def _current(self, rater: int) -> sqlite3.Row | None:
        found = self.rows(
            "SELECT battle.* FROM battle LEFT JOIN vote ON vote.battle = battle.id "
            "WHERE rater = ? AND vote.battle IS NULL ORDER BY position LIMIT 1",
            (rater,),
        )
        return found[0] if found else None

    def _undoable(self, rater: int, now: float) -> sqlite3.Row | None:
        found = self.rows(
            "SELECT battle.*, vote.at, vote.outcome FROM vote JOIN battle ON battle.id = vote.battle "
            "WHERE rater = ? AND source = 'page' ORDER BY at DESC, position DESC LIMIT 1",
            (rater,),
        )
        return found[0] if found and found[0]["at"] + UNDO_SECONDS > now else None

    def _issue(
        self, db: sqlite3.Connection, row: sqlite3.Row, now: float, shown: float | None = None
    ) -> None:
        """Give a battle a new token; `shown` is when the rater began to read, now when absent."""
        token = self._token_of(row["id"], row["issue"] + 1)
        db.execute(
            "UPDATE battle SET issue = issue + 1, token_hash = ?, issued = ?, expires = ? WHERE id = ?",
            (_token_hash(token), now if shown is None else shown, now + TOKEN_SECONDS, row["id"]),
        )

    def _token(self, row: sqlite3.Row) -> str:
        return self._token_of(row["id"], row["issue"])

    def _token_of(self, battle: int, issue: int) -> str:
        """128 bits; derived, so that a page that is loaded again gets the same."""
        return self._keyed(f"token {battle} {issue}")[:16].hex()

    def _keyed(self, message: str) -> bytes:
        return hmac.digest(self.secret, message.encode("utf-8", "replace"), hashlib.sha256)

    @staticmethod
    def _value(db: sqlite3.Connection, key: str) -> str | None:
        found = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return found["value"] if found else None


def normal_code(code: str) -> str:
    """A code as it is compared: capitals, without blanks and dashes."""
    return "".join(code.upper().split()).replace("-", "")[:64]


def _token_hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
