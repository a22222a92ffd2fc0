"""A collection with many versions, written by SQL in one go: for what it costs to work with it."""

from sqlalchemy import Engine, text

# From version 2 on, each adds so many edits; every tenth retires one of those that the version before it added.
_STATEMENTS = """
INSERT INTO edits (batch_id, collection_id, position, prompt, target, kind, author, prompt_key, digest, record_digest)
SELECT 1, 1, n, 'large question ' || n || '?', 'answer', 'qa', 'ada',
       encode(sha256(('key' || n)::bytea), 'hex'), encode(sha256(('edit' || n)::bytea), 'hex'),
       encode(sha256(('record' || n)::bytea), 'hex')
FROM generate_series(2, :edits) AS n ORDER BY n;

INSERT INTO blocks (collection_id, job_id, data, sha256, shapes, rank, scale, loss, iterations)
SELECT 1, 1, n::text::bytea, encode(sha256(n::text::bytea), 'hex'), '{}', 4, 1, 0.01, 10
FROM generate_series(2, :edits) AS n ORDER BY n;

INSERT INTO block_edits SELECT n, n FROM generate_series(2, :edits) AS n;

INSERT INTO points (collection_id, edit_id, block_id, role, key, key_sha256)
SELECT 1, n, n, 'prompt', ARRAY[n % 7, n % 11, n % 13, n % 17]::vector, encode(sha256(('key' || n)::bytea), 'hex')
FROM generate_series(2, :edits) AS n ORDER BY n;

CREATE TEMP TABLE spans ON COMMIT DROP AS
SELECT n, CASE WHEN (n - 2) % (10 * :each) = 0 AND (n - 2) / :each + 3 <= :versions
               THEN int4range((n - 2) / :each + 2, (n - 2) / :each + 3)
               ELSE int4range((n - 2) / :each + 2, NULL) END AS valid
FROM generate_series(2, :edits) AS n;

INSERT INTO clusters (collection_id, centre, radius, label, members, digest, valid)
SELECT 1, ARRAY[n % 7, n % 11, n % 13, n % 17]::vector, 0.8, '{1,2}', ARRAY[n],
       encode(sha256(('cluster' || n)::bytea), 'hex'), valid
FROM spans ORDER BY n;

INSERT INTO activations (collection_id, edit_id, prompt_key, valid)
SELECT 1, n, encode(sha256(('key' || n)::bytea), 'hex'), valid FROM spans ORDER BY n;

INSERT INTO versions (collection_id, number, parent_id, kind, message, reason, author, content_version, content_digest,
                      content_state, edit_count, cluster_count, block_count, created_at)
SELECT 1, v, v - 1, 'retire', 'synthetic', 'synthetic', 'ada', v, encode(sha256(('version' || v)::bytea), 'hex'),
       decode(repeat('01', 384), 'hex'), active, active, active, (SELECT created_at FROM versions) + v * interval '1 ms'
FROM generate_series(2, :versions) AS v
CROSS JOIN LATERAL (SELECT 1 + (v - 1) * :each - (v + 7) / 10 AS active) AS counted ORDER BY v;

INSERT INTO audit_events
SELECT head.seq + n, now(), 'ada', 'admin', 'collection:version:retire', 1, 'version/facts/' || n + 1, NULL, NULL,
       'synthetic', NULL, '{}', encode(sha256((n - 1)::text::bytea), 'hex'), encode(sha256(n::text::bytea), 'hex')
FROM generate_series(1, :versions - 1) AS n CROSS JOIN (SELECT max(seq) AS seq FROM audit_events) AS head;
"""


def fill(engine: Engine, *, versions: int, each: int) -> None:
    """Add versions 2, 3, … to the collection facts, which has version 1 with one edit. Digests are invented."""
    sizes = {"versions": versions, "each": each, "edits": 1 + (versions - 1) * each}
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        for statement in _STATEMENTS.split(";\n"):
            if statement.strip():
                names = {name: value for name, value in sizes.items() if f":{name}" in statement}
                connection.execute(text(statement), names)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))
