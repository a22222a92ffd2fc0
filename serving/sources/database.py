"""Versions from the database: the usual source of a server on the registry's own machines."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from registry.access import service as access
from registry.access.caller import Caller
from registry.answers import keeping
from registry.answers.keeping import Answered
from registry.audit.changes import Listener, listening
from registry.audit.schemas import ChangesView
from registry.audit.trust import NONE, Signing
from registry.base.database import UNREACHABLE, make_sessions
from registry.base.errors import first_line
from registry.collections import service as collections
from registry.collections.changes import view_of
from registry.collections.schemas import CollectionView
from registry.feedback import service as feedback
from registry.feedback.schemas import GivenView, NewFeedback
from registry.versions import reading
from registry.versions.content import BlockContent, VersionContent
from registry.versions.repository import blocks_by_ids
from registry.versions.schemas import ResolvedView
from serving.sources.port import Kept, SourceUnavailable

POLL_SECONDS = 0.5  # where notifications do not get through


class DatabaseSource:
    """Reads the registry's tables. A connection of its own is notified of every event of the record."""

    def __init__(self, engine: Engine, signing: Signing = NONE) -> None:
        self._engine, self._sessions = engine, make_sessions(engine, signing=signing)
        self._listening = ExitStack()
        self._listener: Listener | None = None

    def collections(self) -> list[CollectionView]:
        with self._session() as session:
            return collections.page(session, among=None, limit=None)

    def collection_id(self, name: str) -> int:
        with self._session() as session:
            return collections.get(session, name).id

    def resolve(self, model: str) -> ResolvedView:
        with self._session() as session:
            return reading.resolved_view(session, model)

    def content(self, collection: str, number: int) -> VersionContent:
        with self._session() as session:
            return reading.content(session, collections.get(session, collection), number)

    def block(self, block: BlockContent) -> bytes:
        with self._session() as session:
            return blocks_by_ids(session, [block.id], with_bytes=True)[block.id].data or b""

    def caller(self, key: str) -> Caller:
        with self._session() as session:  # committed: it marks the key as used
            return access.authenticate(session, key)

    def keep(self, answers: Sequence[Answered]) -> Kept:
        with self._session() as session:
            policies = keeping.policies(session)
            return Kept(policies, keeping.keep(session, answers, policies))

    def feedback(self, given: NewFeedback, caller: Caller, request_id: str | None, key: str | None) -> GivenView:
        with self._session() as session:
            return feedback.give(session, given, caller, request_id)

    def changes(self, after: int | None) -> ChangesView:
        try:
            with _answering():
                if self._listener is None:
                    self._listener = self._listening.enter_context(listening(self._engine))
                found = self._listener.next(after, POLL_SECONDS)
        except SourceUnavailable:
            self._stop_listening()
            raise
        with self._session() as session:
            return view_of(session, found)

    def close(self) -> None:
        self._stop_listening()
        self._engine.dispose()

    def _stop_listening(self) -> None:
        self._listener = None
        self._listening.close()

    @contextmanager
    def _session(self) -> Iterator[Session]:
        with _answering(), self._sessions.begin() as session:
            yield session


@contextmanager
def _answering() -> Iterator[None]:
    """Raise SourceUnavailable where the database does not answer."""
    try:
        yield
    except UNREACHABLE as error:
        raise SourceUnavailable(
            f"The registry's database does not answer: {first_line(error)}", "Ask again later."
        ) from error
