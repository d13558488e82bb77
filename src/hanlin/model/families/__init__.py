"""The rows of the families that come with the package; importing this room registers them."""

from hanlin.model.families import gpt2, llama

__all__ = ["gpt2", "llama"]
