"""The rules for an alias's name."""

import re

from registry.base.errors import InvalidRequest
from registry.base.wire import NAME_PATTERN

RESERVED = ("base", "latest")  # always the model without edits and the newest version


def require_alias_name(name: str) -> None:
    """Raise InvalidRequest for a name that cannot be an alias."""
    if not re.fullmatch(NAME_PATTERN, name) or name.isdigit() or name in RESERVED:
        raise InvalidRequest(
            f"{name!r} cannot be an alias.",
            "Use lower-case letters, digits, '.', '_' and '-', not digits alone, and neither base nor latest.",
        )
