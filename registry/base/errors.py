"""The errors of the record, as types: each says what went wrong, where, and what to do about it."""

import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

_NAMED = 20  # ids named in a message


@dataclass(frozen=True)
class RecordProblem:
    """What is wrong with one record of a submission, and what to do about it."""

    position: int  # counted from 1, in the order of the submission
    code: str
    detail: str
    remedy: str
    line: int | None = None  # the line of the source file, if there is one
    field: str | None = None
    prompt: str | None = None
    target: str | None = None
    other_edit_id: int | None = None  # the stored edit that the record collides with
    other_position: int | None = None  # or the colliding record of the same submission
    other_prompt: str | None = None
    other_target: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


class UserError(Exception):
    """An error that is shown to the user, never as a traceback: a title, what is wrong, and what to do about it."""

    title = "It did not work"

    def __init__(self, detail: str, remedy: str = "") -> None:
        super().__init__(f"{detail} {remedy}".strip())
        self.detail = detail
        self.remedy = remedy


class RegistryError(UserError):
    """A request that the record refuses."""

    status: ClassVar[int] = 400
    code: ClassVar[str] = "refused"
    title = "The request was refused"
    headers: Mapping[str, str] = {}  # headers of the answer besides the problem

    def __init__(self, detail: str, remedy: str = "", problems: Sequence[RecordProblem] = ()) -> None:
        super().__init__(detail, remedy)
        self.problems = list(problems)

    def as_json(self) -> dict[str, Any]:
        """Return the body of an RFC 9457 problem."""
        return {
            "type": f"urn:melo:problem:{self.code}",
            "title": self.title,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            "remedy": self.remedy,
            "problems": [problem.as_json() for problem in self.problems],
        }


class NotFound(RegistryError):
    status = 404
    code = "not-found"
    title = "No such record"


class NotLogged(NotFound):
    title = "No such answer in the log"


class NameTaken(RegistryError):
    status = 409
    code = "name-taken"
    title = "The name is taken"


class InvalidRequest(RegistryError):
    status = 422
    code = "invalid-request"
    title = "The request is not valid"


class InvalidEdits(RegistryError):
    status = 422
    code = "invalid-edits"
    title = "The edits were not accepted"


class WrongState(RegistryError):
    status = 409
    code = "wrong-state"
    title = "The record's state does not allow this"


class QueueClosed(RegistryError):
    status = 409
    code = "queue-closed"
    title = "The collection accepts nothing new"


class SelfApproval(RegistryError):
    status = 403
    code = "self-approval"
    title = "A submitter cannot approve their own batch"


class NotApprover(RegistryError):
    status = 403
    code = "not-an-approver"
    title = "Only the approvers that the policy names can approve"


class TooFewLeftAlone(RegistryError):
    status = 409
    code = "too-few-left-alone"
    title = "The edits would answer too many near misses"


class MovedMeanwhile(RegistryError):
    status = 412
    code = "moved-meanwhile"
    title = "Somebody else changed it first"


class Unauthorized(RegistryError):
    status = 401
    code = "unauthorized"
    title = "An API key is needed"
    headers: Mapping[str, str] = {"WWW-Authenticate": "Bearer"}


class CrossSite(RegistryError):
    status = 403
    code = "cross-site"
    title = "Another site's page made the request"


class RoleNeeded(RegistryError):
    status = 403
    code = "role-needed"
    title = "The role does not allow this"


class TooManyRequests(RegistryError):
    status = 429
    code = "too-many-requests"
    title = "Too many requests"

    def __init__(self, detail: str, wait_seconds: int) -> None:
        super().__init__(detail, f"Try again in {wait_seconds} s.")
        self.headers = {"Retry-After": str(wait_seconds)}


class TooLarge(RegistryError):
    status = 413
    code = "too-large"
    title = "The request is too large"


class TooSlow(RegistryError):
    status = 408
    code = "too-slow"
    title = "The request did not arrive in time"


class ClientLeft(RegistryError):
    """Nobody reads the answer."""

    status = 499
    code = "client-left"
    title = "The client went away"


class WrongMediaType(RegistryError):
    status = 415
    code = "wrong-media-type"
    title = "The body's content type is not supported"


class KeyReused(RegistryError):
    status = 422
    code = "idempotency-key-reused"
    title = "The idempotency key belongs to another request"


class AnswerNotKept(RegistryError):
    """The request had its effect, but its answer held a secret and was given only once."""

    status = 409
    code = "answer-not-kept"
    title = "The request has already been answered"


class UnknownModel(RegistryError):
    status = 422
    code = "unknown-model"
    title = "The model was not found"


class DatabaseAway(RegistryError):
    status = 503
    code = "database-away"
    title = "The database does not answer"


class DatabaseReadOnly(DatabaseAway):
    code = "database-read-only"
    title = "The database is read-only"


class DatabaseFull(DatabaseAway):
    code = "database-full"
    title = "The database's disk is full"


class DatabaseLocked(DatabaseAway):
    code = "database-locked"
    title = "The database is busy with another transaction"


class DatabaseDenied(DatabaseAway):
    code = "database-denied"
    title = "The database's user lacks a right"


class MigrationRefused(RegistryError):
    """The database refuses a migration: a right, an extension or an encoding is missing."""

    status = 503
    code = "migration-refused"
    title = "The database cannot be migrated"


class SchemaMismatch(RegistryError):
    status = 503
    code = "schema-mismatch"
    title = "The database's schema does not match this program"


class LeaseLost(RegistryError):
    """The job was given to another worker, so what this one trained must not be stored."""

    status = 409
    code = "lease-lost"
    title = "The job now belongs to another worker"


class PastDeadline(RegistryError):
    """The batch's deadline has passed."""

    status = 409
    code = "past-deadline"
    title = "The batch's deadline has passed"


class StaleBase(RegistryError):
    """Another version came first: the index must be rebuilt on top of it."""

    status = 409
    code = "stale-base"
    title = "The collection has moved on"


class InvalidResult(RegistryError):
    """A worker's result does not match the record it was trained for."""

    status = 422
    code = "invalid-result"
    title = "The training's result does not match the record"


class DigestMismatch(RegistryError):
    """Stored content is not what was written."""

    status = 500
    code = "digest-mismatch"
    title = "Stored content does not match its digest"


class Erased(RegistryError):
    """A version holds an edit whose content was erased at a person's request."""

    status = 410
    code = "erased"
    title = "Part of the version's content was erased"


class Unverified(RegistryError):
    status = 409
    code = "unverified"
    title = "The events that would allow it do not verify"


class NoSigningKey(RegistryError):
    status = 503
    code = "no-signing-key"
    title = "There is no key to sign with"


class InvalidBackup(RegistryError):
    status = 422
    code = "invalid-backup"
    title = "The backup cannot be used"


class NotEmpty(RegistryError):
    status = 409
    code = "not-empty"
    title = "The database already holds records"


def is_disk_full(error: BaseException) -> bool:
    """Tell whether the disk is full, or the user's share of it; a library may say so in an error of its own."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return os.strerror(errno.ENOSPC) in str(error) or os.strerror(errno.EDQUOT) in str(error)


def first_line(error: BaseException) -> str:
    """Return an error's first line; of a database error its message without the statement."""
    text = str(getattr(error, "orig", None) or error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def ids_in_words(ids: Sequence[int]) -> str:
    """Return ids as an error names them: the first ones, and how many more there are."""
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return ", ".join(str(each) for each in ids[:_NAMED]) + more
