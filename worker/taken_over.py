"""What a training takes over from its batch's check: blocks and points that are stored, and in no version yet."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from melo_core.base_model import BaseModel
from melo_core.training import Trained
from registry.jobs.candidates import Candidate, candidates
from registry.jobs.schemas import EditReport
from registry.jobs.service import Claim, ClaimedEdit
from registry.versions.content import VersionContent
from worker.loader import read_block
from worker.training import TrainedEdit
from worker.watch import Worker


@dataclass(frozen=True)
class TakenOver:
    edits: Mapping[int, TrainedEdit]  # by the edit's id
    stored: tuple[Candidate, ...]

    def beside(self, content: VersionContent) -> VersionContent:
        """The version's content, with the stored blocks and points at hand. They are in none of its clusters."""
        return replace(
            content,
            points=content.points | {point.id: point for each in self.stored for point in each.points},
            blocks=content.blocks | {each.block.id: replace(each.block, data=None) for each in self.stored},
        )


def taken_over(worker: Worker, claim: Claim, base: BaseModel) -> TakenOver:
    """Raises DigestMismatch where a block is not what the check stored."""
    with worker.sessions() as session:
        stored = tuple(candidates(session, claim))
    edits = {edit.id: edit for edit in claim.edits}
    taken = {
        edit_id: _as_trained(-each.block.id, each, edits[edit_id], report, base)
        for each in stored
        for edit_id, report in each.reports.items()
    }
    return TakenOver(taken, stored)


def _as_trained(
    group: int, candidate: Candidate, edit: ClaimedEdit, report: EditReport, base: BaseModel
) -> TrainedEdit:
    """group: a number that no block trained by this job has."""
    data = candidate.block.data or b""
    block = read_block(candidate.block.id, data, candidate.block.sha256)
    return TrainedEdit(
        group=group,
        label=tuple(base.target_ids(edit.target, edit.kind)),
        trained=Trained(block, candidate.loss, candidate.iterations, report.reached),
        data=data,
        answer=edit.target.strip() if report.answer is None else report.answer,
        reproduced=report.reproduced,
        edit=edit,
        points=tuple(point for point in candidate.points if point.edit_id == edit.id),
    )
