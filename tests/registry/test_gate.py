"""What runs before every endpoint: who asks, how often anybody may, and what is logged."""

import base64
import json
import logging
import os
import socket
import subprocess
import sys
from hashlib import sha256
from itertools import count
from random import Random
from uuid import UUID

import pytest
import redis
import structlog
from fastapi.testclient import TestClient
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from embedded.programs import valkey_server
from registry.access.keys import KeyText
from registry.access.operator import FILE, OperatorKeys, UnusableKey, make_key, stored_key
from registry.api import middleware
from registry.api.app import create_app
from registry.api.rates import FAILURES, Rates
from registry.base.errors import TooManyRequests
from registry.base.settings import Settings
from tests.operators_key import KEY, OPERATOR, SECRET
from tests.patience import until, works
from tests.registry.keys import carrying, key
from tests.registry.problem import is_problem

_numbers = count(1)


def test_this_machine_alone_opens_nothing(open_api):
    local = open_api(("127.0.0.1", 1))
    for headers in ({}, {"Host": "localhost:8410"}, {"Authorization": "Bearer none"}, {"X-Forwarded-For": "127.0.0.1"}):
        is_problem(local.get("/v1/collections", headers=headers), 401, "unauthorized")
    assert local.get("/v1/collections", headers=OPERATOR).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 201),  # a program's
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://a.example", "Host": "proxied"}, 201),
        ({"Sec-Fetch-Site": "none"}, 201),
        ({"Origin": "http://testserver"}, 201),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://testserver"}, 403),
        ({"Origin": "https://evil.example.org"}, 403),
        ({"Origin": "http://testserver:81"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[::1"}, 403),  # no address at all
    ],
)
def test_no_page_of_another_site_makes_a_change(api, headers, status):
    made = api.post("/v1/keys", json={"name": "ci", "roles": [{"role": "viewer"}]}, headers=headers)
    assert made.status_code == status, made.text
    assert len(api.get("/v1/keys", headers={"Sec-Fetch-Site": "cross-site"}).json()) == (status == 201)


def test_a_request_has_one_key_and_one_actor(api, remote):
    twice = [*OPERATOR.items(), *carrying("other").items()]
    is_problem(remote.get("/v1/whoami", headers=twice), 401, "unauthorized")
    twice = [("X-Melo-Actor", "ada"), ("X-Melo-Actor", "ben")]
    assert "two actors" in is_problem(api.get("/v1/whoami", headers=twice), 422, "invalid-request")["detail"]


def test_the_operators_key_is_an_admin_that_says_in_whose_name_it_acts(remote, model_folder):
    headers = {**OPERATOR, "X-Melo-Actor": "ada"}
    made = remote.post("/v1/collections", json={"name": "facts", "model": model_folder}, headers=headers)
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
    for sent in (b"...", "🏴".encode(), b"-"):
        assert "no letter or digit" in acting(api, model_folder, sent), sent
    for sent in (b"worker/w1", b"clock", b"Worker /w1", "wоrker∕w1".encode(), b"c1ock", "ＣＬＯＣＫ.".encode()):
        assert "a program, not a person" in acting(api, model_folder, sent)


def test_a_name_that_looks_like_another_is_refused_wherever_it_is_given(api, model_folder):
    assert acting(api, model_folder, b"ada") == "ada"
    for sent in ("аda", "Ada", "ADA", "ａda", "adа", "𝐚da"):
        assert "'ada', which the record knows" in acting(api, model_folder, sent.encode()), sent
    for sent in ("ada.", ".ada", "ada·", "«ada»", "ada⃝", "ada%", "+Ada"):
        assert "'ada', which the record knows" in acting(api, model_folder, sent.encode()), sent
    for sent in ("Вen", "ｃleo", "dοra", "eve․smith"):  # before those were there whom they look like
        assert "look like others" in acting(api, model_folder, sent.encode()), sent
    for sent in ("Мария Петрова", "Αθηνά", "José Łukasz", "jo.doe", "王芳", "O’Neil"):
        assert acting(api, model_folder, sent.encode()) == sent
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


def test_the_key_of_the_servers_folder_is_the_operators_too_while_nobody_else_can_read_it(open_api, tmp_path):
    make_key(tmp_path)
    make_key(tmp_path)  # of no effect: clients hold the first
    stored, path = stored_key(tmp_path), tmp_path / FILE
    assert path.stat().st_mode & 0o777 == 0o600 and len(stored) > 40
    for given in ({"api_key": None}, {}):
        assert open_api(home=tmp_path, **given).get("/v1/keys", headers=carrying(stored)).status_code == 200
    path.chmod(0o640)
    with pytest.raises(UnusableKey, match=f"open to other users.* rm {path}"):
        open_api(home=tmp_path)
    path.chmod(0o600)
    tmp_path.chmod(0o770)
    with pytest.raises(UnusableKey, match=f"can write to {tmp_path}.* chmod go-w"):
        open_api(home=tmp_path)
    tmp_path.chmod(0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_key_that_another_user_put_there_is_not_the_operators(tmp_path):
    make_key(tmp_path)
    own = tmp_path / FILE
    for given in (own, tmp_path):
        os.chown(given, 4242, -1)
        with pytest.raises(UnusableKey, match="belongs to another user"):
            stored_key(tmp_path)
        os.chown(given, os.geteuid(), -1)
    (tmp_path / "theirs").write_text(KEY)
    os.chown(tmp_path / "theirs", 4242, -1)
    own.unlink()
    own.symlink_to(tmp_path / "theirs")
    with pytest.raises(UnusableKey, match="belongs to another user"):
        stored_key(tmp_path)


@pytest.mark.parametrize(
    "key",
    [
        "changeme", "k" * 64, "0123456789abcdef" * 4, "password" * 8, "MySuperSecretApiKey2024!", "melo_0123456789ab_…",
        f"{KEY} {KEY}", f"{KEY}\n", "your-secret-api-key-goes-here", "melo-operator-key-please-change-this-now",
        "supersecretadminapikeyformeloregistry2026", base64.b64encode(b"password" * 4).decode(),
        (b"changeme" * 5).hex(), sha256(b"password").hexdigest(), sha256(b"").hexdigest(), KEY * 20,
    ],
)  # fmt: skip
def test_a_key_that_can_be_guessed_or_not_be_sent_is_refused_at_the_start(key):
    with pytest.raises(UnusableKey, match=r"MELO_API_KEY.*openssl rand -hex 32"):
        create_app(Settings(api_key=key))
    program = [sys.executable, "-m", "uvicorn", "registry.api.app:app_factory", "--factory", "--port", "0"]
    if key == "changeme":
        done = subprocess.run(program, env={**os.environ, "MELO_API_KEY": key}, capture_output=True, text=True)
        assert done.returncode == 1 and "could be guessed" in done.stderr and "Traceback" not in done.stderr
        assert key not in done.stderr


@pytest.mark.parametrize("length", [12, 16, 32])
def test_random_keys_are_accepted(length):
    drawn = Random(length)  # of those drawn anew each time, one in some hundreds has too many letters twice
    words = drawn.randbytes(length).hex(), base64.b64encode(drawn.randbytes(18)).decode()
    for text in (*words, str(UUID(int=drawn.getrandbits(128)))):
        OperatorKeys.of(Settings(api_key=text, home="/nowhere"))


def test_a_key_made_here_does_not_become_the_operators_by_standing_in_the_servers_environment(api, open_api):
    headers = key(api, "ci", "viewer")
    started = open_api(api_key=headers["Authorization"].removeprefix("Bearer "))
    assert started.get("/v1/collections", headers=headers).status_code == 200
    assert started.get("/v1/keys", headers=headers).status_code == 403
    is_problem(started.get("/v1/collections"), 401, "unauthorized")


def test_each_key_has_its_own_rate_and_the_operators_none(api, open_api):
    limited = open_api(rate_limit="3/minute")
    first, second = key(api, "first", "viewer"), key(api, "second", "viewer")
    statuses = [limited.get("/v1/collections", headers=first).status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    answer = limited.get("/v1/collections", headers=first)
    assert "3 per 1 minute" in is_problem(answer, 429, "too-many-requests")["detail"]
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert limited.get("/v1/collections", headers=second).status_code == 200
    assert {limited.get("/v1/collections", headers=OPERATOR).status_code for _ in range(5)} == {200}


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


def test_an_address_that_tries_wrong_keys_is_stopped_but_not_those_who_have_one(api, remote):
    known = key(api, "ci", "viewer")
    tries = [remote.get("/v1/collections", headers=carrying(f"guess{n}")) for n in range(FAILURES.amount + 1)]
    assert [each.status_code for each in tries] == [401] * FAILURES.amount + [429]
    assert "Retry-After" in tries[-1].headers
    for right in (OPERATOR, known):
        assert remote.get("/v1/collections", headers=right).status_code == 200


@pytest.mark.parametrize("proxies", ["", "127.0.0.1"])
def test_guesses_by_way_of_this_machine_are_counted_by_an_address_that_a_trusted_proxy_wrote(
    database_url, proxies, monkeypatch
):
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", proxies)
    app = create_app(Settings(database_url=database_url, api_key=SECRET))
    with TestClient(ProxyHeadersMiddleware(app, "127.0.0.1"), client=("127.0.0.1", 1)) as proxy:

        def guess(address: str) -> int:
            headers = {**carrying("wrong"), "X-Forwarded-For": address}
            return proxy.get("/v1/collections", headers=headers).status_code

        statuses = [guess(f"10.0.0.{n}") for n in range(FAILURES.amount + 1)]
        assert statuses == [401] * FAILURES.amount + [401 if proxies else 429]
        if proxies:  # one subscriber, whatever port or address of theirs the proxy writes
            for one in (
                lambda n: f"10.7.7.7:{5000 + n}",
                lambda n: f"2001:db8:1:2::{n:x}",
                lambda n: f"[2001:db8:1:3::{n}]:1",
            ):
                assert [guess(one(n)) for n in range(FAILURES.amount + 1)][-1] == 429
            assert [guess(f"::ffff:10.7.7.{n}") for n in (7, 8)] == [429, 401] and guess("2001:db8:2:2::1") == 401
        if proxies:  # one address
            assert [guess("10.9.9.9") for _ in range(FAILURES.amount + 1)][-1] == 429
        headers = {**OPERATOR, "X-Forwarded-For": "10.9.9.9"}
        assert proxy.get("/v1/collections", headers=headers).status_code == 200


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


def test_a_requests_log_line_names_who_asked_and_by_which_key(api, remote, monkeypatch):
    headers = key(api, "ci", "viewer", actor="Ada")
    secret = KeyText.read(headers["Authorization"].removeprefix("Bearer ")).secret
    written = structlog.testing.LogCapture()  # of this logger alone, whatever else in the process sets up the log
    monkeypatch.setattr(
        middleware, "log", structlog.wrap_logger(None, [written], structlog.make_filtering_bound_logger(0))
    )
    remote.get("/v1/collections", headers=headers)
    remote.get("/v1/collections", headers=carrying("melo_0123456789ab_" + "x" * 43))
    lines = written.entries
    served, refused = (line for line in lines if line["event"] == "request")
    assert (served["actor"], served["status"]) == ("Ada", 200)
    assert served["key"] == headers["Authorization"].removeprefix("Bearer melo_")[:12]
    assert (refused["actor"], refused["key"], refused["status"]) == (None, None, 401)
    assert secret not in str(lines) and "x" * 43 not in str(lines)


def test_the_servers_own_lines_are_json_too_and_hold_no_key():
    secret = KeyText.new()
    program = (
        "import logging\n"
        "from uvicorn import Config\n"
        "from registry.base.logging import configure_logging\n"
        "Config('x')\n"  # sets up the server's own lines, as the program uvicorn does
        "configure_logging()\n"
        "logging.getLogger('uvicorn.error').info('started %s', 'well')\n"
        "logging.getLogger('uvicorn.access').info('GET /')\n"
        "logging.getLogger('sqlalchemy').warning('slow')\n"
        f"logging.getLogger('x').warning('GET /v1/%s', '{secret.text}')\n"
        f"try:\n    raise ValueError('Authorization: Bearer {KEY}')\n"
        "except ValueError:\n    logging.getLogger('x').exception('failed')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["logger"], line["event"], line["level"]) for line in lines] == [
        ("uvicorn.error", "started well", logging.getLevelName(logging.INFO).lower()),
        ("sqlalchemy", "slow", "warning"),
        ("x", f"GET /v1/melo_{secret.prefix}_…", "warning"),
        ("x", "failed", "error"),
    ]
    assert KEY not in done.stderr and secret.secret not in done.stderr
