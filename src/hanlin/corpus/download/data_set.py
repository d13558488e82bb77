"""What is known of one public data set. No table here: `catalogue.py` has all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Stage = Literal["pretrain", "sft", "reasoning", "preference", "evaluation"]
Commercial = Literal["yes", "no", "unknown"]


@dataclass(frozen=True)
class DataSet:
    """One data set.

    Attributes:
        name: what `hanlin data` calls it.
        stage: what it is for.
        fields: keys of a record.
        huggingface, modelscope: ids on the two hubs, "" where it is not known to be there.
        licence: as stated, "unknown" where nothing is; of a benchmark, what its class says.
        commercial: whether the stated terms allow commercial use.
        size: roughly.
        files: patterns of the files to fetch when none are asked for, where a repository holds more than
            this data set.
        github: `owner/name` of its authors' repository, "" where that does not hold the data.
        measures: the benchmarks of `hanlin eval` that read it.
    """

    name: str
    stage: Stage
    fields: tuple[str, ...]
    huggingface: str
    modelscope: str
    licence: str
    commercial: Commercial
    size: str = ""
    files: tuple[str, ...] = ()
    github: str = ""
    measures: tuple[str, ...] = ()

    @property
    def home(self) -> str:
        """Page of the data set: that of its authors' repository, else that on a hub."""
        if self.github:
            return f"https://github.com/{self.github}"
        if self.huggingface:
            return f"https://huggingface.co/datasets/{self.huggingface}"
        return f"https://www.modelscope.cn/datasets/{self.modelscope}"

    def is_for(self, stage: Stage) -> bool:
        """Whether it serves a stage; one that a benchmark reads serves evaluation too."""
        return self.stage == stage or (stage == "evaluation" and bool(self.measures))


def data_set(
    name: str,
    stage: Stage,
    fields: str,
    hf: str,
    ms: str,
    licence: str,
    commercial: Commercial,
    size: str = "",
    files: str = "",
    github: str = "",
    measures: str = "",
) -> DataSet:
    """A row of a table: lists are words with spaces between."""
    return DataSet(
        name,
        stage,
        tuple(fields.split()),
        hf,
        ms,
        licence,
        commercial,
        size,
        tuple(files.split()),
        github,
        tuple(measures.split()),
    )
