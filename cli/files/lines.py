"""Text files with one prompt a line."""

import sys
from pathlib import Path

from cli.errors import CommandError


def lines_of(path: Path) -> list[str]:
    """Return the lines of a text that are not blank; - is the standard input. Raises CommandError."""
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise CommandError(
            "The file cannot be read", f"{path}: {why}.", "Check its name; it is text in UTF-8."
        ) from None
    return [line.strip() for line in text.splitlines() if line.strip()]
