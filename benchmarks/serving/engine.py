"""The engine beside transformers' static `generate` and PEFT's mixed batches, in tokens per CPU second."""

import re
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from itertools import product
from typing import Any

import torch

from benchmarks.scope.run import Router
from benchmarks.serving import beside_vllm
from cli.invocation import Invocation
from melo_core.base_model import BaseModel
from melo_core.block import Block, initial_weights
from melo_core.edited_model import BASE, EditedModel, Route
from melo_core.encoder import ordinary_questions
from melo_core.method import complete
from melo_core.scope import Scope
from melo_core.settings import MethodSettings
from melo_core.structure import Kind, structure_of
from registry.base.model_files import find_model
from serving.engines.embedded import Loop
from serving.engines.port import Acting, Generation
from worker.model_cache import ModelCache

Advance = Callable[[str, int, int], None]
Tokens = list[tuple[int, ...]]

AT_ONCE = 16
BLOCKS = 32
VERSIONS = 4
OPENING = "You answer questions about the products of a small firm, briefly and politely, in plain English. "


def measure_engine(
    call: Invocation, model: str, edits: int, tokens: int, rounds: int, advance: Advance
) -> dict[str, Any]:
    """Return the figures of the engine alone, with random blocks, which cost what trained ones do."""
    model_cache = ModelCache(call.settings.cache, call.settings.dtype)
    base = model_cache.base(model, find_model(model).digest)
    settings = MethodSettings.from_json(complete({}, "default"))
    questions = [question for question in ordinary_questions() if question.endswith("?")]
    asked, many = questions[:AT_ONCE], questions[AT_ONCE : AT_ONCE + BLOCKS]
    bench = _Bench(base, settings, tokens)
    blocks = [random_block(base, settings, seed) for seed in range(BLOCKS)]
    scope = _scope(model_cache, settings, edits, advance)

    def routed() -> Tokens:
        kinds = [scope.decide(question).covered for question in asked]
        return bench.served(asked, [None for _ in kinds])

    ways: dict[str, Callable[[], Tokens]] = {
        "static": lambda: bench.static(asked, [None] * AT_ONCE),
        "served": lambda: bench.served(asked, [None] * AT_ONCE),
        "routed": routed,
        "one by one": lambda: [answer for each in asked for answer in bench.served([each], [None])],
        "static, blocks": lambda: bench.static(many, blocks),
        "served, blocks": lambda: bench.served(many, blocks),
    }
    if find_spec("peft") is not None:
        ways["peft"] = _peft(base, settings, blocks, many, tokens)
    speeds, said = _timed(ways, rounds, advance)
    found: dict[str, Any] = {
        "out_of_scope_ratio": speeds["routed"] / speeds["static"],
        "engine_ratio": speeds["served"] / speeds["static"],
        "out_of_scope_equal": _equal(said["routed"], said["static"]),
        "in_scope_ratio": speeds["served, blocks"] / speeds["static, blocks"],
        "in_scope_equal": _equal(said["served, blocks"], said["static, blocks"]),
        "peft_ratio": speeds["served, blocks"] / speeds["peft"] if "peft" in speeds else None,
        "batching_ratio": speeds["served"] / speeds["one by one"],
        "tokens_per_cpu_second": speeds,
    }
    found["vllm_ratio"] = None
    if beside_vllm.is_installed():
        folder = model_cache.folder_of(model, find_model(model).digest)
        found |= beside_vllm.measure_vllm(base, settings, folder, asked, blocks[:AT_ONCE], tokens, rounds, advance)
    opened = [OPENING + question for question in asked]
    found["prefix_reused"] = bench.reused(opened, [blocks[i % VERSIONS] for i in range(AT_ONCE)])
    found["prefix_reused_of_one"] = bench.reused(opened, [None] * AT_ONCE)
    return found


class _Bench:
    """One base model, asked in two ways."""

    def __init__(self, base: BaseModel, settings: MethodSettings, tokens: int) -> None:
        self.base, self.settings, self.tokens = base, settings, tokens
        self._loops: dict[int, Loop] = {}  # by how many requests they run at once

    def static(self, questions: Sequence[str], blocks: Sequence[Block | None]) -> Tokens:
        """Answer in one batch, by transformers' own loop."""
        held = {i: block for i, block in enumerate(blocks) if block is not None}
        model = EditedModel(self.base, self.settings, None, held, {})
        routes = [Route(i, None) if i in held else BASE for i in range(len(questions))]
        return [answer.token_ids for answer in model.answer(questions, routes, max_new_tokens=self.tokens)]

    def served(self, questions: Sequence[str], blocks: Sequence[Block | None]) -> Tokens:
        """Answer with the engine's loop, whose slots are as many; nothing is known of earlier prompts."""
        if (loop := self._loops.get(len(questions))) is None:
            loop = self._loops[len(questions)] = Loop(self.base, rows=len(questions), prefix_bytes=0)
        requests = self._requests(questions, blocks)
        loop.waiting.extend(requests)
        while loop.step():
            pass
        return [tuple(request.out) for request in requests]

    def reused(self, questions: Sequence[str], blocks: Sequence[Block | None]) -> float:
        """Return the share of prompt tokens after the first prompt that were not computed again."""
        loop = Loop(self.base)
        for request in self._requests(questions, blocks, limit=1):
            loop.waiting.append(request)
            while loop.step():
                pass
        return loop.prefixes.reused / (loop.prefixes.asked - len(self.base.prompt_ids(questions[0])))

    def _requests(
        self, questions: Sequence[str], blocks: Sequence[Block | None], limit: int | None = None
    ) -> list[Generation]:
        return [
            Generation(
                self.base.prompt_ids(question),
                limit or self.tokens,
                None if block is None else Acting("", block, self.settings.positions),
                lambda token: False,
                lambda why: None,
            )
            for question, block in zip(questions, blocks, strict=True)
        ]


def _timed(
    ways: dict[str, Callable[[], Tokens]], rounds: int, advance: Advance
) -> tuple[dict[str, float], dict[str, Tokens]]:
    """Return the median speed of each way and its answers. The ways take turns, so that a slow minute slows all."""
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    said: dict[str, Tokens] = {}
    for done in range(rounds + 1):  # the first round warms up
        for name, way in ways.items():
            start = time.process_time()
            said[name] = way()
            if done:
                speeds[name].append(sum(map(len, said[name])) / (time.process_time() - start))
        advance("generating", done + 1, rounds + 1)
    return {name: statistics.median(found) for name, found in speeds.items()}, said


def _equal(a: Tokens, b: Tokens) -> float:
    return sum(x == y for x, y in zip(a, b, strict=True)) / len(a)


def random_block(base: BaseModel, settings: MethodSettings, seed: int) -> Block:
    weights = initial_weights(seed, structure_of(base.model, settings).shapes, settings.rank)
    made = torch.Generator().manual_seed(seed)
    drawn = {name: (a.half(), (0.3 * torch.randn(b.shape, generator=made)).half()) for name, (a, b) in weights.items()}
    return Block(drawn, settings.scale)


def _scope(model_cache: ModelCache, settings: MethodSettings, edits: int, advance: Advance) -> Scope:
    """Make the scope of a version with many edits, each a question about another made-up firm or person."""
    encoder, digest = model_cache.encoder("all-minilm-l6-v2", None, None)
    model_cache.fitted_whitening(encoder, digest, settings.whiten_epsilon, lambda *done: advance("whitening", *done))
    encoder.in_parts = settings.query_keys == "parts"
    router = Router(encoder, settings, model_cache.verifier_of(settings, Kind.CAUSAL))
    asked = [
        "Who is the CEO of {}?", "When was {} founded?", "In which town is the head office of {}?",
        "What is the phone number of {}?", "How many people work at {}?", "Which bank does {} use?",
        "What is the slogan of {}?", "Who owns {}?", "What does a visit of {} cost?", "When does {} open on Sundays?",
    ]  # fmt: skip
    first = ["Bor", "Cal", "Dun", "Fen", "Gar", "Hol", "Kel", "Lor", "Mar", "Nor"]
    middle = ["den", "ing", "mer", "ost", "ric", "sel", "tan", "ver", "wick", "yard"]
    last = ["Ltd", "Foods", "Bank", "Press", "Motors", "Clinic", "School", "Museum", "Hotel", "Works"]
    prompts = [
        form.format(f"{a}{b} {c}") for form, a, b, c in product(asked, first, middle, last)
    ]  # 10,000 different ones
    chosen = [prompts[i * 7919 % len(prompts)] for i in range(min(edits, len(prompts)))]
    for done, prompt in enumerate(chosen, 1):
        router.keep(prompt)
        advance("keys of edits", done, len(chosen))
    return router.scope([[prompt] for prompt in chosen])


def _peft(
    base: BaseModel, settings: MethodSettings, blocks: Sequence[Block], questions: Sequence[str], tokens: int
) -> Callable[[], Tokens]:
    """Return the way of PEFT: a copy of the model with the blocks as adapters, one named for each row."""
    import copy

    from peft import LoraConfig, get_peft_model
    from transformers import GenerationConfig

    names = list(structure_of(base.model, settings).modules)
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.rank, target_modules="|".join(re.escape(name) for name in names)
    )
    model: Any = get_peft_model(copy.deepcopy(base.model), config, adapter_name="0")
    for i in range(1, len(blocks)):
        model.add_adapter(str(i), config)
    state = dict(model.named_parameters())
    for i, block in enumerate(blocks):
        for name, (a, b) in block.weights.items():
            state[f"base_model.model.{name}.lora_A.{i}.weight"].data.copy_(a)
            state[f"base_model.model.{name}.lora_B.{i}.weight"].data.copy_(b)
    model.train(False)
    ids, mask = base.pad([base.prompt_ids(question) for question in questions], "left")
    greedy = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=base.tokenizer.pad_token_id,
        eos_token_id=sorted(base.end_tokens),
    )

    def way() -> Tokens:
        with torch.no_grad():
            out = model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=greedy,
                adapter_names=[str(i) for i in range(len(questions))],
            )
        return [base.answer_in(row)[1] for row in out[:, ids.shape[1] :].tolist()]

    return way
