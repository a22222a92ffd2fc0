"""What the worker keeps in its cache, and reads again only as it was written."""

from pathlib import Path

import torch

from melo_core.encoder import KeyEncoder
from worker.model_cache import ModelCache


class Letters(KeyEncoder):
    """An encoder that counts letters."""

    whitening = None
    in_parts = False
    dimension = 5

    def raw_key(self, text: str, kind: str = "qa") -> torch.Tensor:
        return torch.tensor([float(text.lower().count(letter)) for letter in "aeiou"])

    def require_unedited(self, structure: object) -> None:
        """Accept any: no block changes what letters a text has."""


def fitted(cache: Path) -> tuple[bytes, int]:
    """Return the whitening, and how many texts were encoded for it."""
    encoded: list[int] = []
    data = ModelCache(cache).fitted_whitening(Letters(), "d", 0.01, lambda done, total: encoded.append(done))
    return data, len(encoded)


def test_a_whitening_in_the_cache_that_is_not_what_was_written_is_fitted_again(tmp_path):
    first, encoded = fitted(tmp_path)
    assert encoded > 1000
    assert fitted(tmp_path) == (first, 0)
    (stored,) = (tmp_path / "whitenings").iterdir()
    for spoilt in (b"", b"cut off", stored.read_bytes()[:-1], stored.read_bytes()[:-1] + b"\1"):
        stored.write_bytes(spoilt)
        assert fitted(tmp_path) == (first, encoded)
