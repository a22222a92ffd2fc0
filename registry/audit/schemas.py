"""API schemas of audit events."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from registry.base.wire import Answer, Body, Text

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
PublicKey = Annotated[Text, Field(max_length=1_000, description="Ed25519: base64 of its 32 bytes, or PEM")]
PublicKeys = Annotated[Text, Field(max_length=20_000, description="Ed25519: base64 of 32 bytes, a key a line; or PEM")]


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
    signed_by: str | None = Field(description="the public key of its signature; null: it is not signed")
    signature: str | None = Field(description="Ed25519, base64, over melo-event/1, a line feed and the hash")


class FindingView(Answer):
    subject: str
    detail: str


class VerificationView(Answer):
    """The result of a verification. ok is false as soon as anything differs from what was written."""

    ok: bool
    verified: dict[str, int]
    findings: list[FindingView]
    head_seq: int
    head_hash: str
    unsigned_events: int = Field(default=0, description="events without a signature")
    signatures: str = Field(default="", description="which keys the signatures were checked against, or why none was")


class ExportVerification(VerificationView):
    """The result of verifying an exported file, which may begin anywhere."""

    first_seq: int


class ProgressView(Answer):
    """The progress of a verification: the kind of record, and how many of them have been read."""

    verifying: str
    verified: int


class Checkpoint(Body):
    """The signed head of the chain of events: keep it where nobody who can write to the database can write."""

    format: Annotated[Text, Field(max_length=100, examples=["melo-checkpoint/1"])]
    registry: Annotated[Text, Field(max_length=100, description="the id that the registry made for itself")]
    seq: Annotated[int, Field(ge=0, le=2**63 - 1, description="of the newest event; 0: there was none")]
    hash: Digest
    time: Annotated[Text, Field(max_length=100)]
    counts: dict[Text, int] = Field(max_length=1_000, description="rows of each table that only grows")
    public_key: PublicKey
    signature: Annotated[Text, Field(max_length=1_000, description="base64, over the canonical JSON of the rest")]


class LogEntry(Answer):
    """A signed statement about a checkpoint, in the form in which Rekor takes it (POST /api/v1/log/entries)."""

    kind: str = Field(examples=["dsse"])
    apiVersion: str = Field(examples=["0.0.1"])
    spec: dict[str, Any] = Field(
        description="its `proposedContent`: a DSSE envelope around an in-toto statement, and the public key",
        examples=[{"proposedContent": {"envelope": "{}", "verifiers": ["LS0tLS1CRUdJTiBQVUJMSUMgS0VZLS0tLS0K"]}}],
    )


class Comparison(Body):
    checkpoint: Checkpoint
    public_key: PublicKeys | None = Field(default=None, description="keys of which one must have signed it; null: any")


class ComparisonView(Answer):
    """The comparison with a checkpoint. ok: the record is a continuation of the one that was signed."""

    ok: bool
    findings: list[FindingView]


class PublicKeyView(Answer):
    """What verifies this registry's signatures."""

    public_key: str = Field(description="Ed25519: base64 of its 32 bytes")
    registry: str


class ChangesView(Answer):
    """The collections in which something changed after an event of the record."""

    seq: int = Field(description="the last event; hand it in as `after`")
    collections: list[str] | None = Field(description="null: any may have changed", examples=[["facts"]])
    keys: bool = Field(description="whether a key was made or revoked")

    @property
    def tells(self) -> bool:
        """Whether there is anything to do about it."""
        return self.keys or self.collections is None or bool(self.collections)
