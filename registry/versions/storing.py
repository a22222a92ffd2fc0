"""Stores what a worker trained: its blocks and points, and the resulting states of clusters."""

import math
from collections import Counter
from collections.abc import Sequence

from sqlalchemy.orm import Session

from registry.base.digests import float32_bytes, float32s, sha256_hex
from registry.base.errors import InvalidResult
from registry.collections import repository as collections
from registry.edits import repository as edits
from registry.jobs.claiming import Claim
from registry.tables.collections import Calibration, Collection
from registry.tables.edits import Edit
from registry.tables.versions import Block, Point
from registry.versions import repository
from registry.versions.change import NEW, Change, without
from registry.versions.content import ClusterContent
from registry.versions.training_result import ClusterState, TrainingResult


def store_result(
    session: Session, collection: Collection, claim: Claim, result: TrainingResult, change: Change
) -> list[int]:
    """Write everything that makes up the new version, except its own row. Returns the edits it replaced."""
    _store_calibration(session, collection, result)
    ids = store_points(session, collection, claim, result)
    mine = edits.by_ids(session, [edit.id for edit in claim.edits])
    replaced = _replaced(session, claim, mine)
    change.deactivate(replaced)
    change.activate(mine)
    before, after = _clusters(session, change, result, ids, repository.points_of_edits(session, replaced))
    change.put_clusters(before, after)
    return replaced


def _replaced(session: Session, claim: Claim, mine: Sequence[Edit]) -> list[int]:
    """Return the active edits that the batch's edits replace.

    Raises InvalidResult if one of them is no longer active, or if another edit, not replaced, is active for one of the
    batch's prompts.
    """
    named = {edit.replaces for edit in mine if edit.replaces is not None}
    if lost := sorted(edits.not_replaceable(session, claim.collection_id, named)):
        raise InvalidResult(
            f"Edits of batch {claim.batch_id} replace edits {lost[:20]}, which do not act, or do not act yet.",
            f"Reject batch {claim.batch_id}, and submit it again for edits that are active (`melo edit list`).",
        )
    standing = edits.standing_by_id(session, claim.collection_id, named)
    replaced = sorted(edit.id for edit in standing if edit.active_since is not None)
    by_prompt = {edit.prompt_key: edit.id for edit in mine}
    for other in edits.standing_by_key(session, claim.collection_id, by_prompt, pending=()):
        if other.id not in replaced:
            raise InvalidResult(
                # No texts: this goes into the job's error, and an edit's content must stay erasable.
                f"Edit {by_prompt[other.prompt_key]} cannot be applied: for its prompt, edit {other.id} is active "
                f"since version {other.active_since}.",
                f"Submit it again with `replaces={other.id}`, or retire edit {other.id} first.",
            )
    return replaced


def _store_calibration(session: Session, collection: Collection, result: TrainingResult) -> None:
    """Store the encoder and the whitening, part of every version: the first job fixes them, later ones must agree."""
    if collection.encoder_digest is not None and result.encoder_digest not in (None, collection.encoder_digest):
        raise InvalidResult(
            f"The encoder {collection.encoder} of this worker has the digest {result.encoder_digest}, but the keys of "
            f"{collection.name} were made with {collection.encoder_digest}.",
            "Install the same encoder that the first worker used.",
        )
    stored = collections.calibration_sha256(session, collection.id)
    if result.base_version == 0:
        collection.encoder_digest = collection.encoder_digest or result.encoder_digest
    if result.base_version == 0 and stored is None:
        if result.calibration is not None:
            sha256 = sha256_hex(result.calibration)
            session.add(Calibration(collection_id=collection.id, data=result.calibration, sha256=sha256))
        session.flush()
    elif result.calibration is not None and sha256_hex(result.calibration) != stored:
        raise InvalidResult(
            f"The calibration of {collection.name} is already fixed, and differs from the given one.",
            "Use the stored one: it is part of every version.",
        )


def store_points(session: Session, collection: Collection, claim: Claim, result: TrainingResult) -> dict[int, int]:
    """Write blocks and points; return the ids of the points by their numbers."""
    trained = {edit.id for edit in claim.edits}
    named = {point.edit_id for point in result.points}.union(*(block.edit_ids for block in result.blocks))
    if foreign := sorted(named - trained):
        raise InvalidResult(
            f"Blocks or points are for edits {foreign}, which are not in batch {claim.batch_id}.",
            "This is a bug in the worker: report it.",
        )
    block_ids = repository.insert_returning_ids(
        session,
        Block,
        [
            {
                "collection_id": collection.id,
                "job_id": claim.job_id,
                "data": block.data,
                "sha256": sha256_hex(block.data),
                "shapes": block.shapes,
                "rank": block.rank,
                "scale": block.scale,
                "loss": block.loss,
                "iterations": block.iterations,
            }
            for block in result.blocks
        ],
    )
    blocks = {block.number: block_id for block, block_id in zip(result.blocks, block_ids, strict=True)}
    repository.insert_block_edits(
        session,
        [
            {"block_id": blocks[block.number], "edit_id": edit_id}
            for block in result.blocks
            for edit_id in sorted(set(block.edit_ids))
        ],
    )
    unknown = sorted({point.block for point in result.points} - blocks.keys())
    if unknown or len(blocks) != len(result.blocks):
        raise InvalidResult(
            f"Points lead to blocks that are not there or not unique: {unknown}.",
            "This is a bug in the worker: report it.",
        )
    point_ids = repository.insert_returning_ids(
        session,
        Point,
        [
            {
                "collection_id": collection.id,
                "edit_id": point.edit_id,
                "block_id": blocks[point.block],
                "role": str(point.role),
                "key": list(point.key),
                "key_sha256": sha256_hex(float32_bytes(point.key)),
            }
            for point in result.points
        ],
    )
    return {point.number: point_id for point, point_id in zip(result.points, point_ids, strict=True)}


def _settled(state: ClusterState, ids: dict[int, int], gone: set[int]) -> ClusterContent | None:
    """Return a state with ids for numbers, as float32, without points of replaced edits; None if no points are left."""
    members = []
    for member in state.members:
        if member < 0:
            if member not in ids:
                raise InvalidResult(
                    f"A cluster has a member {member}, which is not among the new points.",
                    "This is a bug in the worker: report it.",
                )
            members.append(ids[member])
        elif member not in gone:
            members.append(member)
    if not members:
        return None
    if not math.isfinite(state.radius) or state.radius < 0 or not all(map(math.isfinite, state.centre)):
        raise InvalidResult(
            f"A cluster's centre or radius ({state.radius}) is not a finite number.",
            "Check the losses: the training diverged, or the encoder returned invalid keys.",
        )
    return ClusterContent(
        cluster_no=state.cluster_no if state.cluster_no is not None else NEW,
        centre=float32s(state.centre),
        radius=float(state.radius),
        label=tuple(int(token) for token in state.label),
        members=tuple(members),
        digest="",
    )


def _clusters(
    session: Session, change: Change, result: TrainingResult, ids: dict[int, int], gone: set[int]
) -> tuple[dict[int, ClusterContent], list[ClusterContent]]:
    """Return the states to close, by cluster number, and those that replace them.

    gone: points of replaced edits. They also leave the clusters that the worker did not name.
    """
    after = [kept for state in result.changed if (kept := _settled(state, ids, gone))]
    named = {state.cluster_no for state in result.changed if state.cluster_no is not None}.union(result.removed)
    before = repository.open_clusters(session, change.collection.id, named)
    if unknown := sorted(named - before.keys()):
        raise InvalidResult(
            f"Clusters {unknown} are not in version {change.number - 1} of {change.collection.name}.",
            "This is a bug in the worker: report it.",
        )
    members = Counter(point for cluster in after for point in cluster.members)
    stored = members.keys() - ids.values()
    touched = repository.open_clusters_with(session, change.collection.id, gone | stored)
    others = {number: cluster for number, cluster in touched.items() if number not in named}
    members.update(point for cluster in others.values() for point in cluster.members if point in stored)
    if twice := sorted(point for point, times in members.items() if times > 1):
        raise InvalidResult(f"Points {twice} are in more than one cluster.", "This is a bug in the worker: report it.")
    return before | others, [*after, *without(others.values(), gone)]
