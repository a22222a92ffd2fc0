"""Reuse in a training: blocks and points that its batch's preflight stored, and in no version yet; and the blocks of
edits that get more guards.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from melo_core.base_model import BaseModel
from melo_core.training import Trained
from registry.jobs.claiming import Claim, ClaimedEdit
from registry.jobs.schemas import EditReport
from registry.versions.candidates import Candidate, KeptBlock, candidates, kept_blocks
from registry.versions.content import VersionContent
from worker.loader import read_block
from worker.training import TrainedEdit
from worker.watch import Worker


@dataclass(frozen=True)
class Reused:
    """Edits that need no further training."""

    edits: Mapping[int, TrainedEdit]  # by the edit's id
    kept: frozenset[int]  # those of them that keep the block of the edit that they replace
    stored: tuple[Candidate, ...]

    def beside(self, content: VersionContent) -> VersionContent:
        """Return the version's content with the stored blocks and points added, but in none of its clusters."""
        return replace(
            content,
            points=content.points | {point.id: point for each in self.stored for point in each.points},
            blocks=content.blocks | {each.block.id: replace(each.block, data=None) for each in self.stored},
        )


def reused(worker: Worker, claim: Claim, base: BaseModel) -> Reused:
    """Read what the preflight stored, and blocks that are kept. Raises DigestMismatch where one is not as stored."""
    with worker.sessions() as session:
        stored = tuple(candidates(session, claim))
        kept = kept_blocks(session, claim)
    edits = {edit.id: edit for edit in claim.edits}
    taken = {
        edit_id: _as_trained(-each.block.id, each, edits[edit_id], report, base)
        for each in stored
        for edit_id, report in each.reports.items()
    }
    going_on = {each.edit_id: _as_kept(each, edits[each.edit_id], base) for each in kept if each.edit_id not in taken}
    return Reused(taken | going_on, frozenset(going_on), stored)


def _as_kept(kept: KeptBlock, edit: ClaimedEdit, base: BaseModel) -> TrainedEdit:
    data = kept.block.data or b""
    block = read_block(kept.block.id, data, kept.block.sha256)
    return TrainedEdit(
        group=-kept.block.id,
        label=tuple(base.target_ids(edit.target, edit.kind, edit.prompt)),
        trained=Trained(block, kept.loss, kept.iterations, reached=True),
        data=data,
        answer=edit.target.strip(),
        reproduced=True,  # until it is asked, which its job does
        edit=edit,
        is_kept=True,
    )


def _as_trained(
    group: int, candidate: Candidate, edit: ClaimedEdit, report: EditReport, base: BaseModel
) -> TrainedEdit:
    """Return a stored candidate as a trained edit.

    group: a number that no block trained by this job has.
    """
    data = candidate.block.data or b""
    block = read_block(candidate.block.id, data, candidate.block.sha256)
    return TrainedEdit(
        group=group,
        label=tuple(base.target_ids(edit.target, edit.kind, edit.prompt)),
        trained=Trained(block, candidate.loss, candidate.iterations, report.reached),
        data=data,
        answer=edit.target.strip() if report.answer is None else report.answer,
        reproduced=report.reproduced,
        edit=edit,
        points=tuple(point for point in candidate.points if point.edit_id == edit.id),
    )
