"""The artefact: opened by stock programs with the same ids, round trips, refusals."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.common.errors import HanlinError
from hanlin.common.manifest import read_manifest
from hanlin.corpus.readers.read import read_documents
from hanlin.tokenizer import Tokenizer, compare, inspect, load_tokenizer, train_tokenizer
from hanlin.tokenizer.advise import advise
from hanlin.tokenizer.files import FILES

SHARED = Path(__file__).parents[3] / "shared"
anything = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from("小猫喜欢鱼 \n\r\t's老师ſ😀\u3000\u0301<|>"),
    max_size=60,
)
control = st.sampled_from(
    [
        "<|im_end|>",
        "<|im_start|>",
        "<think>",
        "</think>",
        "<|endoftext|>",
        "<tool_call>",
        "<|reserved_0|>",
        "<|im_",
    ]
)


@pytest.fixture(scope="session")
def stock(tokenizer: Tokenizer):
    """The same files opened by `tokenizers`."""
    return pytest.importorskip("tokenizers").Tokenizer.from_file(str(tokenizer.path / "tokenizer.json"))


@settings(max_examples=2000, deadline=None)
@given(text=st.lists(anything | control, max_size=5).map("".join))
def test_ids_equal_those_of_tokenizers(tokenizer: Tokenizer, stock, text: str) -> None:
    stock.encode_special_tokens = True  # treat control tokens in the text as text
    assert tokenizer.encode(text) == stock.encode(text).ids
    stock.encode_special_tokens = False
    ids = tokenizer.encode(text, special=True)
    assert ids == stock.encode(text).ids
    assert tokenizer.decode(ids) == text == stock.decode(ids, skip_special_tokens=False)
    assert tokenizer.decode(ids, special=False) == stock.decode(ids, skip_special_tokens=True)


def test_every_code_point_has_the_ids_of_tokenizers(tokenizer: Tokenizer, stock) -> None:
    points = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    texts = ["".join(points[begin : begin + 4096]) for begin in range(0, len(points), 4096)]
    for text, ours, theirs in zip(
        texts, tokenizer.encode_batch(texts), stock.encode_batch_fast(texts), strict=True
    ):
        assert ours == theirs.ids
        assert tokenizer.decode(ours) == text


@pytest.mark.parametrize("folder", ["fixtures", "fixtures_dirty", "pretrain_zh"])
def test_real_files_have_the_ids_of_tokenizers(tokenizer: Tokenizer, stock, folder: str) -> None:
    """The beginning of every file of real data, raw where it is UTF-8, line by line where it is
    compressed."""
    if not (SHARED / "data" / folder).is_dir():
        pytest.skip(f"{SHARED / 'data' / folder} not present")
    stock.encode_special_tokens = True
    for path in sorted((SHARED / "data" / folder).iterdir()):
        if path.name.endswith(".jsonl.zst"):
            texts = [document["text"][:20_000] for document in islice(read_documents(path), 20)]
        elif path.is_file():
            texts = [path.read_bytes()[:100_000].decode("utf-8", "replace")]
        else:
            continue
        for text, ours, theirs in zip(
            texts, tokenizer.encode_batch(texts), stock.encode_batch_fast(texts), strict=True
        ):
            assert ours == theirs.ids, path.name
            assert tokenizer.decode(ours) == text


@given(data=st.binary(max_size=60), text=st.text(max_size=20), special=st.booleans())
def test_any_bytes_and_any_str_come_back(tokenizer: Tokenizer, data: bytes, text: str, special: bool) -> None:
    mixed = data + b"<think>" + data
    assert tokenizer.decode_bytes(tokenizer.encode(mixed, special)) == mixed
    assert tokenizer.decode_bytes(tokenizer.encode(text, special)).decode("utf-8", "surrogatepass") == text


@given(text=st.lists(control | anything, min_size=1, max_size=5).map("".join))
def test_text_never_yields_a_control_token(tokenizer: Tokenizer, text: str) -> None:
    assert not set(tokenizer.encode(text)) & set(tokenizer.special.values())
    assert not set(tokenizer.encode_batch([text])[0]) & set(tokenizer.special.values())


def test_transformers_opens_it_with_the_same_ids(
    tokenizer: Tokenizer, corpus: list[str], tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    for model_type, name in (
        ("qwen3", "Qwen3ForCausalLM"),
        ("llama", "LlamaForCausalLM"),
        ("gpt2", "GPT2LMHeadModel"),
    ):
        model = tmp_path / model_type
        model.mkdir()
        tokenizer.save(model)
        (model / "config.json").write_text(json.dumps({"model_type": model_type, "architectures": [name]}))
        stock = transformers.AutoTokenizer.from_pretrained(model)
        assert len(stock) == tokenizer.vocab_size
        assert (stock.eos_token_id, stock.pad_token_id) == (tokenizer.im_end_id, tokenizer.eos_id)
        for text in [*corpus, "e\u0301 ﬁ ＡＢ 'ſ  . , !", " a ,b  ."]:
            assert stock.encode(text) == tokenizer.encode(text)
            assert stock.decode(stock.encode(text)) == text
        assert load_tokenizer(model).content_hash == tokenizer.content_hash
        assert {name: stock.convert_tokens_to_ids(name) for name in tokenizer.special} == tokenizer.special


def test_the_vocabulary_is_as_large_as_asked_and_reachable(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 500
    assert tokenizer.unreachable() == []
    assert list(tokenizer.special.values()) == list(range(484, 500))
    assert list(tokenizer.special)[:3] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert [len(tokenizer.encode(role)) for role in ("system", "user", "assistant")] == [1, 1, 1]


def test_the_artefact_depends_on_the_documents_alone(
    tmp_path: Path, tokenizer: Tokenizer, corpus: list[str]
) -> None:
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in reversed(corpus)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines[:5]) + "\n")
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write("\n".join(lines[5:]))
    again = train_tokenizer([tmp_path / "b.jsonl.gz", str(tmp_path / "a.jsonl")], 500, tmp_path / "out")
    assert (
        again.content_hash
        == tokenizer.content_hash
        == read_manifest(tmp_path / "out", "tokenizer").content_hash
    )


def test_aligned_tokens_mix_no_pieces_of_characters(tokenizer: Tokenizer) -> None:
    for token in tokenizer.vocabulary.tokens:
        text = token.decode("utf-8", "replace")
        assert "\ufffd" not in text or len(token) <= 3 and len(token.decode("utf-8", "ignore")) == 0


def test_plain_training_and_long_tokens(tmp_path: Path, corpus: list[str]) -> None:
    plain = train_tokenizer(iter(corpus), 500, tmp_path / "plain", aligned=False, max_token_chars=0)
    assert plain.unreachable() == []
    short = train_tokenizer(iter(corpus), 420, tmp_path / "short", max_token_chars=2)
    assert max(entry["characters"] for entry in inspect(short)["longest"]) == 2
    for tokenizer in (plain, short):
        for text in corpus:
            assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    "sizes", [{"vocab_size": 271}, {"vocab_size": 400, "num_special": 8}, {"vocab_size": 2_000_000}]
)
def test_impossible_sizes_are_refused(tmp_path: Path, sizes: dict[str, int]) -> None:
    with pytest.raises(HanlinError):
        train_tokenizer(iter(["你好"]), out=tmp_path / "out", **sizes)
    assert not (tmp_path / "out").exists()


def test_a_corpus_too_small_says_what_it_can_give(tmp_path: Path) -> None:
    texts = ["小猫和小狗"] * 2
    with pytest.raises(HanlinError, match="--vocab-size (\\d+)") as refusal:
        train_tokenizer(iter(texts), 5000, tmp_path / "out")
    possible = int(refusal.value.en.split("--vocab-size ")[1].split(",")[0])
    assert train_tokenizer(iter(texts), possible, tmp_path / "out").vocab_size == possible
    with pytest.raises(HanlinError):
        train_tokenizer(iter(texts), possible + 1, tmp_path / "out")


def test_empty_and_missing_corpora_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_bytes(b"")
    for source in (tmp_path / "empty.txt", tmp_path / "missing.txt", iter([]), iter(["", ""])):
        with pytest.raises(HanlinError):
            train_tokenizer(source, 300, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damage_is_noticed(tokenizer: Tokenizer, tmp_path: Path) -> None:
    for name in FILES:
        copy = tmp_path / name
        shutil.copytree(tokenizer.path, copy)
        (copy / name).write_bytes((copy / name).read_bytes() + b"\n")
        with pytest.raises(HanlinError):
            _ = load_tokenizer(copy).content_hash
        (copy / name).unlink()
        with pytest.raises(HanlinError):
            _ = load_tokenizer(copy).content_hash
    with pytest.raises(HanlinError):
        load_tokenizer(tmp_path / "nowhere")


def test_foreign_tokenizers_are_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    document = json.loads((tokenizer.path / "tokenizer.json").read_bytes())
    for change in ({"normalizer": {"type": "NFC"}}, {"pre_tokenizer": None}, {"model": {"type": "Unigram"}}):
        (tmp_path / "tokenizer.json").write_text(json.dumps({**document, **change}))
        with pytest.raises(HanlinError):
            load_tokenizer(tmp_path)


def test_unknown_ids_are_refused(tokenizer: Tokenizer) -> None:
    for wrong in (500, -1, 2**40):
        with pytest.raises(HanlinError, match=str(wrong)):
            tokenizer.decode([65, wrong])


def test_inspect_and_compare_add_up(tokenizer: Tokenizer, corpus: list[str], tmp_path: Path) -> None:
    seen = inspect(tokenizer)
    assert sum(seen["classes"].values()) == seen["size"] == 500
    assert abs(sum(seen["shares"].values()) - 1) < 1e-9
    assert seen["classes"]["byte"] == 128 and seen["classes"]["control"] == 16
    file = tmp_path / "text.txt"
    file.write_text(corpus[0])
    result = compare([tokenizer, tokenizer], [file, file])
    first, second = result["tokenizers"]
    assert first == second
    assert first["tokens"] == 2 * len(tokenizer.encode(corpus[0])) and result["bytes"] == 2 * len(
        corpus[0].encode()
    )
    assert first["unused"] == 484 - len(set(tokenizer.encode(corpus[0])))
    with pytest.raises(HanlinError):
        compare([tokenizer], [])


def test_loading_needs_no_torch(tokenizer: Tokenizer) -> None:
    code = (
        f"import sys, hanlin.tokenizer as t; t.load_tokenizer({str(tokenizer.path)!r}); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "parameters,least,most",
    [
        ("0.94m", 1024, 3000),
        ("26m", 6400, 9000),
        ("100m", 12_000, 20_000),
        ("0.3b", 26_000, 38_000),
        (900e6, 45_000, 64_000),
    ],
)
def test_advice_is_what_is_in_use(parameters, least, most):
    advice = advise(parameters)
    assert least <= advice.vocab_size <= most and advice.vocab_size % 128 == 0
    assert advice.embedding_share == pytest.approx(
        advice.vocab_size
        * advice.hidden_size
        / (
            float(parameters.rstrip("mb")) * {"m": 1e6, "b": 1e9}[parameters[-1]]
            if isinstance(parameters, str)
            else parameters
        )
    )
    assert advice.embedding_share <= 0.36


@pytest.mark.parametrize("wrong", ["", "26x", "-5m", "12", "nan"])
def test_advice_on_nonsense_is_refused(wrong):
    with pytest.raises(HanlinError):
        advise(wrong)
