"""A process's own collection of metrics, and how it is written for Prometheus."""

from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE

__all__ = ["CONTENT_TYPE", "new_registry", "page"]


def new_registry() -> CollectorRegistry:
    """For one process, with its memory, CPU seconds and open files."""
    # A second series beside each, for when it began: in the plain format nothing reads it.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry


def page(registry: CollectorRegistry) -> bytes:
    """All metrics as text, of the type CONTENT_TYPE.

    Always in the plain format, whatever is asked for: Prometheus reads it, and so does everything else.
    """
    return generate_latest(registry)
