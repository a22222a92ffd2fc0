"""The method's settings, as the method itself reads them; it is found by an entry point, and not imported."""

from importlib.metadata import entry_points
from typing import Any

from registry.errors import InvalidRequest


def complete_settings(given: dict[str, Any], preset: str) -> dict[str, Any]:
    """Those given, and the preset's for the others, so that a later change of a default changes no collection.

    Raises InvalidRequest with the method's own reason.
    """
    (method,) = entry_points(group="melo.method")
    try:
        settings: dict[str, Any] = method.load()(given, preset)
    except Exception as error:
        if type(error).__module__.partition(".")[0] != method.module.partition(".")[0]:
            raise  # no refusal, but a defect
        reason = str(error)
        raise InvalidRequest(
            f"{reason[:1].upper()}{reason[1:]}.", "Correct it, or leave it out: the preset's value then holds."
        ) from None
    return settings
