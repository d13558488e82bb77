"""Public data sets by name: a catalogue, two hubs, and downloads that are resumed, bounded and checked."""
