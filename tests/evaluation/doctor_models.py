"""A small language with what doctors look for, and models trained on it within seconds: texts in which names
and places recur, so that context helps; questions with short answers; an end for both."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hanlin.model import CausalLM, ModelConfig, init_weights
from hanlin.tokenizer import Tokenizer, train_tokenizer

NAMES = ["小明", "小红", "小刚", "小丽", "小华", "小美", "小军", "小芳", "大伟", "阿强"]
PLACES = ["学校", "公园", "商店", "河边", "书房", "广场", "车站", "花园", "菜场", "山上"]
THINGS = ["苹果", "皮球", "铅笔", "雨伞", "风筝", "书包", "帽子", "饼干", "茶杯", "灯笼"]
FORMS = (
    "{name}去了{place}。",
    "{name}在{place}找到了{thing}。",
    "{name}把{thing}放在{place}。",
    "{name}很喜欢{thing}。",
    "{name}从{place}回来了。",
    "大家都说{place}很美。",
    "{name}在哪里？",
)
POSITIONS = 128


def text(rng: random.Random, sentences: int = 14) -> str:
    """A text about two people, two places and one thing, drawn anew for each text."""
    names, places, thing = rng.sample(NAMES, 2), rng.sample(PLACES, 2), rng.choice(THINGS)
    return "".join(
        rng.choice(FORMS).format(name=rng.choice(names), place=rng.choice(places), thing=thing)
        for _ in range(rng.randint(sentences - 3, sentences + 3))
    )


def conversation(rng: random.Random) -> dict[str, Any]:
    """A question that holds its answer."""
    name, place, thing = rng.choice(NAMES), rng.choice(PLACES), rng.choice(THINGS)
    asked, answer = rng.choice(
        [
            (f"{name}在{place}。{name}在哪里？", f"{name}在{place}。"),
            (f"{name}拿着{thing}。谁拿着{thing}？", f"{name}拿着{thing}。"),
            (f"请说一说{thing}。", f"我很喜欢{thing}，大家都喜欢。"),
        ]
    )
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}


def texts(seed: int, count: int, sentences: int = 14) -> list[str]:
    rng = random.Random(seed)
    return [text(rng, sentences) for _ in range(count)]


def conversations(seed: int, count: int) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [conversation(rng) for _ in range(count)]


def make_tokenizer(path: Path) -> Tokenizer:
    said = [m["content"] for record in conversations(1, 500) for m in record["messages"]]
    return train_tokenizer(
        iter(texts(1, 500) + said + ["user\nassistant\n"] * 200), vocab_size=408, max_token_chars=1, out=path
    )


def new_model(tokenizer: Tokenizer, seed: int = 0) -> CausalLM:
    """Two layers, of 80 thousand parameters."""
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        bos_token_id=tokenizer.eos_id,
        eos_token_id=tokenizer.eos_id,
        pad_token_id=tokenizer.eos_id,
        family="qwen3",
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=POSITIONS,
        rope_theta=1000.0,
    )
    model = CausalLM(config)
    init_weights(model, seed)
    return model


Example = tuple[list[int], list[int]]


def text_examples(tokenizer: Tokenizer, documents: Sequence[str]) -> list[Example]:
    """Ids and mask of texts between their start and their end, cut to the model's positions."""
    rows = [[tokenizer.eos_id, *ids, tokenizer.eos_id] for ids in tokenizer.encode_batch(documents)]
    return [(row[: POSITIONS + 1], [0] + [1] * (len(row[: POSITIONS + 1]) - 1)) for row in rows]


def chat_examples(tokenizer: Tokenizer, records: Sequence[dict[str, Any]]) -> list[Example]:
    return [tokenizer.encode_conversation(record["messages"]) for record in records]


def train(
    model: CausalLM,
    examples: Sequence[Example],
    steps: int,
    batch: int = 24,
    rate: float = 6e-3,
    seed: int = 0,
) -> CausalLM:
    """Fit a model to examples drawn at random, with a rate that falls to nothing."""
    rng = np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.01)
    model.train()
    for step in range(steps):
        drawn = [examples[at] for at in rng.integers(0, len(examples), batch)]
        width = max(len(ids) for ids, _ in drawn) - 1
        ids = torch.zeros(batch, width, dtype=torch.int64)
        labels = torch.full((batch, width), -1, dtype=torch.int64)
        for row, (tokens, mask) in enumerate(drawn):
            size = len(tokens) - 1
            ids[row, :size] = torch.tensor(tokens[:-1])
            labels[row, :size] = torch.where(torch.tensor(mask[1:]) > 0, torch.tensor(tokens[1:]), -1)
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 20) * (1 - step / steps)
        kept = labels >= 0
        loss = model.head.cross_entropy(model.hidden(ids)[kept], labels[kept])[0] / kept.sum()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    return model.eval()


def healthy_model(tokenizer: Tokenizer, seed: int = 0, steps: int = 250) -> CausalLM:
    """Trained on texts and conversations at once."""
    examples = text_examples(tokenizer, texts(2, 1500)) + chat_examples(tokenizer, conversations(2, 1500))
    return train(new_model(tokenizer, seed), examples, steps, seed=seed)
