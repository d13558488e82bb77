"""The terminal chat: one conversation, streamed, with the reasoning shown dim."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ..common.errors import HanlinError, tr
from .engine import Engine
from .generate import encode_prompt, load_chat_model, sampling_defaults
from .generation import Generation
from .sampling import SamplingParams
from .text import ReplyParser

if TYPE_CHECKING:
    from ..tokenizer import Tokenizer

THINKING = {"on": True, "off": False, "auto": None}


def chat(
    model_dir: Path | str,
    *,
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
        thinking: on, off, or auto (the model decides).
        temperature, top_p: what the model's generation config says when absent.
        source, output: standard input and output when absent.

    Raises:
        HanlinError: no model there, or an unknown choice of `thinking`.
    """
    if thinking not in THINKING:
        raise HanlinError(f"thinking 应为 on、off 或 auto，不是 {thinking!r}。", f"thinking is on, off or auto, not {thinking!r}.")
    model, tokenizer = load_chat_model(model_dir, device)
    settings: dict[str, Any] = {"temperature": 0.7, "top_p": 0.9, **sampling_defaults(model_dir)}
    settings |= {name: value for name, value in (("temperature", temperature), ("top_p", top_p)) if value is not None}
    params = SamplingParams(max_new_tokens=max_new_tokens, seed=seed, **settings)
    session = ChatSession(Engine(model, tokenizer, max_batch=1), tokenizer, params, output or sys.stdout, system, THINKING[thinking])
    lines = source or sys.stdin
    if lines.isatty():
        session.say(
            tr(
                "说点什么吧。/help 看命令，Ctrl-C 打断回答，Ctrl-D 退出。",
                "Say something. /help for commands, Ctrl-C stops a reply, Ctrl-D leaves.",
            )
        )
    for line in read_lines(lines, session):
        if not session.handle(line):
            break


class ChatSession:
    """A conversation, its settings, and the commands that change them."""

    def __init__(
        self, engine: Engine, tokenizer: Tokenizer, params: SamplingParams, output: TextIO, system: str | None, thinking: bool | None
    ):
        self.engine = engine
        self.tokenizer = tokenizer
        self.params = params
        self.output = output
        self.system = system
        self.thinking = thinking
        self.messages: list[dict[str, str]] = []
        self.colour = output.isatty() and "NO_COLOR" not in os.environ

    def handle(self, line: str) -> bool:
        """Obey a command or answer a message; False when the conversation is over."""
        command, _, argument = line.strip().partition(" ")
        argument = argument.strip()
        if not command:
            return True
        if command in ("/quit", "/exit"):
            return False
        if command == "/reset":
            self.messages = []
            self.say(tr("对话已清空。", "The conversation is empty again."))
        elif command == "/system":
            self.system = argument or None
            self.messages = []
            self.say(
                tr(
                    "系统提示已设定，对话从头开始。" if argument else "系统提示已取消，对话从头开始。",
                    "System prompt set; starting anew." if argument else "System prompt removed; starting anew.",
                )
            )
        elif command == "/think" and argument in THINKING:
            self.thinking = THINKING[argument]
            self.say(tr(f"思考：{argument}", f"Thinking: {argument}"))
        elif command.startswith("/"):
            self.say(
                tr(
                    "命令：/reset 重新开始  /system 文字  /think on|off|auto  /quit",
                    "Commands: /reset  /system TEXT  /think on|off|auto  /quit",
                )
            )
        else:
            self.reply(line.strip())
        return True

    def reply(self, text: str) -> None:
        """Answer `text`, printing as the tokens come; Ctrl-C keeps what has been said so far."""
        prompt = self._prompt([*self.messages, {"role": "user", "content": text}])
        if prompt is None:
            self.say(tr("这条消息比模型的上下文还长，请缩短。", "This message is longer than the model's context; shorten it."))
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
                self.output.write(piece)
            self.output.flush()

        generation = Generation(prompt, self.params, on_token=lambda _, token: show(parser.push(token)))
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
        self.messages.append({"role": "assistant", "content": parts["content"]})
        if generation.finish_reason == "error":
            self.say(tr("模型输出了非有限的数值，回答中断。", "The model produced non-finite numbers; the reply was cut off."))
        elif interrupted:
            self.say(tr("（已停止）", "(stopped)"))
        elif self.colour:
            rate = len(generation.ids) / max(time.perf_counter() - began, 1e-9)
            self.say(tr(f"{len(generation.ids)} 词元 · {rate:.0f} 词元/秒", f"{len(generation.ids)} tokens · {rate:.0f} tokens/s"))

    def say(self, text: str) -> None:
        """A line from the program itself, on standard error so that a pipe carries the model's words only."""
        print(f"\x1b[2m{text}\x1b[0m" if self.colour else text, file=sys.stderr, flush=True)

    def _prompt(self, messages: list[dict[str, str]]) -> list[int] | None:
        """The conversation as token ids; the oldest exchanges are left out while less than a quarter of the context is free."""
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
                    f"（对话太长，最早的 {len(messages) - len(kept)} 条没有给模型看）",
                    f"(the conversation is long; its first {len(messages) - len(kept)} messages were left out)",
                )
            )
        return ids

    def _open(self, channel: str, first: bool) -> None:
        """Begin a stretch of reasoning or of answer."""
        if not first:
            self.output.write("\n\n")
        if channel == "reasoning":
            self.output.write("\x1b[2m" if self.colour else tr("[思考] ", "[thinking] "))
        else:
            self.output.write("\x1b[0m" if self.colour else "" if first else tr("[回答] ", "[answer] "))


def read_lines(source: TextIO, session: ChatSession) -> Iterator[str]:
    """Lines of a terminal (with editing) or of a pipe; bytes that are not UTF-8 become U+FFFD."""
    if not source.isatty():
        with contextlib.suppress(KeyboardInterrupt):
            for line in source:
                yield line.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  gives input() arrow keys and history
    while True:
        try:
            yield input("» ").encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        except KeyboardInterrupt:
            session.say(tr("\n要退出请按 Ctrl-D 或输入 /quit。", "\nCtrl-D or /quit leaves."))
        except EOFError:
            return
