"""What a job has to say about each of its edits, beside how it went as a whole.

Revision ID: 0002
Revises: 0001
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE jobs ADD COLUMN report jsonb")


def downgrade() -> None:
    op.execute("ALTER TABLE jobs DROP COLUMN report")
