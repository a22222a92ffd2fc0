"""All versions share the prompt's KV cache: what lies before the last prompt token is hashed without the adapter."""

from collections.abc import Callable
from typing import Any

from melo_vllm.patching import Patch

Keys = tuple[tuple[Any, ...], ...]


def shared_keys(keys: Keys | None, end: int, prompt: int) -> Keys | None:
    """Return the keys that a KV block is hashed with besides its tokens.

    keys: those that vLLM would take. end: where the block ends, in tokens of the request. prompt: tokens of its prompt.
    A block that ends before the last prompt token has the base model's keys and values, so its adapter is left out. In
    any other, the adapter began to act at the prompt's end: the same tokens with the same adapter have other values
    where the prompt ended elsewhere, as when a client sends an answer's beginning back as a prompt.
    """
    if not keys:
        return keys
    if end <= prompt - 1:
        return tuple(key for key in keys if key[0] != "lora") or None
    return tuple((*key, prompt) if key[0] == "lora" else key for key in keys)


def patches() -> list[Patch]:
    """Return the change to the hash. The other modules use it for events and for offloading."""
    from vllm.v1.core import block_pool, kv_cache_utils
    from vllm.v1.simple_kv_offload import manager

    return [Patch(kv_cache_utils, "generate_block_hash_extra_keys", "fabb6e4b928af21a", _shared, (block_pool, manager))]


def _shared(original: Callable[..., Any]) -> Callable[..., Any]:
    def generate_block_hash_extra_keys(
        request: Any, start_token_idx: int, end_token_idx: int, start_mm_idx: int
    ) -> tuple[Keys | None, int]:
        keys, next_mm_idx = original(request, start_token_idx, end_token_idx, start_mm_idx)
        return shared_keys(keys, end_token_idx, request.num_prompt_tokens), next_mm_idx

    return generate_block_hash_extra_keys
