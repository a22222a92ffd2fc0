"""Single blocks by digest, for programs that apply versions without access to the database."""

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.orm import Session

from registry.base.digests import sha256_hex
from registry.base.errors import DigestMismatch, Erased, NotFound
from registry.tables.versions import Block, Cluster, Point


def read(session: Session, sha256: str, visible: frozenset[int] | None) -> bytes:
    """Return the bytes (safetensors) of the block with this digest, verified against it.

    visible: the collections that the caller may see, or None for all. Raises NotFound, in the same words for a block
    that no version has and one that only versions in other collections have; Erased; DigestMismatch.
    """
    in_a_version = (
        select(Point.id)
        .join(Cluster, Cluster.members.contains(array([Point.id])))
        .where(Point.block_id == Block.id, Cluster.collection_id == Block.collection_id)
    )
    query = select(Block.id, Block.data, Block.erased_at).where(Block.sha256 == sha256, in_a_version.exists())
    if visible is not None:
        query = query.where(Block.collection_id.in_(visible))
    # The same bytes may be stored for several edits, of which one was erased.
    found = session.execute(query.order_by(Block.erased_at.nulls_first(), Block.id).limit(1)).one_or_none()
    if found is None:
        raise NotFound(f"No version that you may see has a block {sha256}.", "Check the digest, and the key's roles.")
    if found.erased_at is not None:
        raise Erased(f"The content of block {sha256} was erased.", "Ask a version without it: no copy was kept.")
    data = bytes(found.data)
    if sha256_hex(data) != sha256:
        raise DigestMismatch(
            f"Block {found.id} is not what was written: its digest is not {sha256}.",
            "`melo audit verify` lists what else differs; restore it from a backup.",
        )
    return data
