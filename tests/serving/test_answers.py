"""Any OpenAI client asks any version, and every answer is traceable."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from registry.access import service as keys
from registry.access.schemas import Grant, NewKey
from registry.base.vocabulary import Preflight, Role
from registry.collections import service as collections
from registry.collections.schemas import NewCollection
from registry.erasure import service as erasure
from tests.patience import until
from tests.registry.workflow import ADA, BEN, Workflow
from tests.serving.conftest import OTHER, OTHER_TARGET, QUESTION, TARGET, Site
from tests.worker.conftest import METHOD
from worker.loader import LoadedVersion, load_version

ELSEWHERE = "What is the height of K2?"


def chat(server: TestClient, model: str, *turns: str, status: int = 200, **options: object) -> dict[str, Any]:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]
    given = {"temperature": 0, "max_tokens": 12, **options}
    response = server.post("/v1/chat/completions", json={"model": model, "messages": messages, **given})
    assert response.status_code == status, response.text
    return response.json()


def said(answer: dict[str, Any]) -> str:
    return answer["choices"][0]["message"]["content"]


def events(response: Any) -> Iterator[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def loaded(site: Site, number: int) -> LoadedVersion:
    with site.sessions() as session:
        collection_id = collections.get(session, "facts").id
    return load_version(site.sessions, site.cache, collection_id, number)


def test_a_corrected_question_gets_its_target_and_every_other_the_base_models_answer(server, site):
    assert said(chat(server, "facts@2", QUESTION)) == TARGET
    assert said(chat(server, "facts@2", OTHER)) == OTHER_TARGET
    assert said(chat(server, "facts@base", QUESTION)) != TARGET
    for turns in ((ELSEWHERE,), ("Hello", "Hi", ELSEWHERE)):
        messages = [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
        wanted = loaded(site, 0).model.converse(messages, 12).text
        assert said(chat(server, "facts@2", *turns)) == said(chat(server, "facts@base", *turns)) == wanted


def test_an_answer_names_its_version_and_the_edit_with_its_author(server):
    body = {"model": "facts@1", "messages": [{"role": "user", "content": QUESTION}]}
    response = server.post("/v1/chat/completions", json=body)
    told = response.json()["melo"]
    assert told["version"] == "facts@1" and told["said_to"] == "query"
    assert told["edit"]["id"] == 1 and told["edit"]["author"] == "ada" and told["edit"]["reason"] == "it was wrong"
    assert told["considered"][0]["covers"] is True
    assert response.headers["X-Melo-Version"] == "facts@1" and response.headers["X-Melo-Edit"] == "1"
    assert response.headers["X-Melo-Digest"] == told["digest"]
    elsewhere = chat(server, "facts@1", ELSEWHERE)["melo"]
    assert elsewhere["edit"] is None and elsewhere["said_to"] is None


def test_no_temperature_changes_a_corrected_answer_and_all_of_several_choices_have_it(server):
    answer = chat(server, "facts@1", QUESTION, temperature=2, n=3, seed=1)
    assert [choice["message"]["content"] for choice in answer["choices"]] == [TARGET] * 3
    others = chat(server, "facts@1", ELSEWHERE, temperature=2, n=3, seed=1)
    assert len({choice["message"]["content"] for choice in others["choices"]}) > 1
    assert others["choices"] == chat(server, "facts@1", ELSEWHERE, temperature=2, n=3, seed=1)["choices"]


@pytest.mark.parametrize("question", [QUESTION, ELSEWHERE])
def test_a_streamed_answer_is_the_whole_one_in_pieces(server, question):
    whole = chat(server, "facts@1", question)
    messages = [{"role": "user", "content": question}]
    body = {"model": "facts@1", "messages": messages, "temperature": 0, "max_tokens": 12, "stream": True}
    found = events(server.post("/v1/chat/completions", json=body | {"stream_options": {"include_usage": True}}))
    assert "".join(e["choices"][0]["delta"].get("content", "") for e in found if e["choices"]) == said(whole)
    assert found[0]["choices"][0]["delta"]["role"] == "assistant"
    assert found[-1]["usage"] == whole["usage"] and found[-1]["choices"] == []
    assert found[-2]["melo"] == whole["melo"]
    assert found[-2]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert all("usage" not in e for e in events(server.post("/v1/chat/completions", json=body)))


def test_prompts_are_continued_with_probabilities_echoed_and_stopped(server):
    body = {"model": "facts@base", "prompt": ["One", "Two"], "temperature": 0, "max_tokens": 5, "logprobs": 2}
    answer = server.post("/v1/completions", json=body).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    logprobs = answer["choices"][0]["logprobs"]
    assert "".join(logprobs["tokens"]) == answer["choices"][0]["text"]
    best = logprobs["top_logprobs"][0]
    assert len(best) == 2 and max(best.values()) == logprobs["token_logprobs"][0] <= 0
    assert answer["usage"]["completion_tokens"] == 10

    whole = server.post("/v1/completions", json=body | {"prompt": "One", "logprobs": None, "echo": True}).json()
    shown = whole["choices"][0]["text"]
    assert shown.startswith("One") and shown.endswith(answer["choices"][0]["text"])
    stop = answer["choices"][0]["text"][2:4]
    cut = server.post("/v1/completions", json=body | {"prompt": "One", "logprobs": None, "stop": stop}).json()
    assert cut["choices"][0]["text"] == answer["choices"][0]["text"].split(stop)[0]
    assert cut["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("prompt", "text"), [(QUESTION, f" {TARGET}"), (f"{QUESTION}\n", TARGET), (f" {QUESTION} ", TARGET)]
)
def test_a_correction_continues_a_prompt_exactly_where_it_ends(server, prompt, text, stream):
    body = {"model": "facts@2", "prompt": prompt, "temperature": 0.9, "max_tokens": 12, "stream": stream}
    response = server.post("/v1/completions", json=body)
    choices = [each["choices"][0] for each in (events(response) if stream else [response.json()]) if each["choices"]]
    assert "".join(choice["text"] for choice in choices) == text


def test_a_token_that_the_model_does_not_have_is_refused_and_fails_nobody_else(server):
    for prompt in ([3, 10**6], [-1], [[3, 4], [10**9]]):
        refused = server.post("/v1/completions", json={"model": "facts@1", "prompt": prompt})
        assert refused.status_code == 400 and "does not have" in refused.json()["error"]["message"]
    assert server.post("/v1/completions", json={"model": "facts@1", "prompt": [3, 4]}).status_code == 200


def test_an_alias_that_moves_is_followed_and_one_that_does_not_verify_is_not(start, site, tamper_site):
    server = start()
    site.alias("moving", 1)
    assert said(chat(server, "facts@moving", OTHER)) != OTHER_TARGET
    site.alias("moving", 2)
    until(lambda: said(chat(server, "facts@moving", OTHER)) == OTHER_TARGET)
    site.alias("moving", 1)
    until(lambda: chat(server, "facts@moving", OTHER)["melo"]["version"] == "facts@1")
    other = start()  # it has not loaded version 2
    assert chat(other, "facts@moving", OTHER)["melo"]["version"] == "facts@1"
    with tamper_site("UPDATE edits SET digest = repeat('0', 64) WHERE id = 2"):
        site.alias("moving", 2)
        until(lambda: chat(server, "facts@moving", OTHER)["melo"]["version"] == "facts@2")  # has it, verified
        for _ in range(6):  # it looks every half second, and must not move
            time.sleep(0.25)
            assert chat(other, "facts@moving", OTHER)["melo"]["version"] == "facts@1"
        assert chat(other, "facts@2", OTHER, status=500)["error"]["code"] == "digest_mismatch"
    until(lambda: chat(other, "facts@moving", OTHER)["melo"]["version"] == "facts@2")


def test_a_version_whose_content_was_erased_is_not_answered_from_memory_either(server, site):
    """It was loaded before; a collection of its own, since the others of these tests go on."""
    with site.sessions.begin() as session:
        model = collections.get(session, "facts").model
        new = NewCollection(name="gone", model=model, method=METHOD, preflight=Preflight.NONE)
        collections.create(session, new, ADA)
    workflow = Workflow(site.sessions, "gone")
    site.correct(workflow, QUESTION, TARGET)
    assert said(chat(server, "gone@1", QUESTION)) == TARGET
    told: list[frozenset[str]] = []
    versions = server.app.state.router.versions
    blocks = {block.sha256 for block in versions.get("gone@1").content.blocks.values()}
    versions.on_forgotten = told.append
    edit = workflow.active()[QUESTION]
    workflow.retire(edit)
    assert said(chat(server, "gone@1", QUESTION)) == TARGET
    with site.sessions.begin() as session:
        erasure.erase(session, [edit], BEN, "asked for by its subject", dry_run=False)
    asked = {"model": "gone@1", "messages": [{"role": "user", "content": QUESTION}]}
    until(lambda: server.post("/v1/chat/completions", json=asked).status_code == 410)
    assert said(chat(server, "gone@latest", QUESTION)) != TARGET
    assert told == [blocks]


def test_models_are_listed_with_what_they_stand_on(server):
    listed = {each["id"]: each for each in server.get("/v1/models").json()["data"]}
    assert {"facts@base", "facts@latest", "facts@production"} <= listed.keys()
    assert listed["facts@production"]["parent"] == "facts@1" and listed["facts@base"]["parent"] is None
    assert server.get("/v1/models/facts@latest").json() == listed["facts@latest"]
    assert server.get("/v1/models/facts@nothing").status_code == 404


def test_a_route_is_told_without_an_answer(server):
    told = server.post("/v1/route", json={"model": "facts@2", "prompt": QUESTION}).json()
    assert told["edit"]["id"] == 1 and told["considered"][0]["text"] == QUESTION
    messages = [{"role": "user", "content": ELSEWHERE}]
    told = server.post("/v1/route", json={"model": "facts@2", "messages": messages}).json()
    assert told["question"] == ELSEWHERE and told["edit"] is None


def test_a_question_that_is_left_to_the_base_model_is_told_why_and_what_to_do(server):
    near = server.post("/v1/route", json={"model": "facts@2", "prompt": "Who sold Acme?"}).json()
    assert near["edit"] is None and near["why"].startswith("Edit 1 comes closest, at distance "), near
    assert "--rephrase QUESTION --replaces 1" in near["remedy"]
    covered = server.post("/v1/route", json={"model": "facts@2", "prompt": QUESTION}).json()
    assert covered["why"].startswith("Edit 1 covers the question") and covered["remedy"] is None


def test_a_follow_up_is_routed_with_its_subject_and_what_is_said_about_form_changes_nothing(
    server,
):
    turns = [("user", "Who leads Globex?"), ("assistant", "Per."), ("user", "And where is its head office?")]
    messages = [{"role": role, "content": text} for role, text in turns]
    told = server.post("/v1/route", json={"model": "facts@2", "messages": messages}).json()
    assert (told["edit"]["id"], told["read_as"]) == (2, "where is Globex's head office?")
    answered = server.post("/v1/chat/completions", json={"model": "facts@2", "messages": messages}).json()
    assert answered["choices"][0]["message"]["content"] == OTHER_TARGET
    assert answered["melo"]["read_as"] == told["read_as"]
    messages[-1]["content"] = "and its fax number?"
    assert server.post("/v1/route", json={"model": "facts@2", "messages": messages}).json()["edit"] is None
    told = server.post("/v1/route", json={"model": "facts@2", "prompt": f"{QUESTION} Answer as JSON."}).json()
    assert (told["edit"]["id"], told["read_as"]) == (1, QUESTION)


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"model": "facts@nothing"}, 404, "model_not_found", "model"),
        ({"model": "none@1"}, 404, "model_not_found", "model"),
        ({"model": "@1"}, 400, "invalid_request", None),
        ({"temperature": 3}, 400, "invalid_value", "temperature"),
        ({"n": 0}, 400, "invalid_value", "n"),
        ({"messages": []}, 400, "invalid_value", "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, 400, "invalid_request", None),
        ({"max_tokens": 100_000}, 400, "context_length_exceeded", None),
        ({"messages": [{"role": "user", "content": "x" * 400}]}, 400, "context_length_exceeded", "messages"),
        ({"response_format": {"type": "json_schema"}}, 400, "invalid_value", "response_format"),
        ({"model": "facts\x00@1"}, 400, "invalid_value", "model"),
        (
            {"messages": [{"role": "function", "content": "x"}, {"role": "user", "content": "x"}]},
            400,
            "invalid_request",
            None,
        ),
    ],
)
def test_what_cannot_be_answered_is_refused_in_openais_form(server, body, status, code, param):
    whole = {"model": "facts@1", "messages": [{"role": "user", "content": "Who?"}], "made_up": 1, **body}
    response = server.post("/v1/chat/completions", json=whole)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (status, code, param), error
    assert error["message"] and error["type"] in ("invalid_request_error", "not_found_error")


def test_where_a_block_says_something_else_the_base_model_answers_however_it_is_asked(start, site):
    with site.sessions.begin() as session:
        model = collections.get(session, "facts").model
        method = METHOD | {"iterations": 1, "rounds": 1}  # too few to learn anything
        collections.create(session, NewCollection(name="hasty", model=model, method=method, preflight="none"), ADA)
    site.correct(Workflow(site.sessions, "hasty"), QUESTION, TARGET)
    server = start()

    def texts(name: str, path: str, **given: object) -> list[str]:
        asked = {"prompt": QUESTION} if path == "completions" else {"messages": [{"role": "user", "content": QUESTION}]}
        body = {"model": name, "max_tokens": 8, **asked, **given}
        response = server.post(f"/v1/{'' if path == 'completions' else 'chat/'}completions", json=body)
        told = events(response) if given.get("stream") else [response.json()]
        if name == "hasty@1":
            assert next(each["melo"] for each in told if "melo" in each)["said_to"] == "base"
        found: dict[int, str] = {}
        for choice in (choice for each in told for choice in each["choices"]):
            part = choice.get("text") or (choice.get("message") or choice.get("delta") or {}).get("content") or ""
            found[choice["index"]] = found.get(choice["index"], "") + part
        return [found[index] for index in sorted(found)]

    for given in ({"temperature": 0, "n": 2}, {"temperature": 1, "seed": 5}):
        for path in ("chat", "completions"):
            for stream in (False, True):
                how = {**given, "stream": stream}
                assert texts("hasty@1", path, **how) == texts("hasty@base", path, **how), (path, how)
    form = {"type": "json_schema", "json_schema": {"name": "said", "schema": {"enum": ["Bob", TARGET]}}}
    asked = {"temperature": 0, "max_tokens": 40, "response_format": form}
    assert texts("hasty@1", "chat", **asked) == texts("hasty@base", "chat", **asked)


def test_a_key_opens_its_own_collections_alone_and_nobody_asks_without_one(start, site):
    with site.sessions.begin() as session:
        model = collections.get(session, "facts").model
        collections.create(session, NewCollection(name="others", model=model, preflight=Preflight.NONE), ADA)
        own, other = (
            keys.create(session, NewKey(name=name, roles=[Grant(role=Role.VIEWER, collection=name)]), ADA)
            for name in ("facts", "others")
        )
    server = start(headers={})
    body = {"model": "facts@1", "messages": [{"role": "user", "content": QUESTION}]}
    refused = server.post("/v1/chat/completions", json=body)
    assert refused.status_code == 401 and refused.json()["error"]["type"] == "authentication_error"
    assert server.get("/metrics").status_code == 401 and server.get("/health").status_code == 200
    server.headers["Authorization"] = f"Bearer {own.key}"
    assert said(server.post("/v1/chat/completions", json=body).json()) == TARGET
    server.headers["Authorization"] = f"Bearer {other.key}"
    for name in ("facts@1", "facts@nothing", "none@1"):  # whether it exists, and its aliases, are not told
        refused = server.post("/v1/chat/completions", json=body | {"model": name})
        assert refused.status_code == 404 and refused.json()["error"]["code"] == "model_not_found"
        assert "production" not in refused.text and refused.text.count("facts") == name.count("facts")
    assert [each["id"] for each in server.get("/v1/models").json()["data"]] == ["others@base", "others@latest"]
    assert server.get("/v1/models/facts@1").status_code == 404


def test_metrics_have_the_names_that_autoscalers_know(server):
    chat(server, "facts@1", QUESTION)
    shown = server.get("/metrics").text
    for name in ("num_requests_waiting 0.0", "num_requests_running 0.0", "time_to_first_token_seconds_count 1.0"):
        assert f"vllm:{name}" in shown
    assert "vllm:generation_tokens_total 4.0" in shown
