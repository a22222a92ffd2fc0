"""What runs in a MELO_HOME, as a file that every command can read."""

import json
import os
import tempfile
import time
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from embedded.errors import UnusableHome
from embedded.processes import ProcessIdentity

EXIT_LOCKED = 3  # the supervisor's exit status where another one holds the MELO_HOME


class Phase(StrEnum):
    STARTING = "starting"  # the servers come up one after the other
    READY = "ready"  # everything answers
    STOPPING = "stopping"  # asked to end; processes end one after the other
    FAILED = "failed"  # the start failed; `error` says why


class Health(StrEnum):
    STARTING = "starting"  # runs, and has not yet answered
    READY = "ready"  # has answered
    RESTARTING = "restarting"  # ended by itself; started again after a pause
    STOPPED = "stopped"  # ended because it was asked to


class ProcessRecord(BaseModel):
    """One process of the stack."""

    name: str
    identity: ProcessIdentity | None
    health: Health
    log: Path
    restarts: int = 0
    last_exit: int | None = None  # exit status of its last unasked end; negative: a signal's number


class StackState(BaseModel):
    """The stack of one MELO_HOME, written by its supervisor alone. Holds the broker's password."""

    supervisor: ProcessIdentity
    phase: Phase = Phase.STARTING
    doing: str = ""  # what the start is at, for people
    error: str = ""
    remedy: str = ""
    notes: list[str] = Field(default_factory=list)  # what the user should know, such as a part left out
    started_at: float = Field(default_factory=time.time)
    api_url: str | None = None
    database_url: str | None = None
    redis_url: str | None = None
    schema_revision: str | None = None
    processes: list[ProcessRecord] = Field(default_factory=list)

    @property
    def is_alive(self) -> bool:
        return self.supervisor.process() is not None


def prepare(home: Path) -> Path:
    """The folder, made if it is missing, open to its owner alone.

    As root the database runs as another user, who must be able to pass through (but not to list) it.
    """
    home = home.expanduser().resolve()
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if home.stat().st_uid == os.geteuid():
            home.chmod(0o711 if os.geteuid() == 0 else 0o700)
        tempfile.TemporaryFile(dir=home).close()  # a name of its own: another start may be trying it too
    except OSError as error:
        raise UnusableHome(
            f"The folder {home} cannot be made or written: {error.strerror}.",
            "Set MELO_HOME to a folder of your own.",
        ) from error
    return home


def read(home: Path) -> StackState | None:
    """The last written state, None if there is none. The supervisor may be gone: see `is_alive`."""
    path = state_file(home)
    try:
        return StackState.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise UnusableHome(
            f"{path} belongs to another user.", "Run as that user, or set MELO_HOME to a folder of your own."
        ) from error
    except ValidationError:
        return None  # cut off by a power loss: nothing of it can be trusted


def write(home: Path, state: StackState) -> None:
    """Replace the file in one step, so that a reader never sees half of it."""
    draft = state_file(home).with_suffix(".new")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        json.dump(state.model_dump(mode="json"), stream, indent=1)
    draft.replace(state_file(home))


def state_file(home: Path) -> Path:
    return home / "state.json"


def lock_file(home: Path) -> Path:
    return home / "lock"


def log_file(home: Path, name: str) -> Path:
    return home / "logs" / f"{name}.log"
