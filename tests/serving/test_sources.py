"""A server gets versions from the database or from the registry's API: both serve the same, and both may be away."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient

from registry.access import service as keys
from registry.access.caller import Caller
from registry.access.schemas import Grant, NewKey
from registry.audit.schemas import ChangesView
from registry.base import database
from registry.base.database import make_engine
from registry.base.errors import DigestMismatch, NotFound, Unauthorized
from registry.base.vocabulary import Preflight, Role
from registry.collections import service as collections
from registry.collections.schemas import NewCollection
from registry.erasure import service as erasure
from registry.versions.content import BlockContent, VersionContent
from registry.versions.schemas import ResolvedView
from serving.callers import FRESH_SECONDS, KNOWN_SECONDS, Callers
from serving.served import Blocks
from serving.sources.database import DatabaseSource
from serving.sources.http import HttpSource
from serving.sources.port import Source, SourceUnavailable
from serving.versions import Versions, model_to_serve
from tests.operators_key import KEY, OPERATOR
from tests.patience import until
from tests.registry.keys import carrying
from tests.registry.test_bounds import asked
from tests.registry.workflow import ADA, BEN, Workflow
from tests.serving.conftest import OTHER, OTHER_TARGET, QUESTION, TARGET, Site
from tests.serving.link import Link
from tests.serving.test_answers import chat, said
from tests.worker.conftest import METHOD

BOTH = pytest.mark.parametrize("kind", ["database", "registry"])


@pytest.fixture
def linked(site: Site, registry: str) -> Iterator[Callable[[str], tuple[Source, Link]]]:
    """Make a source of either kind, by way of a link that can be cut."""
    made: list[Link] = []

    def make(kind: str) -> tuple[Source, Link]:
        if kind == "database":
            link = Link.to_database(site.url)
            source: Source = DatabaseSource(make_engine(link.database_url(site.url)))
        else:
            link = Link.to_server(registry)
            source = HttpSource(link.url, KEY)
        made.append(link)
        return source, link

    yield make
    for link in made:
        link.close()


def versions_of(site: Site, source: Source, **budgets: int) -> Versions:
    return Versions(source, site.cache, *model_to_serve(source.collections(), None), **budgets)


def key_of(site: Site, name: str, collection: str | None = "facts") -> tuple[int, str]:
    with site.sessions.begin() as session:
        made = keys.create(session, NewKey(name=name, roles=[Grant(role=Role.VIEWER, collection=collection)]), ADA)
        return made.id, made.key


def revoke(site: Site, key_id: int) -> None:
    with site.sessions.begin() as session:
        keys.revoke(session, key_id, ADA, "it leaked")


@BOTH
def test_a_version_answers_the_same_from_either_source_and_its_alias_is_followed(kind, start, site, linked):
    source, _ = linked(kind)
    server = start(source=source)
    assert said(chat(server, "facts@2", QUESTION)) == TARGET and said(chat(server, "facts@2", OTHER)) == OTHER_TARGET
    assert said(chat(server, "facts@base", QUESTION)) != TARGET
    now = datetime.now(UTC).isoformat()
    assert chat(server, f"facts@as-of:{now}", QUESTION)["melo"]["version"] == "facts@2"
    site.alias("followed", 1)
    assert chat(server, "facts@followed", OTHER)["melo"]["version"] == "facts@1"
    site.alias("followed", 2)
    until(lambda: chat(server, "facts@followed", OTHER)["melo"]["version"] == "facts@2")
    listed = {each["id"]: each["parent"] for each in server.get("/v1/models").json()["data"]}
    assert listed["facts@followed"] == "facts@2" and listed["facts@base"] is None
    for name, status in (("facts@9", 404), ("none@1", 404), ("facts\x00@1", 400), ("facts@as-of:noon", 400)):
        chat(server, name, QUESTION, status=status)


@BOTH
def test_while_its_source_is_away_a_server_goes_on_and_afterwards_it_learns_what_it_missed(kind, start, site, linked):
    source, link = linked(kind)
    server = start(source=source, headers={})
    _, known = key_of(site, f"known-{kind}")
    _, unknown = key_of(site, f"unknown-{kind}")
    site.alias("away", 1)
    server.headers["Authorization"] = f"Bearer {known}"
    assert chat(server, "facts@away", QUESTION)["melo"]["version"] == "facts@1"
    assert server.get("/v1/models").status_code == 200
    link.cut()
    site.alias("away", 2)
    for _ in range(3):
        answer = chat(server, "facts@away", QUESTION)
        assert said(answer) == TARGET and answer["melo"]["version"] == "facts@1"
    assert "facts@away" in [each["id"] for each in server.get("/v1/models").json()["data"]]
    assert chat(server, "facts@2", OTHER, status=503)["error"]["code"] == "source_unavailable"
    server.headers["Authorization"] = f"Bearer {unknown}"
    assert chat(server, "facts@away", QUESTION, status=503)["error"]["code"] == "source_unavailable"
    link.mend()
    server.headers["Authorization"] = f"Bearer {known}"
    until(lambda: chat(server, "facts@away", OTHER)["melo"]["version"] == "facts@2")
    assert said(chat(server, "facts@away", OTHER)) == OTHER_TARGET


@BOTH
def test_a_key_sees_its_own_collections_and_ends_when_it_is_revoked(kind, start, site, linked):
    source, _ = linked(kind)
    server = start(source=source, headers={})
    with site.sessions.begin() as session:
        model = collections.get(session, "facts").model
        new = NewCollection(name=f"private-{kind}", model=model, preflight=Preflight.NONE)
        collections.create(session, new, ADA)
    (own_id, own), (_, other) = key_of(site, f"own-{kind}"), key_of(site, f"other-{kind}", f"private-{kind}")
    server.headers["Authorization"] = f"Bearer {own}"
    assert said(chat(server, "facts@1", QUESTION)) == TARGET
    server.headers["Authorization"] = f"Bearer {other}"
    for name in ("facts@1", "facts@nothing", "none@1"):  # one is loaded; nothing is told of either
        refused = chat(server, name, QUESTION, status=404)["error"]
        assert refused["code"] == "model_not_found" and "production" not in refused["message"]
    listed = [each["id"] for each in server.get("/v1/models").json()["data"]]
    assert listed == [f"private-{kind}@base", f"private-{kind}@latest"]
    server.headers["Authorization"] = f"Bearer {own}"
    revoke(site, own_id)
    body = {"model": "facts@1", "messages": [{"role": "user", "content": QUESTION}]}
    until(lambda: server.post("/v1/chat/completions", json=body).status_code == 401)


@BOTH
def test_a_key_holds_for_a_while_and_longer_only_where_nobody_can_be_asked(kind, site, linked):
    source, link = linked(kind)
    key_id, key = key_of(site, f"kept-{kind}")
    now = [0.0]
    callers = Callers(source, lambda: now[0])
    assert callers.of(key).key_name == f"kept-{kind}"
    revoke(site, key_id)
    now[0] = FRESH_SECONDS - 1
    assert callers.of(key).key_name == f"kept-{kind}"
    link.cut()
    now[0] = KNOWN_SECONDS - 1
    assert callers.of(key).key_name == f"kept-{kind}"
    now[0] = KNOWN_SECONDS + 1
    with pytest.raises(SourceUnavailable):
        callers.of(key)
    link.mend()
    now[0] += 60
    with pytest.raises(Unauthorized, match="revoked"):
        callers.of(key)
    for text in ("none", "melo_000000000000_" + "x" * 43):
        with pytest.raises(Unauthorized, match="not known"):
            callers.of(text)


@BOTH
@pytest.mark.parametrize("skew", [5, -5])
def test_a_known_key_expires_by_the_registrys_clock_and_not_by_the_servers(kind, skew, site, linked):
    source, _ = linked(kind)
    new = NewKey(name=f"brief-{kind}-{skew}", roles=[Grant(role=Role.VIEWER)])
    with time_machine.travel(datetime.now(UTC) + timedelta(hours=skew), tick=True), site.sessions.begin() as session:
        soon = database.now(session) + timedelta(seconds=FRESH_SECONDS - 5)
        key = keys.create(session, new.model_copy(update={"expires_at": soon}), ADA).key
        session.commit()
        now = [0.0]
        callers = Callers(source, lambda: now[0])
        assert [callers.of(key).key_name for now[0] in (0, 1)] == [new.name] * 2
        now[0] = FRESH_SECONDS - 1
        with pytest.raises(Unauthorized, match="expired"):
            callers.of(key)


@BOTH
def test_a_version_whose_content_was_erased_is_forgotten(kind, start, site, linked):
    name = f"gone-{kind}"
    with site.sessions.begin() as session:
        model = collections.get(session, "facts").model
        new = NewCollection(name=name, model=model, method=METHOD, preflight=Preflight.NONE)
        collections.create(session, new, ADA)
    workflow = Workflow(site.sessions, name)
    site.correct(workflow, QUESTION, TARGET)
    source, _ = linked(kind)
    server = start(source=source)
    assert said(chat(server, f"{name}@1", QUESTION)) == TARGET
    edit = workflow.active()[QUESTION]
    workflow.retire(edit)
    with site.sessions.begin() as session:
        erasure.erase(session, [edit], BEN, "asked for by its subject", dry_run=False)
    asked = {"model": f"{name}@1", "messages": [{"role": "user", "content": QUESTION}]}
    until(lambda: server.post("/v1/chat/completions", json=asked).status_code == 410)
    assert said(chat(server, f"{name}@latest", QUESTION)) != TARGET


@BOTH
def test_blocks_that_arrive_altered_are_refused(kind, site, linked):
    source, _ = linked(kind)
    content = source.content("facts", 2)
    block = next(iter(content.blocks.values()))
    blocks = Blocks(lambda wanted: source.block(wanted)[:-1] + b"x", 1 << 20)
    with pytest.raises(DigestMismatch, match=f"Block {block.id}"):
        blocks.read(block)
    assert not blocks.has(block)


def test_blocks_within_a_budget_make_room_and_a_larger_one_still_acts(start, site):
    source = DatabaseSource(make_engine(site.url))
    first, second = source.content("facts", 2).blocks.values()
    fetched: list[int] = []

    def fetch(block: BlockContent) -> bytes:
        fetched.append(block.id)
        return source.block(block)

    size = Blocks(source.block, 1).read(first).nbytes
    roomy = Blocks(fetch, 2 * size)
    assert roomy.read(first) is roomy.read(first) and roomy.read(second) is roomy.read(second)
    assert fetched == [first.id, second.id] and roomy.size == 2 * size
    narrow = Blocks(fetch, 1)
    for block in (first, second, first):
        assert narrow.read(block).nbytes == size == narrow.size and narrow.has(block)
    assert not narrow.has(second)
    server = start(budgets={"blocks_bytes": 1, "versions_bytes": 1})
    for _ in range(2):
        assert said(chat(server, "facts@2", QUESTION)) == TARGET
        assert said(chat(server, "facts@2", OTHER)) == OTHER_TARGET
        assert said(chat(server, "facts@1", OTHER)) != OTHER_TARGET


def test_versions_within_a_budget_make_room_for_those_asked_last(site):
    source = Counted(make_engine(site.url))
    size = versions_of(site, source).get("facts@2").size
    roomy = versions_of(site, source, versions_bytes=3 * size)
    narrow = versions_of(site, source, versions_bytes=size)
    for versions, read in ((roomy, 2), (narrow, 4)):
        source.read.clear()
        for name in ("facts@1", "facts@2", "facts@1", "facts@2"):
            assert versions.get(name).name == name
        assert len(source.read) == read


class Counted(DatabaseSource):
    """Notes the versions that are read, and holds up one of them."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.read: list[int] = []
        self.free = threading.Event()
        self.free.set()

    def content(self, collection: str, number: int) -> VersionContent:
        self.read.append(number)
        if number == 2:
            self.free.wait()
        return super().content(collection, number)


def test_a_version_that_loads_holds_up_no_other_and_is_loaded_once(start, site):
    source = Counted(make_engine(site.url))
    server: TestClient = start(source=source)
    site.alias("loading", 1)
    assert chat(server, "facts@loading", OTHER)["melo"]["version"] == "facts@1"
    source.free.clear()
    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(chat, server, name, OTHER) for name in ("facts@2", "facts@2", "facts@latest")]
        until(lambda: 2 in source.read)
        site.alias("loading", 2)  # the follower waits for it, too, and goes on meanwhile
        assert said(chat(server, "facts@1", QUESTION)) == TARGET
        site.alias("elsewhere", 1)
        assert chat(server, "facts@elsewhere", QUESTION)["melo"]["version"] == "facts@1"
        assert chat(server, "facts@loading", OTHER)["melo"]["version"] == "facts@1"
        assert not any(each.done() for each in waiting)
        source.free.set()
        assert [said(each.result()) for each in waiting] == [OTHER_TARGET] * 3
    until(lambda: chat(server, "facts@loading", OTHER)["melo"]["version"] == "facts@2")
    assert source.read.count(2) == 1


class Moving(DatabaseSource):
    """An alias moves, and everybody is told, just after it was looked up for the first time."""

    move: Callable[[], None] | None = None

    def resolve(self, model: str) -> ResolvedView:
        found = super().resolve(model)
        if self.move is not None:
            move, self.move = self.move, None
            move()
        return found


def test_an_alias_that_moves_while_it_is_looked_up_is_served_where_it_went(site):
    source = Moving(make_engine(site.url))
    versions = versions_of(site, source)
    site.alias("raced", 1)

    def move() -> None:
        site.alias("raced", 2)
        versions.changed(ChangesView(seq=0, collections=["facts"], keys=False))

    source.move = move
    assert versions.get("facts@raced").name == "facts@2"


def test_an_alias_that_moves_back_while_a_version_loads_is_not_overtaken_by_it(site):
    source = Counted(make_engine(site.url))
    versions = versions_of(site, source)
    site.alias("back", 1)
    assert versions.get("facts@back").name == "facts@1"
    source.free.clear()
    for number in (2, 1):
        site.alias("back", number)
        versions.changed(ChangesView(seq=0, collections=["facts"], keys=False))
    source.free.set()
    assert versions.get("facts@2").name == "facts@2"
    assert versions.get("facts@back").name == "facts@1"
    with pytest.raises(NotFound):
        versions.get("facts@nowhere")


class RevokedMeanwhile(DatabaseSource):
    """Knows a key once, and then no more."""

    asked = 0

    def caller(self, key: str) -> Caller:
        self.asked += 1
        if self.asked > 1:
            raise Unauthorized("The API key app was revoked.", "Ask for another.")
        return super().caller(key)


def test_an_answer_ends_with_its_callers_key(start, site, monkeypatch):
    monkeypatch.setattr("registry.api.watch.SECONDS", 0.01)
    monkeypatch.setattr("serving.callers.FRESH_SECONDS", 0)
    _, secret = key_of(site, "ending")
    server = start(source=RevokedMeanwhile(make_engine(site.url)), headers=carrying(secret))
    body = {"model": "facts@base", "messages": [{"role": "user", "content": "Hi"}], "n": 16, "max_tokens": 220}
    for more in ({"stream": True}, {"stream": False}):
        answer = server.post("/v1/chat/completions", json=body | more)
        whole = answer.status_code == 200 and ("[DONE]" in answer.text or "usage" in answer.text)
        assert not whole, answer.text[-500:]


def test_more_prompts_or_characters_than_may_be_routed_are_refused_before_their_tokens_are_made(server):
    for path, body in (
        ("/v1/completions", {"prompt": ["\ufdfa"] * 257}),
        ("/v1/classify", {"input": ["\ufdfa"] * 257}),
    ):
        refused = server.post(path, json={"model": "facts@1", **body})
        assert refused.status_code == 400 and "at most 256 items" in refused.json()["error"]["message"]
    long = "\ufdfa" * (64 * server.app.state.router.base.window + 1)
    for path, body in (
        ("/v1/completions", {"prompt": ["Hi", long]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": long}]}),
        ("/v1/responses", {"input": long}),
        ("/v1/route", {"prompt": long}),
    ):
        refused = server.post(path, json={"model": "facts@1", **body})
        assert refused.status_code == 400 and "characters, more than" in refused.json()["error"]["message"], path
    deep = b'{"model": "facts@1", "messages": ' + b"[" * 200 + b"]" * 200 + b"}"
    headers = {"Content-Type": "application/json"}
    refused = server.post("/v1/chat/completions", content=deep, headers=headers)
    assert refused.status_code == 400 and "nested more than 100 deep" in refused.json()["error"]["message"]
    large = server.post("/v1/chat/completions", content=b" " * (2 << 20) + b"{}", headers=headers)
    assert large.status_code == 413 and large.json()["error"]["code"] == "too_large"


@pytest.mark.parametrize(
    "arguments", ["[" * 2_000, '{"a":' * 2_000 + "1" + "}" * 2_000, '{"a": NaN}', '{"a": 1, "a": 2}', "\ud800"]
)
def test_arguments_of_a_call_keep_within_the_bounds_of_a_body_and_texts_are_of_whole_characters(server, arguments):
    call = {"id": "c", "function": {"name": "f", "arguments": arguments}}
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": [call]}]
    for messages in ([*turns, {"role": "user", "content": "Hi"}], [{"role": "user", "content": "Hi \ud800"}]):
        body = json.dumps({"model": "facts@1", "messages": messages}).encode()
        refused = server.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
        assert refused.status_code == 400 and refused.json()["error"]["type"] == "invalid_request_error"


def test_nothing_of_a_body_is_read_without_a_key(server):
    tried = 0
    for route in iter_route_contexts(server.app.routes):
        for method in (route.methods or set()) & {"POST", "PUT", "PATCH", "DELETE"}:
            assert asked(server.app, method, route.path, {}, 0) == (401, 0), route.path
            assert asked(server.app, method, route.path, OPERATOR, 3) == (413, 3), route.path
            tried += 1
    assert tried > 5
