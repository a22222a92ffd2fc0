"""The bytes of a file of edits: what kind of file they are, whatever its name, and the encoding of its text."""

import re
import sys
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE, lookup
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from charset_normalizer import from_bytes

from cli.errors import CommandError

MOST_BYTES = 256 * 2**20  # of a file, and of what a compressed one unpacks to
STANDARD_INPUT = "standard input"
AS_CSV = "Save it as .xlsx or as CSV (UTF-8)."
# Kinds that are recognised in order to say what to do with them.
UNREAD = (
    (b"\xd0\xcf\x11\xe0", "an Excel file of the old kind (.xls)", AS_CSV),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "Unpack it: zstd -d FILE"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "Unpack it."),
    (b"\x89PNG", "an image", "Write its text as CSV."),
    (b"\xff\xd8\xff", "an image", "Write its text as CSV."),
    (b"%PDF", "a PDF", "Export the table that it was made from."),
    (b"{\\rtf", "a text document (RTF)", AS_CSV),
    (b"ARROW1", "a Feather or Arrow file", "Write it as Parquet or JSONL."),
    (b"SQLite format 3", "a SQLite database", "Export its table as CSV."),
)
ENCRYPTED = "EncryptedPackage".encode("utf-16-le")  # in a file of Office
TAR = slice(257, 262)  # where a tar archive says "ustar"
MARKS = (  # those of UTF-32 begin with those of UTF-16
    (BOM_UTF8, "utf-8", "UTF-8 with a byte order mark"),
    (BOM_UTF32_LE, "utf-32-le", "UTF-32"),
    (BOM_UTF32_BE, "utf-32-be", "UTF-32"),
    (BOM_UTF16_LE, "utf-16-le", "UTF-16"),
    (BOM_UTF16_BE, "utf-16-be", "UTF-16"),
)
GUESSED = (
    "cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "mac_roman", "cp850", "koi8_r",
    "cp932", "euc_jp", "gb18030", "big5", "cp949",
)  # fmt: skip
LATIN = {"cp1250", "cp1252", "cp1254", "cp1257", "mac_roman", "cp850"}
CLOSE = 0.1  # of charset-normalizer's measures of disorder, from 0 to 1
GUESSED_FROM = 2**20  # bytes
# As in «£ódŸ» and «äčđĺęňîđ»: the text is in another encoding.
UNLIKELY = re.compile(
    r"[^\W\d_][¡-¿×÷]|[¡-¿×÷][^\W\d_]|[\u00c0-\u024f]{4,}|(?<![^\W\d_])[\u00c0-\u024f]{2,}(?![^\W\d_])"
    r"|[A-Za-z][\u0370-\u06ff\u3008-\u3011]|[\u0370-\u06ff][A-Za-z]|[\u05b0-\u05f4]|[\uac00-\ud7a3][\u4e00-\u9fff]|[\u4e00-\u9fff][\uac00-\ud7a3]"
)


@dataclass(frozen=True)
class Text:
    """A decoded text, the encoding that it was in, and what is to be said of that."""

    text: str
    encoding: str
    note: str = ""


def bytes_of(path: Path) -> bytes:
    """Return a file's content; - is the standard input. Raises CommandError."""
    if "://" in str(path) or re.match(r"https?:/", str(path)):
        raise unreadable(path, "it is an address and no file", "Download it: curl -LO ADDRESS.")
    if path.is_dir():
        raise unreadable(path, "it is a folder", "Name one of the files in it: each becomes a batch.")
    try:
        if str(path) == "-":
            stream = getattr(sys.stdin, "buffer", None)
            content = stream.read(MOST_BYTES + 1) if stream else sys.stdin.read().encode()
        else:
            with path.open("rb") as file:
                content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise CommandError("The file cannot be read", f"{path}: {error.strerror}.", "Check its name.") from None
    if len(content) > MOST_BYTES:
        raise too_large(path, f"has more than {MOST_BYTES // 2**20} MiB")
    if not content.strip(b"\0 \t\r\n"):
        raise no_edits(path)
    return content


def name_of(path: Path) -> str:
    return STANDARD_INPUT if str(path) == "-" else str(path)


def no_edits(path: Path) -> CommandError:
    return CommandError("The file is empty", f"{name_of(path)} holds no edits.", "Write at least one.")


def too_large(path: Path, why: str) -> CommandError:
    return CommandError("The file is too large", f"{name_of(path)} {why}.", "Split it.")


def require_readable(path: Path, content: bytes) -> None:
    """Raise CommandError for a kind of file that is known and not read."""
    if content.startswith(UNREAD[0][0]) and ENCRYPTED in content:
        raise unreadable(path, "it is protected with a password", "Save it without one.")
    for start, what, remedy in UNREAD:
        if content.startswith(start):
            raise unreadable(path, f"it is {what}", remedy)
    if path.suffix.lower() in (".yaml", ".yml", ".toml"):
        raise unreadable(
            path,
            f"it is {path.suffix[1:].upper().replace('YML', 'YAML')}, which is not read",
            "Write it as JSON lines or as CSV.",
        )
    if content[TAR] == b"ustar":
        raise unreadable(path, "it is a tar archive", "Unpack it: tar -xf FILE")
    if re.match(rb"\s*(<!doctype html|<html|<\?xml|<table)", content[:200], re.IGNORECASE):
        raise unreadable(path, "it is a web page or XML, whatever its name says", AS_CSV)


def unreadable(path: Path, why: str, remedy: str) -> CommandError:
    return CommandError("The file cannot be read", f"{name_of(path)}: {why}.", remedy)


def text_of(path: Path, content: bytes, encoding: str | None) -> Text:
    """Decode a text. encoding: named by the user, else found. Raises CommandError."""
    if encoding is not None:
        return _named(path, content, encoding)
    for mark, codec, name in MARKS:
        if content.startswith(mark):
            return _decoded(path, content[len(mark) :], codec, name)
    if b"\0" in content[:4096]:
        return _decoded(path, content, _without_mark(path, content), "UTF-16")
    try:
        return Text(content.decode(), "UTF-8")
    except UnicodeDecodeError as error:
        fits = sum(len(letter.encode()) for letter in content.decode(errors="ignore") if not letter.isascii())
        if 2 * fits > sum(byte > 127 for byte in content):  # it is UTF-8 but for a few bytes
            raise _undecodable(path, error, "UTF-8") from None
        return _guessed(path, content)


def _named(path: Path, content: bytes, encoding: str) -> Text:
    try:
        name = lookup(encoding).name
        text = content.decode(encoding)
    except LookupError:
        raise CommandError(
            "Unknown encoding", f"There is no encoding {encoding!r}.", "Name one, such as utf-8, cp1252 or shift_jis."
        ) from None
    except UnicodeDecodeError as error:
        raise _undecodable(path, error, encoding) from None
    return Text(text.removeprefix("\ufeff"), name)


def _without_mark(path: Path, content: bytes) -> str:
    """Return which UTF-16 it is by where its zeros are. Raises CommandError where it is no text."""
    start = content[:4096]
    even, odd = start[0::2].count(0), start[1::2].count(0)
    if max(even, odd) < 8 * min(even, odd) + 3:
        raise unreadable(path, "it is no text and none of the kinds of file that are known", AS_CSV)
    return "utf-16-le" if odd > even else "utf-16-be"


def _decoded(path: Path, content: bytes, codec: str, name: str) -> Text:
    try:
        return Text(content.decode(codec), name)
    except UnicodeDecodeError as error:
        raise _undecodable(path, error, name) from None


def _undecodable(path: Path, error: UnicodeDecodeError, name: str) -> CommandError:
    line = 1 + error.object[: error.start].count(b"\n")
    return CommandError(
        f"The file is not {name}",
        f"{name_of(path)}, line {line}: a byte is not {name}.",
        "Save it as UTF-8, or name its encoding with --encoding, such as --encoding cp1252.",
    )


def _guessed(path: Path, content: bytes) -> Text:
    """Decode what is not UTF-8 by a guess, and say so. Raises CommandError where nothing fits."""
    found = {each.encoding: each for each in from_bytes(content[:GUESSED_FROM], cp_isolation=list(GUESSED))}
    order = sorted(found, key=lambda name: found[name].chaos)
    tried = [name for name in order if found[name].chaos <= found[order[0]].chaos + CLOSE]
    # Texts of a few words fit several: what Windows writes in Western Europe and America is the most likely.
    if not tried or LATIN & set(tried):
        tried = ["cp1252", *tried, "cp1250"]
    texts = [(name, text) for name in dict.fromkeys(tried) if (text := _strictly(content, name)) is not None]
    if not texts:
        raise unreadable(path, "its encoding cannot be told", "Save it as UTF-8, or name it with --encoding.")
    name, text = min(texts, key=lambda each: len(UNLIKELY.findall(each[1])))
    word = next(iter(re.findall(r"\S*[^\x00-\x7f]\S*", text)), "")
    note = (
        f"It is not UTF-8 and was read as {name}, which is a guess: {word!r}, for example, stands in it. If that is "
        "wrong, save it as UTF-8 or name its encoding with --encoding."
    )
    return Text(text, f"{name} (a guess)", note)


def _strictly(content: bytes, name: str) -> str | None:
    try:
        return content.decode(name)
    except UnicodeDecodeError:
        return None


def any_of(names: Sequence[str], most: int = 8) -> str:
    """Return names for a message, the first ones of many."""
    return ", ".join(repr(name[:40]) for name in names[:most]) + (", …" if len(names) > most else "")
