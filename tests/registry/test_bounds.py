"""Bodies and work within bounds: the role first, then a limited body, then limited work that ends with its client."""

import asyncio
import gzip
import json
import socket
import threading
from itertools import pairwise
from urllib.parse import urlsplit

import httpx
import pytest
import structlog
from fastapi.testclient import TestClient
from structlog.testing import LogCapture

from registry.api import bodies, middleware
from registry.api.app import create_app
from registry.base import json_bounds
from registry.base.json_bounds import Bounds, OutOfBounds
from registry.base.settings import Settings
from registry.base.vocabulary import Role
from registry.batches import submitting
from registry.edits import validation
from registry.edits.records import read_records
from registry.verification.service import verify_in_steps
from tests.operators_key import KEY, OPERATOR, SECRET
from tests.patience import PATIENCE, until
from tests.registry.conftest import WINDOW
from tests.registry.keys import PARIS, key
from tests.registry.problem import is_problem
from tests.registry.test_access import filled, routes

CHUNK = b" " * (1 << 20)
LARGE = {"/v1/collections/{collection}/batches", "/v1/collections", "/v1/answers"}  # submissions, calibrations, logs
BATCHES = "/v1/collections/facts/batches"


def asked(app, method, path, headers, chunks):
    """Send a request with an endless body; return its status, and how many MiB of it were read."""
    given = {"Content-Type": "application/json", "Host": "testserver", **headers}
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": method,
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
        "client": ("10.0.0.7", 1), "server": ("testserver", 80), "state": {},
    }  # fmt: skip
    statuses, read = [], 0

    async def receive():
        nonlocal read
        read += 1
        assert read <= chunks, "more of the body was read"
        return {"type": "http.request", "body": CHUNK, "more_body": True}

    async def send(message):
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    asyncio.run(app(scope, receive, send))
    return statuses[0], read


def test_nothing_of_a_body_is_read_before_the_role_is_known(api, workflow):
    headers = key(api, "ci", "viewer", "facts")
    tried = 0
    for method, path, needed in routes(api):
        if method != "GET" and needed and not needed[0].anywhere:
            assert asked(api.app, method, filled(path), headers, 0) == (403, 0), path
            tried += 1
    assert tried > 20


def test_nothing_of_a_body_is_read_without_a_key_or_a_role_anywhere(api, workflow):
    viewer = key(api, "ci", "viewer", "facts")
    tried = 0
    for method, path, needed in routes(api):
        if method == "GET" or not needed:
            continue
        for headers in ({}, {"Authorization": "Bearer melo_0123456789ab_" + "x" * 43}):
            assert asked(api.app, method, filled(path), headers, 0)[0] in (401, 429), path
        if needed[0].role is not Role.VIEWER:
            assert asked(api.app, method, filled(path), viewer, 0) == (403, 0), path
        tried += 1
    assert tried > 25


def test_every_body_but_a_submissions_and_a_calibrations_is_small(api, workflow):
    workflow.submit(PARIS)
    for method, path, _ in routes(api):
        if method in ("POST", "PUT", "PATCH") and path not in LARGE:
            status, read = asked(api.app, method, filled(path), OPERATOR, 3)
            assert status == 413 or not read, path
    assert asked(api.app, "POST", BATCHES, OPERATOR, 65) == (413, 65)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"[" * 101 + b"]" * 101, "nested more than 100 deep"),
        (b'{"a":' * 101 + b"1" + b"}" * 101, "nested more than 100 deep"),
        (b"[" + b"[]," * 250_000 + b"[]]", "more than 250,000 names and values"),
        (b'{"a": ' + b"1" * 401 + b"}", "a number of more than 400 digits"),
        (b'{"a": 1.' + b"1" * 401 + b"}", "a number of more than 400 digits"),
        (b'{"a": "' + b'\\"' * (1 << 20) + b'"}', "a text of more than"),
        (b"{" + b",".join(b'"%d":0' % n for n in range(1_001)) + b"}", "more than 1,000 names in one object"),
        (b'{"a": {"b": 1, "b": 1}}', "the name 'b' twice in one object"),
        (b'{"a": 1, "\\u0061": 2}', "the name 'a' twice in one object"),
        (b"[NaN]", "NaN, which is no finite number"),
        (b"[-Infinity]", "-Infinity, which is no finite number"),
        (b"[1e999999]", "1e999999, which is no finite number"),
        ("[1]".encode("utf-16"), "what is not UTF-8, at byte 1"),
        (b'{"a": "\xc0\xaf"}', "what is not UTF-8, at byte 8"),
    ],
)
def test_json_holds_no_more_than_it_may(body, words):
    with pytest.raises(OutOfBounds, match=words):
        Bounds().parse(body)


@pytest.mark.parametrize("text", [rb'"\"\"\"', b'"' + b"\\" * 5, rb'"a\\" "\"\"'])
def test_a_text_that_does_not_end_is_looked_at_once(text):
    found = [(each.start(), each.end()) for each in json_bounds._STRING.finditer(text)]
    assert found[-1][1] == len(text)  # else the search begins anew at each of its quotes
    assert all(one[1] <= other[0] for one, other in pairwise(found))


@pytest.mark.parametrize(
    "text", ['"[[[[{{{{,,,,::::"', r'"\\"', r'"\"["', "[1, 2.5e3, null, true]", '{"ä": "\U0001f600"}']
)
def test_json_within_bounds_is_parsed_as_ever(text):
    assert Bounds(depth=1, values=8, digits=1, characters=40).parse(text.encode()) == json.loads(text)


def test_a_body_out_of_bounds_is_a_problem_and_so_is_one_that_does_not_say_what_it_is(api, workflow):
    workflow.submit(PARIS)
    json_ = {"Content-Type": "application/json"}
    deep = b'{"reason": ' + b"[" * 200 + b"]" * 200 + b"}"
    for path in ("/v1/batches/1/approve", BATCHES):
        found = is_problem(api.post(path, content=deep, headers=json_), 422, "invalid-request")
        assert "nested more than 100 deep" in found["detail"]
    body = json.dumps({"edits": [PARIS]}).encode()
    found = is_problem(api.post(BATCHES, content=body), 415, "wrong-media-type")
    assert "Content-Type is missing" in found["detail"]
    assert api.post("/v1/batches/1/approve", content=b'{"reason": "x"}').status_code == 422
    large = b'{"edits": [' + b" " * (16 << 20) + b"]}"
    assert "x-ndjson" in is_problem(api.post(BATCHES, content=large, headers=json_), 413, "too-large")["remedy"]
    line = b'{"prompt": "' + b"x" * (4 << 20) + b'", "target": "y"}\n'
    refused = api.post(BATCHES, content=line, headers={"Content-Type": "application/x-ndjson"})
    assert "more than 4,194,304 bytes" in is_problem(refused, 422, "invalid-edits")["problems"][0]["detail"]


def test_of_a_long_list_the_first_wrong_value_is_told(api, workflow):
    workflow.submit(PARIS)
    refused = api.post("/v1/batches/1/approve", json={"except": [1, *({} for _ in range(1_000))]})
    assert is_problem(refused, 422, "invalid-request")["detail"].count("body.except") == 1


def test_a_line_of_a_submission_keeps_within_the_same_bounds(api, workflow):
    headers = {"Content-Type": "application/x-ndjson"}
    lines = [
        b'{"prompt": "Who?", "target": "Jo", "target": "Ben"}',
        b'{"prompt": "Who?", "target": "Jo", "line": 1e999}',
        b'{"prompt": "Who?", "target": ' + b"[" * 200 + b"]" * 200 + b"}",
        b'{"prompt": "Who\xff", "target": "Jo"}',
    ]
    refused = is_problem(api.post(BATCHES, content=b"\n".join(lines), headers=headers), 422, "invalid-edits")
    assert [each["detail"] for each in refused["problems"]] == [
        "It holds the name 'target' twice in one object.",
        "It holds 1e999, which is no finite number.",
        "It holds values nested more than 100 deep.",
        "It holds what is not UTF-8, at byte 16.",
    ]


@pytest.mark.parametrize("path", ["/v1/batches/1/approve", BATCHES])
def test_a_packed_body_and_one_that_stops_coming_are_refused(served, workflow, path, monkeypatch):
    workflow.submit(PARIS)
    body = gzip.compress(b'{"reason": "x"}')
    headers = {**OPERATOR, "Content-Type": "application/json"}
    refused = httpx.post(served + path, content=body, headers=headers | {"Content-Encoding": "gzip"})
    assert "packed as gzip" in is_problem(refused, 415, "wrong-media-type")["detail"]
    for limit in ("SLOWEST_SECONDS", "LONGEST_SECONDS"):
        monkeypatch.setattr(bodies, limit, 0.05)
        address = urlsplit(served)
        with socket.create_connection((address.hostname, address.port)) as line:
            head = f"POST {path} HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer {KEY}\r\n"
            line.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 20\r\n\r\n{{".encode())
            line.settimeout(PATIENCE)
            answer = line.makefile("rb").read()
        assert b" 408 " in answer.splitlines()[0] and b"too-slow" in answer
        monkeypatch.undo()


def counted(prompts, window=512):
    """What `too_long` has counted of prompts, and the problems that it found."""
    pieces = []

    def count_tokens(texts):
        pieces.append(texts)
        return [len(text) for text in texts]

    records = list(read_records({"prompt": prompt, "target": "x"} for prompt in prompts))
    found = validation.too_long(records, window=window, reserved=10, count_tokens=count_tokens, attend=lambda: None)
    return list(found), pieces


def test_tokens_are_counted_in_bounded_pieces_by_the_bytes_that_a_normaliser_makes():
    expanding = "\ufdfa"  # three bytes, and 33 in NFKC
    found, pieces = counted([expanding * 20, "a" * 20])
    assert pieces == [[f"{expanding * 20} x"]] and not found
    found, pieces = counted([expanding * 2_000] * 50)
    assert [len(piece) for piece in pieces] == [3] * 16 + [2] and len(found) == 50
    found, pieces = counted(["a" * 99_000, expanding * 99_000], window=512)
    assert pieces[-1] == [""] and "bytes" in found[1].detail  # too long whatever its tokens are


def test_long_prompts_have_a_number_of_tokens_together_and_the_records_beyond_it_are_named(
    database_url, workflow, monkeypatch
):
    """Short prompts do not count, and are judged as ever."""
    monkeypatch.setattr(validation, "_COUNTED_AT_ONCE", 10)
    settings = Settings(database_url=database_url, api_key=SECRET, submission_tokens=2_000)
    edits = [{"prompt": f"{n} " + "word " * WINDOW, "target": "x"} for n in range(400)]
    edits += [{"prompt": "Who?", "target": "Ada"}]
    with TestClient(create_app(settings), headers=OPERATOR) as api:
        body = {"edits": edits, "skip_invalid": True}
        answer = api.post(BATCHES, json=body)
        assert answer.status_code == 201, answer.text
        told = answer.json()
        assert told["accepted"] == 1 and told["skipped_count"] == 400
        assert {each["code"] for each in told["skipped"]} == {"too-long", "too-many-tokens"}
        refused = is_problem(api.post(BATCHES, json={"edits": edits}), 422, "invalid-edits")["problems"]
        beyond = [each for each in refused if each["code"] == "too-many-tokens"]
        assert beyond[-1]["position"] == 400 and "2,000 tokens together" in beyond[0]["detail"]
        assert "MELO_SUBMISSION_TOKENS" in beyond[0]["remedy"]


def test_work_for_a_submission_ends_when_its_client_has_gone(served, workflow, monkeypatch):
    begun, pieces = threading.Event(), []

    def count_tokens(_, texts):
        pieces.append(texts)
        begun.set()
        threading.Event().wait(0.05)
        return [1 for _ in texts]

    monkeypatch.setattr(submitting, "count_tokens", count_tokens)
    monkeypatch.setattr(validation, "_COUNTED_AT_ONCE", 1)
    edits = [{"prompt": f"{n} " + "word " * WINDOW, "target": "x"} for n in range(400)]
    body, address = json.dumps({"edits": edits}), urlsplit(served)
    written = LogCapture()
    monkeypatch.setattr(
        middleware, "log", structlog.wrap_logger(None, [written], structlog.make_filtering_bound_logger(0))
    )
    with socket.create_connection((address.hostname, address.port)) as line:
        head = f"POST {BATCHES} HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer {KEY}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        line.sendall(f"{head}{body}".encode())
        assert begun.wait(PATIENCE)
    until(lambda: [each for each in written.entries if each["event"] == "request" and each["status"] == 499])
    assert len(pieces) < len(edits)


def test_a_caller_has_one_verification_at_a_time(api, remote, sessions, workflow):
    viewer = key(api, "ci", "viewer")
    with sessions() as session:
        running = verify_in_steps(session, "key/1 ci")
        next(running)
        for path in ("/v1/audit/verify", "/v1/audit/verify/stream"):
            refused = remote.get(path, headers=viewer)
            assert "is running" in is_problem(refused, 429, "too-many-requests")["detail"]
            assert api.get(path).status_code == 200  # somebody else's
    for path in ("/v1/audit/verify", "/v1/audit/verify/stream"):
        assert remote.get(path, headers=viewer).status_code == 200
