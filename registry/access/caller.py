"""The caller of a request, and the caller's role in each collection."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from registry.base.vocabulary import Role

EVERYWHERE: Mapping[int | None, Role] = {None: Role.ADMIN}


@dataclass(frozen=True)
class Caller:
    """The caller of a request, as identified by the gate."""

    actor: str  # the name in the record
    identity: str  # the key, or operator: owns rate limits and idempotency keys
    roles: Mapping[int | None, Role]  # by collection id; None: in all collections
    key_name: str | None = None
    key_prefix: str | None = None
    expires_at: datetime | None = None  # None: never
    seconds_left: float | None = None  # until then, by the database's clock, when it was asked

    def role_in(self, collection_id: int | None) -> Role | None:
        """Return the higher of the role in this collection and the role in all; for None, the role in all."""
        found = [self.roles[where] for where in {None, collection_id} if where in self.roles]
        return _highest(found)

    @property
    def owner(self) -> str:
        """Who makes the request, also where many people share an operator's key."""
        return f"{self.identity} {self.actor}"

    @property
    def highest(self) -> Role | None:
        return _highest(list(self.roles.values()))

    @property
    def collections(self) -> frozenset[int] | None:
        """The collections that the caller may see; None means all."""
        if None in self.roles:
            return None
        return frozenset(where for where in self.roles if where is not None)

    @property
    def name(self) -> str:
        """The name by which a refusal refers to the caller."""
        return self.actor if self.key_name is None else f"key {self.key_name} (melo_{self.key_prefix}…)"


def _highest(roles: list[Role]) -> Role | None:
    return next((role for role in reversed(Role) if role in roles), None)
