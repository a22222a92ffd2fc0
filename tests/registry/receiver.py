"""A receiver of webhooks, and what the API says of them."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from fastapi.testclient import TestClient
from sqlalchemy import text

from tests.patience import PATIENCE


class Receiver:
    """A real HTTP server that keeps what it is sent, and answers as it is told."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.statuses: list[int] = []  # of the next answers; then 204
        self.answering = threading.Event()  # until it is set, senders wait
        self.answering.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.answering.wait(PATIENCE)
                receiver.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
                status = receiver.statuses.pop(0) if receiver.statuses else 204
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", receiver.url)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/melo?to=me"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def types(self) -> list[str]:
        return [json.loads(body)["type"] for _, body in self.got]


def receiving() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.answering.set()
    receiver.server.shutdown()
    receiver.server.server_close()


def add(api: TestClient, url: str, **fields: object) -> dict:
    answer = api.post("/v1/webhooks", json={"url": url} | fields)
    assert answer.status_code == 201, answer.text
    return answer.json()


def deliveries(api: TestClient, webhook: dict) -> list[dict]:
    return api.get(f"/v1/webhooks/{webhook['id']}/deliveries").json()


def run_sql(sessions, statement: str) -> None:
    with sessions.begin() as session:
        session.execute(text(statement))
