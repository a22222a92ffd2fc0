"""Compressed files: the one file that is in them."""

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from cli.files.content import AS_CSV, MOST_BYTES, any_of, too_large, unreadable

OPENERS: tuple[tuple[bytes, str, Callable[..., Any]], ...] = (
    (b"\x1f\x8b", "gzip", gzip.open),
    (b"BZh", "bzip2", bz2.open),
    (b"\xfd7zXZ", "xz", lzma.open),
)
ZIP = b"PK\x03\x04"
# Archives that are files of other programs, by a part that they have.
DOCUMENTS = (
    ("content.xml", "a spreadsheet of another kind (OpenDocument)"),
    ("xl/workbook.bin", "an Excel file of the binary kind (.xlsb)"),
    ("word/document.xml", "a Word document"),
    ("Index/Document.iwa", "a file of Apple Numbers or Pages"),
)


def unpacked(path: Path, content: bytes) -> tuple[bytes, str]:
    """Return the content of a compressed file, and how it was packed; of another, what it is. Raises CommandError."""
    for start, kind, opener in OPENERS:
        if content.startswith(start):
            with opener(io.BytesIO(content)) as stream:
                return _read(path, stream, kind), kind
    if content.startswith(ZIP):
        return _only_part(path, content)
    return content, ""


def _only_part(path: Path, content: bytes) -> tuple[bytes, str]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = [part.filename for part in archive.infolist() if not part.is_dir()]
            if "xl/workbook.xml" in names:
                return content, ""
            for part, what in DOCUMENTS:
                if part in names:
                    raise unreadable(path, f"it is {what}", AS_CSV)
            names = [name for name in names if not name.startswith("__MACOSX/")]
            if len(names) != 1:
                raise unreadable(path, f"it is a ZIP archive with {any_of(names) or 'nothing'}", "Unpack it.")
            with archive.open(names[0]) as stream:
                return _read(path, stream, "ZIP"), f"ZIP, {names[0]}"
    except zipfile.BadZipFile as error:
        raise unreadable(path, f"it is an incomplete archive: {error}", AS_CSV) from None
    except RuntimeError:
        raise unreadable(path, "it is a ZIP archive with a password", "Unpack it.") from None


def _read(path: Path, stream: IO[bytes], kind: str) -> bytes:
    try:
        content = stream.read(MOST_BYTES + 1)
    except (OSError, EOFError, lzma.LZMAError, zlib.error, zipfile.BadZipFile, NotImplementedError) as error:
        raise unreadable(path, f"it cannot be unpacked ({kind}): {error}", "Write or download it again.") from None
    if len(content) > MOST_BYTES:
        raise too_large(path, f"unpacks to more than {MOST_BYTES // 2**20} MiB")
    return content
