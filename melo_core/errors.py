"""The method's errors. Each message names the cause and the remedy."""


class MeloError(Exception):
    """Base of the method's errors; the message names the cause and the remedy."""


class UnsupportedModel(MeloError):
    """The model's structure is not one that blocks can be attached to."""


class PromptTooLong(MeloError):
    """A prompt (with its answer) does not fit the model's window."""


class CorruptBlock(MeloError):
    """Stored bytes are not a block."""


class CorruptCalibration(MeloError):
    """Stored bytes are not a whitening."""
