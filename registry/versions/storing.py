"""Storing what a worker trained, and taking edits out of the index: what changes becomes a new state."""

import math
from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy.orm import Session

from registry.collections import repository as collections
from registry.collections.models import Calibration, Collection
from registry.digests import MemberContent, cluster_digest, float32_bytes, floats_of, sha256_hex
from registry.edits import repository as edits
from registry.errors import InvalidResult, StaleBase
from registry.jobs.service import Claim
from registry.versions import repository
from registry.versions.content import ClusterContent, PointContent
from registry.versions.models import Block, Point
from registry.versions.training_result import ClusterState, TrainingResult


def store_result(
    session: Session, collection: Collection, claim: Claim, result: TrainingResult, number: int
) -> list[int]:
    """Write everything that the new version consists of, but its own row. Returns the edits it replaced."""
    if result.base_version != number - 1:
        raise StaleBase(
            f"The index was built on version {result.base_version} of {collection.name}, which is at "
            f"{number - 1} by now.",
            "Build it again on the newest version; the trained blocks stay good.",
        )
    _store_calibration(session, collection, result)
    names = _store_points(session, collection, claim, result)
    replaced = _replaced(session, claim)
    gone = repository.points_of_edits(session, replaced)
    clusters = [kept for state in result.clusters if (kept := _settled(state, names, gone))]
    active = set(repository.active_edit_ids(session, collection.id, number - 1)) - set(replaced)
    active.update(edit.id for edit in claim.edits)
    _store_clusters(session, collection, clusters, active, number)
    repository.close_activations(session, replaced, number)
    prompt_keys = {edit.id: edit.prompt_key for edit in edits.of_batch(session, claim.batch_id)}
    repository.open_activations(
        session,
        [
            {
                "collection_id": collection.id,
                "edit_id": edit.id,
                "prompt_key": prompt_keys[edit.id],
                "valid": repository.open_from(number),
            }
            for edit in claim.edits
        ],
    )
    return replaced


def retire_points(session: Session, collection: Collection, edit_ids: Sequence[int], number: int) -> None:
    """Take edits out of the newest version's clusters; centres and radii stay, so no other scope moves."""
    gone = repository.points_of_edits(session, edit_ids)
    touched = repository.open_clusters_with(session, collection.id, sorted(gone))
    repository.close_clusters(session, collection.id, [cluster.cluster_no for cluster in touched], number)
    left = [
        replace(cluster, members=members)
        for cluster in touched
        if (members := tuple(point for point in cluster.members if point not in gone))
    ]
    _open(session, collection, left, number)


def _replaced(session: Session, claim: Claim) -> list[int]:
    """The active edits whose place the batch's edits take.

    Raises InvalidResult where another edit, not replaced, is active for one of the batch's prompts.
    """
    named = {edit.replaces for edit in claim.edits if edit.replaces is not None}
    standing = edits.standing_by_id(session, claim.collection_id, named)
    replaced = sorted(edit.id for edit in standing if edit.active_since is not None)
    mine = {edit.prompt_key: edit.id for edit in edits.of_batch(session, claim.batch_id)}
    for other in edits.standing_by_key(session, claim.collection_id, mine, pending=()):
        if other.id not in replaced:
            raise InvalidResult(
                f"Edit {mine[other.prompt_key]} cannot be applied: for the prompt {other.prompt!r}, edit {other.id} "
                f"with the target {other.target!r} is active since version {other.active_since}.",
                f"Submit it again with replaces={other.id}, or retire edit {other.id} first.",
            )
    return replaced


def _store_calibration(session: Session, collection: Collection, result: TrainingResult) -> None:
    """Encoder and whitening belong to every version: the first job fixes them, later ones must agree."""
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
            f"The calibration of {collection.name} is fixed already, and differs from the one handed in.",
            "Use the stored one: it is part of every version.",
        )


def _store_points(session: Session, collection: Collection, claim: Claim, result: TrainingResult) -> dict[str, int]:
    """Write blocks and points; returns the ids of the points by their names."""
    trained = {edit.id for edit in claim.edits}
    named = {point.edit_id for point in result.points}.union(*(block.edit_ids for block in result.blocks))
    if foreign := sorted(named - trained):
        raise InvalidResult(
            f"Blocks or points are for edits {foreign}, which are not in batch {claim.batch_id}.",
            "This is a defect of the worker: report it.",
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
    blocks = {block.name: block_id for block, block_id in zip(result.blocks, block_ids, strict=True)}
    repository.insert_block_edits(
        session,
        [
            {"block_id": blocks[block.name], "edit_id": edit_id}
            for block in result.blocks
            for edit_id in sorted(set(block.edit_ids))
        ],
    )
    unknown = sorted({point.block for point in result.points} - blocks.keys())
    if unknown or len(blocks) != len(result.blocks):
        raise InvalidResult(
            f"Points lead to blocks that are not there or not unique: {unknown}.",
            "This is a defect of the worker: report it.",
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
            }
            for point in result.points
        ],
    )
    return {point.name: point_id for point, point_id in zip(result.points, point_ids, strict=True)}


def _settled(state: ClusterState, names: dict[str, int], gone: set[int]) -> ClusterContent | None:
    """A state with ids for names, as float32, without points of replaced edits; None: nothing is left of it."""
    members = []
    for member in state.members:
        if isinstance(member, str):
            if member not in names:
                raise InvalidResult(
                    f"A cluster has a member {member!r}, which is none of the new points.",
                    "This is a defect of the worker: report it.",
                )
            members.append(names[member])
        elif member not in gone:
            members.append(member)
    if not members:
        return None
    if not math.isfinite(state.radius) or state.radius < 0 or not all(map(math.isfinite, state.centre)):
        raise InvalidResult(
            f"A cluster's centre or radius ({state.radius}) is not a finite number.",
            "Look at the training's losses: it diverged, or the encoder gave no proper keys.",
        )
    return ClusterContent(
        cluster_no=state.cluster_no if state.cluster_no is not None else -1,
        centre=tuple(floats_of(float32_bytes(state.centre))),
        radius=float(state.radius),
        label=tuple(int(token) for token in state.label),
        members=tuple(members),
        digest="",
    )


def _store_clusters(
    session: Session, collection: Collection, clusters: Sequence[ClusterContent], active: set[int], number: int
) -> None:
    """Close the states that are gone or changed, and open what is new or changed."""
    present = {cluster.cluster_no: cluster for cluster in repository.clusters_in(session, collection.id, number - 1)}
    given = {cluster.cluster_no: cluster for cluster in clusters if cluster.cluster_no != -1}
    if unknown := sorted(given.keys() - present.keys()):
        raise InvalidResult(
            f"Clusters {unknown} are not in version {number - 1} of {collection.name}.",
            "This is a defect of the worker: report it.",
        )
    seen: set[int] = set()
    for cluster in clusters:
        if twice := seen.intersection(cluster.members):
            raise InvalidResult(
                f"Points {sorted(twice)} are in more than one cluster.",
                "This is a defect of the worker: report it.",
            )
        seen.update(cluster.members)
    same = {no for no, cluster in given.items() if replace(cluster, digest=present[no].digest) == present[no]}
    repository.close_clusters(session, collection.id, present.keys() - same, number)
    _open(session, collection, [each for each in clusters if each.cluster_no not in same], number, active)


def _open(
    session: Session,
    collection: Collection,
    clusters: Sequence[ClusterContent],
    number: int,
    active: set[int] | None = None,
) -> None:
    """Write new states with their digests. active: the edits whose points may be members."""
    points = repository.points_by_ids(session, {point for cluster in clusters for point in cluster.members})
    blocks = repository.blocks_by_ids(session, {point.block_id for point in points.values()}, with_bytes=False)
    edit_digests = {
        edit.id: edit.digest
        for edit in edits.by_ids(session, {point.edit_id for point in points.values()})
        if edit.collection_id == collection.id and (active is None or edit.id in active)
    }

    def member(point: PointContent) -> MemberContent:
        return MemberContent(point.key_bytes, edit_digests[point.edit_id], point.role, blocks[point.block_id].sha256)

    rows = []
    for cluster in clusters:
        strangers = [
            point for point in cluster.members if point not in points or points[point].edit_id not in edit_digests
        ]
        if strangers:
            raise InvalidResult(
                f"Points {strangers} cannot be in version {number} of {collection.name}: they are not stored, or "
                "their edits are not active in it.",
                "This is a defect of the worker: report it.",
            )
        row = {
            "collection_id": collection.id,
            "centre": list(cluster.centre),
            "radius": cluster.radius,
            "label": list(cluster.label),
            "members": list(cluster.members),
            "digest": cluster_digest(
                centre=cluster.centre_bytes,
                radius=cluster.radius,
                label=cluster.label,
                members=(member(points[point]) for point in cluster.members),
            ),
            "valid": repository.open_from(number),
        }
        if cluster.cluster_no != -1:
            row["cluster_no"] = cluster.cluster_no
        rows.append(row)
    repository.open_clusters(session, rows)
