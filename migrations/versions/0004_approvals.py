"""Approvals by several, in part; checks before them; training before them.

Revision ID: 0004
Revises: 0003
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# Collections that are there already go on as they were: one approval, by anyone, and no check before it.
POLICY = r"""
ALTER TABLE collections
    ADD COLUMN approvals_needed integer NOT NULL DEFAULT 1
        CONSTRAINT collections_approvals_needed_check CHECK (approvals_needed BETWEEN 1 AND 10),
    ADD COLUMN approvers text[] NOT NULL DEFAULT '{}'
        CONSTRAINT collections_approvers_check
            CHECK (cardinality(approvers) = 0 OR cardinality(approvers) >= approvals_needed),
    ADD COLUMN checks text NOT NULL DEFAULT 'none'
        CONSTRAINT collections_checks_check CHECK (checks IN ('none', 'keys', 'train'));
ALTER TABLE collections ALTER COLUMN checks SET DEFAULT 'keys';

-- How many approvals the policy asked for when the batch was decided on.
ALTER TABLE batches ADD COLUMN approvals_needed integer
    CONSTRAINT batches_approvals_needed_check CHECK (approvals_needed BETWEEN 1 AND 10);
-- The guard keeps a batch that has ended as it is, but these have one fact too few.
ALTER TABLE batches DISABLE TRIGGER keep;
UPDATE batches SET approvals_needed = 1 WHERE state IN ('approved', 'training', 'failed', 'applied');
ALTER TABLE batches ENABLE TRIGGER keep;
ALTER TABLE batches ADD CONSTRAINT batches_needed_check
    CHECK (state IN ('submitted', 'rejected') OR approvals_needed IS NOT NULL);
"""

APPROVALS = r"""
CREATE TABLE approvals (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT approvals_pkey PRIMARY KEY,
    batch_id bigint NOT NULL CONSTRAINT approvals_batch_id_fkey REFERENCES batches,
    actor text NOT NULL CONSTRAINT approvals_actor_check CHECK (actor <> ''),
    role text NOT NULL CONSTRAINT approvals_role_check CHECK (role IN ('viewer', 'editor', 'approver', 'admin')),
    reason text NOT NULL DEFAULT '',
    declined bigint[] NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT approvals_batch_id_actor_key UNIQUE (batch_id, actor)
);
INSERT INTO approvals (batch_id, actor, role, reason, created_at)
    SELECT b.id, b.decided_by, coalesce(e.role, 'admin'), coalesce(b.reason, ''), b.decided_at
    FROM batches b LEFT JOIN LATERAL (
        SELECT role FROM audit_events
        WHERE subject = 'batch/' || b.id AND action = 'collection:batch:approve' AND actor = b.decided_by
        ORDER BY seq LIMIT 1
    ) e ON true
    WHERE b.state IN ('approved', 'training', 'failed', 'applied')
    ORDER BY b.id;
CREATE TRIGGER refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON approvals
    FOR EACH STATEMENT EXECUTE FUNCTION melo_refuse();
"""

JOBS = r"""
ALTER TABLE jobs ADD COLUMN kind text NOT NULL DEFAULT 'train'
    CONSTRAINT jobs_kind_check CHECK (kind IN ('check', 'train'));
DROP INDEX jobs_one_live_per_batch_idx;
CREATE UNIQUE INDEX jobs_one_live_per_batch_idx ON jobs (batch_id, kind)
    WHERE state IN ('queued', 'running', 'succeeded');
"""

GUARDS = r"""
-- Who may approve is the policy's to say, whatever the code does.
CREATE FUNCTION melo_may_approve() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    batch batches%ROWTYPE;
    policy collections%ROWTYPE;
BEGIN
    SELECT * INTO batch FROM batches WHERE id = NEW.batch_id;
    SELECT * INTO policy FROM collections WHERE id = batch.collection_id;
    IF batch.state NOT IN ('submitted', 'failed') THEN
        RAISE EXCEPTION 'batch % cannot be approved: it is %', batch.id, batch.state
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.actor = batch.submitted_by AND NOT policy.self_approval THEN
        RAISE EXCEPTION 'batch % cannot be approved by %, who submitted it', batch.id, NEW.actor
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF cardinality(policy.approvers) > 0 AND NOT NEW.actor = ANY (policy.approvers) THEN
        RAISE EXCEPTION 'batch % cannot be approved by %, who is not among the approvers of %',
            batch.id, NEW.actor, policy.name USING ERRCODE = 'restrict_violation';
    END IF;
    IF EXISTS (SELECT unnest(NEW.declined) EXCEPT SELECT id FROM edits WHERE batch_id = NEW.batch_id) THEN
        RAISE EXCEPTION 'an approval of batch % declines edits that are not in it', batch.id
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

-- A batch goes on only with the approvals that its collection asks for at that moment; the number asked for stays.
CREATE FUNCTION melo_approved_batch() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    policy collections%ROWTYPE;
    asked integer := OLD.approvals_needed;
    given bigint;
    deciding boolean := NEW.state = 'approved' AND OLD.state IN ('submitted', 'failed');
BEGIN
    SELECT * INTO policy FROM collections WHERE id = NEW.collection_id;
    IF deciding THEN
        asked := policy.approvals_needed;
    END IF;
    IF NEW.approvals_needed IS DISTINCT FROM asked THEN
        RAISE EXCEPTION 'batch % needs % approvals, not %', NEW.id, asked, NEW.approvals_needed
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.state IN ('approved', 'training', 'applied') THEN
        -- Later, somebody who approved may have left: that takes nothing back.
        SELECT count(*) INTO given FROM approvals
            WHERE batch_id = NEW.id AND (NOT deciding OR (
                (cardinality(policy.approvers) = 0 OR actor = ANY (policy.approvers))
                AND (policy.self_approval OR actor <> NEW.submitted_by)));
        IF asked IS NULL OR given < asked THEN
            RAISE EXCEPTION 'batch % has % of % approvals', NEW.id, given, asked USING ERRCODE = 'restrict_violation';
        END IF;
    END IF;
    RETURN NEW;
END $$;

-- An applied batch always carries its approvals.
CREATE FUNCTION melo_approved_version() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    asked integer;
    given bigint;
BEGIN
    SELECT approvals_needed INTO asked FROM batches WHERE id = NEW.batch_id;
    SELECT count(*) INTO given FROM approvals WHERE batch_id = NEW.batch_id;
    IF given < coalesce(asked, 1) THEN
        RAISE EXCEPTION 'version % of collection % cannot apply batch %, which has % of % approvals',
            NEW.number, NEW.collection_id, NEW.batch_id, given, coalesce(asked, 1) USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

-- And so does every edit that ever acts. (Per statement: one query for a batch of any size; INTERSECT, because each
-- edit is then not compared with all that were declined.)
CREATE FUNCTION melo_approved_edits() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE refused bigint;
BEGIN
    WITH batch AS MATERIALIZED (
        SELECT e.batch_id AS id, min(e.id) AS edit_id FROM opened n JOIN edits e ON e.id = n.edit_id GROUP BY e.batch_id
    )
    SELECT r.edit_id INTO refused FROM (
        SELECT o.edit_id FROM batch o JOIN batches b ON b.id = o.id
            WHERE (SELECT count(*) FROM approvals a WHERE a.batch_id = b.id) < coalesce(b.approvals_needed, 1)
        UNION ALL
        (SELECT edit_id FROM opened
            INTERSECT SELECT unnest(a.declined) FROM batch o JOIN approvals a ON a.batch_id = o.id)
    ) r LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'edit % cannot become active: it was declined, or its batch lacks approvals', refused
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER may_approve BEFORE INSERT ON approvals FOR EACH ROW EXECUTE FUNCTION melo_may_approve();
CREATE TRIGGER approved BEFORE UPDATE ON batches FOR EACH ROW EXECUTE FUNCTION melo_approved_batch();
CREATE TRIGGER approved BEFORE INSERT ON versions FOR EACH ROW WHEN (NEW.kind = 'apply')
    EXECUTE FUNCTION melo_approved_version();
CREATE TRIGGER approved AFTER INSERT ON activations REFERENCING NEW TABLE AS opened
    FOR EACH STATEMENT EXECUTE FUNCTION melo_approved_edits();
"""


def upgrade() -> None:
    op.execute(POLICY)
    op.execute(APPROVALS)
    op.execute(JOBS)
    op.execute(GUARDS)


def downgrade() -> None:
    """Checks stay as jobs that were cancelled: the older program would take one for its batch's training."""
    op.execute("DROP TRIGGER approved ON activations")
    op.execute("DROP TRIGGER approved ON versions")
    op.execute("DROP TRIGGER approved ON batches")
    op.execute("DROP TABLE approvals")
    op.execute("DROP FUNCTION melo_may_approve, melo_approved_batch, melo_approved_version, melo_approved_edits")
    op.execute(
        "UPDATE jobs SET state = 'cancelled', finished_at = coalesce(finished_at, now()), attempt_token = NULL, "
        "lease_until = NULL WHERE kind = 'check' AND state IN ('queued', 'running', 'succeeded')"
    )
    op.execute("DROP INDEX jobs_one_live_per_batch_idx")
    op.execute(
        "CREATE UNIQUE INDEX jobs_one_live_per_batch_idx ON jobs (batch_id) "
        "WHERE state IN ('queued', 'running', 'succeeded')"
    )
    op.execute("ALTER TABLE jobs DROP COLUMN kind")
    op.execute("ALTER TABLE batches DROP COLUMN approvals_needed")
    op.execute("ALTER TABLE collections DROP COLUMN approvals_needed, DROP COLUMN approvers, DROP COLUMN checks")
