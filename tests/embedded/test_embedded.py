"""The stack on one machine: it starts, survives, recovers, and leaves nothing behind."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from embedded import running, stack, state
from embedded.errors import AlreadyRunning, EmbeddedError, StartFailed, UnusableHome
from embedded.listeners import is_own
from embedded.processes import ProcessIdentity
from embedded.state import Health, Phase, StackState
from registry.access.operator import stored_key
from registry.audit.actor import Actor
from registry.base.database import make_engine, make_sessions
from registry.collections import service as collections
from registry.collections.schemas import NewCollection
from tests.melo_core.conftest import tiny_model, tiny_tokenizer
from tests.patience import until
from tests.registry.keys import carrying

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One data folder for the module: making a new one takes seconds."""
    folder = tmp_path_factory.mktemp("melo") / "home"
    yield folder
    stack.stop(folder)


@pytest.fixture
def servers(home: Path) -> Iterator[StackState]:
    """The two servers alone."""
    yield stack.start(home, worker=False, api=False, tied=True)
    stack.stop(home)


def identities(found: StackState) -> list[ProcessIdentity]:
    return [found.supervisor, *(record.identity for record in found.processes if record.identity)]


def process_of(found: StackState, name: str) -> psutil.Process:
    record = next(record for record in found.processes if record.name == name)
    process = record.identity.process() if record.identity else None
    assert process is not None, f"{name} does not run"
    return process


def record_of(home: Path, name: str) -> state.ProcessRecord:
    found = state.read(home)
    assert found is not None
    return next(record for record in found.processes if record.name == name)


def test_the_servers_listen_on_loopback_and_on_a_private_socket_alone(servers: StackState) -> None:
    listening = [
        connection.laddr.ip
        for record in servers.processes
        for process in [process_of(servers, record.name)]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]

    assert listening == ["127.0.0.1"]  # Valkey; PostgreSQL has no port at all
    with psycopg.connect(servers.database_url or "") as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
        (folder,) = connection.execute("SHOW unix_socket_directories").fetchone() or ("",)
    assert Path(folder.strip('"')).stat().st_mode & 0o077 == 0


def test_the_broker_keeps_every_message_and_asks_for_its_password(servers: StackState) -> None:
    with redis.Redis.from_url(servers.redis_url or "") as broker:
        assert broker.config_get("appendonly") == {"appendonly": "yes"}
        assert broker.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        port = broker.connection_pool.connection_kwargs["port"]
    with redis.Redis(port=port, retry=Retry(NoBackoff(), 0)) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


def test_files_that_hold_the_password_are_their_owners_alone(servers: StackState, home: Path) -> None:
    for path in (state.state_file(home), home / "valkey" / "valkey.conf", home / "logs" / "postgres.log"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_what_was_written_is_there_after_a_restart(home: Path) -> None:
    with running(home, worker=False, api=False) as first:
        with psycopg.connect(first.database_url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 'a row' AS what")
        with redis.Redis.from_url(first.redis_url) as broker:
            broker.set("kept", "a message")

    with running(home, worker=False, api=False) as second:
        with psycopg.connect(second.database_url) as connection:
            assert connection.execute("SELECT what FROM kept").fetchone() == ("a row",)
            connection.execute("DROP TABLE kept")
        with redis.Redis.from_url(second.redis_url) as broker:
            assert broker.get("kept") == b"a message"


def test_a_stop_leaves_no_process_and_no_state_file(home: Path) -> None:
    found = stack.start(home, worker=False, api=False)
    started = identities(found)
    assert all(identity.process() for identity in started)

    assert stack.stop(home) == ["postgres", "valkey"]

    assert not any(identity.process() for identity in started)
    assert not state.state_file(home).exists()
    assert stack.stop(home) == []


def test_a_second_start_is_refused_and_disturbs_nothing(servers: StackState, home: Path) -> None:
    with pytest.raises(AlreadyRunning, match="already running"):
        stack.start(home, worker=False, api=False)

    assert stack.find(home) is not None
    assert all(identity.process() for identity in identities(servers))


def test_of_two_starts_at_once_one_wins_and_the_other_says_so(home: Path) -> None:
    outcomes: list[str] = []

    def start() -> None:
        try:
            outcomes.append(stack.start(home, worker=False, api=False).phase.value)
        except AlreadyRunning:
            outcomes.append("already running")

    starts = [threading.Thread(target=start) for _ in range(2)]
    for thread in starts:
        thread.start()
    for thread in starts:
        thread.join()

    assert sorted(outcomes) == ["already running", "ready"]
    assert stack.stop(home) == ["postgres", "valkey"]


def test_a_folder_prepared_by_many_at_once_is_fit_for_each(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        prepared = list(pool.map(state.prepare, [tmp_path / "home"] * 2000))

    assert set(prepared) == {tmp_path / "home"}
    assert list((tmp_path / "home").iterdir()) == []


def test_what_a_killed_supervisor_left_behind_is_stopped_by_the_next_start(home: Path) -> None:
    killed = stack.start(home, worker=False, api=False)
    left = [identity for identity in identities(killed) if identity != killed.supervisor]
    os.kill(killed.supervisor.pid, signal.SIGKILL)
    assert until(lambda: stack.find(home) is None)
    assert all(identity.process() for identity in left)

    with running(home, worker=False, api=False):
        assert not any(identity.process() for identity in left)


def test_what_a_killed_supervisor_left_behind_is_stopped_by_down(home: Path) -> None:
    killed = stack.start(home, worker=False, api=False)
    os.kill(killed.supervisor.pid, signal.SIGKILL)
    assert until(lambda: stack.find(home) is None)

    assert sorted(stack.stop(home)) == ["postgres", "valkey"]

    assert not any(identity.process() for identity in identities(killed))


def test_everything_killed_at_once_as_by_a_power_loss_loses_nothing_committed(home: Path) -> None:
    killed = stack.start(home, worker=False, api=False)
    with psycopg.connect(killed.database_url or "") as connection:
        connection.execute("CREATE TABLE committed AS SELECT 1 AS one")
    for identity in identities(killed):
        os.kill(identity.pid, signal.SIGKILL)
    assert until(lambda: stack.find(home) is None)

    with running(home, worker=False, api=False) as again, psycopg.connect(again.database_url) as connection:
        assert connection.execute("SELECT one FROM committed").fetchone() == (1,)
        connection.execute("DROP TABLE committed")


def test_a_state_file_cut_off_by_a_power_loss_does_not_hinder_a_start(home: Path) -> None:
    home.mkdir(exist_ok=True)
    state.state_file(home).write_text('{"supervisor": {"pid"')

    with running(home, worker=False, api=False):
        assert stack.find(home) is not None


def test_a_stranger_who_got_the_pid_of_an_old_process_is_left_alone(home: Path) -> None:
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as stranger:
        long_ago = ProcessIdentity(pid=stranger.pid, started=time.time() - 3600)
        record = state.ProcessRecord(name="relay", identity=long_ago, health=Health.READY, log=home / "log")
        state.prepare(home)
        state.write(home, StackState(supervisor=long_ago, phase=Phase.READY, processes=[record]))

        assert stack.find(home) is None
        assert stack.stop(home) == []

        assert stranger.poll() is None
        stranger.kill()


def test_a_server_that_dies_is_started_again_and_counted(servers: StackState, home: Path) -> None:
    for name in ("valkey", "postgres"):
        process_of(servers, name).kill()

        def is_back(name: str = name) -> bool:
            record = record_of(home, name)
            return record.restarts == 1 and record.health is Health.READY

        assert until(is_back), name
        assert record_of(home, name).last_exit == -signal.SIGKILL

    with psycopg.connect(servers.database_url or "") as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    with redis.Redis.from_url(servers.redis_url or "") as broker:
        assert broker.ping()


def test_the_server_waits_for_a_collection_and_is_watched_and_stopped_like_the_others(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MELO_CACHE", str(tmp_path / "cache"))
    taken = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setenv("MELO_SERVE_PORT", str(taken.getsockname()[1]))
    found = stack.start(home, worker=False, api=False, serve=True, tied=True)  # ready without a collection
    try:
        assert record_of(home, "serve").health is Health.STARTING
        assert found.serve_url not in (None, f"http://127.0.0.1:{taken.getsockname()[1]}")
        make_collection(found.database_url or "", tmp_path / "model")
        assert until(lambda: record_of(home, "serve").health is Health.READY)
        process_of(found, "serve").kill()
        assert until(lambda: record_of(home, "serve").restarts == 1 and record_of(home, "serve").health is Health.READY)
        models = httpx.get(f"{found.serve_url}/v1/models", headers=carrying(stored_key(home))).json()["data"]
        assert {model["id"] for model in models} == {"facts@base", "facts@latest"}
        last = record_of(home, "serve").identity
    finally:
        taken.close()
        stopped = stack.stop(home)

    assert stopped == ["postgres", "valkey", "serve"]
    assert last is not None and last.process() is None


def make_collection(database_url: str, folder: Path) -> None:
    """A collection over a tiny model."""
    tokenizer = tiny_tokenizer()
    tiny_model("llama", len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    engine = make_engine(database_url)
    with make_sessions(engine).begin() as session:
        collections.create(session, NewCollection(name="facts", model=str(folder)), Actor("ada"))
    engine.dispose()


def test_a_tied_stack_ends_with_the_program_that_started_it(home: Path) -> None:
    program = (
        "import signal, sys; from pathlib import Path; from embedded import running\n"
        "with running(Path(sys.argv[1]), worker=False, api=False): print('ready', flush=True); signal.pause()"
    )
    starter = subprocess.Popen([sys.executable, "-c", program, str(home)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert starter.stdout is not None
    assert starter.stdout.readline() == "ready\n"
    found = stack.find(home)
    assert found is not None

    starter.kill()
    starter.wait()
    starter.stdout.close()

    assert until(lambda: not any(identity.process() for identity in identities(found)))


def test_a_home_whose_path_is_too_long_for_a_socket_works(tmp_path: Path) -> None:
    home = tmp_path / ("long " * 20 + '"quoted", and with a comma') / "home"
    assert len(str(home)) > 107

    with running(home, worker=False, api=False) as found:
        with psycopg.connect(found.database_url) as connection:
            assert connection.execute("SELECT current_database()").fetchone() == ("melo",)
        with redis.Redis.from_url(found.redis_url) as broker:
            assert broker.config_get("dir") == {"dir": str(home / "valkey")}


def test_servers_that_are_named_take_the_place_of_the_embedded_ones(
    servers: StackState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MELO_DATABASE_URL", servers.database_url or "")
    with running(tmp_path / "home", worker=False, api=False) as other:
        found = state.read(tmp_path / "home")
        assert other.database_url == servers.database_url
        assert found is not None
        assert [record.name for record in found.processes] == ["valkey"]

    monkeypatch.setenv("MELO_REDIS_URL", servers.redis_url or "")
    with running(tmp_path / "home", worker=False, api=False) as other:
        found = state.read(tmp_path / "home")
        assert other.redis_url == servers.redis_url
        assert found is not None
        assert found.processes == []
    assert all(identity.process() for identity in identities(servers))


def test_a_named_database_that_does_not_answer_is_a_clear_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MELO_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setenv("MELO_REDIS_URL", "redis://127.0.0.1:1/0")

    with pytest.raises(StartFailed, match="The database was not reached") as caught:
        stack.start(tmp_path / "home", worker=False, api=False)

    assert "MELO_DATABASE_URL" in caught.value.remedy
    assert stack.find(tmp_path / "home") is None


def test_a_data_folder_of_another_postgresql_is_refused_untouched(tmp_path: Path) -> None:
    folder = tmp_path / "home" / "pgdata"
    folder.mkdir(parents=True)
    (folder / "PG_VERSION").write_text("12\n")

    with pytest.raises(StartFailed, match="was made by PostgreSQL 12"):
        stack.start(tmp_path / "home", worker=False, api=False)

    assert [path.name for path in folder.iterdir()] == ["PG_VERSION"]


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")

    with pytest.raises(UnusableHome, match="is a file, not a folder"):
        stack.start(tmp_path / "home", worker=False, api=False)


def test_a_port_that_is_taken_is_named_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(StartFailed, match=f"Port {port} on 127.0.0.1 is taken by another program") as caught:
            stack.start(tmp_path / "home", worker=False, port=port)
    assert "--port" in caught.value.remedy
    assert not (tmp_path / "home" / "pgdata").exists()


def test_the_database_writes_no_row_into_its_log(servers: StackState, home: Path) -> None:
    log = home / "logs" / "postgres.log"
    secret = "xq7secret"
    insert = "INSERT INTO kept VALUES (%s)"
    with psycopg.connect(servers.database_url or "", autocommit=True) as connection:
        connection.execute("CREATE TABLE kept (words text PRIMARY KEY CHECK (length(words) < 20))")
        connection.execute(insert, [secret])
        for statement, values in (
            (insert, [secret]),  # DETAIL: Key (words)=(…) already exists.
            (insert, [secret * 10]),  # DETAIL: Failing row contains (…).
            (f"SELECT '{secret}'::int", None),  # invalid input syntax for type integer: "…"
            (f"SELECT {secret}", None),  # STATEMENT: …
            (f"DO $$ BEGIN RAISE EXCEPTION '{secret}'; END $$", None),
            ("SELECT 1 / (length(%s) - 9)", [secret]),  # unnamed portal with parameters: $1 = '…'
        ):
            with pytest.raises(psycopg.Error):
                connection.execute(statement, values)
        with pytest.raises(psycopg.Error), connection.cursor().copy("COPY kept FROM STDIN") as copy:
            copy.write(f"{secret}\t{secret}\n")  # CONTEXT: COPY kept, line 1: "…"
        connection.execute("SET statement_timeout = 1")
        with pytest.raises(psycopg.Error):
            connection.execute("SELECT pg_sleep(1), %s::text", [secret])
        connection.execute("DROP TABLE kept")

    assert log.exists()
    assert secret not in log.read_text()


def test_an_initialisation_that_was_cut_off_is_begun_anew(tmp_path: Path) -> None:
    draft = tmp_path / "home" / "pgdata.new"
    draft.mkdir(parents=True)
    (draft / "half").write_text("")

    with running(tmp_path / "home", worker=False, api=False):
        assert (tmp_path / "home" / "pgdata" / "PG_VERSION").exists()
        assert not draft.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_ordinary_user_can_run_it_too(tmp_path: Path) -> None:
    interpreter = shutil.which(f"python3.{sys.version_info.minor}", path="/usr/local/bin:/usr/bin")
    packages = Path(psycopg.__file__).parents[1]
    if interpreter is None:
        pytest.skip("no interpreter of this version that other users may run")
    for folder in tmp_path.parents:  # pytest's own temporary folders are its user's alone
        if folder.stat().st_mode & 0o005 != 0o005:
            folder.chmod(folder.stat().st_mode | 0o005)
    tmp_path.chmod(0o777)
    program = (
        "import os, sys, json; from pathlib import Path; from embedded import running, state\n"
        "import psutil\n"
        "with running(Path(sys.argv[1]), worker=False, api=False) as found:\n"
        "    processes = state.read(found.home).processes\n"
        "    print(json.dumps([psutil.Process(each.identity.pid).uids().real for each in processes]))"
    )
    done = subprocess.run(
        [interpreter, "-c", program, str(tmp_path / "home")],
        user=65534,
        group=65534,
        extra_groups=[],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{ROOT}:{packages}", "HOME": str(tmp_path)},
        cwd="/",
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [65534, 65534]


def test_every_failure_says_what_to_do() -> None:
    error: EmbeddedError = StartFailed("postgres ended at once.", "See its log.")

    assert str(error) == "postgres ended at once. See its log."


def test_a_stack_whose_key_can_be_guessed_does_not_start_and_says_what_to_do(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MELO_API_KEY", "changeme")
    with pytest.raises(StartFailed, match=r"MELO_API_KEY could be guessed.*openssl rand -hex 32"):
        stack.start(home, worker=False)
    assert stack.find(home) is None


def test_the_key_is_sent_only_to_what_this_user_runs_here() -> None:
    with socket.create_server(("127.0.0.1", 0)) as own:
        port = own.getsockname()[1]
        assert is_own(f"http://127.0.0.1:{port}") and is_own(f"http://localhost:{port}/v1")
        for url in (f"http://10.0.0.7:{port}", f"http://127.0.0.1.example.org:{port}", "nonsense", "http://[::1", ""):
            assert not is_own(url)
        if os.geteuid() == 0:
            script = "import os, socket, time; os.setuid(65534); s = socket.create_server(('127.0.0.1', 0)); "
            script += "print(s.getsockname()[1], flush=True); time.sleep(60)"
            other = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
            assert other.stdout is not None
            assert not is_own(f"http://127.0.0.1:{other.stdout.readline().strip()}")
            other.kill()
            other.wait()
    assert not is_own(f"http://127.0.0.1:{port}")  # nothing listens
