"""Webhooks: signed, in order, tried again, and never sent into the server's own network."""

import json
import os
import signal
import subprocess
import sys
import threading
from datetime import timedelta

import pytest
from fastapi.testclient import TestClient
from standardwebhooks import Webhook

from registry.webhooks import sending
from registry.webhooks.courier import Courier
from tests.patience import PATIENCE, until
from tests.registry.receiver import add, deliveries, receiving, run_sql

quick_receiver = pytest.fixture(receiving, name="quick_receiver")


def courier(sessions, **options) -> Courier:
    return Courier(sessions, **{"allow_private": True, "poll_seconds": 0.01, "stopping": threading.Event()} | options)


@pytest.fixture
def sent(sessions):
    """Run couriers until nothing is left that is due now."""

    def run(arrived, *couriers: Courier) -> None:
        running = couriers or (courier(sessions),)
        threads = [threading.Thread(target=each.run) for each in running]
        for thread in threads:
            thread.start()
        try:
            until(arrived)
        finally:
            for each in running:
                each.stopping.set()
            for thread in threads:
                thread.join()

    return run


def ended(api: TestClient, webhook: dict, count: int = 1):
    return lambda: sum(each["state"] != "waiting" for each in deliveries(api, webhook)) >= count


def test_versions_and_aliases_are_told_in_order_with_a_signature_that_the_secret_proves(
    inside, workflow, receiver, sent
):
    workflow.correct(("Who leads Rome?", "Mara"))  # before anybody listens
    webhook = add(inside, receiver.url)
    workflow.correct(("Who leads Oslo?", "Nils"))
    inside.put("/v1/collections/facts/aliases/production", json={"version": 2})
    workflow.rollback(1)
    sent(ended(inside, webhook, 3))
    assert receiver.types == ["version.apply", "alias.set", "version.rollback"]
    for headers, body in receiver.got:
        assert Webhook(webhook["secret"]).verify(body, headers)  # raises WebhookVerificationError, also of an old time
        assert headers["content-type"] == "application/json"
    told = json.loads(receiver.got[1][1])["data"]
    assert (told["collection"], told["details"]["to"]) == ("facts", 2)
    assert told["seq"] == deliveries(inside, webhook)[1]["event_seq"]
    assert all(each["state"] == "delivered" and each["last_status"] == 204 for each in deliveries(inside, webhook))


def test_a_webhook_hears_only_the_events_and_the_collection_it_asked_for(
    inside, workflow, model_folder, receiver, sent, sessions
):
    inside.post("/v1/collections", json={"name": "other", "model": model_folder})
    batches = add(inside, receiver.url, events=["batch"], collection="facts")
    other = add(inside, receiver.url, events=["version", "alias", "batch"], collection="other")
    workflow.correct(("Who leads Rome?", "Mara"))
    sent(lambda: ended(inside, batches)() and not inside.get(f"/v1/webhooks/{batches['id']}").json()["waiting"])
    assert receiver.types[0] == "batch.submit"
    assert set(receiver.types) <= {"batch.submit", "batch.preflight", "batch.approve", "batch.train"}
    assert deliveries(inside, other) == []


def test_what_did_not_arrive_is_tried_again_with_the_same_id_and_nothing_overtakes_it(
    inside, workflow, receiver, sent, sessions
):
    webhook = add(inside, receiver.url, events=["version"])
    receiver.statuses = [500, 302]
    workflow.correct(("Who leads Rome?", "Mara"))
    workflow.rollback(0)
    for number, said in ((1, "500 Internal Server Error"), (2, "Redirects are not followed")):
        sent(lambda number=number, said=said: attempted(inside, webhook, number, said))
        second, first = deliveries(inside, webhook)
        assert (first["state"], first["attempts"], second["attempts"]) == ("waiting", number, 0)
        assert first["waits_for"] == "" and second["next_at"] is None
        assert (
            second["waits_for"].startswith(f"delivery {first['id']}, tried {number} time")
            and said in second["waits_for"]
        )
        run_sql(sessions, "UPDATE webhook_deliveries SET next_at = now() WHERE attempts > 0")
    sent(ended(inside, webhook, 2))
    assert receiver.types == ["version.apply"] * 3 + ["version.rollback"]
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 2


def attempted(api: TestClient, webhook: dict, times: int, said: str = "") -> bool:
    """Whether the oldest delivery has failed so often, at last with this error; an attempt counts from its start."""
    oldest = deliveries(api, webhook)[-1:]
    return any(each["attempts"] == times and said in (each["last_error"] or ()) for each in oldest)


def test_pauses_grow_to_an_hour_and_after_a_day_a_delivery_has_failed(
    inside, workflow, receiver, sent, sessions, tamper
):
    pauses = [sending.pause_after(attempts) for attempts in range(1, 8)]
    assert all(
        low <= pause <= 1.2 * low for pause, low in zip(pauses, [15, 60, 240, 960, 3600, 3600, 3600], strict=True)
    )
    webhook = add(inside, receiver.url, events=["version"])
    receiver.statuses = [503]
    workflow.correct(("Who leads Rome?", "Mara"))
    workflow.rollback(0)
    with sessions.begin() as session:
        assert sending.plan(session) == 2
    aged = sending.KEEP_TRYING - timedelta(minutes=30)  # less than the next pause
    age = f"created_at = now() - interval '{aged.total_seconds()} s'"
    tamper(f"UPDATE webhook_deliveries SET attempts = 9, {age} WHERE id = 1")
    sent(ended(inside, webhook, 2))
    second, first = deliveries(inside, webhook)
    assert (first["state"], first["last_status"], first["next_at"]) == ("failed", 503, None)
    assert second["state"] == "delivered"


def test_a_slow_receiver_is_given_up_on_in_time_and_holds_up_no_other(
    inside, workflow, receiver, quick_receiver, sent, sessions
):
    receiver.answering.clear()
    slow = add(inside, receiver.url, events=["version"])
    quick = add(inside, quick_receiver.url, events=["version"])
    workflow.correct(("Who leads Rome?", "Mara"))
    workflow.rollback(0)
    sent(ended(inside, quick, 2), courier(sessions, seconds_per_attempt=60))
    assert [(each["attempts"], each["last_error"]) for each in deliveries(inside, slow)] == [(0, None), (1, None)]
    run_sql(sessions, "UPDATE webhook_deliveries SET next_at = now() WHERE delivered_at IS NULL")
    sent(lambda: attempted(inside, slow, 2), courier(sessions, seconds_per_attempt=0.3))
    receiver.answering.set()
    assert "did not answer within 0.3 seconds" in deliveries(inside, slow)[-1]["last_error"]


def test_two_couriers_send_each_message_once(inside, workflow, receiver, sent, sessions):
    webhook = add(inside, receiver.url, events=["version"])
    workflow.correct(("Who leads Rome?", "Mara"))
    for to in (0, 1) * 4:
        workflow.rollback(to)
    sent(ended(inside, webhook, 9), courier(sessions), courier(sessions))
    seqs = [json.loads(body)["data"]["seq"] for _, body in receiver.got]
    assert len(seqs) == 9
    assert seqs == sorted(set(seqs))


def test_the_relay_sends_them_while_its_broker_is_away(inside, workflow, receiver, database_url):
    add(inside, receiver.url, events=["version"])
    workflow.correct(("Who leads Rome?", "Mara"))
    given = {"DATABASE_URL": database_url, "REDIS_URL": "redis://127.0.0.1:1/0", "WEBHOOK_ALLOW_PRIVATE": "true"}
    environment = os.environ | {f"MELO_{name}": value for name, value in given.items()}
    with subprocess.Popen([sys.executable, "-m", "registry.relay"], env=environment) as program:
        until(lambda: receiver.got)
        program.send_signal(signal.SIGTERM)
        assert program.wait(timeout=PATIENCE) == 0
    assert receiver.types == ["version.apply"]


def test_a_test_message_is_sent_past_what_waits_and_is_not_repeated(inside, workflow, receiver, sent):
    webhook = add(inside, receiver.url)
    receiver.statuses = [500, 204, 500]
    workflow.correct(("Who leads Rome?", "Mara"))
    sent(lambda: attempted(inside, webhook, 1))
    for state in ("delivered", "failed"):
        answer = inside.post(f"/v1/webhooks/{webhook['id']}/test")
        assert (answer.status_code, answer.json()["state"]) == (202, "waiting")
        sent(lambda: deliveries(inside, webhook)[0]["state"] != "waiting")
        assert (deliveries(inside, webhook)[0]["type"], deliveries(inside, webhook)[0]["state"]) == (
            "webhook.test",
            state,
        )
    assert deliveries(inside, webhook)[-1]["state"] == "waiting"


@pytest.mark.parametrize("host", ["2130706433", "127.1", "localhost"])
def test_a_name_that_means_a_private_address_when_it_is_sent_to_is_refused_then(
    inside, workflow, receiver, sent, sessions, host
):
    webhook = add(inside, receiver.url.replace("127.0.0.1", host), events=["version"])
    workflow.correct(("Who leads Rome?", "Mara"))
    sent(lambda: attempted(inside, webhook, 1), courier(sessions, allow_private=False))
    assert "not a public address" in deliveries(inside, webhook)[0]["last_error"]
    assert receiver.got == []
