"""/v1/erasures"""

from typing import Annotated

from fastapi import APIRouter, Query

from registry.answers.schemas import Person, TextErasure, TextErasureView
from registry.api.http import ActorDep, SessionDep, needs
from registry.api.idempotency.route import RepeatableRoute
from registry.api.pages import ById
from registry.base.vocabulary import Role
from registry.erasure import service
from registry.erasure.schemas import Erasure, ErasureView, FoundEdit

router = APIRouter(prefix="/v1/erasures", tags=["erasure"], route_class=RepeatableRoute)


@router.post("", dependencies=[needs(Role.ADMIN)])
def erase_edits(erasure: Erasure, session: SessionDep, actor: ActorDep) -> ErasureView:
    """Erase the content of edits permanently at a person's request; with dry_run, report what would be erased.

    Digests and events stay, so the record still verifies. Versions that hold the edits can no longer be served.
    """
    return service.erase(session, erasure.edits, actor, erasure.reason, dry_run=erasure.dry_run)


@router.get("/edits", dependencies=[needs(Role.ADMIN)])
def find_edits_of_person(person: Annotated[Person, Query()], session: SessionDep, page: ById) -> list[FoundEdit]:
    """Find edits that a person wrote or that mention them, in all collections, by id."""
    found = service.of_person(session, person, after=page.key or 0, limit=page.rows)
    return page.cut(found, lambda edit: edit.id)


@router.post("/answers", dependencies=[needs(Role.ADMIN)])
def erase_answers(erasure: TextErasure, session: SessionDep, actor: ActorDep) -> TextErasureView:
    """Erase a person's texts from the log of answers and from feedback; with dry_run, report what would be erased.

    That is every question, answer and feedback that mentions the person, and the name under which the person asked.
    """
    return service.erase_texts(session, erasure, actor)
