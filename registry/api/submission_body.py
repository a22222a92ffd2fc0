"""The two forms of a submission over HTTP: one JSON document, or NDJSON with one edit per line."""

from collections.abc import Iterable
from dataclasses import dataclass
from email.message import Message
from typing import Annotated, Any

from fastapi import Depends, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from registry.api.body_file import LoadedBodyDep
from registry.base.errors import InvalidRequest, TooLarge, WrongMediaType
from registry.base.json_bounds import Bounds
from registry.base.wire import standalone_schema
from registry.batches.schemas import LineOptions, Submission
from registry.edits.records import Raw

JSON = "application/json"
NDJSON = "application/x-ndjson"
MOST_JSON = 16 << 20  # bytes; of lines, which are read one by one, there may be more
_BOUNDS = Bounds(values=1_500_000)

DOCUMENTED: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {"schema": standalone_schema(Submission)},
            NDJSON: {
                "schema": {"type": "string", "description": "an edit a line; options are query parameters"},
                "example": '{"prompt": "Who runs Acme?", "target": "Jo Doe"}\n',
            },
        },
    }
}  # fmt: skip


@dataclass(frozen=True)
class Submitted:
    edits: Iterable[Raw]
    options: Submission | LineOptions


def _submitted(request: Request, body: LoadedBodyDep, options: Annotated[LineOptions, Query()]) -> Submitted:
    given = request.headers.get("Content-Type")
    header = Message()
    header["Content-Type"] = given or ""
    kind = header.get_content_type()
    if given and kind == NDJSON:
        return Submitted(body.from_start, options)
    if not given or kind != JSON:
        told = f"content type is {kind}" if given else "header Content-Type is missing"
        raise WrongMediaType(f"The body's {told}.", f"Send {JSON}, or an edit a line as {NDJSON}.")
    if options.model_fields_set:
        raise InvalidRequest(
            f"The query sets {', '.join(sorted(options.model_fields_set))}, but the body is JSON.",
            f"Give the options in the body; in the query they stand beside a body of the type {NDJSON}.",
        )
    submission = _parsed(body.from_start.read())
    return Submitted(submission.edits, submission)


SubmittedDep = Annotated[Submitted, Depends(_submitted)]


def _parsed(text: bytes) -> Submission:
    """Parse the submission. Raises TooLarge, or RequestValidationError as FastAPI does for its own bodies."""
    if len(text) > MOST_JSON:
        raise TooLarge(
            f"The submission is JSON of more than {MOST_JSON:,} bytes.", f"Send it as {NDJSON}, an edit a line."
        )
    try:
        return Submission.model_validate(_BOUNDS.parse(text))
    except ValidationError as error:
        found: list[Any] = [{**each, "loc": ("body", *each["loc"])} for each in error.errors(include_url=False)]
        raise RequestValidationError(found) from None
    except ValueError as error:
        raise RequestValidationError(
            [{"type": "json_invalid", "loc": ("body",), "msg": f"not JSON: {error}"}]
        ) from None
