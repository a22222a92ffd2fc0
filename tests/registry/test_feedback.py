"""Feedback on answers: recorded with who gave it, and made a draft that waits for approval as any other."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from registry.client import MeloClient, MeloClientError
from tests.conftest import copy_of
from tests.operators_key import KEY
from tests.registry.answered import QUESTION, TARGET, answered, by_base, keep, log
from tests.registry.keys import key, other_collection


def fill(workflow):
    workflow.correct((QUESTION, TARGET))


@pytest.fixture
def database_url(postgres, filled):
    yield from copy_of(postgres, filled)


@pytest.fixture
def client(used, served):
    log(used)
    with MeloClient(served, KEY, actor="cleo") as client:
        yield client


def test_a_correction_of_an_edited_answer_becomes_a_batch_that_replaces_the_edit_once_approved(client, used):
    keep(used, answered())
    given = client.give_feedback("chatcmpl-1", "down", comment="she retired", correction="King Ben")
    assert (given.batch_id, given.note) == (2, "Batch 2 waits for approval.")
    assert (given.version, given.edit_id, given.given_by, given.question) == (1, 1, "cleo", QUESTION)
    batch = client.batch(2)
    (edit,) = batch.edits
    assert (batch.state, batch.job, batch.submitted_by, batch.source) == (
        "submitted", None, "cleo", "feedback on chatcmpl-1",
    )  # fmt: skip
    assert (edit.prompt, edit.target, edit.replaces, edit.source) == (QUESTION, "King Ben", 1, "feedback on chatcmpl-1")
    assert used.active() == {QUESTION: 1}
    used.finish(used.claim(used.approve(2)))
    assert used.active() == {QUESTION: 2}
    events = [(each.action, each.subject) for each in client.audit(limit=1000) if each.actor == "cleo"]
    assert events == [("collection:feedback:give", "feedback/1"), ("collection:batch:submit", "batch/2")]
    assert used.verify().ok


def test_a_draft_may_replace_the_edit_that_answered_another_wording(client, used):
    keep(used, answered(question="Who is the leader of Atlantis?"))
    client.give_feedback("chatcmpl-1", "down")
    made = client.draft_feedback(1, "King Ben", replaces=1)
    (edit,) = client.batch(made.batch_id).edits
    assert (edit.prompt, edit.replaces) == ("Who is the leader of Atlantis?", 1)


def test_the_event_of_feedback_tells_nothing_that_was_written(client, used):
    keep(used, answered())
    client.give_feedback("chatcmpl-1", "down", comment="she retired")
    (event,) = client.audit(subject="feedback/1")
    assert event.details == {"response": "chatcmpl-1", "rating": "down", "version": 1, "edit": 1}


def test_a_viewers_correction_is_recorded_and_an_editor_makes_the_draft(client, used, api, open_api):
    keep(used, by_base("chatcmpl-1", "Who leads Mu?", asked_by="app"))
    viewer, editor = key(api, "app", "viewer", "facts"), key(api, "ed", "editor", "facts")
    remote = open_api()
    body = {"response_id": "chatcmpl-1", "rating": "down", "correction": "Lady Lu"}
    given = remote.post("/v1/feedback", json=body, headers=viewer).json()
    assert (given["batch_id"], given["given_by"]) == (None, "app") and "editor" in given["note"]
    assert remote.post("/v1/feedback/1/draft", json={"target": "Lady Lu"}, headers=viewer).status_code == 403
    assert [each["id"] for each in remote.get("/v1/collections/facts/feedback?open=true", headers=editor).json()] == [1]
    made = remote.post("/v1/feedback/1/draft", json={"target": "Lady Lu"}, headers=editor)
    assert (made.status_code, made.json()["batch_id"], made.json()["batch_state"]) == (201, 2, "submitted")
    assert client.batch(2).submitted_by == "ed" and client.batch(2).edits[0].prompt == "Who leads Mu?"
    assert client.feedback("facts", only_open=True) == []
    with pytest.raises(MeloClientError, match="Feedback 1 became batch 2"):
        client.draft_feedback(1, "Lady Lu")


def test_where_the_log_keeps_no_text_the_client_sends_the_prompt(client, used):
    log(used, text=False)
    keep(used, by_base("chatcmpl-1"))
    given = client.give_feedback("chatcmpl-1", "down", correction="Lady Lu")
    assert given.batch_id is None and "needs the prompt" in given.note
    with pytest.raises(MeloClientError, match="Nobody knows the question of feedback 1"):
        client.draft_feedback(1, "Lady Lu")
    assert client.draft_feedback(1, "Lady Lu", prompt="Who leads Mu?").batch_id == 2
    given = client.give_feedback("chatcmpl-1", "down", correction="Sir Sam", prompt="Who was first to lead Mu?")
    assert client.batch(given.batch_id).edits[0].prompt == "Who was first to lead Mu?"


def test_an_answer_that_is_not_logged_needs_its_collection_to_be_named(client, used):
    with pytest.raises(MeloClientError, match=r"The log has no answer 'chatcmpl-9'.*Name the collection"):
        client.give_feedback("chatcmpl-9", "up")
    given = client.give_feedback("chatcmpl-9", "down", collection="facts", prompt="Who leads Mu?", correction="Lady Lu")
    assert (given.version, given.batch_id) == (None, 2)
    keep(used, answered())
    with pytest.raises(MeloClientError, match="has no choice 3"):
        client.give_feedback("chatcmpl-1", "up", choice=3)
    with pytest.raises(MeloClientError, match="Send it with the rating `down`"):
        client.give_feedback("chatcmpl-1", "up", correction="Lady Lu")


def test_a_correction_that_cannot_be_submitted_is_still_recorded(client, used):
    keep(used, answered())
    given = client.give_feedback("chatcmpl-1", "down", correction=TARGET)
    assert given.batch_id is None and "could not be submitted: " in given.note and "edit 1" in given.note
    assert client.feedback("facts")[0].correction == TARGET


def test_nobody_gives_feedback_on_answers_that_they_may_not_read(client, used, api, open_api, model_folder):
    other_collection(api, model_folder)
    keep(used, answered(asked_by="app"))
    stranger, viewer = key(api, "stranger", "admin", "other"), key(api, "viewer", "viewer", "facts")
    remote = open_api()
    for headers, more in ((stranger, {}), (stranger, {"collection": "facts"}), (viewer, {})):
        body = {"response_id": "chatcmpl-1", "rating": "down", **more}
        assert remote.post("/v1/feedback", json=body, headers=headers).status_code == 404
    assert client.feedback("facts") == []


def test_the_database_refuses_to_change_what_was_said(client, used, engine):
    keep(used, answered())
    client.give_feedback("chatcmpl-1", "down", correction="King Ben")
    for change in ("rating = 'up'", "batch_id = NULL", "batch_id = 1", "comment = 'no'"):
        with pytest.raises(DBAPIError, match="UPDATE on feedback is refused"), engine.begin() as connection:
            connection.execute(text(f"UPDATE feedback SET {change}"))
