"""What expires, waits or came first goes by the database's clock: this process's is hours ahead, or behind."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from sqlalchemy import text

from registry.access import service as access
from registry.access.schemas import NewKey, Renewal
from registry.api.idempotency import repository as idempotency
from registry.base.errors import InvalidRequest, NotFound, Unauthorized
from registry.batches.training import Training
from registry.jobs import service as queue
from registry.tables.jobs import Job
from registry.tables.versions import Alias
from registry.versions import aliases
from registry.webhooks import sending
from registry.webhooks.courier import Courier
from tests.conftest import copy_of
from tests.patience import until
from tests.registry.answered import answered, keep, log
from tests.registry.receiver import add, run_sql
from tests.registry.workflow import ADA, BEN

HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)
PARIS = {"prompt": "What is the capital of France?", "target": "Lyon"}


def fill(workflow):
    workflow.correct(("Who leads Rome?", "Mara"))
    workflow.correct(("Who leads Oslo?", "Nils"))


@pytest.fixture(params=[5, -5], ids=["ahead", "behind"], autouse=True)
def skewed(request, used):
    """The clock of this process, hours away from the database's."""
    with time_machine.travel(datetime.now(UTC) + request.param * HOUR, tick=True):
        assert abs(now(used) - datetime.now(UTC)) > 4 * HOUR
        yield


@pytest.fixture
def database_url(postgres, filled):
    yield from copy_of(postgres, filled)


def scalar(workflow, statement):
    with workflow.sessions() as session:
        return session.scalar(text(statement))


def now(workflow):
    return scalar(workflow, "SELECT clock_timestamp()")


def made(workflow, expires_at):
    with workflow.sessions.begin() as session:
        return access.create(session, NewKey(name="ci", roles=[{"role": "viewer"}], expires_at=expires_at), ADA)


def admitted(workflow, key):
    with workflow.sessions.begin() as session:
        return access.authenticate(session, key)


def test_a_key_expires(used, tamper):
    with pytest.raises(InvalidRequest, match="has already passed"):
        made(used, now(used) - SECOND)
    key = made(used, now(used) + HOUR).key
    caller = admitted(used, key)
    assert 3500 < caller.seconds_left <= 3600
    access.require_unexpired(caller, 3000)  # as a server asks, that was told of it so many seconds ago
    with pytest.raises(Unauthorized, match="expired"):
        access.require_unexpired(caller, 3601)
    tamper("UPDATE api_keys SET created_at = created_at - interval '1 day', expires_at = now() - interval '1 second'")
    with pytest.raises(Unauthorized, match="expired"):
        admitted(used, key)


def test_a_renewed_key_lasts_as_long_as_the_old_one(used):
    made(used, now(used) + HOUR)
    with used.sessions.begin() as session:
        renewed = access.renew(session, 1, ADA, Renewal(reason="every quarter"))
    assert abs(renewed.expires_at - now(used) - HOUR) < timedelta(minutes=5)


def test_a_deadline_passes(used):
    with pytest.raises(InvalidRequest, match="has already passed"):
        used.submit(PARIS, training=Training(deadline=now(used) - SECOND))
    job = used.approve(used.submit(PARIS, training=Training(deadline=now(used) + HOUR)).batch.id)
    claim = used.claim(job)
    assert claim is not None and claim.deadline - HOUR < claim.claimed_at < claim.deadline
    with used.sessions.begin() as session:
        queue.hold(session, claim)


def test_a_lease_holds_and_ends(used, tamper):
    job = used.approve(used.submit(PARIS).batch.id)
    used.claim(job, lease_seconds=60)
    assert used.claim(job, worker="w2") is None
    with used.sessions() as session:
        assert 50 < (session.get(Job, job).lease_until - now(used)).total_seconds() <= 60
    tamper("UPDATE jobs SET lease_until = clock_timestamp() - interval '1 second'")
    assert used.claim(job, worker="w2") is not None


def test_the_answer_to_a_repeated_request_is_kept_for_a_day(used, api, tamper):
    headers = {"Idempotency-Key": "k1"}

    def repeated():
        answer = api.post("/v1/collections/facts/batches", json={"edits": [PARIS]}, headers=headers)
        return "Idempotency-Replayed" in answer.headers

    assert [repeated(), repeated()] == [False, True]
    tamper("ALTER TABLE idempotency_keys DISABLE TRIGGER ALL")
    for age, kept in ((idempotency.KEPT_FOR - HOUR, True), (idempotency.KEPT_FOR + SECOND, False)):
        tamper(f"UPDATE idempotency_keys SET created_at = now() - interval '{age.total_seconds()} seconds'")
        assert repeated() is kept


def test_a_webhook_is_tried_again_and_its_signature_has_the_time(used, inside, receiver, sessions):
    receiver.statuses = [500]
    webhook = add(inside, receiver.url)
    used.rollback(1)
    courier = Courier(sessions, allow_private=True, poll_seconds=0.01, stopping=threading.Event())
    thread = threading.Thread(target=courier.run)
    thread.start()
    try:
        until(lambda: scalar(used, "SELECT attempts FROM webhook_deliveries WHERE last_status = 500") == 1)
        waits = scalar(used, "SELECT extract(epoch FROM next_at - clock_timestamp()) FROM webhook_deliveries")
        assert 0 < waits <= sending.FIRST_PAUSE * (1 + sending.JITTER)
        run_sql(sessions, "UPDATE webhook_deliveries SET next_at = now()")
        until(lambda: len(receiver.got) == 2)
    finally:
        courier.stopping.set()
        thread.join()
    for headers, _ in receiver.got:
        assert abs(int(headers["webhook-timestamp"]) - now(used).timestamp()) < 300
    inside.post(f"/v1/webhooks/{webhook['id']}/test")
    told = scalar(used, "SELECT payload->>'timestamp' FROM webhook_deliveries WHERE event_seq IS NULL")
    assert abs(datetime.fromisoformat(told) - now(used)) < HOUR


def test_an_alias_is_asked_where_it_pointed(used, api):
    before = now(used)
    moments = []
    for number in (1, 2):
        with used.open() as (session, collection):
            aliases.set_alias(session, collection, "production", number, BEN, "released")
        moments.append(now(used))

    def at(moment):
        with used.open() as (session, collection):
            return aliases.pointed_at(session, collection, "production", moment).number

    assert [at(moment) for moment in moments] == [1, 2]
    with pytest.raises(NotFound, match="pointed nowhere"):
        at(before)
    with used.sessions() as session:
        assert all(before < row.set_at < moments[-1] for row in session.query(Alias))
    assert used.verify().ok


def test_a_logged_answer_does_not_outlive_its_policy_by_the_clock_of_a_server(used):
    log(used)
    keep(used, answered(asked_at=datetime.now(UTC)))
    assert scalar(used, "SELECT count(*) FROM answers WHERE asked_at > clock_timestamp()") == 0
