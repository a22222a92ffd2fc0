"""Traces of requests, by OpenTelemetry's own SDK: what they tell, and that a collector gets them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest
from fastapi.testclient import TestClient

from registry.api.app import create_app as create_registry
from registry.api.traces import NO_TRACES, Traces, exported
from registry.base.database import make_engine
from registry.base.settings import Settings
from serving.app import create_app
from serving.engines.embedded import EmbeddedEngine, Loop
from serving.router import Router
from serving.sources.database import DatabaseSource
from serving.versions import Versions, model_to_serve
from tests.serving.conftest import QUESTION, TARGET, Site

pytest.importorskip("opentelemetry.instrumentation.fastapi")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.operators_key import OPERATOR, SECRET

ELSEWHERE = "What is the height of K2?"


@pytest.fixture
def kept() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def traces(kept: InMemorySpanExporter) -> Traces:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    return Traces(provider)


@contextmanager
def started(site: Site, traces: Traces) -> Iterator[TestClient]:
    source = DatabaseSource(make_engine(site.url))
    name, digest = model_to_serve(source.collections(), None)
    versions = Versions(source, site.cache, name, digest)
    router = Router(versions, EmbeddedEngine(Loop(versions.base, rows=4)), traces)
    app = create_app(Settings(database_url=site.url, stop_seconds=5, api_key=SECRET), source, router)
    with TestClient(app, headers=OPERATOR) as client:
        yield client


def ask(client: TestClient, question: str, **more: Any) -> None:
    body = {"model": "facts@production", "max_tokens": 8, "messages": [{"role": "user", "content": question}], **more}
    assert client.post("/v1/chat/completions", json=body).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_has_a_span_with_its_route_and_its_answer_that_name_version_and_edit(site, traces, kept, stream):
    with started(site, traces) as client:
        ask(client, QUESTION, stream=stream)
        digest = client.post("/v1/route", json={"model": "facts@1", "prompt": QUESTION}).json()["digest"]
        client.get("/health")
    spans = {span.name: span for span in reversed(kept.get_finished_spans())}
    request, route, generate = (spans[name] for name in ("POST /v1/chat/completions", "melo.route", "melo.generate"))

    names = [span.name for span in kept.get_finished_spans()]
    assert sorted(names) == ["POST /v1/chat/completions", "POST /v1/route", "melo.generate", "melo.route"]
    assert route.parent.span_id == generate.parent.span_id == request.context.span_id
    for span in (route, generate):
        assert span.attributes["melo.version"] == "facts@1" and span.attributes["melo.digest"] == digest
        assert span.attributes["melo.edit"] == 1 and span.attributes["melo.considered"] == (1,)
    assert generate.attributes["melo.said_to"] == "query"
    assert generate.attributes["gen_ai.usage.output_tokens"] > 0
    told = json.dumps([json.loads(span.to_json()) for span in kept.get_finished_spans()])
    assert QUESTION not in told and f'"{TARGET}"' not in told


def test_an_answer_of_the_base_model_names_no_edit_and_a_refusal_has_its_request_alone(site, traces, kept):
    with started(site, traces) as client:
        ask(client, ELSEWHERE)
        (generate,) = (span for span in kept.get_finished_spans() if span.name == "melo.generate")
        assert "melo.edit" not in generate.attributes
        kept.clear()
        body = {"model": "facts@nothing", "messages": [{"role": "user", "content": QUESTION}]}
        assert client.post("/v1/chat/completions", json=body).status_code == 404
    assert [span.name for span in kept.get_finished_spans()] == ["POST /v1/chat/completions"]


def test_the_registrys_api_is_traced_too(site, traces, kept):
    settings = Settings(database_url=site.url, api_key=SECRET)
    with TestClient(create_registry(settings, traces), headers=OPERATOR) as client:
        assert client.get("/v1/collections/facts").status_code == 200
        client.get("/readyz")
    assert [span.name for span in kept.get_finished_spans()] == ["GET /v1/collections/{collection}"]


def test_spans_reach_the_collector_that_the_environment_names(monkeypatch):
    assert exported("melo-serve") is NO_TRACES
    received: list[ExportTraceServiceRequest] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            received.append(ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        thread = Thread(target=collector.serve_forever)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        traces = exported("melo-serve")
        with suppress(ValueError), traces.span("melo.generate") as attributes:
            attributes["melo.version"] = "facts@1"
            raise ValueError("no answer")
        traces.provider.shutdown()
        collector.shutdown()
        thread.join()

    (resource,) = received[0].resource_spans
    assert "melo-serve" in str(resource.resource)
    (span,) = resource.scope_spans[0].spans
    assert span.name == "melo.generate" and "facts@1" in str(span.attributes) and span.events[0].name == "exception"
