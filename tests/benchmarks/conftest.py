"""The worker's collection over a tiny model, and the encoder."""

from tests.melo_core.conftest import encoder
from tests.worker.conftest import tiny_folder, tiny_workflow

__all__ = ["encoder", "tiny_folder", "tiny_workflow"]
