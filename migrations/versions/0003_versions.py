"""A version's state, and digests that cost what changed.

Revision ID: 0003
Revises: 0002
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# Collections that exist keep the digests that their events hold; their rollbacks have states of their own.
COLUMNS = r"""
ALTER TABLE collections ADD COLUMN digest_format smallint NOT NULL DEFAULT 1
    CONSTRAINT collections_digest_format_check CHECK (digest_format IN (1, 2));
ALTER TABLE collections ALTER COLUMN digest_format SET DEFAULT 2;

ALTER TABLE versions
    ADD COLUMN state integer,
    ADD COLUMN reverts integer,
    ADD COLUMN content_state bytea,
    ADD COLUMN cluster_count integer,
    ADD COLUMN block_count integer;
ALTER TABLE versions DISABLE TRIGGER refuse;
UPDATE versions SET
    state = number,
    cluster_count = (
        SELECT count(*) FROM clusters
        WHERE clusters.collection_id = versions.collection_id AND clusters.valid @> versions.number),
    block_count = (
        SELECT count(DISTINCT points.block_id)
        FROM clusters CROSS JOIN unnest(clusters.members) AS member JOIN points ON points.id = member
        WHERE clusters.collection_id = versions.collection_id AND clusters.valid @> versions.number);
ALTER TABLE versions ENABLE TRIGGER refuse;
ALTER TABLE versions
    ALTER COLUMN state SET NOT NULL,
    ALTER COLUMN cluster_count SET NOT NULL,
    ALTER COLUMN block_count SET NOT NULL,
    -- Hashes do not compress, and a version's row is read whole.
    ALTER COLUMN content_state SET STORAGE PLAIN,
    ADD CONSTRAINT versions_state_check
        CHECK (state BETWEEN 0 AND number AND (kind = 'rollback' OR state = number)),
    ADD CONSTRAINT versions_reverts_check
        CHECK ((kind = 'revert') = (reverts IS NOT NULL) AND reverts > 0 AND reverts < number),
    ADD CONSTRAINT versions_content_state_check CHECK (octet_length(content_state) = 384),
    ADD CONSTRAINT versions_counts_check CHECK (cluster_count >= 0 AND block_count >= 0),
    -- Not asked of the rows of earlier releases, which did not have the rule.
    ADD CONSTRAINT versions_reason_check CHECK (kind = 'apply' OR reason ~ '\S') NOT VALID;
"""

INDEXES = r"""
-- The newest version whose state is its own: what the open ranges show.
CREATE INDEX versions_own_state_idx ON versions (collection_id, number) WHERE state = number;
CREATE INDEX versions_rollbacks_idx ON versions (collection_id, number) WHERE kind = 'rollback';
CREATE INDEX versions_collection_id_created_at_number_idx ON versions (collection_id, created_at, number);
-- What began or ended between two states, which is all that differs between them.
CREATE INDEX clusters_begun_idx ON clusters (collection_id, lower(valid), cluster_no);
CREATE INDEX clusters_ended_idx ON clusters (collection_id, upper(valid), cluster_no);
CREATE INDEX clusters_cluster_no_idx ON clusters (cluster_no);
CREATE INDEX activations_begun_idx ON activations (collection_id, lower(valid), edit_id);
CREATE INDEX activations_ended_idx ON activations (collection_id, upper(valid), edit_id);
-- Where a point is, in any state and not in the open ones alone. A list of what is not yet in the index would be
-- read through at each look: 1 ms for each point of a version.
DROP INDEX clusters_members_idx;
CREATE INDEX clusters_members_idx ON clusters USING gin (members) WITH (fastupdate = off);
CREATE INDEX edits_collection_id_id_idx ON edits (collection_id, id);
"""

GUARDS = r"""
CREATE FUNCTION melo_keep_digest_format() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'UPDATE on collections is refused: the form of its digests is fixed'
        USING ERRCODE = 'restrict_violation', HINT = 'Create another collection.';
END $$;
CREATE TRIGGER keep_digest_format BEFORE UPDATE ON collections FOR EACH ROW
    WHEN (NEW.digest_format IS DISTINCT FROM OLD.digest_format) EXECUTE FUNCTION melo_keep_digest_format();

-- A rollback shows the state that the version shows which it restores. It fires after next_version, which holds the
-- collection's lock: what was newest at a moment can be told only if time goes with the numbers.
CREATE FUNCTION melo_version_state() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    restored versions%ROWTYPE;
    last timestamptz;
BEGIN
    IF NEW.kind = 'rollback' THEN
        SELECT * INTO restored FROM versions WHERE collection_id = NEW.collection_id AND number = NEW.restores;
        IF NEW.restores <> 0 AND restored.id IS NULL OR NEW.state <> coalesce(restored.state, 0)
           OR NEW.content_digest <> coalesce(restored.content_digest, NEW.content_digest)
           OR NEW.content_state IS DISTINCT FROM coalesce(restored.content_state, NEW.content_state) THEN
            RAISE EXCEPTION 'version % of collection % does not show what version % shows',
                NEW.number, NEW.collection_id, NEW.restores USING ERRCODE = 'integrity_constraint_violation';
        END IF;
    END IF;
    IF (NEW.content_state IS NULL)
       <> ((SELECT digest_format FROM collections WHERE id = NEW.collection_id) = 1) THEN
        RAISE EXCEPTION 'version % of collection % has not the form of digest of its collection',
            NEW.number, NEW.collection_id USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    SELECT created_at INTO last FROM versions WHERE id = NEW.parent_id;
    IF NEW.created_at < last THEN
        RAISE EXCEPTION 'version % of collection % is older than the version before it',
            NEW.number, NEW.collection_id USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER version_state BEFORE INSERT ON versions FOR EACH ROW EXECUTE FUNCTION melo_version_state();
"""

# The program of the revision before knows neither the new digests nor a rollback without rows of its own.
REFUSE_WHAT_IS_LOST = r"""
DO $$
DECLARE lost text;
BEGIN
    SELECT string_agg(DISTINCT collections.name, ', ') INTO lost
    FROM versions JOIN collections ON collections.id = versions.collection_id
    WHERE collections.digest_format <> 1 OR versions.state <> versions.number OR versions.reverts IS NOT NULL;
    IF lost IS NOT NULL THEN
        RAISE EXCEPTION 'revision 0002 cannot read the versions of these collections: %', lost
            USING HINT = 'Restore the backup that was made before the upgrade.';
    END IF;
END $$;
"""

WITHOUT_INDEXES = r"""
DROP INDEX versions_own_state_idx, versions_rollbacks_idx, versions_collection_id_created_at_number_idx,
    clusters_begun_idx, clusters_ended_idx, clusters_cluster_no_idx, activations_begun_idx, activations_ended_idx,
    clusters_members_idx, edits_collection_id_id_idx;
CREATE INDEX clusters_members_idx ON clusters USING gin (members) WHERE upper_inf(valid);
"""

WITHOUT_COLUMNS = r"""
ALTER TABLE versions
    DROP CONSTRAINT versions_reason_check,
    DROP COLUMN state, DROP COLUMN reverts, DROP COLUMN content_state,
    DROP COLUMN cluster_count, DROP COLUMN block_count;
ALTER TABLE collections DROP COLUMN digest_format;
"""


def upgrade() -> None:
    for statements in (COLUMNS, INDEXES, GUARDS):
        op.execute(statements)


def downgrade() -> None:
    op.execute(REFUSE_WHAT_IS_LOST)
    op.execute("DROP TRIGGER version_state ON versions")
    op.execute("DROP TRIGGER keep_digest_format ON collections")
    op.execute("DROP FUNCTION melo_version_state, melo_keep_digest_format")
    op.execute(WITHOUT_INDEXES)
    op.execute(WITHOUT_COLUMNS)
