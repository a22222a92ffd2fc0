"""A person's edit in the record, and its erasure."""

from registry.erasure import service
from tests.registry.workflow import BEN

SECRET = "Jo Doe's address"
PRIVATE = {
    "prompt": f"Where is {SECRET}?",
    "target": "12 Elm Street",
    "alternatives": ["Elm Street 12"],
    "rephrases": [f"Tell me {SECRET}"],
    "unchanged": ["Who is Jo Doe?"],
    "author": "jo",
    "reason": "Jo Doe moved",
    "source": "https://example.org/jo-doe",
}
FRANCE = {"prompt": "What is the capital of France?", "target": "Lyon", "author": "ada"}


def correct(workflow, *records):
    claim = workflow.claim(workflow.approve(workflow.submit(*records).batch.id))
    return workflow.finish(claim)


def retire_private(workflow):
    correct(workflow, PRIVATE, FRANCE)
    workflow.retire(1)


def erase(workflow, *edit_ids, dry_run=False):
    with workflow.sessions.begin() as session:
        return service.erase(session, edit_ids, BEN, "request 17", dry_run=dry_run)
