"""Traces by OpenTelemetry: a span for each request, exported where OTEL_EXPORTER_OTLP_ENDPOINT names a collector.

The extra `otel` brings the packages. Without them, or without a collector, there are no spans.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from fastapi import FastAPI

log = structlog.get_logger("melo.traces")

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
NOT_TRACED = "/health$,/healthz$,/readyz$,/metrics$"  # asked every few seconds


@dataclass(frozen=True)
class Traces:
    """Where spans go.

    provider: OpenTelemetry's TracerProvider; None: spans are not even begun.
    """

    provider: Any = None

    @contextmanager
    def span(self, name: str) -> Iterator[dict[str, Any]]:
        """Trace what runs meanwhile, within the request's span. Yields the attributes, to be filled.

        It is not made the current span, so that it may begin in one task and end in another.
        """
        attributes: dict[str, Any] = {}
        if self.provider is None:
            yield attributes
            return
        span = self.provider.get_tracer("melo").start_span(name)
        try:
            yield attributes
        except Exception as error:
            span.record_exception(error)
            raise
        finally:
            span.set_attributes(attributes)
            span.end()

    def instrument(self, app: FastAPI) -> None:
        """Trace an application's requests, but for those that ask for its health or metrics."""
        if self.provider is not None:
            from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

            FastAPIInstrumentor.instrument_app(
                app,
                tracer_provider=self.provider,
                excluded_urls=NOT_TRACED,
                exclude_spans=["send", "receive"],  # else each token of a stream has one
            )


NO_TRACES = Traces()


def exported(service: str) -> Traces:
    """Return traces that are sent to the collector that the environment names, if it does.

    service: the program's name there, unless OTEL_SERVICE_NAME gives one. OpenTelemetry's other variables apply.
    """
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return NO_TRACES
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        log.warning("traces are not exported", missing=error.name, remedy="pip install 'melo-registry[otel]'")
        return NO_TRACES
    own = {SERVICE_NAME: os.environ.get("OTEL_SERVICE_NAME") or service}
    provider = TracerProvider(resource=Resource.create(own))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Traces(provider)
