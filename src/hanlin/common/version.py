"""The version of this package, which manifests and savepoints name."""

__version__ = "0.1.0"
