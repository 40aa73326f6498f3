"""skyq: a GPU job queue over SSH in one file. Imports nothing."""

__version__ = "0.1.0"
