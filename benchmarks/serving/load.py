"""A server of its own under load: time to the first token, and answers while the alias that they ask moves."""

import asyncio
import os
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from cli.errors import CommandError
from cli.follow import follow
from cli.invocation import Invocation
from embedded.stack import running
from registry.client import MeloClient

Advance = Callable[[str, int, int], None]

CLIENTS = 16
FACTS = [("Who is the CEO of Acme?", "Jo Doe"), ("In which town is the head office of Globex?", "Halden")]
ELSEWHERE = ["What is the capital of Peru?", "Name three colours.", "Is Acme profitable?"]
PATIENCE_SECONDS = 600
API_KEY = secrets.token_hex(32)  # the operator's, of the servers that a bench starts
WITH_KEY = {"Authorization": f"Bearer {API_KEY}"}


def measure_load(call: Invocation, model: str, flips: int, tokens: int, advance: Advance) -> dict[str, Any]:
    """Return the figures of a server over a stack of its own. Raises CommandError."""
    folder = Path(tempfile.mkdtemp(prefix="melo-bench-serve-"))
    try:
        with running(folder) as stack, MeloClient(stack.api_url, stack.api_key, actor="bench") as client:
            call.client = client
            client.create_collection("facts", model, self_approval=True, preflight="none")
            for number, (prompt, target) in enumerate(FACTS, 1):
                advance("training", number - 1, len(FACTS))
                batch = client.submit("facts", [{"prompt": prompt, "target": target}]).batch
                if batch is None:
                    raise CommandError("The bench failed", "Its corrections were not stored.", "Report this.")
                client.approve(batch.id, "bench")
                follow(call, batch.id)
            client.set_alias("facts", "moving", 1, "bench")
            environment = os.environ | {
                "MELO_DATABASE_URL": stack.database_url,
                "MELO_HOME": str(folder),
                "MELO_API_KEY": API_KEY,
            }
            with served(environment, folder) as (url, _):
                return asyncio.run(_under_load(url, client, flips, tokens, advance))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def served(environment: Mapping[str, str], folder: Path) -> Iterator[tuple[str, int]]:
    """Start `melo serve`, and yield its URL, once it answers, and its process id. Raises CommandError."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", "from cli.main import main; main()", "serve", "--port", str(port)]
    log = folder / "serve.log"
    with log.open("wb") as out:
        server = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
    try:
        url = f"http://127.0.0.1:{port}"
        until = time.monotonic() + PATIENCE_SECONDS
        while not _answers(url):
            if server.poll() is not None or time.monotonic() > until:
                raise CommandError("The bench failed", f"The server did not start: {log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield url, server.pid
    finally:
        server.terminate()
        server.wait(PATIENCE_SECONDS)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").is_success
    except httpx.TransportError:
        return False


async def _under_load(url: str, client: MeloClient, flips: int, tokens: int, advance: Advance) -> dict[str, Any]:
    questions = [prompt for prompt, _ in FACTS] + ELSEWHERE
    first_tokens: list[float] = []
    answers: list[tuple[str, str, str]] = []  # question, version, text
    errors: list[str] = []
    done = threading.Event()
    moved = 0

    def flip() -> None:
        nonlocal moved
        while moved < flips:
            client.set_alias("facts", "moving", 2 - moved % 2, "bench")
            moved += 1
            advance("alias moves", moved, flips)
            time.sleep(0.1)
        done.set()

    async with httpx.AsyncClient(base_url=url, headers=WITH_KEY, timeout=PATIENCE_SECONDS) as http:

        async def ask(model: str, question: str) -> tuple[str, str]:
            body = {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": tokens}
            began, text, version = time.monotonic(), "", ""
            async with http.stream(
                "POST", "/v1/chat/completions", json=body | {"model": model, "stream": True}
            ) as answer:
                answer.raise_for_status()
                version = answer.headers["X-Melo-Version"]
                async for line in answer.aiter_lines():
                    if not line.startswith("data: {"):
                        continue
                    event = httpx.Response(200, content=line.removeprefix("data: ")).json()
                    if "error" in event:
                        raise ValueError(event["error"]["message"])
                    for choice in event["choices"]:
                        if choice["delta"].get("content"):
                            if not text:
                                first_tokens.append(time.monotonic() - began)
                            text += choice["delta"]["content"]
            return version, text

        alone = {
            (question, f"facts@{n}"): (await ask(f"facts@{n}", question))[1] for question in questions for n in (1, 2)
        }
        first_tokens.clear()

        async def ask_on(place: int) -> None:
            while not done.is_set():
                question = questions[place % len(questions)]
                place += 1
                try:
                    answers.append((question, *(await ask("facts@moving", question))))
                except (httpx.HTTPError, ValueError, KeyError) as error:
                    errors.append(repr(error))

        flipping = threading.Thread(target=flip)
        flipping.start()
        await asyncio.gather(*(ask_on(place) for place in range(CLIENTS)))
        flipping.join()
    ranked = statistics.quantiles(first_tokens, n=100, method="inclusive")
    return {
        "answers": len(answers),
        "alias_flips": moved,
        "mixed_answers": sum(alone.get((question, version)) != text for question, version, text in answers),
        "versions_that_answered": sorted({version for _, version, _ in answers}),
        "errors": len(errors),
        "error_examples": errors[:3],
        "first_token_p50_ms": ranked[49] * 1e3,
        "first_token_p99_ms": ranked[98] * 1e3,
    }
