"""Checkpoints of a training in progress: their format, and the thread that writes them."""
