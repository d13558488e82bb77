"""The terminal chat: one conversation, streamed, with the reasoning shown dim."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from hanlin.common.errors import HanlinError
from hanlin.common.messages import Text, tr
from hanlin.common.terminal import for_stream
from hanlin.inference.engine import Engine
from hanlin.inference.generate import encode_prompt, load_chat_model, sampling_defaults
from hanlin.inference.generation import Generation
from hanlin.inference.sampling import SamplingParams, derive_seed
from hanlin.inference.text import ReplyParser

if TYPE_CHECKING:
    from hanlin.tokenizer import Tokenizer

THINKING = {"on": True, "off": False, "auto": None}
COMMANDS = [
    ("/retry", Text("answer the last question again")),
    ("/think on|off|auto", Text("think first; answer at once; let the model decide")),
    ("/temp 0.7", Text("temperature: higher is more varied, 0 takes the likeliest token")),
    ("/system TEXT", Text("set the system prompt and start anew")),
    ("/reset", Text("forget the conversation")),
    ("/save FILE.jsonl", Text("append the conversation to a file, ready for fine-tuning")),
    ("/quit", Text("leave (or Ctrl-D)")),
]
PASTE_PAUSE = 0.03  # seconds without another line after which what was pasted is whole


def chat(
    model_dir: Path | str,
    *,
    adapter: Path | None = None,
    system: str | None = None,
    thinking: str = "auto",
    max_new_tokens: int = 1024,
    temperature: float | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    device: str | None = None,
    source: TextIO | None = None,
    output: TextIO | None = None,
) -> None:
    """Talk to a model, from a terminal or a pipe, until the input ends or /quit.

    Args:
        model_dir: a model's directory, or a run's.
        adapter: directory of one that was trained on it.
        thinking: on, off, or auto (the model decides).
        temperature, top_p: what the model's generation config says when absent.
        source, output: standard input and output when absent.

    Raises:
        HanlinError: no model there, or an unknown choice of `thinking`.
    """
    if thinking not in THINKING:
        raise HanlinError("thinking is on, off or auto, not {thinking!r}.", thinking=thinking)
    lines = source or sys.stdin
    if lines is None:  # closed by whoever started this process
        raise HanlinError(
            "Standard input is closed, so there is nowhere to read your words from. Run this in a "
            "terminal, or pipe text in."
        )
    settings: dict[str, Any] = {"temperature": 0.7, "top_p": 0.9, **sampling_defaults(model_dir)}
    settings |= {
        name: value for name, value in (("temperature", temperature), ("top_p", top_p)) if value is not None
    }
    params = SamplingParams(max_new_tokens=max_new_tokens, seed=seed, **settings)
    model, tokenizer = load_chat_model(model_dir, device, adapter)
    session = ChatSession(
        Engine(model, tokenizer, max_batch=1),
        tokenizer,
        params,
        output or sys.stdout,
        system,
        THINKING[thinking],
    )
    if lines.isatty():
        session.say(tr("Say something. /help for commands, Ctrl-C stops a reply, Ctrl-D leaves."))
    for line in read_lines(lines, session):
        if not session.handle(line):
            break


class ChatSession:
    """A conversation, its settings, and the commands that change them."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        params: SamplingParams,
        output: TextIO,
        system: str | None,
        thinking: bool | None,
    ):
        self.engine = engine
        self.tokenizer = tokenizer
        self.params = params
        self.output = output
        self.system = system
        self.thinking = thinking
        self.messages: list[dict[str, str]] = []
        self.retries = 0
        self.colour = output.isatty() and "NO_COLOR" not in os.environ

    def handle(self, line: str) -> bool:
        """Obey a command or answer a message; False when the conversation is over."""
        text = line.strip()
        if not text:
            return True
        if not text.startswith("/") or "\n" in text:  # several lines are pasted text, whatever it begins with
            self.reply(text)
            return True
        command, _, argument = text.partition(" ")
        argument = argument.strip()
        if command in ("/quit", "/exit"):
            return False
        if command == "/reset":
            self.messages = []
            self.say(tr("The conversation is empty again."))
        elif command == "/system":
            self.system = argument or None
            self.messages = []
            self.say(
                tr("System prompt set; starting anew.")
                if argument
                else tr("System prompt removed; starting anew.")
            )
        elif command == "/think" and argument in THINKING:
            self.thinking = THINKING[argument]
            self.say(tr("Thinking: {argument}", argument=argument))
        elif command == "/retry":
            self.retry()
        elif command == "/temp":
            self.set_temperature(argument)
        elif command == "/save":
            self.save(argument)
        else:
            self.say("\n".join(f"{name:<22}{what}" for name, what in COMMANDS))
        return True

    def retry(self) -> None:
        """Answer the last question again, with other draws."""
        if not self.messages:
            self.say(tr("There is no question to answer again yet."))
            return
        question = self.messages[-2]["content"]
        del self.messages[-2:]
        self.retries += 1
        self.reply(question)

    def set_temperature(self, argument: str) -> None:
        """Change the temperature from here on."""
        try:
            self.params = dataclasses.replace(self.params, temperature=float(argument))
        except HanlinError as error:
            self.say(str(error))
        except ValueError:
            self.say(tr("Usage: /temp 0.7 (0 always takes the likeliest token)"))
        else:
            self.say(tr("Temperature: {temperature:g}", temperature=self.params.temperature))

    def save(self, argument: str) -> None:
        """Append the conversation to a file, one line of JSON in the schema that fine-tuning reads."""
        if not argument or not self.messages:
            self.say(tr("Usage: /save FILE.jsonl (once something was said)"))
            return
        head = [{"role": "system", "content": self.system}] if self.system else []
        path = Path(argument).expanduser()
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"messages": head + self.messages}, ensure_ascii=False) + "\n")
        except OSError as error:
            self.say(tr("Not saved: {path} ({error})", path=path, error=error.strerror))
        else:
            self.say(tr("Appended to {path}", path=path))

    def reply(self, text: str) -> None:
        """Answer `text`, printing as the tokens come; Ctrl-C keeps what has been said so far."""
        prompt = self._prompt([*self.messages, {"role": "user", "content": text}])
        if prompt is None:
            self.say(tr("This message is longer than the model's context; shorten it."))
            return
        self.messages.append({"role": "user", "content": text})
        parser = ReplyParser(self.tokenizer, reasoning=self.thinking is True)
        parts: dict[str, str] = {"reasoning": "", "content": ""}
        shown: str | None = None

        def show(pieces: list[tuple[Any, str]]) -> None:
            nonlocal shown
            for channel, piece in pieces:
                if channel != shown:
                    self._open(channel, first=shown is None)
                    shown = channel
                parts[channel] += piece
                self.output.write(for_stream(piece, self.output))
            self.output.flush()

        params = self.params
        if params.seed is not None and self.retries:
            params = dataclasses.replace(params, seed=derive_seed(params.seed, self.retries))
        generation = Generation(prompt, params, on_token=lambda _, token: show(parser.push(token)))
        began = time.perf_counter()
        interrupted = False
        try:
            self.engine.submit(generation)
            while self.engine.step():
                pass
            show(parser.finish())
        except KeyboardInterrupt:
            self.engine.abort("cancelled")
            interrupted = True
        finally:
            if self.colour:
                self.output.write("\x1b[0m")
            self.output.write("\n")
            self.output.flush()
        answer = {"role": "assistant", "content": parts["content"]}
        if parts["reasoning"]:
            answer["reasoning_content"] = parts["reasoning"]
        self.messages.append(answer)
        if generation.finish_reason == "error":
            self.say(tr("The model produced non-finite numbers; the reply was cut off."))
        elif interrupted:
            self.say(tr("(stopped)"))
        elif not any(parts.values()):
            self.say(tr("(the model ended at once and said nothing)"))
        elif self.colour:
            rate = len(generation.ids) / max(time.perf_counter() - began, 1e-9)
            self.say(tr("{count} tokens · {rate:.0f} tokens/s", count=len(generation.ids), rate=rate))

    def say(self, text: str) -> None:
        """A line from the program itself, on standard error so that a pipe carries the model's words only."""
        print(f"\x1b[2m{text}\x1b[0m" if self.colour else text, file=sys.stderr, flush=True)

    def _prompt(self, messages: list[dict[str, str]]) -> list[int] | None:
        """The conversation as token ids; the oldest exchanges are left out while less than a quarter of the
        context is free."""
        head = [{"role": "system", "content": self.system}] if self.system else []
        room = self.engine.max_length - min(self.params.max_new_tokens, self.engine.max_length // 4)
        kept = messages
        while True:
            ids = encode_prompt(self.tokenizer, head + kept, self.thinking)
            if len(ids) <= room:
                break
            if len(kept) == 1:
                return ids if len(ids) < self.engine.max_length else None
            kept = kept[2:]
        if len(kept) < len(messages):
            self.say(
                tr(
                    "(the conversation is long; its first {count} messages were left out)",
                    count=len(messages) - len(kept),
                )
            )
        return ids

    def _open(self, channel: str, first: bool) -> None:
        """Begin a stretch of reasoning or of answer."""
        if not first:
            self.output.write("\n\n")
        if channel == "reasoning":
            self.output.write("\x1b[2m" if self.colour else tr("[thinking] "))
        else:
            self.output.write("\x1b[0m" if self.colour else "" if first else tr("[answer] "))


def read_lines(source: TextIO, session: ChatSession) -> Iterator[str]:
    """Messages typed or pasted into a terminal, or lines of a pipe; bytes that are not UTF-8 become
    U+FFFD."""
    if not source.isatty():
        with contextlib.suppress(KeyboardInterrupt):
            for line in source:
                yield line.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        return
    with contextlib.suppress(ImportError):
        import readline  # gives input() arrow keys and history

        # Python turns it off. With it the terminal marks what is pasted, and line breaks in it do not send.
        readline.parse_and_bind("set enable-bracketed-paste on")
    while True:
        try:
            lines = [input("» ")]
            while select.select([source], [], [], PASTE_PAUSE)[
                0
            ]:  # a terminal that marks nothing sends the next line at once
                lines.append(input(""))
        except KeyboardInterrupt:
            session.say(tr("\nCtrl-D or /quit leaves."))
        except EOFError:
            return
        else:
            yield "\n".join(lines).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
