"""`hanlin card`: a model's card."""

from __future__ import annotations

from pathlib import Path

from hanlin.cli.main import Files, Flag, show
from hanlin.common.messages import Text, joined, tr


def card(
    model: Path,
    /,
    *,
    scores: Files = (),
    doctors: Path | None = None,
    out: Path | None = None,
    licence: str = "",
    name: str = "",
    force: Flag = False,
    json: Flag = False,
) -> None:
    """Write a model's card: README.md with the head that Hugging Face and ModelScope read, in Chinese and in
    English. A score without n, interval, control, protocol and data hash is counted and not given.

    Parameters
    ----------
    scores
        Directories that hanlin eval --out wrote.
    doctors
        File with what hanlin inspect model --json printed.
    out
        Directory for README.md; that of the model when absent.
    licence
        Licence of the model, such as apache-2.0; "unknown" is said when absent.
    name
        Name of the model; that of the recipe or of the directory when absent.
    force
        Overwrite a README.md that Hanlin did not write, or that was edited since.
    """
    from hanlin.inference import resolve_model_dir
    from hanlin.pipeline.card import card_of, write_card
    from hanlin.report.model_index import given, left_out

    made = card_of(model, scores=scores, doctors=doctors, name=name, licence=licence)
    file = write_card(made, out or resolve_model_dir(model), force=force)
    shown, missing = given(made.scores), left_out(made.scores)
    text = tr("{file}: card of {name}; scores: {count}.", file=file, name=made.name, count=len(shown))
    result = {
        "file": str(file),
        "name": made.name,
        "model": made.hash,
        "scores": [score.name for score in shown],
        "left_out": {
            score.name: [str(why) for why in score.lacks()] for score in made.scores if score.lacks()
        },
    }
    show(result, json, str(joined([Text.rendered(en=text, zh=text), *missing], "\n")))
