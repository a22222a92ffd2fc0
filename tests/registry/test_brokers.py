"""Debian's Redis with TLS: every part verifies its certificate, unless the address itself says otherwise."""

import subprocess
from contextlib import contextmanager

import pytest
import redis

from registry.api.rates import Rates
from registry.base import probes
from registry.base.settings import Settings
from registry.relay import UNREACHABLE, Message, make_send
from tests.servers import free_port, program, running
from worker.celery_app import make_app

MESSAGE = Message("worker.train", 1, "melo.0123456789abcdef", 3)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate of its own authority, for localhost, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder / "cert.pem", folder / "key.pem"


@contextmanager
def redis_with_tls(certificate, log):
    port, (cert, key) = free_port(), certificate
    command = [program("redis-server"), "--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1", "--save", ""]
    command += ["--tls-cert-file", str(cert), "--tls-key-file", str(key), "--tls-auth-clients", "no"]
    with running([*command, "--requirepass", "s3cret", "--dir", str(log.parent)], port, log):
        yield port


@pytest.fixture(scope="module")
def port(certificate, tmp_path_factory):
    with redis_with_tls(certificate, tmp_path_factory.mktemp("redis") / "log") as port:
        yield port


def sends(url):
    make_send(url)(MESSAGE)


def consumes(url):
    """As the worker connects: once, without Celery's patience."""
    with make_app(Settings(redis_url=url)).connection_for_read() as connection:
        connection.connect()


def counts(url):
    rates = Rates("3/minute", url)
    assert rates._shared is not None and rates._shared.storage.check()


REFUSALS = (*UNREACHABLE, redis.RedisError, probes.ProbeFailed, AssertionError)
PARTS = [probes.of_broker, sends, consumes, counts]


@pytest.mark.parametrize("part", PARTS)
def test_a_certificate_that_nobody_vouches_for_is_refused_by_every_part(port, part):
    with pytest.raises(REFUSALS) as caught:
        part(f"rediss://:s3cret@localhost:{port}/0")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("part", PARTS)
def test_a_certificate_of_another_host_is_refused_by_every_part(port, certificate, part):
    with pytest.raises(REFUSALS):
        part(f"rediss://:s3cret@127.0.0.1:{port}/0?ssl_ca_certs={certificate[0]}")


@pytest.mark.parametrize("part", PARTS)
def test_a_certificate_that_the_address_vouches_for_is_accepted_by_every_part(port, certificate, part):
    # Another number than above: kombu keeps its connections by host and number, whatever they verify.
    part(f"rediss://:s3cret@localhost:{port}/1?ssl_ca_certs={certificate[0]}")


def test_a_certificate_is_not_asked_for_only_where_the_address_says_so(port):
    probes.of_broker(f"rediss://:s3cret@localhost:{port}/0?ssl_cert_reqs=none")
