"""/v1/keys and /v1/collections/{collection}/protections"""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from registry.access import service
from registry.access.schemas import CallerView, CreatedKeyView, KeyView, NewKey, Renewal
from registry.api.http import ActorDep, CollectionDep, SessionDep, needs
from registry.api.idempotency.route import RepeatableRoute
from registry.api.pages import ById, ByName
from registry.base.vocabulary import Role
from registry.base.wire import Reason
from registry.tables.access import AliasProtection
from registry.versions import protections
from registry.versions.schemas import Protection, ProtectionView

router = APIRouter(prefix="/v1", tags=["access"], route_class=RepeatableRoute)

KeyId = Annotated[int, Path(ge=1, le=2**63 - 1, examples=[1])]
AliasName = Annotated[str, Path(max_length=100, examples=["production"])]


@router.get("/whoami", dependencies=[needs(Role.VIEWER, anywhere=True)])
def show_caller(request: Request, session: SessionDep) -> CallerView:
    """Show who makes this request, and what they may do where."""
    return service.view_of(session, request.state.caller)


@router.post("/keys", status_code=201, dependencies=[needs(Role.ADMIN)])
def create_key(new: NewKey, session: SessionDep, actor: ActorDep, response: Response) -> CreatedKeyView:
    """Create an API key. The answer is the only place where the key is ever shown."""
    response.headers["Cache-Control"] = "no-store"
    return service.create(session, new, actor)


@router.get("/keys", dependencies=[needs(Role.ADMIN)])
def list_keys(session: SessionDep, page: ById) -> list[KeyView]:
    """List all keys without their secrets, newest first, including revoked ones."""
    found = service.page(session, before=page.key, limit=page.rows)
    return service.views(session, page.cut(found, lambda key: key.id))


@router.post("/keys/{key_id}/rotate", status_code=201, dependencies=[needs(Role.ADMIN)])
def rotate_key(
    key_id: KeyId, renewal: Renewal, session: SessionDep, actor: ActorDep, response: Response
) -> CreatedKeyView:
    """Create a key with the same name, actor, roles and lifetime, and revoke this one."""
    response.headers["Cache-Control"] = "no-store"
    return service.renew(session, key_id, actor, renewal)


@router.delete("/keys/{key_id}", dependencies=[needs(Role.ADMIN)])
def revoke_key(key_id: KeyId, reason: Annotated[Reason, Query()], session: SessionDep, actor: ActorDep) -> KeyView:
    """Revoke a key permanently."""
    return service.revoke(session, key_id, actor, reason)


@router.get(
    "/collections/{collection}/protections",
    response_model=list[ProtectionView],
    dependencies=[needs(Role.VIEWER)],
)
def list_protections(collection: CollectionDep, session: SessionDep, page: ByName) -> list[AliasProtection]:
    """List the aliases that not every approver may set, by name."""
    found = protections.page(session, collection, after=page.key, limit=page.rows)
    return page.cut(found, lambda protection: protection.name)


@router.put(
    "/collections/{collection}/protections/{name}",
    response_model=ProtectionView,
    dependencies=[needs(Role.ADMIN)],
)
def protect_alias(
    name: AliasName, protection: Protection, collection: CollectionDep, session: SessionDep, actor: ActorDep
) -> AliasProtection:
    """Require a role for setting an alias. The alias need not exist yet."""
    return protections.protect(session, collection, name, protection.role, actor, protection.reason)


@router.delete(
    "/collections/{collection}/protections/{name}",
    response_model=ProtectionView,
    dependencies=[needs(Role.ADMIN)],
)
def unprotect_alias(
    name: AliasName,
    reason: Annotated[Reason, Query()],
    collection: CollectionDep,
    session: SessionDep,
    actor: ActorDep,
) -> AliasProtection:
    """Allow every approver to set an alias again."""
    return protections.unprotect(session, collection, name, actor, reason)
