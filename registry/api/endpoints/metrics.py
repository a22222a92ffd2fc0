"""/metrics"""

from fastapi import APIRouter, Request, Response

from registry.api.http import needs
from registry.base.vocabulary import Role
from registry.metrics import exposition

router = APIRouter()


# Not described: Prometheus asks for it, and no client.
@router.get("/metrics", dependencies=[needs(Role.VIEWER)], include_in_schema=False)
def metrics(request: Request) -> Response:
    """What waits, what runs, and how requests are answered."""
    return Response(exposition.page(request.app.state.metrics), media_type=exposition.CONTENT_TYPE)
