"""The queue: priorities, deadlines, settings of a batch's own; cancelled batches; collections that pause or drain.

Revision ID: 0009
Revises: 0008
"""

import json

from alembic import op
from sqlalchemy import text

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

TABLES = r"""
ALTER TABLE collections ADD COLUMN queue text NOT NULL DEFAULT 'open'
    CONSTRAINT collections_queue_check CHECK (queue IN ('open', 'paused', 'draining'));

ALTER TABLE batches
    ADD COLUMN priority text NOT NULL DEFAULT 'normal'
        CONSTRAINT batches_priority_check CHECK (priority IN ('low', 'normal', 'high')),
    ADD COLUMN deadline timestamptz,
    ADD COLUMN training jsonb NOT NULL DEFAULT '{}'
        CONSTRAINT batches_training_check CHECK (jsonb_typeof(training) = 'object'),
    DROP CONSTRAINT batches_state_check,
    ADD CONSTRAINT batches_state_check
        CHECK (state IN ('submitted', 'approved', 'rejected', 'training', 'applied', 'failed', 'cancelled'));

ALTER TABLE jobs
    -- Which edits were trained in one go, in their order, also those of other jobs: what gives the same bytes again.
    ADD COLUMN lessons bigint[],
    -- After a failure that may pass, the job waits until then.
    ADD COLUMN not_before timestamptz;
-- The order in which a collection's batches are trained and applied is looked up at every claim.
CREATE INDEX jobs_live_idx ON jobs (collection_id, id) WHERE state IN ('queued', 'running');
"""

GUARDS = r"""
CREATE OR REPLACE FUNCTION melo_keep_batch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.id, NEW.collection_id, NEW.submitted_by, NEW.submitted_at, NEW.edit_count, NEW.edits_digest{more_new})
       IS DISTINCT FROM
       (OLD.id, OLD.collection_id, OLD.submitted_by, OLD.submitted_at, OLD.edit_count, OLD.edits_digest{more_old})
       OR OLD.state IN ('rejected', 'applied') THEN
        RAISE EXCEPTION 'UPDATE on batches is refused: what was submitted, and how it ended, stays'
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
"""

# A record that was taken down to 0008 comes up again with events of what that schema could not hold.
CANCELLED_AGAIN = """
UPDATE batches b SET state = 'cancelled'
    WHERE b.state = 'failed' AND 'collection:batch:cancel' = (
        SELECT e.action FROM audit_events e
        WHERE e.subject = 'batch/' || b.id
            AND e.action IN ('collection:batch:approve', 'collection:batch:reject', 'collection:batch:train',
                'collection:batch:return', 'collection:batch:fail', 'collection:batch:cancel')
            AND (e.action <> 'collection:batch:approve' OR jsonb_exists(e.details, 'job'))
        ORDER BY e.seq DESC LIMIT 1)
"""
QUEUES_AGAIN = """
UPDATE collections c SET queue = last.details ->> 'after'
    FROM (SELECT DISTINCT ON (collection_id) collection_id, details FROM audit_events
        WHERE action IN ('collection:queue:open', 'collection:queue:pause', 'collection:queue:drain')
        ORDER BY collection_id, seq DESC) last
    WHERE last.collection_id = c.id
"""
TOLD = """
SELECT b.id, coalesce(e.details ->> 'priority', 'normal'), e.details ->> 'deadline', e.details -> 'training'
    FROM audit_events e JOIN batches b ON e.subject = 'batch/' || b.id
    WHERE e.action = 'collection:batch:submit' AND jsonb_exists_any(e.details, '{priority,deadline,training}')
"""
GIVEN_AGAIN = """
UPDATE batches SET priority = :p, deadline = cast(:d AS timestamptz), training = cast(:t AS jsonb) WHERE id = :id
"""

# In melo_may_approve and melo_approved_batch: from which states a batch is decided on.
DECIDABLE_BEFORE = "('submitted', 'failed')"
DECIDABLE = "('submitted', 'failed', 'cancelled')"


def upgrade() -> None:
    op.execute(TABLES)
    more = ("priority", "deadline", "training")
    op.execute(
        GUARDS.format(
            more_new="".join(f", NEW.{name}" for name in more), more_old="".join(f", OLD.{name}" for name in more)
        )
    )
    _decided_from(DECIDABLE_BEFORE, DECIDABLE)
    _tell_again()


def downgrade() -> None:
    """A cancelled batch is one that failed: it may be approved again. Its event stays, which the program of 0008 does
    not know: its `audit verify` says so."""
    _decided_from(DECIDABLE, DECIDABLE_BEFORE)
    op.execute(GUARDS.format(more_new="", more_old=""))
    op.execute(
        """
        UPDATE batches SET state = 'failed' WHERE state = 'cancelled';
        DROP INDEX jobs_live_idx;
        ALTER TABLE jobs DROP COLUMN lessons, DROP COLUMN not_before;
        ALTER TABLE batches DROP COLUMN priority, DROP COLUMN deadline, DROP COLUMN training,
            DROP CONSTRAINT batches_state_check,
            ADD CONSTRAINT batches_state_check
                CHECK (state IN ('submitted', 'approved', 'rejected', 'training', 'applied', 'failed'));
        ALTER TABLE collections DROP COLUMN queue;
        """
    )


def _tell_again() -> None:
    op.execute(CANCELLED_AGAIN)
    op.execute(QUEUES_AGAIN)
    op.execute("ALTER TABLE batches DISABLE TRIGGER keep")
    connection = op.get_bind()
    for batch_id, priority, deadline, training in connection.execute(text(TOLD)).all():
        # An event has a setting's fraction by its bits.
        plain = {name: _fraction(value) for name, value in (training or {}).items()}
        connection.execute(
            text(GIVEN_AGAIN),
            {"id": batch_id, "p": priority, "d": deadline, "t": json.dumps(plain)},
        )
    op.execute("ALTER TABLE batches ENABLE TRIGGER keep")


def _fraction(value: object) -> object:
    return float.fromhex(value) if isinstance(value, str) and "0x" in value else value


def _decided_from(before: str, after: str) -> None:
    """Two functions of revision 0004, with other states in the place of those there."""
    for name in ("melo_may_approve", "melo_approved_batch"):
        op.execute(
            f"""
            DO $do$
            DECLARE text text := pg_get_functiondef('{name}'::regproc);
            BEGIN
                IF strpos(text, $was${before}$was$) = 0 THEN
                    RAISE EXCEPTION 'the function {name} is not as revision 0004 made it';
                END IF;
                EXECUTE replace(text, $was${before}$was$, $new${after}$new$);
            END $do$
            """
        )
