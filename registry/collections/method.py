"""The port to a collection's method, which is found by the entry point `melo.method`, not imported."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Protocol, cast

from registry.base.errors import InvalidRequest


class Method(Protocol):
    """What a package that trains and applies blocks offers to the record; a module may implement it."""

    @property
    def Refused(self) -> type[Exception]:
        """The exception that it raises for settings that it does not accept; the message says why."""

    def complete(self, values: Mapping[str, Any], preset: str) -> dict[str, Any]:
        """Return all settings: the given ones, and the preset's for the others. Raises Refused."""

    def for_training(self, method: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
        """Return a collection's settings, changed for some of its edits.

        Raises Refused, also for settings that must not differ.
        """

    def require_editable(self, config: Mapping[str, Any], method: Mapping[str, Any]) -> None:
        """Raise Refused, with the reason, where no block can act in a model. config: as its config.json."""

    def edits_together(self, settings: Mapping[str, Any]) -> int:
        """Return the most edits of several batches to train together; 0: each batch by itself. Raises nothing."""


@cache
def installed() -> Method:
    """Load the method that is installed."""
    (method,) = entry_points(group="melo.method")
    return cast(Method, method.load())


def complete_settings(given: Mapping[str, Any], preset: str) -> dict[str, Any]:
    """Complete the given settings with the preset's, so that changing a default later does not affect the collection.

    Raises InvalidRequest with the method's own reason.
    """
    method = installed()
    try:
        return method.complete(given, preset)
    except method.Refused as error:
        raise _refusal(error, "Correct it, or leave it out: the preset's value then holds.") from None


def require_editable(model: str, config: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise InvalidRequest, with the method's own reason, where it cannot edit a model of this configuration."""
    method = installed()
    try:
        method.require_editable(config, settings)
    except method.Refused as error:
        raise InvalidRequest(
            f"The model {model} cannot be edited: {error}.",
            "Take another model: docs/models.md lists the families, and why some cannot be edited.",
        ) from None


def settings_for(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a collection's settings with a batch's changes for its training.

    Raises InvalidRequest with the method's own reason, also for a setting that all of a collection's edits must share.
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
