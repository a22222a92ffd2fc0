"""What stands of webhooks in the record, and the addresses that they may have."""

import socket

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError

from registry.webhooks import sending
from registry.webhooks.addresses import is_public
from tests.registry.problem import is_problem
from tests.registry.receiver import add, deliveries, run_sql


def test_a_removed_webhook_hears_nothing_more_and_its_secret_is_gone(inside, workflow, receiver, sessions):
    webhook = add(inside, receiver.url, description="cache")
    workflow.correct(("Who leads Rome?", "Mara"))
    with sessions.begin() as session:
        sending.plan(session)
    gone = inside.delete(f"/v1/webhooks/{webhook['id']}", params={"reason": "moved"}).json()
    assert gone["removed_at"]
    assert [each["last_error"] for each in deliveries(inside, webhook)] == ["The webhook was removed."]
    assert inside.get("/v1/webhooks").json() == []
    assert inside.get("/v1/webhooks", params={"removed": True}).json() == [gone]
    again = inside.delete(f"/v1/webhooks/{webhook['id']}", params={"reason": "moved"})
    for answer in (again, inside.post(f"/v1/webhooks/{webhook['id']}/test")):
        is_problem(answer, 409, "wrong-state")
    with sessions.begin() as session:
        assert session.scalar(text("SELECT secret FROM webhooks")) is None
        assert sending.plan(session) == 0
    removed, *_, created = inside.get("/v1/audit", params={"subject": f"webhook/{webhook['id']}"}).json()
    assert (created["action"], created["details"]["host"]) == ("registry:webhook:create", "127.0.0.1")
    assert (removed["action"], removed["reason"]) == ("registry:webhook:delete", "moved")
    assert removed["before"] == created["after"]
    assert webhook["secret"] not in inside.get("/v1/audit").text
    assert inside.get("/v1/audit/verify").json()["ok"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE webhooks SET url = 'http://elsewhere.example'",
        "UPDATE webhooks SET seen_seq = 0",
        "UPDATE webhooks SET secret = 'whsec_x'",
        "DELETE FROM webhooks",
        "TRUNCATE webhook_deliveries",
        "UPDATE webhook_deliveries SET payload = '{}'",
        "DELETE FROM webhook_deliveries",
    ],
)
def test_what_was_told_and_to_whom_stays_in_the_database(inside, workflow, sessions, statement):
    add(inside, "https://example.org/melo")
    workflow.correct(("Who leads Rome?", "Mara"))
    with sessions.begin() as session:
        sending.plan(session)
    with pytest.raises((IntegrityError, OperationalError), match="refused"):
        run_sql(sessions, statement)


@pytest.mark.parametrize(
    ("forgery", "said"),
    [
        ("UPDATE webhooks SET url = 'https://spy.example'", "its address"),
        ("UPDATE webhooks SET events = '{batch}'", "its address, events"),
        ("UPDATE webhooks SET removed_at = now(), secret = NULL", "whether it is removed"),
        ("DELETE FROM webhooks", "it is missing"),
    ],
)
def test_a_webhook_that_was_changed_in_the_database_is_found(api, tamper, forgery, said):
    add(api, "https://example.org/melo")
    assert api.get("/v1/audit/verify").json()["ok"]
    tamper(forgery)
    (finding,) = api.get("/v1/audit/verify").json()["findings"]
    assert finding["subject"] == "webhook/1"
    assert said in finding["detail"]


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/x",
        "example.org",
        "http://",
        "http://user:pass@example.org/",
        "http://localhost:8410/v1",
        "http://127.0.0.1/",
        "http://10.0.0.7/",
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://0.0.0.0/",
        "http://exa mple.org/",
        "http://127.1/",
        "http://0/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://0x7f000001/",
        "http://10.1/",
        "http://127。0。0。1/",
        "http://192.0.0.9/",
        "http://192.88.99.1/",
        "http://[::ffff:0:0]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[::127.0.0.1]/",
        "http://localhost./",
        "http://LOCALHOST/",
        "http://melo.localhost/",
        "http://127.0.0.1./",
        "http://localhost.localdomain/",
        "http://ip6-localhost/",
        "http://metadata.google.internal./",
        "http://printer.local/",
        "http://redis/",
        "http://168.63.129.16/",
        "http://example.org:0/",
        "http://example.org:99999/",
        "http://a..b/",
        "http://.org/",
        f"http://{'a' * 64}.org/",
        f"http://{'a.' * 127}org/",
    ],
)
def test_an_address_of_the_servers_own_network_or_no_address_is_refused(api, workflow, url):
    is_problem(api.post("/v1/webhooks", json={"url": url}), 422, "invalid-request")
    assert api.get("/v1/webhooks").json() == []


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("224.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::a00:1", False),
        ("2002:a00:1::", False),
        ("fec0::1", False),
        ("::10.0.0.1", False),
        ("64:ff9b:1::a00:1", False),
        ("64:ff9b::808:808", True),
        ("192.0.0.1", False),
        ("192.0.0.10", False),
        ("192.0.2.1", False),
        ("192.31.196.1", False),
        ("192.88.99.2", False),
        ("198.19.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("2001::1", False),
        ("2001:20::1", False),
        ("2001:db8::1", False),
        ("2002:808:808::1", False),
        ("3fff::1", False),
        ("5f00::1", False),
        ("100::1", False),
    ],
)
def test_private_addresses_are_known_in_every_spelling(address, public):
    assert is_public(address) is public


def test_a_name_that_means_a_private_address_is_refused_when_it_is_added(api):
    name = socket.gethostname()  # usually a name of the hosts file
    try:
        if all(is_public(each[4][0]) for each in socket.getaddrinfo(name, 80)):
            pytest.skip(f"{name} means no private address")
    except OSError:
        pytest.skip(f"{name} means no address")
    is_problem(api.post("/v1/webhooks", json={"url": f"http://{name}/"}), 422, "invalid-request")


def test_a_name_that_has_no_address_yet_can_be_added_also_one_that_is_no_unicode(api):
    assert add(api, "https://xn--example.invalid/melo")["url"] == "https://xn--example.invalid/melo"


def test_an_address_in_capitals_is_one_too(api):
    assert add(api, "HTTPS://Example.org/Melo")["url"] == "https://example.org/Melo"
