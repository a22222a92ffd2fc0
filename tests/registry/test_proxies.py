"""Behind nginx: under a path of its own, which the proxy takes off or leaves on."""

import re

import httpx
import pytest
from fastapi.testclient import TestClient
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from registry.api.app import create_app
from registry.base.settings import Settings
from registry.client import MeloClient
from tests.listening import listening
from tests.operators_key import SECRET
from tests.patience import PATIENCE
from tests.registry.submissions import PARIS
from tests.servers import proxied

PREFIX = "proxy_set_header X-Forwarded-Prefix /melo"


@pytest.mark.parametrize("location", ["/", ""], ids=["taken off", "left on"])
@pytest.mark.parametrize("named", ["by the setting", "by uvicorn", "by the proxy"])
def test_the_api_works_under_a_path_of_a_proxy(tmp_path, database_url, workflow, location, named):
    settings = Settings(
        database_url=database_url,
        api_key=SECRET,
        root_path="/melo" if named == "by the setting" else "",
        FORWARDED_ALLOW_IPS="127.0.0.1" if named == "by the proxy" else "",
    )
    app = create_app(settings)
    with (
        listening(app, root_path="/melo" if named == "by uvicorn" else "") as inside,
        proxied(tmp_path, inside, location, *([PREFIX] if named == "by the proxy" else [])) as url,
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
        assert httpx.get(f"{inside}/healthz").status_code == 200


def servers(settings, headers, client=("127.0.0.1", 1), path="/openapi.json"):
    """The path that the API's description names, asked with headers by way of uvicorn's own middleware."""
    app = create_app(settings)
    trusted = settings.trusted_proxies or "127.0.0.1"  # as uvicorn has it
    with TestClient(ProxyHeadersMiddleware(app, trusted), client=client) as asked:
        answer = asked.get(path, headers=headers)
    return answer.json().get("servers", [{}])[0].get("url", "") if answer.status_code == 200 else answer.status_code


@pytest.mark.parametrize(
    ("trusted", "headers", "expected"),
    [
        ("127.0.0.1", {"X-Forwarded-Prefix": "/melo"}, "/melo"),
        ("127.0.0.0/8,::1", {"X-Forwarded-Prefix": "/melo/", "X-Forwarded-For": "198.51.100.7"}, "/melo"),
        ("127.0.0.1", [("X-Forwarded-Prefix", "/a"), ("X-Forwarded-Prefix", "/b, /c")], "/a/b/c"),
        ("127.0.0.1", {"X-Forwarded-Prefix": "//other.example"}, ""),
        ("127.0.0.1", {"X-Forwarded-Prefix": "https://other.example"}, ""),
        ("127.0.0.1", {"X-Forwarded-Prefix": "/a'><script>"}, ""),
        ("", {"X-Forwarded-Prefix": "/melo", "X-Forwarded-For": "198.51.100.7"}, ""),
        ("10.0.0.1", {"X-Forwarded-Prefix": "/melo", "X-Forwarded-For": "10.0.0.1"}, ""),
        ("10.0.0.1", {"X-Forwarded-Prefix": "/melo"}, ""),
    ],
)
def test_a_path_in_a_header_is_believed_of_a_trusted_proxy_alone(database_url, workflow, trusted, headers, expected):
    settings = Settings(database_url=database_url, api_key=SECRET, FORWARDED_ALLOW_IPS=trusted)
    assert servers(settings, headers) == expected


def test_the_setting_comes_before_a_header_and_no_header_opens_what_needs_a_key(database_url, workflow):
    settings = Settings(database_url=database_url, api_key=SECRET, root_path="/mine", FORWARDED_ALLOW_IPS="127.0.0.1")
    assert servers(settings, {"X-Forwarded-Prefix": "/melo"}) == "/mine"
    open_ = Settings(database_url=database_url, api_key=SECRET, FORWARDED_ALLOW_IPS="127.0.0.1")
    taken = {"/v1": "/v1/v1/keys", "/v1/keys": "/v1/keys", "/docs": "/docs/v1/keys"}
    for prefix, path in taken.items():
        assert servers(open_, {"X-Forwarded-Prefix": prefix}, path=path) == 401
