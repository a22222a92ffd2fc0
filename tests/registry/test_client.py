"""The typed clients, against a real server: each of their methods is written once, so each test runs with both."""

import asyncio
import inspect
import json
import re
import threading
import typing
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from registry.api.app import create_app
from registry.api.openapi import operations
from registry.audit.schemas import VerificationView
from registry.base.settings import Settings
from registry.client import AsyncMeloClient, MeloClient, MeloClientError
from registry.client.calls import call, stream
from registry.client.exchanges import one
from registry.collections.schemas import CollectionView
from registry.jobs import service as queue
from tests.operators_key import KEY

PARIS = {"prompt": "What is the capital of France?", "target": "Paris"}
Connect = Callable[..., Any]


class Awaited:
    """An asynchronous client whose answers are waited for, so that a test can use it like the other."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncMeloClient(*args, **options)

    def __enter__(self) -> "Awaited":
        self._runner.run(self._client.__aenter__())
        return self

    def __exit__(self, *error: Any) -> None:
        self._runner.run(self._client.__aexit__(*error))
        self._runner.close()

    def __getattr__(self, name: str) -> Any:
        def asked(*args: Any, **options: Any) -> Any:
            found = getattr(self._client, name)(*args, **options)
            return self._runner.run(found if inspect.isawaitable(found) else _all(found))

        return asked


async def _all(found: Any) -> list[Any]:
    return [each async for each in found]


@pytest.fixture(params=[MeloClient, Awaited], ids=["at once", "awaited"])
def connect(request: pytest.FixtureRequest) -> Connect:
    return request.param


def test_an_answer_of_another_release_is_told_as_that():
    asking = one(CollectionView, "GET", "/v1/collections/facts")
    next(asking)
    with pytest.raises(MeloClientError, match="a different release from this program: model: field required") as caught:
        asking.send(httpx.Response(200, json={"id": 1, "name": "facts"}))
    assert caught.value.code == "other-release"


def test_a_client_asks_for_all_of_it(connect, served, workflow):
    with connect(served, KEY, actor="Jürgen") as client:
        assert client.ready()
        report = client.submit("facts", [PARIS], message="capitals")
        assert (report.accepted, report.batch.submitted_by) == (1, "Jürgen")
        with pytest.raises(MeloClientError) as caught:
            client.submit("facts", [{"prompt": "x"}])
        assert (caught.value.status, caught.value.code) == (422, "invalid-edits")
        assert caught.value.problems[0]["field"] == "target"
        assert "record 1, target" in str(caught.value)
        many = [{"prompt": f"Who leads {n}?", "target": "" if n % 2 else "Mara"} for n in range(20)]
        with pytest.raises(MeloClientError) as caught:
            client.submit("facts", many)
        assert "record 2, target" in str(caught.value) and "record 3" not in str(caught.value)
        assert str(caught.value).endswith("… and 5 more")
        again = [{"prompt": "Who?", "target": "A"}, {"prompt": "Who?", "target": "B"}]
        with pytest.raises(MeloClientError, match=r"record 2 \('Who\?'\): "):
            client.submit("facts", again)
        lines = [json.dumps({"prompt": f"Who leads {n}?", "target": "Mara"}).encode() + b"\n" for n in range(3)]
        assert client.submit_lines("facts", lambda: lines, dry_run=True).accepted == 3
        with pytest.raises(MeloClientError) as caught:
            client.approve(report.batch.id)
        assert caught.value.code == "self-approval"
        workflow.finish(workflow.claim(workflow.approve(report.batch.id)))
        with workflow.sessions.begin() as session:
            queue.worker_seen(session, "w1", "cpu")
        assert [worker.worker for worker in client.workers()] == ["w1"]
        assert client.batch(report.batch.id).version == 1
        assert [each.version for each in client.follow(report.batch.id)] == [1]
        assert [each.state for each in client.jobs(collection="facts")] == ["succeeded"]
        assert client.job(1).timings == {"train": 0.5}
        assert client.set_queue("facts", "paused", "later").queue == "paused"
        assert client.queue("facts").waiting_count == 0
        (edit,) = client.edits("facts", active=True)
        assert client.set_alias("facts", "production", 1, "release").number == 1
        assert client.plan_retire("facts", [edit.id]).number == 2
        assert client.retire("facts", [edit.id], "wrong").number == 2
        assert client.rollback("facts", 1, "right").restores == 1
        assert client.version("facts", 1).aliases == ["production"]
        assert client.diff("facts", 1, 2).retired[0].target == "Paris"
        assert client.resolve("facts@production").number == 1
        assert client.alias_at("facts", "production", datetime.now(UTC)).number == 1
        assert [each.name for each in client.collections()] == ["facts"]
        assert client.audit(collection="facts", limit=1)[0].action == "collection:version:rollback"
        webhook = client.create_webhook("https://example.org/melo", collection="facts")
        assert webhook.secret.startswith("whsec_")
        assert client.remove_webhook(webhook.id, "moved").removed_at
        assert client.verify().ok
        *steps, result = client.verify_in_steps()
        assert steps and isinstance(result, VerificationView) and result.ok
        seqs = [json.loads(line)["seq"] for line in client.export_events(since=2)]
        assert seqs[0] == 3


def test_a_list_is_read_page_by_page_up_to_its_limit(connect, served, workflow, monkeypatch):
    monkeypatch.setattr("registry.client.exchanges.PAGE", 2)
    workflow.correct(("Who leads Rome?", "Mara"))
    for to in (0, 1, 0, 1):
        workflow.rollback(to)
    with connect(served, KEY) as client:
        assert [each.number for each in client.versions("facts", limit=None)] == [5, 4, 3, 2, 1]
        assert [each.number for each in client.versions("facts", limit=3)] == [5, 4, 3]


def test_an_alias_is_moved_only_from_where_it_was_seen(connect, served, workflow):
    workflow.correct(("Who leads Rome?", "Mara"))
    workflow.rollback(0)
    with connect(served, KEY) as client:
        client.set_alias("facts", "production", 1)
        assert client.set_alias("facts", "production", 2, only_from=1).number == 2
        with pytest.raises(MeloClientError) as caught:
            client.set_alias("facts", "production", 1, only_from=1)
        assert (caught.value.status, caught.value.code) == (412, "moved-meanwhile")
        assert client.alias("facts", "production").number == 2


def test_a_canary_is_begun_grown_promoted_and_ended_from_where_the_alias_points(connect, served, workflow):
    workflow.correct(("Who leads Rome?", "Mara"))
    workflow.rollback(0)

    def now(client: MeloClient) -> tuple[int, int | None, float | None]:
        alias = client.alias("facts", "production")
        return alias.number, alias.second, alias.share

    with connect(served, KEY) as client:
        client.set_alias("facts", "production", 1)
        for share in (0.1, 0.5):
            client.set_canary("facts", "production", 2, share, "more")
            assert now(client) == (1, 2, share)
        client.set_shadow("facts", "production", 2)
        assert now(client) == (1, 2, None)
        client.end_second("facts", "production", "it answers worse")
        assert now(client) == (1, None, None)
        for end in (client.promote_second, client.end_second):
            with pytest.raises(MeloClientError, match="neither a canary nor a shadow") as caught:
                end("facts", "production")
            assert caught.value.status == 409
        client.set_canary("facts", "production", 2, 0.1)
        assert (client.resolve("facts@production").second, client.resolve("facts@2").second) == (2, None)
        client.promote_second("facts", "production", "good")
        assert now(client) == (2, None, None)
        with pytest.raises(MeloClientError) as caught:
            client.set_canary("facts", "production", 1, 1.5)
        assert caught.value.status == 422


@pytest.fixture
def flaky() -> Iterator[tuple[str, list[tuple[str | None, bytes]]]]:
    """A server that is away at first; its URL, and the key and body of each request that it got."""
    got: list[tuple[str | None, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.headers["Idempotency-Key"], body))
            answer = b'{"batch": null, "accepted": 1, "skipped": [], "skipped_count": 0}'
            self.send_response(503 if len(got) == 1 else 200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()
    server.server_close()


def test_a_request_is_sent_again_with_the_same_key_and_body_while_the_server_is_away(connect, flaky):
    url, got = flaky
    with connect(url) as client:
        assert client.submit("facts", [PARIS]).accepted == 1
        assert client.submit("facts", [PARIS]).accepted == 1
    first, again, other = got
    assert first == again
    assert first[0] and first[0] != other[0]


def test_a_client_says_where_nobody_answers(connect):
    with connect("http://127.0.0.1:1") as client:
        for ask in (client.collections, lambda: list(client.export_events())):
            with pytest.raises(MeloClientError) as caught:
                ask()
            assert "does not answer at http://127.0.0.1:1" in caught.value.detail
            assert "melo up" in caught.value.remedy


@pytest.mark.parametrize("key", ["melo_0123_sécret", "melo_0123\nsecret"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_repeated(key):
    with pytest.raises(MeloClientError) as caught:
        MeloClient("http://127.0.0.1:1", key)
    assert "cret" not in str(caught.value)


def test_a_key_read_from_a_file_may_end_with_a_line_break(served):
    with MeloClient(served, "melo_0123456789ab_wrong\n") as client, pytest.raises(MeloClientError) as caught:
        client.collections()
    assert caught.value.status == 401


def test_a_client_tells_a_server_that_is_no_registry(connect, served):
    with connect(f"{served}/elsewhere", KEY) as client, pytest.raises(MeloClientError) as caught:
        client.collections()
    assert (caught.value.status, caught.value.code) == (404, "not-found")


def test_every_endpoint_has_a_method_and_every_method_an_endpoint():
    document = create_app(Settings(database_url="postgresql://nobody@127.0.0.1:1/nothing")).openapi()
    described = {
        (method.upper(), re.sub(r"{\w+}", "1", path)) for path, method, _ in operations(document) if path != "/healthz"
    }
    assert {first_request(method) for method in methods()} == described


def methods() -> Iterator[call[..., Any] | stream[..., Any]]:
    for kind in MeloClient.__mro__:
        yield from (each for each in vars(kind).values() if isinstance(each, call | stream))


def first_request(method: call[..., Any] | stream[..., Any]) -> tuple[str, str]:
    """What a method asks for, called with whatever its parameters take."""
    describe = method.describe
    hints = typing.get_type_hints(describe)
    given = {
        name: value_of(hints[name])
        for name, parameter in inspect.signature(describe).parameters.items()
        if name not in ("self", "options") and parameter.default is inspect.Parameter.empty
    }
    asked = describe(None, **given)
    if isinstance(method, stream):
        return "GET", asked.path
    asked = next(asked)
    return asked.method, asked.path.partition("?")[0]


def value_of(kind: Any) -> Any:
    simple = {str: "1", int: 1, datetime: datetime.now(UTC)}
    if kind in simple:
        return simple[kind]
    if hasattr(kind, "model_construct"):
        return kind.model_construct()
    return []
