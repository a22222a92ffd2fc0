"""The one place where HTTP requests become idempotent: a router's route class."""

from collections.abc import Callable, Coroutine, Sequence
from hashlib import sha256
from typing import Annotated, Any

from fastapi import Depends, Header, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.params import Depends as Dependency

from registry.access.caller import Caller
from registry.api.body_file import BodyFileDep
from registry.api.http import GuardedRoute, SessionDep
from registry.api.idempotency import service
from registry.tables.idempotency import KeptAnswer

WRITING = frozenset({"POST", "PUT", "PATCH", "DELETE"})
NOT_KEPT = frozenset({"content-length", "x-request-id"})  # these are specific to one answer

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key", min_length=1, max_length=255, pattern=r"^[\x20-\x7e]+$",
        description="the same key with the same request, within 24 hours: one effect, one answer",
        examples=["5f0c6a1e-6c3d-4d7a-9a43-0d9f6a2f0c11"],
    ),
]  # fmt: skip


class _Replay(Exception):
    """The request already had its effect; this exception carries the answer that it got."""

    def __init__(self, answer: KeptAnswer) -> None:
        self.answer = answer


async def _digest(request: Request, body: BodyFileDep, key: Key = None) -> str | None:
    """Return a digest over everything that the request asks for, or None if it carries no key."""
    if key is None:
        return None
    content = await body.loaded()
    lines = (request.method, request.url.path, request.url.query, content.sha256)
    return sha256("\n".join(lines).encode()).hexdigest()


def _claim(
    request: Request,
    session: SessionDep,
    digest: Annotated[str | None, Depends(_digest)],
    key: Key = None,
) -> None:
    request.state.idempotency = None
    if key is None or digest is None:
        return
    caller: Caller = request.state.caller
    found = service.claim(session, caller.owner, key, request.method, request.url.path, digest)
    if isinstance(found, KeptAnswer):
        raise _Replay(found)
    request.state.idempotency = found


class RepeatableRoute(GuardedRoute):
    """A route that answers a writing request under an Idempotency-Key once, and repeats the same bytes after that.

    The last of a route's dependencies claims the key, after access has been granted. The answer is stored in the
    request's own session, which commits both the answer and the effect, or neither.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        methods: set[str] | list[str] | None = None,
        dependencies: Sequence[Dependency] | None = None,
        **more: Any,
    ) -> None:
        if WRITING.intersection(methods or ()):
            dependencies = [*(dependencies or ()), Depends(_claim)]
        super().__init__(path, endpoint, methods=methods, dependencies=dependencies, **more)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_once(request: Request) -> Response:
            try:
                response = await handle(request)
            except _Replay as replay:
                return _again(replay.answer)
            claim: service.Claim | None = getattr(request.state, "idempotency", None)
            if claim is not None:
                headers = {name: value for name, value in response.headers.items() if name not in NOT_KEPT}
                secret = "no-store" in response.headers.get("Cache-Control", "")
                body = None if secret else bytes(response.body)
                await run_in_threadpool(service.keep, claim, response.status_code, headers, body)
            return response

        return handle_once


def _again(answer: KeptAnswer) -> Response:
    headers = {name: str(value) for name, value in answer.headers.items()}
    return Response(answer.body, answer.status, headers={**headers, "Idempotency-Replayed": "true"})
