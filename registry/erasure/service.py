"""Erases edits: removes their content from every table that holds it, keeps the digests, and records an event."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from registry.answers.schemas import TextErasure, TextErasureView
from registry.audit import service as audit
from registry.audit.actor import Actor
from registry.audit.details import AnswersErase, EditErase
from registry.base.digests import float32_bytes, sha256_hex
from registry.base.errors import NotFound, WrongState, ids_in_words
from registry.base.vocabulary import BatchState
from registry.collections import repository as collections
from registry.edits.schemas import EditView
from registry.erasure import repository
from registry.erasure.schemas import ErasureView, FoundEdit, UnservableView
from registry.erasure.scrubbing import Erasing, forms_of, named_in, scrubbed
from registry.tables.answers import LoggedAnswer
from registry.tables.collections import Collection
from registry.tables.edits import Edit
from registry.tables.jobs import Job
from registry.versions import erased, states
from registry.versions import repository as versions

ENDED = (BatchState.APPLIED, BatchState.REJECTED)


@dataclass(frozen=True)
class _Traces:
    """What belongs to the edits besides their own rows."""

    blocks: dict[int, list[tuple[int, str]]]  # by edit id: the block's id and SHA-256
    points: dict[int, list[tuple[int, Any]]]  # by edit id: the point's id and key
    clusters: Sequence[tuple[int, str, list[int]]]  # id, digest and members

    @property
    def block_ids(self) -> list[int]:
        return sorted({block for found in self.blocks.values() for block, _ in found})

    @property
    def point_ids(self) -> list[int]:
        return sorted({point for found in self.points.values() for point, _ in found})


def erase(session: Session, edit_ids: Sequence[int], actor: Actor, reason: str, *, dry_run: bool) -> ErasureView:
    """Erase the edits' content permanently; with dry_run, report what would be erased.

    Raises NotFound; WrongState if an edit was already erased, is active in a newest version, is in a batch that is not
    decided, or was trained in one block with others, if an alias points at a version that holds it, or while a worker
    runs a job of its collection.
    """
    # Take the row locks in the same order as every writer: no edit is activated and no batch decided meanwhile. The
    # edits are read after that, because another erasure may have held the locks before.
    held = {each: collections.lock(session, each) for each in repository.collections_of(session, edit_ids)}
    edits = _edits(session, edit_ids)
    ids = [edit.id for edit in edits]
    by_collection: dict[int, list[Edit]] = {each: [] for each in held}
    for edit in edits:
        by_collection[edit.collection_id].append(edit)
    _require_ended(session, ids)
    for collection in held.values():
        _require_idle(session, collection)
    unservable = [_unservable(session, held[each], [edit.id for edit in by_collection[each]]) for each in held]
    blocks, points = repository.blocks_of(session, ids), repository.points_of(session, ids)
    point_ids = [point for found in points.values() for point, _ in found]
    traces = _Traces(blocks, points, repository.clusters_with(session, point_ids))
    _require_alone(session, traces, ids)
    logged = [row for of_it in by_collection.values() for row in _logged_of(session, of_it)]
    told = [job for each, of_it in by_collection.items() for job in _scrub_jobs(session, each, of_it, dry_run=dry_run)]
    if not dry_run:
        _empty(session, edits, traces)
        repository.empty_texts(session, logged)
        for edit in edits:
            _record(session, edit, traces, actor, reason)
    return ErasureView(
        dry_run=dry_run,
        edits=ids,
        unservable=[each for each in unservable if each.versions],
        blocks=len(traces.block_ids),
        points=len(traces.point_ids),
        clusters=len(traces.clusters),
        jobs=len(told),
        answers=len(logged),
    )


def erase_texts(session: Session, wanted: TextErasure, actor: Actor) -> TextErasureView:
    """Erase what the log of answers and the feedback hold of a person; with dry_run, report what would be erased.

    That is every text that mentions the person, and each row that the person wrote. Raises NotFound if there is none.
    """
    found = repository.texts_of_person(session, wanted.person)
    if not found:
        raise NotFound(
            "Neither the log of answers nor feedback mentions that person.",
            "`melo edit find NAME` looks for edits that do.",
        )
    count = len([row for row in found if isinstance(row, LoggedAnswer)])
    view = TextErasureView(dry_run=wanted.dry_run, answers=count, feedback=len(found) - count)
    if not wanted.dry_run:
        repository.empty_texts(session, found)
        details = AnswersErase(answers=view.answers, feedback=view.feedback)
        audit.record(session, details, actor, "answers", reason=wanted.reason)
    return view


def of_person(session: Session, name: str, *, after: int, limit: int) -> list[FoundEdit]:
    """Return the edits that somebody wrote or that mention them, in the order of their ids."""
    return [
        FoundEdit(
            **EditView.model_validate(edit).model_dump(),
            collection=collections.by_id(session, edit.collection_id).name,
            written=edit.author == name,
        )
        for edit in repository.by_person(session, name, after=after, limit=limit)
    ]


def _edits(session: Session, edit_ids: Sequence[int]) -> list[Edit]:
    edits = repository.edits_now(session, edit_ids)
    if unknown := sorted(set(edit_ids) - {edit.id for edit in edits}):
        raise NotFound(
            f"There is no edit {ids_in_words(unknown)}.", "`melo edit list COLLECTION` shows those that exist."
        )
    if gone := [edit.id for edit in edits if edit.erased_at is not None]:
        raise WrongState(f"Edit {ids_in_words(gone)} was already erased.", "Leave it out.")
    return edits


def _require_ended(session: Session, edit_ids: Sequence[int]) -> None:
    batches = repository.batches_of(session, edit_ids)
    for job in repository.live_jobs_of(session, [batch.id for batch in batches]):
        raise WrongState(
            f"Job {job.id} of batch {job.batch_id}, which one of the edits is in, is {job.state}.",
            "Wait until it has ended.",
        )
    for batch in batches:
        if batch.state not in ENDED:
            raise WrongState(
                f"Batch {batch.id}, which one of the edits is in, is {batch.state}: it could still be trained.",
                f"Reject it first (`melo batch reject {batch.id} --reason …`), or wait until it is applied.",
            )


def _require_idle(session: Session, collection: Collection) -> None:
    """Raise WrongState while a worker runs a job of the collection.

    The worker read the active edits when it began, and would write them into its report after the erasure. One that
    begins later reads the newest version, in which none of the edits is active.
    """
    if (job := repository.running_job(session, collection.id)) is not None:
        raise WrongState(
            f"A worker is running job {job} of {collection.name}, and its report could quote what is to be erased.",
            "Wait until it has ended.",
        )


def _unservable(session: Session, collection: Collection, edit_ids: Sequence[int]) -> UnservableView:
    newest = versions.latest(session, collection.id)
    if acting := sorted(states.active_edits(session, edit_ids, newest.content_version if newest else 0)):
        raise WrongState(
            f"Edit {ids_in_words(acting)} acts in the newest version of {collection.name}.",
            f"Retire it first: `melo edit retire {collection.name} {' '.join(map(str, acting))} --reason …`.",
        )
    numbers = list(erased.versions_with(session, collection.id, edit_ids))
    for alias in repository.aliases_at(session, collection.id, numbers):
        held = alias.number if alias.number in numbers else alias.second
        raise WrongState(
            f"The alias {alias.name} of {collection.name} points at version {held}, which holds such an edit "
            "and could no longer answer.",
            f"Move it first: `melo alias set {collection.name} {alias.name} {newest.number if newest else 0}`.",
        )
    after = numbers[-1] + 1 if numbers else 1
    return UnservableView(collection=collection.name, versions=numbers, servable_from=after)


def _require_alone(session: Session, traces: _Traces, edit_ids: Sequence[int]) -> None:
    if others := repository.companions(session, traces.block_ids, edit_ids):
        raise WrongState(
            f"The edits {ids_in_words(others)} were trained into the same block, whose bytes would go too.",
            f"Erase them together: `melo edit erase {' '.join(map(str, sorted({*edit_ids, *others})))} --reason …`, "
            "after submitting again those that should stay.",
        )


def _logged_of(session: Session, edits: Sequence[Edit]) -> list[repository.Texts]:
    """Return the logged answers and feedback that tell of edits of one collection, by reference or in words."""
    words = [text for edit in edits for text in (edit.prompt, *edit.rephrases, edit.target, *edit.alternatives)]
    return repository.texts_on(session, edits[0].collection_id, [edit.id for edit in edits], words)


def _scrub_jobs(session: Session, collection_id: int, edits: Sequence[Edit], *, dry_run: bool) -> list[int]:
    """Remove the edits' content from the collection's jobs, unless it is a dry run.

    Returns the ids of the jobs that quoted it.
    """
    ids = {edit.id for edit in edits}
    prompts = {text for edit in edits for text in (edit.prompt, *edit.rephrases, *edit.unchanged)}
    targets = {text for edit in edits for text in (edit.target, *edit.alternatives)}
    found = []
    for job in repository.jobs_that_tell(session, collection_id):
        # A target may be a common word: in texts other than answers it is only removed from jobs that processed or name
        # the edit.
        named = named_in([job.report, job.progress, job.error], ids)
        told = [edit for edit in edits if edit.batch_id == job.batch_id or edit.id in named]
        near = {text for edit in told for text in (edit.target, *edit.alternatives)}
        if _scrub(job, Erasing(ids, forms_of(prompts | near), targets), dry_run=dry_run):
            found.append(job.id)
    return found


def _scrub(job: Job, erasing: Erasing, *, dry_run: bool) -> bool:
    report, progress, error = (scrubbed(each, erasing) for each in (job.report, job.progress, job.error))
    if (report, progress, error) == (job.report, job.progress, job.error):
        return False
    if not dry_run:
        job.report, job.progress, job.error = report, progress, error
    return True


def _empty(session: Session, edits: Sequence[Edit], traces: _Traces) -> None:
    session.flush()
    texts = {text for edit in edits for text in (edit.prompt, *edit.rephrases)}
    repository.forget_answers(session, sorted(texts))
    repository.empty_clusters(session, [cluster for cluster, _, _ in traces.clusters])
    repository.empty_points(session, traces.point_ids)
    repository.empty_blocks(session, traces.block_ids)
    repository.empty_edits(session, [edit.id for edit in edits])


def _record(session: Session, edit: Edit, traces: _Traces, actor: Actor, reason: str) -> None:
    points = traces.points.get(edit.id, [])
    own = {point for point, _ in points}
    audit.record(
        session,
        EditErase(
            batch=edit.batch_id,
            blocks=[sha256 for _, sha256 in traces.blocks.get(edit.id, [])],
            points=[sha256_hex(float32_bytes(key)) for _, key in points],
            clusters=[digest for _, digest, members in traces.clusters if own.intersection(members)],
        ),
        actor,
        f"edit/{edit.id}",
        collection_id=edit.collection_id,
        before=edit.digest,
        reason=reason,
    )
