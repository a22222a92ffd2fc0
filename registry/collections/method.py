"""The method's settings, as the method itself reads them; it is found by an entry point, and not imported."""

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from registry.base.errors import InvalidRequest


def complete_settings(given: dict[str, Any], preset: str) -> dict[str, Any]:
    """Those given, and the preset's for the others, so that a later change of a default changes no collection.

    Raises InvalidRequest with the method's own reason.
    """
    (method,) = entry_points(group="melo.method")
    return _asked(method, "Correct it, or leave it out: the preset's value then holds.", given, preset)


def settings_for(method: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A collection's settings with a batch's own changes of how it is trained.

    Raises InvalidRequest with the method's own reason, also for a setting that all of a collection's edits share.
    """
    if not changes:
        return dict(method)
    (training,) = entry_points(group="melo.training")
    return _asked(training, "Correct it, or leave it out: the collection's value then holds.", method, changes)


def _asked(method: EntryPoint, remedy: str, *arguments: Any) -> dict[str, Any]:
    try:
        settings: dict[str, Any] = method.load()(*arguments)
    except Exception as error:
        if type(error).__module__.partition(".")[0] != method.module.partition(".")[0]:
            raise  # no refusal, but a defect
        reason = str(error)
        raise InvalidRequest(f"{reason[:1].upper()}{reason[1:]}.", remedy) from None
    return settings
