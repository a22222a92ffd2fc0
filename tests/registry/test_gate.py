"""What runs before every endpoint: who this machine is, how often anybody may ask, and what is logged."""

import json
import logging
import socket
import subprocess
import sys
from itertools import count

import pytest
import redis
import structlog

from embedded.programs import valkey_server
from registry.access.keys import KeyText
from registry.api.rates import FAILURES, Rates
from registry.base.errors import TooManyRequests
from tests.patience import until, works
from tests.registry.keys import carrying, key
from tests.registry.problem import is_problem

_numbers = count(1)


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


def acting(api, model: str, header: bytes) -> str:
    """Who made a collection under a header's name; where it is refused, why."""
    body = {"name": f"facts-{next(_numbers)}", "model": model}
    made = api.post("/v1/collections", json=body, headers={"X-Melo-Actor": header})
    return made.json()["created_by"] if made.status_code == 201 else made.json()["detail"]


def test_a_person_has_one_spelling_however_their_name_is_sent(api, model_folder):
    for sent in (
        "José Ruiz".encode(),  # UTF-8
        b"Jose\xcc\x81 Ruiz",  # with a combining accent
        b"Jos\xe9 Ruiz",  # Latin-1
        b"Jos%C3%A9%20Ruiz",
        b"  Jose%CC%81   Ruiz%20",
        "José%20Ruiz".encode(),
    ):
        assert acting(api, model_folder, sent) == "José Ruiz", sent
    assert "no UTF-8" in acting(api, model_folder, b"Jos%E9")
    for sent in (b"a%00", b"jos%E2%80%8B", b"a%0Ab", "a\u202eb".encode(), b"x" * 201, b"%E3%85%A4"):
        assert "cannot be used" in acting(api, model_folder, sent), sent
    for sent in (b"worker/w1", b"clock"):
        assert "a program, not a person" in acting(api, model_folder, sent)


def test_a_name_that_looks_like_another_is_refused_wherever_it_is_given(api, model_folder):
    assert acting(api, model_folder, b"ada") == "ada"
    for sent in ("аda", "Ada", "ADA", "ａda", "adа", "𝐚da"):
        assert "'ada', which the record knows" in acting(api, model_folder, sent.encode()), sent
    assert acting(api, model_folder, b"adam") == "adam" and acting(api, model_folder, b"ada") == "ada"

    refused = api.post("/v1/keys", json={"name": "k", "actor": "аda", "roles": [{"role": "viewer"}]})
    assert "'ada'" in is_problem(refused, 422, "invalid-request")["detail"]
    key(api, "ivy", "viewer")  # she has not acted yet
    assert "'ivy'" in acting(api, model_folder, "іvy".encode())
    where = api.get("/v1/collections").json()[0]["name"]
    refused = api.patch(f"/v1/collections/{where}/policy", json={"approvers": ["ben", "bеn"], "reason": "two"})
    assert "'ben'" in is_problem(refused, 422, "invalid-request")["detail"]
    body = {"name": "more", "model": model_folder, "approvers": ["Ivy"]}
    assert "'ivy'" in is_problem(api.post("/v1/collections", json=body), 422, "invalid-request")["detail"]


def test_nobody_approves_their_own_batch_under_another_spelling(api, model_folder):
    api.post("/v1/collections", json={"name": "facts", "model": model_folder, "preflight": "none"})
    edits = {"edits": [{"prompt": "Who leads Rome?", "target": "Caesar"}]}
    made = api.post("/v1/collections/facts/batches", json=edits, headers={"X-Melo-Actor": "José".encode()})
    batch = made.json()["batch"]["id"]
    for sent, status, code in (
        (b"Jos%C3%A9", 403, "self-approval"),
        (b"Jose%CC%81 ", 403, "self-approval"),
        ("Jоsé".encode(), 422, "invalid-request"),
        ("JOSÉ".encode(), 422, "invalid-request"),
    ):
        is_problem(api.post(f"/v1/batches/{batch}/approve", json={}, headers={"X-Melo-Actor": sent}), status, code)


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
        with redis.Redis.from_url(address) as client:
            until(works(client.ping, redis.ConnectionError))
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
