"""Commands and their groups: how one is added, with an example in its --help, --json, and the invocation it gets."""

from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from inspect import Parameter, signature
from typing import Annotated, Any

import typer

from cli.invocation import invocation

AS_JSON = Parameter(
    "as_json",
    Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[bool, typer.Option("--json", help="Print plain JSON and nothing else.")],
)


def example(command: str) -> str:
    """Return the last line of a --help; \\b keeps it from being wrapped, so that it can be copied."""
    return f"\b\nExample: {command}"


def add_group(app: typer.Typer, name: str, summary: str, shown: str) -> typer.Typer:
    """Add a group of commands. summary: its help; shown: the example in it."""
    group = typer.Typer(help=summary, epilog=example(shown), no_args_is_help=True)
    app.add_typer(group, name=name)
    return group


def add_command(group: typer.Typer, command: Callable[..., None], shown: str, *, has_json: bool = True) -> None:
    """Add a command, named as its function is.

    command: takes the Invocation, and then what typer reads from its signature; it prints its result with
    Invocation.emit. A parameter that is a dataclass stands for an option for each of its fields. shown: the example
    in its help. has_json: it has the option --json.
    """
    own = signature(command)
    call, *named = own.parameters.values()
    grouped: dict[str, Any] = {each.name: each.annotation for each in named if is_dataclass(each.annotation)}
    options = [option for each in named for option in _options(each)]

    @wraps(command)
    def run(**given: Any) -> None:
        found = invocation(given.pop("context"))
        found.as_json = given.pop(AS_JSON.name, False)
        for name, group in grouped.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        command(found, **given)

    context = call.replace(name="context", annotation=typer.Context)
    taken = [context, *options, *([AS_JSON] if has_json else [])]
    run.__signature__ = own.replace(parameters=taken)  # type: ignore[attr-defined]
    group.command(command.__name__.strip("_").replace("_", "-"), epilog=example(shown))(run)


def _options(parameter: Parameter) -> Iterator[Parameter]:
    """Yield the parameter, or one for each field of the dataclass that it is."""
    if not is_dataclass(parameter.annotation):
        yield parameter.replace(kind=Parameter.KEYWORD_ONLY)
        return
    for field in fields(parameter.annotation):
        default = Parameter.empty if field.default is MISSING else field.default
        yield Parameter(field.name, Parameter.KEYWORD_ONLY, default=default, annotation=field.type)
