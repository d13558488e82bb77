"""The command line: one file per noun. Verbs import what they need when they run, so that `--help` loads no
torch."""
