"""What a build is asked for, and how its input falls into tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from hanlin.common.config import to_dict
from hanlin.common.errors import ConfigError
from hanlin.common.manifest import hash_json, read_manifest, sha256_file
from hanlin.corpus.builder.boilerplate import BoilerplateConfig
from hanlin.corpus.dedup.decontamination import benchmark_files
from hanlin.corpus.dedup.fingerprints import DedupConfig
from hanlin.corpus.filters.quality import KIND as SCORER
from hanlin.corpus.filters.rules import CleanConfig, preset
from hanlin.corpus.readers.files import expected_bytes
from hanlin.corpus.text import script_conversion

TASK_BYTES = 96 << 20  # of text a task should have; files are not cut


@dataclass(frozen=True)
class CorpusConfig:
    """How a corpus is made.

    Attributes:
        preset: cleaning preset, a key of `rules.PRESETS`.
        rules: thresholds of `CleanConfig` that differ from the preset.
        boilerplate: lines that so many documents of a source share are taken out;
            `boilerplate.documents=30`, say. Off unless asked for.
        dedup: duplicate search.
        mask_pii: replace personal data by typed tags.
        decontaminate: files of benchmarks; a document that holds passages of one is dropped.
        overlap: characters of a passage, without punctuation and white space.
        overlap_hits: different passages of one benchmark item, not overlapping one another and within twice
            its length, from which a document is dropped; a run of 50 characters is enough by itself, and so
            is the whole of an item that is too short for so many.
        heldout_fraction: of each source's documents, set aside for evaluation; at least one of a source with
            20 or more.
        heldout_max: documents set aside per source at most.
        source: `record` names documents by their own `source` field where they have one, `file` by their
            file.
        text_key: key (or column) of the text in files of records; empty recognises it.
        skip_bad: go on without files that cannot be used, and count them in the quarantine.
        max_documents: read no more than so many; 0 reads all.
        sample: share of each source's documents to take, chosen by the hash of their text; the rest is
            counted, not cleaned.
        weights: how often a source's documents appear, by source name or pattern (`web_*`): 2 twice, 0.3
            three in ten; 1 for the others.
        max_repeats: the largest weight allowed. Beyond four passes repeated text teaches hardly more
            (Muennighoff et al., 2023).
        anneal: sources (names or patterns) whose documents carry `"tag": "anneal"`, for the end of training.
        shuffle: write documents in an order drawn from seed and text; otherwise in the order in which they
            were read.
    """

    preset: str = "zh-web"
    rules: dict[str, Any] = field(default_factory=dict)
    boilerplate: BoilerplateConfig = field(default_factory=BoilerplateConfig)
    dedup: DedupConfig = field(default_factory=DedupConfig)
    mask_pii: bool = False
    decontaminate: tuple[str, ...] = ()
    overlap: int = 13
    overlap_hits: int = 2
    heldout_fraction: float = 0.01
    heldout_max: int = 500
    source: Literal["record", "file"] = "record"
    text_key: str = ""
    skip_bad: bool = False
    max_documents: int = 0
    sample: float = 1.0
    weights: dict[str, float] = field(default_factory=dict)
    max_repeats: float = 4.0
    anneal: tuple[str, ...] = ()
    shuffle: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.sample <= 1:
            raise ConfigError("sample is {sample}, should be above 0 and at most 1", sample=self.sample)
        if not 0 <= self.heldout_fraction < 1:
            raise ConfigError(
                "heldout_fraction is {heldout_fraction}, should be at least 0 and below 1",
                heldout_fraction=self.heldout_fraction,
            )
        if min(self.heldout_max, self.max_documents) < 0:
            raise ConfigError(
                "heldout_max {heldout_max} and max_documents {max_documents} should be at least 0",
                heldout_max=self.heldout_max,
                max_documents=self.max_documents,
            )
        if min(self.overlap, self.overlap_hits) < 1:
            raise ConfigError(
                "overlap {overlap} and overlap_hits {overlap_hits} should be at least 1",
                overlap=self.overlap,
                overlap_hits=self.overlap_hits,
            )
        for name, weight in self.weights.items():
            if (
                isinstance(weight, bool)
                or not isinstance(weight, (int, float))
                or not 0 <= weight <= self.max_repeats
            ):
                raise ConfigError(
                    "weights.{name} is {weight}, should lie between 0 and max_repeats, {max_repeats}",
                    name=name,
                    weight=weight,
                    max_repeats=self.max_repeats,
                )
        self.cleaning()

    def cleaning(self) -> CleanConfig:
        """The preset with `rules` applied."""
        return preset(self.preset, self.rules)

    def parents(self) -> dict[str, str]:
        """Content hash of each artefact that cleaning uses, by role.

        Raises:
            HanlinError: `rules.score_model` is no scorer, or damaged.
        """
        model = self.cleaning().score_model
        return {"score_model": read_manifest(model, SCORER).content_hash} if model else {}

    def identity(self) -> dict[str, Any]:
        """What the result hangs on beside the input: the settings, and what is behind the names in them.
        JSON-able.

        Raises:
            HanlinError: see `parents`; OpenCC is asked for and not installed; a benchmark is missing.
        """
        made_with = {f"sha256 of {role}": content for role, content in self.parents().items()}
        if self.decontaminate:
            made_with["sha256 of benchmarks"] = hash_json(
                sorted(map(sha256_file, benchmark_files(self.decontaminate)))
            )
        if self.cleaning().simplify:
            made_with["opencc"] = script_conversion.version()
        return to_dict(self) | ({"made_with": made_with} if made_with else {})

    def weight(self, source: str) -> float:
        """How often this source's documents appear: by its name, or by the first pattern that fits."""
        if source in self.weights:
            return self.weights[source]
        return next((weight for pattern, weight in self.weights.items() if fnmatchcase(source, pattern)), 1.0)

    def tag(self, source: str) -> str:
        """`anneal`, or nothing."""
        return "anneal" if any(fnmatchcase(source, pattern) for pattern in self.anneal) else ""


def shards(paths: Sequence[Path], config: CorpusConfig) -> list[list[str]]:
    """Files of each task: neighbours go together until there is enough for one. One task reads all where a
    number of documents is to be kept to."""
    result: list[list[str]] = [[]]
    size = 0
    for path in paths:
        if size >= TASK_BYTES and not config.max_documents:
            result.append([])
            size = 0
        result[-1].append(str(path))
        size += expected_bytes(path)
    return result
