"""No generated request breaks the server, and every refusal has OpenAI's form."""

import os
from collections import Counter
from contextlib import suppress

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import booleans
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.operators_key import OPERATOR
from tests.patience import PATIENCE
from tests.registry.test_openapi import is_complete_without_other_sites
from tests.serving.test_openai import url  # noqa: F401  # the fixture

EXAMPLES = int(os.environ.get("MELO_SCHEMATHESIS_EXAMPLES", "8"))  # requests of each kind for each operation
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def test_no_request_breaks_the_server_and_every_answer_is_as_described(url):  # noqa: F811
    schema = schemathesis.openapi.from_url(url.replace("/v1", "/openapi.json"))
    statuses: Counter[int] = Counter()
    failures: list[str] = []
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try:
                statuses += requested(operation, mode)
            except (Exception, BaseExceptionGroup) as error:
                failures.append(f"{operation.label}, {mode.value}: {told(error)}")
    assert failures == [], "\n\n".join(failures)
    assert {200, 400, 404} <= statuses.keys(), statuses


def requested(operation, mode) -> Counter[int]:
    """Send generated requests to an operation, most about a version that is there; count the statuses."""
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=EXAMPLES, derandomize=True, deadline=None, database=None,
        suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate],
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode), known=booleans())
    def run(case, known):
        if isinstance(case.body, dict) and "model" in case.body and (known or mode is GenerationMode.NEGATIVE):
            case.body["model"] = "facts@2"
        answer = case.call(timeout=PATIENCE, headers=OPERATOR)
        case.validate_response(answer, checks=CHECKS)
        statuses[answer.status_code] += 1
        if answer.status_code >= 400:
            assert answer.json()["error"].keys() == {"message", "type", "param", "code"}

    with suppress(Unsatisfiable):  # nothing about some operations can be wrong
        run()
    return statuses


def told(error: BaseException) -> str:
    several = getattr(error, "exceptions", ())
    return "\n".join([str(error), *(told(each) for each in several)])


def test_the_document_describes_every_operation(server):
    document = server.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"] and operation["description"], (method, path)
            assert "422" not in operation["responses"]


@pytest.mark.parametrize("body", ["", "{", "[]", '"x"', "null", "{}", '{"model": "facts@1"}'])
def test_a_body_that_is_no_request_is_refused_in_openais_form(server, body):
    answer = server.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]["type"] == "invalid_request_error"


def test_the_page_for_readers_asks_no_other_site(server):
    is_complete_without_other_sites(server)
