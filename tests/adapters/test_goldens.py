"""Equal to bitsandbytes, to the bit, and to PEFT with transformers: against what they said once
(`goldens.json`), and nightly against what they say where they are installed."""

from __future__ import annotations

import json

import pytest
import torch

from hanlin.model import load_adapted, load_model
from hanlin.model.low_rank import low_rank_maps
from hanlin.model.nf4 import quantize_nf4
from hanlin.stages.base import write_model
from tests.adapters.bench import IDS, stir
from tests.adapters.oracle import GOLDENS, KINDS, SHAPES, adapted, digest, matrix, nf4, peft_logits
from tests.support import FAMILIES, tiny_model, tiny_tokenizer

SAID = json.loads(GOLDENS.read_text(encoding="utf-8"))


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_nf4_is_that_of_bitsandbytes(shape, double_quant):
    rows, columns = shape
    found = quantize_nf4(matrix(rows, columns), double_quant)
    ours = {
        "codes": digest(found.codes[: rows * columns // 2]),
        "absmax": digest(found.absmax),
        "dequantized": digest(found.dequantize()),
    }
    if double_quant:
        assert found.nested_absmax is not None and found.offset is not None
        ours |= {"nested_absmax": digest(found.nested_absmax), "offset": digest(found.offset)}
    assert ours == SAID["nf4"][f"{rows}x{columns}{'+dq' if double_quant else ''}"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_peft(family, kind):
    with torch.no_grad():
        logits = adapted(family, kind)(IDS)[1, ::6, :5].flatten()
    assert torch.allclose(logits, torch.tensor(SAID["peft"][f"{family} {kind}"]), atol=1e-5)


@pytest.mark.nightly
@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_bitsandbytes_still_says_so(shape, double_quant):
    pytest.importorskip("bitsandbytes")
    rows, columns = shape
    assert nf4(rows, columns, double_quant) == SAID["nf4"][f"{rows}x{columns}{'+dq' if double_quant else ''}"]


@pytest.mark.nightly
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_peft_opens_our_directories(family, kind, tmp_path):
    pytest.importorskip("peft")
    with torch.no_grad():
        ours = adapted(family, kind)(IDS)
    assert torch.allclose(peft_logits(family, kind, tmp_path), ours, atol=1e-5)


@pytest.mark.nightly
@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"use_dora": True}])
@pytest.mark.parametrize("family", FAMILIES)
def test_we_open_the_directories_of_peft(family, settings, tmp_path):
    """And go on with them merged."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    tokenizer = tiny_tokenizer(tmp_path / "tokenizer")
    base = tiny_model(family, hidden_size=32)
    write_model(tmp_path / "base", base, tokenizer, parents={}, config=base.config, seed=0, metrics={})
    targets = ["c_attn", "c_fc"] if family == "gpt2" else ["q_proj", "v_proj", "down_proj"]
    config = peft.LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=targets,
        fan_in_fan_out=family == "gpt2",
        init_lora_weights=False,
        task_type="CAUSAL_LM",
        **settings,
    )
    torch.manual_seed(0)
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "base", attn_implementation="eager")
    theirs = peft.get_peft_model(stock, config).eval()
    theirs.save_pretrained(str(tmp_path / "adapter"))
    with torch.no_grad():
        expected = theirs(IDS).logits
        ours = load_adapted(tmp_path / "adapter")
        assert torch.allclose(ours(IDS), expected, atol=1e-5)
        assert torch.allclose(load_model(tmp_path / "adapter")(IDS), expected, atol=1e-5)
    assert sum(1 for _ in low_rank_maps(stir(ours))) == 2 * len(targets)
