"""Generation: sampling, the batched engine, text as it arrives, the terminal chat. Knows nothing of training
or of HTTP."""

from hanlin.inference.engine import Engine
from hanlin.inference.generate import (
    encode_prompt,
    generate_text,
    load_chat_model,
    resolve_model_dir,
    sampling_defaults,
)
from hanlin.inference.generation import Completion, Generation
from hanlin.inference.sampling import SamplingParams, derive_seed
from hanlin.inference.scoring import PromptScores
from hanlin.inference.text import IncrementalDecoder, ReplyParser, StopStrings, split_reply

__all__ = [
    "Completion",
    "Engine",
    "Generation",
    "IncrementalDecoder",
    "PromptScores",
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
