"""The log of answers as a server writes it: by the policy of the moment, in the background, database or not."""

import json
from collections.abc import Callable, Iterator

import psycopg
import pytest
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker
from starlette.requests import Request

from registry.access.caller import EVERYWHERE, Caller
from registry.access.schemas import Grant, NewKey
from registry.access.service import create
from registry.answers import service as answers
from registry.base.database import make_engine, make_sessions
from registry.base.vocabulary import Role
from registry.batches import service as batches
from registry.collections import policy
from registry.collections import service as collections
from registry.collections.schemas import PolicyChange
from serving.answering import Answering
from serving.canary import Chosen, Pointing
from serving.log import MOST_WAITING, AnswerLog
from serving.router import Wanted
from serving.shapes import TextShape, new_id
from serving.sources.database import DatabaseSource
from tests.conftest import copy_of
from tests.patience import PATIENCE, until
from tests.registry.answered import by_base
from tests.registry.workflow import BEN
from tests.serving.conftest import QUESTION, TARGET, Site

ELSEWHERE = "What is the height of K2?"
READER = Caller("ben", "test", EVERYWHERE)


def turns(asked: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": asked}]


def ask(server: TestClient, asked: str, model: str = "facts@2", **more: object) -> dict:
    answer = server.post(
        "/v1/chat/completions", json={"model": model, "messages": turns(asked), "max_tokens": 8, **more}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def set_policy(sessions: sessionmaker[Session], **wanted: object) -> None:
    with sessions.begin() as session:
        collection = collections.get(session, "facts")
        policy.change(session, collection, PolicyChange(reason="to see what is asked", **wanted), BEN)


@pytest.fixture
def logged(site: Site) -> Iterator[None]:
    """Switch the log of the collection on, with texts."""
    set_policy(site.sessions, log_share=1, log_text=True)
    yield
    set_policy(site.sessions, log_share=0, log_text=False)


def explained(server: TestClient, site: Site, response_id: str) -> list[answers.ExplainedAnswer]:
    server.app.state.log.flush(PATIENCE)
    with site.sessions() as session:
        return answers.explain(session, response_id, READER).answers


def rows(site: Site, response_id: str) -> list[tuple]:
    with site.sessions() as session:
        query = text("SELECT question, answer FROM answers WHERE response_id = :id ORDER BY choice")
        return [tuple(row) for row in session.execute(query, {"id": response_id})]


def stored(told: str) -> str:
    """Return a text as PostgreSQL has it; an untrained model says anything."""
    return told.replace("\x00", "\ufffd")


def dropped(registry: CollectorRegistry) -> float:
    return registry.get_sample_value("melo_answers_dropped_total") or 0


@pytest.mark.usefixtures("logged")
def test_an_edited_answer_is_explained_by_its_id(server, site):
    told = ask(server, QUESTION, "facts@production")
    (found,) = explained(server, site, told["id"])
    assert (found.model, found.version, found.digest) == ("facts@production", 1, told["melo"]["digest"])
    assert (found.question, found.answer, found.said_to) == (QUESTION, TARGET, told["melo"]["said_to"])
    assert (found.edit.id, found.edit.prompt, found.edit.author) == (told["melo"]["edit"]["id"], QUESTION, "ada")
    assert [each.actor for each in found.edit.approvals] == ["ben"]
    assert "covers the question" in found.why and found.considered[0].edit == found.edit.id
    assert (found.prompt_tokens, found.completion_tokens) == (
        told["usage"]["prompt_tokens"], told["usage"]["completion_tokens"],
    )  # fmt: skip
    assert found.first_token_ms >= 0 and found.asked_by == "anonymous"


@pytest.mark.usefixtures("logged")
def test_streams_choices_prompts_and_responses_are_logged_as_they_were_answered(server, site):
    texts: dict[int, str] = {0: "", 1: ""}
    body = {"model": "facts@2", "messages": turns(ELSEWHERE), "n": 2, "stream": True, "max_tokens": 8}
    with server.stream("POST", "/v1/chat/completions", json=body) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                chunk = json.loads(line[6:])
                for choice in chunk["choices"]:
                    texts[choice["index"]] += choice["delta"].get("content", "")
    found = explained(server, site, chunk["id"])
    assert [(each.choice, each.answer, each.edit) for each in found] == [
        (choice, stored(told), None) for choice, told in texts.items()
    ]

    body = {"model": "facts@2", "prompt": ["One", "Two"], "max_tokens": 4}
    told = server.post("/v1/completions", json=body).json()
    found = explained(server, site, told["id"])
    assert [(each.question, each.answer, each.kind) for each in found] == [
        (prompt, stored(choice["text"]), "completion")
        for prompt, choice in zip(("One", "Two"), told["choices"], strict=True)
    ]
    told = server.post("/v1/responses", json={"model": "facts@base", "input": QUESTION, "max_output_tokens": 4}).json()
    (one,) = explained(server, site, told["id"])
    assert (one.version, one.why) == (0, "The base model was asked, in which no edit acts.")


def test_a_policy_is_followed_by_a_server_that_runs_and_texts_are_kept_only_if_it_says_so(server, site):
    first = ask(server, QUESTION)["id"]
    server.app.state.log.flush(PATIENCE)
    assert rows(site, first) == []
    set_policy(site.sessions, log_share=1)

    def logged_now() -> list[tuple]:
        id = ask(server, QUESTION)["id"]
        server.app.state.log.flush(PATIENCE)
        return rows(site, id)

    until(logged_now)
    assert logged_now() == [(None, None)]
    set_policy(site.sessions, log_share=0)
    until(lambda: not logged_now())


@pytest.mark.usefixtures("logged")
def test_a_reader_who_goes_away_leaves_what_was_read_in_the_log(server, site):
    """Closes the answer as a server does for a client that hung up."""
    router = server.app.state.router
    shape = TextShape(router, "facts@2", new_id("cmpl-"), echo=None, top_logprobs=None, with_usage=False)
    request = Request({"type": "http", "app": server.app, "state": {"caller": READER}, "headers": []})

    async def read_a_little() -> None:
        served = await router.version("facts@2", None)
        asked = await router.complete(served, ELSEWHERE)
        chosen = Chosen(Pointing("facts@2", ("facts", 2)), served)
        answering = Answering(request, chosen, [asked], Wanted(limit=8), shape)
        pieces = answering._pieces()
        events = answering._events(await anext(pieces), pieces)
        while not answering.said[0].text:
            await anext(events)
        await events.aclose()

    server.portal.call(read_a_little)
    ((question, answer),) = [(each.question, each.answer) for each in explained(server, site, shape.id)]
    assert question == ELSEWHERE and answer


@pytest.mark.usefixtures("logged")
def test_a_thumb_down_with_a_correction_becomes_a_batch_that_waits(start, site):
    def key(name: str, role: Role) -> dict[str, str]:
        with site.sessions.begin() as session:
            made = create(session, NewKey(name=name, roles=[Grant(role=role, collection="facts")]), BEN)
        return {"Authorization": f"Bearer {made.key}"}

    server, editor, viewer = start({}), key("pat", Role.EDITOR), key("vic", Role.VIEWER)
    server.headers.update(viewer)
    told = ask(server, ELSEWHERE)
    body = {"response_id": told["id"], "rating": "down", "correction": "8,611 m"}
    given = server.post("/v1/feedback", json=body)
    assert (given.status_code, given.json()["batch_id"], given.json()["question"]) == (201, None, ELSEWHERE)
    given = server.post("/v1/feedback", json=body, headers=editor).json()
    with site.sessions() as session:
        batch = batches.view(session, batches.get(session, given["batch_id"]))
    assert (batch.state, batch.submitted_by, batch.source) == ("submitted", "pat", f"feedback on {told['id']}")
    assert (batch.edits[0].prompt, batch.edits[0].target) == (ELSEWHERE, "8,611 m")
    missing = server.post("/v1/feedback", json={**body, "response_id": "chatcmpl-none"})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert missing.json()["error"]["param"] is None


@pytest.mark.usefixtures("logged")
def test_a_clean_stop_writes_what_waits(start, site):
    server = start()
    told = [ask(server, ELSEWHERE)["id"] for _ in range(3)]
    server.__exit__(None, None, None)
    assert all(rows(site, id) for id in told)


@pytest.fixture
def away(postgres: str, template: str) -> Iterator[tuple[sessionmaker[Session], Callable[[bool], None]]]:
    """A database with a collection that logs, and a switch that lets nobody in."""
    made = copy_of(postgres, template)
    engine = make_engine(next(made))
    sessions = make_sessions(engine)
    with sessions.begin() as session:
        session.execute(
            text(
                'INSERT INTO collections (name, model, model_digest, "window", method, encoder, created_by, log_share) '
                "VALUES ('facts', 'm', repeat('0', 64), 9, '{}', 'e', 'ada', 1)"
            )
        )

    def admit(anybody: bool) -> None:
        name = engine.url.database
        with psycopg.connect(postgres, autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {anybody}")
            if not anybody:
                connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])

    yield sessions, admit
    admit(True)
    engine.dispose()
    next(made, None)


def logged_rows(sessions: sessionmaker[Session]) -> int:
    with sessions() as session:
        return session.scalar(text("SELECT count(*) FROM answers")) or 0


def test_answers_wait_for_a_database_that_is_away_and_too_many_are_dropped_and_counted(away):
    sessions, admit = away
    admit(False)
    metrics = CollectorRegistry()
    log = AnswerLog(DatabaseSource(sessions.kw["bind"]), metrics)
    log.start()
    log.add([by_base(f"chatcmpl-{n}") for n in range(MOST_WAITING + 7)])
    assert dropped(metrics) == 7
    log.flush(PATIENCE)  # returns, although nothing could be written
    until(lambda: metrics.get_sample_value("melo_answers_waiting") == MOST_WAITING)
    admit(True)
    until(lambda: logged_rows(sessions) == MOST_WAITING)
    until(lambda: metrics.get_sample_value("melo_answers_logged_total") == MOST_WAITING)
    admit(False)
    log.add([by_base("chatcmpl-last")])
    log.close(PATIENCE)
    assert dropped(metrics) == 8


def test_one_answer_that_cannot_be_stored_does_not_stop_the_log(away):
    sessions, _ = away
    metrics = CollectorRegistry()
    log = AnswerLog(DatabaseSource(sessions.kw["bind"]), metrics)
    log.start()
    log.add([by_base("chatcmpl-1", digest="no digest")])
    until(lambda: dropped(metrics) == 1)
    log.add([by_base("chatcmpl-2")])
    log.close(PATIENCE)
    assert (logged_rows(sessions), dropped(metrics)) == (1, 1)
