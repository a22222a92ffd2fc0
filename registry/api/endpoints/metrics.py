"""/metrics"""

from fastapi import APIRouter, Request, Response

from registry.api.http import GuardedRoute, needs
from registry.base.vocabulary import Role
from registry.metrics import exposition

router = APIRouter(route_class=GuardedRoute)


# Not in the OpenAPI document: only Prometheus requests it.
@router.get("/metrics", dependencies=[needs(Role.VIEWER)], include_in_schema=False)
def metrics(request: Request) -> Response:
    """Return metrics on what is waiting, what is running, and how requests are answered."""
    return Response(exposition.page(request.app.state.metrics), media_type=exposition.CONTENT_TYPE)
