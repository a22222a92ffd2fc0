"""The record: collections, edits, jobs, versions and their content, audit events.

Revision ID: 0001
Revises:
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Identity columns are GENERATED ALWAYS: a row's id cannot be chosen, so it cannot be reused by hand.
TABLES = r"""
CREATE TABLE collections (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT collections_pkey PRIMARY KEY,
    name text NOT NULL CONSTRAINT collections_name_key UNIQUE
        CONSTRAINT collections_name_check CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    model text NOT NULL CONSTRAINT collections_model_check CHECK (model <> ''),
    model_digest text NOT NULL CONSTRAINT collections_model_digest_check CHECK (model_digest ~ '^[0-9a-f]{64}$'),
    "window" bigint NOT NULL CONSTRAINT collections_window_check CHECK ("window" > 0),
    method jsonb NOT NULL CONSTRAINT collections_method_check CHECK (jsonb_typeof(method) = 'object'),
    encoder text NOT NULL CONSTRAINT collections_encoder_check CHECK (encoder <> ''),
    encoder_digest text CONSTRAINT collections_encoder_digest_check CHECK (encoder_digest ~ '^[0-9a-f]{64}$'),
    self_approval boolean NOT NULL DEFAULT false,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE calibrations (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT calibrations_pkey PRIMARY KEY,
    collection_id bigint NOT NULL
        CONSTRAINT calibrations_collection_id_fkey REFERENCES collections
        CONSTRAINT calibrations_collection_id_key UNIQUE,
    data bytea NOT NULL,
    sha256 text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT calibrations_sha256_check CHECK (sha256 = encode(sha256(data), 'hex'))
);

CREATE TABLE batches (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT batches_pkey PRIMARY KEY,
    collection_id bigint NOT NULL CONSTRAINT batches_collection_id_fkey REFERENCES collections,
    state text NOT NULL CONSTRAINT batches_state_check
        CHECK (state IN ('submitted', 'approved', 'rejected', 'training', 'applied', 'failed')),
    message text NOT NULL DEFAULT '',
    source text NOT NULL DEFAULT '',
    submitted_by text NOT NULL,
    submitted_at timestamptz NOT NULL DEFAULT now(),
    decided_by text,
    decided_at timestamptz,
    reason text,
    edit_count bigint NOT NULL CONSTRAINT batches_edit_count_check CHECK (edit_count > 0),
    edits_digest text NOT NULL CONSTRAINT batches_edits_digest_check CHECK (edits_digest ~ '^[0-9a-f]{64}$'),
    -- Nothing is trained or applied that nobody decided on.
    CONSTRAINT batches_decision_check
        CHECK ((state = 'submitted') = (decided_by IS NULL) AND (decided_by IS NULL) = (decided_at IS NULL))
);
CREATE INDEX batches_collection_id_id_idx ON batches (collection_id, id);

CREATE TABLE edits (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT edits_pkey PRIMARY KEY,
    batch_id bigint NOT NULL CONSTRAINT edits_batch_id_fkey REFERENCES batches,
    collection_id bigint NOT NULL CONSTRAINT edits_collection_id_fkey REFERENCES collections,
    position bigint NOT NULL CONSTRAINT edits_position_check CHECK (position > 0),
    prompt text NOT NULL CONSTRAINT edits_prompt_check CHECK (prompt ~ '\S'),
    target text NOT NULL CONSTRAINT edits_target_check CHECK (target ~ '\S'),
    rephrases text[] NOT NULL DEFAULT '{}',
    unchanged text[] NOT NULL DEFAULT '{}',
    kind text NOT NULL CONSTRAINT edits_kind_check CHECK (kind IN ('qa', 'completion', 'classification')),
    author text NOT NULL,
    reason text NOT NULL DEFAULT '',
    source text NOT NULL DEFAULT '',
    replaces bigint CONSTRAINT edits_replaces_fkey REFERENCES edits,
    prompt_key text NOT NULL CONSTRAINT edits_prompt_key_check CHECK (prompt_key ~ '^[0-9a-f]{64}$'),
    digest text NOT NULL CONSTRAINT edits_digest_check CHECK (digest ~ '^[0-9a-f]{64}$'),
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT edits_batch_id_position_key UNIQUE (batch_id, position)
);
CREATE INDEX edits_collection_id_prompt_key_idx ON edits (collection_id, prompt_key);
CREATE INDEX edits_replaces_idx ON edits (replaces);

CREATE TABLE jobs (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT jobs_pkey PRIMARY KEY,
    batch_id bigint NOT NULL CONSTRAINT jobs_batch_id_fkey REFERENCES batches,
    collection_id bigint NOT NULL CONSTRAINT jobs_collection_id_fkey REFERENCES collections,
    state text NOT NULL CONSTRAINT jobs_state_check
        CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    attempt bigint NOT NULL DEFAULT 0,
    attempt_token uuid,
    worker text,
    lease_until timestamptz,
    device text,
    libraries jsonb,
    seed bigint NOT NULL,
    settings jsonb NOT NULL,
    progress jsonb,
    loss_curve jsonb,
    timings jsonb,
    peak_memory_bytes bigint,
    error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    finished_at timestamptz,
    CONSTRAINT jobs_lease_check
        CHECK (state <> 'running' OR (attempt_token IS NOT NULL AND lease_until IS NOT NULL AND worker IS NOT NULL)),
    CONSTRAINT jobs_finished_check
        CHECK ((state IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
    CONSTRAINT jobs_error_check CHECK (state <> 'failed' OR error IS NOT NULL)
);
CREATE UNIQUE INDEX jobs_one_live_per_batch_idx ON jobs (batch_id)
    WHERE state IN ('queued', 'running', 'succeeded');
CREATE INDEX jobs_lease_idx ON jobs (lease_until) WHERE state = 'running';
CREATE INDEX jobs_queued_idx ON jobs (created_at) WHERE state = 'queued';
CREATE INDEX jobs_batch_id_id_idx ON jobs (batch_id, id);

CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT outbox_pkey PRIMARY KEY,
    topic text NOT NULL,
    job_id bigint NOT NULL CONSTRAINT outbox_job_id_fkey REFERENCES jobs,
    payload jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    sent_at timestamptz,
    attempts bigint NOT NULL DEFAULT 0
);
CREATE INDEX outbox_unsent_idx ON outbox (id) WHERE sent_at IS NULL;
CREATE INDEX outbox_job_id_idx ON outbox (job_id);

CREATE TABLE worker_heartbeats (
    worker text CONSTRAINT worker_heartbeats_pkey PRIMARY KEY,
    device text NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now(),
    models jsonb NOT NULL
);

CREATE TABLE blocks (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT blocks_pkey PRIMARY KEY,
    collection_id bigint NOT NULL CONSTRAINT blocks_collection_id_fkey REFERENCES collections,
    job_id bigint NOT NULL CONSTRAINT blocks_job_id_fkey REFERENCES jobs,
    data bytea NOT NULL,
    sha256 text NOT NULL,
    shapes jsonb NOT NULL,
    rank integer NOT NULL CONSTRAINT blocks_rank_check CHECK (rank > 0),
    scale double precision NOT NULL,
    loss double precision NOT NULL,
    iterations integer NOT NULL CONSTRAINT blocks_iterations_check CHECK (iterations >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT blocks_sha256_check CHECK (sha256 = encode(sha256(data), 'hex'))
);
CREATE INDEX blocks_collection_id_idx ON blocks (collection_id);
CREATE INDEX blocks_job_id_idx ON blocks (job_id);
-- Trained weights do not compress: spare the attempt on every write.
ALTER TABLE blocks ALTER COLUMN data SET STORAGE EXTERNAL;

CREATE TABLE block_edits (
    block_id bigint NOT NULL CONSTRAINT block_edits_block_id_fkey REFERENCES blocks,
    edit_id bigint NOT NULL CONSTRAINT block_edits_edit_id_fkey REFERENCES edits,
    CONSTRAINT block_edits_pkey PRIMARY KEY (block_id, edit_id)
);
CREATE INDEX block_edits_edit_id_idx ON block_edits (edit_id);

CREATE TABLE points (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT points_pkey PRIMARY KEY,
    collection_id bigint NOT NULL CONSTRAINT points_collection_id_fkey REFERENCES collections,
    edit_id bigint NOT NULL CONSTRAINT points_edit_id_fkey REFERENCES edits,
    block_id bigint NOT NULL CONSTRAINT points_block_id_fkey REFERENCES blocks,
    role text NOT NULL CONSTRAINT points_role_check CHECK (role IN ('prompt', 'rephrase')),
    key vector NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX points_edit_id_idx ON points (edit_id);
CREATE INDEX points_block_id_idx ON points (block_id);

CREATE TABLE versions (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT versions_pkey PRIMARY KEY,
    collection_id bigint NOT NULL CONSTRAINT versions_collection_id_fkey REFERENCES collections,
    number integer NOT NULL CONSTRAINT versions_number_check CHECK (number > 0),
    parent_id bigint CONSTRAINT versions_parent_id_fkey REFERENCES versions,
    kind text NOT NULL CONSTRAINT versions_kind_check CHECK (kind IN ('apply', 'retire', 'revert', 'rollback')),
    message text NOT NULL DEFAULT '',
    reason text NOT NULL DEFAULT '',
    author text NOT NULL,
    batch_id bigint CONSTRAINT versions_batch_id_fkey REFERENCES batches,
    restores integer,
    content_digest text NOT NULL CONSTRAINT versions_content_digest_check CHECK (content_digest ~ '^[0-9a-f]{64}$'),
    edit_count integer NOT NULL CONSTRAINT versions_edit_count_check CHECK (edit_count >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT versions_collection_id_number_key UNIQUE (collection_id, number),
    CONSTRAINT versions_parent_check CHECK ((number = 1) = (parent_id IS NULL)),
    CONSTRAINT versions_batch_check CHECK ((kind = 'apply') = (batch_id IS NOT NULL)),
    CONSTRAINT versions_restores_check
        CHECK ((kind = 'rollback') = (restores IS NOT NULL) AND restores >= 0 AND restores < number)
);
CREATE UNIQUE INDEX versions_one_per_batch_idx ON versions (batch_id) WHERE batch_id IS NOT NULL;

CREATE SEQUENCE cluster_numbers AS bigint;
CREATE TABLE clusters (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT clusters_pkey PRIMARY KEY,
    collection_id bigint NOT NULL CONSTRAINT clusters_collection_id_fkey REFERENCES collections,
    cluster_no bigint NOT NULL DEFAULT nextval('cluster_numbers'),
    centre vector NOT NULL,
    radius double precision NOT NULL
        CONSTRAINT clusters_radius_check CHECK (radius >= 0 AND radius < 'Infinity'),
    label integer[] NOT NULL,
    members bigint[] NOT NULL CONSTRAINT clusters_members_check CHECK (cardinality(members) > 0),
    digest text NOT NULL CONSTRAINT clusters_digest_check CHECK (digest ~ '^[0-9a-f]{64}$'),
    valid int4range NOT NULL CONSTRAINT clusters_valid_check CHECK (NOT isempty(valid) AND lower(valid) > 0),
    CONSTRAINT clusters_one_state_excl
        EXCLUDE USING gist (int8range(cluster_no, cluster_no, '[]') WITH =, valid WITH &&)
);
ALTER SEQUENCE cluster_numbers OWNED BY clusters.cluster_no;
CREATE INDEX clusters_valid_idx ON clusters USING gist (int8range(collection_id, collection_id, '[]'), valid);
CREATE INDEX clusters_members_idx ON clusters USING gin (members) WHERE upper_inf(valid);
CREATE UNIQUE INDEX clusters_open_idx ON clusters (collection_id, cluster_no) WHERE upper_inf(valid);

CREATE TABLE activations (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT activations_pkey PRIMARY KEY,
    collection_id bigint NOT NULL CONSTRAINT activations_collection_id_fkey REFERENCES collections,
    edit_id bigint NOT NULL CONSTRAINT activations_edit_id_fkey REFERENCES edits,
    prompt_key text NOT NULL,
    valid int4range NOT NULL CONSTRAINT activations_valid_check CHECK (NOT isempty(valid) AND lower(valid) > 0),
    CONSTRAINT activations_one_state_excl
        EXCLUDE USING gist (int8range(edit_id, edit_id, '[]') WITH =, valid WITH &&)
);
CREATE INDEX activations_valid_idx
    ON activations USING gist (int8range(collection_id, collection_id, '[]'), valid);
-- At most one active edit for a prompt: a contradiction cannot be applied, whatever the code does.
CREATE UNIQUE INDEX activations_one_per_prompt_idx ON activations (collection_id, prompt_key)
    WHERE upper_inf(valid);
CREATE INDEX activations_edit_id_idx ON activations (edit_id);

CREATE TABLE aliases (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT aliases_pkey PRIMARY KEY,
    collection_id bigint NOT NULL CONSTRAINT aliases_collection_id_fkey REFERENCES collections,
    name text NOT NULL CONSTRAINT aliases_name_check
        CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$' AND name !~ '^[0-9]+$' AND name NOT IN ('base', 'latest')),
    number integer NOT NULL,
    set_by text NOT NULL,
    reason text NOT NULL DEFAULT '',
    set_at timestamptz NOT NULL DEFAULT now(),
    replaced_at timestamptz,
    CONSTRAINT aliases_order_check CHECK (replaced_at >= set_at),
    CONSTRAINT aliases_collection_id_number_fkey
        FOREIGN KEY (collection_id, number) REFERENCES versions (collection_id, number)
);
CREATE UNIQUE INDEX aliases_current_idx ON aliases (collection_id, name) WHERE replaced_at IS NULL;
CREATE INDEX aliases_collection_id_name_set_at_idx ON aliases (collection_id, name, set_at);

CREATE TABLE audit_events (
    seq bigint CONSTRAINT audit_events_pkey PRIMARY KEY,
    at timestamptz NOT NULL,
    actor text NOT NULL CONSTRAINT audit_events_actor_check CHECK (actor <> ''),
    role text NOT NULL CONSTRAINT audit_events_role_check CHECK (role IN ('viewer', 'editor', 'approver', 'admin')),
    action text NOT NULL CONSTRAINT audit_events_action_check CHECK (action ~ '^[a-z]+:[a-z]+:[a-z]+$'),
    collection_id bigint CONSTRAINT audit_events_collection_id_fkey REFERENCES collections,
    subject text NOT NULL,
    before text CONSTRAINT audit_events_before_check CHECK (before ~ '^[0-9a-f]{64}$'),
    after text CONSTRAINT audit_events_after_check CHECK (after ~ '^[0-9a-f]{64}$'),
    reason text NOT NULL,
    request_id text,
    details jsonb NOT NULL,
    previous_hash text NOT NULL CONSTRAINT audit_events_previous_hash_check CHECK (previous_hash ~ '^[0-9a-f]{64}$'),
    hash text NOT NULL CONSTRAINT audit_events_hash_check CHECK (hash ~ '^[0-9a-f]{64}$')
);
CREATE INDEX audit_events_collection_id_seq_idx ON audit_events (collection_id, seq);
CREATE INDEX audit_events_subject_seq_idx ON audit_events (subject, seq);
"""

GUARDS = r"""
CREATE FUNCTION melo_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on % is refused: the record only grows', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$;

-- A state's range may be closed once; everything else about it stays.
CREATE FUNCTION melo_close_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT upper_inf(OLD.valid) OR upper_inf(NEW.valid) OR lower(NEW.valid) <> lower(OLD.valid) THEN
        RAISE EXCEPTION 'UPDATE on % is refused: only the open end of a state''s range may be closed, once',
            TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
    END IF;
    OLD.valid := NEW.valid;
    IF OLD IS DISTINCT FROM NEW THEN
        RAISE EXCEPTION 'UPDATE on % is refused: a state never changes, it is followed by another',
            TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION melo_keep_collection() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.id, NEW.name, NEW.model, NEW.model_digest, NEW."window", NEW.method, NEW.encoder, NEW.created_by,
        NEW.created_at)
       IS DISTINCT FROM
       (OLD.id, OLD.name, OLD.model, OLD.model_digest, OLD."window", OLD.method, OLD.encoder, OLD.created_by,
        OLD.created_at)
       OR (OLD.encoder_digest IS NOT NULL AND NEW.encoder_digest IS DISTINCT FROM OLD.encoder_digest) THEN
        RAISE EXCEPTION 'UPDATE on collections is refused: name, model, method and encoder are fixed'
            USING ERRCODE = 'restrict_violation', HINT = 'Create another collection.';
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION melo_keep_batch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.id, NEW.collection_id, NEW.submitted_by, NEW.submitted_at, NEW.edit_count, NEW.edits_digest)
       IS DISTINCT FROM
       (OLD.id, OLD.collection_id, OLD.submitted_by, OLD.submitted_at, OLD.edit_count, OLD.edits_digest)
       OR OLD.state IN ('rejected', 'applied') THEN
        RAISE EXCEPTION 'UPDATE on batches is refused: what was submitted, and how it ended, stays'
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION melo_replace_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.replaced_at IS NOT NULL OR NEW.replaced_at IS NULL THEN
        RAISE EXCEPTION 'UPDATE on aliases is refused: an alias is only ever replaced, once'
            USING ERRCODE = 'restrict_violation';
    END IF;
    OLD.replaced_at := NEW.replaced_at;
    IF OLD IS DISTINCT FROM NEW THEN
        RAISE EXCEPTION 'UPDATE on aliases is refused: where an alias pointed stays'
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

-- Numbers follow each other without gaps: the collection's row is locked, so writers take turns. (NO KEY: rows that
-- refer to the collection may be written meanwhile.)
CREATE FUNCTION melo_next_version() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE last versions%ROWTYPE;
BEGIN
    PERFORM 1 FROM collections WHERE id = NEW.collection_id FOR NO KEY UPDATE;
    SELECT * INTO last FROM versions WHERE collection_id = NEW.collection_id ORDER BY number DESC LIMIT 1;
    IF NEW.number <> coalesce(last.number, 0) + 1 OR NEW.parent_id IS DISTINCT FROM last.id THEN
        RAISE EXCEPTION 'version % of collection % does not follow version %',
            NEW.number, NEW.collection_id, coalesce(last.number, 0) USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;

-- The key is an arbitrary constant of this program; see registry.audit.repository.
CREATE FUNCTION melo_next_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE last audit_events%ROWTYPE;
BEGIN
    PERFORM pg_advisory_xact_lock(7026368401);
    SELECT * INTO last FROM audit_events ORDER BY seq DESC LIMIT 1;
    IF NEW.seq <> coalesce(last.seq, 0) + 1 OR NEW.previous_hash <> coalesce(last.hash, repeat('0', 64)) THEN
        RAISE EXCEPTION 'audit event % does not follow event %', NEW.seq, coalesce(last.seq, 0)
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER next_version BEFORE INSERT ON versions FOR EACH ROW EXECUTE FUNCTION melo_next_version();
CREATE TRIGGER next_event BEFORE INSERT ON audit_events FOR EACH ROW EXECUTE FUNCTION melo_next_event();
CREATE TRIGGER close_only BEFORE UPDATE ON clusters FOR EACH ROW EXECUTE FUNCTION melo_close_only();
CREATE TRIGGER close_only BEFORE UPDATE ON activations FOR EACH ROW EXECUTE FUNCTION melo_close_only();
CREATE TRIGGER keep BEFORE UPDATE ON collections FOR EACH ROW EXECUTE FUNCTION melo_keep_collection();
CREATE TRIGGER keep BEFORE UPDATE ON batches FOR EACH ROW EXECUTE FUNCTION melo_keep_batch();
CREATE TRIGGER replace_only BEFORE UPDATE ON aliases FOR EACH ROW EXECUTE FUNCTION melo_replace_only();
"""

NEVER_UPDATED = ("calibrations", "edits", "blocks", "block_edits", "points", "versions", "audit_events")
NEVER_DELETED = ("collections", "batches", "jobs", "clusters", "activations", "aliases")


def upgrade() -> None:
    op.execute("CREATE EXTENSION IF NOT EXISTS vector")
    op.execute(TABLES)
    op.execute(GUARDS)
    for table in NEVER_UPDATED:
        op.execute(
            f"CREATE TRIGGER refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION melo_refuse()"
        )
    for table in NEVER_DELETED:
        op.execute(
            f"CREATE TRIGGER refuse BEFORE DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION melo_refuse()"
        )


def downgrade() -> None:
    op.execute(
        "DROP TABLE audit_events, aliases, activations, clusters, points, block_edits, blocks, versions, "
        "worker_heartbeats, outbox, jobs, edits, batches, calibrations, collections"
    )
    op.execute(
        "DROP FUNCTION melo_refuse, melo_close_only, melo_keep_collection, melo_keep_batch, melo_replace_only, "
        "melo_next_version, melo_next_event"
    )
