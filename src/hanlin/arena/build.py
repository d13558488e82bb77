"""`hanlin arena build`: every model answers every prompt, before anyone votes."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from hanlin.arena.answers import FAMILIES, sampling_of, write_answers
from hanlin.arena.prompts import prompts_digest, read_prompts
from hanlin.arena.rules import FILE, ArenaConfig, make_secret, read_arena
from hanlin.arena.store import Store
from hanlin.common.errors import HanlinError
from hanlin.common.locks import directory_lock
from hanlin.common.manifest import MANIFEST, sha256_file
from hanlin.common.messages import listing, tr
from hanlin.common.progress import Progress
from hanlin.inference import resolve_model_dir

FEWEST_PROMPTS = 3
MOST_MODELS = 20


def build_arena(
    models: Sequence[Path],
    prompts_file: Path,
    out: Path,
    *,
    seed: int,
    battles: int,
    sampling: dict[str, Any],
    hidden: Sequence[str] = (),
    device: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the arena's file and database; the same command goes on where it was interrupted.

    Args:
        battles: for each rater.
        sampling: settings for every model; a model's own recommendations fill the rest.
        hidden: names to replace in answers besides those of the models and of known families.

    Returns:
        What was built, in figures.

    Raises:
        HanlinError: fewer than two models, one that is missing, prompts that cannot be read, or another arena
            in the same place.
    """
    progress = progress or Progress()
    if not 2 <= len(models) <= MOST_MODELS:
        raise HanlinError(
            "An arena compares 2 to {most} models; {count} were given: --models A B C.",
            most=MOST_MODELS,
            count=len(models),
        )
    if battles < 6:
        raise HanlinError("--battles must be at least 6, not {battles}.", battles=battles)
    prompts = read_prompts(prompts_file)
    if len(prompts) < FEWEST_PROMPTS:
        raise HanlinError(
            "{path} has {count} prompts; {fewest} are needed at least, 12 or more for 20 battles a rater.",
            path=prompts_file,
            count=len(prompts),
            fewest=FEWEST_PROMPTS,
        )
    folders = [resolve_model_dir(path) for path in models]
    names = model_names(folders)
    for folder in folders:
        sampling_of(folder, sampling)
    order = random.Random(f"{seed} models").sample(range(len(folders)), len(folders))
    config = ArenaConfig(
        models=tuple({"name": names[i], "path": str(folders[i])} for i in order),
        prompts={"file": str(prompts_file), "count": len(prompts), "sha256": prompts_digest(prompts)},
        sampling=sampling,
        seed=seed,
        battles=battles,
        hidden=tuple(hidden),
    )
    with directory_lock(out):
        if (out / FILE).exists():
            _require_same(out, read_arena(out), config)
        else:
            config.write(out)
        secret = make_secret(out)
        config = read_arena(out)
        store = Store(out, secret, create=True)
        try:
            store.add_prompts(prompts)
            for number, i in enumerate(order):
                made = sampling_of(folders[i], sampling)
                shown = {name: getattr(made, name) for name in _SHOWN_SETTINGS}
                store.add_model(
                    number, names[i], str(folders[i]), _model_sha(folders[i]), orjson.dumps(shown).decode()
                )
            for number, i in enumerate(order):
                _answer(store, number, names, i, folders[i], config, device, progress)
            store.note("built", "yes")
            return _figures(store, config)
        finally:
            store.close()


_SHOWN_SETTINGS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_new_tokens")


def model_names(folders: Sequence[Path]) -> list[str]:
    """A name for each model: its directory's, or its run's, and longer where two are the same.

    Raises:
        HanlinError: the same model twice.
    """
    parts = []
    for folder in folders:
        path = folder.resolve()
        parts.append((path.parent if path.name == "model" else path).parts)
    if len(set(parts)) < len(parts):
        raise HanlinError("--models names the same model twice.")
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(path[-depth:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    return ["/".join(path) for path in parts]


def _model_sha(folder: Path) -> str:
    """What identifies a model's contents: the SHA-256 of its manifest, or of its configuration."""
    manifest = folder / MANIFEST
    return sha256_file(manifest if manifest.is_file() else folder / "config.json")


def _answer(
    store: Store,
    number: int,
    names: Sequence[str],
    own: int,
    folder: Path,
    config: ArenaConfig,
    device: str | None,
    progress: Progress,
) -> None:
    """The answers of one model that are not there yet.

    Args:
        number: the model's in the arena.
        own: its place among the names.
    """
    there = {prompt for prompt, model in store.answers() if model == number}
    wanted = [(i, prompt.text) for i, prompt in enumerate(store.prompts()) if i not in there]
    if not wanted:
        return
    hidden = [*names, *(name.rpartition("/")[2] for name in names), *config.hidden, *FAMILIES]
    progress.note("{model} answers {count} prompts.", model=names[own], count=len(wanted))
    for batch in write_answers(folder, wanted, config.sampling, config.seed, hidden, device):
        store.add_answers(number, batch)


def _require_same(out: Path, there: ArenaConfig, wanted: ArenaConfig) -> None:
    """Raises:
    HanlinError: the arena in that place is another one.
    """
    for name in ("models", "prompts", "sampling", "seed", "battles", "hidden"):
        before, now = getattr(there, name), getattr(wanted, name)
        if name == "prompts":
            before, now = before["sha256"], now["sha256"]
        if before != now:
            raise HanlinError(
                "{out} is an arena already, with other {name}. Its answers and votes were not touched; "
                "choose another --out, or give the same settings again.",
                out=out,
                name=name,
            )


def _figures(store: Store, config: ArenaConfig) -> dict[str, Any]:
    schedule = store.schedule(config)
    composition = schedule.composition
    answers = store.answers().values()
    return {
        "models": [model["name"] for model in config.models],
        "prompts": config.prompts["count"],
        "answers": len(answers),
        "names_hidden": sum(answer["hidden"] for answer in answers),
        "cut_off": sum(answer["finish_reason"] == "length" for answer in answers),
        "empty": sum(not answer["text"] for answer in answers),
        "pairs_of_answers": config.prompts["count"] * len(config.models) * (len(config.models) - 1) // 2,
        "identical_pairs": len(schedule.same),
        "battles_per_rater": composition.total,
        "composition": dataclasses.asdict(composition),
    }


def build_text(figures: dict[str, Any], out: Path) -> str:
    """The figures for a terminal, and what comes next."""
    lines = [
        tr(
            "{answers} answers of {models} to {prompts} prompts: {empty} empty, {cut_off} cut off at the "
            "length limit, {names_hidden} names of models hidden.",
            answers=figures["answers"],
            models=listing(figures["models"]),
            prompts=figures["prompts"],
            empty=figures["empty"],
            cut_off=figures["cut_off"],
            names_hidden=figures["names_hidden"],
        ),
        tr(
            "{same} of {pairs} pairs of answers are the same text; nobody is asked about those.",
            same=figures["identical_pairs"],
            pairs=figures["pairs_of_answers"],
        ),
        tr(
            "Each rater gets {total} battles: {normal} for the ranking, {shared} shared by all, {repeats} "
            "repeated with the sides swapped, {gold} attention checks.",
            total=figures["battles_per_rater"],
            **figures["composition"],
        ),
        tr("Next: hanlin arena serve {out} --raters 30", out=out),
    ]
    return "\n".join(lines)
