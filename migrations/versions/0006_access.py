"""API keys, what each may do where, and protected aliases.

Revision ID: 0006
Revises: 0005
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TABLES = r"""
CREATE TABLE api_keys (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT api_keys_pkey PRIMARY KEY,
    name text NOT NULL CONSTRAINT api_keys_name_check CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    actor text NOT NULL CONSTRAINT api_keys_actor_check CHECK (actor ~ '\S'),
    prefix text NOT NULL
        CONSTRAINT api_keys_prefix_key UNIQUE
        CONSTRAINT api_keys_prefix_check CHECK (prefix ~ '^[0-9a-f]{12}$'),
    secret_sha256 text NOT NULL CONSTRAINT api_keys_secret_sha256_check CHECK (secret_sha256 ~ '^[0-9a-f]{64}$'),
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz CONSTRAINT api_keys_expires_at_check CHECK (expires_at > created_at),
    revoked_at timestamptz,
    revoked_by text,
    last_used_at timestamptz,
    CONSTRAINT api_keys_revoked_check CHECK ((revoked_at IS NULL) = (revoked_by IS NULL))
);
CREATE UNIQUE INDEX api_keys_name_idx ON api_keys (name) WHERE revoked_at IS NULL;

CREATE TABLE api_key_roles (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT api_key_roles_pkey PRIMARY KEY,
    key_id bigint NOT NULL CONSTRAINT api_key_roles_key_id_fkey REFERENCES api_keys,
    collection_id bigint CONSTRAINT api_key_roles_collection_id_fkey REFERENCES collections,
    role text NOT NULL CONSTRAINT api_key_roles_role_check
        CHECK (role IN ('viewer', 'editor', 'approver', 'admin')),
    CONSTRAINT api_key_roles_key_id_collection_id_key UNIQUE (key_id, collection_id)
);
CREATE UNIQUE INDEX api_key_roles_everywhere_idx ON api_key_roles (key_id) WHERE collection_id IS NULL;
CREATE INDEX api_key_roles_collection_id_idx ON api_key_roles (collection_id);

CREATE TABLE alias_protections (
    collection_id bigint NOT NULL CONSTRAINT alias_protections_collection_id_fkey REFERENCES collections,
    name text NOT NULL CONSTRAINT alias_protections_name_check
        CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$' AND name !~ '^[0-9]+$' AND name NOT IN ('base', 'latest')),
    role text NOT NULL CONSTRAINT alias_protections_role_check CHECK (role IN ('approver', 'admin')),
    protected_by text NOT NULL,
    reason text NOT NULL,
    protected_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT alias_protections_pkey PRIMARY KEY (collection_id, name)
);
"""

# A key's rights never change and a revoked key never comes back: whoever wants others makes another key.
GUARDS = r"""
CREATE FUNCTION melo_keep_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.revoked_at IS NULL THEN
        OLD.revoked_at := NEW.revoked_at;
        OLD.revoked_by := NEW.revoked_by;
    END IF;
    OLD.last_used_at := NEW.last_used_at;
    IF OLD IS DISTINCT FROM NEW THEN
        RAISE EXCEPTION 'UPDATE on api_keys is refused: a key is only ever used and, once, revoked'
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER keep BEFORE UPDATE ON api_keys FOR EACH ROW EXECUTE FUNCTION melo_keep_key();
CREATE TRIGGER refuse BEFORE DELETE OR TRUNCATE ON api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION melo_refuse();
CREATE TRIGGER refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON api_key_roles
    FOR EACH STATEMENT EXECUTE FUNCTION melo_refuse();
CREATE TRIGGER refuse BEFORE TRUNCATE ON alias_protections
    FOR EACH STATEMENT EXECUTE FUNCTION melo_refuse();
"""


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(GUARDS)


def downgrade() -> None:
    op.execute("DROP TABLE alias_protections, api_key_roles, api_keys")
    op.execute("DROP FUNCTION melo_keep_key")
