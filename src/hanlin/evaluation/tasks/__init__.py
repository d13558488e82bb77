"""Tasks: held-out prompts with an exact judge. A new one registers itself by name (`base.register_task`)."""

from hanlin.evaluation.tasks import tinyworld as tinyworld  # registers its tasks
