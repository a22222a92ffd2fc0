"""Requests that join and leave between steps get the tokens that each would get alone."""

from collections.abc import Sequence

import pytest
import torch

from melo_core.base_model import BaseModel
from melo_core.block import Block, initial_weights
from melo_core.edited_model import BASE, EditedModel, Route
from melo_core.settings import MethodSettings
from melo_core.structure import structure_of
from serving.engines.embedded import EmbeddedEngine, Loop
from serving.engines.port import Acting, Generation, Overloaded, Stopping, Token
from serving.engines.sampling import Sampling
from tests.patience import PATIENCE, until

SETTINGS = MethodSettings(layers=2, rank=4)
PROMPTS = ["Who runs Acme?", "Where is it?", "a", "Name three colours of a rainbow, please.", "Who runs Acme now?"] * 2
LIMIT = 12


def block(base: BaseModel, seed: int) -> Block:
    """A block that changes answers, without training."""
    weights = initial_weights(seed, structure_of(base.model, SETTINGS).shapes, SETTINGS.rank)
    made = torch.Generator().manual_seed(seed)
    return Block(
        {n: (a.half(), (3 * torch.randn(b.shape, generator=made)).half()) for n, (a, b) in weights.items()}, 1.0
    )


def alone(base: BaseModel, prompts: Sequence[str], blocks: Sequence[Block | None]) -> list[tuple[int, ...]]:
    """What transformers' own loop answers to each prompt, one at a time."""
    found = []
    for prompt, one in zip(prompts, blocks, strict=True):
        model = EditedModel(base, SETTINGS, None, {1: one} if one else {}, {})
        route = Route(1, None) if one else BASE
        found.append(model.answer([prompt], [route], max_new_tokens=LIMIT)[0].token_ids)
    return found


def request(base: BaseModel, prompt: str, one: Block | None = None, **more: object) -> Generation:
    given = {"on_token": lambda token: False, "on_end": lambda why: None, **more}
    return Generation(
        base.prompt_ids(prompt), given.pop("limit", LIMIT), None if one is None else Acting("", one), **given
    )


def run(loop: Loop, requests: Sequence[Generation], joins: int) -> list[tuple[int, ...]]:
    """Answer; a request joins at every so many steps, or, at 0, all at once."""
    todo, step, more = list(requests), 0, True
    while todo or more:
        while todo and (not joins or step % joins == 0):
            loop.waiting.append(todo.pop(0))
            if joins:
                break
        more, step = loop.step(), step + 1
    return [tuple(each.out) for each in requests]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3", "qwen3"])
@pytest.mark.parametrize(
    ("joins", "options"),
    [
        (0, {}),
        (0, {"prefix_bytes": 0}),
        (2, {"rows": 3}),
        (3, {"rows": 4, "together": 9}),
        (1, {"rows": 16, "together": 64}),
    ],
)
def test_each_gets_the_tokens_that_it_gets_alone(tiny, architecture, joins, options):
    base = tiny(architecture)
    blocks = [block(base, i) if i % 3 else None for i in range(len(PROMPTS))]
    wanted = alone(base, PROMPTS, blocks)
    loop = Loop(base, **options)
    found = run(loop, [request(base, p, b) for p, b in zip(PROMPTS, blocks, strict=True)], joins)
    assert found == wanted
    assert wanted != alone(base, PROMPTS, [None] * len(PROMPTS))  # the blocks act
    assert loop.prefixes.reused == 0 or options.get("prefix_bytes") != 0


def test_the_beginning_of_a_prompt_is_computed_once_for_all_versions_and_what_a_block_touched_never_serves_another(
    tiny,
):
    base = tiny("llama")
    opening = "You are a helpful assistant of a small firm. "
    loop, one = Loop(base), block(base, 1)
    edited = request(base, opening + "Who runs Acme?", one)
    run(loop, [edited], 0)
    assert loop.prefixes.reused == 0
    assert loop.prefixes.longest([*edited.ids, *edited.out])[0] == len(edited.ids) - 1
    prompts = [opening + "Who runs Acme?", opening + "Who runs Globex?", opening + "Who runs Acme? Really?"]
    blocks = [None, block(base, 2), None]
    requests = [request(base, p, b) for p, b in zip(prompts, blocks, strict=True)]
    found = [run(loop, [each], 0)[0] for each in requests]
    assert found == alone(base, prompts, blocks)
    assert loop.prefixes.reused > 3 * (len(opening) - 1)


def test_an_earlier_turn_with_its_answer_is_not_computed_again(tiny):
    base = tiny("llama")
    loop = Loop(base)
    first = request(base, "Who runs Acme?", limit=LIMIT)
    run(loop, [first], 0)
    known = len(first.ids) + len(first.out) - 1
    ids = [*first.ids, *first.out, *base.prompt_ids(" And before?")]
    again = Generation(ids, LIMIT, None, lambda token: False, lambda why: None)
    run(loop, [again], 0)
    assert loop.prefixes.reused == known


def test_prompts_that_find_the_engine_at_rest_are_computed_at_once_but_none_is_padded_to_a_much_longer_one(tiny):
    base = tiny("llama")
    prompts = ["Who runs Acme?"] * 4
    size = len(base.prompt_ids(prompts[0]))
    loop = Loop(base, together=size, prefix_bytes=0)
    loop.waiting.extend([request(base, prompt) for prompt in prompts])
    loop.step()
    assert len(loop.running) == 4
    loop.waiting.extend([request(base, prompt) for prompt in prompts])
    loop.step()
    assert len(loop.running) == 5  # those that run wait for one prompt's tokens, no more
    loop = Loop(base, together=2 * size, prefix_bytes=0)
    loop.waiting.extend([request(base, prompts[0]), request(base, prompts[0] * 4)])
    loop.step()
    assert len(loop.running) == 1


def test_old_prefixes_make_room(tiny):
    base = tiny("llama")
    loop = Loop(base, prefix_bytes=60_000)
    for i in range(8):
        run(loop, [request(base, f"{i} is the number of the question")], 0)
    assert 0 < loop.prefixes._held <= 60_000
    run(loop, [request(base, "0 is the number of the question")], 0)
    assert loop.prefixes.reused == 0


def test_a_request_that_fails_fails_alone_and_one_that_is_cancelled_leaves(tiny):
    base = tiny("llama")
    loop, ends = Loop(base), {}

    def broken(token: Token) -> bool:
        raise ValueError("no such client")

    good = request(base, "Who runs Acme?")
    bad = request(base, "Where is it?", on_token=broken, on_end=lambda why: ends.update(bad=why))
    gone = request(base, "Name three.", limit=100, on_end=lambda why: ends.update(gone=why))
    late = request(base, "Name four.", on_end=lambda why: ends.update(late=why))
    late.cancelled = True
    loop.waiting.extend([good, bad, gone, late])
    loop.step()
    gone.cancelled = True
    while loop.step():
        pass
    assert tuple(good.out) == alone(base, ["Who runs Acme?"], [None])[0]
    assert isinstance(ends["bad"], ValueError) and ends["gone"] == ends["late"] == "cancelled"
    assert len(gone.out) < 5 and not late.out


def test_a_failing_pass_ends_what_runs_and_the_next_request_is_answered(tiny, monkeypatch):
    base = tiny("llama")
    engine, ends = EmbeddedEngine(Loop(base)), []
    whole = base.model.forward
    monkeypatch.setattr(base.model, "forward", lambda *_, **__: (_ for _ in ()).throw(MemoryError("full")))
    engine.submit(request(base, "Who runs Acme?", on_end=ends.append))
    until(lambda: ends)
    assert isinstance(ends[0], MemoryError)
    monkeypatch.setattr(base.model, "forward", whole)
    again = request(base, "Who runs Acme?", on_end=ends.append)
    engine.submit(again)
    until(lambda: len(ends) == 2)
    assert tuple(again.out) == alone(base, ["Who runs Acme?"], [None])[0]
    engine.stop(PATIENCE)


def test_a_full_queue_refuses_and_a_stopping_engine_answers_what_it_has(tiny):
    base = tiny("llama")
    loop = Loop(base, rows=1)
    engine, ends = EmbeddedEngine(loop, most_waiting=2), []
    running = request(base, "Who?", limit=200, on_end=ends.append)
    engine.submit(running)
    until(lambda: running.out)
    engine.submit(request(base, "Who?", on_end=ends.append))
    engine.submit(request(base, "Who?", on_end=ends.append))
    with pytest.raises(Overloaded):
        engine.submit(request(base, "Who?"))
    engine.stop(PATIENCE)
    assert len(ends) == 3
    with pytest.raises(Stopping):
        engine.submit(request(base, "Who?"))


def test_sampling_repeats_with_its_seed_and_keeps_within_the_most_probable(tiny):
    base = tiny("llama")

    def sampled(**options: object) -> list[tuple[int, ...]]:
        sampling = Sampling(**options)
        requests = [request(base, "Who?", sampling=sampling.nth(n)) for n in range(4)]
        return run(Loop(base), requests, 0)

    hot = sampled(temperature=2.0, seed=7)
    assert hot == sampled(temperature=2.0, seed=7) != sampled(temperature=2.0, seed=8)
    assert len(set(hot)) > 1
    assert set(sampled(temperature=1.0, top_p=5e-324)) == set(run(Loop(base), [request(base, "Who?")], 0))


def test_a_draw_depends_on_its_seed_and_hardly_on_how_another_batch_rounds():
    torch.manual_seed(1)
    for seed in range(100):
        logits = torch.randn(49_152) * 2
        rounded = logits + torch.randn(49_152) * 2e-6
        draws = [Sampling(1.0, 0.95, seed).chooser(torch.device("cpu"))(each) for each in (logits, rounded)]
        assert draws[0] == draws[1], seed


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_what_is_drawn_does_not_depend_on_who_else_is_answered(tiny, top_p):
    """It is drawn alike however the loop computes it, but for what rounding changes: alone, among others, again."""
    base = tiny("llama")

    def sampled(others: Sequence[str], joins: int = 0, **options: int) -> list[tuple[int, ...]]:
        mine = [request(base, "Who?", sampling=Sampling(1.0, top_p, 5).nth(n)) for n in range(3)]
        beside = [request(base, prompt, sampling=Sampling(1.5, seed=9)) for prompt in others]
        return run(Loop(base, **options), [*beside, *mine], joins)[len(beside) :]

    wanted = sampled(())
    assert len(set(wanted)) > 1
    for how in ({}, {"joins": 2}, {"rows": 4, "together": 9}):
        assert sampled(PROMPTS, **how) == wanted
