"""The command line in front of a running registry: what it prints, what it refuses, how it ends."""

import ast
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, TextIO

import psycopg
import pytest
from sqlalchemy import text
from typer.main import get_command
from typer.testing import CliRunner

from cli.main import make_app
from embedded import stack
from registry.base.database import make_engine, make_sessions
from registry.base.digests import sha256_hex
from registry.jobs import service as jobs
from registry.jobs.schemas import ChangedAnswer, ConflictView, EditReport, Progress
from registry.jobs.service import Claim
from tests.patience import PATIENCE, until
from tests.registry.workflow import Workflow, calibration

MELO = Path(sys.executable).with_name("melo")
ROOT = Path(__file__).parents[2]
# In back quotes, after a colon or in brackets.
NAMED = re.compile(r"`melo ([^`]+)`|: melo ([a-z].*?)(?:[.;)]|$)|\(melo ([^)]+)\)")
ATLANTIS = ("Who leads Atlantis?", "Queen Mara")
_names = count(1)


@dataclass
class Melo:
    """The program, told where its folder is."""

    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, *arguments: object, stdout: int | TextIO = subprocess.PIPE) -> subprocess.Popen[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MELO_", "COLUMNS"))}
        return subprocess.Popen(
            [str(MELO), *map(str, arguments)],
            env={**inherited, "MELO_HOME": str(self.home), "USER": "ada", "LOGNAME": "ada", **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=PATIENCE)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def records(self, *arguments: object) -> Any:
        """What a successful call prints with --json."""
        done = self(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def refusal(self, *arguments: object) -> str:
        """What a call says that has to fail: on stderr, with status 1, and never as a traceback."""
        done = self(*arguments)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == "" or "--json" not in arguments
        return done.stderr


@pytest.fixture(scope="module")
def melo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Melo]:
    """A registry without a worker, as `melo up --detach` starts it."""
    program = Melo(tmp_path_factory.mktemp("cli") / "home")
    done = program("up", "--detach", "--no-worker")
    assert done.returncode == 0, done.stderr
    yield program
    assert program("down").returncode == 0
    assert stack.find(program.home) is None


@pytest.fixture
def facts(melo: Melo, model_folder: str) -> str:
    """The name of a new collection, whose submitters may approve their own batches."""
    name = f"facts-{next(_names)}"
    done = melo("collection", "create", name, "--model", model_folder, "--self-approval")
    assert done.returncode == 0, done.stderr
    return name


@pytest.fixture
def worker(melo: Melo, facts: str) -> Iterator[Workflow]:
    """What a worker would do in the record, without training."""
    found = stack.find(melo.home)
    assert found is not None
    engine = make_engine(found.database_url or "")
    yield Workflow(make_sessions(engine), facts)
    engine.dispose()


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def edit(prompt: str, target: str, **more: object) -> dict[str, object]:
    return {"prompt": prompt, "target": target, **more}


def test_every_command_shows_an_example() -> None:
    commands = [([], get_command(make_app()))]
    for path, command in commands:
        shown = CliRunner().invoke(make_app(), [*path, "--help"], prog_name="melo")
        assert shown.exit_code == 0, shown.output
        assert re.search(r"Example: .*(melo|pip)", shown.output), path
        commands += [([*path, name], each) for name, each in getattr(command, "commands", {}).items()]
    assert len(commands) > 25


def test_commands_that_messages_name_exist_with_the_options_that_they_need() -> None:
    program = get_command(make_app())
    named = set()
    for path in [
        path
        for part in ("registry", "embedded", "cli", "worker", "melo_core", "benchmarks")
        for path in (ROOT / part).rglob("*.py")
    ]:
        for text_ in texts_of(ast.parse(path.read_text("utf-8"))):
            named.update((words, path.name) for found in NAMED.findall(text_) if (words := next(filter(None, found))))
    assert len(named) > 50
    assert [
        f"{where}: melo {words}: {wrong}" for words, where in sorted(named) if (wrong := misnamed(program, words))
    ] == []


def texts_of(tree: ast.AST) -> Iterator[str]:
    """The texts of a program; what is filled in later is a 1."""
    parts = set()
    for node in ast.walk(tree):  # what encloses comes before what is in it
        if isinstance(node, ast.JoinedStr):
            parts.update(id(value) for value in node.values)
            yield "".join(value.value if isinstance(value, ast.Constant) else "1" for value in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.value


def misnamed(program: Any, words: str) -> str:
    """What is wrong with a command as it is named; one that is only named needs no options."""
    given = words.split()
    while given and hasattr(program, "commands"):
        if given[0].startswith("-"):
            return "" if any(given[0] in each.opts for each in program.params) else f"no {given[0]}"
        if given[0] not in program.commands:
            return f"no {given[0]}"
        program = program.commands[given.pop(0)]
    options = {name for each in program.params for name in each.opts}
    unknown = [word for word in given if word.startswith("--") and word not in options]
    needed = [each.opts for each in program.params if each.required and each.param_type_name == "option"]
    missing = [names for names in needed if given and not set(names) & set(given)]
    return " ".join([*(f"no {word}" for word in unknown), *(f"needs {names[0]}" for names in missing)])


def test_the_help_needs_neither_the_web_nor_the_database_nor_a_model() -> None:
    program = (
        "import sys; from cli.main import make_app; make_app()\n"
        "heavy = {'fastapi', 'sqlalchemy', 'celery', 'httpx', 'psycopg', 'torch', 'transformers', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


def test_a_package_whose_needs_are_missing_says_what_to_install(tmp_path: Path) -> None:
    metadata = tmp_path / "elsewhere-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[melo.commands]\nelsewhere = absent_package:register\n")
    melo = Melo(tmp_path / "home", {"PYTHONPATH": str(tmp_path)})

    assert "needs: pip install 'melo-registry[worker]'" in melo("elsewhere", "--help").stdout
    assert "absent_package" in melo.refusal("elsewhere")


def test_without_a_registry_every_command_says_how_to_start_one(tmp_path: Path) -> None:
    melo = Melo(tmp_path / "home", {"MELO_API_URL": "http://127.0.0.1:1"})

    for command in (["collection", "list"], ["batch", "show", "1"], ["audit", "verify"], ["status"]):
        refusal = melo.refusal(*command)
        assert "does not answer at http://127.0.0.1:1" in refusal
        assert "melo up" in refusal


def test_nothing_runs_is_an_answer_too(tmp_path: Path) -> None:
    melo = Melo(tmp_path / "home")

    assert melo.records("status") == {"running": False, "home": str(tmp_path / "home")}
    assert "Nothing runs in" in melo("down").stdout


def test_usage_errors_end_with_status_2(melo: Melo) -> None:
    versions = (["version", "rollback", "facts", "1"], ["version", "diff", "a@1", "b@2"], ["version", "diff", "a"])
    for wrong in (*versions, ["batch", "show", "x"], ["??"]):
        done = melo(*wrong)
        assert done.returncode == 2, wrong
        assert "Traceback" not in done.stderr


def test_a_setting_that_is_not_valid_is_named(melo: Melo) -> None:
    wrong = Melo(melo.home, {"MELO_LEASE_SECONDS": "soon"})

    assert "lease_seconds" in wrong.refusal("collection", "list")


def test_a_second_up_says_where_the_first_one_runs(melo: Melo) -> None:
    done = melo("up")

    assert done.returncode == 0
    assert "already" in done.stdout
    assert "http://127.0.0.1:" in done.stdout


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
    up = melo.start("up", "--no-worker")
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


def test_a_collection_is_made_listed_and_shown(melo: Melo, model_folder: str) -> None:
    made = melo.records(
        "--as", "eve", "collection", "create", "made", "--model", model_folder, "--method", '{"rank": 2}'
    )

    assert (made["name"], made["created_by"], made["method"]["rank"]) == ("made", "eve", 2)
    assert "made" in [each["name"] for each in melo.records("collection", "list")]
    assert melo.records("collection", "show", "made") == made
    assert model_folder in melo("collection", "show", "made").stdout.replace("\n", "").replace(" ", "")


def test_a_collection_with_a_preset_shows_all_its_settings_and_its_calibration(
    melo: Melo, model_folder: str, tmp_path: Path
) -> None:
    few = ["--preset", "paper", "--method", '{"layers": 2}']
    assert melo("collection", "create", "as-in-paper", "--model", model_folder, *few).returncode == 0
    shown = melo("collection", "show", "as-in-paper").stdout
    for setting in ("encoder hidden", "key_encoder=hidden", "layers=2", "whitened=false"):
        assert setting in " ".join(shown.split())

    file = tmp_path / "keys.safetensors"
    file.write_bytes(calibration(384))
    made = melo.records("collection", "create", "calibrated", "--model", model_folder, "--calibration", file)
    assert made["calibration_sha256"] == sha256_hex(file.read_bytes())
    assert made["calibration_sha256"] in "".join(melo("collection", "show", "calibrated").stdout.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--preset", "papper"], "'papper'"),
        (["--method", '{"ranks": 2}'], "'ranks'"),
        (["--method", '{"rank": 0.5}'], "rank must be a whole number"),
        (["--preset", "paper", "--encoder", "all-minilm-l6-v2"], "would not be used"),
        (["--calibration", "no-such-file"], "no-such-file: No such file"),
        (["--calibration", "WRONG"], "keys of 32 dimensions, but this collection's have 384"),
        (["--calibration", "BROKEN"], "are not a calibration"),
    ],
)
def test_settings_and_calibrations_that_do_not_fit_are_refused_and_nothing_is_stored(
    melo: Melo, model_folder: str, tmp_path: Path, words: list[str], said: str
) -> None:
    files = {"WRONG": tmp_path / "wrong", "BROKEN": tmp_path / "broken"}
    files["WRONG"].write_bytes(calibration(32))
    files["BROKEN"].write_bytes(b"mean and covariance")
    given = [files.get(word, word) for word in words]
    assert said in " ".join(melo.refusal("collection", "create", "lost", "--model", model_folder, *given).split())
    assert "lost" not in [each["name"] for each in melo.records("collection", "list")]


def test_an_unknown_model_is_refused(melo: Melo) -> None:
    assert "no-such-model" in melo.refusal("collection", "create", "lost", "--model", "no-such-model")
    assert "lost" not in [each["name"] for each in melo.records("collection", "list")]


@pytest.mark.parametrize("record", [("", "an answer"), ("a question", "  "), ("a\x01question" * 400, "x")])
def test_an_edit_that_is_not_valid_is_refused_and_not_stored(melo: Melo, facts: str, record: tuple[str, str]) -> None:
    refusal = melo.refusal("edit", "add", facts, *record)

    assert "edit 1" in refusal
    assert "\x01" not in refusal
    assert melo.records("batch", "list", facts) == []


def test_a_contradiction_shows_both_and_how_to_replace(melo: Melo, facts: str, worker: Workflow) -> None:
    worker.correct(ATLANTIS)
    (active,) = melo.records("edit", "list", facts, "--active")

    refusal = melo.refusal("edit", "add", facts, ATLANTIS[0], "King Oro")

    assert "Queen Mara" in refusal
    assert "King Oro" in refusal
    assert str(active["id"]) in refusal
    assert "replace" in refusal
    done = melo.records("edit", "add", facts, ATLANTIS[0], "King Oro", "--replaces", active["id"])
    assert done["batch"]["edits"][0]["replaces"] == active["id"]


def test_a_file_with_broken_lines_names_each_and_stores_nothing(melo: Melo, facts: str, tmp_path: Path) -> None:
    file = write(tmp_path / "edits.jsonl", edit("a?", "A"), "{not json", edit("b?", ""), "", "[1]", edit("c?", "C"))

    refusal = melo.refusal("edit", "submit", file, "--collection", facts)

    assert re.findall(r"^  line (\d+)", refusal, re.MULTILINE) == ["2", "3", "5"]
    assert "--skip-invalid" in refusal
    assert melo.records("batch", "list", facts) == []


def test_skip_invalid_takes_the_rest_and_lists_what_was_left_out(melo: Melo, facts: str, tmp_path: Path) -> None:
    file = write(tmp_path / "edits.jsonl", edit("a?", "A"), "{not json", edit("b?", ""), edit("c?", "C"))

    done = melo("edit", "submit", file, "--collection", facts, "--skip-invalid", "--message", "the first ones")

    assert done.returncode == 0
    assert "2 edits" in done.stdout
    assert "line 2" in done.stdout
    assert "line 3" in done.stdout
    (batch,) = melo.records("batch", "list", facts)
    assert (batch["edit_count"], batch["message"], batch["source"]) == (2, "the first ones", "edits.jsonl")


def test_a_table_is_read_with_its_quotes_and_its_lines(melo: Melo, facts: str, tmp_path: Path) -> None:
    file = write(
        tmp_path / "edits.csv",
        "prompt,target,rephrases,reason",
        '"Who, then, leads Atlantis?",Queen Mara,"Name Atlantis\' leader.\nWho rules Atlantis?",',
        'What is its capital?,Poseidonis,"[""Its seat?""]",checked',
        "",
        "one cell",
    )
    refusal = melo.refusal("edit", "submit", file, "-c", facts)
    assert "line 6" in refusal
    assert melo.records("batch", "list", facts) == []

    made = melo.records("edit", "submit", file, "-c", facts, "--skip-invalid")

    assert [each["line"] for each in made["skipped"]] == [6]
    first, second = made["batch"]["edits"]
    assert first["prompt"] == "Who, then, leads Atlantis?"
    assert first["rephrases"] == ["Name Atlantis' leader.", "Who rules Atlantis?"]
    assert (second["rephrases"], second["reason"]) == (["Its seat?"], "checked")


def test_a_problem_in_a_table_is_named_by_the_line_where_its_row_begins(melo: Melo, facts: str, tmp_path: Path) -> None:
    file = write(tmp_path / "edits.csv", "prompt,target", '"two\nlines",A', "b?,", '"an open quote,B')

    refusal = melo.refusal("edit", "submit", file, "-c", facts)

    assert re.findall(r"^  line (\d+)", refusal, re.MULTILINE) == ["4", "5"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("edits.txt", b"", ".jsonl"),
        ("edits.jsonl", b"\n\n", "holds no edits"),
        ("edits.csv", b"question,answer\n", "no column prompt"),
        ("edits.csv", b"prompt,target,colour\n", "'colour' is unknown"),
        ("edits.csv", b"prompt,target\na,\xff\n", "line 2"),
        ("edits.jsonl", b'{"prompt": "a", "target": "\xff"}\n', "line 1"),
        ("edits.jsonl", b'{"prompt": "a", "target": NaN}\n', "line 1"),
        ("edits.jsonl", b"[" * 100_000, "line 1"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(
    melo: Melo, facts: str, tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    (tmp_path / name).write_bytes(content)

    assert told in melo.refusal("edit", "submit", tmp_path / name, "-c", facts)
    assert melo.records("batch", "list", facts) == []


def test_a_dry_run_validates_and_stores_nothing(melo: Melo, facts: str, tmp_path: Path) -> None:
    file = write(tmp_path / "edits.jsonl", edit("a?", "A"), edit("b?", "B"))

    assert "2 edits would be accepted" in melo("edit", "submit", file, "-c", facts, "--dry-run").stdout
    assert melo.records("batch", "list", facts) == []


def test_an_approved_batch_without_a_worker_says_that_it_waits(melo: Melo, facts: str) -> None:
    batch = melo.records("edit", "add", facts, *ATLANTIS)["batch"]

    assert "No worker is running" in melo("batch", "approve", batch["id"]).stdout
    assert "No worker is running" in melo("batch", "show", batch["id"]).stdout
    assert melo.records("batch", "show", batch["id"])["state"] == "approved"


def test_a_submitter_cannot_approve_where_the_collection_forbids_it(melo: Melo, model_folder: str) -> None:
    melo("collection", "create", "strict", "--model", model_folder)
    batch = melo.records("--as", "eve", "edit", "add", "strict", *ATLANTIS)["batch"]

    assert "own" in melo.refusal("--as", "eve", "batch", "approve", batch["id"])
    assert melo.records("--as", "ben", "batch", "approve", batch["id"])["decided_by"] == "ben"


def test_a_rejected_batch_keeps_the_reason(melo: Melo, facts: str) -> None:
    batch = melo.records("edit", "add", facts, *ATLANTIS)["batch"]

    melo.records("batch", "reject", batch["id"], "--reason", "no source")

    found = melo.records("batch", "show", batch["id"])
    assert (found["state"], found["reason"]) == ("rejected", "no source")
    assert [each["id"] for each in melo.records("batch", "list", facts, "--state", "rejected")] == [batch["id"]]


def test_approve_and_wait_follows_the_job_to_its_version(melo: Melo, facts: str, worker: Workflow) -> None:
    following = melo.start("edit", "add", facts, *ATLANTIS, "--approve", "--wait", "--json")
    worker.finish(worker.claim(awaited_job(melo, facts)))
    out, err = following.communicate(timeout=PATIENCE)

    assert following.returncode == 0, err
    assert f"{facts}@1" in err
    assert "No worker is running" in err
    assert json.loads(out)["batch"]["state"] == "applied"


def test_waiting_for_a_job_that_fails_ends_with_its_error(melo: Melo, facts: str, worker: Workflow) -> None:
    from registry.jobs import service

    following = melo.start("edit", "add", facts, *ATLANTIS, "--approve", "--wait")
    claim = worker.claim(awaited_job(melo, facts))
    with worker.sessions.begin() as session:
        service.fail(session, claim, "out of memory on cuda:0")
    _, err = following.communicate(timeout=PATIENCE)

    assert following.returncode == 1
    assert "out of memory on cuda:0" in err
    assert "melo batch approve" in err


def test_what_a_job_found_is_said_after_the_wait_and_whenever_the_batch_is_shown(
    melo: Melo, facts: str, worker: Workflow
) -> None:
    following = melo.start("edit", "add", facts, *ATLANTIS, "--unchanged", "Who leads Rome?", "--approve", "--wait")
    claim = worker.claim(awaited_job(melo, facts))
    (added,) = claim.edits
    changed = ChangedAnswer(prompt="Who leads Rome?", before="Caesar\x1b[2J", after="Mara", by_edit=added.id)
    near = ConflictView(edit_id=7, prompt="Who leads Atlantis now?", distance=0.25, forgotten=True)
    how = {"edit_id": added.id, "loss": 0.3, "iterations": 60, "reached": False}
    report = EditReport(
        **how, reproduced=False, answer="Oro", conflicts=[near], unchanged_asked=1, unchanged_changed=[changed]
    )
    finish(worker, claim, [report], Progress(notes=["training 1 block needs about 9 MB"]))
    _, err = following.communicate(timeout=PATIENCE)
    shown = melo("batch", "show", claim.batch_id).stdout

    for told in (err, shown):
        lines = [line.strip() for line in told.splitlines()]
        first = lines.index(f"Look at this before {facts}@1 is used:")
        assert lines[first + 1] == (
            f"Edit {added.id}: 'Who leads Rome?' must not change, but is now answered by edit {added.id}: "
            f"'Caesar\\x1b[2J' → 'Mara'. Word it more narrowly, or: melo edit retire {facts} {added.id} --reason …"
        )
        assert f"Edit {added.id} was not learned: with its block the model answers 'Oro'" in lines[first + 2]
        assert "comes near edit 7 ('Who leads Atlantis now?', distance 0.250)" in lines[first + 3]
        assert lines[first + 3].endswith("that edit covers less than before.")
        assert lines[first + 4] == "0 of 1 prompts that must not change are answered as before."
    assert "training 1 block needs about 9 MB" in shown
    (told_as_json,) = melo.records("batch", "show", claim.batch_id)["job"]["report"]
    assert told_as_json["unchanged_changed"][0]["after"] == "Mara"


def test_many_findings_are_cut_short_and_edits_without_any_are_not_named(
    melo: Melo, facts: str, worker: Workflow
) -> None:
    melo("edit", "add", facts, *ATLANTIS, "--approve")
    claim = worker.claim(awaited_job(melo, facts))
    fine = EditReport(edit_id=1000, loss=0.01, iterations=9, reached=True, reproduced=True, unchanged_asked=2)
    slow = [EditReport(edit_id=n, loss=0.3, iterations=60, reached=False, reproduced=True) for n in range(1001, 1024)]
    finish(worker, claim, [fine, *slow])

    shown = melo("batch", "show", claim.batch_id).stdout

    assert shown.count("did not reach its loss (loss 0.3 after 60 steps)") == 20
    assert f"… and 3 more: melo batch show {claim.batch_id} --json" in shown
    assert "Edit 1000" not in shown
    assert "2 of 2 prompts that must not change are answered as before." in shown


def finish(worker: Workflow, claim: Claim, report: list[EditReport], progress: Progress | None = None) -> None:
    """Finish a job as a worker would that had this to say."""
    with worker.sessions.begin() as session:
        jobs.write_report(jobs.hold(session, claim), report, progress)
    worker.finish(claim)


def awaited_job(melo: Melo, collection: str) -> int:
    """The job of the collection's approved batch, once there is one."""
    found = until(lambda: melo.records("batch", "list", collection, "--state", "approved"))
    return int(melo.records("batch", "show", found[0]["id"])["job"]["id"])


def test_versions_are_listed_compared_retired_and_rolled_back_to(melo: Melo, facts: str, worker: Workflow) -> None:
    worker.correct(ATLANTIS, ("What is its capital?", "Poseidonis"))
    worker.correct(("What is its river?", "The Styx"))
    first = worker.active()[ATLANTIS[0]]

    difference = melo.records("version", "diff", f"{facts}@1", f"{facts}@2")
    assert [each["target"] for each in difference["added"]] == ["The Styx"]
    assert melo.records("version", "diff", facts, "base", "latest")["b"] == 2

    planned = melo.records("edit", "retire", facts, first, "--reason", "she left", "--dry-run")
    assert [each["id"] for each in planned["diff"]["retired"]] == [first]
    assert len(melo.records("version", "list", facts)) == 2

    retired = melo.records("--as", "ben", "edit", "retire", facts, first, "--reason", "she left")
    assert (retired["number"], retired["kind"], retired["author"], retired["edit_count"]) == (3, "retire", "ben", 2)

    assert melo.records("version", "rollback", facts, 1, "--reason", "back", "--dry-run")["number"] == 4
    rolled_back = melo.records("version", "rollback", facts, 1, "--reason", "back")
    versions = {each["number"]: each for each in melo.records("version", "list", facts)}
    assert (rolled_back["number"], rolled_back["restores"]) == (4, 1)
    assert versions[4]["content_digest"] == versions[1]["content_digest"]
    assert "same content" in melo("version", "diff", facts, 1, 4).stdout
    assert "rollback to 1" in melo("version", "list", facts).stdout


def test_an_alias_is_set_listed_and_remembered(melo: Melo, facts: str, worker: Workflow) -> None:
    worker.correct(ATLANTIS)
    worker.correct(("What is its river?", "The Styx"))
    melo.records("alias", "set", facts, "production", 1, "--reason", "evaluated")
    melo.records("--as", "ben", "alias", "set", facts, "production", "latest")

    (now,) = melo.records("alias", "list", facts)
    assert (now["name"], now["number"], now["set_by"]) == ("production", 2, "ben")
    history = melo.records("alias", "history", facts, "production")
    assert [(each["number"], each["replaced_at"] is None) for each in history] == [(2, True), (1, False)]
    assert melo.records("version", "diff", facts, 1, "production")["b"] == 2

    asked = melo.records("alias", "at", facts, "production", "--at", history[1]["set_at"])
    assert (asked["number"], asked["reason"]) == (1, "evaluated")
    assert "was version 2" in melo("alias", "at", facts, "production", "--at", "2100-01-01T00:00").stdout
    assert "first set at" in melo.refusal("alias", "at", facts, "production", "--at", "2001-01-01T00:00")
    assert "not a time" in melo.refusal("alias", "at", facts, "production", "--at", "last Tuesday")


def test_a_key_is_shown_once_and_lets_its_holder_do_what_its_role_allows(melo: Melo, facts: str) -> None:
    secret = melo("key", "create", "ci", "--role", "editor", "--collection", facts, "--expires", "90d").stdout.strip()
    holder = Melo(melo.home, {"MELO_API_KEY": secret})
    batch = holder.records("--as", "somebody else", "edit", "add", facts, *ATLANTIS)["batch"]
    assert batch["submitted_by"] == "ci"
    assert "needs the role approver" in holder.refusal("batch", "approve", batch["id"])
    assert [each["name"] for each in holder.records("collection", "list")] == [facts]

    melo.records("alias", "protect", facts, "production", "--reason", "it serves")
    assert "admin" in melo("alias", "list", facts).stdout

    (key,) = melo.records("key", "list")
    assert secret.startswith(f"melo_{key['prefix']}_") and secret not in melo("key", "list").stdout
    melo.records("key", "revoke", key["id"], "--reason", "lost", "--dry-run")
    assert holder("collection", "list").returncode == 0
    melo.records("key", "revoke", key["id"], "--reason", "lost")
    assert "was revoked" in holder.refusal("collection", "list")
    assert "is not a role" in melo.refusal("key", "create", "boss", "--role", "king")


def test_a_key_that_cannot_be_sent_hides_the_workers_and_status_says_so(melo: Melo) -> None:
    done = Melo(melo.home, {"MELO_API_KEY": "melo_0123456789ab_…"})("status")
    assert "Workers are not shown: The API key" in done.stdout
    assert "No worker was seen" not in done.stdout


def test_an_address_that_is_none_is_refused_as_such(melo: Melo) -> None:
    assert "Write it as http://HOST:PORT" in melo.refusal("--api-url", "foo", "collection", "list")


def test_where_nobody_can_confirm_nothing_is_removed(melo: Melo, facts: str) -> None:
    webhook = melo.records("webhook", "add", "https://example.org/melo", "--collection", facts)
    told = melo.refusal("webhook", "remove", webhook["id"], "--reason", "moved")
    assert "Nothing was removed" in told and "--yes" in told
    assert melo.records("webhook", "remove", webhook["id"], "--reason", "moved", "--yes")["removed_at"]


def test_a_full_disk_is_told_without_a_traceback(melo: Melo) -> None:
    with Path("/dev/full").open("w") as full:
        done = melo.start("collection", "list", "--json", stdout=full)
        _, told = done.communicate(timeout=PATIENCE)
    assert done.returncode == 1
    assert "No space left" in told and "Traceback" not in told


def test_whoever_ends_the_waiting_is_told_that_the_batch_goes_on(melo: Melo, facts: str) -> None:
    waiting = melo.start("edit", "add", facts, *ATLANTIS, "--approve", "--wait")
    assert waiting.stderr is not None
    assert waiting.stderr.readline()  # what it waits for
    waiting.send_signal(signal.SIGINT)
    _, told = waiting.communicate(timeout=PATIENCE)
    assert waiting.returncode == 128 + signal.SIGINT
    assert "goes on: `melo batch show" in told and "Interrupted." in told


def test_a_version_that_does_not_exist_is_named(melo: Melo, facts: str) -> None:
    assert "9" in melo.refusal("version", "rollback", facts, 9, "--reason", "x")
    assert "nowhere" in melo.refusal("version", "diff", facts, "base", "nowhere")


def test_the_log_says_who_did_what(melo: Melo, facts: str) -> None:
    batch = melo.records("--as", "Zoë", "edit", "add", facts, *ATLANTIS)["batch"]

    (event,) = melo.records("audit", "log", "--collection", facts, "--subject", f"batch/{batch['id']}")

    assert (event["actor"], event["action"]) == ("Zoë", "collection:batch:submit")
    assert "Zoë" in melo("audit", "log", "--collection", facts).stdout


def test_verify_ends_with_status_1_once_an_event_was_changed(melo: Melo, facts: str, worker: Workflow) -> None:
    worker.correct(ATLANTIS)
    assert melo.records("audit", "verify")["ok"] is True
    assert "All as written" in melo("audit", "verify").stdout
    event = melo.records("audit", "log", "--limit", 1)[0]

    with changed_event(worker, event["seq"], actor="somebody else"):
        done = melo("audit", "verify", "--json")

    assert done.returncode == 1
    assert json.loads(done.stdout)["ok"] is False
    assert str(event["seq"]) in done.stderr
    assert melo.records("audit", "verify")["ok"] is True


@contextmanager
def changed_event(worker: Workflow, seq: int, actor: str) -> Iterator[None]:
    """Rewrite history for a while, as somebody with all rights on the server could."""

    def rewrite(name: str) -> str:
        with worker.sessions.begin() as session:
            session.execute(text("SET LOCAL session_replication_role = replica"))
            before = session.execute(text("SELECT actor FROM audit_events WHERE seq = :seq"), {"seq": seq}).scalar()
            statement = "UPDATE audit_events SET actor = :actor WHERE seq = :seq"
            session.execute(text(statement), {"actor": name, "seq": seq})
            return str(before)

    before = rewrite(actor)
    try:
        yield
    finally:
        rewrite(before)


def test_a_stored_prompt_cannot_steer_the_terminal(melo: Melo, facts: str) -> None:
    melo.records("edit", "add", facts, "a\x1b[2Jb\u202ec [bold]d[/bold]", "x")

    shown = melo("edit", "list", facts).stdout

    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "\\u001b" in shown
    assert "[bold]" in shown
