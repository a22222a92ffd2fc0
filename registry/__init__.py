"""The record: every correction, who made it, what came of it. No torch here."""

__version__ = "0.1.0"
