"""A whole stack on one machine, in one folder, with nothing to install or configure."""

from embedded.stack import Stack, running

__all__ = ["Stack", "running"]
