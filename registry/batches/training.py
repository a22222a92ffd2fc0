"""When and how a batch is trained, where that differs from the rest of its collection."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from registry.base.errors import InvalidRequest
from registry.base.vocabulary import Priority
from registry.collections.method import settings_for
from registry.tables.collections import Collection


@dataclass(frozen=True)
class Training:
    """When and how a batch is trained, where that differs from its collection's other batches."""

    priority: Priority = Priority.NORMAL
    deadline: datetime | None = None  # with its zone; after it the batch is no longer applied
    changes: Mapping[str, Any] = field(default_factory=dict)  # changes to the method's training settings
    edits_per_block: int | None = None  # one of these settings, given separately

    def of(self, collection: Collection, now: datetime) -> "Training":
        """Return the same with only the settings that differ, as the method reads them. Raises InvalidRequest.

        now: by the database's clock, which ends trainings at their deadlines.
        """
        if self.deadline is not None and self.deadline <= now:
            raise InvalidRequest(
                f"The deadline {self.deadline.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC has already passed.",
                "Give a later one, or none.",
            )
        changes = dict(self.changes)
        shared = self.edits_per_block
        if shared is not None and changes.setdefault("edits_per_block", shared) != shared:
            raise InvalidRequest(
                f"The edits per block are given twice: {shared}, and {changes['edits_per_block']} in the settings.",
                "Give `edits_per_block`, or set it in `training`.",
            )
        settings = settings_for(collection.method, changes)
        differing = {name: settings[name] for name in changes if settings[name] != collection.method.get(name)}
        return replace(self, changes=differing, edits_per_block=None)


AS_USUAL = Training()
