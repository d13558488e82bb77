"""ZhoBLiMP (Liu et al. 2024): pairs of sentences that differ in one point of Chinese grammar."""

from __future__ import annotations

from collections.abc import Iterator

from hanlin.common.messages import Text
from hanlin.evaluation.benchmarks.base import Benchmark, column, register_benchmark
from hanlin.evaluation.benchmarks.folder import Folder
from hanlin.evaluation.benchmarks.items import Item, Prompt

_PAIRS = Prompt("", "{choice}", main="sum", bare=None)


@register_benchmark
class ZhoBLiMP(Benchmark):
    """Files `{paradigm}.jsonl`: UID, phenomenon, sentence_good, sentence_bad, pairID.

    The data were changed in 2026; scores of the two versions differ by up to six points. 19 % of the pairs
    differ in their first character, which a model without a token for the beginning has never learnt to
    expect.
    """

    name = "zhoblimp"
    title = Text("ZhoBLiMP: grammar in pairs of sentences")
    licence = "none stated"
    home = "https://github.com/sjtu-compling/ZhoBLiMP"
    split = "test"
    counts = {"test": 35400}
    sha256 = {
        "test": "bdee66598bfa6de77753bc3e46836d8d29db06c52ad41d2c13000f1e16eebdb4",
    }
    cluster = Text("paradigm")
    samples = ("zhoblimp-6k",)
    prompts = {"hanlin-zh": {"pairs": _PAIRS}, "lm-eval": {"pairs": _PAIRS}}

    def read(self, folder: Folder, split: str) -> Iterator[Item]:
        """Pairs by paradigm, the good sentence first."""
        for name in self.files(folder, "ZhoBLiMP/*.jsonl", "[Zz]ho[Bb][Ll]i[Mm][Pp]/*/train-*.parquet"):
            for place, row in enumerate(folder.rows(name)):
                where = f"{folder.where(name)}:{place + 1}"
                paradigm = column(row, "UID", where=where)
                yield Item(
                    f"{paradigm}/{row.get('pairID', place)}",
                    "",
                    tuple(column(row, f"sentence_{kind}", where=where) for kind in ("good", "bad")),
                    0,
                    subject=paradigm,
                    cluster=paradigm,
                    more={"phenomenon": str(row.get("phenomenon", ""))},
                )
