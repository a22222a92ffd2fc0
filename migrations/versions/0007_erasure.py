"""Content that may be erased, with its digest kept; and the registry's own name, which signed heads carry.

Revision ID: 0007
Revises: 0006
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

IDENTITY = r"""
-- One row, made once: two registries are told apart by it, and a copy of one from another.
CREATE TABLE registry_identity (
    one boolean NOT NULL DEFAULT true CONSTRAINT registry_identity_pkey PRIMARY KEY
        CONSTRAINT registry_identity_one_check CHECK (one),
    registry_id uuid NOT NULL DEFAULT gen_random_uuid(),
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO registry_identity DEFAULT VALUES;
CREATE TRIGGER refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON registry_identity
    FOR EACH STATEMENT EXECUTE FUNCTION melo_refuse();
"""

# What is erased is empty, and what is empty was erased: a state between the two cannot be stored.
COLUMNS = r"""
ALTER TABLE edits ADD COLUMN erased_at timestamptz,
    DROP CONSTRAINT edits_prompt_check,
    DROP CONSTRAINT edits_target_check,
    ADD CONSTRAINT edits_prompt_check CHECK (prompt ~ '\S' OR erased_at IS NOT NULL),
    ADD CONSTRAINT edits_target_check CHECK (target ~ '\S' OR erased_at IS NOT NULL),
    ADD CONSTRAINT edits_erased_check CHECK (erased_at IS NULL OR (prompt, target, rephrases, unchanged, author, reason,
        source) = ('', '', '{}'::text[], '{}'::text[], '', '', ''));
CREATE INDEX edits_erased_idx ON edits (collection_id) WHERE erased_at IS NOT NULL;

ALTER TABLE points ADD COLUMN erased_at timestamptz,
    ALTER COLUMN key DROP NOT NULL,
    ADD CONSTRAINT points_erased_check CHECK ((key IS NULL) = (erased_at IS NOT NULL));

ALTER TABLE blocks ADD COLUMN erased_at timestamptz,
    DROP CONSTRAINT blocks_sha256_check,
    ADD CONSTRAINT blocks_sha256_check CHECK (erased_at IS NOT NULL OR sha256 = encode(sha256(data), 'hex')),
    ADD CONSTRAINT blocks_erased_check CHECK (erased_at IS NULL OR data = '');

-- A cluster's centre is the key of its point, and its label the target's tokens.
ALTER TABLE clusters ADD COLUMN erased_at timestamptz,
    ALTER COLUMN centre DROP NOT NULL,
    ADD CONSTRAINT clusters_erased_check
        CHECK ((centre IS NULL) = (erased_at IS NOT NULL) AND (erased_at IS NULL OR label = '{}'));
"""

# The arguments are the columns that an erasure empties. The digests are not among them.
GUARDS = r"""
CREATE FUNCTION melo_erase_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.erased_at IS NOT NULL OR NEW.erased_at IS NULL
       OR to_jsonb(OLD) - 'erased_at' - TG_ARGV::text[] IS DISTINCT FROM to_jsonb(NEW) - 'erased_at' - TG_ARGV::text[]
    THEN
        RAISE EXCEPTION 'UPDATE on % is refused: the record only grows; content may be erased once, its digest stays',
            TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

-- A rollback or a revert must not put to work again what was erased.
CREATE FUNCTION melo_refuse_erased() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM edits WHERE id = NEW.edit_id AND erased_at IS NOT NULL) THEN
        RAISE EXCEPTION 'edit % was erased: it cannot act again', NEW.edit_id USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER refuse_erased BEFORE INSERT ON activations FOR EACH ROW EXECUTE FUNCTION melo_refuse_erased();

CREATE FUNCTION melo_refuse_erased_state() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM edits JOIN activations ON activations.edit_id = edits.id
        WHERE edits.collection_id = NEW.collection_id AND edits.erased_at IS NOT NULL
          AND activations.valid @> NEW.state)
    THEN
        RAISE EXCEPTION 'version % of collection % would hold what was erased', NEW.number, NEW.collection_id
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER refuse_erased BEFORE INSERT ON versions FOR EACH ROW EXECUTE FUNCTION melo_refuse_erased_state();
"""

ERASABLE = {
    "edits": "'prompt', 'target', 'rephrases', 'unchanged', 'author', 'reason', 'source'",
    "points": "'key'",
    "blocks": "'data'",
    "clusters": "'centre', 'label'",
}


def upgrade() -> None:
    op.execute(IDENTITY)
    op.execute(COLUMNS)
    op.execute(GUARDS)
    for table in ("edits", "points", "blocks"):
        # A trigger for a statement cannot see what it changes: from here on, each row's update is looked at.
        op.execute(f"DROP TRIGGER refuse ON {table}")
        op.execute(
            f"CREATE TRIGGER refuse BEFORE DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION melo_refuse()"
        )
        op.execute(
            f"CREATE TRIGGER erase_only BEFORE UPDATE ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION melo_erase_only({ERASABLE[table]})"
        )
    op.execute("DROP TRIGGER close_only ON clusters")
    op.execute(
        "CREATE TRIGGER close_only BEFORE UPDATE ON clusters FOR EACH ROW "
        "WHEN (OLD.erased_at IS NOT DISTINCT FROM NEW.erased_at) EXECUTE FUNCTION melo_close_only()"
    )
    op.execute(
        "CREATE TRIGGER erase_only BEFORE UPDATE ON clusters FOR EACH ROW "
        "WHEN (OLD.erased_at IS DISTINCT FROM NEW.erased_at) "
        f"EXECUTE FUNCTION melo_erase_only({ERASABLE['clusters']})"
    )


def downgrade() -> None:
    """Refused by the older columns' constraints where something was erased: that schema cannot say so."""
    for table in ("edits", "points", "blocks"):
        op.execute(f"DROP TRIGGER erase_only ON {table}")
        op.execute(f"DROP TRIGGER refuse ON {table}")
        op.execute(
            f"CREATE TRIGGER refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION melo_refuse()"
        )
    op.execute("DROP TRIGGER erase_only ON clusters")
    op.execute("DROP TRIGGER close_only ON clusters")
    op.execute("CREATE TRIGGER close_only BEFORE UPDATE ON clusters FOR EACH ROW EXECUTE FUNCTION melo_close_only()")
    op.execute("DROP TRIGGER refuse_erased ON activations")
    op.execute("DROP TRIGGER refuse_erased ON versions")
    op.execute("DROP FUNCTION melo_erase_only, melo_refuse_erased, melo_refuse_erased_state")
    op.execute(
        """
        ALTER TABLE clusters DROP COLUMN erased_at, ALTER COLUMN centre SET NOT NULL;
        ALTER TABLE points DROP COLUMN erased_at, ALTER COLUMN key SET NOT NULL;
        ALTER TABLE blocks DROP COLUMN erased_at;
        ALTER TABLE blocks ADD CONSTRAINT blocks_sha256_check CHECK (sha256 = encode(sha256(data), 'hex'));
        ALTER TABLE edits DROP COLUMN erased_at;
        ALTER TABLE edits ADD CONSTRAINT edits_prompt_check CHECK (prompt ~ '\\S'),
            ADD CONSTRAINT edits_target_check CHECK (target ~ '\\S');
        DROP TABLE registry_identity;
        """
    )
