"""What a server asks of its source."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from registry.access.caller import Caller
from registry.answers.keeping import Answered, LogPolicy
from registry.audit.schemas import ChangesView
from registry.base.errors import RegistryError
from registry.collections.schemas import CollectionView
from registry.feedback.schemas import GivenView, NewFeedback
from registry.versions.content import BlockContent, VersionContent
from registry.versions.schemas import ResolvedView


class SourceUnavailable(RegistryError):
    """The database or the registry does not answer: what is loaded goes on being served."""

    status = 503
    code = "source-unavailable"
    title = "The registry does not answer"


@dataclass(frozen=True)
class Kept:
    """What was logged, and the policies under which it was, by collection."""

    policies: Mapping[int, LogPolicy]
    count: int


class Source(Protocol):
    """Every method may be called from any thread, blocks, and raises SourceUnavailable where no answer comes."""

    def collections(self) -> list[CollectionView]:
        """Return all collections that this server may see, by name."""

    def collection_id(self, name: str) -> int:
        """Return a collection's id. Raises NotFound."""

    def resolve(self, model: str) -> ResolvedView:
        """Return the version that `facts@production` refers to now. Raises NotFound, InvalidRequest or Unverified."""

    def content(self, collection: str, number: int) -> VersionContent:
        """Return a version's content without the bytes of its blocks. Raises NotFound, Erased or Unverified.

        It is not verified yet: `VersionContent.require_intact` is for the caller.
        """

    def block(self, block: BlockContent) -> bytes:
        """Return a block's safetensors, which are not verified yet. Raises NotFound or Erased."""

    def caller(self, key: str) -> Caller:
        """Return whose key it is. Raises Unauthorized."""

    def keep(self, answers: Sequence[Answered]) -> Kept:
        """Log answers as the policies of this moment say. The thread of the log calls it."""

    def feedback(self, given: NewFeedback, caller: Caller, request_id: str | None, key: str | None) -> GivenView:
        """Record feedback. key: that the caller sent, if any.

        Raises NotFound or InvalidRequest, or Unauthorized where this source takes it with a key alone.
        """

    def changes(self, after: int | None) -> ChangesView:
        """Return in which collections something changed after an event: at once, or when it does.

        Where nothing changes within some seconds, the answer says so. One thread calls it.
        """

    def close(self) -> None:
        """Close connections."""
