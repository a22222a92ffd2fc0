"""A preflight: what an approver should know of a batch before deciding on it. No version comes of it."""

from collections.abc import Mapping, Sequence
from functools import partial

import structlog
import torch
from torch import Tensor

from melo_core.base_model import BaseModel
from melo_core.edited_model import Route
from melo_core.errors import MeloError
from melo_core.settings import MethodSettings
from registry.base.vocabulary import PointRole, Preflight
from registry.edits import repository as edit_rows
from registry.edits.validation import same_target
from registry.jobs.budget import steps_of
from registry.jobs.claiming import Claim, ClaimedEdit
from registry.jobs.preflights import Tried, remedies
from registry.jobs.schemas import EditPreflight, EditReport, NearEdit
from registry.versions import repository as version_queries
from registry.versions.candidates import finish_preflight
from registry.versions.content import VersionContent
from registry.versions.nearest import active_points, nearest_active
from registry.versions.training_result import TrainingResult
from worker.candidate import CollectionScope, candidate
from worker.evaluation import ASKED_TOGETHER, applied, reports_of, require_askable, route_of, serving
from worker.fault_points import FaultPoint
from worker.metrics import Outcome
from worker.reuse import reused
from worker.reviewing import Theirs, warnings_and_distances
from worker.scoping import fixed_scope_of, stored_blocks
from worker.training import train_edits
from worker.trial import try_near_misses
from worker.watch import Watch, Worker

log = structlog.get_logger()

NEAR = 5  # nearest edits reported from the collection, and the most from the same batch
ANSWER_TOKENS = 32  # of the model's current answer
DISTANCES = 5_000_000  # distances between keys, in one statement or product

Keys = Mapping[int, Sequence[tuple[PointRole, Tensor]]]  # by edit id


def run_preflight(worker: Worker, claim: Claim, watch: Watch) -> None:
    """Ask the newest version, find near edits, train the blocks where the policy says so, try near misses; write it
    down."""
    settings = MethodSettings.from_json(claim.settings)
    trains = claim.preflight is Preflight.TRAIN and _may_train(claim, watch)
    with watch.stage("load"):
        base = worker.base(claim, watch.converting)
        require_askable(base, claim.edits)
    worker.at(FaultPoint.LOADED)
    with watch.stage("scope"):
        scope = fixed_scope_of(worker, claim, settings, watch)
        keys = scope.keys_of(claim.edits)
    worker.at(FaultPoint.SCOPED)
    with watch.stage("near"):
        near, theirs = _near(worker, claim, scope, keys, watch)
    content = _newest(worker, claim)
    with watch.stage("review"):
        warned, distances = warnings_and_distances(worker, claim, scope, content, keys, theirs, watch)
    with watch.stage("ask"):
        now = _answers_now(worker, claim, base, settings, scope, content, watch)
    result, reports = _trained(worker, claim, base, settings, scope, content, keys, watch) if trains else (None, {})
    with watch.stage("near misses"):
        after = applied(content, result, claim.edits) if result else None
        blocks = partial(stored_blocks, worker)
        misses = try_near_misses(base, scope, claim.edits, claim.seed, content, after, keys, blocks, watch)
    mine = {edit.id for edit in claim.edits}
    found = [
        EditPreflight(
            edit_id=edit.id,
            answer_now=now[edit.id][0],
            answered_by=now[edit.id][1],
            near=near[edit.id],
            replaced_distance=distances.get(edit.id),
            warnings=warned.get(edit.id, []),
            remedies=remedies(claim.batch_id, edit.id, near[edit.id], alone=len(claim.edits) == 1),
            trained=reports.get(edit.id),
            near_misses=misses.get(edit.id, []),
            left_alone=Tried.of(misses.get(edit.id, []), mine).share,
        )
        for edit in claim.edits
    ]
    worker.at(FaultPoint.EVALUATED)
    with watch.stage("finish"), worker.sessions.begin() as session:
        worker.at(FaultPoint.FINISHING)
        finish_preflight(
            session,
            claim,
            found,
            result,
            progress=watch.progress,
            timings=watch.timings,
            loss_curve=watch.thinned_curve(),
            peak_memory_bytes=worker.model_cache.peak_memory(),
        )
        worker.at(FaultPoint.WRITTEN)
    watch.outcome = Outcome.REPORTED
    worker.at(FaultPoint.FINISHED)
    worker.metrics.ended(claim.kind, Outcome.REPORTED)
    log.info("reported", edits=len(found), seconds=watch.timings)


def _may_train(claim: Claim, watch: Watch) -> bool:
    """Tell whether the training is within what nobody has approved may take; the batch's readers are told."""
    steps, most = steps_of(claim.settings), watch.budget.steps
    if steps > most:
        watch.note(
            f"the blocks are not trained before the approval: their settings ask for up to {_in_words(steps)} steps "
            f"each, and a preflight may take {most:,}"
        )
    return steps <= most


def _in_words(number: int) -> str:
    return f"{number:,}" if number < 10**12 else f"{number:.0e}"


def _newest(worker: Worker, claim: Claim) -> VersionContent:
    with worker.sessions() as session:
        latest = version_queries.latest(session, claim.collection_id)
        number = latest.number if latest else 0
        return version_queries.version_content(session, claim.collection_id, number, block_bytes=False)


def _near(
    worker: Worker, claim: Claim, scope: CollectionScope, keys: Keys, watch: Watch
) -> tuple[dict[int, list[NearEdit]], dict[int, list[list[Theirs]]]]:
    """Find the edits near each of the batch's: active ones of the newest version, and others of the batch in reach.

    Also returns, by edit, what lies nearest each of its rephrases.
    """
    owners = [edit.id for edit in claim.edits for _ in keys[edit.id]]
    all_keys = torch.stack([key for edit in claim.edits for _, key in keys[edit.id]])  # (n, d)
    by_key = _standing(worker, claim, all_keys, watch)
    standing = _least(owners, by_key)
    reach = scope.reach
    of_batch = _together(owners, all_keys, reach, watch)
    together = _least(owners, of_batch)
    others = {edit_id for found in (*standing.values(), *together.values()) for edit_id in found}
    with worker.sessions() as session:
        told = {edit.id: edit for edit in edit_rows.by_ids(session, others)}
    mine = {edit.id for edit in claim.edits}

    def near(edit: ClaimedEdit, found: Mapping[int, float]) -> list[NearEdit]:
        return [
            NearEdit(
                edit_id=other,
                prompt=told[other].prompt,
                target=told[other].target,
                distance=round(away, 6),
                inside=away <= reach and scope.same_question(told[other].prompt, edit.prompt),
                same_target=same_target(edit.target, told[other].target),
                in_batch=other in mine,
                replaced=other == edit.replaces,
            )
            for other, away in sorted(found.items(), key=lambda item: (item[1], item[0]))[:NEAR]
        ]

    found = {
        edit.id: sorted(
            near(edit, standing.get(edit.id, {})) + near(edit, together.get(edit.id, {})), key=lambda n: n.distance
        )
        for edit in claim.edits
    }
    theirs: dict[int, list[list[Theirs]]] = {}
    for owner, *of_key in zip(owners, by_key, of_batch, strict=True):
        nearest = [Theirs(other, told[other].prompt, away) for each in of_key for other, away in each if away <= reach]
        theirs.setdefault(owner, []).append(nearest)
    return found, theirs


def _standing(worker: Worker, claim: Claim, keys: Tensor, watch: Watch) -> list[list[tuple[int, float]]]:
    """Return, for each key (n, d), the nearest edits that are active in the newest version."""
    found: list[list[tuple[int, float]]] = []
    with worker.sessions() as session:
        at_once = max(1, DISTANCES // max(1, active_points(session, claim.collection_id)))
        for part in torch.split(keys, at_once):
            found += nearest_active(session, claim.collection_id, part.tolist(), NEAR)
            watch.count(len(found), len(keys))
    return found


def _together(owners: Sequence[int], keys: Tensor, radius: float, watch: Watch) -> list[list[tuple[int, float]]]:
    """Return, for each key (n, d), the keys of other edits of the batch within the radius."""
    found: list[list[tuple[int, float]]] = []
    owner = torch.tensor(owners)
    for part in torch.split(keys, max(1, DISTANCES // len(keys))):
        watch.may_go_on()
        distances = torch.cdist(part, keys, compute_mode="donot_use_mm_for_euclid_dist")  # (k, n)
        own = owner[len(found) : len(found) + len(part), None] == owner[None]
        nearest = distances.masked_fill(own, torch.inf).topk(min(NEAR, len(keys)), largest=False)
        for row in range(len(part)):
            pairs = zip(nearest.indices[row].tolist(), nearest.values[row].tolist(), strict=True)
            found.append([(owners[i], away) for i, away in pairs if away <= radius])
    return found


def _least(owners: Sequence[int], found: Sequence[Sequence[tuple[int, float]]]) -> dict[int, dict[int, float]]:
    """Return, by edit, the other edits found near one of its keys, each at its smallest distance."""
    least: dict[int, dict[int, float]] = {}
    for owner, near in zip(owners, found, strict=True):
        of_owner = least.setdefault(owner, {})
        for other, away in near:
            of_owner[other] = min(away, of_owner.get(other, away))
    return least


def _answers_now(
    worker: Worker,
    claim: Claim,
    base: BaseModel,
    settings: MethodSettings,
    scope: CollectionScope,
    content: VersionContent,
    watch: Watch,
) -> dict[int, tuple[str, int | None]]:
    """Return the newest version's answer to each prompt, and the edit that gives it. Raises MeloError."""
    router = scope.of(content)
    answers: dict[int, tuple[str, int | None]] = {}
    for kind in sorted({edit.kind for edit in claim.edits}):
        of_kind = [edit for edit in claim.edits if edit.kind == kind]
        for start in range(0, len(of_kind), ASKED_TOGETHER):
            part = of_kind[start : start + ASKED_TOGETHER]
            routes = [route_of(router, content, edit.prompt, kind) for edit in part]
            texts = _said(worker, base, settings, content, part, routes)
            for edit, route, said in zip(part, routes, texts, strict=True):
                match = route.match if route.block is not None else None
                answers[edit.id] = said, content.points[match.point].edit_id if match else None
            watch.count(len(answers), len(claim.edits))
    return answers


def _said(
    worker: Worker,
    base: BaseModel,
    settings: MethodSettings,
    content: VersionContent,
    edits: Sequence[ClaimedEdit],
    routes: Sequence[Route],
) -> list[str]:
    blocks = stored_blocks(worker, {route.block for route in routes if route.block is not None})
    model = serving(base, settings, blocks, content)
    longest = 0
    for edit in edits:
        try:
            longest = max(longest, len(base.prompt_ids(edit.prompt, edit.kind)))
        except MeloError as error:
            raise type(error)(f"edit {edit.id}: {error}") from error
    room = max(1, min(ANSWER_TOKENS, base.window - longest))
    prompts = [edit.prompt for edit in edits]
    return [answer.text for answer in model.answer(prompts, routes, edits[0].kind, room)]


def _trained(
    worker: Worker,
    claim: Claim,
    base: BaseModel,
    settings: MethodSettings,
    scope: CollectionScope,
    content: VersionContent,
    keys: Keys,
    watch: Watch,
) -> tuple[TrainingResult, dict[int, EditReport]]:
    """Train the blocks, or reuse them, and report on each edit as if they were applied to the newest version."""
    with watch.stage("train"):
        kept = reused(worker, claim, base).edits  # edits that only get more guards
        missing = [edit for edit in claim.edits if edit.id not in kept]
        new = train_edits(base, settings, missing, watch.trained, watch.note) if missing else []
        done = {each.edit.id: each for each in new} | dict(kept)
        trained = [done[edit.id] for edit in claim.edits]
    worker.at(FaultPoint.TRAINED)
    worker.metrics.trained(claim.kind, len(new))
    with watch.stage("evaluate"):
        result = candidate(content, scope, trained, keys)
        reports = reports_of(base, scope, trained, content, result, partial(stored_blocks, worker), watch.count)
    return result, {report.edit_id: report for report in reports}
