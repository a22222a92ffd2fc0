"""How long tests wait for what will come: longer than a slow, busy machine needs; only what hangs gets there."""

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE = 600.0  # seconds

T = TypeVar("T")


def works(act: Callable[[], object], *errors: type[Exception]) -> Callable[[], bool]:
    """Return whether it raises none of these errors, as a question to be asked again."""

    def asked() -> bool:
        try:
            act()
        except errors:
            return False
        return True

    return asked


def until(happens: Callable[[], T], pause: float = 0.05) -> T:
    """Wait until it gives something true, and return that. Raises AssertionError."""
    end = time.monotonic() + PATIENCE
    while not (found := happens()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(pause)
    return found
