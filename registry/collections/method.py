"""The method of a collection, through a port: it is found by the entry point `melo.method`, and not imported."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Protocol, cast

from registry.base.errors import InvalidRequest


class Method(Protocol):
    """What a package that trains and applies blocks offers the record; a module may be one."""

    @property
    def Refused(self) -> type[Exception]:
        """What it raises for settings that it does not take; the message says why."""

    def complete(self, values: Mapping[str, Any], preset: str) -> dict[str, Any]:
        """All settings: those given, and the preset's for the others. Raises Refused."""

    def for_training(self, method: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
        """A collection's settings with changes for some of its edits. Raises Refused, also for what may not differ."""

    def edits_together(self, settings: Mapping[str, Any]) -> int:
        """The most edits of several batches that are trained in one go; 0: each batch by itself. Raises nothing."""


@cache
def installed() -> Method:
    """Load the method that is installed."""
    (method,) = entry_points(group="melo.method")
    return cast(Method, method.load())


def complete_settings(given: Mapping[str, Any], preset: str) -> dict[str, Any]:
    """Add the preset's settings to those given, so that a later change of a default changes no collection.

    Raises InvalidRequest with the method's own reason.
    """
    method = installed()
    try:
        return method.complete(given, preset)
    except method.Refused as error:
        raise _refusal(error, "Correct it, or leave it out: the preset's value then holds.") from None


def settings_for(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Change a collection's settings as a batch asks for how it is trained.

    Raises InvalidRequest with the method's own reason, also for a setting that all of a collection's edits share.
    """
    if not changes:
        return dict(settings)
    method = installed()
    try:
        return method.for_training(settings, changes)
    except method.Refused as error:
        raise _refusal(error, "Correct it, or leave it out: the collection's value then holds.") from None


def _refusal(error: Exception, remedy: str) -> InvalidRequest:
    reason = str(error)
    return InvalidRequest(f"{reason[:1].upper()}{reason[1:]}.", remedy)
