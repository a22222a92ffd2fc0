"""A shadow answers in the background what its alias is asked, and a report tells what differs."""

import gc
import json
from subprocess import CompletedProcess
from typing import Any

import httpx
from fastapi.testclient import TestClient

from registry.access import service as keys
from registry.access.schemas import Grant, NewKey
from registry.base.vocabulary import Role
from serving.engines.embedded import EmbeddedEngine
from tests.cli.program import Melo, with_key
from tests.operators_key import OPERATOR
from tests.patience import PATIENCE, until
from tests.registry.workflow import ADA
from tests.serving.conftest import OTHER, OTHER_TARGET, QUESTION, TARGET
from tests.serving.test_answers import ELSEWHERE, chat, said
from tests.serving.test_openai import url  # noqa: F401  # the fixture


def report(server: TestClient, alias: str) -> dict[str, Any]:
    response = server.get(f"/v1/shadow/facts@{alias}")
    assert response.status_code == 200, response.text
    return response.json()


def settled(server: TestClient, alias: str, number: int) -> dict[str, Any]:
    """Wait until so many questions were compared, dropped or failed; return the report."""
    found: dict[str, Any] = {}

    def are_settled() -> bool:
        found.update(report(server, alias))
        return found["compared"] + found["dropped"] + found["failed"] == number

    until(are_settled)
    return found


def test_the_report_names_the_question_on_which_the_versions_differ(start, site):
    server = start()
    site.alias("shaded", 1, second=2)
    for question in (QUESTION, OTHER, ELSEWHERE):
        answer = chat(server, "facts@shaded", question, temperature=1, max_tokens=None)
        assert answer["melo"]["version"] == "facts@1" and answer["melo"]["canary"] is False
    found = settled(server, "shaded", 3)
    assert (found["alias"], found["first"], found["second"]) == ("facts@shaded", "facts@1", "facts@2")
    assert (found["same"], found["other_text"], found["other_edit"], found["dropped"], found["failed"]) == (
        2,
        1,
        1,
        0,
        0,
    )
    (difference,) = found["differences"]
    assert difference["question"] == OTHER
    assert difference["second"] == {"version": "facts@2", "edit": 2, "said_to": "query", "text": OTHER_TARGET}
    before = difference["first"]
    assert (before["version"], before["edit"], before["said_to"]) == ("facts@1", None, None)
    # As the version answers without chance, whatever temperature the request had.
    greedy = said(chat(server, "facts@1", OTHER, max_tokens=len(before["text"])))
    assert before["text"].startswith(greedy[:8]) and before["text"] != OTHER_TARGET
    shown = server.get("/metrics").text
    assert 'melo:shadow_comparisons_total{alias="facts@shaded",outcome="same"} 2.0' in shown
    assert 'melo:shadow_comparisons_total{alias="facts@shaded",outcome="other_text"} 1.0' in shown


def test_the_users_answer_is_the_first_versions_streamed_or_not(start, site):
    server = start()
    site.alias("shaded2", 2, second=1)
    messages = [{"role": "user", "content": OTHER}]
    body = {"model": "facts@shaded2", "messages": messages, "temperature": 0, "max_tokens": 12, "stream": True}
    streamed = server.post("/v1/chat/completions", json=body)
    assert OTHER_TARGET in streamed.text
    assert settled(server, "shaded2", 1)["differences"][0]["first"]["text"] == OTHER_TARGET
    several = server.post("/v1/completions", json={"model": "facts@shaded2", "prompt": [QUESTION, OTHER], "n": 2})
    assert several.status_code == 200
    settled(server, "shaded2", 3)  # each prompt once, not each choice


def test_a_report_goes_with_its_shadow_and_none_is_told_without(start, site):
    server = start()
    site.alias("passing", 1, second=2)
    site.alias("passing-too", 1, second=2)
    chat(server, "facts@passing", OTHER)
    assert settled(server, "passing", 1)["differences"]
    assert report(server, "passing-too")["compared"] == 0  # of the same versions, but another alias
    site.alias("passing", 1)
    until(lambda: server.get("/v1/shadow/facts@passing").status_code == 404)
    assert "melo alias shadow facts passing" in server.get("/v1/shadow/facts@passing").text

    def is_forgotten() -> bool:
        gc.collect()
        return all(each.name != "facts@passing" for each in server.app.state.shadows._reports)

    until(is_forgotten)
    site.alias("passing", 1, second=2)
    until(lambda: server.get("/v1/shadow/facts@passing").status_code == 200)
    assert report(server, "passing")["compared"] == 0
    assert server.get("/v1/shadow/facts@2").status_code == 404


def test_questions_are_shown_to_those_who_may_correct_answers(start, site):
    site.alias("shaded3", 1, second=2)
    with site.sessions.begin() as session:
        made = {
            role: keys.create(session, NewKey(name=f"shadow-{role}", roles=[Grant(role=role, collection="facts")]), ADA)
            for role in (Role.VIEWER, Role.EDITOR, Role.APPROVER)
        }
    server = start(headers={})
    for role, key in made.items():
        server.headers["Authorization"] = f"Bearer {key.key}"
        status = server.get("/v1/shadow/facts@shaded3").status_code
        assert status == (403 if role is Role.VIEWER else 200)
        assert server.get("/v1/shadow/none@shaded3").status_code == 404


def test_a_shadow_that_does_not_verify_is_not_asked_and_the_report_says_why(start, site, tamper_site):
    with tamper_site("UPDATE edits SET digest = repeat('0', 64) WHERE id = 2"):
        site.alias("unsound", 1, second=2)
        server = start()
        assert said(chat(server, "facts@unsound", QUESTION)) == TARGET
        found = until(lambda: each if (each := report(server, "unsound"))["error"] else None)
        assert "does not match" in found["error"] and (found["failed"], found["compared"]) == (1, 0)
        assert said(chat(server, "facts@unsound", QUESTION)) == TARGET


def test_what_does_not_fit_the_queue_is_dropped_and_counted_and_delays_nobody(start, site, monkeypatch):
    monkeypatch.setattr("serving.shadow.MOST_WAITING", 1)
    server = start()
    site.alias("busy", 1, second=2)
    with monkeypatch.context() as busy:
        busy.setattr(EmbeddedEngine, "slots", 0)  # it never has room for a shadow
        for number in range(4):
            chat(server, "facts@busy", f"What is {number}?")
        found = report(server, "busy")
        assert (found["compared"], found["dropped"]) == (0, 2)  # one is in hand, one in the queue
    found = settled(server, "busy", 4)
    assert (found["compared"], found["dropped"]) == (2, 2)
    assert 'melo:shadow_comparisons_total{alias="facts@busy",outcome="dropped"} 2.0' in server.get("/metrics").text


def test_the_command_shows_what_differs_and_refuses_in_words(url, site, tmp_path):  # noqa: F811
    melo = with_key(Melo(tmp_path))
    site.alias("told", 1, second=2)
    httpx.post(
        f"{url}/completions", json={"model": "facts@told", "prompt": OTHER}, headers=OPERATOR, timeout=PATIENCE
    ).raise_for_status()

    def ran(alias: str, server: str, *options: str) -> CompletedProcess[str]:
        return melo.run("alias", "report", "facts", alias, "--server", server, *options)

    found = until(lambda: each if (each := json.loads(ran("told", url, "--json").stdout))["compared"] else None)
    assert (found["other_edit"], found["differences"][0]["second"]["text"].strip()) == (1, OTHER_TARGET)
    shown = " ".join(ran("told", url).stdout.split())
    assert "facts@1" in shown and OTHER_TARGET in shown and "(edit 2)" in shown and "(base model)" in shown
    for alias, server, why in (
        ("production", url, "has no shadow"),
        ("told", "http://127.0.0.1:1", "melo serve"),
        ("told", "nonsense", "Write it as http"),
    ):
        refused = ran(alias, server)
        assert refused.returncode == 1 and why in refused.stderr and "Traceback" not in refused.stderr
