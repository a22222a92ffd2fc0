"""The actor: passed from the request or the task to every event."""

from dataclasses import dataclass

from registry.base.vocabulary import Role


@dataclass(frozen=True)
class Actor:
    name: str
    role: Role = Role.ADMIN
    request_id: str | None = None
