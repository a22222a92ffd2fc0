"""The program `melo`: its global options, its groups of commands, and its error messages."""

import os
import signal
import sys
from importlib.metadata import EntryPoint, entry_points, version
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from cli import (
    aliases,
    answers,
    ask,
    audit,
    backup,
    batches,
    chat,
    collections,
    edits,
    feedback,
    guards,
    jobs,
    keys,
    operation,
    versions,
    webhooks,
)
from cli.commands import example
from cli.errors import NEEDS_SOURCE, NEEDS_WORKER, CommandError, show_error
from cli.invocation import Invocation, console, use_home
from registry.base.errors import UserError, first_line, is_disk_full

INTERRUPTED = 128 + signal.SIGINT

NOT_INSTALLED = "benchmarks"  # a package of the checkout that is in no wheel
WORKER_MODULES = {"torch", "transformers", "accelerate", "safetensors"}


def make_app() -> typer.Typer:
    """Make the application with its own commands, and with those of the installed packages."""
    app = typer.Typer(
        name="melo",
        help="Correct what a language model says: submit, approve, apply, compare, undo.",
        epilog=example("melo up --detach && melo status"),
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
    )

    @app.callback()
    def melo(
        context: typer.Context,
        actor: Annotated[
            str | None, typer.Option("--as", metavar="NAME", help="Who acts, for the record. Default: you.")
        ] = None,
        api_url: Annotated[
            str | None,
            typer.Option("--api-url", metavar="URL", help="The API. Default: the one `melo up` started."),
        ] = None,
        home: Annotated[
            Path | None,
            typer.Option("--home", help="Folder of the embedded servers. Default: MELO_HOME, ~/.melo."),
        ] = None,
        show_version: Annotated[
            bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
        ] = False,
    ) -> None:
        use_home(home)
        call = context.obj = Invocation(actor=actor, api_url=api_url)
        context.call_on_close(call.close)

    groups = (
        operation, collections, edits, guards, batches, jobs, versions, aliases, ask, chat, answers, feedback, audit,
        keys, backup, webhooks,
    )  # fmt: skip
    for group in groups:
        group.register(app)
    for entry in sorted(entry_points(group="melo.commands"), key=lambda entry: entry.name):
        _register(app, entry)
    return app


def main() -> None:
    """Run `melo`. Every expected failure is shown as title, detail and remedy, and ends with status 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # no character of a text may end the program
            stream.reconfigure(errors="backslashreplace")
    err = console(sys.stderr)
    try:
        make_app()(prog_name="melo")
    except KeyboardInterrupt:  # before a command began; typer turns a later one into an exit
        err.print("Interrupted.", style="yellow")
        sys.exit(INTERRUPTED)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            err.print("Interrupted.", style="yellow")
        raise
    except BrokenPipeError:
        _say_no_more()
        sys.exit(1)
    except Exception as error:
        shown = _shown(error)
        if shown is None:
            raise
        show_error(err, shown)
        if isinstance(error, OSError):
            _say_no_more()
        sys.exit(1)


def _say_no_more() -> None:
    """Redirect the flush at exit to nowhere: the reader of the output is gone, or its disk is full."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _shown(error: Exception) -> UserError | None:
    """Return the error to show; None for an error of this program's own, whose traceback is needed."""
    if isinstance(error, UserError):
        return error
    if type(error).__module__.startswith(("sqlalchemy.exc", "psycopg")):
        from registry.base.database_errors import explained, is_named

        return explained(error) if is_named(error) else None
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] in WORKER_MODULES:
        return CommandError("Not installed", f"This command needs the package {error.name}.", f"Run: {NEEDS_WORKER}")
    if type(error).__module__ == "pydantic_core._pydantic_core" and type(error).__name__ == "ValidationError":
        return CommandError("A setting is not valid", str(error), "Correct the MELO_ variable that it names.")
    if is_disk_full(error):
        where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
        return CommandError("The disk is full", f"{first_line(error)}{where}.", "Free some space, and try again.")
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return CommandError("A file cannot be used", f"{error.filename}: {error.strerror}.")
    return None


def _register(app: typer.Typer, entry: EntryPoint) -> None:
    """Let another package add its commands; one that cannot be imported says what it needs."""
    try:
        entry.load()(app)
    except ModuleNotFoundError as error:
        missing = error.name or str(error)
        needs = NEEDS_SOURCE if missing.partition(".")[0] == NOT_INSTALLED else NEEDS_WORKER
        whatever = {"allow_extra_args": True, "ignore_unknown_options": True}  # accept whatever else was typed

        @app.command(entry.name, help=f"(needs: {needs})", epilog=example(needs), context_settings=whatever)
        def unavailable() -> None:
            raise CommandError("Not installed", f"This needs the package {missing}.", f"Run: {needs}")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"melo {version('melo-registry')}")
        raise typer.Exit
