"""The error that a client raises, whatever went wrong."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
from pydantic import ValidationError

from registry.base.errors import UserError

SHOWN_PROBLEMS = 5  # by `str`; `problems` has all that were sent


class MeloClientError(UserError):
    """The API refused, or could not be reached. Carries the problem's fields; status 0 means no answer at all."""

    def __init__(
        self,
        title: str,
        detail: str,
        remedy: str = "",
        *,
        status: int = 0,
        code: str = "no-answer",
        problems: Sequence[Mapping[str, Any]] = (),
        request_id: str | None = None,
    ) -> None:
        super().__init__(detail, remedy)
        self.title = title
        self.status = status
        self.code = code
        self.problems = [dict(problem) for problem in problems]
        self.request_id = request_id

    def __str__(self) -> str:
        named = "".join(f"\n  {_problem(each)}" for each in self.problems[:SHOWN_PROBLEMS])
        more = len(self.problems) - SHOWN_PROBLEMS
        return f"{self.title}: {super().__str__()}{named}" + (f"\n  … and {more} more" if more > 0 else "")


def _problem(problem: Mapping[str, Any]) -> str:
    """Name the record, by its place among those that were sent, and say what is wrong with it."""
    where = f"line {problem['line']}" if problem.get("line") else f"record {problem.get('position', '?')}"
    field = f", {problem['field']}" if problem.get("field") else ""
    prompt = f" ({str(problem['prompt'])[:80]!r})" if problem.get("prompt") else ""
    remedy = f" {problem['remedy']}" if problem.get("remedy") else ""
    return f"{where}{field}{prompt}: {problem.get('detail', '')}{remedy}"


def refusal(answer: httpx.Response) -> MeloClientError:
    """Return the error for an answer with status 400 or higher, whose body must have been read."""
    request_id = answer.headers.get("X-Request-ID")
    try:
        fields = answer.json()
        title, detail = str(fields["title"]), str(fields["detail"])
    except (ValueError, KeyError, TypeError):
        return MeloClientError(
            "The server is not a registry",
            f"{answer.request.url} answered {answer.status_code} {answer.reason_phrase}.",
            "Check that this is the address of a registry's API.",
            status=answer.status_code,
            code="not-a-registry",
            request_id=request_id,
        )
    return MeloClientError(
        title,
        detail,
        str(fields.get("remedy", "")),
        status=answer.status_code,
        code=str(fields.get("code", "")),
        problems=fields.get("problems", ()),
        request_id=request_id,
    )


@contextmanager
def understood() -> Iterator[None]:
    """Raise an error with a remedy if an answer lacks something that this release expects."""
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise MeloClientError(
            "The registry's answer is not valid",
            f"The registry runs a different release from this program: {field}: {first['msg'].lower()}.",
            "The request took effect. Run the same release of both; after an upgrade, `melo down` and `melo up`.",
            code="other-release",
        ) from error


@contextmanager
def no_answer(api_url: str) -> Iterator[None]:
    """Raise an error with a remedy if no answer comes."""
    try:
        yield
    except httpx.ConnectError as error:
        raise MeloClientError(
            "The registry does not answer",
            f"The registry's API does not answer at {api_url}.",
            "Start it with `melo up`, or give its address with --api-url or MELO_API_URL.",
        ) from error
    except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise MeloClientError(
            "The registry could not be asked",
            f"{api_url!r} is not the address of a registry's API.",
            "Write it as http://HOST:PORT or https://HOST.",
        ) from error
    except httpx.HTTPError as error:
        raise MeloClientError(
            "The registry could not be asked",
            f"The request to {api_url} ended with: {str(error) or type(error).__name__}.",
            "Check whether it took effect (`melo audit log`), then try again.",
        ) from error
