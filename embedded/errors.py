"""What can go wrong while the embedded servers start or stop: what, and what to do about it."""


class EmbeddedError(Exception):
    """The stack on this machine could not be started or stopped."""

    title = "The embedded servers failed"

    def __init__(self, detail: str, remedy: str = "") -> None:
        super().__init__(f"{detail} {remedy}".strip())
        self.detail = detail
        self.remedy = remedy


class NotInstalled(EmbeddedError):
    title = "The embedded servers are not installed"


class UnusableHome(EmbeddedError):
    title = "MELO_HOME cannot be used"


class StartFailed(EmbeddedError):
    title = "The start failed"


class AlreadyRunning(EmbeddedError):
    title = "It is running already"


class StopFailed(EmbeddedError):
    title = "Not everything could be stopped"
