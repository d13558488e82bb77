"""Where a stage's records come from: the user's files, or the embedded tinyworld. A new kind of source is one
file."""
