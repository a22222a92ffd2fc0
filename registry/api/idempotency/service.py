"""Stores a request's answer together with its effect, so that repeating the request changes nothing.

Only answers of requests that had an effect are stored (after draft-ietf-httpapi-idempotency-key-header): a refusal
rolls everything back, so the same key may be used for the corrected request.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy.orm import Session

from registry.api.idempotency import repository
from registry.base.errors import AnswerNotKept, KeyReused
from registry.tables.idempotency import KeptAnswer


@dataclass(frozen=True)
class Claim:
    """The right to perform a request's effect, held until the transaction ends."""

    session: Session
    scope: str
    key: str
    method: str
    path: str
    request_digest: str


def claim(session: Session, scope: str, key: str, method: str, path: str, request_digest: str) -> Claim | KeptAnswer:
    """Claim the key, or return the answer that the same request got before; waits while that request is in progress.

    scope: the owner of the key, so that two clients may choose the same key. Raises KeyReused if the key belongs to
    another request, and AnswerNotKept if the answer held a secret.
    """
    repository.lock(session, scope, key)
    kept = repository.find(session, scope, key)
    if kept is None:
        repository.forget(session, scope, key)
        repository.sweep(session)
        return Claim(session, scope, key, method, path, request_digest)
    if kept.request_digest != request_digest:
        same = (kept.method, kept.path) == (method, path)
        raise KeyReused(
            f"The Idempotency-Key {key!r} was used {kept.created_at:%Y-%m-%d %H:%M} UTC for "
            + ("other content." if same else f"{kept.method} {kept.path}."),
            "Use a new key for every new request, and the same key only to send the same request again.",
        )
    if kept.body is None:
        raise AnswerNotKept(
            f"The request had its effect {kept.created_at:%Y-%m-%d %H:%M} UTC; its answer held a secret, which is told "
            "once and not kept.",
            "If that answer was lost, remove what was made, and make another under a new key.",
        )
    return kept


def keep(claim: Claim, status: int, headers: Mapping[str, str], body: bytes | None) -> None:
    """Store the answer, in the transaction that has the effect.

    body: None if the answer holds a secret.
    """
    answer = KeptAnswer(
        scope=claim.scope,
        key=claim.key,
        method=claim.method,
        path=claim.path,
        request_digest=claim.request_digest,
        status=status,
        headers=dict(headers),
        body=body,
    )
    repository.add(claim.session, answer)
