"""API keys from their making to their end, and that nobody's secret is kept."""

import sys
from datetime import UTC, datetime, timedelta

import pytest
import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from registry.access.keys import KeyText
from tests.registry.keys import carrying, key
from tests.registry.problem import is_problem


def test_a_key_that_would_have_expired_in_the_first_year_is_refused(api):
    new = {"name": "old", "roles": [{"role": "viewer", "collection": None}], "expires_at": "0001-01-01T00:00:00+01:00"}
    is_problem(api.post("/v1/keys", json=new), 422, "invalid-request")


def test_a_keys_secret_is_shown_once_and_kept_nowhere(api, remote, workflow, engine, capsys):
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    repeatable = {"Idempotency-Key": "k1"}  # whose answers are kept
    made = api.post("/v1/keys", json={"name": "ci", "roles": [{"role": "viewer"}]}, headers=repeatable)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory())
    assert made.headers["Cache-Control"] == "no-store"
    shown = made.json()["key"]
    given = KeyText.read(shown)
    assert given.prefix == made.json()["prefix"] and given.secret not in repr(given)
    assert remote.get("/v1/collections", headers=carrying(shown)).status_code == 200
    assert given.secret not in api.get("/v1/keys").text + api.get("/v1/audit").text + "".join(capsys.readouterr())
    with engine.connect() as connection:
        tables = connection.execute(
            text("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        )
        for (table,) in tables.all():
            rows = connection.execute(text(f'SELECT t::text FROM "{table}" t')).scalars().all()
            assert given.secret not in " ".join(rows), table
        stored = connection.execute(text("SELECT secret_sha256 FROM api_keys")).scalar_one()
    assert stored == given.sha256


def test_a_key_that_is_not_quite_right_is_none(api, remote):
    right = key(api)["Authorization"].removeprefix("Bearer ")
    other = right[:-1] + ("A" if right[-1] != "A" else "B")
    wrong = ["", "Bearer", "Bearer x", f"Basic {right}", right, f"Bearer {right}x", f"Bearer {right[:-1]}"]
    for header in (*wrong, f"Bearer {other}"):
        is_problem(remote.get("/v1/collections", headers={"Authorization": header}), 401, "unauthorized")
    assert remote.get("/v1/batches/1", headers=carrying(right)).status_code == 404


def test_a_revoked_key_is_refused_at_once_and_never_comes_back(api, remote, engine):
    headers = key(api, "ci", "viewer")
    assert remote.get("/v1/collections", headers=headers).status_code == 200
    assert api.delete("/v1/keys/1").status_code == 422  # a reason is needed
    revoked = api.delete("/v1/keys/1", params={"reason": "lost"}, headers={"X-Melo-Actor": "ben"}).json()
    assert (revoked["state"], revoked["revoked_by"]) == ("revoked", "ben")
    body = is_problem(remote.get("/v1/collections", headers=headers), 401, "unauthorized")
    assert "ci was revoked" in body["detail"]
    is_problem(api.delete("/v1/keys/1", params={"reason": "lost"}), 409, "wrong-state")
    for statement in (
        "UPDATE api_keys SET revoked_at = NULL, revoked_by = NULL",
        "UPDATE api_keys SET expires_at = now() + interval '1 day'",
        "DELETE FROM api_keys",
        "UPDATE api_key_roles SET role = 'admin'",
    ):
        with pytest.raises(DBAPIError, match="refused"), engine.begin() as connection:
            connection.execute(text(statement))
    assert [event["action"] for event in api.get("/v1/audit").json()] == ["registry:key:revoke", "registry:key:create"]


@pytest.mark.parametrize(
    ("forgery", "named"),
    [
        ("UPDATE api_key_roles SET role = 'admin' WHERE key_id = 2", "key/2"),
        ("INSERT INTO api_key_roles (key_id, role) VALUES (2, 'admin')", "key/2"),
        ("UPDATE api_keys SET revoked_at = NULL, revoked_by = NULL WHERE id = 1", "key/1"),
        ("UPDATE api_keys SET secret_sha256 = repeat('0', 64) WHERE id = 2", "key/2"),
        ("DELETE FROM api_key_roles WHERE key_id = 2; DELETE FROM api_keys WHERE id = 2", "key/2"),
        (
            "INSERT INTO api_keys (name, actor, prefix, secret_sha256, created_by) "
            "VALUES ('mine', 'ada', repeat('0', 12), repeat('0', 64), 'ada')",
            "key/3",
        ),
        ("DELETE FROM alias_protections", "protection of alias/facts/production"),
        ("UPDATE alias_protections SET role = 'approver'", "protection of alias/facts/production"),
    ],
)
def test_rights_that_somebody_gave_themselves_in_the_database_are_found(api, workflow, tamper, forgery, named):
    key(api, "old", "viewer")
    key(api, "ci", "viewer", "facts")
    api.delete("/v1/keys/1", params={"reason": "lost"})
    api.put("/v1/collections/facts/protections/production", json={"reason": "it serves"})
    assert api.get("/v1/audit/verify").json()["ok"]
    tamper(*forgery.split("; "))
    assert {each["subject"] for each in api.get("/v1/audit/verify").json()["findings"]} == {named}


def test_an_expired_key_is_refused_and_told_so(api, remote, tamper):
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    headers = key(api, "ci", "viewer", expires_at=soon)
    assert remote.get("/v1/collections", headers=headers).status_code == 200
    tamper("UPDATE api_keys SET created_at = created_at - interval '1 day', expires_at = now() - interval '1 second'")
    assert "ci expired on" in is_problem(remote.get("/v1/collections", headers=headers), 401, "unauthorized")["detail"]
    assert api.get("/v1/keys").json()[0]["state"] == "expired"
    past = {"name": "late", "roles": [{"role": "viewer"}], "expires_at": "2020-01-01T00:00:00Z"}
    is_problem(api.post("/v1/keys", json=past), 422, "invalid-request")


def test_a_rotated_key_keeps_name_actor_and_roles_and_ends_the_old_one(api, remote, workflow):
    old = key(api, "ci", "editor", "facts", actor="Cleo")
    is_problem(
        api.post("/v1/keys", json={"name": "ci", "roles": [{"role": "viewer"}]}), 409, "name-taken"
    )  # a name means one key
    made = api.post("/v1/keys/1/rotate", json={"reason": "every quarter"}).json()
    assert (made["name"], made["actor"], made["roles"]) == ("ci", "Cleo", [{"role": "editor", "collection": "facts"}])
    assert remote.get("/v1/collections", headers=old).status_code == 401
    assert remote.get("/v1/collections", headers=carrying(made["key"])).status_code == 200


def test_a_rotated_key_lasts_as_long_as_the_old_one_did_unless_somebody_says_how_long(api, tamper):
    key(api, "ci", "viewer", expires_at=(datetime.now(UTC) + timedelta(days=90)).isoformat())
    tamper("UPDATE api_keys SET created_at = created_at - interval '60 days', expires_at = now() + interval '30 days'")

    def rotated(number, **more):
        made = api.post(f"/v1/keys/{number}/rotate", json={"reason": "every quarter", **more}).json()
        return made["expires_at"] and datetime.fromisoformat(made["expires_at"]) - datetime.now(UTC)

    assert timedelta(days=89) < rotated(1) < timedelta(days=91)
    assert timedelta(days=89) < rotated(2) < timedelta(days=91)
    assert rotated(3, expires_at=None) is None
    assert rotated(4) is None


def test_the_last_use_is_written_at_most_once_a_minute(api, remote, engine):
    headers = key(api, "ci", "viewer")

    def used():
        with engine.connect() as connection:
            return connection.execute(text("SELECT last_used_at FROM api_keys")).scalar_one()

    assert used() is None
    remote.get("/v1/collections", headers=headers)
    first = used()
    remote.get("/v1/collections", headers=headers)
    assert used() == first is not None
