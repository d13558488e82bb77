"""`hanlin data sample`: training data that a model writes itself.

Each sample is drawn from a stream of its own, keyed by seed, prompt and number: more samples, other prompts
beside it, or another order change none that was there. What is drawn is kept every minute, so that a killed
run goes on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from hanlin.common.config import OutOfRange
from hanlin.common.errors import HanlinError
from hanlin.common.manifest import artifact, content_hash, read_manifest, sha256_file
from hanlin.common.progress import Progress
from hanlin.common.savepoint import Savepoint, files_key
from hanlin.common.target import refuse_foreign_target
from hanlin.corpus.readers.read import expand, read_conversations
from hanlin.evaluation.pass_at_k import best_of_k, pass_at_k
from hanlin.inference import Completion, Engine, SamplingParams, derive_seed
from hanlin.inference.generate import load_chat_model, resolve_model_dir
from hanlin.inference.text import ReplyParser
from hanlin.pipeline.sample_select import RIGHT, Make, Sampled, Selection
from hanlin.rl.rewards.base import FunctionReward, Reward, Sample
from hanlin.rl.rewards.numeric import NumericReward
from hanlin.rl.rewards.reward_model import ModelReward
from hanlin.tokenizer import Tokenizer
from hanlin.tokenizer.chat import prompt_of

RECORDS = "records.jsonl"
_DRAWN = "samples.jsonl"
_AT_ONCE = 16  # prompts between two looks at the clock


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """How to draw, and what to make of it.

    Attributes:
        n: samples of each prompt.
        verify: `numeric` (the record's `answer`), `reward:DIR` (a reward model), `python:FILE` (its function
            `score(record, text) -> float`), or nothing.
    """

    n: int = 8
    temperature: float = 1.0
    max_new_tokens: int = 256
    seed: int = 1
    make: Make = "sft"
    verify: str = ""
    keep: int = 4
    ratio: float = 1.5
    thinking: bool | None = None

    def __post_init__(self) -> None:
        if self.n < 1 or self.temperature <= 0 or self.max_new_tokens < 1 or self.keep < 1 or self.ratio < 1:
            raise OutOfRange(
                "n, keep and max_new_tokens are at least 1, temperature is above 0, ratio from 1"
            )
        if self.make == "pairs" and not self.verify:
            raise OutOfRange("pairs need --verify: without scores no answer is better than another")


def sample_data(
    model_dir: Path, prompts: Sequence[str], out: Path, config: SampleConfig, progress: Progress
) -> dict[str, Any]:
    """Let a model answer prompts, and write what is made of it as an artefact; returns its metrics.

    Args:
        prompts: files of conversations; what comes before the last answer of the assistant is the prompt.

    Raises:
        HanlinError: no model, no usable prompt, or a verifier that is none.
    """
    folder = resolve_model_dir(model_dir)
    files = expand(list(prompts))
    refuse_foreign_target(out, "samples", files)
    judge = verifier(config.verify)
    model, tokenizer = load_chat_model(folder)
    judge.load(lambda name: Path(name), str(model.device))
    records = usable(read_conversations(files), judge, config, progress)
    told = dataclasses.asdict(config) | {"model": content_hash(folder), "tokenizer": tokenizer.content_hash}
    key = files_key(files, told)
    engine = Engine(model, tokenizer)
    with Savepoint(out, key) as savepoint:
        drawn = list(_draw(engine, tokenizer, records, config, savepoint, progress))
        selection = Selection(config.make, config.keep, config.ratio)
        parents = {"model": told["model"]} | _judge_hash(config.verify)
        with artifact(out, "samples", parents=parents, config=told, seed=config.seed, key=key) as written:
            scored: list[list[Sampled]] = []
            with open(written.path / RECORDS, "w", encoding="utf-8") as file:
                for record, ids, answers in drawn:
                    samples = _scored(
                        record, ids, answers, judge if config.verify else None, tokenizer, config
                    )
                    scored.append(samples)
                    for made in selection(record, prompt_of(record), samples):
                        file.write(json.dumps(made, ensure_ascii=False) + "\n")
            if not selection.counts["records"]:
                raise HanlinError(
                    "Of {count} samples nothing could be made ({reasons}). Draw more (--n), or look at them "
                    "with --make raw.",
                    count=sum(map(len, scored)),
                    reasons=", ".join(f"{name} {count}" for name, count in sorted(selection.counts.items())),
                )
            written.metrics = _figures(scored, selection, config)
    return dict(read_manifest(out, verify=False).metrics)


def verifier(name: str) -> Reward:
    """The reward that `--verify` names; one that gives nothing, for none.

    Raises:
        HanlinError: there is no such one.
    """
    kind, _, rest = name.partition(":")
    if not name:
        return FunctionReward()
    if name == "numeric":
        return NumericReward()
    if kind == "reward" and rest:
        return ModelReward(source=rest)
    if kind == "python" and rest:
        return FunctionReward(function=_python(Path(rest)))
    raise HanlinError(
        "--verify is numeric, reward:DIR of a reward model, or python:FILE with a function score(record, "
        "text), not {name!r}.",
        name=name,
    )


def _python(file: Path) -> Callable[[Mapping[str, Any], str, bool], float]:
    if not file.is_file():
        raise HanlinError("There is no file {file}.", file=file)
    spec = importlib.util.spec_from_file_location("hanlin_verifier", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, "score", None)
    if not callable(function):
        raise HanlinError("{file} has no function score(record, text).", file=file)
    return lambda record, text, opened: float(cast(Any, function)(record, text))


def _judge_hash(verify: str) -> dict[str, str]:
    kind, _, rest = verify.partition(":")
    if kind == "reward":
        return {"reward_model": content_hash(rest)}
    return {"verifier": sha256_file(Path(rest))} if kind == "python" else {}


def usable(
    records: Iterator[Any], judge: Reward, config: SampleConfig, progress: Progress
) -> list[Mapping[str, Any]]:
    """Records whose answers can be judged, each prompt once; what is left out is counted and said.

    Raises:
        HanlinError: none is left.
    """
    kept: dict[str, Mapping[str, Any]] = {}
    repeated = unjudged = 0
    for record in records:
        name = json.dumps(prompt_of(record), ensure_ascii=False, sort_keys=True)
        if name in kept:
            repeated += 1
        elif not judge.can_judge(record):
            unjudged += 1
        else:
            kept[name] = record
    if unjudged or repeated:
        progress.warn(
            "left out {unjudged} prompts whose answers the verifier can't judge, and {repeated} that were "
            "there already",
            unjudged=unjudged,
            repeated=repeated,
        )
    if not kept:
        raise HanlinError(
            "No prompt is left to answer: of {count} records the verifier can judge none. Answers that are "
            "checked stand beside the messages, as `answer`.",
            count=unjudged,
        )
    return list(kept.values())


Drawn = tuple[Mapping[str, Any], list[int], list[Completion]]


def _draw(
    engine: Engine,
    tokenizer: Tokenizer,
    records: Sequence[Mapping[str, Any]],
    config: SampleConfig,
    savepoint: Savepoint,
    progress: Progress,
) -> Iterator[Drawn]:
    """Each record with its prompt's ids and its samples; those of an earlier start are read back."""
    prompts = [
        tokenizer.encode_conversation(
            prompt_of(record), add_generation_prompt=True, thinking=config.thinking, tools=record.get("tools")
        )[0]
        for record in records
    ]
    state = savepoint.state or {"done": 0, "bytes": 0}
    file = savepoint.folder / _DRAWN
    done, size = state["done"], state["bytes"]
    if done:
        progress.note("going on behind {done} of {count} prompts", done=done, count=len(records))
    with open(file, "r+b" if done else "wb") as drawn:
        drawn.truncate(size)
        drawn.seek(size)
        for start in range(done, len(records), _AT_ONCE):
            part = range(start, min(start + _AT_ONCE, len(records)))
            repeated = [prompts[at] for at in part for _ in range(config.n)]
            answers = engine.generate(
                repeated, [_sampling(ids, at % config.n, config) for at, ids in enumerate(repeated)]
            )
            for answer in answers:
                drawn.write(json.dumps([answer.ids, answer.finish_reason]).encode() + b"\n")
            progress.note(
                "{done} of {count} prompts, {tokens:,} tokens",
                done=part.stop,
                count=len(records),
                tokens=sum(len(answer.ids) for answer in answers),
            )
            if savepoint.due:
                drawn.flush()
                savepoint.save({"done": part.stop, "bytes": drawn.tell()})
    lines = iter(file.read_bytes().splitlines())
    for record, ids in zip(records, prompts, strict=True):
        found = [json.loads(next(lines)) for _ in range(config.n)]
        yield record, ids, [Completion(written, reason) for written, reason in found]


def _sampling(prompt: Sequence[int], number: int, config: SampleConfig) -> SamplingParams:
    """With the stream of this sample."""
    name = np.asarray([config.seed, *prompt], dtype=np.int64).tobytes()
    key = int.from_bytes(hashlib.sha256(name).digest()[:7], "big")
    return SamplingParams(
        temperature=config.temperature,
        max_new_tokens=config.max_new_tokens,
        seed=derive_seed(key, number),
    )


def _scored(
    record: Mapping[str, Any],
    prompt: list[int],
    answers: Sequence[Completion],
    judge: Reward | None,
    tokenizer: Tokenizer,
    config: SampleConfig,
) -> list[Sampled]:
    opened = config.thinking is True
    samples = [Sample(record, prompt, a.ids, tokenizer.decode(a.ids), opened) for a in answers]
    scores: Sequence[float | None] = [None] * len(samples) if judge is None else judge.score(samples)
    found = []
    for answer, score in zip(answers, scores, strict=True):
        parser, said = ReplyParser(tokenizer, reasoning=opened), {"content": "", "reasoning": ""}
        for channel, text in [
            piece for token in answer.ids for piece in parser.push(token)
        ] + parser.finish():
            said[channel] += text
        ended = answer.finish_reason == "stop"
        found.append(Sampled(said["content"], said["reasoning"], score, ended, len(answer.ids)))
    return found


def _figures(
    scored: Sequence[Sequence[Sampled]], selection: Selection, config: SampleConfig
) -> dict[str, Any]:
    """Counts, and what k tries are worth."""
    every = [sample for samples in scored for sample in samples]
    figures: dict[str, Any] = {
        "prompts": len(scored),
        "samples": len(every),
        "ended": sum(sample.ended for sample in every),
        "tokens": sum(sample.tokens for sample in every),
    }
    figures |= dict(sorted(selection.counts.items()))
    if config.verify:
        values = [[float(sample.score or 0.0) for sample in samples] for samples in scored]
        for k in [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= config.n]:
            if config.verify.startswith("reward:"):
                figures[f"best_of_{k}"] = float(np.mean([best_of_k(row, k) for row in values]))
            else:
                hits = [sum(value >= RIGHT for value in row) for row in values]
                figures[f"pass@{k}"] = float(np.mean([pass_at_k(config.n, hit, k) for hit in hits]))
    return figures
