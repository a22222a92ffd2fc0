"""The options of one call of `melo` that precede its command: who acts, and where the API and the folder are."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import typer
from rich.console import Console
from rich.text import Text

from cli.show import Screen, print_json

if TYPE_CHECKING:
    from embedded.state import StackState
    from registry.base.settings import Settings
    from registry.client import MeloClient

PIPED_WIDTH = 160


@dataclass
class Invocation:
    """What every command is called with, and prints its result with."""

    actor: str | None = None
    api_url: str | None = None
    as_json: bool = False
    out: Console = field(default_factory=lambda: console(sys.stdout))
    err: Console = field(default_factory=lambda: console(sys.stderr))

    @cached_property
    def settings(self) -> "Settings":
        from registry.base.settings import Settings

        return Settings()

    @property
    def home(self) -> Path:
        return Path(os.path.realpath(self.settings.home))  # unlike Path.resolve, it raises nothing

    @cached_property
    def stack(self) -> "StackState | None":
        """The stack that runs in MELO_HOME, or None."""
        from embedded import stack

        return stack.find(self.home)

    @property
    def named_api(self) -> str | None:
        """The API that the user names, by --api-url or MELO_API_URL."""
        if self.api_url is None and "api_url" in self.settings.model_fields_set:
            return self.settings.api_url
        return self.api_url

    @cached_property
    def client(self) -> "MeloClient":
        """Return a client of the API that the user names, else of MELO_HOME's, else of the default address."""
        from registry.client import MeloClient

        running = None if self.named_api else self.stack
        url = self.named_api or (running and running.api_url) or self.settings.api_url
        return MeloClient(url, self.key_for(url), self.actor or self.settings.actor)

    def key_for(self, url: str) -> str | None:
        """Return the key to send to an address: MELO_API_KEY, else MELO_HOME's.

        The latter is sent only to what this user runs on this machine. Raises UnusableKey.
        """
        from embedded.listeners import is_own
        from registry.access.operator import stored_key

        if self.settings.api_key:
            return self.settings.api_key.get_secret_value()
        stored = stored_key(self.home)
        return stored if stored and is_own(url) else None

    def close(self) -> None:
        if "client" in vars(self):
            self.client.close()

    def say(self, text: str | Text) -> None:
        """Print a line for people: nothing with --json."""
        if not self.as_json:
            self.out.print(text)

    def emit(self, value: Any, render: Callable[[], object] | None = None) -> None:
        """Print a command's result: as JSON with --json, else by `render`, unless all has been said."""
        if self.as_json:
            print_json(value)
        elif render is not None:
            render()

    @property
    def has_database(self) -> bool:
        """Whether a database is named, or runs in MELO_HOME."""
        return bool(self.settings.database_url or (self.stack and self.stack.database_url))

    def database_url(self) -> str:
        """Return the URL of the named database, else of MELO_HOME's. Raises CommandError where there is none."""
        from cli.errors import CommandError

        url = self.settings.database_url or (self.stack.database_url if self.stack else None)
        if not url:
            raise CommandError(
                "No database",
                f"Nothing runs in {self.home}, and MELO_DATABASE_URL is not set.",
                "Start the embedded database with `melo up`, or set MELO_DATABASE_URL.",
            )
        return url


def console(stream: TextIO) -> Console:
    """Make a console that prints texts as they are. In a pipe or a file, tables are not limited to 80 columns."""
    width, height = _size(stream)
    return Screen(file=stream, markup=False, emoji=False, highlight=False, soft_wrap=True, width=width, height=height)


def _size(stream: TextIO) -> tuple[int | None, int | None]:
    """Return a console's width and height; None where rich finds it, which takes a dumb terminal to be 80 wide."""
    if "COLUMNS" in os.environ:
        return None, None
    if not stream.isatty():
        return PIPED_WIDTH, None
    if os.environ.get("TERM", "").lower() in ("dumb", "unknown"):
        width, height = os.get_terminal_size(stream.fileno())
        return (width, height or 24) if width else (None, None)
    return None, None


def invocation(context: typer.Context) -> Invocation:
    found = context.find_object(Invocation)
    if found is None:
        raise RuntimeError("a command of melo was called without melo's own callback")
    return found


def use_home(home: Path | None) -> None:
    """Set MELO_HOME to --home, also for the processes that this one starts."""
    if home is not None:
        os.environ["MELO_HOME"] = os.path.abspath(os.path.expanduser(home))
