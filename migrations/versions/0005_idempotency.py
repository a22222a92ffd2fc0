"""Answers kept, so that a request sent twice has one effect.

Revision ID: 0005
Revises: 0004
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# No part of the record: an answer is deleted when it is a day old. It is never changed, though: a key stands for one
# request and one answer.
TABLE = r"""
CREATE TABLE idempotency_keys (
    scope text NOT NULL,
    key text NOT NULL CONSTRAINT idempotency_keys_key_check CHECK (key ~ '^[\x20-\x7e]{1,255}$'),
    method text NOT NULL CONSTRAINT idempotency_keys_method_check
        CHECK (method IN ('POST', 'PUT', 'PATCH', 'DELETE')),
    path text NOT NULL,
    request_digest text NOT NULL
        CONSTRAINT idempotency_keys_request_digest_check CHECK (request_digest ~ '^[0-9a-f]{64}$'),
    status integer NOT NULL CONSTRAINT idempotency_keys_status_check CHECK (status BETWEEN 200 AND 399),
    headers jsonb NOT NULL,
    body bytea,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (scope, key)
);
CREATE INDEX idempotency_keys_created_at_idx ON idempotency_keys (created_at);
CREATE TRIGGER refuse BEFORE UPDATE ON idempotency_keys FOR EACH STATEMENT EXECUTE FUNCTION melo_refuse();
"""


def upgrade() -> None:
    op.execute(TABLE)


def downgrade() -> None:
    op.execute("DROP TABLE idempotency_keys")
