"""Keeping answers as their collection's policy says: which are logged, whether with their text, and for how long."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy.orm import Session

from registry.access.caller import Caller
from registry.answers import repository
from registry.answers.schemas import MOST_CHARACTERS, Considered, KeptAnswers, LogPolicyView, NewAnswers
from registry.base import database
from registry.base.digests import sha256_hex
from registry.base.errors import InvalidRequest
from registry.base.vocabulary import Role
from registry.edits import repository as edits

CUT = " […]"


@dataclass(frozen=True)
class LogPolicy:
    """What a collection keeps of its answers."""

    share: float  # of responses; 0: off, 1: all
    text: bool  # whether with question and answer

    def keeps(self, response_id: str) -> bool:
        """Return whether a response is logged: the same for all of its choices, and in every process."""
        return int(sha256_hex(response_id.encode())[:13], 16) < self.share * 16**13


OFF = LogPolicy(0, False)


@dataclass(frozen=True)
class Answered:
    """An answer that was given, to be logged."""

    response_id: str
    choice: int
    collection_id: int
    model: str
    version: int
    digest: str
    asked_at: datetime
    asked_by: str
    kind: str
    edit_id: int | None
    said_to: str | None
    considered: Sequence[Considered]
    prompt_tokens: int
    completion_tokens: int
    canary: bool = False
    first_token_ms: int | None = None
    question: str | None = None
    answer: str | None = None

    @property
    def edits(self) -> set[int]:
        """Return the edits that it names."""
        return {each.edit for each in self.considered} | ({self.edit_id} if self.edit_id is not None else set())

    def under(self, policy: LogPolicy) -> "Answered | None":
        """Return what the policy lets be kept of it; None: nothing."""
        if not policy.keeps(self.response_id):
            return None
        if not policy.text or self.question is None:
            return replace(self, question=None, answer=None)
        return replace(self, question=_storable(self.question), answer=_storable(self.answer or ""))


def policies(session: Session) -> dict[int, LogPolicy]:
    """Return the policy of every collection that logs, by the collection's id."""
    return {id: LogPolicy(share, text) for id, share, text in repository.log_policies(session)}


def keep(session: Session, answers: Iterable[Answered], found: Mapping[int, LogPolicy]) -> int:
    """Log answers as the policies say that were found in this transaction, whatever they were at the time of asking.

    An answer that is logged already is left as it is; one from the future, of a server whose clock is ahead, would
    outlive the policy's days, and is taken as asked now. Returns how many are kept.
    """
    kept = [one for each in answers if (one := each.under(found.get(each.collection_id, OFF))) is not None]
    if kept:
        now = database.now(session)
        repository.add(session, [replace(each, asked_at=min(each.asked_at, now)) for each in kept])
    return len(kept)


def receive(session: Session, caller: Caller, given: NewAnswers) -> KeptAnswers:
    """Log what a server sends, as far as the policies of the caller's collections keep it.

    Raises InvalidRequest where an answer names an edit that its collection does not have.
    """
    found = {
        id: each
        for id, each in policies(session).items()
        if (role := caller.role_in(id)) is not None and role.covers(Role.EDITOR)
    }
    answers = [Answered(**dict(each)) for each in given.answers if each.collection_id in found]
    named = {(each.collection_id, edit) for each in answers for edit in each.edits}
    there = {(edit.collection_id, edit.id) for edit in edits.by_ids(session, {edit for _, edit in named})}
    if unknown := sorted(named - there):
        raise InvalidRequest(
            f"Collection {unknown[0][0]} has no edit {unknown[0][1]}.", "Send an answer to the registry it came from."
        )
    shown = {id: LogPolicyView(share=each.share, text=each.text) for id, each in found.items()}
    return KeptAnswers(policies=shown, kept=keep(session, answers, found))


def prune(session: Session, most: int) -> int:
    """Delete answers, and feedback on answers, that are older than the policies say. Returns how many are gone."""
    return repository.delete_old(session, most)


def _storable(text: str) -> str:
    """Return a text that PostgreSQL takes, cut to a length that a log has room for."""
    clean = text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
    return clean if len(clean) <= MOST_CHARACTERS else clean[: MOST_CHARACTERS - len(CUT)] + CUT
