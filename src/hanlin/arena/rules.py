"""An arena's file: what is compared, and by which rules votes will be left out, written before the first
vote."""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
from pathlib import Path
from typing import Any

import orjson

from hanlin.common.atomic import atomic_file, read_json, write_json
from hanlin.common.errors import ConfigError, HanlinError

FILE, DATABASE, SECRET = "arena.json", "arena.db", "secret"
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Rules:
    """Which votes count for the ranking. The report shows how many each rule took out.

    Attributes:
        gold_failures: a rater who takes so many attention checks wrong is left out.
        side_p: one whose choice of sides is less likely than this by chance (two-sided binomial test) is
            left out.
        side_votes: decided votes that the rule before needs.
        fast_seconds: a vote given sooner is marked as fast.
        fast_share: one with a larger share of fast votes is left out.
        equivalent: models whose difference lies within ± so many Elo points are equivalent.
    """

    gold_failures: int = 2
    side_p: float = 0.001
    side_votes: int = 10
    fast_seconds: float = 2.0
    fast_share: float = 0.5
    equivalent: float = 35.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
                raise ConfigError(
                    "{name} of the rules must be a number of at least 0, not {value!r}.",
                    name=field.name,
                    value=value,
                )

    def digest(self) -> str:
        """A hash of the rules, kept with the votes to notice a change."""
        raw = orjson.dumps(dataclasses.asdict(self), option=orjson.OPT_SORT_KEYS)
        return hashlib.sha256(raw).hexdigest()


@dataclasses.dataclass(frozen=True)
class ArenaConfig:
    """What `arena.json` says.

    Attributes:
        models: name and directory of each.
        prompts: the file they were read from, and its SHA-256 after reading.
        sampling: settings given for every model; a model's own recommendations fill the rest.
        battles: each rater gets.
        hidden: names that are replaced in answers besides those of the models.
    """

    models: tuple[dict[str, str], ...]
    prompts: dict[str, Any]
    sampling: dict[str, Any]
    seed: int
    battles: int
    hidden: tuple[str, ...]
    rules: Rules = dataclasses.field(default_factory=Rules)

    def to_dict(self) -> dict[str, Any]:
        """The form of the file."""
        return {"format": FORMAT, **dataclasses.asdict(self)}

    def write(self, folder: Path) -> None:
        """Write `arena.json`."""
        write_json(folder / FILE, self.to_dict())


def read_arena(folder: Path) -> ArenaConfig:
    """The file of an arena.

    Raises:
        HanlinError: there is none, or it says something impossible.
    """
    file = folder / FILE
    if not file.is_file():
        raise HanlinError(
            "{folder} is no arena (no {file}). Make one: hanlin arena build --models A B --prompts "
            "prompts.jsonl --out {folder}.",
            folder=folder,
            file=FILE,
        )
    raw = read_json(file)
    fault: Any = "format"
    if isinstance(raw, dict) and raw.pop("format", None) == FORMAT:
        try:
            rules = Rules(**raw.pop("rules"))
            raw |= {"models": tuple(raw["models"]), "hidden": tuple(raw["hidden"])}
            return ArenaConfig(**raw, rules=rules)
        except (KeyError, TypeError) as error:
            fault = error
    raise HanlinError(
        "{file} is not an arena's file of this version of Hanlin ({fault}). The votes in {database} "
        "are untouched; undo what was changed in the file.",
        file=file,
        fault=fault,
        database=DATABASE,
    )


def read_secret(folder: Path) -> bytes:
    """The arena's secret: sides, battle tokens and rater codes are derived from it.

    It lies beside the database, readable by its owner only. Whoever deletes it after the class cuts the link
    between codes and votes for good.

    Raises:
        HanlinError: there is none.
    """
    file = folder / SECRET
    try:
        return bytes.fromhex(file.read_text(encoding="ascii"))
    except FileNotFoundError:
        raise HanlinError(
            "{file} is gone: without it no rater can be recognised. The report and the export still work.",
            file=file,
        ) from None
    except ValueError:
        raise HanlinError("{file} was changed; put the original back.", file=file) from None


def make_secret(folder: Path) -> bytes:
    """The secret there is, or a new one of 256 bits."""
    file = folder / SECRET
    if not file.is_file():
        with atomic_file(file) as temporary:
            temporary.chmod(0o600)
            temporary.write_text(secrets.token_hex(32), encoding="ascii")
    return read_secret(folder)
