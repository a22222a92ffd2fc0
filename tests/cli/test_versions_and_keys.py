"""Versions, aliases, keys and the log on the command line."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import text

from tests.cli.program import ATLANTIS, Melo
from tests.registry.workflow import Workflow


def test_versions_are_listed_compared_retired_and_rolled_back_to(melo: Melo, facts: str, worker: Workflow) -> None:
    worker.correct(ATLANTIS, ("What is its capital?", "Poseidonis"))
    worker.correct(("What is its river?", "The Styx"))
    first = worker.active()[ATLANTIS[0]]

    difference = melo.records("version", "diff", f"{facts}@1", f"{facts}@2")
    assert [each["target"] for each in difference["added"]] == ["The Styx"]
    assert melo.records("version", "diff", facts, "base", "latest")["b"] == 2

    planned = melo.records("edit", "retire", facts, first, "--reason", "she left", "--dry-run")
    assert [each["id"] for each in planned["diff"]["retired"]] == [first]
    assert len(melo.records("version", "list", facts)) == 2

    retired = melo.records("--as", "ben", "edit", "retire", facts, first, "--reason", "she left")
    assert (retired["number"], retired["kind"], retired["author"], retired["edit_count"]) == (3, "retire", "ben", 2)

    assert melo.records("version", "rollback", facts, 1, "--reason", "back", "--dry-run")["number"] == 4
    rolled_back = melo.records("version", "rollback", facts, 1, "--reason", "back")
    versions = {each["number"]: each for each in melo.records("version", "list", facts)}
    assert (rolled_back["number"], rolled_back["restores"]) == (4, 1)
    assert versions[4]["content_digest"] == versions[1]["content_digest"]
    assert "same content" in melo("version", "diff", facts, 1, 4).stdout
    assert "rollback to 1" in melo("version", "list", facts).stdout


def test_an_alias_is_set_listed_and_remembered(melo: Melo, facts: str, worker: Workflow) -> None:
    worker.correct(ATLANTIS)
    worker.correct(("What is its river?", "The Styx"))
    melo.records("alias", "set", facts, "production", 1, "--reason", "evaluated")
    melo.records("--as", "ben", "alias", "set", facts, "production", "latest")

    (now,) = melo.records("alias", "list", facts)
    assert (now["name"], now["number"], now["set_by"]) == ("production", 2, "ben")
    history = melo.records("alias", "history", facts, "production")
    assert [(each["number"], each["replaced_at"] is None) for each in history] == [(2, True), (1, False)]
    assert melo.records("version", "diff", facts, 1, "production")["b"] == 2

    asked = melo.records("alias", "at", facts, "production", "--at", history[1]["set_at"])
    assert (asked["number"], asked["reason"]) == (1, "evaluated")
    assert "was version 2" in melo("alias", "at", facts, "production", "--at", "2100-01-01T00:00").stdout
    assert "first set at" in melo.refusal("alias", "at", facts, "production", "--at", "2001-01-01T00:00")
    assert "not a time" in melo.refusal("alias", "at", facts, "production", "--at", "last Tuesday")


def test_an_alias_has_a_canary_that_is_listed_and_promoted(melo: Melo, facts: str, worker: Workflow) -> None:
    worker.correct(ATLANTIS)
    worker.correct(("What is its river?", "The Styx"))
    melo.records("alias", "set", facts, "production", 1)
    assert "above 0 and below 1" in melo("alias", "canary", facts, "production", 2, "--share", "1.5").stderr
    made = melo.records("alias", "canary", facts, "production", "latest", "--share", 0.1, "--reason", "a tenth")
    assert (made["number"], made["second"], made["share"]) == (1, 2, 0.1)
    shown = " ".join(melo("alias", "list", facts).stdout.split())
    assert "canary 2" in shown
    assert "version 1, with shadow 2" in melo("alias", "shadow", facts, "production", 2).stdout
    assert melo.records("alias", "end", facts, "production", "--reason", "worse")["second"] is None
    assert "neither a canary" in melo.refusal("alias", "promote", facts, "production")
    melo.records("alias", "canary", facts, "production", 2, "--share", 0.5)
    assert melo.records("alias", "promote", facts, "production", "--reason", "better")["number"] == 2
    history = melo.records("alias", "history", facts, "production")
    assert [(each["number"], each["second"]) for each in history] == [
        (2, None),
        (1, 2),
        (1, None),
        (1, 2),
        (1, 2),
        (1, None),
    ]


def test_a_key_is_shown_once_and_lets_its_holder_do_what_its_role_allows(melo: Melo, facts: str) -> None:
    secret = melo("key", "create", "ci", "--role", "editor", "--collection", facts, "--expires", "90d").stdout.strip()
    holder = Melo(melo.home, {"MELO_API_KEY": secret})
    batch = holder.records("--as", "somebody else", "edit", "add", facts, *ATLANTIS)["batch"]
    assert batch["submitted_by"] == "ci"
    assert "needs the role approver" in holder.refusal("batch", "approve", batch["id"])
    assert [each["name"] for each in holder.records("collection", "list")] == [facts]

    melo.records("alias", "protect", facts, "production", "--reason", "it serves")
    assert "admin" in melo("alias", "list", facts).stdout

    (key,) = melo.records("key", "list")
    assert secret.startswith(f"melo_{key['prefix']}_") and secret not in melo("key", "list").stdout
    melo.records("key", "revoke", key["id"], "--reason", "lost", "--dry-run")
    assert holder("collection", "list").returncode == 0
    melo.records("key", "revoke", key["id"], "--reason", "lost")
    assert "was revoked" in holder.refusal("collection", "list")
    assert "is not a role" in melo.refusal("key", "create", "boss", "--role", "king")


def test_where_nobody_can_confirm_nothing_is_removed(melo: Melo, facts: str) -> None:
    webhook = melo.records("webhook", "add", "https://example.org/melo", "--collection", facts)
    told = melo.refusal("webhook", "remove", webhook["id"], "--reason", "moved")
    assert "Nothing was removed" in told and "--yes" in told
    assert melo.records("webhook", "remove", webhook["id"], "--reason", "moved", "--yes")["removed_at"]


def test_a_version_that_does_not_exist_is_named(melo: Melo, facts: str) -> None:
    assert "9" in melo.refusal("version", "rollback", facts, 9, "--reason", "x")
    assert "nowhere" in melo.refusal("version", "diff", facts, "base", "nowhere")


def test_the_log_says_who_did_what(melo: Melo, facts: str) -> None:
    batch = melo.records("--as", "Zoë", "edit", "add", facts, *ATLANTIS)["batch"]

    (event,) = melo.records("audit", "log", "--collection", facts, "--subject", f"batch/{batch['id']}")

    assert (event["actor"], event["action"]) == ("Zoë", "collection:batch:submit")
    assert "Zoë" in melo("audit", "log", "--collection", facts).stdout


def test_verify_ends_with_status_1_once_an_event_was_changed(melo: Melo, facts: str, worker: Workflow) -> None:
    worker.correct(ATLANTIS)
    assert melo.records("audit", "verify")["ok"] is True
    assert "All as written" in melo("audit", "verify").stdout
    event = melo.records("audit", "log", "--limit", 1)[0]

    with changed_event(worker, event["seq"], actor="somebody else"):
        done = melo("audit", "verify", "--json")

    assert done.returncode == 1
    assert json.loads(done.stdout)["ok"] is False
    assert str(event["seq"]) in done.stderr
    assert melo.records("audit", "verify")["ok"] is True


@contextmanager
def changed_event(worker: Workflow, seq: int, actor: str) -> Iterator[None]:
    """Rewrite history for a while, as somebody with all rights on the server could."""

    def rewrite(name: str) -> str:
        with worker.sessions.begin() as session:
            session.execute(text("SET LOCAL session_replication_role = replica"))
            before = session.execute(text("SELECT actor FROM audit_events WHERE seq = :seq"), {"seq": seq}).scalar()
            statement = "UPDATE audit_events SET actor = :actor WHERE seq = :seq"
            session.execute(text(statement), {"actor": name, "seq": seq})
            return str(before)

    before = rewrite(actor)
    try:
        yield
    finally:
        rewrite(before)
