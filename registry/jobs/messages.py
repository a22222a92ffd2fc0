"""Messages that wake a worker for a new job, or for jobs that waited for another one to end."""

from sqlalchemy.orm import Session

from registry.jobs import order, outbox, repository

TRAIN = "worker.train"  # the Celery task's name, of preflights too: the job's row says what is to be done


def wake(session: Session, job_id: int) -> None:
    """Add a message for the job, in the transaction that makes it necessary."""
    outbox.add_message(session, TRAIN, job_id)


def wake_again(session: Session, job_id: int) -> None:
    """Add a message for a job whose earlier messages had no effect."""
    outbox.add_again(session, TRAIN, job_id)


def wake_training(session: Session, batch_id: int) -> None:
    """For the batch's training, which may have waited for its preflight to end."""
    session.flush()
    waiting = repository.waiting_training(session, batch_id)
    if waiting is not None:
        wake(session, waiting)


def wake_next(session: Session, collection_id: int) -> None:
    """Add a message for the collection's next training, if one waits: its own message may be long gone."""
    session.flush()
    first = next(iter(order.line(session, collection_id, limit=1)), None)
    # For a job that pauses until a given time, the sweep sends a message then.
    if first is not None and not first.is_held and first.is_due:
        wake(session, first.job_id)


def wake_collection(session: Session, collection_id: int) -> None:
    """Add messages for everything that may be started in the collection."""
    session.flush()
    for job_id in order.claimable_of(session, collection_id):
        wake(session, job_id)
