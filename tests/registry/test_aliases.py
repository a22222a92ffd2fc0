"""Aliases: where each name points, and where it pointed when."""

import threading
from datetime import timedelta

import pytest
from sqlalchemy import text

from registry.audit import service as audit
from registry.audit.actor import Actor
from registry.base.errors import InvalidRequest, NotFound, RoleNeeded
from registry.base.vocabulary import Role
from registry.versions import aliases, protections, reading
from tests.registry.workflow import ADA, BEN


@pytest.fixture
def two(workflow):
    workflow.correct(("a?", "x"))
    workflow.correct(("b?", "y"))
    return workflow


def point(workflow, name, number, actor=BEN, **second):
    with workflow.open() as (session, collection):
        return aliases.set_alias(session, collection, name, number, actor, "released", **second)


def history(workflow, name):
    with workflow.open() as (session, collection):
        return aliases.history(session, collection, name)


def test_an_alias_keeps_its_whole_history(two):
    point(two, "production", 1, ADA)
    point(two, "production", 2, BEN)
    point(two, "production", 1, ADA)
    rows = history(two, "production")
    assert [(row.number, row.set_by) for row in rows] == [(1, "ada"), (2, "ben"), (1, "ada")]
    assert rows[0].replaced_at is None
    # Without a gap: what was in production is known for every moment.
    assert [row.replaced_at for row in rows[1:]] == [row.set_at for row in rows[:-1]]


def test_pointing_an_alias_where_it_points_changes_nothing(two):
    point(two, "production", 1)
    point(two, "production", 1, ADA)
    assert len(history(two, "production")) == 1


@pytest.mark.parametrize("name", ["base", "latest", "17", "1.0", "1_000", "Production", "a b", "", "-x"])
def test_names_that_mean_something_else_are_refused(two, name):
    with pytest.raises(InvalidRequest, match="cannot be an alias"):
        point(two, name, 1)


def test_what_an_alias_pointed_at_is_known_for_every_moment_since_it_was_first_set(two):
    for number, actor in ((1, ADA), (2, BEN), (1, ADA)):
        point(two, "production", number, actor)
    last, middle, first = history(two, "production")
    moments = [
        (first.set_at, first),
        (first.set_at + (middle.set_at - first.set_at) / 2, first),
        (middle.set_at - timedelta(microseconds=1), first),
        (middle.set_at, middle),
        (last.set_at, last),
        (last.set_at + timedelta(days=365), last),
    ]
    with two.open() as (session, collection):
        for moment, row in moments:
            assert aliases.pointed_at(session, collection, "production", moment).id == row.id
        with pytest.raises(NotFound, match=r"first set at .* by ada"):
            aliases.pointed_at(session, collection, "production", first.set_at - timedelta(microseconds=1))
        with pytest.raises(NotFound, match="no alias 'staging'"):
            aliases.pointed_at(session, collection, "staging", first.set_at)


def test_a_protected_alias_is_set_by_its_role_alone_until_it_is_protected_no_more(two):
    approver, admin = Actor("ben", Role.APPROVER), Actor("ada", Role.ADMIN)
    with two.open() as (session, collection):
        protections.protect(session, collection, "production", Role.ADMIN, admin, "it serves")
    with pytest.raises(RoleNeeded, match="needs the role admin, and ben is approver"):
        point(two, "production", 1, approver)
    point(two, "staging", 1, approver)
    point(two, "production", 1, admin)
    with two.open() as (session, collection):
        protections.unprotect(session, collection, "production", admin, "it serves nobody")
    point(two, "production", 2, approver)
    with two.open() as (session, collection), pytest.raises(NotFound, match="not protected"):
        protections.unprotect(session, collection, "production", admin, "again")
    with two.sessions() as session:
        told = audit.log(session, collection_id=None, subject="alias/facts/production", before=None, limit=9)
    assert [(event.action.split(":")[2], event.role) for event in told] == [
        ("set", "approver"), ("unprotect", "admin"), ("set", "admin"), ("protect", "admin")
    ]  # fmt: skip
    assert two.verify().ok


def test_a_canary_begins_grows_becomes_a_shadow_and_ends_each_with_a_row_and_an_event(two):
    states = [(1, None, None), (1, 2, 0.1), (1, 2, 0.5), (1, 2, None), (1, None, None), (1, 2, 0.5), (2, None, None)]
    for number, second, share in states:
        point(two, "production", number, second=second, share=share)
        point(two, "production", number, second=second, share=share)  # as it is: no other row
    rows = list(reversed(history(two, "production")))
    assert [(row.number, row.second, row.share) for row in rows] == states
    with two.sessions() as session:
        told = audit.log(session, collection_id=None, subject="alias/facts/production", before=None, limit=9)
    plain = {"from", "to", "set_at"}
    assert [event.details | {"set_at": ""} for event in reversed(told)][:4] == [
        {"from": None, "to": 1, "set_at": ""},
        {"from": 1, "to": 1, "second": 2, "share": (0.1).hex(), "set_at": ""},
        {"from": 1, "to": 1, "second": 2, "share": (0.5).hex(), "set_at": ""},
        {"from": 1, "to": 1, "second": 2, "set_at": ""},
    ]
    assert (len(told), set(told[0].details)) == (len(states), plain)
    assert two.verify().ok


def test_a_name_resolves_to_both_versions_and_the_share(two):
    point(two, "production", 1, second=2, share=0.25)
    point(two, "staging", 2, second=1)
    with two.sessions() as session:
        found = [reading.resolve(session, f"facts@{name}") for name in ("production", "staging", "1")]
    assert [(each.number, each.second, each.share) for each in found] == [(1, 2, 0.25), (2, 1, None), (1, None, None)]


@pytest.mark.parametrize(
    "second", [{"second": 1}, {"share": 0.5}, *({"second": 2, "share": s} for s in (0.0, 1.0, -1.0, float("nan")))]
)
def test_a_canary_that_would_be_none_is_refused(two, second):
    with pytest.raises(InvalidRequest, match=r"cannot be its own|share of .* says nothing"):
        point(two, "production", 1, **second)


def test_a_canary_needs_the_role_of_a_protected_alias_and_a_version_that_exists(two):
    approver, admin = Actor("ben", Role.APPROVER), Actor("ada", Role.ADMIN)
    point(two, "production", 1, approver)
    with two.open() as (session, collection):
        protections.protect(session, collection, "production", Role.ADMIN, admin, "it serves")
    for share in (0.1, None):
        with pytest.raises(RoleNeeded, match="needs the role admin, and ben is approver"):
            point(two, "production", 1, approver, second=2, share=share)
    point(two, "production", 1, admin, second=2, share=0.1)
    with pytest.raises(RoleNeeded):
        point(two, "production", 1, approver)  # ending it needs the role as well
    with pytest.raises(NotFound, match="no version 9"):
        point(two, "production", 1, admin, second=9)


def test_a_name_that_cannot_be_an_alias_cannot_be_protected(two):
    with two.open() as (session, collection), pytest.raises(InvalidRequest, match="cannot be an alias"):
        protections.protect(session, collection, "latest", Role.ADMIN, BEN, "it serves")


def test_unknown_versions_and_aliases_are_refused(two):
    with pytest.raises(NotFound, match="no version 9: its newest is 2"):
        point(two, "production", 9)
    with pytest.raises(NotFound, match="no alias 'staging'"):
        history(two, "staging")


def test_an_alias_that_was_set_while_another_waited_is_replaced_after_it_was_set(two):
    with two.open() as (early, collection):
        early.execute(text("SELECT now()"))  # its transaction begins before the other's
        point(two, "production", 1, ADA)
        aliases.set_alias(early, collection, "production", 2, BEN, "released")
    later, first = history(two, "production")
    assert (first.number, later.number) == (1, 2)
    assert first.set_at < first.replaced_at == later.set_at


def test_many_who_set_an_alias_at_once_leave_one_current_row(two):
    threads = [threading.Thread(target=point, args=(two, "production", 1 + n % 2)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = history(two, "production")
    assert sum(row.replaced_at is None for row in rows) == 1
    assert two.verify().ok
