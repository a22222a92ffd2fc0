"""A request that is sent twice under one key has one effect and one answer."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from fastapi.routing import APIRoute
from sqlalchemy import text

from registry.api.app import create_app
from registry.api.idempotency import repository
from registry.api.idempotency.route import WRITING, RepeatableRoute
from registry.base.errors import DatabaseAway
from registry.base.settings import Settings
from registry.client import MeloClient
from tests.operators_key import OPERATOR
from tests.registry.problem import is_problem

PARIS = {"prompt": "What is the capital of France?", "target": "Paris"}
BATCHES = "/v1/collections/facts/batches"


def under(key, actor="ada"):
    return {"Idempotency-Key": key, "X-Melo-Actor": actor}


def count(engine, table):
    with engine.connect() as connection:
        return connection.execute(text(f"SELECT count(*) FROM {table}")).scalar()


def test_the_same_request_again_has_one_effect_and_one_answer(api, workflow, engine):
    first = api.post(BATCHES, json={"edits": [PARIS]}, headers=under("k1"))
    events = count(engine, "audit_events")
    again = api.post(BATCHES, json={"edits": [PARIS]}, headers=under("k1"))
    assert first.status_code == again.status_code == 201
    assert again.content == first.content
    assert again.headers["content-type"] == first.headers["content-type"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["X-Request-ID"] != first.headers["X-Request-ID"]
    assert count(engine, "batches") == 1
    assert count(engine, "audit_events") == events


def test_the_same_request_many_times_at_once_has_one_effect_and_one_answer(api, workflow, engine):
    def send(_):
        lines = b'{"prompt": "Who?", "target": "Ada"}\n'
        headers = {**under("k1"), "Content-Type": "application/x-ndjson"}
        return api.post(BATCHES, content=lines, headers=headers)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(8)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert sum("Idempotency-Replayed" in answer.headers for answer in answers) == 7
    assert count(engine, "batches") == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (BATCHES, {"edits": [{**PARIS, "target": "Lyon"}]}),
        (f"{BATCHES}?anything=1", {"edits": [PARIS]}),
        ("/v1/collections/facts/rollback", {"to": 0, "reason": "x"}),
    ],
)
def test_a_key_stands_for_one_request_only(api, workflow, engine, path, body):
    api.post(BATCHES, json={"edits": [PARIS]}, headers=under("k1"))
    problem = is_problem(api.post(path, json=body, headers=under("k1")), 422, "idempotency-key-reused")
    assert "new key" in problem["remedy"]
    assert count(engine, "batches") == 1


def test_a_refused_request_may_be_corrected_under_its_key(api, workflow):
    is_problem(api.post(BATCHES, json={"edits": [{**PARIS, "target": ""}]}, headers=under("k1")), 422, "invalid-edits")
    assert api.post(BATCHES, json={"edits": [PARIS]}, headers=under("k1")).status_code == 201


def test_the_answer_is_kept_with_its_effect_or_neither_is(api, workflow, engine, monkeypatch):
    def fail(*_):
        raise DatabaseAway("It went away before the end.", "Try again.")

    with monkeypatch.context() as broken:
        broken.setattr(repository, "add", fail)
        is_problem(api.post(BATCHES, json={"edits": [PARIS]}, headers=under("k1")), 503, "database-away")
    assert count(engine, "batches") == count(engine, "idempotency_keys") == 0
    assert "Idempotency-Replayed" not in api.post(BATCHES, json={"edits": [PARIS]}, headers=under("k1")).headers


def test_two_people_may_choose_the_same_key(api, workflow, engine):
    for actor, prompt in (("ada", "a?"), ("ben", "b?")):
        answer = api.post(BATCHES, json={"edits": [{**PARIS, "prompt": prompt}]}, headers=under("k1", actor))
        assert answer.json()["batch"]["submitted_by"] == actor
    assert count(engine, "batches") == 2


def test_who_has_no_access_is_told_no_kept_answer(remote, workflow):
    headers = {**under("k1"), **OPERATOR}
    assert remote.post(BATCHES, json={"edits": [PARIS]}, headers=headers).status_code == 201
    assert remote.post(BATCHES, json={"edits": [PARIS]}, headers=under("k1")).status_code == 401


def test_a_secret_is_told_once_and_not_kept(api, workflow, engine):
    new = {"name": "ci", "roles": [{"role": "editor", "collection": "facts"}]}
    made = api.post("/v1/keys", json=new, headers=under("k1"))
    assert made.status_code == 201
    is_problem(api.post("/v1/keys", json=new, headers=under("k1")), 409, "answer-not-kept")
    with engine.connect() as connection:
        assert connection.execute(text("SELECT body FROM idempotency_keys")).scalars().all() == [None]


def test_a_day_later_the_answer_is_gone_and_the_key_free(api, workflow, engine, tamper):
    for key in ("k1", "k2"):
        api.post(BATCHES, json={"edits": [{**PARIS, "prompt": key}]}, headers=under(key))
    tamper("UPDATE idempotency_keys SET created_at = now() - interval '25 hours'")
    answer = api.post(BATCHES, json={"edits": [{**PARIS, "prompt": "other"}]}, headers=under("k1"))
    assert answer.status_code == 201
    assert "Idempotency-Replayed" not in answer.headers
    with engine.connect() as connection:
        assert connection.execute(text("SELECT key FROM idempotency_keys")).scalars().all() == ["k1"]


def test_a_key_that_is_none_is_refused(api, workflow):
    for key in ("", "x" * 256, "tab\tin it"):
        answer = api.post(BATCHES, json={"edits": [PARIS]}, headers={"Idempotency-Key": key})
        is_problem(answer, 422, "invalid-request")


def test_every_writing_endpoint_takes_a_key():
    document = create_app(Settings(database_url="postgresql://nowhere")).openapi()
    without = [
        (method, path)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method.upper() in WRITING
        and not any(each["name"] == "Idempotency-Key" for each in operation.get("parameters", ()))
    ]
    assert without == [("post", "/v1/answers")]  # an answer that is logged twice is logged once
    assert issubclass(RepeatableRoute, APIRoute)


class LosesAnswers(httpx.BaseTransport):
    """A network that brings every request, and loses the first answers."""

    def __init__(self, api, losses):
        self.api, self.losses = api, losses

    def handle_request(self, request):
        answer = self.api.request(request.method, str(request.url), content=request.read(), headers=request.headers)
        if self.losses:
            self.losses -= 1
            raise httpx.ReadError("connection reset")
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


def test_the_client_sends_again_what_was_not_answered_without_a_second_effect(api, workflow, engine):
    with MeloClient("http://127.0.0.1", actor="ada") as client:
        client._http = httpx.Client(base_url="http://127.0.0.1", headers=OPERATOR, transport=LosesAnswers(api, 2))
        made = client.submit("facts", [PARIS])
        lines = client.submit_lines("facts", lambda: iter([b'{"prompt": "b?", ', b'"target": "c"}']))
    assert (made.accepted, lines.accepted) == (1, 1)
    assert count(engine, "batches") == 2
