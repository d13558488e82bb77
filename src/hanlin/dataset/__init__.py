"""From text to rows of tokens: shards on disk, loss masks, packing and the order of samples."""

from hanlin.dataset.packing import (
    IGNORE_INDEX,
    Batch,
    ConversationRows,
    TextRows,
    pack_sequences,
    permutation,
)
from hanlin.dataset.shards import (
    DocumentSources,
    TokenDataset,
    TokenDatasetWriter,
    TooLong,
    build_conversation_dataset,
    build_text_dataset,
    too_long_warning,
)
from hanlin.dataset.tail import Tail, tail_alarm

__all__ = [
    "IGNORE_INDEX",
    "Batch",
    "ConversationRows",
    "Tail",
    "TextRows",
    "DocumentSources",
    "TokenDataset",
    "TokenDatasetWriter",
    "TooLong",
    "build_conversation_dataset",
    "build_text_dataset",
    "pack_sequences",
    "permutation",
    "tail_alarm",
    "too_long_warning",
]
