"""Trainings of one collection in one go: several small batches together cost little more than one of them."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import structlog

from melo_core.base_model import BaseModel
from melo_core.errors import MeloError
from melo_core.settings import MethodSettings
from melo_core.training import Progress
from registry.jobs.claiming import Claim, ClaimedEdit
from worker.evaluation import require_askable
from worker.failures import STILL_TO_DO, answered_for, give_back
from worker.fault_points import FaultPoint
from worker.limits import OutOfTime
from worker.reuse import Reused, reused
from worker.scoping import encoder_of
from worker.training import TrainedEdit, train_edits
from worker.watch import Watch, Worker

log = structlog.get_logger()


class NobodyLeft(Exception):
    """All jobs of a group that was trained together have ended some other way."""


@dataclass
class Prepared:
    """A training whose model is loaded, and later its blocks."""

    watch: Watch
    settings: MethodSettings
    base: BaseModel
    taken: Reused
    missing: list[ClaimedEdit]  # those that the preflight has not trained already
    trained: dict[int, TrainedEdit] = field(default_factory=dict)  # by edit id, including reused ones
    trained_together: list[int] = field(default_factory=list)  # ids of the edits that were trained in one go, in order

    @property
    def claim(self) -> Claim:
        return self.watch.claim

    @property
    def is_left(self) -> bool:
        """Whether the job is still this worker's to do."""
        return self.watch.outcome is None


def prepare(worker: Worker, watch: Watch) -> Prepared:
    """Load what the training needs. Raises MeloError or RegistryError where something does not fit, before training."""
    claim = watch.claim
    settings = MethodSettings.from_json(claim.settings)
    with watch.stage("load"):
        base = worker.base(claim, watch.converting)
        require_askable(base, claim.edits)
        encoder_of(worker, claim, settings)  # refuses settings that do not fit the model before anything is trained
        taken = reused(worker, claim, base)
    if reusable := len(taken.edits) - len(taken.kept):
        watch.note(f"{reusable} of {len(claim.edits)} edits are taken over as the preflight trained them")
    if taken.kept:
        watch.note(
            f"{len(taken.kept)} of {len(claim.edits)} edits keep their blocks: what is trained of them is the same"
        )
    worker.at(FaultPoint.LOADED)
    missing = [edit for edit in claim.edits if edit.id not in taken.edits]
    return Prepared(watch, settings, base, taken, missing, trained=dict(taken.edits))


def train_all(worker: Worker, group: Sequence[Prepared]) -> None:
    """Train the group's edits in one go; if that fails, each job's separately, so that one cannot fail the others."""
    waiting = [each for each in group if each.missing]
    if len(waiting) > 1:
        waiting = _begun(worker, waiting)  # jobs cancelled while others were loaded must not end the group
    if len(waiting) > 1:
        try:
            _train(worker, waiting)
            return
        except NobodyLeft:
            return
        except Exception as error:
            why = type(error).__name__ if isinstance(error, MeloError) else f"{type(error).__name__}: {error}"
            log.warning("training together failed: each batch by itself", error=why)  # the method's quote edits
            for each in waiting:
                each.watch.anew()
            if isinstance(error, OutOfTime):
                for each in waiting[1:]:
                    if each.is_left:
                        give_back(worker, each.watch, "training it with others took too long")
    for each in waiting:
        if each.is_left:
            with answered_for(worker, each.watch):
                each.watch.begin("train")
                _train(worker, [each])
        if each.watch.outcome in STILL_TO_DO:
            return  # later jobs cannot be applied


def _begun(worker: Worker, group: Sequence[Prepared]) -> list[Prepared]:
    """Begin the training of each job. Returns those that are still to be trained and can be applied."""
    begun = list[Prepared]()
    for each in group:
        with answered_for(worker, each.watch):
            each.watch.begin("train")
            begun.append(each)
        if each.watch.outcome in STILL_TO_DO:
            break
    return begun


def _train(worker: Worker, group: Sequence[Prepared]) -> None:
    """Train the edits of a group whose jobs have all begun.

    For a group of several, raises NobodyLeft where all ended meanwhile (stopped, lost or cancelled), and OutOfTime
    where together they take longer than one job may.
    """
    edits = [edit for each in group for edit in each.missing]
    shares = [len(each.missing) / len(edits) for each in group]

    def show(progress: Progress) -> None:
        for each, share in zip(group, shares, strict=True):
            if len(group) == 1:
                each.watch.trained(progress)
            elif each.is_left:
                with answered_for(worker, each.watch):
                    each.watch.trained(progress, share)
        if not any(each.is_left for each in group):
            raise NobodyLeft
        if time.monotonic() - started > worker.job_seconds:
            raise group[0].watch.out_of_time()

    def note(text: str) -> None:
        for each in group:
            each.watch.note(text)

    started = time.monotonic()
    with ExitStack() as work:
        for each, share in zip(group, shares, strict=True):
            work.enter_context(each.watch.working(share))
        results = train_edits(group[0].base, group[0].settings, edits, show, note)
    seconds = time.monotonic() - started
    done = {each.edit.id: each for each in results}
    worker.at(FaultPoint.TRAINED)
    worker.metrics.trained(group[0].claim.kind, len(edits), len(group))
    for each, share in zip(group, shares, strict=True):
        each.watch.took("train", seconds * share)
        each.trained |= {edit.id: done[edit.id] for edit in each.missing}
        each.trained_together = [edit.id for edit in edits]
        if others := [str(other.claim.batch_id) for other in group if other is not each]:
            each.watch.note(f"trained together with batch {', '.join(others)}")
