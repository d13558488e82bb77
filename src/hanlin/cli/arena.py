"""The verbs of `hanlin arena`. `cli` names them and loads this file when one is asked for; what is heavy
waits until it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from hanlin.cli.main import Files, Flag, Many, show
from hanlin.common.messages import tr


def build(
    *,
    models: Files,
    prompts: Path,
    out: Path,
    seed: int = 1,
    battles: int = 20,
    max_new_tokens: int = 256,
    temperature: float | None = None,
    top_p: float | None = None,
    hide: Many = (),
    device: str | None = None,
    json: Flag = False,
) -> None:
    """Have every model answer every prompt, for people to compare blindly afterwards.

    Parameters
    ----------
    models
        Directories of models or runs, two at least.
    prompts
        A .jsonl, .csv or .txt file; columns prompt and, if you like, category.
    out
        Directory of the arena; the same command again goes on.
    battles
        Comparisons each rater gets.
    temperature
        For every model; each model's own recommendation when absent.
    top_p
        For every model; each model's own recommendation when absent.
    hide
        More names to replace in answers, besides those of the models.
    """
    from hanlin.arena.build import build_arena, build_text
    from hanlin.common.progress import make_progress

    asked = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
    sampling: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    figures = build_arena(
        models,
        prompts,
        out,
        seed=seed,
        battles=battles,
        sampling=sampling,
        hidden=hide,
        device=device,
        progress=make_progress(),
    )
    show(figures, json, build_text(figures, out))


def serve(arena: Path, /, *, raters: int = 30, port: int = 8010, lan: Flag = False) -> None:
    """Serve the voting page and print a code for each rater.

    Parameters
    ----------
    arena
        Directory of the arena (--out of hanlin arena build).
    raters
        Codes there should be; those made before stay valid.
    port
        Port.
    lan
        Let other machines of this network in, each with a code.
    """
    from hanlin.arena.server import serve_arena

    serve_arena(arena, raters=raters, port=port, lan=lan)


def report(arena: Path, /, *, out: Path | None = None, json: Flag = False) -> None:
    """Rank the models by the votes, with intervals, and write a page to print.

    Parameters
    ----------
    arena
        Directory of the arena (--out of hanlin arena build).
    out
        The page; report.html in the arena when absent.
    """
    from hanlin.arena.analysis import analyse
    from hanlin.arena.page import render_arena, summary
    from hanlin.common.atomic import atomic_write

    found = analyse(arena)
    page = out or arena / "report.html"
    atomic_write(page, render_arena(found))
    show(found, json, summary(found) + "\n" + tr("Page: {page}", page=page))


def export(
    arena: Path,
    /,
    *,
    out: Path,
    format: Literal["csv", "jsonl", "lmarena"] = "csv",
    paper: Flag = False,
    raters: int = 30,
) -> None:
    """Write the votes to a file, or with --paper sheets to vote on without computers.

    Parameters
    ----------
    arena
        Directory of the arena (--out of hanlin arena build).
    out
        The file to write.
    format
        csv, jsonl, or lmarena for the fields of FastChat's battles.
    paper
        Write an HTML file of sheets to print, one for each rater, and beside it a CSV file to fill in.
    raters
        With --paper: sheets to print.
    """
    from hanlin.arena.exchange import export_votes
    from hanlin.arena.paper import export_paper

    if paper:
        print(export_paper(arena, out, raters))
    else:
        count = export_votes(arena, out, format)
        print(tr("{count} votes: {out}", count=count, out=out))


def import_votes(arena: Path, votes: Path, /, *, json: Flag = False) -> None:
    """Read votes from a CSV file: of paper sheets that were filled in, or of an export.

    Parameters
    ----------
    arena
        Directory of the arena (--out of hanlin arena build).
    votes
        The file; columns rater, battle, outcome and, if you like, reasons.
    """
    from hanlin.arena.exchange import import_votes as read

    found = read(arena, votes)
    show(found, json, tr("{new} votes read, {known} were there already, {empty} lines without one.", **found))


def forget(arena: Path, rater: str, /) -> None:
    """Delete a rater's votes and code.

    Parameters
    ----------
    arena
        Directory of the arena (--out of hanlin arena build).
    rater
        The rater's code, or r and the number in an export (r7).
    """
    from hanlin.arena.exchange import forget_rater

    print(tr("{count} votes of {rater} deleted.", count=forget_rater(arena, rater), rater=rater))


def judge(
    arena: Path,
    /,
    *,
    url: str,
    model: str,
    key_env: str = "",
    price_in: float = 0.0,
    price_out: float = 0.0,
    max_cost: float | None = None,
    limit: int = 0,
    parallel: int = 4,
    timeout: float = 60.0,
    seed: int = 1,
    plan: Flag = False,
    json: Flag = False,
) -> None:
    """Have a model behind an OpenAI-compatible URL judge an arena's battles, each in both orders.

    Parameters
    ----------
    arena
        Directory of the arena (--out of hanlin arena build).
    url
        Address of the API, with /v1.
    model
        The model's name in that API.
    key_env
        Environment variable that holds the key, where one is needed.
    price_in
        Price of a million tokens read.
    price_out
        Price of a million tokens written.
    max_cost
        Begin no request that could take the sum beyond this; needs the prices.
    limit
        Battles at most, those that people judged first; all when 0.
    parallel
        Requests at a time.
    timeout
        Seconds for one request.
    plan
        Only reckon requests, tokens and cost.
    """
    import os

    from hanlin.arena.judge import estimate_text, judge_arena, judge_text
    from hanlin.arena.judge_client import Judge
    from hanlin.common.errors import HanlinError
    from hanlin.common.progress import make_progress

    key = os.environ.get(key_env) if key_env else None
    if key_env and not key:
        raise HanlinError("The environment variable {key_env} of --key-env is not set.", key_env=key_env)
    who = Judge(url, model, key, seed, price_in, price_out, max_cost, timeout, parallel)
    found = judge_arena(arena, who, limit=limit, plan=plan, progress=make_progress())
    show(found, json, str(estimate_text(found)) if plan else judge_text(found, arena))
