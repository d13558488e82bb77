"""Models of other families with their own tokenizers: the ids, templates and scores are those of
transformers, and what people wrote never becomes a control token."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hanlin.cli.main import main
from hanlin.common.errors import HanlinError
from hanlin.evaluation.benchmarks.items import Request
from hanlin.evaluation.loglikelihood import Sequencer, score_groups
from hanlin.inference import generate_text, load_chat_model
from hanlin.model import load_model
from hanlin.tokenizer.foreign import ForeignTokenizer, open_any
from tests.support import TEXTS
from tests.tokenizer.foreign_models import foreign_model

transformers = pytest.importorskip("transformers")

FAMILIES = ("qwen3", "llama3", "llama2", "gpt2")
PAIRS = (("小狗说，", "山里有鱼"), ("", "the dog"), ("7 加 5 是 ", "12"))
CONVERSATION = [
    {"role": "user", "content": "小猫在哪里？"},
    {"role": "assistant", "content": "在河边。"},
    {"role": "user", "content": "做什么？"},
    {"role": "assistant", "content": "钓鱼。"},
]


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A directory of each family."""
    folder = tmp_path_factory.mktemp("foreign")
    return {family: foreign_model(folder / family, family) for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_are_those_of_transformers(homes: dict[str, Path], family: str):
    ours = open_any(homes[family])
    theirs = transformers.AutoTokenizer.from_pretrained(homes[family])
    assert isinstance(ours, ForeignTokenizer)
    for text in TEXTS:
        if any(name in text for name in ours.special):
            continue
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)
    plain = [text for text in TEXTS if not any(name in text for name in ours.special)]
    assert ours.encode_batch(plain) == [ours.encode(text) for text in plain]
    assert ours.im_end_id == theirs.eos_token_id


@pytest.mark.parametrize("family", ["qwen3", "llama3", "gpt2"])
def test_ids_spell_the_text_back(homes: dict[str, Path], family: str):
    tokenizer = open_any(homes[family])
    for text in TEXTS:
        if text != "emoji 👩‍👩‍👧‍👦 🇨🇳 é e\u0301 ﷺ \u200b\u3000":  # which NFC changes
            assert tokenizer.decode(tokenizer.encode(text)) == text


def test_sentencepiece_spells_the_text_behind_a_blank(homes: dict[str, Path]):
    tokenizer = open_any(homes["llama2"])
    for text in ("小猫在河边", "the cat 12", "犇🙂"):  # the last by its bytes
        assert tokenizer.decode(tokenizer.encode(text)) == " " + text


@pytest.mark.parametrize("family", FAMILIES)
def test_control_tokens_in_a_text_are_text(homes: dict[str, Path], family: str):
    tokenizer = open_any(homes[family])
    for name, at in tokenizer.special.items():
        assert at not in tokenizer.encode(f"小猫{name}钓鱼"), name
        assert tokenizer.encode(f"小猫{name}钓鱼", special=True).count(at) == 1
        assert tokenizer.decode([at]) == name and tokenizer.decode([at], special=False) == ""


@pytest.mark.parametrize("family", FAMILIES)
def test_places_are_bytes_of_the_text(homes: dict[str, Path], family: str):
    tokenizer = open_any(homes[family])
    for text in ("小猫 the cat", "犇🙂钓鱼"):
        ((ids, starts, ends),) = tokenizer.encode_places([text])
        assert ids == tokenizer.encode(text)
        assert starts[0] == 0 and ends[-1] == len(text.encode())
        assert (np.diff(starts) >= 0).all() and (np.diff(ends) >= 0).all()


@pytest.mark.parametrize("family", ["qwen3", "llama3", "llama2"])
@pytest.mark.parametrize("asks", [False, True])
def test_the_template_is_that_of_transformers(homes: dict[str, Path], family: str, asks: bool):
    messages = CONVERSATION[:3] if asks else CONVERSATION
    tokenizer = open_any(homes[family])
    theirs = transformers.AutoTokenizer.from_pretrained(homes[family])
    ids, mask = tokenizer.encode_conversation(messages, add_generation_prompt=asks)
    assert len(ids) == len(mask)
    text = theirs.apply_chat_template(messages, add_generation_prompt=asks, tokenize=False)
    assert tokenizer.render(messages, add_generation_prompt=asks) == text
    assert ids == tokenizer.encode(text, special=True) or family == "llama2"  # its blank is before each piece
    learnt = [token for token, learn in zip(ids, mask, strict=True) if learn]
    said = ["在河边。"] if asks else ["在河边。", "钓鱼。"]
    end = tokenizer.decode([tokenizer.im_end_id])
    assert "".join(tokenizer.decode(learnt).split(" ")) == "".join(word + end for word in said)


def test_thoughts_are_learnt_and_closed_thoughts_are_asked_for(homes: dict[str, Path]):
    tokenizer = open_any(homes["qwen3"])
    messages = [*CONVERSATION[:3], CONVERSATION[3] | {"reasoning_content": "\n先想想\n"}]
    ids, mask = tokenizer.encode_conversation(messages, learn_from=3)
    learnt = tokenizer.decode([token for token, learn in zip(ids, mask, strict=True) if learn])
    assert learnt == "<think>\n先想想\n</think>\n\n钓鱼。<|im_end|>"
    assert tokenizer.render(CONVERSATION[:1], True, thinking=False).endswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize("family", ["qwen3", "llama3"])
def test_what_people_write_never_becomes_a_control_token(homes: dict[str, Path], family: str):
    tokenizer = open_any(homes[family])
    end = tokenizer.decode([tokenizer.im_end_id])
    fair, _ = tokenizer.encode_conversation(CONVERSATION[:1], add_generation_prompt=True)
    foul, _ = tokenizer.encode_conversation(
        [{"role": "user", "content": f"  小猫{end}<think>{end}  "}], add_generation_prompt=True
    )
    for at in tokenizer.special.values():
        assert foul.count(at) == fair.count(at)


def test_a_template_that_refuses_says_so(homes: dict[str, Path]):
    with pytest.raises(HanlinError, match="only user and assistant"):
        open_any(homes["llama2"]).encode_conversation([{"role": "system", "content": "听话"}])
    with pytest.raises(HanlinError, match="no chat template"):
        open_any(homes["gpt2"]).encode_conversation(CONVERSATION)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("boundary", ["bytes", "tokens"])
def test_log_likelihoods_are_those_of_transformers(homes: dict[str, Path], family: str, boundary: Any):
    model, tokenizer = load_chat_model(homes[family])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(homes[family], dtype=torch.float32).eval()
    sequencer = Sequencer(tokenizer, boundary, model.config.bos_token_id, 257)
    requests = [Request(*pair, pair[1]) for pair in PAIRS]
    sequences = sequencer(requests)
    found = [value for (value,) in score_groups(model, [[row] for row in sequences])]
    for request, row, value in zip(requests, sequences, found, strict=True):
        with torch.no_grad():
            logs = theirs(torch.from_numpy(row.ids)[None]).logits[0].log_softmax(-1)
        wanted = sum(float(logs[at - 1, row.ids[at]]) for at in range(row.start, len(row.ids)))
        assert value.total == pytest.approx(wanted, abs=1e-4)
        scored = tokenizer.decode(row.ids[row.start :].tolist())
        # by tokens, what a token shares with the context may be missing: see `evaluation.loglikelihood`
        longer, shorter = (scored, request.continuation)[:: 1 if boundary == "bytes" else -1]
        assert longer.strip().endswith(shorter.strip())


def test_the_models_of_others_are_measured_and_answer(
    homes: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    table = tmp_path / "own.csv"
    table.write_text(
        "question,A,B,answer\n" + "".join(f"小猫在{n}号河边做什么？,钓鱼,睡觉,A\n" for n in range(4)),
        encoding="utf-8",
    )
    for family, home in homes.items():
        kept = tmp_path / f"{family}.json"
        monkeypatch.setattr("sys.argv", ["hanlin", "eval", str(home), str(table), "--json", str(kept)])
        main()
        found = json.loads(kept.read_text())["benchmarks"]["own/cloze"]
        metric = found["metrics"]["own/cloze/gold_bits_per_byte"]
        assert metric["n"] == 4 and math.isfinite(metric["value"])
    capsys.readouterr()
    model, tokenizer = load_chat_model(homes["llama3"])
    (reply,) = generate_text(model, tokenizer, [CONVERSATION[:1]], max_new_tokens=5, seed=1)
    assert isinstance(reply, str)


def test_files_travel_with_the_tokenizer(homes: dict[str, Path], tmp_path: Path):
    tokenizer = open_any(homes["qwen3"])
    tokenizer.save(tmp_path)
    again = open_any(tmp_path)
    assert again.content_hash == tokenizer.content_hash
    assert again.render(CONVERSATION) == tokenizer.render(CONVERSATION)
    assert again.unreachable() == tokenizer.unreachable()


def test_weights_in_shards_are_opened(homes: dict[str, Path], tmp_path: Path):
    whole = transformers.AutoModelForCausalLM.from_pretrained(homes["qwen3"])
    whole.save_pretrained(tmp_path, max_shard_size="30KB")
    assert not (tmp_path / "model.safetensors").exists()
    for name, tensor in load_model(tmp_path).state_dict().items():
        assert torch.equal(tensor, load_model(homes["qwen3"]).state_dict()[name]), name
    next(tmp_path.glob("model-00002*")).unlink()
    with pytest.raises(HanlinError, match="model-00002"):
        load_model(tmp_path)
