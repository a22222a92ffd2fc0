"""A registry, a router without weights, and vLLM: the same answers as in one process."""

import asyncio
import json
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from serving.engines.embedded import Loop
from serving.engines.port import Acting, Generation, Token
from serving.engines.vllm import VllmEngine
from tests.operators_key import OPERATOR
from tests.patience import PATIENCE, until
from tests.vllm.conftest import MODEL, Server, Site, router, vllm_server

pytestmark = pytest.mark.long


@dataclass
class Cluster:
    vllm: Server
    router: Server

    def models(self) -> list[str]:
        """Return the names that vLLM knows, besides that of the base model."""
        found = httpx.get(f"{self.vllm.url}/v1/models").json()["data"]
        return [each["id"] for each in found if each["parent"]]

    def running(self) -> float:
        """Return how many requests vLLM works on."""
        lines = httpx.get(f"{self.vllm.url}/metrics").text.splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running{"))


@pytest.fixture(scope="module")
def cluster(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder: Path = tmp_path_factory.mktemp("cluster")
    vllm = vllm_server(site, folder)
    try:
        front = router(site, folder, vllm.url)
        try:
            yield Cluster(vllm, front)
        finally:
            front.end()
    finally:
        vllm.end()


async def asked_at_once(url: str, texts: list[str]) -> list[dict]:
    async with httpx.AsyncClient(base_url=url, headers=OPERATOR, timeout=PATIENCE) as http:

        async def ask(text: str) -> dict:
            body = {"model": "facts@1", "messages": [{"role": "user", "content": text}], "max_tokens": 24}
            answer = await http.post("/v1/chat/completions", json=body | {"temperature": 0})
            return answer.raise_for_status().json()

        return await asyncio.gather(*(ask(text) for text in texts))


def test_all_questions_at_once_are_answered_as_by_the_edited_model_with_the_same_edits(site, cluster):
    """With four slots for eight blocks, which vLLM fetches from the registry as they are wanted."""
    texts = [asked.text for asked in site.questions]
    wanted = site.version.model.ask(texts, max_new_tokens=24)
    found = asyncio.run(asked_at_once(cluster.router.url, texts))
    assert [each["choices"][0]["message"]["content"].strip() for each in found] == [each.text for each in wanted]
    edits = [each["melo"]["edit"] and each["melo"]["edit"]["id"] for each in found]
    behind = [site.version.edit_behind(answer) for answer in wanted]
    assert edits == [edit and edit.id for edit in behind]
    assert len({edit for edit in edits if edit}) == 8
    assert set(cluster.models()) == {block.sha256 for block in site.version.content.blocks.values()}


def generated(
    engine: VllmEngine, asked: list[tuple[list[int], str | None]], top: int | None = None
) -> list[list[Token]]:
    """Generate for prompts, given as tokens and the digest of a block."""
    found: list[list[Token]] = [[] for _ in asked]
    ends = [threading.Event() for _ in asked]
    requests = []
    for (ids, block), tokens, end in zip(asked, found, ends, strict=True):
        acting = Acting(block, None) if block else None
        request = Generation(
            ids, 24, acting, lambda token, tokens=tokens: tokens.append(token), lambda why, end=end: end.set()
        )
        request.top_logprobs = top
        requests.append(request)
        engine.submit(request)
    assert all(end.wait(PATIENCE) for end in ends)
    assert [request.ended for request in requests if isinstance(request.ended, Exception)] == []
    return found


def test_tokens_and_their_log_probabilities_are_those_of_the_embedded_engine(site, cluster):
    base = site.version.model.base
    ids = site.questions[-1].ids
    loop, here = Loop(base, rows=1), list[Token]()
    loop.waiting.append(Generation(ids, 24, None, lambda token: here.append(token), lambda why: None, top_logprobs=3))
    while loop.step():
        pass
    engine = VllmEngine([cluster.vllm.url], MODEL, base.end_tokens)
    (there,) = generated(engine, [(ids, None)], top=3)
    engine.stop(1)
    assert [token.id for token in there] == [token.id for token in here]
    for a, b in zip(there, here, strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=1e-3)
        assert [id for id, _ in a.top] == [id for id, _ in b.top]


def test_names_that_are_not_used_are_unloaded(site, cluster):
    questions = {asked.block: asked for asked in site.questions if asked.block}
    engine = VllmEngine([cluster.vllm.url], MODEL, site.version.model.base.end_tokens, most_names=2)
    before = set(cluster.models())
    for block, asked in questions.items():
        (tokens,) = generated(engine, [(asked.ids, block)])
        assert [token.id for token in tokens] == asked.answer
    engine.stop(5)
    assert len(before) == 8
    assert set(cluster.models()) == set(list(questions)[-2:])


def test_a_block_that_the_registry_lacks_is_refused_and_the_server_goes_on(site, cluster):
    engine = VllmEngine([cluster.vllm.url], MODEL, site.version.model.base.end_tokens)
    ended = []
    engine.submit(Generation([1, 2, 3], 4, Acting("0" * 64, None), lambda token: False, ended.append))
    until(lambda: ended, 0.05)
    engine.stop(1)
    assert "has no block 000" in str(ended[0])
    assert len(asyncio.run(asked_at_once(cluster.router.url, [site.questions[-1].text]))) == 1


def test_an_answer_can_be_held_to_a_json_schema(cluster):
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    shape = {"type": "json_schema", "json_schema": {"name": "number", "schema": schema}}
    body = {"model": "facts@1", "messages": [{"role": "user", "content": "Give me a number."}], "max_tokens": 30}
    url = f"{cluster.router.url}/v1/chat/completions"
    body |= {"response_format": shape, "temperature": 0}
    answer = httpx.post(url, json=body, headers=OPERATOR, timeout=PATIENCE)
    found = json.loads(answer.raise_for_status().json()["choices"][0]["message"]["content"])
    assert found.keys() == {"n"} and isinstance(found["n"], int)


def streamed(cluster: Cluster, **more: object):
    body = {"model": "facts@1", "messages": [{"role": "user", "content": "Write a long story about a bee."}]}
    return httpx.stream(
        "POST",
        f"{cluster.router.url}/v1/chat/completions",
        json=body | {"stream": True, "max_tokens": 900, "temperature": 0} | more,
        headers=OPERATOR,
        timeout=PATIENCE,
    )


def test_an_answer_that_nobody_reads_any_more_ends_in_vllm(cluster):
    with streamed(cluster) as answer:
        next(line for line in answer.iter_lines() if '"content"' in line)
        until(lambda: cluster.running() == 1, 0.1)
    until(lambda: cluster.running() == 0, 0.1)


def test_a_server_that_dies_in_an_answer_ends_it_with_an_error_and_later_questions_are_refused(cluster):
    """The last test: vLLM is gone after it."""
    with streamed(cluster) as answer:
        lines = answer.iter_lines()
        next(line for line in lines if '"content"' in line)
        cluster.vllm.process.send_signal(signal.SIGKILL)
        rest = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    assert rest[-1]["error"]["code"] == "engine_failed"
    assert not any(choice.get("finish_reason") for each in rest[:-1] for choice in each["choices"])
    body = {"model": "facts@1", "messages": [{"role": "user", "content": "Who wrote Hamlet?"}]}
    refused = httpx.post(f"{cluster.router.url}/v1/chat/completions", json=body, headers=OPERATOR, timeout=PATIENCE)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_server")
    assert refused.headers["Retry-After"]
