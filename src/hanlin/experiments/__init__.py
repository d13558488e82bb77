"""Comparisons of trainings: ablations of a recipe's ingredients, miniseries for scaling laws, and the trials
both are made of."""
