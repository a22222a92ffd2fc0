"""Invariants of the record after faults: each batch takes effect once and in turn, or has a reason not to."""

from collections.abc import Collection
from dataclasses import dataclass, field

from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from benchmarks.record import measure
from registry.verification import service as verification


@dataclass
class Findings:
    """Violations by kind, each described in words."""

    lost: list[str] = field(default_factory=list)  # neither applied nor ended with a reason
    repeated: list[str] = field(default_factory=list)  # an effect that occurred more than once
    orphans: list[str] = field(default_factory=list)  # blocks without a successful job
    events: list[str] = field(default_factory=list)  # changes missing from the audit log
    others: list[str] = field(default_factory=list)

    @property
    def all(self) -> list[str]:
        return [*self.lost, *self.repeated, *self.orphans, *self.events, *self.others]

    def __iadd__(self, other: "Findings") -> "Findings":
        for name, found in vars(other).items():
            getattr(self, name).extend(found)
        return self


def of_batches(sessions: sessionmaker[Session], batch_ids: Collection[int]) -> Findings:
    """Return the violations among these batches alone, cheaply."""
    found = Findings()
    with sessions() as session:
        for kind, queries in _OF_BATCHES.items():
            for query in queries:
                getattr(found, kind).extend(session.scalars(text(query), {"batches": list(batch_ids)}))
    return found


def of_everything(sessions: sessionmaker[Session]) -> Findings:
    """Return the other violations in the whole record, with every digest recomputed."""
    found = Findings()
    with sessions() as session:
        if gaps := measure.gaps(session):
            found.others.append(f"{gaps} numbers are missing between versions")
        if missing := measure.events_missing(session):
            found.events.append(f"{missing} changes have no event")
        found.orphans.extend(session.scalars(text(_ORPHANS)))
    with sessions.begin() as session:
        found.others += [f"{each.subject}: {each.detail}" for each in verification.verify(session).findings]
    return found


def reasons(sessions: sessionmaker[Session], batch_ids: Collection[int]) -> dict[int, str]:
    """Return the first line of the error of each failed batch, by id."""
    query = "SELECT batch_id, error FROM jobs WHERE state = 'failed' AND batch_id = ANY(:batches) ORDER BY id"
    with sessions() as session:
        rows = session.execute(text(query), {"batches": list(batch_ids)}).all()
    return {batch_id: (error or "").partition("\n")[0] for batch_id, error in rows}


_LOST = """
SELECT format('batch %s is %s and its job %s is %s, after %s attempts: %s', batches.id, batches.state, jobs.id,
    jobs.state, jobs.attempt, jobs.error)
FROM batches LEFT JOIN jobs ON jobs.batch_id = batches.id
WHERE batches.id = ANY(:batches) AND (batches.state IN ('approved', 'training') OR jobs.state IN ('queued', 'running'))
"""

_NO_REASON = """
SELECT format('job %s of batch %s failed without a reason', id, batch_id) FROM jobs
WHERE batch_id = ANY(:batches) AND state = 'failed' AND coalesce(error, '') = ''
"""

_NOT_THERE = """
SELECT format('edit %s of batch %s, which was applied, %s', edits.id, batch_id, wrong)
FROM edits JOIN batches ON batches.id = edits.batch_id AND batches.state = 'applied',
LATERAL (
    SELECT 'acts in no version' WHERE NOT EXISTS (
        SELECT 1 FROM activations WHERE edit_id = edits.id AND upper_inf(valid))
    UNION ALL SELECT 'has no block' WHERE NOT EXISTS (SELECT 1 FROM block_edits WHERE edit_id = edits.id)
    UNION ALL SELECT 'is in no cluster' WHERE NOT EXISTS (
        SELECT 1 FROM points JOIN clusters ON clusters.members @> ARRAY[points.id] AND upper_inf(clusters.valid)
        WHERE points.edit_id = edits.id)
) AS found (wrong)
WHERE batch_id = ANY(:batches)
"""

_NO_VERSION = """
SELECT format('batch %s is applied and has %s versions', id, made)
FROM batches, LATERAL (SELECT count(*) FROM versions WHERE batch_id = batches.id) AS found (made)
WHERE id = ANY(:batches) AND made <> (state = 'applied')::int
"""

# The earlier batch of no lower priority comes first. No batch here has a deadline.
_OUT_OF_ORDER = """
WITH applied AS (
    SELECT jobs.id AS job, batch_id, number, batches.collection_id,
        array_position(ARRAY['high', 'normal', 'low'], priority) AS rank
    FROM batches JOIN versions ON versions.batch_id = batches.id JOIN jobs USING (batch_id)
    WHERE batches.id = ANY(:batches) AND jobs.kind = 'train' AND jobs.state = 'succeeded'
)
SELECT format('batch %s was applied before batch %s', later.batch_id, earlier.batch_id)
FROM applied AS earlier JOIN applied AS later USING (collection_id)
WHERE earlier.job < later.job AND earlier.rank <= later.rank AND earlier.number > later.number
"""

_TWO_BLOCKS = """
SELECT format('edit %s of batch %s has %s blocks', edit_id, jobs.batch_id, count(*))
FROM block_edits JOIN blocks ON blocks.id = block_id JOIN jobs ON jobs.id = job_id
WHERE jobs.batch_id = ANY(:batches) GROUP BY edit_id, jobs.batch_id HAVING count(*) > 1
"""

_TWO_ENDS = """
SELECT format('batch %s has %s jobs that succeeded', batch_id, count(*)) FROM jobs
WHERE batch_id = ANY(:batches) AND kind = 'train' AND state = 'succeeded' GROUP BY batch_id HAVING count(*) > 1
"""

_ORPHANS = """
SELECT format('block %s is of job %s, which is %s', blocks.id, jobs.id, jobs.state)
FROM blocks JOIN jobs ON jobs.id = blocks.job_id
WHERE jobs.state <> 'succeeded'
UNION ALL SELECT format('block %s has no edit or no point', id) FROM blocks
WHERE NOT EXISTS (SELECT 1 FROM block_edits WHERE block_id = blocks.id)
   OR NOT EXISTS (SELECT 1 FROM points WHERE block_id = blocks.id)
"""

# An end that was recorded once, and each attempt that led to it.
_NOT_TOLD = """
SELECT format('batch %s is %s, and %s events say %s', batches.id, batches.state, told, action)
FROM batches JOIN (VALUES ('applied', 'version:apply'), ('failed', 'batch:fail'), ('cancelled', 'batch:cancel'))
    AS ends (state, action) USING (state),
LATERAL (
    SELECT count(*) FROM audit_events WHERE audit_events.action = 'collection:' || ends.action
    AND CASE state WHEN 'applied' THEN subject IN (
            SELECT 'version/' || name || '/' || number FROM versions
            JOIN collections ON collections.id = versions.collection_id WHERE batch_id = batches.id)
        ELSE subject = 'batch/' || batches.id END
) AS found (told)
WHERE batches.id = ANY(:batches) AND told <> 1
UNION ALL SELECT format('job %s took %s attempts, and %s events say so', jobs.id, attempt, told)
FROM jobs, LATERAL (
    SELECT count(*) FROM audit_events WHERE action = 'collection:batch:train' AND subject = 'batch/' || batch_id
) AS found (told)
WHERE batch_id = ANY(:batches) AND kind = 'train' AND attempt > told
"""

_OF_BATCHES = {
    "lost": [_LOST, _NO_REASON],
    "repeated": [_NO_VERSION, _TWO_BLOCKS, _TWO_ENDS],
    "events": [_NOT_TOLD],
    "others": [_NOT_THERE, _OUT_OF_ORDER],
}
