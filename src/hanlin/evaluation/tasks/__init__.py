"""Tasks: held-out prompts with an exact judge. A new one registers itself by name (`base.register_task`)."""
