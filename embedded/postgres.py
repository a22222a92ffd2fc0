"""PostgreSQL with pgvector as a child process: its data folder, its command line, its address."""

import hashlib
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psutil

from embedded import programs
from embedded.errors import StartFailed, UnusableHome
from embedded.processes import Account, ProcessIdentity

OWNER = "postgres"  # the database role, not a system user
DATABASE = "melo"
SYSTEM_USER = "pgserver"
# The log must not hold what the record's rows do: it is not erased with them. A client's errors, which quote values, go
# to the client alone; statements, their parameters, and the rows that a constraint refused are not written.
LOGGED = {
    "log_min_messages": "log",  # above `error`
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_statement": "none",
    "log_min_duration_statement": "-1",
    "log_min_duration_sample": "-1",
    "log_transaction_sample_rate": "0",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
}
LONGEST_SOCKET_PATH = 103  # bytes: macOS allows 103 and Linux 107
SOCKET_NAME = ".s.PGSQL.5432"


@dataclass(frozen=True)
class Postgres:
    """A server that listens only on a Unix socket, in a folder that only its owner can enter."""

    folder: Path
    sockets: Path
    account: Account | None

    @property
    def command(self) -> list[str]:
        settings = {"listen_addresses": "", "unix_socket_directories": _quoted(self.sockets)} | LOGGED
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(programs.postgres_folder() / "postgres"), "-D", str(self.folder), *options]

    def url(self, database: str = DATABASE) -> str:
        return f"postgresql://{OWNER}@/{database}?host={quote(str(self.sockets), safe='/')}"


def prepare(home: Path) -> Postgres:
    """Create the data folder if it is missing, and determine which user runs the server.

    PostgreSQL refuses to run as root. In that case the folder's owner runs it or, for a new folder, the system user
    `pgserver`, which is created if it is missing.
    """
    folder = home / "pgdata"
    account = _account(folder) if os.geteuid() == 0 else None
    if account is not None:
        _let_through(folder)
        _let_through(programs.postgres_folder() / "postgres")
    if not folder.exists():
        _initialise(folder, account)
    _require_version(folder)
    sockets = _socket_folder(folder, account)
    _forget_dead_server(folder, sockets)
    return Postgres(folder=folder, sockets=sockets, account=account)


def processes_in(home: Path) -> list[ProcessIdentity]:
    """Return the processes of the server that runs in the data folder, whoever started it, oldest first.

    After the first process is killed, its children hold the folder until they notice.
    """
    folder = str(home / "pgdata")
    found = []
    for process in psutil.process_iter():
        try:
            if process.name() == "postgres" and process.cwd() == folder:
                found.append(ProcessIdentity.of(process.pid))
        except psutil.Error:
            continue  # it has ended, or is another user's
    return sorted(found, key=lambda identity: identity.started)


def _account(folder: Path) -> Account:
    if folder.exists() and folder.stat().st_uid != 0:
        owner = folder.stat()
        return Account(uid=owner.st_uid, gid=owner.st_gid)
    try:
        entry = pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        try:
            subprocess.run(["useradd", "--system", SYSTEM_USER], check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise StartFailed(
                f"PostgreSQL does not run as root, and the system user {SYSTEM_USER} could not be created: "
                f"{getattr(error, 'stderr', '') or error}",
                "Run melo as an ordinary user, or set MELO_DATABASE_URL to a server of your own.",
            ) from error
        entry = pwd.getpwnam(SYSTEM_USER)
    return Account(uid=entry.pw_uid, gid=entry.pw_gid)


def _let_through(path: Path) -> None:
    """Let other users pass through (but not list) the folders above `path`, which the server's user needs."""
    for folder in path.parents:
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            folder.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)


def _initialise(folder: Path, account: Account | None) -> None:
    """Create the data folder next to its final location and move it there, so that a failed start leaves nothing."""
    draft = folder.with_name("pgdata.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    if account is not None:
        os.chown(draft, account.uid, account.gid)
    made = subprocess.run(
        [
            str(programs.postgres_folder() / "initdb"),
            f"--pgdata={draft}",
            f"--username={OWNER}",
            "--auth=trust",  # the socket's folder is the protection: nobody else can enter it
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",  # the same collation on every machine
            "--builtin-locale=C.UTF-8",
            "--data-checksums",
        ],
        capture_output=True,
        text=True,
        cwd="/",
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )
    if made.returncode:
        shutil.rmtree(draft, ignore_errors=True)
        raise StartFailed(
            f"initdb could not create the database in {folder}: {made.stderr.strip()}",
            "Fix what it names, such as space or permissions, and start again.",
        )
    draft.rename(folder)


def _require_version(folder: Path) -> None:
    try:
        version = (folder / "PG_VERSION").read_text().strip()
    except OSError as error:
        raise UnusableHome(
            f"{folder} cannot be read as a PostgreSQL data folder: {error.strerror}.",
            "Run as the user who owns it, or set MELO_HOME to another folder.",
        ) from error
    if version != str(programs.POSTGRES_MAJOR):
        raise UnusableHome(
            f"{folder} was made by PostgreSQL {version}; this melo runs {programs.POSTGRES_MAJOR}.",
            "Start it with the melo that made it, or upgrade the folder with pg_upgrade.",
        )


def _forget_dead_server(folder: Path, sockets: Path) -> None:
    """Remove the lock files of a killed server that is still in the process table.

    PostgreSQL removes stale lock files itself but mistakes a zombie for a live server, and in a container without an
    init process a zombie stays forever. Nothing of the old server is left to protect.
    """
    for lock in (folder / "postmaster.pid", sockets / f"{SOCKET_NAME}.lock"):
        try:
            if psutil.Process(int(lock.read_text().split()[0])).status() == psutil.STATUS_ZOMBIE:
                lock.unlink()
        except (OSError, ValueError, IndexError, psutil.Error):
            continue  # no such file, or no such process


def _socket_folder(folder: Path, account: Account | None) -> Path:
    """Return the data folder itself, or a private folder in the temporary folder if that path is too long."""
    if len(os.fsencode(folder / SOCKET_NAME)) <= LONGEST_SOCKET_PATH and "," not in str(folder):
        return folder
    owner = account.uid if account else os.geteuid()
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    short = Path(tempfile.gettempdir()) / f"melo-{owner}-{name}"
    if len(os.fsencode(short / SOCKET_NAME)) > LONGEST_SOCKET_PATH:
        short = Path("/tmp") / short.name
    short.mkdir(mode=0o700, exist_ok=True)
    if os.geteuid() == 0 and short.lstat().st_uid == 0:
        os.chown(short, owner, account.gid if account else -1, follow_symlinks=False)
    found = short.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or stat.S_IMODE(found.st_mode) != 0o700:
        raise UnusableHome(
            f"{short}, where the database's socket goes, belongs to another user.",
            "Set MELO_HOME to a shorter path, so that the socket fits into it.",
        )
    return short


def _quoted(path: Path) -> str:
    """Quote an entry: the setting is a comma-separated list, and a quoted entry may contain anything else."""
    return '"' + str(path).replace('"', '""') + '"'
