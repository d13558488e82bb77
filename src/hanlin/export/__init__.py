"""Leaving the house: GGUF, and the check before step 0 that leaving will be possible."""

from hanlin.export.gguf import check_export, export_gguf

__all__ = ["check_export", "export_gguf"]
