"""The errors of optlayers: one line each, saying what, why and the fix.

`InputError` is something the user can fix before anything runs (exit code 2); `RunError`
is something that went wrong while running (exit code 1). The command line prints the
message alone; a traceback comes only with `--debug`.
"""

from __future__ import annotations


def reason(error: BaseException) -> str:
    """The type and the first line of another library's exception, for a message of ours."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:200]}" if text else type(error).__name__


class OptlayersError(Exception):
    """Base of every error that optlayers raises on purpose."""

    exit_code = 1


class InputError(OptlayersError):
    """A file, field, option or model that breaks a rule (exit code 2)."""

    exit_code = 2


class StudyFileError(InputError):
    """A study file that does not validate; `faults` holds one line for each fault."""

    def __init__(self, source: str, faults: list[str]) -> None:
        self.source = source
        self.faults = faults
        super().__init__("\n".join(f"{source}: {fault}" for fault in faults))


class ModelError(InputError):
    """A model that cannot be used: missing, gated, unknown, or of a shape that does not fit."""


class TaskError(InputError):
    """A task that lm-eval does not know, or one that optlayers cannot score."""


class StorageError(InputError):
    """A database that cannot be opened, or that holds something else."""


class MissingStudyError(StorageError):
    """A study that is not in its database, which may not be there at all."""


class RunError(OptlayersError):
    """A failure at run time (exit code 1)."""


class StorageUnavailableError(RunError):
    """A database that was opened, and then failed or did not answer for long."""


class StudyGoneError(RunError):
    """A study that was deleted, or whose database was replaced, while it was in use."""


class ExportError(RunError):
    """A checkpoint that could not be written."""


class EvaluationError(RunError):
    """An evaluation that failed: NaN in the logits, out of memory at the smallest batch."""


class Stopped(BaseException):
    """Not an error: raised by a signal handler. The worker returns its layer sets and ends."""


class TimeUp(Stopped):
    """Not an error: raised by a timer, as planned."""
