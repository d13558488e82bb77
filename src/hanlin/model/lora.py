"""LoRA (Hu et al. 2021) and its kin: rsLoRA (Kalajdzievski 2023), DoRA (Liu et al. 2024) and QLoRA (Dettmers
et al. 2023), the adapter `lora`.

Beside a frozen weight W a product of two thin matrices is trained, y = W x + s · B A x. A begins as PEFT
begins it, uniform in ±1/sqrt(in), B at zero, so step 0 is the base to the bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from torch import nn

from hanlin.common.config import OutOfRange, Range, above, at_least, require_ranges
from hanlin.common.errors import HanlinError
from hanlin.common.messages import listing
from hanlin.model.adapter_io import write_peft
from hanlin.model.adapters import Adapter, register_adapter
from hanlin.model.causal_lm import CausalLM
from hanlin.model.checkpoint_io import load_adapted
from hanlin.model.low_rank import (
    LowRankSettings,
    adapter_settings,
    add_low_rank,
    linear_maps,
    merge_low_rank,
)
from hanlin.model.nf4 import Quantization
from hanlin.model.peft_files import is_adapter, read_adapter


@register_adapter
@dataclasses.dataclass(frozen=True)
class LoRA(Adapter):
    """Low-rank additions to linear maps of the blocks.

    Attributes:
        r: rank of the additions.
        alpha: additions are multiplied by alpha/r, or by alpha/sqrt(r) with `rslora`.
        targets: names of the linear maps, `q_proj` or `mlp.c_proj`; all of the blocks when empty.
        dora: train the rows' lengths apart from their directions.
        base: what the linear maps of the blocks are kept in meanwhile: as they are, `nf4` (4 bits) or
            `int8`.
        double_quant: with `nf4`, the scales of the blocks in 8 bits as well.
        seed: of the first A.
        continues: `continue` in YAML: go on with the matrices of the adapter that the stage begins `from`,
            with its rank and all else; without it they are merged, and new ones begin.
    """

    kind: str = "lora"
    r: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = ()
    rslora: bool = False
    dora: bool = False
    base: Quantization = ""
    double_quant: bool = True
    seed: int = 1
    continues: bool = dataclasses.field(default=False, metadata={"key": "continue"})

    RANGES: ClassVar[dict[str, Range]] = {
        "r": at_least(1),
        "alpha": above(0),
        "seed": Range(0, (1 << 32) - 1),
    }

    def __post_init__(self):
        require_ranges(self)
        if any(not target for target in self.targets):
            raise OutOfRange("targets has an empty name")

    def open(self, parent: Path, device: str | None = None) -> tuple[CausalLM, Path]:
        """With `continue` the parent's own base and matrices, else as every adapter.

        Raises:
            HanlinError: besides, with `continue`: the parent is no adapter, or another one than is asked for.
        """
        if not self.continues:
            return super().open(parent, device)
        if not is_adapter(parent):
            raise HanlinError(
                "adapter.continue goes on with an adapter's matrices, and {parent} is a whole model. Begin "
                "`from` the adapter's directory ({name}.adapter), or leave `continue` out.",
                parent=parent,
                name=parent.name,
            )
        model, directory = load_adapted(parent, device=device), read_adapter(parent)
        there = adapter_settings(model)
        for field in dataclasses.fields(LowRankSettings):
            name = "base" if field.name == "quantization" else field.name
            asked, has = getattr(self, name), getattr(there, field.name)
            if name != "seed" and asked not in (type(self).__dataclass_fields__[name].default, has):
                raise HanlinError(
                    "adapter.{name} is {asked}, and the adapter {parent} that it goes on with has {has}. "
                    "Leave {name} out, or begin a new adapter (without `continue`).",
                    name=name,
                    asked=asked,
                    parent=parent,
                    has=has,
                )
        return model, directory.base()

    def apply(self, model: nn.Module) -> None:
        """Put additions beside the targets, quantise what is to be, and freeze all else.

        Raises:
            HanlinError: a target that no linear map is called by, or a rank above that of a target.
        """
        chosen = self._chosen([name for name, _ in linear_maps(model)])
        settings = LowRankSettings(
            self.r, self.alpha, self.rslora, self.dora, self.base, self.double_quant, self.seed
        )
        add_low_rank(model, chosen, settings)

    def merge(self, model: nn.Module) -> None:
        """Add each product to its weight, in float32 and rounded once; what was quantised becomes the plain
        weight that it computed with."""
        merge_low_rank(model)

    def save(self, model: nn.Module, folder: Path, base: Path, base_hash: str) -> bool:
        """As PEFT reads it."""
        write_peft(model, folder, base, base_hash)  # type: ignore[arg-type]
        return True

    def _chosen(self, names: Sequence[str]) -> set[str]:
        """Full names of the targets."""
        found: set[str] = set()
        for target in self.targets:
            matching = {name for name in names if f".{name}".endswith(f".{target}")}
            if not matching:
                raise HanlinError(
                    "adapter.targets names {target!r}, and no linear map is called so. There are: {known}.",
                    target=target,
                    known=listing(dict.fromkeys(name.rpartition(".")[2] for name in names)),
                )
            found |= matching
        return found if self.targets else set(names)
