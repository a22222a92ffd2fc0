"""Opens the source of versions that a command names."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cli.invocation import Invocation
from worker.record import record_of

if TYPE_CHECKING:
    from serving.sources.port import Source


@contextmanager
def opened(call: Invocation, registry: str) -> "Iterator[Source]":
    """Open the registry's API, or its database if no URL is given. Raises CommandError where neither answers."""
    if registry:
        from serving.sources.http import HttpSource

        key = call.settings.api_key
        yield HttpSource(registry, key.get_secret_value() if key else None)
        return
    with record_of(call) as sessions:
        from serving.sources.database import DatabaseSource

        yield DatabaseSource(sessions.kw["bind"])
