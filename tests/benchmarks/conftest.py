"""The worker's collection over a tiny model."""

from tests.worker.conftest import tiny_folder, tiny_workflow

__all__ = ["tiny_folder", "tiny_workflow"]
