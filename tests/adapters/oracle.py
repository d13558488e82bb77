"""What bitsandbytes and PEFT say, kept in `goldens.json`: `python -m tests.adapters.oracle` writes it where
both are installed; the nightly test compares it with what they say now.

bitsandbytes has faster kernels for processors that say something else in two places: the nested scales are
found by a table of coarse steps (here 1 in 500 is one code off the nearest), and blocks begin anew with every
row when matrices are read back, which is wrong where rows are no multiple of 64. Its plain kernels, which
those of graphics cards agree with, are what is meant here: float64 and odd widths are sent to them.
"""

from __future__ import annotations

import hashlib
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import torch

from hanlin.model import CausalLM
from hanlin.model.adapter_io import write_peft
from hanlin.model.lora import LoRA
from hanlin.stages.base import write_model
from tests.adapters.bench import IDS, stir
from tests.support import FAMILIES, tiny_model, tiny_tokenizer

GOLDENS = Path(__file__).with_name("goldens.json")
SHAPES = ((96, 64), (7, 64), (130, 192), (33, 7), (5, 13), (3, 50))
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"r": 4, "alpha": 12.0},
    "rslora": {"r": 4, "rslora": True},
    "dora": {"r": 4, "dora": True},
    "some": {"r": 2, "targets": ("o_proj", "up_proj")},
}


def matrix(rows: int, columns: int) -> torch.Tensor:
    """Numbers that any machine draws alike, the first row zero where there are several."""
    draws = random.Random(rows * 1000 + columns)
    found = torch.tensor([draws.gauss(0, 0.02) for _ in range(rows * columns)]).view(rows, columns)
    if rows > 1:
        found[0] = 0
    return found


def digest(tensor: torch.Tensor) -> str:
    """Of the bytes of a tensor."""
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def adapted(family: str, kind: str) -> CausalLM:
    """A model with additions that add something; gpt2 has other names."""
    settings = dict(KINDS[kind])
    if family == "gpt2" and "targets" in settings:
        settings["targets"] = ("attn.c_proj", "c_fc")
    model = tiny_model(family, hidden_size=32)
    LoRA(**settings).apply(model)
    return stir(model)


def peft_logits(family: str, kind: str, folder: Path) -> torch.Tensor:
    """What transformers with PEFT compute of the directories that are written here."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    tokenizer = tiny_tokenizer(folder / "tokenizer")
    base = tiny_model(family, hidden_size=32)
    write_model(folder / "base", base, tokenizer, parents={}, config=base.config, seed=0, metrics={})
    (folder / "adapter").mkdir()
    write_peft(adapted(family, kind), folder / "adapter", folder / "base", "")
    stock = AutoModelForCausalLM.from_pretrained(folder / "base", attn_implementation="eager")
    model = PeftModel.from_pretrained(stock, str(folder / "adapter")).eval()
    with torch.no_grad():
        return model(IDS).logits


def nf4(rows: int, columns: int, double_quant: bool) -> dict[str, str]:
    """Digests of what bitsandbytes makes of `matrix(rows, columns)`."""
    import bitsandbytes.functional as bnb

    values = matrix(rows, columns)
    codes, state = bnb.quantize_4bit(values, quant_type="nf4", blocksize=64)
    absmax = state.absmax
    found = {"codes": digest(codes.flatten()[: rows * columns // 2])}
    if double_quant:
        offset = absmax.mean()
        table = bnb.create_dynamic_map()
        plain = torch.ops.bitsandbytes.quantize_blockwise  # type: ignore[attr-defined]
        codes8, nested = plain((absmax - offset).double(), table, 256)
        found |= {"absmax": digest(codes8), "nested_absmax": digest(nested), "offset": digest(offset)}
        absmax = bnb.dequantize_blockwise(codes8, absmax=nested, code=table, blocksize=256) + offset
    else:
        found["absmax"] = digest(absmax)
    # as rows of one block each, where kernels agree what a block is
    count = -(-rows * columns // 64) * 64
    padded = torch.zeros(count // 2, dtype=torch.uint8)
    padded[: codes.numel()] = codes.flatten()
    state.absmax, state.shape = absmax, torch.Size((count // 64, 64))
    whole = bnb.dequantize_4bit(padded[:, None], state)
    found["dequantized"] = digest(whole.flatten()[: rows * columns])
    return found


def main() -> None:
    """Write the goldens."""
    import bitsandbytes
    import peft
    import transformers

    found: dict[str, Any] = {
        "versions": {
            "bitsandbytes": bitsandbytes.__version__,
            "peft": peft.__version__,
            "transformers": transformers.__version__,
        },
        "nf4": {
            f"{rows}x{columns}{'+dq' if double_quant else ''}": nf4(rows, columns, double_quant)
            for rows, columns in SHAPES
            for double_quant in (False, True)
        },
        "peft": {},
    }
    for family in FAMILIES:
        for kind in KINDS:
            with tempfile.TemporaryDirectory() as folder:
                logits = peft_logits(family, kind, Path(folder))
            found["peft"][f"{family} {kind}"] = [
                round(value, 6) for value in logits[1, ::6, :5].flatten().tolist()
            ]
    GOLDENS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
