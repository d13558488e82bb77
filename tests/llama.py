"""llama.cpp as a judge of what Hanlin exports, by way of `xllamacpp`, whose wheels bring it compiled.

Continuations and probabilities come from its server, in this process. Ids come from the C function behind the
server's: it takes any bytes and is a thousand times faster than a request.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy

HAVE_LLAMA = importlib.util.find_spec("xllamacpp") is not None
WHY_NOT = (
    "xllamacpp is not installed (it has wheels for Linux on x86-64, macOS and Windows): "
    "llama.cpp does not judge here"
)


class _Parameters(ctypes.Structure):
    """llama.h's `llama_model_params`, handed on as it came: larger than it, and passed in memory either way,
    it needs no fields."""

    _fields_ = [("bytes", ctypes.c_char * 1024)]


def _library() -> ctypes.CDLL:
    import xllamacpp.xllamacpp as module

    library = ctypes.CDLL(module.__file__)
    library.llama_model_default_params.restype = _Parameters
    library.llama_model_load_from_file.argtypes = [ctypes.c_char_p, _Parameters]
    library.llama_model_load_from_file.restype = ctypes.c_void_p
    library.llama_model_get_vocab.argtypes = [ctypes.c_void_p]
    library.llama_model_get_vocab.restype = ctypes.c_void_p
    library.llama_tokenize.argtypes = [
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_int32,
        ctypes.c_void_p,
        ctypes.c_int32,
        ctypes.c_bool,
        ctypes.c_bool,
    ]
    return library


class LlamaVocabulary:
    """The tokenizer of a GGUF file; control tokens in a text are text."""

    def __init__(self, file: Path):
        self._library = _library()
        self._model = self._library.llama_model_load_from_file(
            str(file).encode(), self._library.llama_model_default_params()
        )
        assert self._model, file
        self._vocabulary = self._library.llama_model_get_vocab(self._model)

    def ids(self, data: bytes) -> numpy.ndarray:
        room = 3 * len(data) + 8  # a byte that is no UTF-8 becomes the three of U+FFFD
        buffer = (ctypes.c_int32 * room)()
        count = self._library.llama_tokenize(self._vocabulary, data, len(data), buffer, room, False, False)
        assert count >= 0
        return numpy.frombuffer(buffer, dtype=numpy.int32, count=count).astype(numpy.uint32)

    def ids_of_all(self, texts: Sequence[bytes], threads: int = 2) -> list[numpy.ndarray]:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(self.ids, texts))


class LlamaServer:
    """llama.cpp's server on a GGUF file, in single precision throughout."""

    def __init__(self, file: Path, context: int = 256, size: int = 0, adapters: Sequence[Path] = ()):
        import xllamacpp

        parameters = xllamacpp.CommonParams()
        loras = []
        for adapter in adapters:
            lora = xllamacpp.CommonAdapterLoraInfo()
            lora.path, lora.scale = str(adapter), 1.0
            loras.append(lora)
        parameters.lora_adapters = loras
        parameters.model.path = str(file)
        parameters.n_ctx, parameters.n_parallel, parameters.warmup, parameters.verbosity = (
            context,
            1,
            False,
            -1,
        )
        parameters.cpuparams.n_threads = 1
        # it rounds
        parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        self._server = xllamacpp.Server(parameters)
        self._size = size

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            self._server.listening_address + path,
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def _complete(self, prompt: list[int], **asked: Any) -> dict[str, Any]:
        """The server's own endpoint: only there are all tokens named, whether or not they spell whole
        characters."""
        return self._post(
            "/completion",
            {"prompt": prompt, "temperature": 0.0, "cache_prompt": False, "return_tokens": True} | asked,
        )

    def render(self, messages: list[dict[str, Any]]) -> str:
        """A conversation through the file's template, up to the assistant's turn."""
        return self._post("/apply-template", {"messages": messages})["prompt"]

    def log_probs(self, prompt: list[int]) -> numpy.ndarray:
        """log p of every token of the vocabulary after a prompt, (V,)."""
        found = numpy.full(self._size, numpy.nan)
        # It reports of tokens that end a character only, so `a` is made to come next; what is reported is
        # without that.
        said = self._complete(prompt, n_predict=1, n_probs=self._size, logit_bias=[[ord("a"), 100.0]])
        for entry in said["completion_probabilities"][0]["top_logprobs"]:
            found[entry["id"]] = entry["logprob"]
        return found

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        """The most likely tokens, one after another, of those that end nothing."""
        return self._complete(prompt, n_predict=count, ignore_eos=True)["tokens"]
