"""Blocks that a preflight trained before the decision: what is stored of them, and what a training takes over."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from registry.audit import repository as audit_repository
from registry.audit import service as audit
from registry.audit.details import BatchPreflight, read
from registry.audit.trust import unverified
from registry.base.digests import report_digest
from registry.base.vocabulary import Action, JobKind, JobState
from registry.edits import repository as edits
from registry.jobs import repository, service
from registry.jobs.claiming import Claim, ClaimedEdit
from registry.jobs.schemas import EditPreflight, EditReport, Progress
from registry.tables.edits import Edit
from registry.tables.jobs import Job
from registry.versions import repository as versions
from registry.versions import states
from registry.versions.content import BlockContent, PointContent
from registry.versions.storing import store_points
from registry.versions.training_result import TrainingResult


@dataclass(frozen=True)
class Candidate:
    """A block with the points that lead to it, stored by a preflight and in no version yet."""

    block: BlockContent  # with its bytes
    loss: float
    iterations: int
    points: tuple[PointContent, ...]  # in order
    reports: dict[int, EditReport]  # by id of the edits that it was trained for


def finish_preflight(
    session: Session,
    claim: Claim,
    report: Sequence[EditPreflight],
    result: TrainingResult | None,
    *,
    progress: Progress | None,
    timings: dict[str, float],
    loss_curve: list[Any],
    peak_memory_bytes: int | None = None,
) -> None:
    """End a preflight: store its report, and the blocks and points that it trained. No version comes of it.

    Raises LeaseLost where the preflight was cancelled, or belongs to another worker by now.
    """
    held = service.hold(session, claim)
    blocks = 0
    if result is not None:
        store_points(session, held.collection, claim, result)
        blocks = len(result.blocks)
    service.write_report(held, report, progress)
    service.succeed(session, held, timings=timings, loss_curve=loss_curve, peak_memory_bytes=peak_memory_bytes)
    session.flush()
    audit.record(
        session,
        BatchPreflight(
            job=held.job.id,
            attempt=held.job.attempt,
            edits=len(report),
            blocks=blocks,
            trained=versions.stored_by(session, held.job.id),
            report=report_digest(held.job.report),
        ),
        claim.actor,
        f"batch/{claim.batch_id}",
        collection_id=claim.collection_id,
    )


@dataclass(frozen=True)
class KeptBlock:
    """The block of an edit that is replaced by one with the same content except for its guards."""

    edit_id: int  # the new one
    block: BlockContent  # with its bytes
    loss: float
    iterations: int


def kept_blocks(session: Session, claim: Claim) -> list[KeptBlock]:
    """Return blocks that the batch's edits can keep: of active edits with equal prompts, target and training."""
    named = {edit.replaces: edit for edit in claim.edits if edit.replaces is not None}
    same = [old for old in edits.by_ids(session, named) if _says(old) == _says(named[old.id])]
    newest = versions.latest(session, claim.collection_id)
    active = states.active_edits(session, [old.id for old in same], newest.content_version if newest else 0)
    found = []
    for old in same:
        block_id, loss, iterations, settings, seed = versions.block_of_edit(session, old.id) or (0, 0, 0, None, 0)
        if old.id in active and (settings, seed) == (claim.settings, claim.seed):
            block = versions.blocks_by_ids(session, [block_id], with_bytes=True)[block_id]
            found.append(KeptBlock(named[old.id].id, block, loss, iterations))
    return found


def _says(edit: Edit | ClaimedEdit) -> tuple[str, str, tuple[str, ...], str]:
    """Return what a block is trained on."""
    return edit.prompt, edit.target, tuple(edit.rephrases), str(edit.kind)


def candidates(session: Session, claim: Claim) -> list[Candidate]:
    """What the batch's preflight trained and this job can apply as it is: same settings, seed and numbers, and only
    blocks of which no edit was left out."""
    preflight = repository.latest_of_batch(session, claim.batch_id, JobKind.PREFLIGHT)
    job = repository.by_id(session, claim.job_id)
    if preflight is None or job is None or preflight.state != JobState.SUCCEEDED:
        return []
    wanted_as = job.settings, job.seed, _dtype(job.libraries)
    if (preflight.settings, preflight.seed, _dtype(preflight.libraries)) != wanted_as:
        return []
    if not _as_told(session, preflight):
        return []  # it is trained anew
    reports = {each["edit_id"]: EditPreflight.model_validate(each).trained for each in preflight.report or ()}
    wanted = {edit.id for edit in claim.edits}
    found = []
    for block, loss, iterations, edit_ids, points in versions.blocks_of_job(session, preflight.id):
        told = {edit_id: report for edit_id in edit_ids if (report := reports.get(edit_id))}
        if wanted.issuperset(edit_ids) and len(told) == len(edit_ids):
            found.append(Candidate(block, loss, iterations, points, told))
    return found


def _as_told(session: Session, preflight: Job) -> bool:
    """Return whether what the preflight stored and reported is what its event says, which verifies."""
    events = audit_repository.of_subject(session, f"batch/{preflight.batch_id}", [Action.BATCH_PREFLIGHT])
    told = [(event, read(BatchPreflight, event)) for event in events]
    mine = [(event, details) for event, details in told if details and details.job == preflight.id and details.trained]
    if not mine or unverified(session, [mine[-1][0]]):
        return False
    details = mine[-1][1]
    return (details.trained, details.report) == (
        versions.stored_by(session, preflight.id),
        report_digest(preflight.report),
    )


def _dtype(libraries: dict[str, Any] | None) -> object:
    return (libraries or {}).get("dtype")
