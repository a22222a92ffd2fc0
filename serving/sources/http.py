"""Versions from the registry's API, for a server that must not reach the database."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus

import structlog

from registry.access.caller import Caller
from registry.access.keys import KeyText
from registry.access.service import unknown_key
from registry.answers.keeping import OFF, Answered, LogPolicy
from registry.answers.schemas import MOST_SENT, NewAnswer
from registry.audit.schemas import ChangesView
from registry.base.errors import (
    DigestMismatch,
    Erased,
    InvalidRequest,
    NotFound,
    NotLogged,
    RegistryError,
    RoleNeeded,
    Unauthorized,
    Unverified,
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

log = structlog.get_logger("melo.serve")

ANSWER_SECONDS = 10.0
POLICY_SECONDS = 5.0  # between two looks at what is to be logged
WAIT_SECONDS = 4.0  # for a change, until the registry says that there was none
CONTENT_SECONDS = 600.0  # until the first line of a large version's content
_REFUSALS: dict[str, type[RegistryError]] = {
    kind.code: kind for kind in (NotFound, InvalidRequest, Erased, DigestMismatch, Unverified)
}
_ON_FEEDBACK: dict[str, type[RegistryError]] = {NotFound.code: NotLogged} | {
    kind.code: kind for kind in (InvalidRequest, RoleNeeded, Unauthorized, WrongState)
}


class HttpSource:
    """Asks the registry with the server's own key, and about its callers' keys with these."""

    def __init__(self, url: str, key: str | None = None) -> None:
        """Prepare the connection; nothing is asked yet. Raises MeloClientError for a key that no header can carry.

        key: with the role viewer in the collections to serve, editor where it is to log answers.
        """
        self._client = MeloClient(url, key, timeout_seconds=ANSWER_SECONDS)
        self._known: Mapping[int, LogPolicy] | None = None  # by collection; None: not asked yet
        self._asked = 0.0  # when the policies were asked for

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
            seconds_left=found.seconds_left,
        )

    def keep(self, answers: Sequence[Answered]) -> Kept:
        """Send answers to the registry's log; between answers, ask for the policies every few seconds.

        A key below the role editor keeps no log, which is told once.
        """
        if self._known is None or self._asked + POLICY_SECONDS < time.monotonic():
            self._log([])
        count = 0
        stripped = (each.under(self._policies.get(each.collection_id, OFF)) for each in answers)
        kept = [each for each in stripped if each is not None]
        for start in range(0, len(kept), MOST_SENT):
            count += self._log(kept[start : start + MOST_SENT])
        return Kept(self._policies, count)

    def _log(self, answers: Sequence[Answered]) -> int:
        """Send answers, and learn the policies. Returns how many the registry keeps."""
        self._asked = time.monotonic()
        try:
            found = self._client.log_answers([NewAnswer(**vars(each)) for each in answers])
        except MeloClientError as error:
            if error.code != RoleNeeded.code:
                raise _refused(error, _REFUSALS) from error
            if self._known != {}:
                log.warning("answers are not logged: this server's key lacks the role editor", error=error.detail)
            self._known = {}
            return 0
        self._known = {id: LogPolicy(each.share, each.text) for id, each in found.policies.items()}
        return found.kept

    @property
    def _policies(self) -> Mapping[int, LogPolicy]:
        return self._known or {}

    def feedback(self, given: NewFeedback, caller: Caller, request_id: str | None, key: str | None) -> GivenView:
        if key is None or KeyText.read(key) is None:  # a text that is no key is not passed on
            raise Unauthorized(
                "This server hands feedback on to the registry, with the key of whoever gives it; there is none.",
                "Send a key as `Authorization: Bearer melo_…`.",
            )
        try:
            return self._client.give_feedback(**given.model_dump(mode="json"), api_key=key)
        except MeloClientError as error:
            raise _refused(error, _ON_FEEDBACK) from error

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
        if error.status == HTTPStatus.FORBIDDEN and collection is not None:
            raise missing(collection) from error
        raise _refused(error, _REFUSALS) from error


def _refused(error: MeloClientError, kinds: Mapping[str, type[RegistryError]]) -> RegistryError:
    kind = kinds.get(error.code)
    return _unavailable(error) if kind is None else kind(error.detail, error.remedy)


def _unavailable(error: MeloClientError) -> SourceUnavailable:
    return SourceUnavailable(f"The registry cannot be asked: {error.detail}", "Ask again later.")
