"""Suites: which benchmarks are asked, of which form, and of how many items. Samples are fixed lists of item
ids, so that numbers of different people agree."""

from __future__ import annotations

from typing import NamedTuple

from hanlin.evaluation.benchmarks.items import Form


class Entry(NamedTuple):
    """A benchmark of a suite.

    Attributes:
        sample: name of a fixed sample of its items; all of them when empty.
        form: how it is asked; the protocol's own first form when absent.
    """

    benchmark: str
    sample: str = ""
    form: Form | None = None


SUITES: dict[str, tuple[Entry, ...]] = {
    # after every stage of a recipe: five minutes for 26M parameters on two cores
    "quick": (
        Entry("zhoblimp", "zhoblimp-6k"),
        Entry("c3", "c3-1000"),
        Entry("xcopa"),
        Entry("xwinograd"),
        Entry("cmmlu", "cmmlu-2010"),
    ),
    "zh": (
        Entry("zhoblimp"),
        Entry("c3"),
        Entry("xcopa"),
        Entry("xwinograd"),
        Entry("xstorycloze"),
        Entry("chid"),
        Entry("cmmlu"),
        Entry("ceval"),
        Entry("ceval", form="letters"),
    ),
    "chat": (
        Entry("mifeval_zh"),
        Entry("cmath"),
        Entry("safetybench"),
        Entry("safetybench", form="letters"),
    ),
    # prompts of lm-evaluation-harness, byte by byte, for tables with others
    "compat": (
        Entry("zhoblimp"),
        Entry("xcopa"),
        Entry("xwinograd"),
        Entry("xstorycloze"),
        Entry("belebele"),
        Entry("ceval"),
        Entry("cmmlu"),
        Entry("mgsm"),
    ),
}
SUITE_PROTOCOL = {"compat": "lm-eval"}
