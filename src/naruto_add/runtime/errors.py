"""The error that a stage reports to the user."""


class StageError(RuntimeError):
    """A stage cannot continue. The message is shown to the user as it is and says what to do."""
