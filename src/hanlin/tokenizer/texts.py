"""Documents out of the files a tokenizer may be trained or measured on: plain text and JSON lines, compressed or not.

Cleaning and exotic layouts are the corpus room's; what it writes (`*.jsonl.zst`) is read here.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import zstandard

from hanlin.common.errors import HanlinError


def read_texts(path: Path) -> Iterator[str]:
    """Yield the documents of a file: a .txt file is one document; each line of a .jsonl file has "text" or "messages".

    Raises:
        HanlinError: missing or broken file, not UTF-8, or a line of another layout; file and line are named.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = next((suffix for suffix in reversed(suffixes) if suffix in (".txt", ".md", ".jsonl")), "")
    if not kind:
        raise HanlinError(
            f"{path}：不认识的文件类型。这里读 .txt、.md、.jsonl（可加 .gz、.zst）；其他格式请先用 hanlin corpus build 转换。",
            f"{path}: unknown kind of file. .txt, .md and .jsonl (also .gz, .zst) are read here; convert others with hanlin corpus build first.",
        )
    try:
        with open(path, "rb") as raw, _decompressed(raw, suffixes[-1]) as file:
            if kind == ".jsonl":
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield from _texts_of_line(line, path, number)
            else:
                yield file.read().decode("utf-8-sig")
    except FileNotFoundError:
        raise HanlinError(f"找不到文件 {path}。请检查路径。", f"No such file: {path}. Check the path.") from None
    except UnicodeDecodeError as error:
        raise HanlinError(
            f"{path} 不是 UTF-8（第 {error.start} 字节）。请先用 hanlin corpus build 转换编码。",
            f"{path} is not UTF-8 (at byte {error.start}). Convert it with hanlin corpus build first.",
        ) from None
    except (OSError, EOFError, zstandard.ZstdError) as error:
        raise HanlinError(f"{path} 读不下去：{error}。文件可能不完整，请重新下载。", f"{path} cannot be read: {error}. It may be cut short; fetch it again.") from None


def _decompressed(raw: BinaryIO, suffix: str) -> io.BufferedIOBase:
    if suffix == ".gz":
        return gzip.GzipFile(fileobj=raw)
    if suffix == ".zst":
        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw), 1 << 20)  # type: ignore[arg-type]
    return io.BufferedReader(raw)  # type: ignore[arg-type]


def _texts_of_line(line: bytes, path: Path, number: int) -> Iterator[str]:
    try:
        record: Any = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise HanlinError(f"{path} 第 {number} 行不是 JSON：{error}。", f"{path}, line {number} is not JSON: {error}.") from None
    if isinstance(record, dict) and isinstance(record.get("text"), str):
        yield record["text"]
    elif isinstance(record, dict) and isinstance(record.get("messages"), list):
        for message in record["messages"]:
            for field in ("reasoning_content", "content"):
                if isinstance(message, dict) and isinstance(message.get(field), str):
                    yield message[field]
    else:
        keys = ", ".join(record) if isinstance(record, dict) else type(record).__name__
        raise HanlinError(
            f'{path} 第 {number} 行既没有 "text" 也没有 "messages"；看到的是：{keys}。请先用 hanlin corpus build 转换。',
            f'{path}, line {number} has neither "text" nor "messages"; found: {keys}. Convert it with hanlin corpus build first.',
        )
