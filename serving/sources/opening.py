"""Opens the source of versions that a command names."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cli.errors import CommandError
from cli.invocation import Invocation
from worker.record import record_of

if TYPE_CHECKING:
    from registry.collections.schemas import CollectionView
    from serving.sources.port import Source

POLL_SECONDS = 1.0  # between looks for the first collection


@contextmanager
def opened(call: Invocation, registry: str) -> "Iterator[Source]":
    """Open the registry's API, or its database if no URL is given. Raises CommandError where neither answers."""
    if registry:
        from serving.sources.http import HttpSource

        yield HttpSource(registry, call.key_for(registry))
        return
    with record_of(call) as sessions:
        from registry.audit.trust import signing_of
        from serving.sources.database import DatabaseSource

        yield DatabaseSource(sessions.kw["bind"], signing_of(call.settings))


def collections_in(source: "Source", call: Invocation) -> "list[CollectionView]":
    """Return the collections, once there is one. Torch is loaded only then. Raises CommandError."""
    from serving.sources.port import SourceUnavailable

    says_so = False
    try:
        while not (found := source.collections()):
            if not says_so:
                says_so = True
                call.err.print("There is no collection yet. Make one: melo collection create NAME --model MODEL")
            time.sleep(POLL_SECONDS)
    except SourceUnavailable as error:
        remedy = "Check --registry (MELO_SERVE_REGISTRY), and the key in MELO_API_KEY, which needs the role viewer."
        raise CommandError("The registry does not answer", error.detail, remedy) from None
    return found
