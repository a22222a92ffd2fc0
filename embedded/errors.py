"""The errors raised while the embedded servers start or stop; each says what went wrong and what to do about it."""

from registry.base.errors import UserError


class EmbeddedError(UserError):
    """The stack on this machine could not be started or stopped."""

    title = "The embedded servers failed"


class NotInstalled(EmbeddedError):
    title = "The embedded servers are not installed"


class UnusableHome(EmbeddedError):
    title = "MELO_HOME cannot be used"


class StartFailed(EmbeddedError):
    title = "The start failed"


class AlreadyRunning(EmbeddedError):
    title = "It is already running"


class StopFailed(EmbeddedError):
    title = "Not everything could be stopped"
