"""From text to rows of tokens: shards on disk, loss masks, packing and the order of samples."""

from .packing import IGNORE, Batch, ConversationRows, TextRows, pack_sequences, permutation
from .shards import TokenDataset, TokenDatasetWriter, build_conversation_dataset, build_text_dataset

__all__ = [
    "IGNORE", "Batch", "ConversationRows", "TextRows", "TokenDataset", "TokenDatasetWriter",
    "build_conversation_dataset", "build_text_dataset", "pack_sequences", "permutation",
]  # fmt: skip
