"""Blocks over HTTP, from a server that may be wrong, slow of key, or away."""

import asyncio
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from melo_vllm.blocks import CorruptBlock
from melo_vllm.registry import BlockResolver, RegistryRefused, fetch
from melo_vllm.settings import Settings
from test_blocks import block


@pytest.fixture
def registry():
    """A server that has the blocks which a test puts into `server.blocks`, for the key `k`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.append(self.path)
            data = self.server.blocks.get(self.path.removeprefix("/v1/blocks/"))
            status = 401 if self.headers["Authorization"] != "Bearer k" else 200 if data is not None else 404
            self.send_response(status)
            self.end_headers()
            if status == 200:
                self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.blocks, server.asked = {}, []
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def resolve(registry, *digests, key="k"):
    async def run():
        resolver = BlockResolver(Settings(registry.url, key))
        return resolver, [await resolver.folder_of(digest, "base") for digest in digests]

    return asyncio.run(run())


def test_a_block_is_fetched_once_and_lies_where_its_digest_says(registry):
    data, digest = block()
    registry.blocks[digest] = data
    resolver, (first, second) = resolve(registry, digest, digest)
    assert first == second and first.endswith(digest)
    assert registry.asked == [f"/v1/blocks/{digest}"]
    del resolver


def test_a_block_that_the_registry_lacks_is_none(registry):
    assert resolve(registry, "0" * 64)[1] == [None]


def test_other_bytes_than_the_digests_are_refused(registry):
    registry.blocks[block(scale=1.0)[1]] = block(scale=2.0)[0]
    with pytest.raises(CorruptBlock, match="have the digest"):
        resolve(registry, block(scale=1.0)[1])


def test_a_key_that_the_registry_refuses_is_told(registry):
    with pytest.raises(RegistryRefused, match="401"):
        resolve(registry, "0" * 64, key="other")


def test_an_endless_answer_is_cut_off(registry):
    data = bytes(100_000)
    registry.blocks[hashlib.sha256(data).hexdigest()] = data

    async def run():
        async with httpx.AsyncClient(base_url=registry.url, headers={"Authorization": "Bearer k"}) as client:
            await fetch(client, hashlib.sha256(data).hexdigest(), most_bytes=1000)

    with pytest.raises(CorruptBlock, match="longer than 1000"):
        asyncio.run(run())


def test_a_registry_that_is_away_is_an_error_and_not_a_missing_block():
    with pytest.raises(httpx.ConnectError):
        resolve(type("Away", (), {"url": "http://127.0.0.1:9"}), "0" * 64)


def test_the_key_is_not_shown():
    assert "secret" not in repr(Settings("http://x", "secret"))


@pytest.mark.parametrize("bad", [{"MELO_API_URL": "host:1"}, {"MELO_API_URL": "http://x", "MELO_BLOCKS_MB": "many"}])
def test_settings_that_cannot_be_are_refused(bad):
    with pytest.raises(ValueError, match="MELO_"):
        Settings.read(bad)


def test_without_a_registry_nothing_is_fetched():
    assert Settings.read({}) is None
