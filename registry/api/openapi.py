"""The OpenAPI document: FastAPI's output, completed with the errors, headers and examples that all answers share."""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI

from registry.api.openapi_examples import Examples
from registry.base.errors import (
    DatabaseAway,
    DigestMismatch,
    InvalidRequest,
    MovedMeanwhile,
    NotFound,
    RegistryError,
    RoleNeeded,
    TooLarge,
    TooManyRequests,
    Unauthorized,
    WrongMediaType,
    WrongState,
)
from registry.base.wire import Problem

Operation = dict[str, Any]
Document = dict[str, Any]

TAGS = [
    {"name": "collections", "description": "Lines of versions over a base model, and the policies they follow."},
    {
        "name": "edits",
        "description": "Corrections on their way in: submitted in batches, through a preflight, decided on.",
    },
    {"name": "versions", "description": "Every state of a collection, how two differ, the way back, and aliases."},
    {
        "name": "answers",
        "description": "What was asked and answered, as far as a collection's policy logs it, and feedback on it.",
    },
    {"name": "jobs", "description": "The workers, which do preflights and trainings."},
    {"name": "audit", "description": "Who did what, and whether anything differs from what was written."},
    {"name": "access", "description": "API keys, what each may do where, and protected aliases."},
    {"name": "webhooks", "description": "Other programs hear of versions, aliases and batches."},
    {"name": "erasure", "description": "A person's data is erased on request; the digests of it stay."},
    {"name": "operation", "description": "Whether the registry runs."},
]
OPEN = ("/healthz", "/readyz")
PROBLEM = "application/problem+json"
BODIES = ("post", "put", "patch")
WRITES = (*BODIES, "delete")

_KEY = "Give one in `Authorization: Bearer KEY`."
_AGAIN = "Read it again and, if the change is still right, send it with the new ETag."
# The meaning of each error, which is the same everywhere, and an example.
PROBLEMS: dict[int, tuple[str, RegistryError]] = {
    400: ("The body is not JSON.", RegistryError("There was an error parsing the body.", "Send JSON.")),
    401: ("The request carries no valid API key.", Unauthorized("The request carries no API key.", _KEY)),
    403: (
        "The caller's role, or the collection's policy, does not allow it.",
        RoleNeeded("This needs the role approver in facts; ci has editor there.", "Ask an admin for such a key."),
    ),
    404: ("There is no such record.", NotFound("There is no batch 7.", "`melo batch list COLLECTION` shows them.")),
    409: (
        "The record's present state does not allow it.",
        WrongState("Batch 7 was rejected.", "Submit its edits again."),
    ),
    412: (
        "It was changed since the answer that If-Match names.",
        MovedMeanwhile("facts@production is no longer what the request's If-Match names.", _AGAIN),
    ),
    413: (
        "The body is larger than the server takes.",
        TooLarge("The request is larger than 1,000 bytes.", "Submit the records in several batches."),
    ),
    415: (
        "The body's content type is missing, or none that is read here.",
        WrongMediaType("The body's header Content-Type is missing.", "Send it as application/json."),
    ),
    422: (
        "The request is not valid; where records were sent, `problems` names each that is not.",
        InvalidRequest("body.name: Field required.", "See `/docs` for what it takes."),
    ),
    429: (
        "Too many requests; `Retry-After` says how many seconds to wait.",
        TooManyRequests("The key ci has made 600 requests in a minute.", 12),
    ),
    500: (
        "A defect of the server, or stored content that is not what was written.",
        DigestMismatch("Block 12 is not what was written.", "Compare the database with a backup."),
    ),
    503: (
        "The database does not answer, or its schema is not this program's.",
        DatabaseAway("The database does not answer.", "Repeat the request when it is back (`melo status`)."),
    ),
}  # fmt: skip


def complete(app: FastAPI) -> None:
    """Make the application serve the completed document. Call it once all routes are registered."""
    plain = app.openapi

    def document() -> Document:
        if app.openapi_schema is None:
            app.openapi_schema = completed(plain())
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
    app.openapi_tags = TAGS


def completed(document: Document) -> Document:
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["Problem"] = Problem.model_json_schema()
    document["components"]["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "An API key, as `melo key create` makes them."}
    }
    document["security"] = [{"key": []}]
    examples = Examples(schemas)
    for path, method, operation in operations(document):
        _add_problems(path, method, operation)
        _add_headers(operation)
        _add_examples(operation, examples)
    return document


def operations(document: Document) -> Iterator[tuple[str, str, Operation]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def _add_problems(path: str, method: str, operation: Operation) -> None:
    """Replace FastAPI's own 422 with the problems that this operation can answer."""
    responses = operation["responses"]
    for status in _statuses(path, method, operation):
        description, error = PROBLEMS[status]
        content = {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": error.as_json()}}
        responses[str(status)] = {"description": description, "content": content}
    operation["responses"] = dict(sorted(responses.items()))


def _statuses(path: str, method: str, operation: Operation) -> set[int]:
    if path in OPEN:
        return {500, 503} if path == "/readyz" else {500}
    parameters = _parameters(operation)
    found = {401, 403, 429, 500, 503}
    named = any(each["in"] == "path" or each["name"] in ("collection", "model") for each in parameters.values())
    if named or "requestBody" in operation:  # a body may name records, too
        found.add(404)
    if parameters or "requestBody" in operation:
        found.add(422)
    if method in WRITES:
        found.add(409)
    if "requestBody" in operation:
        found |= {400, 413}
    if len(operation.get("requestBody", {}).get("content", ())) > 1:
        found.add(415)
    if "If-Match" in parameters:
        found.add(412)
    return found


def _add_headers(operation: Operation) -> None:
    parameters = _parameters(operation)
    shared = {"X-Request-ID": "the same as in the log and in the audit event"}
    for status, response in operation["responses"].items():
        told = dict(shared)
        if int(status) < HTTPStatus.BAD_REQUEST:
            if "cursor" in parameters:
                told["Link"] = 'where the next page is (rel="next"), if there is one'
            if {"If-None-Match", "If-Match"} & parameters.keys():
                told |= {"ETag": "changes with the answer", "Cache-Control": "whether the answer may be kept"}
            if "Idempotency-Key" in parameters:
                told["Idempotency-Replayed"] = "`true`: the answer of the first request with this key"
        if status == "429":
            told["Retry-After"] = "seconds"
        if status == "401":
            told["WWW-Authenticate"] = "Bearer"
        response.setdefault("headers", {}).update(
            {name: {"description": text, "schema": {"type": "string"}} for name, text in told.items()}
        )
    if "If-None-Match" in parameters:
        operation["responses"]["304"] = {"description": "The client has the answer already."}


def _add_examples(operation: Operation, examples: Examples) -> None:
    contents = [response.get("content", {}) for response in operation["responses"].values()]
    contents.append(operation.get("requestBody", {}).get("content", {}))
    for content in contents:
        for media in content.values():
            if "schema" in media and "example" not in media and "examples" not in media:
                media["example"] = examples.of(media["schema"])
    for parameter in operation.get("parameters", ()):
        if "example" not in parameter and "examples" not in parameter:
            parameter["example"] = examples.of(parameter["schema"], parameter["name"])


def _parameters(operation: Operation) -> dict[str, dict[str, Any]]:
    return {parameter["name"]: parameter for parameter in operation.get("parameters", ())}
