"""The registry's error texts as the command line shows them: in flags and commands, not in the API's fields."""

import ast
import re
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.main import get_command

import embedded.errors  # noqa: F401 (its errors are found as subclasses)
import registry.client.errors  # noqa: F401
from cli.errors import FIELD, IN_FILES, in_flags, problem_text, show_error
from cli.files.shapes import FIELDS
from cli.main import make_app
from melo_core.settings import MethodSettings
from registry.base.errors import DatabaseAway, RecordProblem, UserError

ROOT = Path(__file__).parents[2]
# What only a program that speaks HTTP itself can get to see: the client and the command line never send such requests.
HTTP_ALONE = {"registry/api/submission_body.py", "registry/api/pages.py", "registry/base/etags.py"}
HTTP_ALONE |= {"registry/api/openapi.py", "registry/api/idempotency/service.py"}
OF_HTTP = re.compile(
    r"(?<!--map )\b[a-z_]+=\S|/v\d|/docs|\b(?:query|body)\.[a-z]|endpoint|X-Melo|Authorization|If-Match"
)
# Keys of --method and --training; PostgreSQL's words; an encoding; fields of other tools' files.
NOT_FIELDS = {
    *MethodSettings.__dataclass_fields__,
    *("pg_upgrade", "max_connections", "pg_stat_activity"),
    *("shift_jis", "requested_rewrite", "target_new", "merge_and_unload"),
}


def kinds(of: type[UserError] = UserError) -> set[str]:
    return {of.__name__}.union(*(kinds(each) for each in of.__subclasses__()))


def filled(node: ast.AST) -> Iterator[str]:
    """The texts in an expression; what is filled in later is a 1."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(value.value if isinstance(value, ast.Constant) else "1" for value in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    else:
        for each in ast.iter_child_nodes(node):
            yield from filled(each)


def told(path: Path) -> Iterator[str]:
    """The texts that a module's errors, its problems with records and its remedies may consist of."""
    makers = kinds() | {RecordProblem.__name__, "problem"}
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in makers:
                yield from filled(node)
        elif isinstance(node, ast.Assign):
            names = [each.id for each in node.targets if isinstance(each, ast.Name)]
            if {"detail", "remedy"}.intersection(names):
                yield from filled(node.value)
            elif names and names[0].isupper():
                yield from (text for text in filled(node.value) if text.endswith("."))
        elif isinstance(node, ast.Return) and path.name == "remedies.py":
            yield from filled(node)


def details(path: Path) -> Iterator[str]:
    """What a module's errors say is wrong: it may quote what a user wrote, so nothing in it is rewritten."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in kinds() and node.args:
            yield from filled(node.args[0])


def texts() -> dict[str, str]:
    """Every text, and where it stands."""
    found = {}
    for package in ("registry", "embedded", "cli", "worker"):
        for path in sorted((ROOT / package).rglob("*.py")):
            where = str(path.relative_to(ROOT))
            if where not in HTTP_ALONE:
                found.update((text, where) for text in told(path) if " " in text)
    return found


def options() -> set[str]:
    """Every option of the program and of its commands."""
    commands = [get_command(make_app())]
    for each in commands:
        commands += getattr(each, "commands", {}).values()
    return {name for each in commands for param in each.params for name in (*param.opts, *param.secondary_opts)}


def test_a_field_that_an_error_names_is_an_option_of_the_program() -> None:
    found, known = texts(), options()

    fields = {name: where for text, where in found.items() for name, _ in FIELD.findall(text)}
    assert {"on_conflict", "skip_invalid", "replaces"} <= fields.keys()
    assert {name: where for name, where in fields.items() if "--" + name.replace("_", "-") not in known} == {}
    in_records = {name for text, where in found.items() if "edits/" in where for name, _ in FIELD.findall(text)}
    assert in_records & set(FIELDS) <= set(IN_FILES)


def test_no_error_shows_a_field_or_a_path_of_the_api() -> None:
    shown = {in_flags(text): where for text, where in texts().items()}

    assert len(shown) > 200
    assert {text: where for text, where in shown.items() if OF_HTTP.search(text)} == {}
    words = {word: text for text in shown for word in re.findall(r"(?<![\w.])[a-z]+_[a-z_]+\b(?!\()", text)}
    assert {word: text for word, text in words.items() if word not in NOT_FIELDS} == {}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("or submit with `on_conflict=skip`.", "or submit with --on-conflict skip."),
        ("submit with `skip_invalid` to store the others.", "submit with --skip-invalid to store the others."),
        ("Give one in `Authorization: Bearer KEY`.", "Give one in MELO_API_KEY."),
        ("`melo edit list` shows them.", "`melo edit list` shows them."),
    ],
)
def test_fields_and_headers_become_flags_and_variables(text: str, shown: str) -> None:
    assert in_flags(text) == shown


def test_a_detail_is_shown_as_it_is_but_for_where_a_field_stands() -> None:
    console = Console(file=StringIO(), width=200)
    show_error(console, UserError("body.reason: it is empty; query.limit: no `limit`.", "Give `reason=why`."))

    assert "reason: it is empty; limit: no `limit`.\nGive --reason why." in console.file.getvalue()
    assert [text for path in ROOT.glob("registry/**/*.py") for text in details(path) if FIELD.search(text)] == []


def test_a_detail_that_begins_with_its_title_is_said_once() -> None:
    console = Console(file=StringIO(), width=200)
    show_error(console, DatabaseAway("The database does not answer: Connection refused.", ""))

    assert console.file.getvalue().strip() == "The database does not answer: Connection refused."


def test_the_fields_of_a_files_records_keep_their_names() -> None:
    problem = {"detail": "It contradicts edit 5.", "remedy": "Give `replaces=5`, or submit with `on_conflict=skip`."}

    assert "Give --replaces 5, or submit with --on-conflict skip." in problem_text(problem).plain
    assert "Give `replaces=5`, or submit with --on-conflict skip." in problem_text({**problem, "line": 3}).plain
