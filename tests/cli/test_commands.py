"""Commands as such: their help, the names that messages give them, and how they refuse."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command
from typer.testing import CliRunner

from cli.main import make_app
from tests.cli.program import Melo
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]
# In back quotes, after a colon or in brackets.
NAMED = re.compile(r"`melo ([^`]+)`|: melo ([a-z].*?)(?:[.;)]|$)|\(melo ([^)]+)\)")


def test_every_command_shows_an_example() -> None:
    app = make_app()
    commands = [([], get_command(app))]
    for path, command in commands:
        shown = CliRunner().invoke(app, [*path, "--help"], prog_name="melo")
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

    assert "needs: pip install 'melo-registry[worker]'" in melo.run("elsewhere", "--help").stdout
    refused = melo.run("elsewhere")
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert "absent_package" in refused.stderr


def test_without_a_registry_every_command_says_how_to_start_one(tmp_path: Path) -> None:
    melo = Melo(tmp_path / "home", {"MELO_API_URL": "http://127.0.0.1:1"})

    for command in (["collection", "list"], ["batch", "show", "1"], ["audit", "verify"], ["status"]):
        refusal = melo.refusal(*command)
        assert "does not answer at http://127.0.0.1:1" in refusal
        assert "melo up" in refusal


def test_usage_errors_end_with_status_2(melo: Melo) -> None:
    versions = (["version", "rollback", "facts", "1"], ["version", "diff", "a@1", "b@2"], ["version", "diff", "a"])
    for wrong in (*versions, ["batch", "show", "x"], ["??"]):
        done = melo(*wrong)
        assert done.returncode == 2, wrong
        assert "Traceback" not in done.stderr


def test_a_setting_that_is_not_valid_is_named(melo: Melo) -> None:
    wrong = Melo(melo.home, {"MELO_LEASE_SECONDS": "soon"})

    assert "lease_seconds" in wrong.refusal("collection", "list")


def test_an_address_that_is_none_is_refused_as_such(melo: Melo) -> None:
    assert "Write it as http://HOST:PORT" in melo.refusal("--api-url", "foo", "collection", "list")


def test_a_full_disk_is_told_without_a_traceback(melo: Melo) -> None:
    with Path("/dev/full").open("w") as full:
        done = melo.start("collection", "list", "--json", stdout=full)
        _, told = done.communicate(timeout=PATIENCE)
    assert done.returncode == 1
    assert "No space left" in told and "Traceback" not in told
