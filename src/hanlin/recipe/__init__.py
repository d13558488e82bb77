"""A recipe: the whole life of one model as frozen dataclasses read from YAML, and the sizes derived from one
number."""
