"""Blocks from the registry: vLLM asks for an adapter by a name that it does not know, and the name is a digest."""

import logging
import re
from collections.abc import Callable
from typing import Any

import httpx

from melo_vllm.blocks import Adapters, CorruptBlock
from melo_vllm.patching import Patch
from melo_vllm.settings import Settings

log = logging.getLogger("vllm.melo")

DIGEST = re.compile(r"[0-9a-f]{64}")
MOST_BYTES = 64 << 20  # of one block


class RegistryRefused(RuntimeError):
    """The registry gave no block, for a reason other than that there is none."""


async def fetch(client: httpx.AsyncClient, sha256: str, most_bytes: int = MOST_BYTES) -> bytes | None:
    """Return a block's bytes, not yet compared with the digest; None where the registry has none for this key.

    Raises RegistryRefused, CorruptBlock for an answer that is too long, or httpx.HTTPError.
    """
    async with client.stream("GET", f"/v1/blocks/{sha256}") as answer:
        if answer.status_code in (404, 410):
            return None
        if answer.status_code != 200:
            raise RegistryRefused(f"block {sha256}: the registry answered {answer.status_code}")
        data = bytearray()
        async for part in answer.aiter_bytes():
            data += part
            if len(data) > most_bytes:
                raise CorruptBlock(f"block {sha256}: the answer is longer than {most_bytes} bytes")
        return bytes(data)


class BlockResolver:
    """Resolves a digest to an adapter's folder; any other name is left to other resolvers."""

    def __init__(self, settings: Settings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._settings = settings
        self._adapters: Adapters | None = None  # only the process that fetches blocks has a folder
        headers = {"User-Agent": "melo-vllm"} | ({"Authorization": f"Bearer {settings.key}"} if settings.key else {})
        self._client = httpx.AsyncClient(
            base_url=settings.url,
            headers=headers,
            timeout=30,
            transport=transport or httpx.AsyncHTTPTransport(retries=2),
            trust_env=False,  # no proxy of the environment sees the key
        )

    async def folder_of(self, sha256: str, base_model: str) -> str | None:
        """Return where an adapter lies; None where the registry has no such block for this key."""
        if self._adapters is None:
            self._adapters = Adapters(self._settings.folder, self._settings.most_bytes)
        found = self._adapters.find(sha256)
        if found is None:
            data = await fetch(self._client, sha256)
            if data is None:
                log.warning("melo-vllm: the registry has no block %s, or none for this key", sha256)
                return None
            found = self._adapters.put(data, sha256, base_model)
        return str(found)

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> Any:
        """Return a LoRARequest, or None. An error is told in the log and, in short, to the client."""
        from vllm.lora.request import LoRARequest

        if not DIGEST.fullmatch(lora_name):
            return None
        try:
            folder = await self.folder_of(lora_name, base_model_name)
        except Exception as error:
            log.error("melo-vllm: %s: %s", type(error).__name__, error)
            raise
        # vLLM replaces the id by its own.
        return None if folder is None else LoRARequest(lora_name=lora_name, lora_int_id=1, lora_path=folder)

    def release(self, lora_name: str) -> None:
        """Remove an unloaded adapter's files, after a while."""
        if self._adapters is not None:
            self._adapters.release(lora_name)


def add_resolver(resolver: BlockResolver) -> None:
    """Make vLLM ask the registry for names that it does not know."""
    from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry

    LoRAResolver.register(BlockResolver)
    LoRAResolverRegistry.register_resolver("melo", resolver)  # type: ignore[arg-type]


def patches(resolver: BlockResolver | None) -> list[Patch]:
    """Return the change that notices when a name is unloaded; none where no registry is asked."""
    if resolver is None:
        return []
    from vllm.entrypoints.openai.models.serving import OpenAIServingModels

    return [
        Patch(
            OpenAIServingModels,
            "unload_lora_adapter",
            "f6a7bdffd9abb7d7",
            lambda original: _releasing(original, resolver),
        )
    ]


def _releasing(original: Callable[..., Any], resolver: BlockResolver) -> Callable[..., Any]:
    async def unload_lora_adapter(self: Any, request: Any) -> Any:
        answer = await original(self, request)
        resolver.release(request.lora_name)
        return answer

    return unload_lora_adapter
