"""Cancels a batch after its approval, before it is applied."""

from sqlalchemy.orm import Session

from registry.audit.actor import Actor
from registry.audit.details import BatchCancel
from registry.base.errors import WrongState
from registry.base.vocabulary import BatchState
from registry.batches import deciding, service
from registry.collections import repository as collections
from registry.jobs import service as queue
from registry.tables.edits import Batch

_WAYS_OUT = {
    BatchState.SUBMITTED: "It is not decided on yet: `melo batch reject {id} --reason …`.",
    BatchState.APPLIED: "Its edits act already: `melo edit retire` or `melo version revert` takes them back.",
}


def cancel(session: Session, batch_id: int, actor: Actor, reason: str) -> Batch:
    """Stop a batch that waits for its training or is being trained. It can be approved again.

    Its worker finds out at the next heartbeat, and nothing that it submits counts any more. An editor may stop only
    their own batch. Raises WrongState or RoleNeeded.
    """
    collections.lock(session, service.get(session, batch_id).collection_id)
    batch = service.lock(session, batch_id)
    deciding.require_may_stop(batch, actor, "cancel")
    state = BatchState(batch.state)
    if state not in (BatchState.APPROVED, BatchState.TRAINING):
        raise WrongState(
            f"Batch {batch.id} cannot be cancelled: it is {state}.",
            _WAYS_OUT.get(state, "Only a batch that is approved or in training can be cancelled.").format(id=batch.id),
        )
    batch.state = BatchState.CANCELLED
    deciding.decide(batch, actor, reason)
    session.flush()
    jobs = list(queue.cancel(session, batch))
    deciding.record_decision(session, BatchCancel(submitted_by=batch.submitted_by, jobs=jobs), batch, actor, reason)
    return batch
