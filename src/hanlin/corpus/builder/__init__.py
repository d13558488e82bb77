"""The corpus artefact, in tasks that one process, many or a cluster bring to the same files. `build` is the
door."""
