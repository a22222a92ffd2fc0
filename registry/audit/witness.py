"""Witnesses of a checkpoint that this registry's operators do not run: a timestamp, and an entry in a public log.

Both are optional. A timestamp (RFC 3161) proves that the checkpoint existed by then, so that nobody who has the signing
key can make another one for a day that has passed. An entry in a transparency log, such as Rekor, shows everybody that
it is the only one.
"""

from base64 import b64encode
from datetime import datetime
from hashlib import sha256
from typing import Any

import httpx
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_pem_x509_certificates
from rfc3161_client import TimestampRequestBuilder, VerificationError, VerifierBuilder, decode_timestamp_response

from registry.audit.schemas import Checkpoint, LogEntry
from registry.audit.signing import Signer, is_signed
from registry.base.digests import canonical_json
from registry.base.errors import InvalidRequest

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://melo.dev/checkpoint/1"
PAYLOAD = "application/vnd.in-toto+json"
_SECONDS = 20.0  # that a timestamping authority may take


def timestamp(url: str, content: bytes) -> bytes:
    """Have an authority timestamp this content. Returns its answer, DER, as `openssl ts` reads it.

    Raises InvalidRequest where the authority does not answer, or refuses.
    """
    request = TimestampRequestBuilder().data(content).build()
    headers = {"Content-Type": "application/timestamp-query"}
    try:
        answer = httpx.post(url, content=request.as_bytes(), headers=headers, timeout=_SECONDS)
        answer.raise_for_status()
        decoded = decode_timestamp_response(answer.content)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise InvalidRequest(f"{url} gives no timestamp: {error}.", "Check the address of the authority.") from None
    except ValueError as error:
        raise InvalidRequest(f"{url} does not answer with a timestamp: {error}.", "Give an authority's.") from None
    if decoded.status not in (0, 1):  # granted, with or without changes
        why = ", ".join(decoded.status_string) or f"status {decoded.status}"
        raise InvalidRequest(f"{url} refuses a timestamp: {why}.", "Ask another authority.")
    told = decoded.tst_info
    if (told.message_imprint.message, told.nonce) != (request.message_imprint.message, request.nonce):
        raise InvalidRequest(f"{url} timestamped something else.", "Ask another authority.")
    return answer.content


def timestamped_at(content: bytes, answer: bytes, certificates: bytes) -> datetime:
    """Return the time by which the content existed. Raises InvalidRequest where the timestamp does not prove it.

    certificates: of authorities that are trusted, in PEM.
    """
    try:
        builder = VerifierBuilder()
        for certificate in load_pem_x509_certificates(certificates):
            builder = builder.add_root_certificate(certificate)
        decoded = decode_timestamp_response(answer)
        builder.build().verify_message(decoded, content)
    except (VerificationError, ValueError) as error:
        raise InvalidRequest(
            f"The timestamp does not verify: {error}.",
            "Give the file that was timestamped, unchanged, and the certificates of the authority that did it.",
        ) from None
    return decoded.tst_info.gen_time


def log_entry(key: Signer, checkpoint: Checkpoint) -> LogEntry:
    """Return a signed statement about a checkpoint, as a transparency log takes it (Rekor's type `dsse`, 0.0.1).

    Raises InvalidRequest if this registry did not sign the checkpoint.
    """
    if not is_signed(checkpoint.model_dump(), key.public_key()):
        raise InvalidRequest("This registry did not sign that checkpoint.", "Give one of `melo audit checkpoint`.")
    content = checkpoint.model_dump()
    name = f"registry/{checkpoint.registry}/event/{checkpoint.seq}"
    statement = {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": sha256(canonical_json(content)).hexdigest()}}],
        "predicateType": PREDICATE,
        "predicate": content,
    }
    payload = canonical_json(statement)
    signature = key.sign(_authenticated(payload))
    envelope: dict[str, Any] = {
        "payloadType": PAYLOAD,
        "payload": b64encode(payload).decode(),
        "signatures": [{"sig": b64encode(signature).decode()}],
    }
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    proposed = {"envelope": canonical_json(envelope).decode(), "verifiers": [b64encode(pem).decode()]}
    return LogEntry(kind="dsse", apiVersion="0.0.1", spec={"proposedContent": proposed})


def _authenticated(payload: bytes) -> bytes:
    """Return what a DSSE signature covers: type and payload, each after its length."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD), PAYLOAD.encode(), len(payload), payload)
