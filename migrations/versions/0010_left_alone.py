"""The share of near misses that a batch has to leave alone to be approved.

Revision ID: 0010
Revises: 0009
"""

from alembic import op
from sqlalchemy import text

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# A record that was taken down to 0009 comes up again with events of what that schema could not hold. An event has a
# share by its bits.
TOLD = """
SELECT id, share FROM (
    SELECT DISTINCT ON (collection_id) collection_id AS id,
            coalesce(details -> 'after', details) ->> 'left_alone_needed' AS share
        FROM audit_events
        WHERE action IN ('registry:collection:create', 'collection:policy:change')
        ORDER BY collection_id, seq DESC) last
    WHERE share IS NOT NULL
"""


def upgrade() -> None:
    op.execute(
        """
        ALTER TABLE collections ADD COLUMN left_alone_needed double precision
            CONSTRAINT collections_left_alone_needed_check CHECK (left_alone_needed > 0 AND left_alone_needed <= 1)
        """
    )
    connection = op.get_bind()
    for id, share in connection.execute(text(TOLD)).all():
        connection.execute(
            text("UPDATE collections SET left_alone_needed = :share WHERE id = :id"),
            {"id": id, "share": float.fromhex(share)},
        )


def downgrade() -> None:
    op.execute("ALTER TABLE collections DROP COLUMN left_alone_needed")
