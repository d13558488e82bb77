"""Preference optimisation: losses of log-probabilities (`losses`, `reference_free`, `kto`), what they are
computed from (`log_probs`, `reference`), and the stage that trains with them (`objective`, `stage`).

A loss is one dataclass that registers itself; nothing else changes when one is added.
"""
