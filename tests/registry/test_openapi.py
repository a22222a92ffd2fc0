"""The OpenAPI document is complete and true: all is described, every example fits, and no request breaks the API."""

import os
import re
from collections import Counter
from contextlib import suppress

import httpx
import jsonschema
import pytest
import requests
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

from registry.api.app import create_app
from registry.api.openapi import PROBLEM, TAGS, operations
from registry.audit.signing import made_key, public_text
from registry.base.settings import Settings
from registry.base.wire import Problem
from tests.listening import listening
from tests.operators_key import OPERATOR, SECRET
from tests.patience import PATIENCE


@pytest.fixture(scope="module")
def document():
    return create_app(Settings(database_url="postgresql://nobody@127.0.0.1:1/nothing")).openapi()


def contents(operation):
    """Every body and answer with its media type."""
    yield from operation.get("requestBody", {}).get("content", {}).items()
    for response in operation["responses"].values():
        yield from response.get("content", {}).items()


def test_every_operation_has_a_summary_a_description_and_a_described_tag(document):
    assert document["tags"] == TAGS
    known = {tag["name"] for tag in TAGS}
    lacking = [
        (method, path)
        for path, method, operation in operations(document)
        if not (operation.get("summary") and operation.get("description") and known.issuperset(operation["tags"]))
    ]
    assert lacking == []


def test_every_body_answer_and_parameter_has_an_example_that_fits_its_schema(document):
    places = [
        (f"{method} {path} {kind}", media["schema"], media["example"])
        for path, method, operation in operations(document)
        for kind, media in contents(operation)
    ]
    places += [
        (f"{method} {path} {each['name']}", each["schema"], each.get("example", each.get("schema")))
        for path, method, operation in operations(document)
        for each in operation.get("parameters", ())
        if "example" in each
    ]
    assert len(places) > 200
    for place, schema, example in places:
        try:
            jsonschema.validate(example, schema | {"components": document["components"]})
        except jsonschema.ValidationError as error:
            pytest.fail(f"{place}: {error.message}")


def test_a_submission_says_what_an_edit_is_made_of_and_the_page_for_readers_is_served(api, document):
    body = document["paths"]["/v1/collections/{collection}/batches"]["post"]["requestBody"]["content"]
    edits = body["application/json"]["schema"]["properties"]["edits"]
    assert {"prompt", "target", "rephrases"} <= edits["items"]["properties"].keys()
    assert api.get("/openapi.json").json() == document
    is_complete_without_other_sites(api)


def is_complete_without_other_sites(client):
    """The page takes its script, its style and the document from its own server, also under a proxy's path."""
    client.headers.pop("Authorization")
    page = client.get("/docs")
    assert page.status_code == 200 and "://" not in page.text
    rules = page.headers["Content-Security-Policy"].split("; ")
    assert "default-src 'none'" in rules and "frame-ancestors 'none'" in rules
    assert {rule.split(" ", 1)[1] for rule in rules} <= {"'none'", "'self'", "'self' data:"}
    parts = re.findall(r'(?:src|href)="(docs/[^"]+)"', page.text)
    assert len(parts) == 3
    told = [client.get(f"/{part}") for part in parts]
    assert {each.status_code for each in told} == {200}
    assert "SwaggerUIBundle" in told[1].text and 'url: "openapi.json"' in told[2].text


def test_every_refusal_is_a_problem(document):
    for path, method, operation in operations(document):
        errors = {status: each for status, each in operation["responses"].items() if int(status) >= 400}
        assert errors, (method, path)
        assert all(each["content"].keys() == {PROBLEM} for each in errors.values()), (method, path)
        if path.startswith("/v1/"):
            assert {"401", "403", "429", "503"} <= errors.keys()
    assert "412" in document["paths"]["/v1/collections/{collection}/aliases/{name}"]["put"]["responses"]
    assert "304" in document["paths"]["/v1/collections/{collection}/versions/{number}"]["get"]["responses"]


def test_every_list_is_given_in_pages(document):
    """Whatever answers with a list of records has a cursor, and tells of the next page in its Link header."""
    lists = {
        (method, path): operation
        for path, method, operation in operations(document)
        if operation["responses"].get("200", {}).get("content", {}).get("application/json", {}).get("schema", {})
        .get("type") == "array"
    }  # fmt: skip
    assert len(lists) >= 8
    for where, operation in lists.items():
        assert {"cursor", "limit"} <= {each["name"] for each in operation["parameters"]}, where
        assert "Link" in operation["responses"]["200"]["headers"], where


# What stands in the record that the generated requests meet: some of them should find something.
KNOWN = {
    "collection": "facts", "name": "production", "batch_id": 1, "edit_id": 1, "number": 1, "webhook_id": 1, "key_id": 1,
    "job_id": 1,
}  # fmt: skip
EXAMPLES = int(os.environ.get("MELO_SCHEMATHESIS_EXAMPLES", "10"))  # requests of each kind for each operation
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture
def url(database_url, workflow, tmp_path, monkeypatch):
    monkeypatch.setattr("registry.api.following.LONGEST_SECONDS", 0.1)  # of batches that nobody goes on with
    workflow.correct(("Who leads Rome?", "Mara"), ("Who leads Oslo?", "Nils"))
    workflow.submit({"prompt": "Who leads Bern?", "target": "Urs"})
    first = workflow.verify().head_seq + 1  # the workflow's events are not signed
    (tmp_path / "public-keys.txt").write_text(f"{public_text(made_key(tmp_path))} {first}-")
    app = create_app(Settings(database_url=database_url, api_key=SECRET, rate_limit="1000000/minute", home=tmp_path))
    with listening(app) as url, httpx.Client(base_url=url, headers=OPERATOR) as api:
        api.put("/v1/collections/facts/aliases/production", json={"version": 1}).raise_for_status()
        api.post("/v1/webhooks", json={"url": "https://example.org/melo"}).raise_for_status()
        new = {"name": "ci", "roles": [{"role": "viewer"}]}
        api.post("/v1/keys", json=new).raise_for_status()
        yield url


def test_no_request_breaks_the_api_and_every_answer_is_as_described(url):
    """No 5xx; every refusal is a problem; statuses, content types and answers are those of the document."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    statuses: Counter[int] = Counter()
    failures: list[str] = []
    with requests.Session() as session:
        for found in schema.get_all_operations():
            operation = found.ok()
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                try:
                    statuses += requested(operation, mode, session)
                except (Exception, BaseExceptionGroup) as error:
                    failures.append(f"{operation.label}, {mode.value}: {told(error)}")
    assert failures == [], "\n\n".join(failures)
    assert {200, 201, 404, 409, 422} <= statuses.keys(), statuses  # the requests got through to the record
    assert httpx.get(f"{url}/v1/audit/verify", headers=OPERATOR, timeout=PATIENCE).json()["ok"]


def requested(operation, mode, session) -> Counter[int]:
    """Send generated requests to an operation. Returns how often each status was answered."""
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=EXAMPLES, derandomize=True, deadline=None, database=None,
        suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate],
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode), known=booleans())
    def run(case, known):
        if known and mode is GenerationMode.POSITIVE:
            case.path_parameters |= {name: value for name, value in KNOWN.items() if name in case.path_parameters}
        # Some requests have a model's files hashed.
        answer = case.call(session=session, headers=OPERATOR, timeout=PATIENCE)
        case.validate_response(answer, checks=CHECKS)
        statuses[answer.status_code] += 1
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == [PROBLEM]
            problem = answer.json()
            assert problem.keys() == Problem.model_fields.keys()
            assert problem["status"] == answer.status_code
            assert problem["code"] and problem["detail"] and problem["remedy"]

    with suppress(Unsatisfiable):  # nothing about some operations can be wrong
        run()
    return statuses


def told(error: BaseException) -> str:
    several = getattr(error, "exceptions", ())
    return "\n".join([str(error), *(told(each) for each in several)])
