"""API schemas of API keys."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, Field

from registry.access.names import LONGEST, spelled
from registry.base.vocabulary import Role
from registry.base.wire import Answer, Body, Name, Reason, ShortText

ActorName = Annotated[
    ShortText,
    Field(min_length=1, max_length=LONGEST, pattern=r"\S", description="as the record names whoever uses it"),
    AfterValidator(spelled),
]


class KeyState(StrEnum):
    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


class Grant(Body):
    """A role in one collection or, if none is named, in all."""

    role: Role
    collection: Name | None = Field(default=None, description="null: all, and those to come")


class NewKey(Body):
    name: Name = Field(description="unique among the keys that are not revoked", examples=["ci"])
    roles: list[Grant] = Field(min_length=1, max_length=1000, examples=[[{"role": "editor", "collection": "facts"}]])
    actor: ActorName | None = Field(default=None, description="as the record names whoever uses it; null: the name")
    expires_at: AwareDatetime | None = Field(default=None, description="null: never")


class Renewal(Body):
    reason: Reason
    expires_at: AwareDatetime | None = Field(
        default=None, description="of the new key; null: never; left out: the new key lasts as long as the old one did"
    )

    @property
    def keeps_lifetime(self) -> bool:
        return "expires_at" not in self.model_fields_set


class GrantView(Answer):
    role: Role
    collection: str | None


class KeyView(Answer):
    id: int
    name: str
    actor: str
    prefix: str = Field(description="the part of the key after `melo_`, by which one knows it again")
    state: KeyState
    roles: list[GrantView]
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    revoked_by: str | None
    last_used_at: datetime | None = Field(description="to the minute")


class CreatedKeyView(KeyView):
    key: str = Field(description="the key itself: it is shown this once and stored nowhere")


class CallerGrant(GrantView):
    collection_id: int | None


class CallerView(Answer):
    """Who makes a request, and what they may do where."""

    actor: str
    identity: str = Field(description="the key, by its id, or `operator`", examples=["key/3"])
    key_name: str | None = Field(description="null: no key made here", examples=["ci"])
    key_prefix: str | None = Field(examples=["3fk2a9"])
    expires_at: datetime | None
    seconds_left: float | None = Field(description="until it expires, by the database's clock; null: never")
    roles: list[CallerGrant]
