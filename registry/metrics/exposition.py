"""A process's own metrics registry, and its output for Prometheus."""

from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE

__all__ = ["CONTENT_TYPE", "new_registry", "page"]


def new_registry() -> CollectorRegistry:
    """Create a registry for one process, with its memory, CPU seconds and open files."""
    # Disable the additional series with creation times: in the plain format nothing reads them.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry


def page(registry: CollectorRegistry) -> bytes:
    """Return all metrics as text, of the type CONTENT_TYPE.

    Always in the plain format, whatever is requested: Prometheus and everything else can read it.
    """
    return generate_latest(registry)
