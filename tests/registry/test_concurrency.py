"""Everybody at once: no deadlock, no gap, no change without its event."""

import threading

import pytest
from sqlalchemy import text

from registry.base import database
from registry.base.errors import InvalidRequest, StaleBase, WrongState
from registry.base.vocabulary import BatchState
from registry.batches import service as edits
from registry.collections import repository as rows
from registry.versions import aliases
from tests.registry.workflow import BEN


def test_corrections_retirements_rollbacks_and_aliases_at_once_leave_an_intact_record(workflow):
    workflow.correct(("first?", "x"))
    errors = []

    def in_thread(act):
        def run(number):
            for turn in range(6):
                try:
                    act(number, turn)
                except (InvalidRequest, WrongState):
                    pass  # another one was there first
                except Exception as error:
                    errors.append(error)

        return run

    def correct(number, turn):
        batch = workflow.submit({"prompt": f"question {number}.{turn}?", "target": "y"}).batch
        workflow.approve(batch.id)
        while is_on_its_way(batch.id):
            for claim in workflow.take(f"w{number}") or ():  # perhaps another one's: they are done in their order
                finish(claim)

    def finish(claim):
        while True:
            try:
                workflow.finish(claim)
                return
            except StaleBase:  # build it again on the newest version, as a worker does
                continue

    def is_on_its_way(batch_id):
        with workflow.sessions() as session:
            return not BatchState(edits.get(session, batch_id).state).is_over

    def retire(number, turn):
        workflow.retire(*list(workflow.active().values())[:1])

    def roll_back(number, turn):
        workflow.rollback(turn % 2)

    def point(number, turn):
        with workflow.open() as (session, collection):
            aliases.set_alias(session, collection, "production", 1, BEN, f"{number}.{turn}")

    threads = [
        threading.Thread(target=in_thread(act), args=(number,))
        for number, act in enumerate((correct, correct, correct, retire, roll_back, point, correct, retire))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    report = workflow.verify()
    assert report.findings == []
    assert report.verified["versions"] >= 25


def test_a_process_that_is_frozen_with_locks_does_not_keep_them(workflow, database_url, monkeypatch):
    monkeypatch.setattr(database, "IDLE_SECONDS", 0.5)
    engine = database.make_engine(database_url)
    with engine.connect() as frozen:
        frozen.execute(text("SELECT id FROM collections FOR UPDATE"))
        with workflow.open() as (session, collection):
            rows.lock(session, collection.id)  # waits until the server has ended the other transaction
        with pytest.raises(database.UNREACHABLE):
            frozen.execute(text("SELECT 1"))
    engine.dispose()
