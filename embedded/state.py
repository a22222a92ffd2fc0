"""The state of a MELO_HOME, as a file that every command can read."""

import json
import os
import tempfile
import time
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from embedded.errors import UnusableHome
from embedded.processes import ProcessIdentity

REMEDY = "Set MELO_HOME to a folder of your own."
EXIT_LOCKED = 3  # the supervisor's exit status if another supervisor holds the MELO_HOME


class Phase(StrEnum):
    STARTING = "starting"  # the servers are starting one after the other
    READY = "ready"  # everything answers
    STOPPING = "stopping"  # asked to stop; processes stop one after the other
    FAILED = "failed"  # the start failed; `error` says why


class Health(StrEnum):
    STARTING = "starting"  # is running but has not answered yet
    READY = "ready"  # has answered
    RESTARTING = "restarting"  # exited unexpectedly; started again after a pause
    STOPPED = "stopped"  # exited because it was asked to


class ProcessRecord(BaseModel):
    """One process of the stack."""

    name: str
    identity: ProcessIdentity | None
    health: Health
    log: Path
    restarts: int = 0
    last_exit: int | None = None  # exit status of its last unexpected exit; negative: a signal number


class UpSettings(BaseModel):
    """What `melo up` starts; kept in MELO_HOME for the next time."""

    worker: bool = True
    serve: bool = True
    port: int | None = None  # of the API; None: the first that is free


class StackState(BaseModel):
    """The stack of one MELO_HOME. Only its supervisor writes it. It contains the broker's password."""

    supervisor: ProcessIdentity
    phase: Phase = Phase.STARTING
    doing: str = ""  # the current step of the start, for people
    error: str = ""
    remedy: str = ""
    notes: list[str] = Field(default_factory=list)  # what the user should know, such as a part left out
    started_at: float = Field(default_factory=time.time)
    api_url: str | None = None
    serve_url: str | None = None  # where `melo serve` answers once there is a collection
    database_url: str | None = None
    redis_url: str | None = None
    schema_revision: str | None = None
    processes: list[ProcessRecord] = Field(default_factory=list)

    @property
    def is_alive(self) -> bool:
        return self.supervisor.process() is not None


def prepare(home: Path) -> Path:
    """Create the folder if it is missing, accessible only to its owner, and return it.

    When run as root, the database runs as another user, who must be able to pass through (but not list) the folder.
    """
    home = home.expanduser().resolve()
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if home.stat().st_uid == os.geteuid():
            home.chmod(0o711 if os.geteuid() == 0 else 0o700)
        tempfile.TemporaryFile(dir=home).close()  # a unique name: another start may be trying this too
    except OSError as error:
        raise unusable(home, error) from error
    return home


def unusable(home: Path, error: OSError) -> UnusableHome:
    """Return the error for a folder that cannot be used, and say what stands in its way."""
    if isinstance(error, FileExistsError | NotADirectoryError):
        blocking = next((each for each in (home, *home.parents) if each.exists() and not each.is_dir()), home)
        return UnusableHome(f"{blocking} is a file, not a folder.", REMEDY)
    if isinstance(error, PermissionError):
        return UnusableHome(f"{error.filename or home} belongs to another user, or may not be written.", REMEDY)
    return UnusableHome(f"The folder {home} cannot be used: {error.strerror}.", REMEDY)


def read(home: Path) -> StackState | None:
    """Return the last written state, or None if there is none. The supervisor may be gone: see `is_alive`."""
    path = state_file(home)
    try:
        return StackState.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unusable(home, error) from error
    except ValidationError:
        return None  # truncated by a power loss: none of it can be trusted


def write(home: Path, state: StackState) -> None:
    """Replace the file atomically, so that a reader never sees half of it."""
    draft = state_file(home).with_suffix(".new")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        json.dump(state.model_dump(mode="json"), stream, indent=1)
    draft.replace(state_file(home))


def remembered(home: Path) -> UpSettings:
    """Return the settings of the last `melo up`; the usual ones where there are none, or none that can be read."""
    try:
        return UpSettings.model_validate_json(settings_file(home).read_bytes())
    except FileNotFoundError:
        return UpSettings()
    except OSError as error:
        raise unusable(home, error) from error
    except ValidationError:
        return UpSettings()


def remember(home: Path, settings: UpSettings) -> None:
    """Keep settings for the next `melo up`."""
    draft = settings_file(home).with_suffix(".new")
    draft.write_text(settings.model_dump_json(indent=1))
    draft.replace(settings_file(home))


def settings_file(home: Path) -> Path:
    return home / "up.json"


def state_file(home: Path) -> Path:
    return home / "state.json"


def lock_file(home: Path) -> Path:
    return home / "lock"


def log_file(home: Path, name: str) -> Path:
    return home / "logs" / f"{name}.log"
