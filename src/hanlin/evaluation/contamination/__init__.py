"""Whether a model has seen what it is asked: items looked up in its training texts, the published order of
items, and canaries, which show that what looks for contamination would have found some."""
