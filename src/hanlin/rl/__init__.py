"""Reinforcement learning's parts: what an answer is rewarded for."""
