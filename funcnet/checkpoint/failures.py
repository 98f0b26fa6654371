"""What can go wrong with what is saved, as errors that a caller may tell apart."""


class DamagedError(ValueError):
    """What lies on the disk is not what was written there, or was never written by funcnet."""


class MismatchError(ValueError):
    """What was saved is whole, and is not what is asked for."""


class NothingSavedError(FileNotFoundError):
    """The directory holds no step at all."""


class NotSavedError(OSError):
    """A step could not be written; those saved before are as they were."""
