"""Find the active edits whose points lie nearest to given keys."""

from collections.abc import Sequence

from pgvector.sqlalchemy import VECTOR
from sqlalchemy import ColumnElement, Double, Text, cast, func, literal, select, true
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from registry.tables.versions import Activation, Point
from registry.versions import repository as versions


def nearest_active(
    session: Session, collection_id: int, keys: Sequence[Sequence[float]], limit: int
) -> list[list[tuple[int, float]]]:
    """For each key, the edits that act in the newest version and lie nearest, with their distances, nearest first.

    Exact: the keys are compared with every active point, which are read once for all of `keys`.
    """
    newest = versions.latest(session, collection_id)
    active = (
        select(Point.edit_id, Point.key)
        .join(Activation, Activation.edit_id == Point.edit_id)
        .where(versions.in_state(Activation, collection_id, newest.content_version if newest else 0))
        .cte("active")
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )
    texts = literal([f"[{','.join(map(repr, key))}]" for key in keys], ARRAY(Text))
    given = func.unnest(texts).table_valued("key", with_ordinality="n", name="given").render_derived()
    # Materialised, so that a key is read from its text once, and not for every comparison.
    asked = (
        select(given.c.n, cast(given.c.key, VECTOR).label("key"))
        .cte("asked")
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )
    distance: ColumnElement[float] = func.min(active.c.key.op("<->", return_type=Double())(asked.c.key))
    near = (
        select(active.c.edit_id, distance.label("distance"))
        .group_by(active.c.edit_id)
        .order_by(distance, active.c.edit_id)
        .limit(limit)
        .lateral("near")
    )
    query = select(asked.c.n, near.c.edit_id, near.c.distance).join_from(asked, near, true())
    found: list[list[tuple[int, float]]] = [[] for _ in keys]
    for n, edit_id, away in session.execute(query.order_by(asked.c.n, near.c.distance, near.c.edit_id)):
        found[n - 1].append((edit_id, away))
    return found


def active_points(session: Session, collection_id: int) -> int:
    """How many points lead to the edits that act in the newest version."""
    newest = versions.latest(session, collection_id)
    active = versions.in_state(Activation, collection_id, newest.content_version if newest else 0)
    query = select(func.count()).select_from(Point).join(Activation, Activation.edit_id == Point.edit_id)
    return session.scalar(query.where(active)) or 0
