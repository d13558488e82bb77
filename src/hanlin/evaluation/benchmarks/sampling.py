"""Fixed parts of large benchmarks: lists of item ids, drawn once, so that the numbers of different people
agree.

A list lies in `samples/NAME.txt`: the ids that share all but their last part on one line, as
`arts 3 17` for `arts/3` and `arts/17`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from hanlin.common.errors import HanlinError
from hanlin.common.messages import listing
from hanlin.evaluation.benchmarks.items import Item

SAMPLES = Path(__file__).parent / "samples"


def sample_ids(name: str) -> list[str]:
    """The ids of a list.

    Raises:
        HanlinError: there is no such list.
    """
    path = SAMPLES / f"{name}.txt"
    if not path.is_file():
        known = listing(sorted(path.stem for path in SAMPLES.glob("*.txt")))
        raise HanlinError("There is no sample {name!r}. There are: {known}.", name=name, known=known)
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    return [f"{prefix}/{last}" for prefix, *lasts in lines for last in lasts]


def sample(items: Iterable[Item], name: str) -> list[Item]:
    """The items of a list, in the order of the items given.

    Raises:
        HanlinError: there is no such list, or some of its items are not there, as when the files are another
            version.
    """
    wanted = dict.fromkeys(sample_ids(name))
    found = {item.id: item for item in items if item.id in wanted}
    missing = [id for id in wanted if id not in found]
    if missing:
        raise HanlinError(
            "The sample {name} has {count} items, and {missing} of them are not in these files (the first is "
            "{first}): another version, or files that are not whole. Without them its scores can't be "
            "compared.",
            name=name,
            count=len(wanted),
            missing=len(missing),
            first=missing[0],
        )
    return list(found.values())


def draw(items: Iterable[Item], name: str, per_subject: int) -> list[str]:
    """The ids of a new list: of each subject equally many, those whose hash with the list's name is smallest.
    What is drawn depends on the items and the name alone, not on their order."""
    by_subject: dict[str, list[str]] = {}
    for item in items:
        by_subject.setdefault(item.subject, []).append(item.id)
    return [
        id
        for _, ids in sorted(by_subject.items())
        for id in sorted(ids, key=lambda id: hashlib.sha256(f"{name}:{id}".encode()).hexdigest())[
            :per_subject
        ]
    ]


def listed(ids: Iterable[str]) -> str:
    """A list's text."""
    lines: dict[str, list[str]] = {}
    for id in ids:
        prefix, _, last = id.rpartition("/")
        lines.setdefault(prefix, []).append(last)
    return "".join(
        f"{prefix} {' '.join(sorted(lasts, key=_order))}\n" for prefix, lasts in sorted(lines.items())
    )


def _order(last: str) -> tuple[int, str]:
    return len(last), last
