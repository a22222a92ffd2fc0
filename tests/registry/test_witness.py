"""Checkpoints witnessed outside: by a real timestamping authority (openssl), and in the form that Rekor takes."""

import json
import subprocess
import threading
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from registry.audit import checkpoint as checkpoints
from registry.audit import witness
from registry.base.digests import canonical_json
from registry.base.errors import InvalidRequest

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
CONFIG = """
[tsa]
default_tsa = own
[own]
dir = {folder}
serial = {folder}/serial
signer_cert = {folder}/tsa.pem
signer_key = {folder}/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256, sha512
ess_cert_id_alg = sha256
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """The URL of a timestamping authority, and its certificates in PEM."""
    folder = tmp_path_factory.mktemp("tsa")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=folder)

    (folder / "serial").write_text("01")
    (folder / "tsa.cnf").write_text(CONFIG.format(folder=folder))
    (folder / "usage").write_text("extendedKeyUsage=critical,timeStamping\n")
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=CA")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "tsa.key", "-out", "tsa.csr", "-subj", "/CN=TSA")
    signed = ("x509", "-req", "-in", "tsa.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial")
    openssl(*signed, "-extfile", "usage", "-out", "tsa.pem")

    class Answering(BaseHTTPRequestHandler):
        def do_POST(self):
            (folder / "query").write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
            openssl("ts", "-reply", "-config", "tsa.cnf", "-queryfile", "query", "-out", "reply")
            self.send_response(200)
            self.end_headers()
            self.wfile.write((folder / "reply").read_bytes())

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", (folder / "ca.pem").read_bytes()
        server.shutdown()
        thread.join()


def test_an_authority_timestamps_a_checkpoint_and_its_certificate_proves_it(authority):
    url, certificates = authority
    answer = witness.timestamp(url, b"the file")
    at = witness.timestamped_at(b"the file", answer, certificates)
    assert abs(datetime.now(UTC) - at) < timedelta(minutes=5)
    with pytest.raises(InvalidRequest, match="does not verify"):
        witness.timestamped_at(b"another file", answer, certificates)


def test_a_timestamp_of_another_authority_or_none_is_refused(authority, tmp_path):
    url, _ = authority
    answer = witness.timestamp(url, b"the file")
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "k", "-out", "c", "-subj", "/CN=CA"]
    subprocess.run(new, check=True, capture_output=True, cwd=tmp_path)
    with pytest.raises(InvalidRequest, match="does not verify"):
        witness.timestamped_at(b"the file", answer, (tmp_path / "c").read_bytes())
    with pytest.raises(InvalidRequest, match="gives no timestamp"):
        witness.timestamp("http://127.0.0.1:1", b"the file")


def test_a_log_entry_is_a_dsse_envelope_that_the_registrys_key_signed(workflow):
    with workflow.sessions.begin() as session:
        head = checkpoints.make(session, KEY)
    entry = witness.log_entry(KEY, head)
    assert (entry.kind, entry.apiVersion) == ("dsse", "0.0.1")
    proposed = entry.spec["proposedContent"]
    envelope = json.loads(proposed["envelope"])
    payload = b64decode(envelope["payload"])
    kind = envelope["payloadType"].encode()
    covered = b" ".join([b"DSSEv1", b"%d" % len(kind), kind, b"%d" % len(payload), payload])
    key = load_pem_public_key(b64decode(proposed["verifiers"][0]))
    key.verify(b64decode(envelope["signatures"][0]["sig"]), covered)
    with pytest.raises(InvalidSignature):
        key.verify(b64decode(envelope["signatures"][0]["sig"]), covered + b" ")
    statement = json.loads(payload)
    assert statement["predicate"] == head.model_dump()
    assert statement["subject"][0]["digest"]["sha256"] == sha256(canonical_json(head.model_dump())).hexdigest()
    with pytest.raises(InvalidRequest, match="did not sign"):
        witness.log_entry(Ed25519PrivateKey.generate(), head)
