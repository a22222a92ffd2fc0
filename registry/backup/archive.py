"""The backup file: a ZIP with one COPY stream per table, and a manifest with the digest of each.

ZIP rather than tar: a member's length need not be known before it is written, so a table is streamed without being
stored twice. The manifest is written last, when every digest is known.
"""

import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from hashlib import sha256
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, cast
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile

from pydantic import BaseModel

from registry.audit.signing import Signer, is_signed, public_key, signed
from registry.audit.trust import Trust
from registry.base.errors import InvalidBackup, InvalidRequest
from registry.base.json_bounds import Bounds

FORMAT = "melo-backup/1"
MANIFEST = "manifest.json"
PART = 1 << 20  # bytes per read
_LARGEST_MANIFEST = 16 << 20  # bytes
_BOUNDS = Bounds(values=_LARGEST_MANIFEST)
_LARGEST_DIRECTORY = 1 << 20  # bytes; of ZIP's list of members, of which there are some tens
# COPY's text shrinks to between a tenth and a half, and a ZIP made to fill a disk to a thousandth.
_MOST_UNPACKED = 200  # times the file's size
_ALWAYS_UNPACKED = 64 << 20  # bytes, however small the file is


class Member(BaseModel):
    """The rows of a table, in COPY's text format."""

    table: str
    columns: list[str]
    rows: int
    bytes: int
    sha256: str

    @property
    def name(self) -> str:
        return f"tables/{self.table}.copy"


class SequenceState(BaseModel):
    name: str
    last_value: int
    is_called: bool


class Manifest(BaseModel):
    """The table of contents. Tables are ordered so that each refers only to those before it."""

    format: str = FORMAT
    revision: str
    registry: str
    time: str
    head_seq: int
    head_hash: str
    members: list[Member]
    sequences: list[SequenceState]
    public_key: str | None = None
    signature: str | None = None

    def content(self) -> dict[str, Any]:
        """Return the whole manifest: what the signature covers, and the public key and signature if there are any."""
        return self.model_dump(exclude_none=True)

    def signer_in_words(self, trust: Trust | None) -> str:
        """Return who vouches for its content."""
        if self.public_key is None:
            return "The file is not signed: whoever had it may have changed it together with its digests."
        if trust is None:
            return f"The file is signed by {self.public_key}: compare that with your key (--public-key)."
        return f"The file is signed by {self.public_key}, a key that is known here."


class ArchiveWriter:
    """Writes the members first, then the manifest on `close`."""

    def __init__(self, stream: IO[bytes]) -> None:
        # Level 1 already shrinks COPY's text to a third; higher levels cost more than they save.
        self._zip = ZipFile(stream, "w", ZIP_DEFLATED, compresslevel=1)

    def add(self, table: str, columns: list[str], parts: Generator[bytes], watch: Callable[[int], None]) -> Member:
        """Add a table's rows, and close them, also where they cannot be written.

        watch is called with the number of rows that each part completes: COPY writes a line feed after each, and
        nowhere else.
        """
        member = Member(table=table, columns=columns, rows=0, bytes=0, sha256="")
        digest = sha256()
        with closing(parts), self._zip.open(member.name, "w", force_zip64=True) as out:
            for part in parts:
                out.write(part)
                digest.update(part)
                rows = part.count(b"\n")
                member.rows += rows
                member.bytes += len(part)
                watch(rows)
        member.sha256 = digest.hexdigest()
        return member

    def abandon(self) -> None:
        """End it unfinished, after an error: left open, it would be finished when it is collected as garbage."""
        with suppress(OSError, ValueError):
            self._zip.close()

    def close(self, manifest: Manifest, key: Signer | None) -> Manifest:
        if key is not None:
            manifest = Manifest(**signed(key, manifest.content()))
        self._zip.writestr(MANIFEST, manifest.model_dump_json(indent=1, exclude_none=True))
        self._zip.close()
        return manifest


class _InPieces(BufferedReader):
    """A file of which ZIP's list of members, which `ZipFile` reads in one piece, must not be larger than it can be."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > _LARGEST_DIRECTORY:
            raise BadZipFile("a part of it is too large")
        return super().read(size)


# RuntimeError: a member is encrypted, or JSON too deep.
_UNREADABLE = (BadZipFile, zlib.error, KeyError, EOFError, OSError, ValueError, TypeError, RuntimeError)


class Archive:
    """A backup file, opened for reading. Raises InvalidBackup if it is not one, or was altered."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if path.exists() and not path.is_dir() and not path.is_file():  # to open or to read it may never end
            raise self._wrong("it is a pipe or a device, and no file")
        try:
            self._zip = ZipFile(cast(IO[bytes], _InPieces(path.open("rb", buffering=0))))
            self._require_bounded(path.stat().st_size)
            content = _BOUNDS.parse(self._zip.read(MANIFEST))
            self.manifest = Manifest(**content)
        except OSError as error:
            raise self._wrong(error.strerror or str(error)) from None
        except _UNREADABLE:
            raise self._wrong("it is no backup of `melo backup`, or was cut off") from None
        if self.manifest.format != FORMAT:
            raise self._wrong(f"its form is {self.manifest.format!r}, and this program reads {FORMAT}")

    def close(self) -> None:
        self._zip.close()

    def _require_bounded(self, size: int) -> None:
        """Require that no more can come out of the file than a backup holds, before any of it is read."""
        members = self._zip.infolist()
        if self._zip.getinfo(MANIFEST).file_size > _LARGEST_MANIFEST:
            raise self._wrong("its manifest is too large")
        if len({each.filename for each in members}) != len(members):
            raise self._wrong("it holds a member twice")
        if any(each.compress_type not in (ZIP_STORED, ZIP_DEFLATED) for each in members):
            raise self._wrong("it is packed otherwise than a backup is")
        unpacked = sum(each.file_size for each in members)
        if unpacked > max(_ALWAYS_UNPACKED, size * _MOST_UNPACKED):
            raise self._wrong(f"it would unpack to {unpacked:,} bytes, {unpacked // size:,} times its size")

    def require_signature(self, trust: Trust | None) -> None:
        """Require that a known key signed it and, whoever signed it, that the signature is valid.

        trust: the keys that are known; None: none is, and then an unsigned file is accepted too.
        """
        signer = self.manifest.public_key
        if trust is not None and not trust.covers(signer, self.manifest.head_seq):
            by = f"it is signed by {signer}, which is no key that is known here" if signer else "it is not signed"
            raise self._wrong(
                f"{by}, so somebody may have changed it and its digests",
                "Take a backup that was signed, or name the key that signed it, from a source that you trust: "
                "`--public-key FILE`.",
            )
        if signer is None:
            return
        try:
            fits = is_signed(self.manifest.content(), public_key(signer))
        except InvalidRequest:
            fits = False
        if not fits:
            raise self._wrong("the signature does not match its manifest")

    def require_intact(self, watch: Callable[[int], None]) -> None:
        """Read every member and compare its digest; watch gets the number of rows that each part completes."""
        named = {member.name for member in self.manifest.members} | {MANIFEST}
        if others := set(self._zip.namelist()) ^ named:
            raise self._wrong(f"the manifest and the file differ in {', '.join(sorted(others))}")
        for member in self.manifest.members:
            if self._zip.getinfo(member.name).file_size != member.bytes:
                raise self._wrong(f"{member.name} is not what was written: it has another size")
        for member in self.manifest.members:
            for _ in self.parts(member, watch):
                pass

    def parts(self, member: Member, watch: Callable[[int], None]) -> Iterator[bytes]:
        """Yield a member's bytes; raise InvalidBackup at the end if they are not those that were written."""
        digest, rows = sha256(), 0
        try:
            with self._zip.open(member.name) as stream:
                while part := stream.read(PART):
                    digest.update(part)
                    ended = part.count(b"\n")
                    rows += ended
                    watch(ended)
                    yield part
        except _UNREADABLE as error:
            raise self._wrong(f"{member.name} cannot be read: {error}") from None
        if digest.hexdigest() != member.sha256 or rows != member.rows:
            raise self._wrong(f"{member.name} is not what was written: its SHA-256 is {digest.hexdigest()}")

    def _wrong(self, detail: str, remedy: str = "Take another copy of the backup.") -> InvalidBackup:
        return InvalidBackup(f"{self._path}: {detail}.", f"Nothing was restored. {remedy}")
