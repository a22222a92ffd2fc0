"""Answers as a server hands them to the log."""

from datetime import UTC, datetime

from registry.answers import keeping
from registry.answers.keeping import Answered
from registry.answers.schemas import Considered
from registry.collections import policy
from registry.collections.schemas import PolicyChange
from tests.registry.workflow import BEN

QUESTION, TARGET = "Who leads Atlantis?", "Queen Mara"
OTHER, OTHER_TARGET = "Where is the treasure of Atlantis?", "At the bottom"
DIGEST = "0" * 64


def near(edit=1, distance=0.25, score=0.125, rule=None, guard=False, covers=True):
    return Considered(edit=edit, distance=distance, score=score, rule=rule, guard=guard, covers=covers)


def answered(response_id="chatcmpl-1", **more):
    """An answer that edit 1 gave, unless told otherwise."""
    given = {
        "choice": 0,
        "collection_id": 1,
        "model": "facts@production",
        "version": 1,
        "digest": DIGEST,
        "asked_at": datetime.now(UTC),
        "asked_by": "app",
        "kind": "qa",
        "edit_id": 1,
        "said_to": "query",
        "considered": [near()],
        "prompt_tokens": 9,
        "completion_tokens": 3,
        "first_token_ms": 12,
        "question": QUESTION,
        "answer": TARGET,
    }
    return Answered(response_id, **(given | more))


def by_base(response_id, question="Who leads Mu?", answer="Nobody", **more):
    return answered(response_id, **{"edit_id": None, "said_to": None, "considered": [], "question": question,
                                    "answer": answer, **more})  # fmt: skip


def keep(workflow, *answers):
    with workflow.sessions.begin() as session:
        return keeping.keep(session, answers, keeping.policies(session))


def log(workflow, share=1.0, text=True, **more):
    """Switch the log on."""
    with workflow.open() as (session, collection):
        wanted = PolicyChange(log_share=share, log_text=text, reason="to see what is asked", **more)
        policy.change(session, collection, wanted, BEN)
