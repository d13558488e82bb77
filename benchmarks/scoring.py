"""What scoring prompts together brings: the requests that lm-evaluation-harness sends (`echo`, `logprobs: 1`,
`max_tokens: 1`, token ids), to servers in processes of their own.

    python benchmarks/scoring.py [--requests 64] [--tokens 40] [--rounds 15] [--hidden 64] [--layers 2]
        [--vocab 1000]

The same prompts as one request, as requests at the same time, and one request after another; each to `hanlin
serve` and to one that is made to score them one by one and to read each again for the token it wants, as it
would without batches. Then the engine alone. Arms take turns; medians and the quartiles around them. The
model has random weights: what they are costs nothing.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import torch

from hanlin.inference import Engine, Generation, SamplingParams
from hanlin.model import CausalLM, ModelConfig, save_weights
from hanlin.serving.scoring import choose
from hanlin.tokenizer import train_tokenizer

ONE_BY_ONE = """
import sys
from hanlin.inference import Engine
from hanlin.serving import scoring, serve
scoring.choose = lambda lengths, budget: [0]
Engine.submit_scored = lambda self, generations, hidden: [self.submit(each) for each in generations]
serve(sys.argv[1], port=0)
"""


class Client:
    """Connections that stay open, as an evaluation harness keeps them."""

    def __init__(self, port: int, prompts: list[list[int]]):
        self.prompts = prompts
        self.connections = [http.client.HTTPConnection("127.0.0.1", port, timeout=60) for _ in prompts]

    def ask(self, connection: http.client.HTTPConnection, prompt: list[int] | list[list[int]]) -> None:
        """One request, its answer read and checked for length."""
        body = {"prompt": prompt, "echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0, "seed": 1}
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        choices = json.loads(connection.getresponse().read())["choices"]
        prompts = prompt if isinstance(prompt[0], list) else [prompt]
        for choice, one in zip(choices, prompts, strict=True):
            assert len(choice["logprobs"]["token_logprobs"]) == len(one) + 1  # type: ignore[arg-type]

    def one_after_another(self) -> None:
        """Each prompt a request, on one connection."""
        for prompt in self.prompts:
            self.ask(self.connections[0], prompt)

    def at_the_same_time(self) -> None:
        """Each prompt a request, all at once."""
        threads = [
            threading.Thread(target=self.ask, args=pair)
            for pair in zip(self.connections, self.prompts, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def in_one_request(self) -> None:
        """All prompts one request."""
        self.ask(self.connections[0], self.prompts)


def texts(seed: int = 1) -> Iterator[str]:
    """Random sentences of 4,000 words that a tokenizer can learn."""
    random = Random(seed)
    words = ["".join(chr(0x4E00 + random.randrange(3000)) for _ in range(1 + i % 3)) for i in range(4000)]
    for _ in range(20_000):
        yield "".join(random.choices(words, k=12)) + "。"


class Server:
    """`serve` of a model's folder in a process of its own, a program given or `hanlin serve`."""

    def __init__(self, folder: Path, program: str | None = None):
        command = ["-m", "hanlin", "serve", str(folder), "--port", "0"]
        self.process = subprocess.Popen(
            [sys.executable, *(command if program is None else ["-c", program, str(folder)])],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "HANLIN_LANG": "en"},
        )
        assert self.process.stderr is not None
        address = re.search(r"API http://127\.0\.0\.1:(\d+)/v1", self.process.stderr.readline())
        assert address is not None
        self.port = int(address[1])

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)


PARAMS = SamplingParams(max_new_tokens=1, temperature=0, logprobs=True, top_logprobs=1)


def read_twice(engine: Engine, prompts: list[list[int]]) -> None:
    """Score each prompt by itself, then read it again for the token that follows."""
    for prompt in prompts:
        engine.score([prompt], [1])
        engine.submit(Generation(prompt, PARAMS))
        while engine.step():
            pass


def read_once(engine: Engine, prompts: list[list[int]]) -> None:
    """Score all prompts in the passes that the server would choose without a limit of time."""
    waiting = list(prompts)
    while waiting:
        chosen = choose([len(prompt) for prompt in waiting], 8192)
        batch = [waiting[index] for index in chosen]
        hidden = engine.score(batch, [1] * len(batch))[1]
        engine.submit_scored([Generation(prompt, PARAMS) for prompt in batch], hidden)
        waiting = [prompt for index, prompt in enumerate(waiting) if index not in set(chosen)]


def measure(arms: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each arm in each round; the arms take turns, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(rounds + 1):
        for name, arm in arms.items():
            began = time.perf_counter()
            arm()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def main() -> None:
    """Serve, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=64, help="64 at most")
    parser.add_argument(
        "--tokens", type=int, default=40, help="of a prompt on average, half to 1.5 times that"
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--vocab", type=int, default=1000)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        run(options, Path(name))


def run(options: argparse.Namespace, folder: Path) -> None:
    """The benchmark, with the model in a folder."""
    tokenizer = train_tokenizer(texts(), options.vocab, folder / "tokenizer")
    tokenizer.save(folder)
    model = CausalLM(
        ModelConfig(
            vocab_size=tokenizer.vocab_size,
            hidden_size=options.hidden,
            num_hidden_layers=options.layers,
            num_attention_heads=options.hidden // 32,
            num_key_value_heads=options.hidden // 64,
            max_position_embeddings=512,
        )
    ).eval()
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(
        options.tokens // 2, options.tokens * 3 // 2 + 1, (options.requests,), generator=generator
    ).tolist()
    prompts = [
        torch.randint(0, tokenizer.vocab_size, (length,), generator=generator).tolist() for length in lengths
    ]
    save_weights(model, folder)
    engine = Engine(model, [])
    with Server(folder) as batched, Server(folder, ONE_BY_ONE) as slow:
        new, old = Client(batched.port, prompts), Client(slow.port, prompts)
        arms = {
            "one request, one by one": old.in_one_request,
            "one request": new.in_one_request,
            "at the same time, one by one": old.at_the_same_time,
            "at the same time": new.at_the_same_time,
            "one after another, read twice": old.one_after_another,
            "one after another": new.one_after_another,
            "engine, one by one": lambda: read_twice(engine, prompts),
            "engine": lambda: read_once(engine, prompts),
            "engine, scores only, one by one": lambda: [engine.score([p], [1]) for p in prompts] and None,
            "engine, scores only": lambda: engine.score(prompts, [1] * len(prompts)) and None,
        }
        seconds = measure(arms, options.rounds)
    print(
        f"{options.requests} prompts of {min(lengths)} to {max(lengths)} tokens, {sum(lengths)} in all; "
        f"{model.config.parameters() / 1e6:.1f}M parameters, vocabulary of {tokenizer.vocab_size}; "
        f"{options.rounds} rounds; {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    )
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    names = list(arms)
    for index, name in enumerate(names):
        low, _, high = statistics.quantiles(seconds[name], n=4)
        ratio = f"{medians[names[index - 1]] / medians[name]:6.2f} times as fast" if index % 2 else ""
        print(
            f"{name:32} {medians[name] * 1e3:8.1f} ms ({low * 1e3:.1f} to {high * 1e3:.1f}) "
            f"{sum(lengths) / medians[name]:9.0f} tokens/s {ratio}"
        )
    ratio = medians[names[4]] / medians[names[1]]
    print(f"one request, against read twice one after another: {ratio:.1f} times")


if __name__ == "__main__":
    main()
