"""Versions from the registry's API, for a server that must not reach the database."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus

from registry.access.caller import Caller
from registry.access.keys import KeyText
from registry.access.service import unknown_key
from registry.answers.keeping import Answered
from registry.audit.schemas import ChangesView
from registry.base.errors import (
    DigestMismatch,
    Erased,
    InvalidRequest,
    NotFound,
    RegistryError,
    Unauthorized,
    WrongState,
)
from registry.client import MeloClient, MeloClientError
from registry.collections.schemas import CollectionView
from registry.collections.service import missing
from registry.feedback.schemas import GivenView, NewFeedback
from registry.versions.content import BlockContent, VersionContent
from registry.versions.content_lines import content_in
from registry.versions.schemas import ResolvedView
from serving.sources.port import Kept, SourceUnavailable

ANSWER_SECONDS = 10.0
WAIT_SECONDS = 4.0  # for a change, until the registry says that there was none
CONTENT_SECONDS = 600.0  # until the first line of a large version's content
_REFUSALS: dict[str, type[RegistryError]] = {
    kind.code: kind for kind in (NotFound, InvalidRequest, Erased, DigestMismatch)
}


class HttpSource:
    """Asks the registry with the server's own key, and about its callers' keys with these."""

    def __init__(self, url: str, key: str | None = None) -> None:
        """Prepare the connection; nothing is asked yet. Raises MeloClientError for a key that no header can carry.

        key: with the role viewer in the collections to serve.
        """
        self._client = MeloClient(url, key, timeout_seconds=ANSWER_SECONDS)

    def collections(self) -> list[CollectionView]:
        with _answering():
            return self._client.collections()

    def collection_id(self, name: str) -> int:
        with _answering(name):
            return self._client.collection(name).id

    def resolve(self, model: str) -> ResolvedView:
        with _answering(model.partition("@")[0]):
            return self._client.resolve(model)

    def content(self, collection: str, number: int) -> VersionContent:
        with _answering(collection):
            return content_in(self._client.content(collection, number, silent_seconds=CONTENT_SECONDS))

    def block(self, block: BlockContent) -> bytes:
        with _answering():
            return self._client.block(block.sha256)

    def caller(self, key: str) -> Caller:
        if KeyText.read(key) is None:
            raise unknown_key()  # a text that is no key is not passed on
        try:
            found = self._client.whoami(key)
        except MeloClientError as error:
            if error.status == HTTPStatus.UNAUTHORIZED:
                raise Unauthorized(error.detail, error.remedy) from error
            raise _unavailable(error) from error
        return Caller(
            actor=found.actor,
            identity=found.identity,
            roles={grant.collection_id: grant.role for grant in found.roles},
            key_name=found.key_name,
            key_prefix=found.key_prefix,
            expires_at=found.expires_at,
        )

    def keep(self, answers: Sequence[Answered]) -> Kept:
        """Log nothing: the log is written to the database alone."""
        return Kept({}, 0)

    def feedback(self, given: NewFeedback, caller: Caller, request_id: str | None) -> GivenView:
        raise WrongState(
            "This server does not reach the registry's database, and takes no feedback.",
            f"Send it to the registry: POST {self._client.api_url}/v1/feedback, with the same key.",
        )

    def changes(self, after: int | None) -> ChangesView:
        with _answering():
            return self._client.changes(after, wait_seconds=0 if after is None else WAIT_SECONDS)

    def close(self) -> None:
        self._client.close()


@contextmanager
def _answering(collection: str | None = None) -> Iterator[None]:
    """Raise the registry's refusals as its own errors, and everything else as SourceUnavailable.

    collection: what was asked about; where this server's key has no role in it, there is none for its callers.
    """
    try:
        yield
    except MeloClientError as error:
        if kind := _REFUSALS.get(error.code):
            raise kind(error.detail, error.remedy) from error
        if error.status == HTTPStatus.FORBIDDEN and collection is not None:
            raise missing(collection) from error
        raise _unavailable(error) from error


def _unavailable(error: MeloClientError) -> SourceUnavailable:
    return SourceUnavailable(f"The registry cannot be asked: {error.detail}", "Ask again later.")
