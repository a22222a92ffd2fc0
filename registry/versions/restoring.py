"""Making an older version's content current again, by what differs."""

from sqlalchemy import text
from sqlalchemy.orm import Session

# A state is the same if it is of the same cluster and has the same digest. Closing comes first: the partial unique
# indexes allow one open state of a cluster, and one active edit for a prompt.
_OF_COLLECTION = "int8range(collection_id, collection_id, '[]') = int8range(:collection_id, :collection_id, '[]')"

_CLOSE_CLUSTERS = f"""
UPDATE clusters SET valid = int4range(lower(valid), :number)
WHERE collection_id = :collection_id AND upper_inf(valid)
  AND (cluster_no, digest) NOT IN (
    SELECT cluster_no, digest FROM clusters WHERE {_OF_COLLECTION} AND valid @> CAST(:source AS integer))
"""

_OPEN_CLUSTERS = f"""
INSERT INTO clusters (collection_id, cluster_no, centre, radius, label, members, digest, valid)
SELECT collection_id, cluster_no, centre, radius, label, members, digest, int4range(:number, NULL)
FROM clusters
WHERE {_OF_COLLECTION} AND valid @> CAST(:source AS integer)
  AND cluster_no NOT IN (
    SELECT cluster_no FROM clusters WHERE collection_id = :collection_id AND upper_inf(valid))
ORDER BY cluster_no
"""

_CLOSE_ACTIVATIONS = f"""
UPDATE activations SET valid = int4range(lower(valid), :number)
WHERE collection_id = :collection_id AND upper_inf(valid)
  AND edit_id NOT IN (
    SELECT edit_id FROM activations WHERE {_OF_COLLECTION} AND valid @> CAST(:source AS integer))
"""

_OPEN_ACTIVATIONS = f"""
INSERT INTO activations (collection_id, edit_id, prompt_key, valid)
SELECT collection_id, edit_id, prompt_key, int4range(:number, NULL)
FROM activations
WHERE {_OF_COLLECTION} AND valid @> CAST(:source AS integer)
  AND edit_id NOT IN (
    SELECT edit_id FROM activations WHERE collection_id = :collection_id AND upper_inf(valid))
ORDER BY edit_id
"""


def restore(session: Session, collection_id: int, *, source: int, number: int) -> None:
    """Close what version `source` does not have, open what it has and the newest version has not."""
    facts = {"collection_id": collection_id, "source": source, "number": number}
    for statement in (_CLOSE_CLUSTERS, _OPEN_CLUSTERS, _CLOSE_ACTIVATIONS, _OPEN_ACTIVATIONS):
        session.execute(text(statement), facts)
