"""Write files that appear under their names only when they are whole."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def new_file(path: Path, mode: int = 0o666, *, replace: bool = False) -> Iterator[BinaryIO]:
    """Open a new file, which gets its name at the end of the block, once it is on the disk.

    After an error, and if the program is ended, nothing has that name, or what had it before. mode: its permissions,
    less the umask. replace: whether it may replace a file. Raises FileExistsError, and OSError if it cannot be written.
    """
    if not replace and path.exists():
        raise FileExistsError(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)
