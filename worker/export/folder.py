"""A folder that is written whole or not at all, with the SHA-256 of each of its files."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cli.errors import CommandError
from registry.base.digests import sha256_hex

SUMS = "SHA256SUMS"


@dataclass
class NewFolder:
    """A folder that is being written."""

    path: Path
    size: int = 0  # bytes
    sums: dict[str, str] = field(default_factory=dict)  # SHA-256 by name

    def write(self, name: str, content: bytes) -> None:
        """Write a file. name: relative to the folder, with slashes."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        self.sums[name] = sha256_hex(content)
        self.size += len(content)


@contextmanager
def new_folder(target: Path) -> Iterator[NewFolder]:
    """Yield a folder that gets its name when the context ends without an error; until then it lies beside it.

    Raises CommandError where the target holds something, or cannot be written.
    """
    target = target.expanduser().resolve()
    require_empty(target)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
            folder = NewFolder(Path(scratch) / target.name)
            folder.path.mkdir()
            yield folder
            sums = "".join(f"{digest}  {name}\n" for name, digest in sorted(folder.sums.items()))
            folder.write(SUMS, sums.encode())
            folder.path.rename(target)  # replaces an empty folder
    except OSError as error:
        raise CommandError("The folder cannot be written", f"{target}: {error.strerror or error}.") from None


def require_empty(target: Path) -> None:
    """Raise CommandError where the target is a file, or a folder that holds something."""
    target = target.expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CommandError(
            "The folder is not empty", f"{target} holds something, which was not overwritten.", "Name another one."
        )
