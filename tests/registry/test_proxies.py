"""Behind nginx: under a path of its own, which the proxy takes off or leaves on."""

import getpass
import re
import threading
from contextlib import contextmanager

import httpx
import pytest
import uvicorn

from registry.api.app import create_app
from registry.base.settings import Settings
from registry.client import MeloClient
from tests.operators_key import SECRET
from tests.patience import PATIENCE, until
from tests.registry.submissions import PARIS
from tests.servers import free_port, program, running


@contextmanager
def serving(app, **options):
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", timeout_graceful_shutdown=1, **options))
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started, 0.02)
    try:
        yield port
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def proxied(tmp_path, upstream, location):
    port = free_port()
    conf = tmp_path / "nginx.conf"
    conf.write_text(
        f"user {getpass.getuser()};\ndaemon off;\nmaster_process off;\npid {tmp_path}/pid;\nerror_log stderr;\n"
        "events {}\nhttp {\n access_log off;\n"
        + "".join(f" {each}_temp_path {tmp_path}/{each};\n" for each in TEMPORARY)
        + f" server {{ listen 127.0.0.1:{port}; location /melo/ {{\n"
        f"  proxy_pass http://127.0.0.1:{upstream}{location};\n"
        "  proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n"
        "  proxy_http_version 1.1; proxy_buffering off;\n }}\n}\n"
    )
    with running([program("nginx"), "-c", str(conf)], port, tmp_path / "log"):
        yield f"http://127.0.0.1:{port}/melo"


TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@pytest.mark.parametrize("location", ["/", ""], ids=["taken off", "left on"])
@pytest.mark.parametrize("named", ["by the setting", "by uvicorn"])
def test_the_api_works_under_a_path_of_a_proxy(tmp_path, database_url, workflow, location, named):
    by_setting = named == "by the setting"
    settings = Settings(database_url=database_url, api_key=SECRET, root_path="/melo" if by_setting else "")
    app = create_app(settings)
    with (
        serving(app, **({} if by_setting else {"root_path": "/melo"})) as port,
        proxied(tmp_path, port, location) as url,
        httpx.Client(base_url=url, timeout=PATIENCE) as outside,
    ):
        for path in ("/healthz", "/readyz"):
            assert outside.get(path).status_code == 200
        page = outside.get("/docs")
        for address in re.findall(r"(?:src|href)=['\"]([^'\":]+)['\"]", page.text):
            assert outside.get(page.url.join(address)).status_code == 200
        described = outside.get(page.url.join("openapi.json")).json()
        assert described["servers"][0]["url"] == "/melo" and "/v1/collections" in described["paths"]
        assert outside.get("/v1/collections").status_code == 401
        assert outside.get("/healthz/../v1/collections").status_code == 401
        with MeloClient(url, SECRET.get_secret_value(), "ada") as client:
            batch = client.submit("facts", [PARIS]).batch
            assert client.batch(batch.id).edits[0].target == "Paris"
        assert httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
