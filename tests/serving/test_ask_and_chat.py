"""`melo ask` and `melo chat`, called as programs against a running server."""

import io
import json
from collections.abc import Generator, Iterator
from pathlib import Path

import httpx
import pytest
import structlog

from cli.chat import _Chat
from cli.invocation import Invocation
from cli.server import Piece, Question, Server
from cli.show import visible
from registry.base.database import make_engine
from registry.base.errors import InvalidRequest
from registry.collections import service as collections
from registry.collections.schemas import NewCollection
from serving.sources.database import DatabaseSource
from serving.versions import model_to_serve
from tests.cli.program import Melo, with_key
from tests.melo_core.conftest import tiny_model, tiny_tokenizer
from tests.operators_key import KEY, OPERATOR
from tests.patience import until
from tests.registry.workflow import ADA
from tests.serving.conftest import OTHER, OTHER_TARGET, QUESTION, TARGET, Site
from tests.serving.test_openai import ELSEWHERE, url  # noqa: F401  # the fixture

SHORT = ("--max-tokens", "8")


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    """Keep the log of the server, which is in this process, out of what the program prints."""
    before = structlog.get_config()["logger_factory"]
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(io.StringIO()))
    yield
    structlog.configure(logger_factory=before)


@pytest.fixture
def melo(url: str, tmp_path: Path) -> Melo:  # noqa: F811
    return Melo(tmp_path / "home", {"MELO_SERVE_URL": url, "MELO_API_KEY": KEY})


@pytest.fixture
def server(url: str) -> Server:  # noqa: F811
    return Server(url.removesuffix("/v1"), KEY)


def test_one_question_streams_and_several_stand_under_their_prompts(melo, tmp_path):
    assert melo("ask", "facts@1", QUESTION).stdout == f"{TARGET}\n"
    assert melo("ask", "facts@2", QUESTION, OTHER).stdout == f"{QUESTION}\n{TARGET}\n{OTHER}\n{OTHER_TARGET}\n"
    file = tmp_path / "questions.txt"
    file.write_text(f"{OTHER}\n" * 20)
    assert [each["answer"] for each in melo.records("ask", "facts@2", "--file", file)] == [OTHER_TARGET] * 20


@pytest.fixture
def follow_up(tmp_path: Path) -> Path:
    """A conversation in a file."""
    file = tmp_path / "turns.json"
    turns = [("user", "When was Acme founded?"), ("assistant", "In 1987."), ("user", "and who runs it?")]
    file.write_text(json.dumps([{"role": role, "content": text} for role, text in turns]))
    return file


def test_the_same_is_said_by_the_server_and_in_this_process(melo, site: Site, follow_up):
    here = Melo(melo.home, {"MELO_DATABASE_URL": site.url, "MELO_CACHE": str(site.cache._cache)})
    for options in ([QUESTION], [ELSEWHERE, *SHORT], ["One", "--completion", *SHORT], ["--conversation", follow_up]):
        (said,) = melo.records("ask", "facts@2", *options)
        (loaded,) = here.records("ask", "facts@2", *options, "--in-process")
        assert loaded.pop("token_ids")
        assert said == loaded
        streamed = melo("ask", "facts@2", *options).stdout
        assert streamed == visible(said["answer"]) + "\n"


def test_an_answer_is_explained(melo):
    said = " ".join(melo("ask", "facts@1", QUESTION, "--explain").stdout.split())
    assert "version facts@1 (" in said and f"edit {QUESTION} → {TARGET}" in said
    assert "author ada" in said and "reason it was wrong" in said
    assert "the base model: no edit" in melo("ask", "facts@1", ELSEWHERE, "--explain", *SHORT).stdout
    left = " ".join(melo("ask", "facts@1", "Who sold Acme?", "--explain", *SHORT).stdout.split())
    assert "melo edit add facts PROMPT TARGET --rephrase QUESTION --replaces 1" in left


def test_a_conversation_in_a_file_is_answered(melo, tmp_path):
    file = tmp_path / "turns.json"
    turns = [("user", "Hello"), ("assistant", "Hi"), ("user", QUESTION)]
    file.write_text(json.dumps([{"role": role, "content": text} for role, text in turns]))
    assert melo("ask", "facts@1", "--conversation", file).stdout == f"{TARGET}\n"
    assert "excludes prompts" in melo.refusal("ask", "facts@1", "More?", "--conversation", file)


def test_how_a_follow_up_was_read_is_explained(melo, follow_up):
    said = melo("ask", "facts@1", "--conversation", follow_up, "--explain").stdout
    assert said.startswith(f"{TARGET}\n") and "read as who runs Acme?" in " ".join(said.split())


def test_what_goes_wrong_is_said_with_a_remedy_and_without_a_traceback(melo, url: str):  # noqa: F811
    assert "There is no collection 'nowhere'" in melo.refusal("ask", "nowhere", "Who?")
    assert "has no alias 'nothing'" in melo.refusal("ask", "facts@nothing", "Who?", "--json")
    assert "window" in melo.refusal("ask", "facts@1", "why " * 900)
    assert "melo up" in melo.refusal("ask", "facts@1", "Who?", "--server", "http://127.0.0.1:1")
    assert "Write it as http" in melo.refusal("ask", "facts@1", "Who?", "--server", "nonsense")
    assert "Check --server" in melo.refusal("ask", "facts@1", "Who?", "--server", f"{url}/elsewhere")
    assert "Leave out" in melo.refusal("ask", "facts@1", "Who?", "--server", url, "--in-process")


def test_without_a_server_ask_loads_the_version_here_and_says_so_and_chat_says_how_to_start_one(tmp_path, site: Site):
    variables = {"MELO_DATABASE_URL": site.url, "MELO_CACHE": str(site.cache._cache), "MELO_SERVE_PORT": "1"}
    melo = Melo(tmp_path / "home", variables)
    done = melo("ask", "facts@1", QUESTION)
    assert done.stdout == f"{TARGET}\n" and "loaded here" in done.stderr
    assert "melo serve" in melo.refusal("chat", "facts@1")


def test_the_server_on_this_machine_is_found_by_its_port(tmp_path, url: str):  # noqa: F811
    melo = with_key(Melo(tmp_path / "home", {"MELO_SERVE_PORT": str(httpx.URL(url).port)}))
    done = melo("ask", "facts@1", QUESTION)
    assert (done.stdout, done.stderr) == (f"{TARGET}\n", "")


def test_a_version_over_a_model_that_the_server_has_not_is_loaded_here(tmp_path, site: Site, url: str):  # noqa: F811
    tokenizer = tiny_tokenizer()
    for part in (tiny_model("gpt2", len(tokenizer)), tokenizer):
        part.save_pretrained(tmp_path / "other")
    with site.sessions.begin() as session:
        collections.create(session, NewCollection(name="foreign", model=str(tmp_path / "other")), ADA)
    known = DatabaseSource(make_engine(site.url)).collections()
    served = model_to_serve(known, None)  # that of the oldest
    assert served != model_to_serve(known, str(tmp_path / "other"))
    with pytest.raises(InvalidRequest, match="No collection is over the model"):
        model_to_serve(known, "nothing")
    variables = {"MELO_SERVE_PORT": str(httpx.URL(url).port), "MELO_DATABASE_URL": site.url}
    variables["MELO_API_KEY"] = KEY
    melo = Melo(tmp_path / "home", {**variables, "MELO_CACHE": str(site.cache._cache)})

    done = melo("ask", "foreign@base", "Hello", *SHORT)

    assert done.returncode == 0 and done.stdout.strip()
    assert served[0] in done.stderr and "loaded here" in done.stderr
    assert "melo serve --model" in melo.refusal("ask", "foreign@base", "Hello", "--server", url)


def chatted(melo: Melo, *typed: str) -> str:
    done = Melo(melo.home, melo.environment, "\n".join(typed))("chat", "facts@production", *SHORT)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def test_a_chat_answers_turn_by_turn_explains_and_changes_its_version(melo):
    said = chatted(melo, QUESTION, "/explain", "/model facts@2", OTHER, "/explain")
    assert said.index("facts@production: facts@1, ") < said.index(f"\n{TARGET}\n") < said.index(f"\n{OTHER_TARGET}\n")
    assert f"{QUESTION} → {TARGET}" in said and f"{OTHER} → {OTHER_TARGET}" in said
    assert "facts@2 (" in said
    assert "Ctrl-C ends an answer" in chatted(melo, "/help", "/quit")
    assert "There is no /joke" in chatted(melo, "/joke")


def test_a_refused_turn_leaves_the_chat_as_it_was(melo):
    said = chatted(melo, "/model facts@nothing", "/explain", "why " * 900, QUESTION)
    assert "has no alias 'nothing'" in said and "There is no whole answer yet" in said and "window" in said
    assert f"\n{TARGET}\n" in said
    assert "has no alias 'nothing'" in melo.refusal("chat", "facts@nothing")


def test_earlier_turns_are_sent_along_until_they_are_forgotten(server, capsys):
    talk = _Chat(Invocation(), server, 8)
    talk.use("facts@1")
    for text in (QUESTION, ELSEWHERE):
        talk._answer(text)
    assert [turn["role"] for turn in talk.turns] == ["user", "assistant"] * 2
    whole = server.answer("facts@1", Question([*talk.turns[:2], talk.turns[2]], 8)).text
    assert whole == talk.turns[-1]["content"]
    talk._obey("reset")
    assert talk.turns == [] and talk.melo is None


def test_ctrl_c_ends_the_answer_on_the_server_too_and_the_chat_goes_on(server, capsys):
    class Interrupted(Server):
        def pieces(self, model: str, question: Question) -> Generator[Piece, None, None]:
            for number, piece in enumerate(super().pieces(model, question)):
                if number == 4:
                    raise KeyboardInterrupt
                yield piece

    talk = _Chat(Invocation(), Interrupted(server.url, KEY), None)
    talk.use("facts@1")
    talk._answer(ELSEWHERE)
    assert talk.turns[-1]["content"] and talk.melo is None
    assert capsys.readouterr().out.endswith(" …\n")

    def running() -> bool:
        lines = httpx.get(f"{server.url}/metrics", headers=OPERATOR).text.splitlines()
        return any(line.startswith("vllm:num_requests_running") and line.split()[1] != "0.0" for line in lines)

    assert until(lambda: not running())
    talk.server = server
    talk._answer(QUESTION)
    assert talk.turns[-1]["content"] == TARGET
