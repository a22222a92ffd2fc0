"""API keys and roles: who is let in, what each may do, and that nobody's secret is kept."""

import json
import logging
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
import redis
import structlog
from fastapi.routing import iter_route_contexts
from redis.backoff import ConstantBackoff
from redis.retry import Retry
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from embedded.programs import valkey_server
from registry.access.caller import Caller
from registry.access.keys import KeyText
from registry.api.gate import OPEN
from registry.api.http import Needs
from registry.api.rates import FAILURES, Rates
from registry.base.errors import TooManyRequests
from registry.base.vocabulary import Role
from tests.registry.problem import is_problem

PARIS = {"prompt": "What is the capital of France?", "target": "Paris"}


def key(api, name="ci", role="editor", collection=None, **more):
    """A new key, as the headers that carry it."""
    made = api.post("/v1/keys", json={"name": name, "roles": [{"role": role, "collection": collection}], **more})
    assert made.status_code == 201, made.text
    return carrying(made.json()["key"])


def carrying(text):
    return {"Authorization": f"Bearer {text}"}


def other_collection(api, model_folder, name="other"):
    assert api.post("/v1/collections", json={"name": name, "model": model_folder}).status_code == 201


def routes(api):
    """Every path and method of the API, with the roles that it needs."""
    for route in iter_route_contexts(api.app.routes):
        for method in (route.methods or set()) - {"HEAD"}:
            needs = [each.dependency for each in getattr(route, "dependencies", ()) if type(each.dependency) is Needs]
            yield method, route.path, needs


def filled(path):
    """A path with something in the place of each parameter."""
    values = {"collection": "facts", "name": "production", "number": "1"}
    parts = [
        values.get(part[1:-1], "1") if part.startswith("{") else part
        for part in path.split("/")
    ]  # fmt: skip
    return "/".join(parts)


def test_every_route_but_those_of_health_and_description_says_once_which_roles_it_needs(api):
    found = {(method, path): len(needs) for method, path, needs in routes(api)}
    assert {path for (_, path), needs in found.items() if not needs} == OPEN
    assert {needs for (_, path), needs in found.items() if path not in OPEN} == {1}
    assert len(found) > 30


def test_without_a_key_nothing_is_served_to_another_machine(remote, api):
    for method, path, _ in routes(api):
        answer = remote.request(method, filled(path))
        if path in OPEN:
            assert answer.status_code == 200, path
        elif answer.status_code != 429:  # so many tries are too many
            body = is_problem(answer, 401, "unauthorized")
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert "melo key create" in body["remedy"]


def test_an_admin_of_one_collection_gets_at_nothing_of_another(api, remote, workflow, model_folder):
    other_collection(api, model_folder)
    workflow.submit(PARIS)  # batch 1 and edit 1 are of facts
    headers = key(api, role="admin", collection="other")
    for method, path, needs in routes(api):
        if path in OPEN or needs[0].anywhere:
            continue
        for query in ({}, {"collection": "other", "model": "other@1"} if needs[0].query is None else {}):
            answer = remote.request(method, filled(path), headers=headers, params=query)
            detail = is_problem(answer, 403, "role-needed")["detail"]
            assert "needs the role" in detail and "key ci" in detail, path
    assert [each["name"] for each in remote.get("/v1/collections", headers=headers).json()] == ["other"]
    assert remote.get("/v1/audit", params={"collection": "other"}, headers=headers).status_code == 200
    assert remote.get("/v1/resolve", params={"model": "other"}, headers=headers).status_code == 200


def test_what_does_not_exist_and_what_may_not_be_seen_are_refused_in_the_same_words(
    api, remote, workflow, model_folder
):
    other_collection(api, model_folder)
    workflow.submit(PARIS)
    headers = key(api, role="viewer", collection="other")

    def refusal(path):
        return is_problem(remote.get(path, headers=headers), 403, "role-needed")["detail"]

    assert refusal("/v1/batches/1").replace("'1'", "'2'") == refusal("/v1/batches/2")
    assert refusal("/v1/collections/facts").replace("facts", "none") == refusal("/v1/collections/none")


NEEDED = [
    ("GET", "/v1/collections", None, Role.VIEWER),
    ("GET", "/v1/collections/facts/batches", None, Role.VIEWER),
    ("GET", "/v1/batches/1", None, Role.VIEWER),
    ("GET", "/v1/audit?collection=facts", None, Role.VIEWER),
    ("GET", "/v1/collections/facts/aliases/production/history", None, Role.VIEWER),
    ("POST", "/v1/collections/facts/batches", {"edits": [{"prompt": "Who?", "target": "Jo"}]}, Role.EDITOR),
    ("POST", "/v1/batches/1/approve", {"reason": "checked"}, Role.APPROVER),
    ("POST", "/v1/edits/1/retrain", {"training": {"seed": 1}, "reason": "not learned"}, Role.EDITOR),
    ("POST", "/v1/edits/1/guards", {"prompts": ["When?"], "reason": "answered"}, Role.EDITOR),
    ("GET", "/v1/jobs", None, Role.VIEWER),
    ("GET", "/v1/collections/facts/queue", None, Role.VIEWER),
    ("POST", "/v1/collections/facts/queue", {"state": "paused", "reason": "later"}, Role.APPROVER),
    ("POST", "/v1/collections/facts/retire", {"edits": [1], "reason": "wrong"}, Role.APPROVER),
    ("POST", "/v1/collections/facts/rollback", {"to": 0, "reason": "wrong"}, Role.APPROVER),
    ("PUT", "/v1/collections/facts/aliases/production", {"version": 1}, Role.APPROVER),
    ("PUT", "/v1/collections/facts/protections/production", {"reason": "it serves"}, Role.ADMIN),
    ("PATCH", "/v1/collections/facts/policy", {"reason": "two eyes more", "approvals_needed": 2}, Role.ADMIN),
]


def test_a_key_may_do_what_its_role_covers_and_nothing_above(api, remote, workflow):
    workflow.submit(PARIS)
    keys = {role: key(api, f"for-{role}", role, "facts") for role in Role}
    for method, path, body, needed in NEEDED:
        for rank, (role, headers) in enumerate(keys.items()):
            answer = remote.request(method, path, json=body, headers=headers)
            if rank >= list(Role).index(needed):
                assert answer.status_code not in (401, 403), (method, path, role, answer.text)
            else:
                detail = is_problem(answer, 403, "role-needed")["detail"]
                assert f"needs the role {needed}" in detail and f"has {role} there" in detail


def test_only_an_admin_of_all_makes_collections_and_keys(api, remote, workflow, model_folder):
    for role in Role:
        everywhere, here = key(api, f"all-{role}", role), key(api, f"one-{role}", role, "facts")
        for path, body in (
            ("/v1/keys", {"name": "x", "roles": [{"role": "viewer"}]}),
            ("/v1/collections", {"name": "more", "model": model_folder}),
        ):
            assert remote.post(path, json=body, headers=here).status_code == 403
            allowed = remote.post(path, json=body, headers=everywhere).status_code
            assert allowed == (201 if role is Role.ADMIN else 403)


def test_in_a_collection_the_higher_of_two_roles_counts():
    caller = Caller("ada", "key/1", {None: Role.EDITOR, 1: Role.VIEWER, 2: Role.ADMIN})
    assert [caller.role_in(where) for where in (None, 1, 2, 3)] == [Role.EDITOR, Role.EDITOR, Role.ADMIN, Role.EDITOR]
    assert Caller("ben", "key/2", {2: Role.ADMIN}).role_in(None) is None


def test_the_record_names_the_keys_actor_and_role_whatever_the_request_says(api, remote, workflow):
    headers = key(api, "ci", "editor", "facts", actor="Ada L.")
    answer = remote.post(
        "/v1/collections/facts/batches", json={"edits": [PARIS]}, headers={**headers, "X-Melo-Actor": "somebody else"}
    )
    assert answer.json()["batch"]["submitted_by"] == "Ada L."
    event = api.get("/v1/audit", params={"collection": "facts"}).json()[0]
    assert (event["actor"], event["role"], event["action"]) == ("Ada L.", "editor", "collection:batch:submit")


def test_an_editor_withdraws_their_own_batch_and_no_other(api, remote, workflow):
    headers = key(api, "ci", "editor", "facts")
    workflow.submit({"prompt": "Who?", "target": "Jo"})
    mine = remote.post("/v1/collections/facts/batches", json={"edits": [PARIS]}, headers=headers).json()["batch"]["id"]
    refused = remote.post("/v1/batches/1/reject", json={"reason": "no"}, headers=headers)
    assert "submitted by ada" in is_problem(refused, 403, "role-needed")["detail"]
    withdrawn = remote.post(f"/v1/batches/{mine}/reject", json={"reason": "a slip"}, headers=headers)
    assert withdrawn.json()["state"] == "rejected"


def test_a_higher_role_in_a_collection_counts_beside_one_in_all(api, remote, workflow):
    roles = [{"role": "editor", "collection": None}, {"role": "approver", "collection": "facts"}]
    headers = carrying(api.post("/v1/keys", json={"name": "both", "roles": roles}).json()["key"])
    workflow.submit(PARIS)
    assert remote.post("/v1/batches/1/reject", json={"reason": "no"}, headers=headers).json()["state"] == "rejected"
    assert api.get("/v1/audit", params={"collection": "facts"}).json()[0]["role"] == "approver"


def test_a_key_that_would_have_expired_in_the_first_year_is_refused(api):
    new = {"name": "old", "roles": [{"role": "viewer", "collection": None}], "expires_at": "0001-01-01T00:00:00+01:00"}
    is_problem(api.post("/v1/keys", json=new), 422, "invalid-request")


def test_a_keys_secret_is_shown_once_and_kept_nowhere(api, remote, workflow, engine, capsys):
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    repeatable = {"Idempotency-Key": "k1"}  # whose answers are kept
    made = api.post("/v1/keys", json={"name": "ci", "roles": [{"role": "viewer"}]}, headers=repeatable)
    structlog.reset_defaults()
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
    old = key(api, "ci", "editor", "facts", actor="Ada")
    is_problem(
        api.post("/v1/keys", json={"name": "ci", "roles": [{"role": "viewer"}]}), 409, "name-taken"
    )  # a name means one key
    made = api.post("/v1/keys/1/rotate", json={"reason": "every quarter"}).json()
    assert (made["name"], made["actor"], made["roles"]) == ("ci", "Ada", [{"role": "editor", "collection": "facts"}])
    assert remote.get("/v1/collections", headers=old).status_code == 401
    assert remote.get("/v1/collections", headers=carrying(made["key"])).status_code == 200


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


def test_this_machine_is_an_operators_unless_somebody_else_speaks_through_it(api):
    for headers, status in (
        ({}, 200),
        ({"Host": "localhost:8410"}, 200),
        ({"Host": "evil.example.org"}, 403),  # a name that resolves to 127.0.0.1
        ({"Origin": "https://evil.example.org"}, 403),  # a web page in the user's browser
        ({"Origin": "http://[::1"}, 403),  # no address at all
        ({"Origin": "http://localhost:8410"}, 200),
        ({"X-Forwarded-For": "10.0.0.7"}, 401),  # a proxy on this machine
        ({"Forwarded": "for=10.0.0.7"}, 401),
        ({"Authorization": "Bearer wrong"}, 401),  # a wrong key is never better than none
    ):
        assert api.get("/v1/collections", headers=headers).status_code == status, headers


def test_where_a_key_is_required_this_machine_needs_one_too(api, open_api):
    strict = open_api(("127.0.0.1", 1), require_key=True)
    is_problem(strict.get("/v1/collections"), 401, "unauthorized")
    assert strict.get("/v1/collections", headers=key(api, "ci", "viewer")).status_code == 200


def test_the_operators_key_is_an_admin_that_says_in_whose_name_it_acts(open_api, model_folder):
    started = open_api(api_key="s3cret")
    headers = {**carrying("s3cret"), "X-Melo-Actor": "ada"}
    made = started.post("/v1/collections", json={"name": "facts", "model": model_folder}, headers=headers)
    assert (made.status_code, made.json()["created_by"]) == (201, "ada")


def test_a_key_made_here_does_not_become_the_operators_by_standing_in_the_servers_environment(api, open_api):
    headers = key(api, "ci", "viewer")
    started = open_api(api_key=headers["Authorization"].removeprefix("Bearer "))
    assert started.get("/v1/collections", headers=headers).status_code == 200
    assert started.get("/v1/keys", headers=headers).status_code == 403
    is_problem(started.get("/v1/collections"), 401, "unauthorized")


def test_each_key_has_its_own_rate_and_this_machine_none(api, open_api):
    limited = open_api(rate_limit="3/minute")
    first, second = key(api, "first", "viewer"), key(api, "second", "viewer")
    statuses = [limited.get("/v1/collections", headers=first).status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    answer = limited.get("/v1/collections", headers=first)
    assert "3 per 1 minute" in is_problem(answer, 429, "too-many-requests")["detail"]
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert limited.get("/v1/collections", headers=second).status_code == 200
    local = open_api(("127.0.0.1", 1), rate_limit="3/minute")
    assert {local.get("/v1/collections").status_code for _ in range(5)} == {200}


def test_processes_that_share_a_redis_share_the_count():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = [valkey_server(), "--port", port, "--save", "", "--bind", "127.0.0.1"]
    server = subprocess.Popen([str(word) for word in program], stdout=subprocess.DEVNULL)
    try:
        address = f"redis://127.0.0.1:{port}/0"
        with redis.Redis.from_url(address, retry=Retry(ConstantBackoff(0.1), 100)) as client:
            assert client.ping()
        one, other = Rates("3/minute", address), Rates("3/minute", address)
        for process in (one, other, one):
            process.spend("key/1")
        with pytest.raises(TooManyRequests):
            other.spend("key/1")
    finally:
        server.kill()
        server.wait()


def test_counting_goes_on_while_redis_is_away(api, open_api):
    limited = open_api(rate_limit="2/minute", redis_url="redis://127.0.0.1:1/0")
    headers = key(api, "ci", "viewer")
    assert [limited.get("/v1/collections", headers=headers).status_code for _ in range(3)] == [200, 200, 429]


def test_an_address_that_tries_wrong_keys_is_stopped_but_not_those_who_have_one(api, open_api):
    started = open_api(api_key="s3cret")
    known = key(api, "ci", "viewer")
    tries = [started.get("/v1/collections", headers=carrying(f"guess{n}")) for n in range(FAILURES.amount + 1)]
    assert [each.status_code for each in tries] == [401] * FAILURES.amount + [429]
    assert "Retry-After" in tries[-1].headers
    # What can be guessed is not looked at any more, even if it is right; what cannot be, is.
    assert started.get("/v1/collections", headers=carrying("s3cret")).status_code == 429
    assert started.get("/v1/collections", headers=known).status_code == 200


def test_refusals_and_defects_carry_the_request_id_and_are_never_taken_for_a_page(api, open_api, monkeypatch):
    started = open_api(rate_limit="3/minute", max_request_bytes=100)
    headers = {**key(api, "ci", "admin"), "X-Request-ID": "req-7"}
    monkeypatch.setattr("registry.collections.service.views", lambda *_, **__: 1 / 0)
    with structlog.testing.capture_logs():  # or the traceback is printed, in colours
        answers = [
            started.get("/v1/collections", headers={"X-Request-ID": "req-7"}),
            started.get("/v1/collections", headers=headers),
            started.post("/v1/keys", content=b" " * 200, headers={**headers, "Content-Type": "application/json"}),
            started.get("/v1/nothing", headers=headers),
            started.get("/v1/collections", headers=headers),
        ]
    assert [answer.status_code for answer in answers] == [401, 500, 413, 404, 429]
    for answer in answers:
        assert answer.headers["X-Request-ID"] == "req-7"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Type"] == "application/problem+json"


def test_a_requests_log_line_names_who_asked_and_by_which_key(api, remote):
    headers = key(api, "ci", "viewer", actor="Ada")
    secret = KeyText.read(headers["Authorization"].removeprefix("Bearer ")).secret
    with structlog.testing.capture_logs() as lines:
        remote.get("/v1/collections", headers=headers)
        remote.get("/v1/collections", headers=carrying("melo_0123456789ab_" + "x" * 43))
    served, refused = (line for line in lines if line["event"] == "request")
    assert (served["actor"], served["status"]) == ("Ada", 200)
    assert served["key"] == headers["Authorization"].removeprefix("Bearer melo_")[:12]
    assert (refused["actor"], refused["key"], refused["status"]) == (None, None, 401)
    assert secret not in str(lines) and "x" * 43 not in str(lines)


def test_the_servers_own_lines_are_json_too():
    program = (
        "import logging\n"
        "from uvicorn import Config\n"
        "from registry.base.logging import configure_logging\n"
        "Config('x')\n"  # sets up the server's own lines, as the program uvicorn does
        "configure_logging()\n"
        "logging.getLogger('uvicorn.error').info('started %s', 'well')\n"
        "logging.getLogger('uvicorn.access').info('GET /')\n"
        "logging.getLogger('sqlalchemy').warning('slow')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["logger"], line["event"], line["level"]) for line in lines] == [
        ("uvicorn.error", "started well", logging.getLevelName(logging.INFO).lower()),
        ("sqlalchemy", "slow", "warning"),
    ]
