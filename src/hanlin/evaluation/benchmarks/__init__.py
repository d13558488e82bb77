"""Benchmarks as published: items, prompts, licences. `base.register_benchmark` adds one."""

from hanlin.evaluation.benchmarks import c3 as c3
