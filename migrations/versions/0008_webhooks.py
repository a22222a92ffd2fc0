"""Who wants to hear of events, and what was sent.

Revision ID: 0008
Revises: 0007
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

TABLES = r"""
CREATE TABLE webhooks (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT webhooks_pkey PRIMARY KEY,
    collection_id bigint CONSTRAINT webhooks_collection_id_fkey REFERENCES collections,
    url text NOT NULL CONSTRAINT webhooks_url_check CHECK (url ~ '^https?://'),
    secret text CONSTRAINT webhooks_secret_check CHECK (secret ~ '^whsec_'),
    events text[] NOT NULL CONSTRAINT webhooks_events_check
        CHECK (cardinality(events) > 0 AND events <@ ARRAY['version', 'alias', 'batch']),
    description text NOT NULL DEFAULT '',
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    seen_seq bigint NOT NULL CONSTRAINT webhooks_seen_seq_check CHECK (seen_seq >= 0),
    removed_at timestamptz,
    -- A secret is kept as long as something is signed with it.
    CONSTRAINT webhooks_removed_check CHECK ((removed_at IS NULL) = (secret IS NOT NULL))
);
CREATE INDEX webhooks_collection_id_idx ON webhooks (collection_id);

CREATE TABLE webhook_deliveries (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT webhook_deliveries_pkey PRIMARY KEY,
    webhook_id bigint NOT NULL CONSTRAINT webhook_deliveries_webhook_id_fkey REFERENCES webhooks,
    event_seq bigint CONSTRAINT webhook_deliveries_event_seq_fkey REFERENCES audit_events,
    message_id uuid NOT NULL DEFAULT gen_random_uuid(),
    payload jsonb NOT NULL,
    attempts bigint NOT NULL DEFAULT 0,
    next_at timestamptz NOT NULL DEFAULT now(),
    last_status integer,
    last_error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    delivered_at timestamptz,
    failed_at timestamptz,
    CONSTRAINT webhook_deliveries_webhook_id_event_seq_key UNIQUE (webhook_id, event_seq),
    CONSTRAINT webhook_deliveries_end_check CHECK (delivered_at IS NULL OR failed_at IS NULL)
);
CREATE INDEX webhook_deliveries_pending_idx ON webhook_deliveries (webhook_id, id)
    WHERE delivered_at IS NULL AND failed_at IS NULL;
CREATE INDEX webhook_deliveries_webhook_id_id_idx ON webhook_deliveries (webhook_id, id);
CREATE INDEX webhook_deliveries_event_seq_idx ON webhook_deliveries (event_seq);
"""

GUARDS = r"""
-- Another address or other events are another webhook: where events went stays told.
CREATE FUNCTION melo_keep_webhook() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.removed_at IS NOT NULL OR NEW.seen_seq < OLD.seen_seq
       OR (NEW.id, NEW.collection_id, NEW.url, NEW.events, NEW.description, NEW.created_by, NEW.created_at)
          IS DISTINCT FROM
          (OLD.id, OLD.collection_id, OLD.url, OLD.events, OLD.description, OLD.created_by, OLD.created_at)
       OR (NEW.removed_at IS NULL AND NEW.secret IS DISTINCT FROM OLD.secret) THEN
        RAISE EXCEPTION 'UPDATE on webhooks is refused: a webhook looks forward, and is removed once'
            USING ERRCODE = 'restrict_violation', HINT = 'Remove it and add another.';
    END IF;
    RETURN NEW;
END $$;

-- An event may be sent again, but neither as another nor once it has arrived or was given up.
CREATE FUNCTION melo_keep_delivery() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.delivered_at IS NOT NULL OR OLD.failed_at IS NOT NULL
       OR (NEW.id, NEW.webhook_id, NEW.event_seq, NEW.message_id, NEW.payload, NEW.created_at)
          IS DISTINCT FROM
          (OLD.id, OLD.webhook_id, OLD.event_seq, OLD.message_id, OLD.payload, OLD.created_at) THEN
        RAISE EXCEPTION 'UPDATE on webhook_deliveries is refused: what was sent stays'
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER keep BEFORE UPDATE ON webhooks FOR EACH ROW EXECUTE FUNCTION melo_keep_webhook();
CREATE TRIGGER keep BEFORE UPDATE ON webhook_deliveries FOR EACH ROW EXECUTE FUNCTION melo_keep_delivery();
"""


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(GUARDS)
    for table in ("webhooks", "webhook_deliveries"):
        op.execute(
            f"CREATE TRIGGER refuse BEFORE DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION melo_refuse()"
        )


def downgrade() -> None:
    op.execute("DROP TABLE webhook_deliveries, webhooks")
    op.execute("DROP FUNCTION melo_keep_webhook, melo_keep_delivery")
