"""A record with some of everything in it, and its account of what happened."""

from registry.audit import service as audit
from registry.audit.actor import Actor
from registry.batches import deciding
from registry.jobs import service as queue
from registry.versions import aliases
from tests.registry.workflow import BEN

FRANCE = ("What is the capital of France?", "Lyon")
SPAIN = ("What is the capital of Spain?", "Seville")
CLEO = Actor("cleo")


def decide_otherwise(workflow):
    """Batch 3 is rejected; batch 4 failed, is approved again by another and waits for its training."""
    for prompt, target in ((FRANCE[0], "Nice"), (SPAIN[0], "Cadiz")):
        workflow.submit({"prompt": prompt, "target": target}, on_conflict="replace", message="cities", source="c.jsonl")
    with workflow.sessions.begin() as session:
        deciding.reject(session, 3, BEN, "not true")
    claim = workflow.claim(workflow.approve(4))
    with workflow.sessions.begin() as session:
        queue.fail(session, claim, "out of memory")
    workflow.approve(4, CLEO)


def use(workflow):
    workflow.correct(FRANCE)
    workflow.correct(SPAIN)
    workflow.retire(workflow.active()[SPAIN[0]])
    workflow.rollback(2)
    for number, reason, canary in ((1, "first release", {}), (2, "second release", {"second": 3, "share": 0.25})):
        with workflow.open() as (session, collection):
            aliases.set_alias(session, collection, "production", number, BEN, reason, **canary)
    decide_otherwise(workflow)


def events(workflow):
    with workflow.sessions() as session:
        return list(reversed(audit.log(session, collection_id=None, subject=None, before=None, limit=1000)))
