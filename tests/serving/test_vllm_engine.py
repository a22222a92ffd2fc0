"""The engine over vLLM servers: who answers, and what becomes of an answer whose server fails."""

import threading
from collections.abc import Callable, Iterator

import pytest

from melo_core.base_model import BaseModel
from registry.base.database import make_engine
from registry.base.errors import InvalidRequest, UnknownModel
from serving.engines.embedded import Loop
from serving.engines.port import Acting, Generation, Overloaded, Stopping
from serving.engines.sampling import Sampling
from serving.engines.vllm import NoServer, VllmEngine
from serving.engines.vllm_server import ServerFailed, WrongServer
from serving.served import Served
from serving.sources.database import DatabaseSource
from serving.versions import Versions, model_to_serve
from tests.patience import PATIENCE, until
from tests.serving.conftest import OTHER, QUESTION, Site
from tests.serving.vllm_stand_in import StandIn, standing

MODEL = "tiny"


@pytest.fixture(scope="module")
def versions(site: Site) -> Iterator[Versions]:
    """What a router holds: no weights."""
    source = DatabaseSource(make_engine(site.url))
    name, digest = model_to_serve(source.collections(), None)
    yield Versions(source, site.cache, name, digest, with_weights=False)
    source.close()


@pytest.fixture(scope="module")
def served(versions: Versions) -> Served:
    return versions.get("facts@2")


@pytest.fixture(scope="module")
def base(site: Site, versions: Versions) -> BaseModel:
    """The model with its weights, for the servers."""
    return site.cache.base(versions.model, versions.digest)


@pytest.fixture
def serve(base: BaseModel, served: Served) -> Iterator[Callable[..., StandIn]]:
    """Start a server; all are ended."""
    ids = {block.sha256: block.id for block in served.content.blocks.values()}
    running = []

    def begin(server: StandIn | None = None, **more: object) -> StandIn:
        server = server or StandIn(base, lambda digest: served.weights(ids[digest]), MODEL)
        for name, value in more.items():
            setattr(server, name, value)
        context = standing(server)
        context.__enter__()
        running.append(context)
        server.end = lambda: (running.remove(context), context.__exit__(None, None, None))
        return server

    yield begin
    for context in running:
        context.__exit__(None, None, None)


@pytest.fixture
def engine(base: BaseModel) -> Iterator[Callable[..., VllmEngine]]:
    """Make an engine over servers; all are stopped."""
    made = []

    def make(*servers: StandIn | str, **options: object) -> VllmEngine:
        urls = [server if isinstance(server, str) else server.url for server in servers]
        made.append(VllmEngine(urls, MODEL, base.end_tokens, **options))
        return made[-1]

    yield make
    for each in made:
        each.stop(1)


class Reader:
    """Reads a generation."""

    def __init__(self, engine: VllmEngine, ids: list[int], block: Acting | None = None, limit: int = 8, **more) -> None:
        self.tokens, self.ended = [], threading.Event()
        self.generation = Generation(ids, limit, block, self._take, lambda why: self.ended.set(), **more)
        engine.submit(self.generation)

    def _take(self, token) -> bool:
        self.tokens.append(token)
        return False

    @property
    def why(self):
        assert self.ended.wait(PATIENCE)
        return self.generation.ended


@pytest.fixture
def ids(base: BaseModel) -> list[int]:
    return base.prompt_ids(QUESTION)


def here(base: BaseModel, ids: list[int], block: Acting | None = None, limit: int = 8, **more) -> Generation:
    """Generate in this process."""
    loop = Loop(base, rows=1)
    generation = Generation(ids, limit, block, lambda token: False, lambda why: None, **more)
    loop.waiting.append(generation)
    while loop.step():
        pass
    return generation


def acting(served: Served, question: str, with_weights: bool) -> Acting:
    route = served.route(question)
    assert route.block is not None
    return served.acting(route.block, with_weights)


def test_the_router_needs_no_weights_and_reads_prompts_as_with_them(site, versions, base):
    held = versions.base
    assert {parameter.device.type for parameter in held.model.parameters()} == {"meta"}
    assert held.prompt_ids(QUESTION) == base.prompt_ids(QUESTION)
    assert (held.end_tokens, held.window, held.kind) == (base.end_tokens, base.window, base.kind)
    with pytest.raises(UnknownModel):
        site.cache.without_weights(versions.model, "0" * 64)


def test_a_blocks_answer_is_that_of_the_embedded_engine(serve, engine, served, base, ids):
    asked = engine(serve())
    for question in (QUESTION, OTHER):
        prompt = base.prompt_ids(question)
        reader = Reader(asked, prompt, acting(served, question, with_weights=False))
        wanted = here(base, prompt, acting(served, question, with_weights=True))
        assert (reader.why, reader.generation.out) == (wanted.ended, wanted.out)
    alone = Reader(asked, ids)
    assert (alone.why, alone.generation.out) == ("length", here(base, ids).out)
    assert alone.generation.out != Reader(asked, ids, acting(served, QUESTION, False)).generation.out
    until(lambda: asked.prompt_tokens[1] == 8)


def test_log_probabilities_name_tokens_and_the_most_probable_ones_in_order(serve, engine, ids):
    reader = Reader(engine(serve()), ids, limit=1, top_logprobs=2)
    assert reader.why == "length"
    (token,) = reader.tokens
    assert token.top[0] == (token.id, token.logprob)
    assert len(token.top) == 2 and token.top[0][1] >= token.top[1][1]


def test_nothing_is_left_to_a_servers_own_settings(serve, engine, ids, base):
    server = serve()
    Reader(engine(server), ids, sampling=Sampling(0.7, 0.9, 5)).why  # noqa: B018  # waits
    (asked,) = server.asked
    assert (asked["model"], asked["prompt"], asked["max_tokens"]) == (MODEL, ids, 8)
    assert (asked["temperature"], asked["top_p"], asked["seed"]) == (0.7, 0.9, 5)
    assert (asked["top_k"], asked["min_p"], asked["repetition_penalty"]) == (0, 0.0, 1.0)
    assert asked["stop_token_ids"] == sorted(base.end_tokens)


def test_requests_go_to_the_server_with_the_fewest(serve, engine, ids):
    busy, idle = serve(held=True), serve()
    asked = engine(busy, idle)
    waiting = []
    while not busy.asked:
        waiting.append(Reader(asked, ids))
        until(lambda: len(busy.asked) + len(idle.asked) == len(waiting))
    for _ in range(3):
        assert Reader(asked, ids).why == "length"
    assert len(busy.asked) == 1
    assert (asked.waiting, asked.running) == (1, 0)
    busy.held = False
    assert [each.why for each in waiting] == ["length"] * len(waiting)


def test_servers_that_are_equally_busy_take_turns(serve, engine, ids):
    one, other = serve(), serve()
    asked = engine(one, other)
    for _ in range(6):
        assert Reader(asked, ids).why == "length"
    assert (len(one.asked), len(other.asked)) == (3, 3)


def test_a_server_that_dies_is_left_out_and_asked_again_when_it_is_back(serve, engine, ids):
    one, other = serve(), serve()
    asked = engine(one, other)
    one.end()
    for _ in range(4):
        assert Reader(asked, ids).why == "length"
    assert (one.asked, len(other.asked)) == ([], 4)
    serve(one)
    other.end()
    until(lambda: Reader(asked, ids).why == "length")
    assert one.asked


def test_a_server_that_is_overloaded_or_starting_is_passed_over(serve, engine, ids):
    one, other = serve(status=503), serve()
    asked = engine(one, other)
    for _ in range(4):
        assert Reader(asked, ids).why == "length"
    assert len(other.asked) == 4


def test_without_a_server_requests_are_refused_until_one_is_there(serve, engine, ids):
    gone = serve()
    gone.end()
    asked = engine(gone)
    why = Reader(asked, ids).why
    assert isinstance(why, NoServer) and why.status == 503 and why.headers["Retry-After"]
    serve(gone)
    until(lambda: Reader(asked, ids).why == "length")


def test_an_answer_that_breaks_off_is_an_error_and_no_other_server_goes_on_with_it(serve, engine, ids):
    one, other = serve(breaks_after=3), serve(breaks_after=3)
    asked = engine(one, other)
    reader = Reader(asked, ids)
    assert isinstance(reader.why, ServerFailed)
    assert len(reader.tokens) == 3
    assert len(one.asked) + len(other.asked) == 1


def test_an_answer_that_breaks_before_its_first_token_is_begun_by_another(serve, engine, ids):
    one, other = serve(breaks_after=0), serve()
    asked = engine(one, other)
    assert [Reader(asked, ids).why for _ in range(2)] == ["length", "length"]
    assert len(one.asked) == 1


@pytest.mark.parametrize(
    ("fault", "said"), [({"says_error": True}, "engine is dead"), ({"status": 400}, "400: not now")]
)
def test_what_a_server_refuses_is_told(serve, engine, ids, fault, said):
    why = Reader(engine(serve(**fault)), ids).why
    assert isinstance(why, ServerFailed) and said in str(why)


def test_a_block_that_a_server_cannot_get_is_an_error_and_the_server_stays(serve, engine, ids):
    server = serve()
    asked = engine(server)
    why = Reader(asked, ids, Acting("0" * 64, None)).why
    assert isinstance(why, ServerFailed) and "has no block 000" in str(why)
    assert Reader(asked, ids).why == "length"


def test_a_generation_whose_reader_goes_away_ends_at_the_server(serve, engine, ids):
    server = serve(held=True)
    reader = Reader(engine(server), ids)
    until(lambda: server.asked)
    reader.generation.cancelled = True
    assert reader.why == "cancelled"
    until(lambda: server.gone == 1)
    server.held = False


def test_a_reader_that_has_enough_ends_the_answer(serve, engine, ids):
    server = serve()
    reader = Reader.__new__(Reader)
    reader.tokens, reader.ended = [], threading.Event()
    reader.generation = Generation(ids, 100, None, lambda token: True, lambda why: reader.ended.set())
    engine(server).submit(reader.generation)
    assert (reader.why, len(reader.generation.out)) == ("stop", 1)


def test_names_that_are_not_used_are_unloaded(serve, engine, served, base):
    server = serve()
    asked = engine(server, most_names=1)
    used = [acting(served, question, with_weights=False) for question in (QUESTION, OTHER)]
    for block in used:
        assert not isinstance(Reader(asked, base.prompt_ids(QUESTION), block).why, Exception)
    until(lambda: server.names == [used[1].sha256])


def test_blocks_that_are_to_be_forgotten_are_unloaded_those_in_use_after_their_last_answer(serve, engine, served, base):
    server = serve()
    asked = engine(server)
    used = [acting(served, question, with_weights=False) for question in (QUESTION, OTHER)]
    for block in used:
        assert not isinstance(Reader(asked, base.prompt_ids(QUESTION), block).why, Exception)
    asked.forget(frozenset({used[0].sha256, "0" * 64}))
    until(lambda: server.names == [used[1].sha256])
    server.held = True
    reader = Reader.__new__(Reader)
    reader.tokens, reader.ended = [], threading.Event()
    reader.generation = Generation(
        base.prompt_ids(OTHER), 4, used[1], lambda token: False, lambda why: reader.ended.set()
    )
    asked.submit(reader.generation)
    until(lambda: len(server.asked) == 3)
    asked.forget(frozenset({used[1].sha256}))
    assert server.names == [used[1].sha256]
    reader.generation.cancelled = True
    until(lambda: server.names == [])


def test_a_server_of_another_model_or_with_another_key_is_refused_at_the_start(serve, engine, base):
    with pytest.raises(WrongServer, match="serves other, and not tiny"):
        engine(serve(model="other"))
    with pytest.raises(WrongServer, match="refuses the key"):
        engine(serve(key="k"))
    assert engine(serve(key="k"), key="k")
    with pytest.raises(WrongServer, match="is not an address"):
        engine("localhost:8000")


def test_what_vllm_cannot_do_is_refused(serve, engine, ids):
    asked = engine(serve(window=len(ids)))
    with pytest.raises(InvalidRequest, match="act on all positions"):
        Reader(asked, ids, Acting("0" * 64, None, "all"))
    assert isinstance(Reader(asked, ids).why, InvalidRequest)
    assert Reader(asked, ids[:-2]).why == "length"
    assert isinstance(Reader(asked, ids[:-2], top_logprobs=21).why, InvalidRequest)


def test_a_full_queue_and_a_stopping_engine_refuse(serve, engine, ids):
    server = serve(held=True)
    asked = engine(server, most_waiting=1)
    waiting = Reader(asked, ids)
    with pytest.raises(Overloaded):
        Reader(asked, ids)
    server.held = False
    assert waiting.why == "length"
    asked.stop(1)
    with pytest.raises(Stopping):
        Reader(asked, ids)


def test_stopping_lets_what_runs_end(serve, engine, ids):
    server = serve(held=True)
    asked = engine(server)
    reader = Reader(asked, ids)
    until(lambda: server.asked)
    stopping = threading.Thread(target=asked.stop, args=(PATIENCE,))
    stopping.start()
    server.held = False
    assert reader.why == "length"
    stopping.join()
