"""Trainings that wait in the queue, and what tests do to them."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import text

from registry.base.vocabulary import Preflight
from registry.batches.training import Training
from registry.collections import service as collections
from registry.collections.schemas import NewCollection
from registry.jobs import repository
from registry.jobs.listing import waits_for
from tests.registry.workflow import ADA, Workflow

SOON = timedelta(hours=1)


def waiting(workflow, prompt, **training):
    """The job of an approved batch of one edit."""
    return workflow.approve(workflow.submit({"prompt": prompt, "target": "x"}, training=Training(**training)).batch.id)


def many(workflow, count, **training):
    return [waiting(workflow, f"question {number}?", **training) for number in range(count)]


def elsewhere(workflow, name="other", model_digest=None):
    """Another collection, over another model where a digest is given."""
    with workflow.sessions.begin() as session:
        model = collections.get(session, "facts").model
        new = NewCollection(name=name, model=model, method={"rank": 4, "batch": 1}, preflight=Preflight.NONE)
        made = collections.create(session, new, ADA)
        if model_digest:
            session.execute(text("SET LOCAL session_replication_role = replica"))
            session.execute(
                text("UPDATE collections SET model_digest = :d WHERE id = :id"), {"d": model_digest, "id": made.id}
            )
    return Workflow(workflow.sessions, name)


def jobs_of(claims):
    return [claim.job_id for claim in claims]


def sql(workflow, statement, **values):
    with workflow.sessions.begin() as session:
        result = session.execute(text(statement), values)
        return result.scalars().all() if result.returns_rows else None


def lose(workflow, job):
    sql(workflow, "UPDATE jobs SET lease_until = now() - interval '1 second' WHERE id = :id", id=job)


def state_of(workflow, batch_id):
    (state,) = sql(workflow, "SELECT state FROM batches WHERE id = :id", id=batch_id)
    return state


def work_off(workflow):
    """The jobs in the order in which one worker gets them."""
    done = []
    while claims := workflow.take():
        done += jobs_of(claims)
        for claim in claims:
            Workflow(workflow.sessions, claim.collection).finish(claim)
    return done


def said(workflow, batch_id):
    with workflow.sessions() as session:
        return waits_for(session, repository.latest_of_batch(session, batch_id))


def overdue(workflow, prompt="late?"):
    job = waiting(workflow, prompt, deadline=datetime.now(UTC) + SOON)
    sql(
        workflow,
        "SET LOCAL session_replication_role = replica; UPDATE batches SET deadline = now() - interval '1 second'",
    )
    return job
