"""A recipe: the whole life of one model, as frozen dataclasses read from YAML."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from hanlin.common.config import (
    Range,
    Where,
    above,
    apply_overrides,
    at_least,
    build,
    flatten,
    load_yaml,
    require_ranges,
)
from hanlin.common.errors import HanlinError
from hanlin.common.messages import listing
from hanlin.corpus.builder.build import CorpusConfig
from hanlin.model import ModelShape
from hanlin.recipe.sizing import Dial, apply_dial
from hanlin.stages.dpo import DPOConfig
from hanlin.stages.grpo import GRPOConfig
from hanlin.stages.reward_model import RewardConfig, require_trunk
from hanlin.stages.supervised import SupervisedConfig

RECIPES = Path(__file__).parent.parent / "recipes"
STAGES = (
    "corpus",
    "tokenizer",
    "dataset",
    "pretrain",
    "sft",
    "distill",
    "dpo",
    "reward",
    "grpo",
    "evaluation",
    "gguf",
)


@dataclasses.dataclass(frozen=True)
class CorpusSection(CorpusConfig):
    """Where text comes from: `files` (paths, globs, directories), or the embedded tinyworld when there are none.

    Attributes:
        documents: tinyworld: how many to generate. (`max_documents` bounds what is read from files.)
        dirt: tinyworld: share of injected dirt, so that cleaning can be checked against the truth.
    """

    files: tuple[str, ...] = ()
    documents: int = 0
    dirt: float = 0.06

    RANGES: ClassVar[dict[str, Range]] = {"documents": at_least(0), "dirt": Range(0, 1)}

    def __post_init__(self):
        super().__post_init__()
        require_ranges(self)


@dataclasses.dataclass(frozen=True)
class TokenizerSection:
    """Vocabulary size with special tokens; longest token in characters; special tokens to reserve."""

    vocab_size: int = 6400
    max_token_chars: int = 8
    num_special: int = 16

    RANGES: ClassVar[dict[str, Range]] = {
        "vocab_size": at_least(257),
        "max_token_chars": at_least(1),
        "num_special": at_least(9),
    }

    def __post_init__(self):
        require_ranges(self)


@dataclasses.dataclass(frozen=True)
class ConversationSection(SupervisedConfig):
    """A fine-tuning stage: `files` of conversations, or `examples` generated ones where tinyworld is the corpus.

    Attributes:
        limit: the most conversations to read from files, 0 for all.
        text_share: documents of the pretraining text mixed in, as a share of all: without them a model that learns to talk
            forgets how to go on with a text.
    """

    files: tuple[str, ...] = ()
    examples: int = 0
    limit: int = 0
    text_share: float = 0.15

    RANGES: ClassVar[dict[str, Range]] = {
        "examples": at_least(0),
        "limit": at_least(0),
        "text_share": Range(0, 0.9),
    }


@dataclasses.dataclass(frozen=True)
class DistillSection(ConversationSection):
    """Chain-of-thought distillation; `think_share` of the problems are shown with their reasoning, the rest answered directly."""

    think_share: float = 0.5

    RANGES: ClassVar[dict[str, Range]] = {"think_share": Range(0, 1)}


@dataclasses.dataclass(frozen=True)
class DPOSection(DPOConfig):
    """Preference pairs from `files`, or `examples` generated ones."""

    files: tuple[str, ...] = ()
    examples: int = 0

    RANGES: ClassVar[dict[str, Range]] = {"examples": at_least(0)}


@dataclasses.dataclass(frozen=True)
class RewardSection(RewardConfig):
    """The same pairs, for a reward model."""

    files: tuple[str, ...] = ()
    examples: int = 0

    RANGES: ClassVar[dict[str, Range]] = {"examples": at_least(0)}


@dataclasses.dataclass(frozen=True)
class GRPOSection(GRPOConfig):
    """Problems with a known answer from `files` (an `answer` beside the messages), or `examples` generated ones.

    Attributes:
        seeds: runs, each beside its own control of equal wall time; the first is the one that may be published.
        control_learning_rate: constant rate of that control, which goes on with distillation's data.
    """

    files: tuple[str, ...] = ()
    examples: int = 2000
    seeds: int = 3
    control_learning_rate: float = 6e-5

    RANGES: ClassVar[dict[str, Range]] = {
        "examples": at_least(1),
        "seeds": at_least(1),
        "control_learning_rate": above(0),
    }


@dataclasses.dataclass(frozen=True)
class EvaluationSection:
    """How models are judged.

    Attributes:
        count: held-out items per task.
        closed_count: of tasks with few kinds of items (greetings, requests for a story, …), and mixed conversations.
        max_new_tokens: where answers are cut off.
        temperature: of free answers.
        prompts: to show samples of a model trained on files, and as suggestions on the chat page.
        bits_per_byte_tolerance: how much worse than the pretrained model, as a share, a later stage may be at bare text.
    """

    count: int = 500
    closed_count: int = 150
    max_new_tokens: int = 128
    temperature: float = 0.7
    prompts: tuple[str, ...] = ()
    bits_per_byte_tolerance: float = 0.3

    RANGES: ClassVar[dict[str, Range]] = {
        "count": at_least(1),
        "closed_count": at_least(1),
        "max_new_tokens": at_least(1),
        "temperature": at_least(0),
        "bits_per_byte_tolerance": at_least(0),
    }

    def __post_init__(self):
        require_ranges(self)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything a run depends on besides its data. Sections that are absent are stages that do not run."""

    name: str
    seed: int = 1
    description: dict[str, str] = dataclasses.field(default_factory=dict)
    corpus: CorpusSection = dataclasses.field(default_factory=CorpusSection)
    tokenizer: TokenizerSection = dataclasses.field(default_factory=TokenizerSection)
    model: ModelShape = dataclasses.field(default_factory=ModelShape)
    pretrain: SupervisedConfig = dataclasses.field(default_factory=SupervisedConfig)
    sft: ConversationSection | None = None
    distill: DistillSection | None = None
    dpo: DPOSection | None = None
    reward: RewardSection | None = None
    grpo: GRPOSection | None = None
    evaluation: EvaluationSection = dataclasses.field(default_factory=EvaluationSection)
    device: str = "auto"
    track: tuple[str, ...] = ()

    RANGES: ClassVar[dict[str, Range]] = {"seed": Range(0, (1 << 32) - 1)}

    def __post_init__(self):
        require_ranges(self)
        if self.reward is not None:
            require_trunk(self.model)
        # refuse an impossible shape before anything runs
        self.model.config(max(self.tokenizer.vocab_size, 300), 0)
        stages = {
            name: getattr(self, name) for name in ("pretrain", "sft", "distill", "dpo", "reward", "grpo")
        }
        for name, section in stages.items():
            if section is not None and section.seq_len > self.model.max_position_embeddings:
                most = self.model.max_position_embeddings
                raise HanlinError(
                    "{name}.seq_len {seq_len} exceeds model.max_position_embeddings {most}: the model has "
                    "no more positions. Change one of them.",
                    name=name,
                    seq_len=section.seq_len,
                    most=most,
                )
        if not self.corpus.files and self.corpus.documents < 1:
            raise HanlinError(
                "corpus.files is empty: give text files (--corpus), or corpus.documents to generate "
                "tinyworld."
            )
        if self.tinyworld:
            return
        if self.sft is not None and not self.sft.files:
            raise HanlinError(
                "sft.files is empty: give conversations (--sft), or leave the section out (sft=null)."
            )
        for name in ("distill", "dpo", "reward", "grpo"):
            if stages[name] is not None and not stages[name].files:
                raise HanlinError(
                    "{name}.files is empty: give its data, or leave the section out ({name}=null).", name=name
                )

    @property
    def tinyworld(self) -> bool:
        """Whether the embedded corpus is used, with data and judges for every stage."""
        return not self.corpus.files

    def stages(self) -> list[str]:
        """Names of the stages that run, in order."""
        return [
            name
            for name in STAGES
            if name not in ("sft", "distill", "dpo", "reward", "grpo") or getattr(self, name) is not None
        ]


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(
    name: str | Path,
    overrides: Sequence[str] = (),
    extra: dict[str, Any] | None = None,
    *,
    params: str | None = None,
    depth: int | None = None,
    tokens: str | None = None,
    on_dial: Callable[[Dial], None] | None = None,
) -> Recipe:
    """Read a shipped recipe by name, or a YAML file by path, and apply dotted overrides.

    Args:
        extra: values set by flags, by section, e.g. `{"corpus": {"files": (…)}}`; they win over everything.
        params, depth, tokens: the dial (`pipeline.dial`): its values replace the file's, overrides win over it. A file may
            have these keys itself; then all that it says besides wins over the dial too.
        on_dial: told what the dial came to, when it was turned.

    Raises:
        HanlinError: no such recipe, an unknown key, an impossible value.
    """
    path = RECIPES / f"{name}.yaml"
    if not path.is_file():
        path = Path(name)
        if not path.is_file():
            raise HanlinError(
                "There is no recipe called {name}, and no such file. Shipped recipes: {recipe_names}.",
                name=name,
                recipe_names=listing(recipe_names()),
            )
    written = load_yaml(path)
    asked = {key: written.pop(key) for key in ("params", "depth", "tokens") if key in written}
    values = apply_overrides(written, overrides)
    asked |= {key: values.pop(key) for key in ("params", "depth", "tokens") if key in values}
    flags = {
        key: value
        for key, value in (("params", params), ("depth", depth), ("tokens", tokens))
        if value is not None
    }
    if "params" in flags or "depth" in flags:
        asked = {key: value for key, value in asked.items() if key == "tokens"}
        fixed = flatten(apply_overrides({}, overrides))
    else:
        fixed = flatten(values)
    asked |= flags
    if "params" in asked or "depth" in asked:
        values, dial = apply_dial(values, fixed, **asked)
        if on_dial is not None:
            on_dial(dial)
    elif asked:
        raise HanlinError("--tokens goes with --params or --depth.")
    for section, entries in (extra or {}).items():
        if isinstance(entries, dict):
            values[section] = dict(values.get(section) or {}) | entries
        else:
            values[section] = entries
    return build(
        Recipe, {"name": path.stem} | values, Where(str(path), flatten(apply_overrides({}, overrides)))
    )
