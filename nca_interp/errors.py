"""The two errors of the project; apart from the rest so that the command line starts without pydantic."""


class UserError(ValueError):
    """A mistake the user can mend: one clear message (field, value, what is legal), exit code 2, no traceback."""


class RunFailed(RuntimeError):
    """A run that started and could not finish (diverged, disk full): exit code 1."""


class Busy(RunFailed):
    """Another process is doing this very work; it can be waited for."""
