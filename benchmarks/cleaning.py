"""How good the `zh-web` preset is: its verdicts beside the labels a reader gave to 400 documents of 20 real
sources.

    python benchmarks/cleaning.py [--data ../shared/data/pretrain_zh] [--sample 300] [--show]

Labels and how they were given: benchmarks/results/zh-web-labels.jsonl, docs/en/data.md "How zh-web is
judged". Positive means dropped. Then false drops on larger samples of the clean sources, where every document
counts as good unless it is labelled otherwise. CLEAN are the sources that the manifest of the data calls
clean (law, news, books, articles, abstracts) and four of edited literature about which it notes no dirt
(classical, literature_essays, poetry, tcm_books). Not among them: the four from the web, medical_qa (noisy by
the manifest), debian_docs (half translated, rests of markup), code_python and en_articles (mostly not
Chinese). Exits 1 where more than LIMIT of the clean documents, in either measure, are dropped.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanlin.corpus.filters.clean import Cleaner
from hanlin.corpus.filters.rules import PRESETS
from hanlin.corpus.filters.stats import Drops
from hanlin.corpus.readers.read import read_documents
from hanlin.evaluation.intervals import bootstrap_ratio, wilson

ROOT = Path(__file__).resolve().parents[1]
LABELS = ROOT / "benchmarks/results/zh-web-labels.jsonl"
DATA = ROOT.parent / "shared/data/pretrain_zh"
LIMIT = 0.02
SAMPLE_SALT = "hanlin zh-web clean sources\n"  # of the larger samples
MARKED_CLEAN = [
    "docs_tech",
    "history_modern",
    "law",
    "news_xwlb",
    "novels_vernacular",
    "science_abstracts",
    "tech_articles",
    "weekly_essays",
]
CLEAN = sorted([*MARKED_CLEAN, "classical", "literature_essays", "poetry", "tcm_books"])
NOT_CHINESE = ["code_python", "en_articles"]  # dropped for their script alone, which is easy


@dataclass
class Judged:
    """A labelled document; `rule` is the one that drops it, if any, `weight` how many of its source it
    stands for."""

    source: str
    bad: bool
    reason: str
    borderline: bool
    text: str = ""
    rule: str = ""
    weight: float = 1.0


def digest(salt: str, text: str) -> str:
    return hashlib.sha256((salt + text).encode("utf-8", "surrogatepass")).hexdigest()


def labels() -> tuple[dict[str, Any], dict[str, Judged]]:
    """The head of the labels, and the labels by hash of the text."""
    head, *lines = map(json.loads, LABELS.read_text(encoding="utf-8").splitlines())
    judged = {
        line["hash"]: Judged(line["source"], line["label"] == "drop", line["reason"], line["borderline"])
        for line in lines
    }
    return head, judged


def read_source(
    file: Path, salt: str, judged: dict[str, Judged], sample: int
) -> list[tuple[str, Judged | None]]:
    """Fill in the texts and weights of the source's labelled documents; a sample of its texts, with their
    labels where there are any."""
    size = 0
    drawn: list[tuple[int, str, Judged | None]] = []
    found: dict[str, Judged] = {}
    for document in read_documents(file):
        text = document["text"]
        size += 1
        key = digest(salt, text)[:32]
        label = judged.get(key)
        if label:
            label.text = text
            found[key] = label
        if sample:
            item = (-int(digest(SAMPLE_SALT, text)[:15], 16), text, label)
            if len(drawn) < sample:
                heapq.heappush(drawn, item)
            elif item > drawn[0]:
                heapq.heapreplace(drawn, item)
    for label in found.values():
        label.weight = size / len(found)
    return [(text, label) for _, text, label in drawn]


def verdict(cleaner: Cleaner, text: str) -> str:
    """The rule that drops a text, or nothing."""
    cleaner.drops = Drops()
    cleaner([{"text": text, "source": ""}])
    return next(iter(cleaner.drops.samples), "")


def share(part: int, whole: int) -> str:
    """A proportion with its 95 % Wilson interval."""
    if not whole:
        return "none"
    low, high = wilson(part, whole)
    return f"{part:>4} of {whole:<4} {part / whole:7.1%} [{low:6.1%}, {high:6.1%}]"


def confusion(title: str, judged: Sequence[Judged]) -> None:
    counts = Counter((bool(item.rule), item.bad) for item in judged)
    both, wrong, missed, kept = (
        counts[pair] for pair in ((True, True), (True, False), (False, True), (False, False))
    )
    print(
        f"\n{title}: {len(judged)} documents\n"
        f"  dropped: bad {both}, good {wrong}    kept: bad {missed}, good {kept}"
    )
    print(
        f"  precision of dropping {share(both, both + wrong)}\n"
        f"  recall                {share(both, both + missed)}"
    )
    print(f"  good ones dropped     {share(wrong, wrong + kept)}")
    for name, whole in (
        ("precision", [bool(item.rule) for item in judged]),
        ("recall", [item.bad for item in judged]),
    ):
        weights = [item.weight * chosen for item, chosen in zip(judged, whole, strict=True)]
        hits = [weight * (item.bad and bool(item.rule)) for item, weight in zip(judged, weights, strict=True)]
        if sum(weights):
            low, high = bootstrap_ratio(hits, weights)
            print(
                f"  {name:<9} weighted by the size of the sources "
                f"{sum(hits) / sum(weights):7.1%} [{low:6.1%}, {high:6.1%}]"
            )


def by_source(judged: Iterable[Judged]) -> None:
    print("\nsource               labelled  bad  dropped rightly  good ones dropped (of them borderline)")
    groups: dict[str, list[Judged]] = {}
    for item in judged:
        groups.setdefault(item.source, []).append(item)
    for source, items in sorted(groups.items()):
        bad = [item for item in items if item.bad]
        false = [item for item in items if item.rule and not item.bad]
        rules = ", ".join(
            f"{rule} {count}" for rule, count in Counter(item.rule for item in false).most_common()
        )
        mark = "clean" if source in CLEAN else ""
        print(
            f"{source:<18}{mark:>6}{len(items):>5}{len(bad):>5}{sum(bool(item.rule) for item in bad):>12}"
            f"{len(false):>14} ({sum(item.borderline for item in false)})   {rules}"
        )


def main() -> int:
    """Measure and print; the exit status says whether the limit was kept."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument(
        "--sample",
        type=int,
        default=300,
        help="documents of each clean source in the second measure; 0 for none",
    )
    parser.add_argument(
        "--show",
        action="store_true",
        help="the beginning of every document that label and rules disagree about",
    )
    options = parser.parse_args()
    if not LABELS.is_file() or not options.data.is_dir():
        print(
            "SKIPPED: nothing was measured, "
            f"since {LABELS if not LABELS.is_file() else options.data} is not there",
            file=sys.stderr,
        )
        return 0
    head, labelled = labels()
    cleaner = Cleaner(PRESETS["zh-web"])
    samples: dict[str, list[tuple[str, Judged | None]]] = {}
    for source in sorted({item.source for item in labelled.values()}):
        mine = {key: item for key, item in labelled.items() if item.source == source}
        samples[source] = read_source(
            options.data / f"{source}.jsonl.zst", head["salt"], mine, options.sample if source in CLEAN else 0
        )
    judged = list(labelled.values())
    missing = sum(not item.text for item in judged)
    if missing:
        print(
            f"{missing} labelled documents are not in {options.data}: the data are not those that were read"
        )
        return 1
    for item in judged:
        item.rule = verdict(cleaner, item.text)
    print(f"zh-web beside {len(judged)} labels ({head['by']})")
    confusion("all", judged)
    confusion("without borderline", [item for item in judged if not item.borderline])
    confusion(
        f"without {' and '.join(NOT_CHINESE)}", [item for item in judged if item.source not in NOT_CHINESE]
    )
    confusion(
        "without these and borderline",
        [item for item in judged if item.source not in NOT_CHINESE and not item.borderline],
    )
    reasons = Counter(item.reason for item in judged if item.bad)
    print("\nbad by reason (dropped / labelled): ", end="")
    print(
        ", ".join(
            f"{reason} "
            f"{sum(bool(item.rule) for item in judged if item.bad and item.reason == reason)}/{count}"
            for reason, count in reasons.most_common()
        )
    )
    print("rules: ", end="")
    dropped = Counter(item.rule for item in judged if item.rule)
    print(
        ", ".join(
            f"{rule} {count} ({sum(item.rule == rule and not item.bad for item in judged)} false)"
            for rule, count in dropped.most_common()
        )
    )
    by_source(judged)
    if options.show:
        for item in judged:
            if item.bad != bool(item.rule):
                reason = f"{item.reason or 'good'}{', borderline' if item.borderline else ''}"
                print(f"\n[{item.source}: {reason}; {item.rule or 'kept'}] {item.text[:200]!r}")

    good = [item for item in judged if item.source in CLEAN and not item.bad]
    false = sum(bool(item.rule) for item in good)
    print(f"\nclean sources, labelled good and dropped: {share(false, len(good))}")
    over = false > LIMIT * len(good)
    if options.sample:
        print(
            "\nlarger samples of the clean sources, every document good unless labelled otherwise "
            f"(up to {options.sample} each)"
        )
        total = Counter[str]()
        for source in CLEAN:
            rules = Counter(
                verdict(cleaner, text) for text, label in samples[source] if not (label and label.bad)
            )
            whole, kept = sum(rules.values()), rules.pop("", 0)
            total.update(dropped=whole - kept, whole=whole)
            print(
                f"  {source:<18} {share(whole - kept, whole)}   "
                f"{', '.join(f'{rule} {count}' for rule, count in rules.most_common())}"
            )
        print(f"  {'together':<18} {share(total['dropped'], total['whole'])}")
        over |= total["dropped"] > LIMIT * total["whole"]
    print(f"\nlimit of false drops on clean sources: {LIMIT:.0%}{' EXCEEDED' if over else ', kept'}")
    return int(over)


if __name__ == "__main__":
    sys.exit(main())
