"""Documents that say the same: fingerprints, their sketches on disk, the search over all of them, and
decontamination."""
