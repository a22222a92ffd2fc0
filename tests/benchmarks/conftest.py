"""The worker's collection over a tiny model."""

from tests.worker.conftest import tiny_desk, tiny_folder

__all__ = ["tiny_desk", "tiny_folder"]
