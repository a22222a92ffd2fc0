"""Keeping answers as their collection's policy says: which are logged, whether with their text, and for how long."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy.orm import Session

from registry.answers import repository
from registry.answers.schemas import Considered
from registry.base.digests import sha256_hex

MOST_TEXT = 8_000  # characters kept of a question, and of an answer
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
    first_token_ms: int | None = None
    question: str | None = None
    answer: str | None = None

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

    An answer that is logged already is left as it is. Returns how many are kept.
    """
    kept = [one for each in answers if (one := each.under(found.get(each.collection_id, OFF))) is not None]
    repository.add(session, kept)
    return len(kept)


def prune(session: Session, most: int) -> int:
    """Delete answers, and feedback on answers, that are older than the policies say. Returns how many are gone."""
    return repository.delete_old(session, most)


def _storable(text: str) -> str:
    """Return a text that PostgreSQL takes, cut to a length that a log has room for."""
    clean = text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
    return clean if len(clean) <= MOST_TEXT else clean[: MOST_TEXT - len(CUT)] + CUT
