"""The encoder of a job's collection, with its whitening, and blocks that are stored already."""

from collections.abc import Collection
from dataclasses import replace

from melo_core.block import Block
from melo_core.encoder import KeyEncoder, Whitening
from melo_core.settings import MethodSettings
from registry.collections import service as collections
from registry.jobs.claiming import Claim
from registry.versions import repository as version_queries
from worker.candidate import CollectionScope
from worker.watch import Watch, Worker


def encoder_of(worker: Worker, claim: Claim, settings: MethodSettings) -> tuple[KeyEncoder, str]:
    with worker.sessions() as session:
        calibration = version_queries.collection_content(session, claim.collection_id).calibration
    return worker.model_cache.encoder_of(claim, settings, calibration)


def scope_of(worker: Worker, claim: Claim, settings: MethodSettings, watch: Watch) -> CollectionScope:
    """Return the collection's scope, with the whitening that its first job fits."""
    encoder, digest = encoder_of(worker, claim, settings)
    fitted = None
    if settings.whitened and encoder.whitening is None:
        fitted = worker.model_cache.fitted_whitening(encoder, digest, settings.whiten_epsilon, watch.count)
    verifier = worker.model_cache.verifier_of(settings, worker.base(claim).kind)
    return CollectionScope(settings, encoder, digest, verifier, fitted)


def fixed_scope_of(worker: Worker, claim: Claim, settings: MethodSettings, watch: Watch) -> CollectionScope:
    """Return the collection's scope, and record encoder and whitening at once: keys stay valid for later jobs."""
    scope = scope_of(worker, claim, settings, watch)
    with worker.sessions.begin() as session:
        calibration = collections.fix_keys(
            session, claim.collection_id, claim.actor, scope.encoder_digest, scope.new_calibration
        )
    if calibration is not None and calibration != scope.new_calibration:  # another worker recorded one first
        scope.encoder.whitening = Whitening.from_bytes(calibration)
    return replace(scope, new_calibration=None)


def stored_blocks(worker: Worker, block_ids: Collection[int]) -> dict[int, Block]:
    with worker.sessions() as session:
        found = version_queries.blocks_by_ids(session, block_ids, with_bytes=True)
    return {block.id: Block.from_bytes(block.data or b"") for block in found.values()}
