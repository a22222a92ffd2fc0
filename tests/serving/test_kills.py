"""A server is killed while many ask: no answer is wrong, none that broke off looks whole, and the next goes on."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from openai import APIError, OpenAI

from tests.operators_key import KEY
from tests.patience import PATIENCE, until
from tests.serving.conftest import OTHER, OTHER_TARGET, QUESTION, TARGET
from tests.serving.link import Link

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = "What is the height of K2?"
ASKED = [
    ("facts@1", QUESTION),
    ("facts@2", QUESTION),
    ("facts@2", OTHER),
    ("facts@2", ELSEWHERE),
    ("facts@base", OTHER),
]


@contextmanager
def serving(database: str, port: int, cache: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server as a program of its own."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("MELO_")}
    own |= {
        "MELO_DATABASE_URL": database,
        "MELO_CACHE": str(cache),
        "MELO_SERVE_PORT": str(port),
        "MELO_STOP_SECONDS": "5",
        "MELO_API_KEY": KEY,
    }
    process = subprocess.Popen([sys.executable, "-m", "serving"], cwd=ROOT, env=own)
    try:
        until(lambda: process.poll() is not None or answers(port))
        assert process.poll() is None
        yield process
    finally:
        process.kill()
        process.wait()


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
    except httpx.HTTPError:
        return False


def ask(port: int, model: str, question: str) -> str | None:
    """Return a streamed answer, or None where it was refused or broke off."""
    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=KEY, timeout=PATIENCE, max_retries=0)
    said, ended = "", False
    try:
        for chunk in client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": question}], stream=True, temperature=0, max_tokens=60
        ):
            for choice in chunk.choices:
                said += choice.delta.content or ""
                ended = ended or choice.finish_reason is not None
    except (APIError, httpx.HTTPError):
        return None
    return said if ended else None


@pytest.mark.long
def test_killed_and_cut_off_servers_give_no_wrong_answer(site, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    link = Link.to_database(site.url)
    database = link.database_url(site.url)
    said: list[tuple[tuple[str, str], str | None]] = []
    stop = threading.Event()

    def asker(i: int) -> None:
        while not stop.wait(0.05):
            asked = ASKED[i % len(ASKED)]
            said.append((asked, ask(port, *asked)))
            i += 1

    def go_on() -> None:
        """Wait until each version was asked some times more."""
        before = len(said)
        until(lambda: sum(answer is not None for _, answer in said[before:]) > 4 * len(ASKED))

    threads = [threading.Thread(target=asker, args=(i,), daemon=True) for i in range(6)]
    with serving(database, port, tmp_path) as first:
        wanted = {asked: ask(port, *asked) for asked in ASKED}
        assert wanted["facts@1", QUESTION] == TARGET and wanted["facts@2", OTHER] == OTHER_TARGET
        for thread in threads:
            thread.start()
        go_on()
        first.send_signal(signal.SIGKILL)
        first.wait()
        until(lambda: any(answer is None for _, answer in said))
    with serving(database, port, tmp_path):
        go_on()
        link.cut()
        go_on()  # what is loaded does
        link.mend()
        go_on()
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert [(asked, answer) for asked, answer in said if answer not in (None, wanted[asked])] == []
