"""`melo serve` behind nginx, under a path of its own: health, documentation and OpenAI's client, streams too."""

import re

import httpx
import pytest
from openai import NotFoundError, OpenAI

from tests.listening import listening
from tests.operators_key import KEY
from tests.patience import PATIENCE
from tests.servers import proxied
from tests.serving.conftest import QUESTION, TARGET, Site, application

TURNS = [{"role": "user", "content": QUESTION}]
BY_HEADER = {"FORWARDED_ALLOW_IPS": "127.0.0.1"}, ["proxy_set_header X-Forwarded-Prefix /melo"]
BY_SETTING = {"serve_root_path": "/melo"}, []


@pytest.mark.parametrize("location", ["/", ""], ids=["taken off", "left on"])
@pytest.mark.parametrize(("settings", "lines"), [BY_SETTING, BY_HEADER], ids=["by the setting", "by the proxy"])
def test_a_server_works_under_a_path_of_a_proxy(site: Site, tmp_path, settings, lines, location):
    with (
        listening(application(site, **settings)) as inside,
        proxied(tmp_path, inside, location, *lines) as url,
        httpx.Client(base_url=url, timeout=PATIENCE) as outside,
        OpenAI(base_url=f"{url}/v1", api_key=KEY, timeout=PATIENCE, max_retries=0) as client,
    ):
        assert outside.get("/health").status_code == 200
        page = outside.get("/docs")
        addresses = re.findall(r"(?:src|href)=['\"]([^'\":]+)['\"]", page.text)
        assert addresses and all(outside.get(page.url.join(each)).status_code == 200 for each in addresses)
        described = outside.get(page.url.join("openapi.json")).json()
        assert described["servers"][0]["url"] == "/melo" and "/v1/chat/completions" in described["paths"]
        assert outside.get("/v1/models").status_code == 401
        assert "facts@latest" in [each.id for each in client.models.list()]
        answer = client.chat.completions.create(model="facts@2", messages=TURNS)
        assert answer.choices[0].message.content == TARGET
        pieces = list(client.chat.completions.create(model="facts@2", messages=TURNS, stream=True))
        assert "".join(each.choices[0].delta.content or "" for each in pieces if each.choices) == TARGET
        assert len(pieces) > 2
        with pytest.raises(NotFoundError):
            client.with_options(base_url=f"{url}/v2").models.list()
        assert httpx.get(f"{inside}/health").status_code == 200
