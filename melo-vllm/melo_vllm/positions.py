"""Blocks act from the last prompt token on: the tokens before it are computed without an adapter."""

from collections.abc import Callable
from typing import Any

import numpy as np

from melo_vllm.patching import Patch

NONE = 0  # the id that vLLM gives to "no adapter"


def from_last_prompt_token(
    adapters: np.ndarray, computed: np.ndarray, scheduled: np.ndarray, prompt: np.ndarray
) -> tuple[int, ...]:
    """Return the adapter of each token of a step, request after request.

    All arguments are (requests,): adapters, the id of each one's adapter; computed, the tokens that it had before this
    step; scheduled, those of this step; prompt, those of its prompt. Prompts may come in chunks, and a request that was
    preempted computes its answer's tokens again together with its prompt.
    """
    ends = np.cumsum(scheduled)  # (requests,): where each one's tokens end
    place = np.arange(int(ends[-1]) if len(ends) else 0) - (ends - scheduled).repeat(scheduled)  # (tokens,) within it
    place += computed.repeat(scheduled)
    acts = place >= prompt.repeat(scheduled) - 1
    return tuple(np.where(acts, adapters.repeat(scheduled), NONE).tolist())


def patches() -> list[Patch]:
    """Return the changes to both model runners."""
    from vllm.v1.worker.gpu.lora_utils import LoraState
    from vllm.v1.worker.gpu.states import RequestState
    from vllm.v1.worker.gpu_input_batch import InputBatch

    states: list[Any] = []  # Model Runner V2 has one RequestState in a process; its LoraState knows no lengths
    return [
        Patch(InputBatch, "make_lora_inputs", "a3e30a05268e8230", _first_runner),
        # Model Runner V2, for GPUs with Triton. NEVER RUN: checked against vLLM's source, not on a GPU.
        Patch(RequestState, "__init__", "6b3d13b6bcc6328a", lambda original: _remembered(original, states)),
        Patch(LoraState, "make_lora_inputs", "b0d245ac940fdd64", lambda original: _second_runner(original, states)),
    ]


def _first_runner(original: Callable[..., Any]) -> Callable[..., Any]:
    def make_lora_inputs(self: Any, num_scheduled_tokens: np.ndarray, num_sampled_tokens: np.ndarray) -> Any:
        sampled, _, requests = original(self, num_scheduled_tokens, num_sampled_tokens)
        n = self.num_reqs
        tokens = from_last_prompt_token(
            self.request_lora_mapping[:n],
            self.num_computed_tokens_cpu[:n],
            num_scheduled_tokens[:n],
            self.num_prompt_tokens[:n],
        )
        return sampled, tokens, requests

    return make_lora_inputs


def _remembered(original: Callable[..., Any], states: list[Any]) -> Callable[..., Any]:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        states[:] = [self]

    return __init__


def _second_runner(original: Callable[..., Any], states: list[Any]) -> Callable[..., Any]:
    def make_lora_inputs(
        self: Any, req_ids: list[str], idx_mapping: np.ndarray, num_scheduled_tokens: np.ndarray
    ) -> Any:
        sampled, _, requests = original(self, req_ids, idx_mapping, num_scheduled_tokens)
        (state,) = states
        tokens = from_last_prompt_token(
            self.lora_ids[idx_mapping],
            state.num_computed_tokens_np[idx_mapping],
            num_scheduled_tokens,
            state.prompt_len.np[idx_mapping],
        )
        return sampled, tokens, requests

    return make_lora_inputs
