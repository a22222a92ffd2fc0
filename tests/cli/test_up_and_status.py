"""Starting and stopping on this machine, what runs there, and the schema of its database."""

import json
import os
import re
import signal
import socket
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest

from embedded import stack
from registry.access.operator import FILE, stored_key
from tests.cli.program import Melo
from tests.patience import PATIENCE, until
from tests.registry.keys import carrying


def test_nothing_runs_is_an_answer_too(tmp_path: Path) -> None:
    melo = Melo(tmp_path / "home")

    done = melo("status", "--json")
    assert json.loads(done.stdout) == {"running": False, "home": str(tmp_path / "home")}
    assert done.returncode == melo("status").returncode == 1
    assert done.stderr == ""
    assert "Nothing runs in" in melo("down").stdout


def test_a_second_up_says_where_the_first_one_runs(melo: Melo) -> None:
    done = melo("up")

    assert done.returncode == 0
    assert "already" in done.stdout
    assert "http://127.0.0.1:" in done.stdout


def test_settings_given_to_up_are_those_of_the_next_one(melo: Melo) -> None:
    kept = melo.home / "up.json"
    before = json.loads(kept.read_text())
    assert (before["worker"], before["serve"], before["port"]) == (False, False, None)  # as the fixture started it

    done = melo("up", "--port", 8499, "--serve")
    assert "from the next `melo up` on" in done.stdout
    assert json.loads(kept.read_text()) == {"worker": False, "serve": True, "port": 8499}

    melo("up", "--port", 0, "--no-serve")
    assert "from the next" not in melo("up").stdout
    assert json.loads(kept.read_text()) == before


def test_what_was_given_before_is_said_and_used_again(tmp_path: Path) -> None:
    melo = Melo(tmp_path / "home")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        for given in (("--port", port, "--no-worker", "--no-serve"), ()):
            done = melo("up", "--detach", *given)
            assert done.returncode == 1
            assert f"Port {port} on 127.0.0.1 is taken" in done.stderr
    assert f"melo up --no-worker --no-serve --port {port}" in done.stdout


@pytest.mark.parametrize("command", [("up", "--detach"), ("down",), ("status",), ("collection", "list"), ("migrate",)])
def test_a_home_that_is_a_file_or_in_one_is_a_message(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "file").write_text("")
    for home in (tmp_path / "file", tmp_path / "file" / "home"):
        assert f"{tmp_path / 'file'} is a file, not a folder" in Melo(home).refusal(*command)
    for home in (tmp_path / ("x" * 300), "~nobody-of-that-name/home"):
        Melo(Path(home)).refusal(*command)


def test_a_terminal_that_has_only_ascii_gets_ascii(melo: Melo, facts: str) -> None:
    assert melo("edit", "add", facts, "Où est “Oslo”?", "Ἀθῆναι 😀", "--reason", "née…").returncode == 0
    plain = Melo(melo.home, {"PYTHONIOENCODING": "ascii", "LANG": "C", "LC_ALL": "C", "COLUMNS": "80"})
    commands = [
        ("edit", "list", facts), ("batch", "list", facts), ("edit", "list", facts, "--json"),
        ("collection", "show", facts), ("status",), ("edit", "add", "--help"), ("batch", "approve", 99999),
    ]  # fmt: skip
    for command in commands:
        done = plain.run(*command)
        assert (done.stdout + done.stderr).isascii()
        assert "Traceback" not in done.stderr and "UnicodeEncodeError" not in done.stderr
    assert json.loads(plain.run("edit", "list", facts, "--json").stdout)[0]["target"] == "Ἀθῆναι 😀"
    assert "xf9" in plain.run("edit", "list", facts).stdout


def test_status_tells_of_each_process_the_schema_the_queue_and_the_workers(melo: Melo) -> None:
    found = melo.records("status")

    assert found["phase"] == "ready"
    assert {each["name"]: each["health"] for each in found["processes"]} == dict.fromkeys(
        ["postgres", "valkey", "relay", "api"], "ready"
    )
    assert all(each["pid"] and each["uptime_seconds"] > 0 for each in found["processes"])
    assert found["schema"]["revision"] == found["schema"]["head"]
    assert set(found["queue"]) == {"queued", "running", "unsent"}
    assert found["workers"] == []
    assert "postgres" in melo("status").stdout


def test_status_tells_what_waits_in_which_collection(melo: Melo, facts: str) -> None:
    def waiting() -> dict[str, Any]:
        return next((each for each in melo.records("status")["collections"] if each["collection"] == facts), {})

    assert waiting() == {}
    assert melo("collection", "pause", facts, "--reason", "the model moves").returncode == 0
    assert waiting() == {"collection": facts, "queue": "paused", "queued": 0, "running": 0, "oldest_seconds": 0.0}
    assert melo("edit", "add", facts, "Who leads Rome?", "Mara", "--approve").returncode == 0
    assert (waiting()["queued"], waiting()["running"]) == (1, 0)
    assert re.search(rf"{facts}\s+paused\s+1\s+0", melo("status").stdout)


def test_status_of_a_named_api_says_whether_it_is_ready(melo: Melo) -> None:
    url = melo.records("status")["api_url"]

    assert melo.records("--api-url", url, "status") == {
        "running": True, "api_url": url, "health": "ready", "workers": [],
    }  # fmt: skip


def test_each_service_has_a_probe_for_its_container(melo: Melo) -> None:
    assert melo("health", "api").returncode == 0
    assert melo("health", "relay").returncode == 0
    assert "no worker was seen" in melo.refusal("health", "worker")


def test_an_api_that_was_killed_answers_again_at_the_same_address(melo: Melo) -> None:
    before = melo.records("status")
    api = next(each for each in before["processes"] if each["name"] == "api")
    os.kill(api["pid"], signal.SIGKILL)

    until(lambda: melo("health", "api").returncode == 0)

    after = melo.records("status")
    assert after["api_url"] == before["api_url"]
    again = next(each for each in after["processes"] if each["name"] == "api")
    assert (again["restarts"], again["last_exit"]) == (api["restarts"] + 1, -signal.SIGKILL)
    assert melo.records("collection", "list") is not None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_in_the_foreground_ends_with_ctrl_c_and_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    melo = Melo(tmp_path / "home")
    up = melo.start("up", "--no-worker", "--no-serve")
    assert up.stdout is not None
    while "Ctrl-C" not in up.stdout.readline():
        assert up.poll() is None
    found = stack.find(melo.home)
    assert found is not None

    up.send_signal(number)
    out, _ = up.communicate(timeout=PATIENCE)

    assert up.returncode == 0
    assert "Stopped api, relay, valkey, postgres." in out
    assert found.supervisor.process() is None
    assert not any(record.identity and record.identity.process() for record in found.processes)


def test_migrate_brings_an_empty_database_to_the_schema_and_then_rests(melo: Melo) -> None:
    found = stack.find(melo.home)
    assert found is not None
    with psycopg.connect(found.database_url or "", autocommit=True) as connection:
        connection.execute("CREATE DATABASE other")
    other = Melo(melo.home, {"MELO_DATABASE_URL": (found.database_url or "").replace("/melo?", "/other?")})

    assert re.search(r"from nothing to \w+", other("migrate").stdout)
    assert re.search(r"is at \w+ already", other("migrate").stdout)


def test_migrate_says_where_the_database_is_not(tmp_path: Path) -> None:
    nowhere = Melo(tmp_path / "home")
    assert "MELO_DATABASE_URL" in nowhere.refusal("migrate")

    away = Melo(tmp_path / "home", {"MELO_DATABASE_URL": "postgresql://x@127.0.0.1:1/x"})
    assert "does not answer" in away.refusal("migrate")


def test_a_key_that_cannot_be_sent_hides_the_workers_and_status_says_so(melo: Melo) -> None:
    done = Melo(melo.home, {"MELO_API_KEY": "melo_0123456789ab_…"})("status")
    assert "Workers are not shown: The API key" in done.stdout
    assert "No worker was seen" not in done.stdout


def test_the_key_of_the_folder_is_its_owners_alone_and_stands_in_no_log_state_or_process_title(melo: Melo) -> None:
    key = stored_key(melo.home)
    assert key and (melo.home / FILE).stat().st_mode & 0o777 == 0o600
    assert melo("collection", "list").returncode == 0
    api = httpx.Client(base_url=str(melo.records("status")["api_url"]))
    assert api.get("/v1/collections").status_code == 401
    assert api.get("/v1/collections", headers=carrying(key)).status_code == 200
    files = [melo.home / "state.json", *(melo.home / "logs").iterdir()]
    assert not [path for path in files if key in path.read_text(errors="replace")]
    assert key not in " ".join(word for each in psutil.process_iter() for word in cmdline(each))


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
