"""Rewards: what an answer is worth. A new one is one file that registers a configuration by its kind."""
