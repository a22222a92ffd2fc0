"""A server without the database: its log and feedback go to the registry, canary and shadow work as with it."""

from collections.abc import Callable
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry

from registry.access import service as keys
from registry.access.schemas import Grant, NewKey
from registry.base.vocabulary import Role
from serving.log import AnswerLog
from serving.sources.http import HttpSource
from serving.sources.port import SourceUnavailable
from tests.operators_key import KEY
from tests.patience import PATIENCE, until
from tests.registry.answered import by_base
from tests.registry.workflow import ADA
from tests.serving.conftest import OTHER, OTHER_TARGET, QUESTION, TARGET, Site
from tests.serving.link import Link
from tests.serving.test_answers import ELSEWHERE, chat, said
from tests.serving.test_canary import ask as ask_as
from tests.serving.test_canary import user_at, version
from tests.serving.test_log import explained, logged, rows, set_policy  # noqa: F401  # the fixture
from tests.serving.test_shadow import settled


def key_of(site: Site, name: str, role: Role) -> str:
    with site.sessions.begin() as session:
        return keys.create(session, NewKey(name=name, roles=[Grant(role=role, collection="facts")]), ADA).key


@pytest.fixture
def serve(start: Callable[..., TestClient], site: Site, registry: str) -> Callable[[Role], TestClient]:
    """Start a server that reaches the registry with a key of this role; others ask it with theirs."""

    def make(role: Role) -> TestClient:
        return start({}, source=HttpSource(registry, key_of(site, f"server-{uuid4().hex}", role)))

    return make


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.usefixtures("logged")
def test_answers_are_logged_by_the_registry_and_feedback_goes_there_with_the_key_of_who_gives_it(serve, site):
    server = serve(Role.EDITOR)
    viewer, editor = key_of(site, "vera", Role.VIEWER), key_of(site, "edith", Role.EDITOR)
    server.headers.update(bearer(viewer))
    told = chat(server, "facts@1", QUESTION)
    (found,) = explained(server, site, told["id"])
    assert (found.question, found.answer, found.asked_by, found.edit.id) == (QUESTION, TARGET, "vera", 1)
    assert found.canary is False and found.considered[0].edit == 1
    body = {"response_id": told["id"], "rating": "down", "correction": "Eve"}
    given = server.post("/v1/feedback", json=body)
    assert (given.status_code, given.json()["given_by"], given.json()["batch_id"]) == (201, "vera", None)
    given = server.post("/v1/feedback", json=body, headers=bearer(editor)).json()
    assert given["given_by"] == "edith" and given["batch_id"]
    missing = server.post("/v1/feedback", json={**body, "response_id": "chatcmpl-none"})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")


def test_a_policy_that_changes_is_followed(serve, site, monkeypatch):
    monkeypatch.setattr("serving.sources.http.POLICY_SECONDS", 0.0)
    server = serve(Role.EDITOR)
    server.headers.update(bearer(key_of(site, "paul", Role.VIEWER)))

    def is_logged() -> bool:
        told = chat(server, "facts@1", ELSEWHERE)
        server.app.state.log.flush(PATIENCE)
        return bool(rows(site, told["id"]))

    assert not is_logged()
    set_policy(site.sessions, log_share=1)
    until(is_logged)
    set_policy(site.sessions, log_share=0)
    until(lambda: not is_logged())


@pytest.mark.usefixtures("logged")
def test_a_server_whose_key_may_only_read_answers_and_logs_nothing(serve, site):
    server = serve(Role.VIEWER)
    server.headers.update(bearer(key_of(site, "rita", Role.VIEWER)))
    told = chat(server, "facts@1", QUESTION)
    server.app.state.log.flush(PATIENCE)
    assert said(told) == TARGET
    assert not rows(site, told["id"])


@pytest.mark.usefixtures("logged")
def test_answers_wait_while_the_registry_is_away_and_beyond_a_bound_they_are_dropped_and_counted(
    site, registry, monkeypatch
):
    monkeypatch.setattr("serving.log.MOST_WAITING", 3)
    link, metrics = Link.to_server(registry), CollectorRegistry()
    source = HttpSource(link.url, KEY)
    source.keep([])
    log = AnswerLog(source, metrics)
    link.cut()
    with pytest.raises(SourceUnavailable):
        source.keep([by_base("chatcmpl-away-0")])
    log.start()
    log.add([by_base(f"chatcmpl-away-{n}") for n in range(5)])
    assert metrics.get_sample_value("melo_answers_dropped_total") == 2
    link.mend()
    log.flush(PATIENCE)
    until(lambda: metrics.get_sample_value("melo_answers_logged_total") == 3)
    log.close(PATIENCE)
    link.close()
    source.close()


def test_a_canary_answers_its_share_and_the_log_says_so(serve, site, logged):  # noqa: F811
    server = serve(Role.EDITOR)
    server.headers.update(bearer(key_of(site, "cora", Role.VIEWER)))
    site.alias("remote", 1, second=2, share=0.5)
    inside, outside = user_at("remote", 0, 0.5), user_at("remote", 0.5, 1)
    until(lambda: version(ask_as(server, "remote", user=inside)) == ("facts@2", True))
    told = ask_as(server, "remote", user=inside)
    assert told["choices"][0]["message"]["content"] == OTHER_TARGET
    assert version(ask_as(server, "remote", user=outside)) == ("facts@1", False)
    (found,) = explained(server, site, told["id"])
    assert found.canary is True and found.version == 2


def test_a_shadow_is_compared_and_broken_off_where_a_request_waits_for_its_slot(serve, site, monkeypatch):
    server = serve(Role.EDITOR)
    server.headers.update(bearer(key_of(site, "sam", Role.EDITOR)))
    site.alias("dim", 1, second=2)
    chat(server, "facts@dim", OTHER)
    assert settled(server, "dim", 1)["other_edit"] == 1
    router = server.app.state.router
    with monkeypatch.context() as busy:
        # Room before the shadow is asked; then somebody waits, as soon as it has a token.
        waits: list[bool] = []
        answer = router.answer

        async def answered(*given, **more):
            async for piece in answer(*given, **more):
                waits.append(True)
                yield piece

        busy.setattr(router, "answer", answered)
        busy.setattr(type(router.engine), "waiting", property(lambda self: len(waits)))
        busy.setattr(type(router.engine), "slots", 1)
        chat(server, "facts@dim", OTHER)
        waits.clear()
        found = settled(server, "dim", 2)
    assert (found["compared"], found["dropped"], found["failed"]) == (1, 1, 0)
