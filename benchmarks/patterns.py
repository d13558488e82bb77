"""Split patterns and token lengths, judged by the bits per byte of a small model at equal compute.

    python benchmarks/patterns.py FILE… --work FOLDER [--variants qwen2 llama3] [--steps 240] [--seeds 2]
                                  [--out RESULTS.json]

Every variant (a split pattern that llama.cpp knows, or a limit on the characters of a token) gets a tokenizer
of the same vocabulary from the same text, and on it the same model is trained: same shape, same first
weights, same steps of as many tokens, the same chunks of text in the same order. A tokenizer with longer
tokens therefore reads further in that text; how far is reported. Judged is held-out text that is the same for
all: bits of every token and of the end, over all bytes.

A variant differs from the default when 0 lies outside the interval of the difference, which is made of two
parts: that over documents (a bootstrap of the differences per document, both models reading the same ones,
over the same seeds) and that over runs (what is left when each variant's and each seed's mean is taken out of
the variants that have every seed, all of them together, as Student's interval). `mostly Han` are the
documents whose letters are Han by more than half.

Each run is appended to `FOLDER/runs.jsonl` when it ends; the same command goes on with those that are
missing. Needs `pip install regex scipy`.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

# before they are loaded
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

import numpy as np
import regex
import scipy.stats
import tokenizers
import torch

from hanlin._native import PretokenCounter, pretokens, train
from hanlin.common.atomic import write_json
from hanlin.common.manifest import package_versions
from hanlin.common.progress import PlainProgress
from hanlin.corpus.readers.read import read_documents
from hanlin.dataset import Batch
from hanlin.dataset.packing import permutation
from hanlin.evaluation.likelihood import document_bits
from hanlin.evaluation.statistics import Metric
from hanlin.model import CausalLM, ModelShape, init_weights
from hanlin.stages.supervised import NextTokenLoss
from hanlin.tokenizer import train_tokenizer
from hanlin.tokenizer.chat import ROLES
from hanlin.tokenizer.files import Vocabulary, build_vocabulary, tokenizer_json
from hanlin.tokenizer.special import BYTES, END_OF_TEXT, PATTERN_NAME, from_letters, special_tokens
from hanlin.training import BatchSource, TrainConfig
from hanlin.training import train as train_model

CONTROL_TOKENS = 16
MIN_FREQUENCY = 2
TRAIN_CHARS, HELDOUT_CHARS = 500, 400  # of a chunk of text; held-out documents are their beginnings
HELDOUT_PER_FILE = 16
DOCUMENT_CHARS = 50_000  # at most so many of one document: else a few novels fill their file's share
SHAPE = ModelShape(hidden_size=160, num_hidden_layers=6, num_attention_heads=5, max_position_embeddings=256)
SEQ_LEN = SHAPE.max_position_embeddings
STEP_TOKENS = 2048
LEARNING_RATE, Z_LOSS = 3e-3, 1e-4

# As in llama.cpp's src/llama-vocab.cpp: expressions applied one after another, each to what the one before
# it left or cut out.
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_QWEN2 = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_ASCII_MARK = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"
PATTERNS: dict[str, list[str]] = {
    "starcoder": [r"\p{N}", _WORDS],
    "qwen2": [_QWEN2],
    "llama3": [_QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")],  # chatglm4's, too
    "gpt2": [_WORDS],
    "deepseek-v3": [
        r"\p{N}{1,3}",
        "[一-龥぀-ゟ゠-ヿ]+",
        _ASCII_MARK
        + r"[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ],
}


class Variant(NamedTuple):
    """What a tokenizer differs in."""

    pattern: str = PATTERN_NAME
    max_token_chars: int = 16


DEFAULT = PATTERN_NAME
VARIANTS = {
    DEFAULT: Variant(),
    "deepseek-v3": Variant("deepseek-v3"),
    "qwen2": Variant("qwen2"),
    "llama3": Variant("llama3"),
    "2 chars": Variant(max_token_chars=2),
    "4 chars": Variant(max_token_chars=4),
    "8 chars": Variant(max_token_chars=8),
    "gpt2": Variant("gpt2"),
}


class Texts(NamedTuple):
    """The corpus: chunks to train on, and held-out documents with the name of the file each is from."""

    chunks: list[str]
    heldout: list[str]
    sources: list[str]


def read_texts(files: list[str], megabytes: float) -> Texts:
    """An equal share of each file in a fixed random order: held-out documents first, then chunks for
    training; no text twice."""
    texts = Texts([], [], [])
    seen: set[str] = set()
    for file in files:
        documents = [document["text"].encode("utf-8", "ignore").decode() for document in read_documents(file)]
        size = kept = 0
        for index in permutation(len(documents), 0, 0):
            text = documents[index].strip()
            if len(text) < 100 or text[:100] in seen:
                continue
            seen.add(text[:100])
            if kept < HELDOUT_PER_FILE:
                texts.heldout.append(text[:HELDOUT_CHARS])
                texts.sources.append(Path(file).name.split(".")[0])
                kept += 1
                continue
            text = text[:DOCUMENT_CHARS]
            texts.chunks.extend(text[at : at + TRAIN_CHARS] for at in range(0, len(text), TRAIN_CHARS))
            size += len(text.encode())
            if size > megabytes * 1e6 / len(files):
                break
    return texts


def split(expressions: list[str], text: str) -> list[str]:
    """Cut as llama.cpp and `tokenizers` do: matches are pieces, and so is what lies between them."""
    pieces = [text]
    for expression in expressions:
        pieces = [part for piece in pieces for part in _isolate(expression, piece)]
    return pieces


def _isolate(expression: str, text: str) -> Iterator[str]:
    at = 0
    for match in regex.finditer(expression, text):
        if match.start() > at:
            yield text[at : match.start()]
        if match.end() > match.start():
            yield match.group()
        at = match.end()
    if at < len(text):
        yield text[at:]


class Tokenizer:
    """A vocabulary learnt by the core on pieces of any pattern, and `tokenizers` to encode with it."""

    def __init__(self, variant: Variant, counter: PretokenCounter, vocab_size: int):
        wanted = vocab_size - BYTES - CONTROL_TOKENS
        merges = train(counter, wanted, MIN_FREQUENCY, variant.max_token_chars)
        if len(merges) < wanted:
            raise SystemExit(
                f"the text gives {len(merges)} merges for {variant}, {wanted} are needed: raise --megabytes"
            )
        self.vocabulary: Vocabulary = build_vocabulary(
            [(left, right) for left, right, _ in merges], special_tokens(CONTROL_TOKENS)
        )
        self.eos_id = len(self.vocabulary.tokens) + self.vocabulary.special.index(END_OF_TEXT)
        document = json.loads(tokenizer_json(self.vocabulary))
        stages = document["pre_tokenizer"]["pretokenizers"]
        stages[:1] = [
            {**stages[0], "pattern": {"Regex": expression}} for expression in PATTERNS[variant.pattern]
        ]
        self.encoder = tokenizers.Tokenizer.from_str(json.dumps(document))

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text."""
        return [encoding.ids for encoding in self.encoder.encode_batch_fast(texts, add_special_tokens=False)]

    def pieces(self, text: str) -> list[bytes]:
        """How `tokenizers` cuts a text."""
        return [from_letters(letters) for letters, _ in self.encoder.pre_tokenizer.pre_tokenize_str(text)]  # type: ignore[union-attr]

    def byte_lengths(self) -> torch.Tensor:
        """Bytes behind each id, (V,) int64; none behind control tokens."""
        return torch.tensor([len(token) for token in self.vocabulary.tokens] + [0] * CONTROL_TOKENS)


def count_pieces(expressions: list[str], chunks: list[str]) -> PretokenCounter:
    """What `train_tokenizer` counts, under any pattern."""
    counts: Counter[str] = Counter()
    for chunk in chunks:
        counts.update(split(expressions, chunk))
    counter = PretokenCounter()
    for piece, count in counts.items():
        counter.add_word(piece, count)
    for role in ROLES:
        counter.add_word(role, len(chunks))
    return counter


def check(tokenizer: Tokenizer, variant: Variant, texts: Texts, work: Path) -> None:
    """The two engines cut alike; ids spell the text; under our own pattern, merges and ids are those of
    Hanlin."""
    for text, ids in zip(texts.heldout, tokenizer.encode(texts.heldout), strict=True):
        cut = [piece.encode() for piece in split(PATTERNS[variant.pattern], text)]
        if cut != tokenizer.pieces(text) or (variant.pattern == DEFAULT and cut != pretokens(text)):
            raise SystemExit(f"{variant.pattern}: regex, tokenizers and the core do not cut alike: {text!r}")
        if b"".join(tokenizer.vocabulary.tokens[index] for index in ids) != text.encode():
            raise SystemExit(f"{variant}: ids do not spell the text: {text!r}")
    if variant == VARIANTS[DEFAULT]:
        size = len(tokenizer.byte_lengths())
        ours = train_tokenizer(
            iter(texts.chunks),
            size,
            work / "tokenizer",
            num_special=CONTROL_TOKENS,
            max_token_chars=variant.max_token_chars,
        )
        if ours.vocabulary != tokenizer.vocabulary:
            raise SystemExit("the vocabulary is not the one Hanlin learns")
        sample = texts.heldout + texts.chunks[:2000]
        if ours.encode_batch(sample) != tokenizer.encode(sample):
            raise SystemExit("the ids are not those of Hanlin")
        print(f"checked: vocabulary, and ids of {len(sample)} texts, equal Hanlin's own", flush=True)


class Stream(BatchSource):
    """Chunks in a seeded order, each after <|endoftext|>, cut into rows of SEQ_LEN; tokens see those of
    their own chunk.

    Not `TextRows`, which permutes rows: here every tokenizer must read the same text in the same order, as
    far as it comes.
    """

    def __init__(self, tokenizer: Tokenizer, chunks: list[str], seed: int, steps: int):
        wanted, flat, document = steps * STEP_TOKENS + 1, [], []
        order = iter(permutation(len(chunks), seed, 0))
        while len(flat) < wanted:
            indices = list(itertools.islice(order, 256))
            if not indices:
                raise SystemExit("the text ends before the steps do: raise --megabytes")
            for ids in tokenizer.encode([chunks[index] for index in indices]):
                document += [document[-1] + 1 if document else 0] * (len(ids) + 1)
                flat += [tokenizer.eos_id, *ids]
        self._flat, self._document = torch.tensor(flat[:wanted]), torch.tensor(document[:wanted])
        self.bytes = int(tokenizer.byte_lengths()[self._flat[1:]].sum())  # of the text that is predicted

    def identity(self) -> dict[str, Any]:
        """An interrupted run is not resumed on other tokens."""
        return {"tokens": hashlib.sha256(self._flat.numpy().tobytes()).hexdigest()}

    def micro_batches(self, step: int, model: torch.nn.Module, shard: Any = None) -> list[Batch]:
        """The rows of a step; the last label of a chunk is the <|endoftext|> before the next."""
        here, following = (
            slice(step * STEP_TOKENS + shift, (step + 1) * STEP_TOKENS + shift) for shift in (0, 1)
        )
        ids, labels, documents = (
            values.view(-1, SEQ_LEN)
            for values in (self._flat[here], self._flat[following], self._document[here])
        )
        places = torch.arange(SEQ_LEN).expand_as(ids)
        begins = torch.zeros_like(ids, dtype=torch.bool)
        begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
        positions = places - torch.where(begins, places, 0).cummax(1).values
        return [Batch(ids, labels, positions, documents, [])]


def run(tokenizer: Tokenizer, texts: Texts, seed: int, steps: int, checkpoints: Path) -> dict[str, Any]:
    """Train one model and judge it: bits of every held-out document, and figures of the run."""
    began = time.monotonic()
    widths = tokenizer.byte_lengths()
    model = CausalLM(SHAPE.config(len(widths), tokenizer.eos_id))
    init_weights(model, seed)
    stream = Stream(tokenizer, texts.chunks, seed, steps)
    config = TrainConfig(
        steps=steps,
        learning_rate=LEARNING_RATE,
        warmup_ratio=0.05,
        decay_ratio=0.5,
        checkpoint_seconds=math.inf,
    )
    result = train_model(model, stream, NextTokenLoss(widths, Z_LOSS), config, checkpoints, PlainProgress(30))
    ids = [np.array([tokenizer.eos_id, *row, tokenizer.eos_id]) for row in tokenizer.encode(texts.heldout)]
    return {
        "parameters": model.config.parameters(),
        "bytes_read": stream.bytes,
        "skipped_steps": result.skipped,
        "heldout_tokens": sum(len(row) - 2 for row in ids),
        "bits": document_bits(model, ids).round(4).tolist(),
        "seconds": round(time.monotonic() - began),
    }


def describe(vocabulary: Vocabulary) -> dict[str, Any]:
    """What the pattern left its mark on: tokens by their characters, Han glued to a mark, tokens of
    digits."""
    words = [token.decode() for token in vocabulary.tokens[BYTES:] if _whole(token)]
    lengths = Counter(map(len, words))
    return {
        "tokens_by_chars": {str(size): lengths[size] for size in sorted(lengths)},
        "han_after_other": sum(bool(regex.match(r"[^\p{L}\p{N}]\p{Han}", word)) for word in words),
        "digits_only": sum(bool(regex.fullmatch(r"\p{N}{2,}", word)) for word in words),
    }


def _whole(token: bytes) -> bool:
    try:
        return bool(token.decode())
    except UnicodeDecodeError:
        return False


def summarise(
    runs: list[dict[str, Any]], vocabularies: dict[str, dict[str, Any]], texts: Texts
) -> dict[str, Any]:
    """Means over seeds, and differences from the default; see the top of the file for the interval."""
    sizes = np.array([len(text.encode()) for text in texts.heldout])
    bits = {(run["variant"], run["seed"]): np.array(run["bits"]) for run in runs}
    seeds = sorted({seed for _, seed in bits})
    whole = [name for name in VARIANTS if all((name, seed) in bits for seed in seeds)]
    freedom = (len(whole) - 1) * (len(seeds) - 1)
    groups = {
        "all": np.ones(len(sizes), dtype=bool),
        "mostly Han": np.array([_mostly_han(text) for text in texts.heldout]),
    }
    groups |= {
        source: np.array([name == source for name in texts.sources]) for source in sorted(set(texts.sources))
    }

    def deviation(chosen: np.ndarray) -> float:
        """Of one run's bits per byte, beside what its variant and its seed do."""
        # (variants, seeds)
        values = (
            np.array([[bits[name, seed][chosen].sum() for seed in seeds] for name in whole])
            / sizes[chosen].sum()
        )
        rest = values - values.mean(1, keepdims=True) - values.mean(0, keepdims=True) + values.mean()
        return math.sqrt((rest**2).sum() / freedom) if freedom else math.nan

    def judge(mean: np.ndarray, base: np.ndarray, chosen: np.ndarray, count: int) -> dict[str, Any]:
        """Figures of one variant on a group of documents, from means over `count` seeds."""
        own = Metric.ratio(mean[chosen], sizes[chosen], higher_is_better=False)
        change = Metric.ratio((mean - base)[chosen], sizes[chosen], higher_is_better=False)
        of_runs = (
            float(scipy.stats.t.ppf(0.975, freedom)) * deviation(chosen) * math.sqrt(2 / count)
            if freedom
            else math.nan
        )
        low, high = (math.hypot(end - change.value, of_runs) for end in (change.low, change.high))
        return {
            "bits_per_byte": _rounded(own.value, own.low, own.high),
            "difference": round(change.value, 5),
            "over_documents": _rounded(change.low, change.high),
            "interval": _rounded(change.value - low, change.value + high),
        }

    variants = {}
    for name in VARIANTS:
        mine = [run for run in runs if run["variant"] == name and (DEFAULT, run["seed"]) in bits]
        if not mine:
            continue
        mean, base = (
            np.mean([bits[which, run["seed"]] for run in mine], axis=0) for which in (name, DEFAULT)
        )
        variants[name] = {
            **VARIANTS[name]._asdict(),
            "bits_per_byte_by_seed": {
                str(run["seed"]): round(float(np.sum(run["bits"]) / sizes.sum()), 5) for run in mine
            },
            "bytes_per_token": round(float(sizes.sum()) / mine[0]["heldout_tokens"], 4),
            "megabytes_read": [round(run["bytes_read"] / 1e6, 3) for run in mine],
            "skipped_steps": [run["skipped_steps"] for run in mine],
            "seconds": [run["seconds"] for run in mine],
            **vocabularies.get(name, {}),
            "groups": {group: judge(mean, base, chosen, len(mine)) for group, chosen in groups.items()},
        }
    return {
        "seeds": seeds,
        "heldout": {
            group: {"documents": int(chosen.sum()), "bytes": int(sizes[chosen].sum())}
            for group, chosen in groups.items()
        },
        "run_deviation": round(deviation(groups["all"]), 5),
        "run_freedom": freedom,
        "variants": variants,
    }


def _mostly_han(text: str) -> bool:
    return 2 * len(regex.findall(r"\p{Han}", text)) > len(regex.findall(r"\p{L}", text))


def _rounded(*values: float) -> list[float]:
    return [round(value, 5) for value in values]


def table(summary: dict[str, Any]) -> str:
    """The summary as Markdown."""
    lines = [
        "| variant | seeds | bytes/token | MB read | group | bits per byte | difference | interval |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (name, found), group in itertools.product(summary["variants"].items(), ("all", "mostly Han")):
        judged = found["groups"][group]
        cells = [
            name,
            str(len(found["seconds"])),
            f"{found['bytes_per_token']:.3f}",
            "/".join(f"{size:.2f}" for size in found["megabytes_read"]),
        ]
        low, high = judged["interval"]
        cells += [group, f"{judged['bits_per_byte'][0]:.4f}"]
        cells += (
            ["", ""] if name == DEFAULT else [f"{judged['difference']:+.4f}", f"[{low:+.4f}, {high:+.4f}]"]
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Seed by seed, so that what is done at any time is comparable."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--megabytes", type=float, default=24)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--machine", default="", help="for the results file")
    parser.add_argument("--report", action="store_true", help="train nothing; sum up the runs there are")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    texts = read_texts(options.files, options.megabytes)
    print(f"{len(texts.chunks)} chunks, {len(texts.heldout)} held-out documents", flush=True)

    counters: dict[str, PretokenCounter] = {}
    made: dict[str, Tokenizer] = {}
    for name in options.variants:
        variant = VARIANTS[name]
        if variant.pattern not in counters:
            counters[variant.pattern] = count_pieces(PATTERNS[variant.pattern], texts.chunks)
        made[name] = Tokenizer(variant, counters[variant.pattern], options.vocab_size)
        check(made[name], variant, texts, options.work)
        print(name, describe(made[name].vocabulary), flush=True)
    counters.clear()

    vocabularies = {name: describe(tokenizer.vocabulary) for name, tokenizer in made.items()}
    log = options.work / "runs.jsonl"
    runs = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    for seed, name in itertools.product(range(1, options.seeds + 1), options.variants):
        if options.report or any((done["variant"], done["seed"]) == (name, seed) for done in runs):
            continue
        done = {
            "variant": name,
            "seed": seed,
            **run(made[name], texts, seed, options.steps, options.work / f"{name}, seed {seed}"),
        }
        runs.append(done)
        with open(log, "a") as file:
            file.write(json.dumps(done) + "\n")
        print(f"{name}, seed {seed}: {done['seconds']} s", flush=True)
    runs = [done for done in runs if done["variant"] in made and done["seed"] <= options.seeds]
    summary = summarise(runs, vocabularies, texts)
    print(table(summary))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.out, {**circumstances(options, runs), **summary})


def circumstances(options: argparse.Namespace, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What besides the variants the figures depend on."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": options.machine,
        "versions": package_versions() | {"regex": regex.__version__, "scipy": scipy.__version__},
        "setting": {
            "files": [Path(file).name for file in options.files],
            "megabytes_of_text": options.megabytes,
            "vocab_size": options.vocab_size,
            "model": vars(SHAPE) | {"parameters": runs[0]["parameters"]},
            "steps": options.steps,
            "step_tokens": STEP_TOKENS,
            "seq_len": SEQ_LEN,
            "learning_rate": LEARNING_RATE,
            "z_loss": Z_LOSS,
            "train_chars": TRAIN_CHARS,
            "heldout_chars": HELDOUT_CHARS,
            "patterns": {
                pattern: PATTERNS[pattern]
                for pattern in dict.fromkeys(VARIANTS[name].pattern for name in options.variants)
            },
        },
    }


if __name__ == "__main__":
    main()
