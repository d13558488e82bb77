"""Generation: sampling, the batched engine, text as it arrives, the terminal chat. Knows nothing of training or of HTTP."""

from .engine import Engine
from .generate import encode_prompt, generate_text, load_chat_model, resolve_model_dir, sampling_defaults
from .generation import Completion, Generation
from .sampling import SamplingParams, derive_seed
from .text import IncrementalDecoder, ReplyParser, StopStrings, split_reply

__all__ = [
    "Completion",
    "Engine",
    "Generation",
    "IncrementalDecoder",
    "ReplyParser",
    "SamplingParams",
    "StopStrings",
    "derive_seed",
    "encode_prompt",
    "generate_text",
    "load_chat_model",
    "resolve_model_dir",
    "sampling_defaults",
    "split_reply",
]
