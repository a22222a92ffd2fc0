"""The record: collections, edits, jobs, versions and their content, permissions, and the events about all of them.

This module creates the tables; what the database itself enforces with functions and triggers is in `migrations/sql`.
Constraint names follow the rule of `registry.tables.orm`, which Alembic gets with the models' metadata.

Revision ID: 0001
Revises:
"""

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import op
from pgvector.sqlalchemy import VECTOR
from sqlalchemy.dialects.postgresql import ARRAY, INT4RANGE, JSONB, ExcludeConstraint

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

GUARDS = Path(__file__).parents[1] / "sql"
SUBJECTS = (
    "growth", "collections", "batches", "approvals", "versions", "aliases", "events", "erasure", "keys", "webhooks",
    "answers",
)  # fmt: skip

# Each function finds the record's tables whatever a session's search_path is, such as that of pg_restore, which is
# empty; and no temporary table of a session can stand in for one of them.
PINNED = """\
DO $$ DECLARE function regprocedure; BEGIN
    FOR function IN SELECT oid FROM pg_proc
        WHERE pronamespace = current_schema()::regnamespace AND proname LIKE 'melo\\_%' AND prokind = 'f'
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', function, current_schema());
    END LOOP;
END $$"""

SHA256 = "~ '^[0-9a-f]{64}$'"
NAME = "~ '^[a-z0-9][a-z0-9._-]{0,62}$'"
RESPONSE = "~ '^[A-Za-z0-9_-]{1,100}$'"
ROLES = "IN ('viewer', 'editor', 'approver', 'admin')"

FUNCTIONS = (
    "melo_refuse_change", "melo_keep_foundation", "melo_keep_submission", "melo_require_right_to_approve",
    "melo_require_approvals_of_batch", "melo_require_approvals_of_version", "melo_require_approvals_of_edits",
    "melo_require_next_version", "melo_require_restored_state", "melo_only_close_range", "melo_only_replace_alias",
    "melo_require_next_event", "melo_notify_of_events", "melo_only_erase_content", "melo_require_unerased_edit",
    "melo_require_unerased_state", "melo_only_use_or_revoke_key", "melo_keep_webhook", "melo_keep_delivery",
    "melo_keep_feedback",
)  # fmt: skip


def upgrade() -> None:
    op.execute("CREATE EXTENSION IF NOT EXISTS vector")
    _collections()
    _edits()
    _jobs()
    _content()
    _versions()
    _events()
    _access()
    _webhooks()
    _answers()
    for subject in SUBJECTS:
        op.execute((GUARDS / f"{subject}.sql").read_text(encoding="utf-8"))
    op.execute(PINNED)


def downgrade() -> None:
    op.execute(
        "DROP TABLE feedback, answers, "
        "webhook_deliveries, webhooks, idempotency_keys, alias_protections, api_key_roles, api_keys, "
        "registry_identity, audit_events, aliases, activations, clusters, versions, points, block_edits, blocks, "
        "worker_heartbeats, outbox, jobs, approvals, edits, batches, calibrations, collections"
    )
    op.execute(f"DROP FUNCTION {', '.join(FUNCTIONS)}")


def _collections() -> None:
    op.create_table(
        "collections",
        _key(),
        _text("name", NAME, unique=True),
        _text("model", "<> ''"),
        _text("model_digest", SHA256),
        _json(
            "model_files",
            sa.CheckConstraint("jsonb_typeof(model_files) = 'object'", name="model_files"),
            server_default=sa.text("'{}'"),
        ),
        _number("window", '"window" > 0'),
        _json("method", sa.CheckConstraint("jsonb_typeof(method) = 'object'", name="method")),
        _text("encoder", "<> ''"),
        _text("encoder_digest", SHA256, nullable=True),
        sa.Column("self_approval", sa.Boolean, nullable=False, server_default=sa.false()),
        _integer("approvals_needed", "approvals_needed BETWEEN 1 AND 10", server_default=sa.text("1")),
        _list("approvers", sa.Text),
        _text("preflight", "IN ('none', 'keys', 'train')", server_default="keys"),
        sa.Column("left_alone_needed", sa.Double),
        _json("preflight_limits", server_default="{}"),
        sa.Column("log_share", sa.Double, nullable=False, server_default=sa.text("0")),
        sa.Column("log_text", sa.Boolean, nullable=False, server_default=sa.false()),
        _integer("log_days", "log_days BETWEEN 1 AND 3650", server_default=sa.text("30")),
        _text("queue", "IN ('open', 'paused', 'draining')", server_default="open"),
        _text("created_by"),
        _moment("created_at"),
        sa.CheckConstraint("cardinality(approvers) = 0 OR cardinality(approvers) >= approvals_needed", "approvers"),
        sa.CheckConstraint("left_alone_needed > 0 AND left_alone_needed <= 1", "left_alone_needed"),
        sa.CheckConstraint("log_share >= 0 AND log_share <= 1", "log_share"),
    )
    op.create_table(
        "calibrations",
        _key(),
        _refers("collection_id", "collections.id", unique=True),
        sa.Column("data", sa.LargeBinary, nullable=False),
        _text("sha256"),
        _moment("created_at"),
        sa.CheckConstraint("sha256 = encode(sha256(data), 'hex')", "sha256"),
    )


def _edits() -> None:
    op.create_table(
        "batches",
        _key(),
        _refers("collection_id", "collections.id"),
        _text("state", "IN ('submitted', 'approved', 'rejected', 'training', 'applied', 'failed', 'cancelled')"),
        _text("message", server_default=""),
        _text("source", server_default=""),
        _text("submitted_by"),
        _moment("submitted_at"),
        _text("decided_by", nullable=True),
        _later("decided_at"),
        _text("reason", nullable=True),
        # The number of approvals that the policy required when the batch was decided on.
        _integer("approvals_needed", "approvals_needed BETWEEN 1 AND 10", nullable=True),
        _number("edit_count", "edit_count > 0"),
        _text("edits_digest", SHA256),
        _text("priority", "IN ('low', 'normal', 'high')", server_default="normal"),
        _later("deadline"),
        _json(
            "training", sa.CheckConstraint("jsonb_typeof(training) = 'object'", name="training"), server_default="{}"
        ),
        # Nothing is trained or applied without a decision.
        sa.CheckConstraint(
            "(state = 'submitted') = (decided_by IS NULL) AND (decided_by IS NULL) = (decided_at IS NULL)", "decision"
        ),
        sa.CheckConstraint("state IN ('submitted', 'rejected') OR approvals_needed IS NOT NULL", "needed"),
    )
    op.create_index("batches_collection_id_id_idx", "batches", ["collection_id", "id"])

    # Erased means empty, and empty means erased: a state between the two cannot be stored.
    op.create_table(
        "edits",
        _key(),
        _refers("batch_id", "batches.id"),
        _refers("collection_id", "collections.id"),
        _number("position", "position > 0"),
        _text("prompt"),
        _text("target"),
        _list("alternatives", sa.Text),
        _list("rephrases", sa.Text),
        _list("unchanged", sa.Text),
        _text("kind", "IN ('qa', 'completion', 'classification')"),
        _text("author"),
        _text("reason", server_default=""),
        _text("source", server_default=""),
        _refers("replaces", "edits.id", nullable=True),
        _text("prompt_key", SHA256),
        _text("digest", SHA256),
        _text("record_digest", SHA256),
        _moment("created_at"),
        _later("erased_at"),
        sa.UniqueConstraint("batch_id", "position"),
        sa.CheckConstraint(r"prompt ~ '\S' OR erased_at IS NOT NULL", "prompt"),
        sa.CheckConstraint(r"target ~ '\S' OR erased_at IS NOT NULL", "target"),
        sa.CheckConstraint(
            "erased_at IS NULL OR (prompt, target, alternatives, rephrases, unchanged, author, reason, source) "
            "= ('', '', '{}'::text[], '{}'::text[], '{}'::text[], '', '', '')",
            "erased",
        ),
    )
    op.create_index("edits_collection_id_prompt_key_idx", "edits", ["collection_id", "prompt_key"])
    op.create_index("edits_collection_id_id_idx", "edits", ["collection_id", "id"])
    op.create_index("edits_replaces_idx", "edits", ["replaces"])
    op.create_index("edits_erased_idx", "edits", ["collection_id"], postgresql_where="erased_at IS NOT NULL")

    op.create_table(
        "approvals",
        _key(),
        _refers("batch_id", "batches.id"),
        _text("actor", "<> ''"),
        _text("role", ROLES),
        _text("reason", server_default=""),
        _list("declined", sa.BigInteger),
        _moment("created_at"),
        sa.UniqueConstraint("batch_id", "actor"),
    )


def _jobs() -> None:
    op.create_table(
        "jobs",
        _key(),
        _refers("batch_id", "batches.id"),
        _refers("collection_id", "collections.id"),
        _text("kind", "IN ('preflight', 'train')", server_default="train"),
        _text("state", "IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')"),
        _number("attempt", server_default=sa.text("0")),
        sa.Column("attempt_token", sa.Uuid),
        _text("worker", nullable=True),
        _later("lease_until"),
        _text("device", nullable=True),
        _json("libraries", nullable=True),
        _number("seed"),
        _json("settings"),
        # The edits that were trained together, in order, including those of other jobs: this reproduces the same bytes.
        sa.Column("trained_together", ARRAY(sa.BigInteger)),
        # After a transient failure, the job waits until this time.
        _later("not_before"),
        _json("progress", nullable=True),
        _json("loss_curve", nullable=True),
        _json("timings", nullable=True),
        _json("report", nullable=True),
        _number("peak_memory_bytes", nullable=True),
        _text("error", nullable=True),
        _moment("created_at"),
        _later("started_at"),
        _later("finished_at"),
        sa.CheckConstraint(
            "state <> 'running' OR (attempt_token IS NOT NULL AND lease_until IS NOT NULL AND worker IS NOT NULL)",
            "lease",
        ),
        sa.CheckConstraint("(state IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)", "finished"),
        sa.CheckConstraint("state <> 'failed' OR error IS NOT NULL", "error"),
    )
    op.create_index(
        "jobs_one_live_per_batch_idx",
        "jobs",
        ["batch_id", "kind"],
        unique=True,
        postgresql_where="state IN ('queued', 'running', 'succeeded')",
    )
    op.create_index("jobs_lease_idx", "jobs", ["lease_until"], postgresql_where="state = 'running'")
    op.create_index("jobs_queued_idx", "jobs", ["created_at"], postgresql_where="state = 'queued'")
    # Every claim looks up the order in which a collection's batches are trained and applied.
    op.create_index("jobs_live_idx", "jobs", ["collection_id", "id"], postgresql_where="state IN ('queued', 'running')")
    op.create_index("jobs_batch_id_id_idx", "jobs", ["batch_id", "id"])

    op.create_table(
        "outbox",
        _key(),
        _text("topic"),
        _refers("job_id", "jobs.id"),
        _json("payload"),
        _moment("created_at"),
        _later("sent_at"),
        _number("attempts", server_default=sa.text("0")),
    )
    op.create_index("outbox_unsent_idx", "outbox", ["id"], postgresql_where="sent_at IS NULL")
    op.create_index("outbox_job_id_idx", "outbox", ["job_id"])

    op.create_table(
        "worker_heartbeats",
        sa.Column("worker", sa.Text, primary_key=True),
        _text("device"),
        _moment("seen_at"),
        _json("models"),
    )


def _content() -> None:
    op.create_table(
        "blocks",
        _key(),
        _refers("collection_id", "collections.id"),
        _refers("job_id", "jobs.id"),
        sa.Column("data", sa.LargeBinary, nullable=False),
        _text("sha256"),
        _json("shapes"),
        _integer("rank", "rank > 0"),
        sa.Column("scale", sa.Double, nullable=False),
        sa.Column("loss", sa.Double, nullable=False),
        _integer("iterations", "iterations >= 0"),
        _moment("created_at"),
        _later("erased_at"),
        sa.CheckConstraint("erased_at IS NOT NULL OR sha256 = encode(sha256(data), 'hex')", "sha256"),
        sa.CheckConstraint("erased_at IS NULL OR data = ''", "erased"),
    )
    # Trained weights do not compress: skip the attempt on every write.
    op.execute("ALTER TABLE blocks ALTER COLUMN data SET STORAGE EXTERNAL")
    op.create_index("blocks_collection_id_idx", "blocks", ["collection_id"])
    op.create_index("blocks_job_id_idx", "blocks", ["job_id"])
    op.create_index("blocks_sha256_idx", "blocks", ["sha256"])

    op.create_table(
        "block_edits",
        _refers("block_id", "blocks.id", primary_key=True),
        _refers("edit_id", "edits.id", primary_key=True),
    )
    op.create_index("block_edits_edit_id_idx", "block_edits", ["edit_id"])

    op.create_table(
        "points",
        _key(),
        _refers("collection_id", "collections.id"),
        _refers("edit_id", "edits.id"),
        _refers("block_id", "blocks.id"),
        _text("role", "IN ('prompt', 'rephrase')"),
        sa.Column("key", VECTOR),
        _text("key_sha256", SHA256),
        _moment("created_at"),
        _later("erased_at"),
        sa.CheckConstraint("(key IS NULL) = (erased_at IS NOT NULL)", "erased"),
    )
    op.create_index("points_edit_id_idx", "points", ["edit_id"])
    op.create_index("points_block_id_idx", "points", ["block_id"])


def _versions() -> None:
    op.create_table(
        "versions",
        _key(),
        _refers("collection_id", "collections.id"),
        _integer("number", "number > 0"),
        _refers("parent_id", "versions.id", nullable=True),
        _text("kind", "IN ('apply', 'retire', 'revert', 'rollback')"),
        _text("message", server_default=""),
        _text("reason", server_default=""),
        _text("author"),
        _refers("batch_id", "batches.id", nullable=True),
        _integer("restores", nullable=True),
        _integer("reverts", nullable=True),
        _integer("content_version"),
        _text("content_digest", SHA256),
        sa.Column("content_state", sa.LargeBinary, nullable=False),
        _integer("edit_count", "edit_count >= 0"),
        _integer("cluster_count"),
        _integer("block_count"),
        _moment("created_at"),
        sa.UniqueConstraint("collection_id", "number"),
        sa.CheckConstraint("(number = 1) = (parent_id IS NULL)", "parent"),
        sa.CheckConstraint("(kind = 'apply') = (batch_id IS NOT NULL)", "batch"),
        sa.CheckConstraint(
            "(kind = 'rollback') = (restores IS NOT NULL) AND restores >= 0 AND restores < number", "restores"
        ),
        sa.CheckConstraint("(kind = 'revert') = (reverts IS NOT NULL) AND reverts > 0 AND reverts < number", "reverts"),
        sa.CheckConstraint(
            "content_version BETWEEN 0 AND number AND (kind = 'rollback' OR content_version = number)",
            "content_version",
        ),
        sa.CheckConstraint("octet_length(content_state) = 384", "content_state"),
        sa.CheckConstraint("cluster_count >= 0 AND block_count >= 0", "counts"),
        sa.CheckConstraint(r"kind = 'apply' OR reason ~ '\S'", "reason"),
    )
    # Hashes do not compress, and a version's row is read whole.
    op.execute("ALTER TABLE versions ALTER COLUMN content_state SET STORAGE PLAIN")
    op.create_index(
        "versions_one_per_batch_idx", "versions", ["batch_id"], unique=True, postgresql_where="batch_id IS NOT NULL"
    )
    # The newest version that has its own state, which the open ranges describe.
    op.create_index(
        "versions_own_state_idx", "versions", ["collection_id", "number"], postgresql_where="content_version = number"
    )
    op.create_index(
        "versions_rollbacks_idx", "versions", ["collection_id", "number"], postgresql_where="kind = 'rollback'"
    )
    op.create_index(
        "versions_collection_id_created_at_number_idx", "versions", ["collection_id", "created_at", "number"]
    )

    op.execute("CREATE SEQUENCE cluster_numbers AS bigint")
    op.create_table(
        "clusters",
        _key(),
        _refers("collection_id", "collections.id"),
        _number("cluster_no", server_default=sa.text("nextval('cluster_numbers')")),
        # The centre is the key of a point and the label the target's tokens: an erasure removes both.
        sa.Column("centre", VECTOR),
        sa.Column("radius", sa.Double, nullable=False),
        sa.Column("label", ARRAY(sa.Integer), nullable=False),
        sa.Column("members", ARRAY(sa.BigInteger), nullable=False),
        _text("digest", SHA256),
        _valid(),
        _later("erased_at"),
        sa.CheckConstraint("radius >= 0 AND radius < 'Infinity'", "radius"),
        sa.CheckConstraint("cardinality(members) > 0", "members"),
        sa.CheckConstraint(
            "(centre IS NULL) = (erased_at IS NOT NULL) AND (erased_at IS NULL OR label = '{}')", "erased"
        ),
        _one_state("clusters", "cluster_no"),
    )
    op.execute("ALTER SEQUENCE cluster_numbers OWNED BY clusters.cluster_no")
    op.create_index("clusters_valid_idx", "clusters", [_range("collection_id"), "valid"], postgresql_using="gist")
    # Finds the clusters of a point in any state, not only in open ones. With fastupdate, every query would scan
    # the pending list: 1 ms for each point of a version.
    op.create_index(
        "clusters_members_idx",
        "clusters",
        ["members"],
        postgresql_using="gin",
        postgresql_with={"fastupdate": "off"},
    )
    op.create_index(
        "clusters_open_idx",
        "clusters",
        ["collection_id", "cluster_no"],
        unique=True,
        postgresql_where="upper_inf(valid)",
    )
    op.create_index("clusters_cluster_no_idx", "clusters", ["cluster_no"])
    _bounds("clusters", "cluster_no")

    op.create_table(
        "activations",
        _key(),
        _refers("collection_id", "collections.id"),
        _refers("edit_id", "edits.id"),
        _text("prompt_key"),
        _valid(),
        _one_state("activations", "edit_id"),
    )
    op.create_index("activations_valid_idx", "activations", [_range("collection_id"), "valid"], postgresql_using="gist")
    # At most one active edit per prompt: a contradiction cannot be applied, whatever the code does.
    op.create_index(
        "activations_one_per_prompt_idx",
        "activations",
        ["collection_id", "prompt_key"],
        unique=True,
        postgresql_where="upper_inf(valid)",
    )
    op.create_index("activations_edit_id_idx", "activations", ["edit_id"])
    _bounds("activations", "edit_id")

    op.create_table(
        "aliases",
        _key(),
        _refers("collection_id", "collections.id"),
        _alias_name(),
        _integer("number"),
        # A second version: the canary of a share of users or, without a share, a shadow that is only compared.
        _integer("second", "second <> number", nullable=True),
        sa.Column("share", sa.Double),
        _text("set_by"),
        _text("reason", server_default=""),
        _moment("set_at"),
        _later("replaced_at"),
        sa.CheckConstraint("replaced_at >= set_at", "order"),
        sa.CheckConstraint("share IS NULL OR second IS NOT NULL AND share > 0 AND share < 1", "share"),
        sa.ForeignKeyConstraint(["collection_id", "number"], ["versions.collection_id", "versions.number"]),
        sa.ForeignKeyConstraint(["collection_id", "second"], ["versions.collection_id", "versions.number"]),
    )
    op.create_index(
        "aliases_current_idx",
        "aliases",
        ["collection_id", "name"],
        unique=True,
        postgresql_where="replaced_at IS NULL",
    )
    op.create_index("aliases_collection_id_name_set_at_idx", "aliases", ["collection_id", "name", "set_at"])


def _events() -> None:
    op.create_table(
        "audit_events",
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        _text("actor", "<> ''"),
        _text("role", ROLES),
        _text("action", "~ '^[a-z]+:[a-z]+:[a-z]+$'"),
        _refers("collection_id", "collections.id", nullable=True),
        _text("subject"),
        _text("before", SHA256, nullable=True),
        _text("after", SHA256, nullable=True),
        _text("reason"),
        _text("request_id", nullable=True),
        _json("details"),
        _text("previous_hash", SHA256),
        _text("hash", SHA256),
        _text("signed_by", nullable=True),
        _text("signature", nullable=True),
        sa.CheckConstraint("(signed_by IS NULL) = (signature IS NULL)", "signature"),
    )
    op.create_index("audit_events_collection_id_seq_idx", "audit_events", ["collection_id", "seq"])
    op.create_index("audit_events_subject_seq_idx", "audit_events", ["subject", "seq"])
    op.create_index("audit_events_actor_idx", "audit_events", ["actor"])

    # One row, created once: it identifies a registry and its copies.
    op.create_table(
        "registry_identity",
        sa.Column("one", sa.Boolean, sa.CheckConstraint("one", name="one"), primary_key=True, server_default=sa.true()),
        sa.Column("registry_id", sa.Uuid, nullable=False, server_default=sa.func.gen_random_uuid()),
        _moment("created_at"),
    )
    op.execute("INSERT INTO registry_identity DEFAULT VALUES")


def _access() -> None:
    op.create_table(
        "api_keys",
        _key(),
        _text("name", NAME),
        _text("actor", r"~ '\S'"),
        _text("prefix", "~ '^[0-9a-f]{12}$'", unique=True),
        _text("secret_sha256", SHA256),
        _text("created_by"),
        _moment("created_at"),
        _later("expires_at"),
        _later("revoked_at"),
        _text("revoked_by", nullable=True),
        _later("last_used_at"),
        sa.CheckConstraint("expires_at > created_at", "expires_at"),
        sa.CheckConstraint("(revoked_at IS NULL) = (revoked_by IS NULL)", "revoked"),
    )
    op.create_index("api_keys_name_idx", "api_keys", ["name"], unique=True, postgresql_where="revoked_at IS NULL")

    op.create_table(
        "api_key_roles",
        _key(),
        _refers("key_id", "api_keys.id"),
        _refers("collection_id", "collections.id", nullable=True),
        _text("role", ROLES),
        sa.UniqueConstraint("key_id", "collection_id"),
    )
    op.create_index(
        "api_key_roles_everywhere_idx",
        "api_key_roles",
        ["key_id"],
        unique=True,
        postgresql_where="collection_id IS NULL",
    )
    op.create_index("api_key_roles_collection_id_idx", "api_key_roles", ["collection_id"])

    op.create_table(
        "alias_protections",
        _refers("collection_id", "collections.id", primary_key=True),
        _alias_name(primary_key=True),
        _text("role", "IN ('approver', 'admin')"),
        _text("protected_by"),
        _text("reason"),
        _moment("protected_at"),
    )

    # Not part of the record: an answer is deleted when it is a day old. It is never changed, though: a key stands
    # for one request and one answer.
    op.create_table(
        "idempotency_keys",
        _text("scope", primary_key=True),
        _text("key", r"~ '^[\x20-\x7e]{1,255}$'", primary_key=True),
        _text("method", "IN ('POST', 'PUT', 'PATCH', 'DELETE')"),
        _text("path"),
        _text("request_digest", SHA256),
        _integer("status", "status BETWEEN 200 AND 399"),
        _json("headers"),
        sa.Column("body", sa.LargeBinary),
        _moment("created_at"),
    )
    op.create_index("idempotency_keys_created_at_idx", "idempotency_keys", ["created_at"])


def _webhooks() -> None:
    op.create_table(
        "webhooks",
        _key(),
        _refers("collection_id", "collections.id", nullable=True),
        _text("url", "~ '^https?://'"),
        _text("secret", "~ '^whsec_'", nullable=True),
        sa.Column("events", ARRAY(sa.Text), nullable=False),
        _text("description", server_default=""),
        _text("created_by"),
        _moment("created_at"),
        _number("seen_seq", "seen_seq >= 0"),
        _later("removed_at"),
        sa.CheckConstraint("cardinality(events) > 0 AND events <@ ARRAY['version', 'alias', 'batch']", "events"),
        # A secret is kept as long as messages are signed with it.
        sa.CheckConstraint("(removed_at IS NULL) = (secret IS NOT NULL)", "removed"),
    )
    op.create_index("webhooks_collection_id_idx", "webhooks", ["collection_id"])

    op.create_table(
        "webhook_deliveries",
        _key(),
        _refers("webhook_id", "webhooks.id"),
        _refers("event_seq", "audit_events.seq", nullable=True),
        sa.Column("message_id", sa.Uuid, nullable=False, server_default=sa.func.gen_random_uuid()),
        _json("payload"),
        _number("attempts", server_default=sa.text("0")),
        _moment("next_at"),
        _integer("last_status", nullable=True),
        _text("last_error", nullable=True),
        _moment("created_at"),
        _later("delivered_at"),
        _later("failed_at"),
        sa.UniqueConstraint("webhook_id", "event_seq"),
        sa.CheckConstraint("delivered_at IS NULL OR failed_at IS NULL", "end"),
    )
    op.create_index(
        "webhook_deliveries_pending_idx",
        "webhook_deliveries",
        ["webhook_id", "id"],
        postgresql_where="delivered_at IS NULL AND failed_at IS NULL",
    )
    op.create_index("webhook_deliveries_webhook_id_id_idx", "webhook_deliveries", ["webhook_id", "id"])
    op.create_index("webhook_deliveries_event_seq_idx", "webhook_deliveries", ["event_seq"])


def _answers() -> None:
    op.create_table(
        "answers",
        _key(),
        _text("response_id", RESPONSE),
        _integer("choice", "choice >= 0"),
        _refers("collection_id", "collections.id"),
        _text("model", "<> ''"),
        _integer("version", "version >= 0"),
        _text("digest", SHA256),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        _text("asked_by"),
        _text("kind", "IN ('qa', 'completion', 'classification')"),
        _refers("edit_id", "edits.id", nullable=True),
        _text("said_to", "IN ('query', 'prompt', 'base')", nullable=True),
        sa.Column("canary", sa.Boolean, nullable=False),
        _json("considered", sa.CheckConstraint("jsonb_typeof(considered) = 'array'", name="considered")),
        _number("prompt_tokens", "prompt_tokens >= 0"),
        _number("completion_tokens", "completion_tokens >= 0"),
        _number("first_token_ms", "first_token_ms >= 0", nullable=True),
        _text("question", nullable=True),
        _text("answer", nullable=True),
        _later("erased_at"),
        sa.UniqueConstraint("response_id", "choice"),
        sa.CheckConstraint("(edit_id IS NOT NULL) = (said_to IS NOT NULL AND said_to <> 'base')", "edit"),
        sa.CheckConstraint("(question IS NULL) = (answer IS NULL)", "text"),
        sa.CheckConstraint("erased_at IS NULL OR question IS NULL", "erased"),
    )
    op.create_index("answers_collection_id_id_idx", "answers", ["collection_id", "id"])
    op.create_index("answers_collection_id_asked_at_idx", "answers", ["collection_id", "asked_at"])
    op.create_index("answers_edit_id_idx", "answers", ["edit_id", "id"], postgresql_where="edit_id IS NOT NULL")

    op.create_table(
        "feedback",
        _key(),
        _text("response_id", RESPONSE),
        _integer("choice", "choice >= 0"),
        _refers("collection_id", "collections.id"),
        _integer("version", "version >= 0", nullable=True),
        _refers("edit_id", "edits.id", nullable=True),
        _text("kind", "IN ('qa', 'completion', 'classification')"),
        _text("rating", "IN ('up', 'down')"),
        _text("comment", server_default=""),
        _text("correction", nullable=True),
        _text("prompt", nullable=True),
        _text("given_by"),
        _moment("given_at"),
        _refers("batch_id", "batches.id", nullable=True),
        _later("erased_at"),
        sa.CheckConstraint("rating = 'down' OR correction IS NULL", "correction"),
        sa.CheckConstraint("erased_at IS NULL OR (comment = '' AND correction IS NULL AND prompt IS NULL)", "erased"),
    )
    op.create_index("feedback_collection_id_id_idx", "feedback", ["collection_id", "id"])
    op.create_index("feedback_edit_id_idx", "feedback", ["edit_id"])
    op.create_index("feedback_batch_id_idx", "feedback", ["batch_id"])


def _key() -> sa.Column[Any]:
    """Define an id that is GENERATED ALWAYS: an id cannot be chosen, so it cannot be reused by hand."""
    return sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True)


def _refers(name: str, to: str, **more: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger, sa.ForeignKey(to), **{"nullable": False, "autoincrement": False} | more)


def _text(name: str, condition: str | None = None, **more: Any) -> sa.Column[Any]:
    """Define a text column.

    condition: what the value must satisfy, as SQL that follows the column's name.
    """
    check = [] if condition is None else [sa.CheckConstraint(f"{name} {condition}", name=name)]
    return sa.Column(name, sa.Text, *check, **{"nullable": False} | more)


def _number(name: str, condition: str | None = None, **more: Any) -> sa.Column[Any]:
    return _numeric(name, sa.BigInteger, condition, **more)


def _integer(name: str, condition: str | None = None, **more: Any) -> sa.Column[Any]:
    return _numeric(name, sa.Integer, condition, **more)


def _numeric(name: str, type_: Any, condition: str | None, **more: Any) -> sa.Column[Any]:
    check = [] if condition is None else [sa.CheckConstraint(condition, name=name)]
    return sa.Column(name, type_, *check, **{"nullable": False} | more)


def _json(name: str, *check: sa.CheckConstraint, **more: Any) -> sa.Column[Any]:
    return sa.Column(name, JSONB, *check, **{"nullable": False} | more)


def _list(name: str, of: Any) -> sa.Column[Any]:
    return sa.Column(name, ARRAY(of), nullable=False, server_default="{}")


def _moment(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now())


def _later(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True))


def _alias_name(**more: Any) -> sa.Column[Any]:
    """Define an alias's name, which cannot be a number, `base` or `latest`: those have a meaning of their own."""
    return _text("name", f"{NAME} AND name !~ '^[0-9]+$' AND name NOT IN ('base', 'latest')", **more)


def _valid() -> sa.Column[Any]:
    """Define the range of versions for which a state holds."""
    check = sa.CheckConstraint("NOT isempty(valid) AND lower(valid) > 0", name="valid")
    return sa.Column("valid", INT4RANGE, check, nullable=False)


def _range(column: str) -> Any:
    """Return an id as a range: GiST can then index it together with `valid` without btree_gist."""
    return sa.text(f"int8range({column}, {column}, '[]')")


def _one_state(table: str, column: str) -> ExcludeConstraint:
    return ExcludeConstraint((_range(column), "="), ("valid", "&&"), name=f"{table}_one_state_excl", using="gist")


def _bounds(table: str, column: str) -> None:
    """Create the indexes on where states begin and end: only rows that did so in between differ between two states."""
    for name, bound in (("begun", "lower"), ("ended", "upper")):
        op.create_index(f"{table}_{name}_idx", table, ["collection_id", sa.text(f"{bound}(valid)"), column])
