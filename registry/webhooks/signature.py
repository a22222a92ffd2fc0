"""Signatures of messages after the Standard Webhooks specification (https://www.standardwebhooks.com)."""

import hmac
import secrets
from base64 import b64decode, b64encode

PREFIX = "whsec_"
_SECRET_BYTES = 32


def new_secret() -> str:
    return PREFIX + b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def signed_headers(secret: str, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers by which a receiver knows who sent the body, and when.

    timestamp: Unix time of this attempt, in seconds; a receiver refuses old ones, so that nobody can replay them.
    """
    signed = f"{message_id}.{timestamp}.".encode() + body
    signature = hmac.digest(b64decode(secret.removeprefix(PREFIX)), signed, "sha256")
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{b64encode(signature).decode()}",
    }
