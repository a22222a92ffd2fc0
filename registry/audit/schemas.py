"""What the API says about audit events."""

from datetime import datetime
from typing import Any

from registry.wire import Answer


class EventView(Answer):
    seq: int
    at: datetime
    actor: str
    role: str
    action: str
    collection_id: int | None
    subject: str
    before: str | None
    after: str | None
    reason: str
    request_id: str | None
    details: dict[str, Any]
    previous_hash: str
    hash: str


class FindingView(Answer):
    subject: str
    detail: str


class VerificationView(Answer):
    """ok is false as soon as anything differs from what was written."""

    ok: bool
    checked: dict[str, int]
    findings: list[FindingView]
    head_seq: int
    head_hash: str
