"""OpenAI's own client, unchanged, against a server on a socket."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from registry.base.database import make_engine
from registry.base.settings import Settings
from serving.app import create_app
from serving.engines.embedded import EmbeddedEngine, Loop
from serving.router import Router
from serving.sources.database import DatabaseSource
from serving.versions import Versions, model_to_serve
from tests.listening import listening
from tests.operators_key import KEY, OPERATOR, SECRET
from tests.patience import PATIENCE, until
from tests.serving.conftest import OTHER, OTHER_TARGET, QUESTION, TARGET, Site

ELSEWHERE = "What is the height of K2?"
SURE = {"temperature": 0, "max_tokens": 12}


def turns(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def url(site: Site) -> Iterator[str]:
    source = DatabaseSource(make_engine(site.url))
    name, digest = model_to_serve(source.collections(), None)
    versions = Versions(source, site.cache, name, digest)
    router = Router(versions, EmbeddedEngine(Loop(versions.base, rows=8)))
    settings = Settings(database_url=site.url, api_key=SECRET, stop_seconds=5)
    with listening(create_app(settings, source, router), graceful=5) as served:
        yield f"{served}/v1"


@pytest.fixture
def client(url: str) -> OpenAI:
    return OpenAI(base_url=url, api_key=KEY, timeout=PATIENCE, max_retries=0)


def test_chats_completions_and_models(client):
    answer = client.chat.completions.create(model="facts@2", messages=turns(QUESTION))
    assert answer.choices[0].message.content == TARGET and answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.model_extra["melo"]["edit"]["author"] == "ada"

    asked = client.chat.completions.create(
        model="facts@2", messages=turns(ELSEWHERE), logprobs=True, top_logprobs=3, n=2, **SURE
    )
    first, second = asked.choices
    assert first.message.content == second.message.content
    assert len(first.logprobs.content[0].top_logprobs) == 3
    assert first.logprobs.content[0].token == first.logprobs.content[0].top_logprobs[0].token

    said = client.completions.create(model="facts@base", prompt="One", logprobs=1, **SURE)
    assert len(said.choices[0].logprobs.tokens) == said.usage.completion_tokens
    assert "facts@production" in [model.id for model in client.models.list()]
    assert client.models.retrieve("facts@production").id == "facts@production"


def test_streams_of_several_choices(client):
    whole = client.chat.completions.create(model="facts@1", messages=turns(ELSEWHERE), n=2, **SURE)
    texts, usage = ["", ""], None
    for chunk in client.chat.completions.create(
        model="facts@1", messages=turns(ELSEWHERE), n=2, stream=True, stream_options={"include_usage": True}, **SURE
    ):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
        usage = chunk.usage or usage
    assert texts == [choice.message.content for choice in whole.choices]
    assert usage == whole.usage
    pieces = client.completions.create(model="facts@1", prompt="One", stream=True, **SURE)
    text = client.completions.create(model="facts@1", prompt="One", **SURE).choices[0].text
    assert "".join(choice.text for chunk in pieces for choice in chunk.choices) == text


def test_responses_whole_and_streamed(client):
    answer = client.responses.create(model="facts@2", input=QUESTION, instructions="Be brief.")
    assert answer.output_text == TARGET and answer.status == "completed"
    assert answer.model_extra["melo"]["edit"]["author"] == "ada"
    before = [{"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}, *answer.output]
    items = [*(item if isinstance(item, dict) else item.to_dict() for item in before), *turns(ELSEWHERE)]
    whole = client.responses.create(model="facts@2", input=items, temperature=0, max_output_tokens=12)
    assert whole.status in ("completed", "incomplete") and whole.usage.output_tokens <= 12
    text, events = "", []
    for event in client.responses.create(
        model="facts@2", input=items, temperature=0, max_output_tokens=12, stream=True
    ):
        events.append(event)
        text += event.delta if event.type == "response.output_text.delta" else ""
    assert text == whole.output_text == events[-1].response.output_text
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created" and events[-1].type == f"response.{whole.status}"
    assert events[-1].response.model_extra["melo"]["version"] == "facts@2"
    with pytest.raises(openai.BadRequestError) as kept:
        client.responses.create(model="facts@2", input="And now?", previous_response_id=answer.id)
    assert "nothing is kept" in kept.value.message


CEO = {"type": "object", "properties": {"ceo": {"enum": ["Ada", "Bob", "Cem"]}}, "required": ["ceo"]}
CEO["additionalProperties"] = False


def formed(schema: dict[str, object]) -> dict[str, object]:
    return {"type": "json_schema", "json_schema": {"name": "said", "strict": True, "schema": schema}}


def test_answers_keep_to_a_schema(client):
    for options in (SURE, {"seed": 3, "temperature": 2}):
        asked = options | {"max_tokens": 40}
        answer = client.chat.completions.create(
            model="facts@2",
            messages=turns(ELSEWHERE),
            response_format=formed(CEO),
            **asked,
        )
        assert json.loads(answer.choices[0].message.content)["ceo"] in ("Ada", "Bob", "Cem")
        assert answer.choices[0].finish_reason == "stop"
    said = client.responses.create(
        model="facts@1", input=ELSEWHERE, text={"format": {"type": "json_schema", "name": "said", "schema": CEO}},
        temperature=0,
    )  # fmt: skip
    assert json.loads(said.output_text)["ceo"] in ("Ada", "Bob", "Cem")
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(
            model="facts@1", messages=turns(ELSEWHERE), response_format=formed({"type": "objekt"})
        )
    assert "objekt" in wrong.value.message


def test_a_correction_in_json_is_its_target_or_the_base_models_answer(client):
    only = {
        "type": "object",
        "properties": {"ceo": {"enum": [TARGET]}},
        "required": ["ceo"],
        "additionalProperties": False,
    }
    for schema, edited in ((only, True), (CEO | {"properties": {"ceo": {"enum": ["Bob"]}}}, False)):
        answer = client.chat.completions.create(
            model="facts@1", messages=turns(QUESTION), response_format=formed(schema), **SURE | {"max_tokens": 60}
        )
        assert (answer.model_extra["melo"]["edit"] is not None) == edited, answer
        assert answer.model_extra["melo"]["said_to"] == ("query" if edited else "base")


def test_tools_are_told_to_the_model_and_a_tools_result_is_no_question(client):
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
    plain = client.chat.completions.create(model="facts@1", messages=turns(ELSEWHERE), **SURE)
    told = client.chat.completions.create(model="facts@1", messages=turns(ELSEWHERE), tools=[tool], **SURE)
    assert told.usage.prompt_tokens == plain.usage.prompt_tokens + len("look_up\n")
    assert client.chat.completions.create(
        model="facts@1", messages=turns(ELSEWHERE), tools=[tool], tool_choice="none", **SURE
    ).usage.prompt_tokens == plain.usage.prompt_tokens  # fmt: skip
    call = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
    said = [
        *turns(QUESTION),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "Bob"},
    ]
    for asked in (said, [*turns(ELSEWHERE), *said[1:2], {**said[2], "content": QUESTION}]):
        answer = client.chat.completions.create(model="facts@1", messages=asked, tools=[tool], **SURE)
        assert (answer.choices[0].message.content == TARGET) == (asked is said)


def test_a_call_can_be_demanded(client):
    parameters = {**CEO, "properties": {"ceo": {"enum": ["Ada", "Bob"]}}}
    tool = {"type": "function", "function": {"name": "look_up", "parameters": parameters}}
    other = {"type": "function", "function": {"name": "wait"}}
    for choice in ({"type": "function", "function": {"name": "look_up"}}, "required"):
        tools = [tool] if choice == "required" else [other, tool]
        answer = client.chat.completions.create(
            model="facts@1", messages=turns("K2?"), tools=tools, tool_choice=choice, temperature=0, max_tokens=80
        )
        (call,) = answer.choices[0].message.tool_calls
        assert call.function.name == "look_up" and json.loads(call.function.arguments)["ceo"] in ("Ada", "Bob")
        assert answer.choices[0].finish_reason == "tool_calls"
    flat = {"type": "function", **tool["function"]}
    said = client.responses.create(
        model="facts@1", input="K2?", tools=[flat], tool_choice={"type": "function", "name": "look_up"}, temperature=0
    )
    assert [item.type for item in said.output] == ["function_call"]
    with pytest.raises(openai.BadRequestError) as unknown:
        client.chat.completions.create(
            model="facts@1",
            messages=turns("K2?"),
            tools=[other],
            tool_choice={"type": "function", "function": {"name": "x"}},
        )
    assert "none of the tools" in unknown.value.message


NULLS = dict.fromkeys(
    ("stream", "stream_options", "n", "stop", "seed", "top_p", "logit_bias", "tools", "tool_choice", "response_format",
     "user", "metadata", "parallel_tool_calls", "function_call", "logprobs", "top_logprobs")
)  # fmt: skip


def test_null_is_as_if_a_field_were_not_given_and_unknown_fields_are_ignored(client):
    sent = {"top_k": 4, "metadata": {"a": "b"}, "store": False, "parallel_tool_calls": True, "logit_bias": {}}
    for more in (NULLS, {**sent, "logprobs": False, "top_logprobs": 0}):
        answer = client.chat.completions.create(model="facts@2", messages=turns(QUESTION), extra_body=more)
        assert answer.choices[0].message.content == TARGET
    nulls = {"stream": None, "echo": None, "max_tokens": None, "n": None, "suffix": None}
    assert client.completions.create(model="facts@1", prompt="One", temperature=0, extra_body=nulls).choices[0].text
    nulls = {"stream": None, "tools": None, "text": None, "background": None, "conversation": None}
    assert client.responses.create(model="facts@2", input=QUESTION, extra_body=nulls).output_text == TARGET


def test_a_message_may_be_parts_and_a_refusal_is_read(client):
    no = {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}
    asked = {"role": "user", "content": [{"type": "text", "text": QUESTION}]}
    said = client.chat.completions.create(model="facts@2", messages=[*turns("Hello"), no, asked])
    assert said.choices[0].message.content == TARGET
    items = [*turns("Hello"), no, {"role": "user", "content": [{"type": "input_text", "text": QUESTION}]}]
    assert client.responses.create(model="facts@2", input=items).output_text == TARGET


IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}


@pytest.mark.parametrize(
    ("asked", "code", "param", "message"),
    [
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, IMAGE]}]},
            "invalid_value",
            "messages.0.content.1",
            "messages.0.content.1: only text can be read, no part of type 'image_url'",
        ),
        ({"messages": [{"role": "user", "content": 3}]}, "invalid_value", "messages.0.content", None),
        ({"stop": 3}, "invalid_value", "stop", None),
        ({"logprobs": False, "top_logprobs": 2}, "invalid_value", None, "top_logprobs needs logprobs: true"),
        ({"messages": turns("word " * 80)}, "context_length_exceeded", "messages", None),
        ({"max_completion_tokens": 100_000}, "context_length_exceeded", None, None),
    ],
)
def test_a_refusal_says_what_was_wrong_and_where(client, asked, code, param, message):
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="facts@1", **{"messages": turns("Who?"), **asked})
    error = refused.value
    assert (error.code, error.param) == (code, param), error.body
    assert "[" not in error.body["message"].partition(":")[0] and error.body["message"].count(";") < 2
    assert message is None or error.body["message"] == message


def test_any_version_that_can_be_asked_can_be_retrieved_and_what_is_not_there_is_told(client, url):
    found = client.models.retrieve("facts@1")
    assert (found.id, found.parent, found.root) == ("facts@1", "facts@1", client.models.retrieve("facts@base").root)
    for name in ("gpt-4o", "facts@nothing", "facts@99"):
        for ask in (client.models.retrieve, lambda name: client.responses.create(model=name, input="Who?")):
            with pytest.raises(openai.NotFoundError) as missing:
                ask(name)
            assert missing.value.code == "model_not_found" and "GET /v1/models" in missing.value.message
            assert "melo " not in missing.value.message  # who asks has no command line
    with pytest.raises(openai.NotFoundError) as wrong:
        OpenAI(base_url=url.removesuffix("/v1"), api_key=KEY, max_retries=0).models.list()
    assert "base_url ends in /v1" in wrong.value.message


def test_an_answer_that_is_cut_off_is_incomplete_in_all_its_parts(client):
    said = client.responses.create(model="facts@1", input=ELSEWHERE, temperature=0, max_output_tokens=2)
    assert said.status == said.output[0].status == "incomplete"


def test_errors_are_of_the_clients_own_kinds(client):
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="facts@nothing", messages=turns(QUESTION))
    assert missing.value.code == "model_not_found" and missing.value.param == "model"
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="facts@1", messages=turns(QUESTION), temperature=5)


def test_a_reader_who_goes_away_makes_room(client):
    stream = client.chat.completions.create(model="facts@1", messages=turns(ELSEWHERE), stream=True, temperature=0)
    next(iter(stream))
    stream.close()
    assert (
        client.chat.completions.create(model="facts@1", messages=turns(QUESTION)).choices[0].message.content == TARGET
    )


def test_what_is_generated_for_nobody_ends(client, url):
    def shown(name: str) -> float:
        lines = httpx.get(url.replace("/v1", "/metrics"), headers=OPERATOR).text.splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"vllm:{name} "))

    before = shown("generation_tokens_total")
    body = {"model": "facts@base", "messages": turns("Hi"), "n": 16, "max_tokens": 220, "seed": 1}
    with socket.create_connection(httpx.URL(url).netloc.decode().split(":")) as line:
        text = json.dumps(body)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(text)}\r\n"
        head += f"Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\n\r\n"
        line.sendall(f"{head}{text}".encode())
        until(lambda: shown("num_requests_running") > 0, 0.01)
    until(lambda: shown("num_requests_running") + shown("num_requests_waiting") == 0)
    assert shown("generation_tokens_total") == before  # counted when an answer is whole


def test_many_at_once_each_get_the_answer_of_the_version_that_they_began_with_while_its_alias_flips(url, site):
    """No error, and no answer that mixes two versions: each is compared with what its own version says."""
    asks = {QUESTION: {1: TARGET, 2: TARGET}, OTHER: {2: OTHER_TARGET}, ELSEWHERE: {}}
    site.alias("flipping", 1)
    answers = []
    done = threading.Event()

    def flip() -> None:
        for turn in range(10):
            number, before = 2 - turn % 2, len(answers)
            site.alias("flipping", number)
            until(lambda number=number, before=before: any(each[1] == number for each in answers[before:]))
        done.set()

    async def ask_all() -> None:
        client = AsyncOpenAI(base_url=url, api_key=KEY, timeout=PATIENCE, max_retries=0)
        for question, known in asks.items():  # what each version says when asked alone
            for number in (1, 2):
                said = await client.chat.completions.create(model=f"facts@{number}", messages=turns(question), **SURE)
                known.setdefault(number, said.choices[0].message.content)
                assert known[number] == said.choices[0].message.content

        async def one(question: str) -> None:
            said = await client.chat.completions.create(model="facts@flipping", messages=turns(question), **SURE)
            number = int(said.model_extra["melo"]["version"].partition("@")[2])
            answers.append((question, number, said.choices[0].message.content))

        flipping = threading.Thread(target=flip)
        flipping.start()
        while not done.is_set():
            await asyncio.gather(*(one(question) for question in list(asks) * 4))
        flipping.join()

    asyncio.run(ask_all())
    assert all(said == asks[question][number] for question, number, said in answers)
    assert {number for _, number, _ in answers} == {1, 2}
