"""Times as typed by the user: ISO 8601, or a duration from now."""

import re
from datetime import UTC, datetime, timedelta

from cli.errors import CommandError

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
TIME_HELP = "ISO 8601, such as 2026-11-17T14:05; without a zone, this machine's."


def moment(text: str) -> datetime:
    """Parse a time with its zone. Raises CommandError."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise CommandError(
            "Not a time", f"{text!r} is not a time.", "Write it as 2026-11-17T14:05, or 2026-11-17T14:05+01:00."
        ) from None


def earlier(text: str) -> datetime:
    """Parse a past time: 7d, 12h, 4w or 30m ago, or a time. Raises CommandError."""
    found = re.fullmatch(r"(\d{1,4})([mhdw])", text)
    if found is None:
        return moment(text)
    return (datetime.now(UTC) - timedelta(**{_UNITS[found[2]]: int(found[1])})).astimezone()


def later(text: str) -> datetime:
    """Parse a future time: 90d, 12h, 4w or 30m from now, or a time. Raises CommandError."""
    found = re.fullmatch(r"(\d{1,6})([mhdw])", text)
    if found is None:
        return moment(text)
    try:
        return (datetime.now(UTC) + timedelta(**{_UNITS[found[2]]: int(found[1])})).astimezone()
    except OverflowError:
        raise CommandError("Not a time", f"{text!r} from now is past the year 9999.", "Give an earlier time.") from None
