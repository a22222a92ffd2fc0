"""What every refusal of the API has in common."""

from typing import Any

import httpx


def is_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Assert that an answer is this RFC 9457 problem, with a way out. Returns its body."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "code", "detail", "remedy", "problems"} <= body.keys()
    assert (body["status"], body["code"]) == (status, code)
    assert body["detail"]
    assert body["remedy"]
    return body
