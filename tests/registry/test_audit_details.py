"""The details of audit events: the same in the classes, in the documentation and in what is stored."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from sqlalchemy import text

from registry.audit import export
from registry.audit.details import BY_ACTION, AliasSet, BatchApprove, PolicyChange, key
from registry.base.vocabulary import Action, QueueState, Role
from registry.collections import policy
from registry.collections.schemas import PolicyChange as WantedPolicy
from registry.jobs import service as queue
from registry.versions import aliases, protections
from registry.versions.edit_log import edit_log
from tests.conftest import copy_of
from tests.registry.workflow import BEN

DOCS = Path(__file__).parents[2] / "docs" / "audit.md"
FRANCE = ("What is the capital of France?", "Lyon")
SPAIN = ("What is the capital of Spain?", "Seville")


def fill(workflow):
    workflow.correct(FRANCE)
    workflow.retire(workflow.active()[FRANCE[0]])
    with workflow.open() as (session, collection):
        aliases.set_alias(session, collection, "production", 1, BEN, "first release")
        protections.protect(session, collection, "production", Role.ADMIN, BEN, "it is served")
        policy.change(session, collection, WantedPolicy(approvals_needed=2, reason="four eyes"), BEN)
        policy.change(session, collection, WantedPolicy(approvals_needed=1, reason="too slow"), BEN)
    workflow.set_queue(QueueState.PAUSED)
    workflow.set_queue(QueueState.OPEN)
    workflow.submit({"prompt": SPAIN[0], "target": SPAIN[1]})
    claim = workflow.claim(workflow.approve(2))
    with workflow.sessions.begin() as session:
        queue.fail(session, claim, "out of memory")


@pytest.fixture
def database_url(postgres, filled):
    yield from copy_of(postgres, filled)


def documented():
    """Read the table: for each action, the details that are always there, and those in parentheses."""
    rows = [line.split("|")[1:-1] for line in DOCS.read_text().splitlines() if re.match(r"\| `\w+:\w+:\w+`", line)]
    found = {}
    for actions, _, details in rows:
        always, optional = re.sub(r"\(.*?\)", "", details), "".join(re.findall(r"\(.*?\)", details))
        for action in re.findall(r"`(.+?)`", actions):
            assert action not in found
            found[action] = (set(re.findall(r"`(.+?)`", always)), set(re.findall(r"`(.+?)`", optional)))
    return found


def test_the_documentation_lists_every_action_with_its_details():
    def of(kind):
        names = {field.name: key(getattr(kind, field.name)) for field in fields(kind)}
        optional = {names[field.name] for field in fields(kind) if field.default is None}
        return set(names.values()) - optional, optional

    assert documented() == {action: of(BY_ACTION[action]) for action in Action}


def test_optional_details_are_left_out_and_others_are_stored_as_null():
    first = {"submitted_by": "ada", "approval": 1, "declined": [], "approvals": ["ben"], "approvals_needed": 2}
    assert BatchApprove(**first).stored() == first
    last = {**first, "cancelled_preflights": [], "job": 7}
    assert BatchApprove(**last).stored() == last
    assert AliasSet(from_=None, to=1, set_at="now").stored() == {"from": None, "to": 1, "set_at": "now"}


def test_every_event_reads_back_as_it_was_stored(used):
    with used.sessions() as session:
        stored = session.execute(text("SELECT action, details FROM audit_events ORDER BY seq")).all()
    assert {PolicyChange.action, AliasSet.action, "collection:version:retire"} < {event.action for event in stored}
    for event in stored:
        assert BY_ACTION[event.action].parse(event.details).stored() == event.details


TAMPERED = {
    "a key is missing": ("collection:batch:submit", "details - 'edits'", "edits: Field required"),
    "a key is unknown": ("collection:alias:set", "details || '{\"x\": 1}'", "x: Unexpected keyword argument"),
    "an id is a text": ("collection:batch:approve", 'details || \'{"approval": "x"}\'', "approval: Input should be"),
    "a number has a fraction": ("collection:batch:train", "details || '{\"job\": 1.5}'", "job: Input should be"),
    "a job is a text": ("collection:batch:fail", 'details || \'{"job": "x"}\'', "job: Input should be"),
    "a job is missing": ("collection:batch:fail", "details - 'job'", "job: Field required"),
    "a part is a number": ("collection:policy:change", "details || '{\"after\": 1}'", "after: Input should be"),
    "a list has a text": ("collection:version:apply", 'details || \'{"counts": ["x"]}\'', "counts.0: Input should"),
    "a role is a number": ("collection:alias:protect", "details || '{\"to\": 1}'", "to: Input should be"),
    "it is a list": ("collection:version:retire", "'[\"x\"]'", "the whole: Input should be an object"),
    "it is null": ("registry:collection:create", "'null'", "the whole: Input should be an object"),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_details_that_do_not_fit_their_action_are_reported_and_keep_nothing_from_being_verified(used, tamper, how):
    action, details, expected = TAMPERED[how]
    tamper(f"UPDATE audit_events SET details = {details} WHERE action = '{action}'")
    findings = [f"{each.subject}: {each.detail}" for each in used.verify().findings]
    assert any(f"its details do not fit its action: {expected}" in finding for finding in findings), findings
    assert not [finding for finding in findings if "cannot be read" in finding]
    with used.sessions() as session:
        assert edit_log(session, 1).entries


def test_an_action_that_does_not_exist_is_reported_in_the_record_and_in_an_exported_file(used, tamper):
    tamper("UPDATE audit_events SET action = 'collection:batch:paint' WHERE seq = 4")
    with used.sessions() as session:
        lines = list(export.lines(session, 0))
    for report in (used.verify(), export.verify(lines)):
        findings = [f"{each.subject}: {each.detail}" for each in report.findings]
        assert "event 4: its action is 'collection:batch:paint', which this program does not know" in findings
