"""Refusals in OpenAI's form."""

import re
from collections.abc import Sequence
from typing import Any

import structlog
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy.exc import DataError, DBAPIError
from starlette.exceptions import HTTPException

from melo_core.errors import MeloError, PromptTooLong
from registry.api.bodies import BodyRefused
from registry.base.errors import DatabaseAway, NotFound, NotLogged, RegistryError, Unverified

log = structlog.get_logger("melo.serve")

# How pydantic names one of several forms of a value in its place: str, list[Part], NamedTool.
FORM = re.compile(r"(constrained-)?(str|int)|literal.*|.*\[.*|[A-Z].*")
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class Refusal(BaseModel):
    """What is wrong with a request, or with the server."""

    message: str
    type: str
    param: str | None
    code: str


class Refused(BaseModel):
    """A refusal in OpenAI's form."""

    error: Refusal


def refusal(request: Request, error: Exception) -> JSONResponse:
    """Answer an error in OpenAI's form."""
    status, body = refused(error)
    if isinstance(error, HTTPException) and status in (404, 405):
        body["error"]["message"] = (
            f"This server has no {request.method} {request.url.path}. GET /openapi.json describes what it has; "
            "a client's base_url ends in /v1."
        )
    if status >= 500:
        log.error("not answered", path=request.url.path, error=str(error), exc_info=error if status == 500 else None)
    return JSONResponse(body, status, headers=dict(getattr(error, "headers", None) or {}))


def refused(error: Exception) -> tuple[int, dict[str, Any]]:
    """Return status and body of an error."""
    status, code, param = 500, "defect", None
    message = "The server met an error that it does not know; its log says which."
    match error:
        case RequestValidationError():
            status, code = 400, "invalid_value"
            found = _wrong(error.errors())
            param = found[0][0] or None
            message = "; ".join(f"{place}: {said}" if place else said for place, said in found)
        case RegistryError():
            status = 400 if error.status == 422 else error.status
            status = 503 if isinstance(error, Unverified) else status  # nothing that the caller could do about it
            no_model = isinstance(error, NotFound) and not isinstance(error, NotLogged)
            code = "model_not_found" if no_model else error.code.replace("-", "_")
            message = f"{error.detail} {error.remedy}".strip()
            param = "model" if no_model else None
        case PromptTooLong():
            status, code, param, message = 400, "context_length_exceeded", "messages", str(error)
        case MeloError():
            status, code, message = 400, "invalid_request", str(error)
        case DataError():
            status, code, message = 400, "invalid_value", "The name of the model holds characters that no name has."
            param = "model"
        case DBAPIError():
            return refused(DatabaseAway("The registry's database does not answer.", "Ask again later."))
        case BodyRefused():
            return refused(error.error)
        case HTTPException():
            status, code, message = error.status_code, "http_error", str(error.detail)
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return status, {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _wrong(errors: Sequence[Any]) -> list[tuple[str, str]]:
    """Return what is wrong with a request: the place, and what is wrong there.

    A value that may have one of several forms is told about in the form to which it comes nearest.
    """
    found: dict[tuple[str, ...], tuple[bool, str]] = {}
    for each in sorted(errors, key=_is_other_form):
        place = tuple(str(part) for part in each["loc"][1:] if not FORM.fullmatch(str(part)))
        found.setdefault(place, (_is_other_form(each), each["msg"].removeprefix("Value error, ")))

    def is_beside(place: tuple[str, ...]) -> bool:
        """Tell whether something else says more than that a value has none of its forms."""
        others = [other for other in found if other != place]
        within = any(other[: len(place)] == place for other in others)
        return within or any(place[: len(other)] == other and not found[other][0] for other in others)

    return [
        (".".join(place), said) for place, (other_form, said) in found.items() if not (other_form and is_beside(place))
    ]


def _is_other_form(error: Any) -> bool:
    return str(error["type"]).endswith(("_type", "_parsing"))
