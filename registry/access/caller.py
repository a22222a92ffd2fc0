"""Who asks, and which role they have where."""

from collections.abc import Mapping
from dataclasses import dataclass

from registry.base.vocabulary import Role

EVERYWHERE: Mapping[int | None, Role] = {None: Role.ADMIN}


@dataclass(frozen=True)
class Caller:
    """The one who makes a request, as the gate made out."""

    actor: str  # as the record names them
    identity: str  # the key, or operator: what limits are counted by, and whose an idempotency key is
    roles: Mapping[int | None, Role]  # by collection; None: in all
    key_name: str | None = None
    key_prefix: str | None = None

    def role_in(self, collection_id: int | None) -> Role | None:
        """The higher one of the role in this collection and the role in all; of None, the role in all."""
        found = [self.roles[where] for where in {None, collection_id} if where in self.roles]
        return _highest(found)

    @property
    def highest(self) -> Role | None:
        return _highest(list(self.roles.values()))

    @property
    def collections(self) -> frozenset[int] | None:
        """The collections that they may see; None: all."""
        if None in self.roles:
            return None
        return frozenset(where for where in self.roles if where is not None)

    @property
    def name(self) -> str:
        """As a refusal calls them."""
        return self.actor if self.key_name is None else f"key {self.key_name} (melo_{self.key_prefix}…)"


def _highest(roles: list[Role]) -> Role | None:
    return next((role for role in reversed(Role) if role in roles), None)
