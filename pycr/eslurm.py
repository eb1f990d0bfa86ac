# SPDX-License-Identifier: GPL-2.0-or-later
"""pycr's errors by Slurm's numbers, as pycr/checkpoint.py raises them and the C library sets errno.

    SlurmError
     |- Unspecified          -1  SLURM_ERROR: what pycr alone knows, its text says what
     |- NoCheckpoint          2  ENOENT
     |- InvalidArgument      22  EINVAL
     |- TimedOut            110  ETIMEDOUT
     |- AlreadyInProgress   114  EALREADY
     |- AccessDenied       2002  ESLURM_ACCESS_DENIED
     |- UserIdMissing      2010  ESLURM_USER_ID_MISSING
     |- InvalidJobId       2017  ESLURM_INVALID_JOB_ID
     |- WritingToFile      2019  ESLURM_WRITING_TO_FILE
     |- AlreadyDone        2021  ESLURM_ALREADY_DONE
     |- JobPending         2024  ESLURM_JOB_PENDING
     |- BadTaskCount       2025  ESLURM_BAD_TASK_COUNT
     |- NotSupported       2036  ESLURM_NOT_SUPPORTED
     `- Disabled           2037  ESLURM_DISABLED

slurm_strerror(3) says the same of each. What is not of slurm_errno.h is the system's.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    Result = TypeVar("Result")

SLURM_ERROR = -1
ENOENT = 2
EINVAL = 22
ETIMEDOUT = 110
EALREADY = 114
ESLURM_ACCESS_DENIED = 2002
ESLURM_USER_ID_MISSING = 2010
ESLURM_INVALID_JOB_ID = 2017
ESLURM_WRITING_TO_FILE = 2019
ESLURM_ALREADY_DONE = 2021
ESLURM_JOB_PENDING = 2024
ESLURM_BAD_TASK_COUNT = 2025
ESLURM_NOT_SUPPORTED = 2036
ESLURM_DISABLED = 2037


class SlurmError(Exception):
    """What a function of slurm_checkpoint(3) failed with.

    errno: Slurm's number, or the system's where Slurm has none. strerror: what slurm_strerror(3)
    says of it. The text of the exception is pycr's: what failed, where and why.
    """

    errno = SLURM_ERROR
    strerror = "Unspecified error"


class Unspecified(SlurmError):
    """A failure that Slurm has no number for."""


class NoCheckpoint(SlurmError):
    """There is no checkpoint, or none that is whole."""

    errno = ENOENT
    strerror = "No such file or directory"


class InvalidArgument(SlurmError):
    """What was asked for has no meaning."""

    errno = EINVAL
    strerror = "Invalid argument"


class TimedOut(SlurmError):
    """It took longer than max_wait, and was given up."""

    errno = ETIMEDOUT
    strerror = "Connection timed out"


class AlreadyInProgress(SlurmError):
    """Another checkpoint of it is under way."""

    errno = EALREADY
    strerror = "Operation already in progress"


class AccessDenied(SlurmError):
    """The job, the step or the image is another user's."""

    errno = ESLURM_ACCESS_DENIED
    strerror = "Access/permission denied"


class UserIdMissing(SlurmError):
    """The caller's user id is not known on this host."""

    errno = ESLURM_USER_ID_MISSING
    strerror = "Invalid user id"


class InvalidJobId(SlurmError):
    """Slurm knows no such job."""

    errno = ESLURM_INVALID_JOB_ID
    strerror = "Invalid job id specified"


class WritingToFile(SlurmError):
    """The image directory is missing, unsafe or cannot be written to."""

    errno = ESLURM_WRITING_TO_FILE
    strerror = "I/O error writing script/environment to file"


class AlreadyDone(SlurmError):
    """The job or the step has ended, or never was; or another checkpoint has begun since."""

    errno = ESLURM_ALREADY_DONE
    strerror = "Job/step already completing or completed"


class JobPending(SlurmError):
    """The job has not started."""

    errno = ESLURM_JOB_PENDING
    strerror = "Job is pending execution"


class BadTaskCount(SlurmError):
    """The step has another number of tasks than the checkpoint."""

    errno = ESLURM_BAD_TASK_COUNT
    strerror = "Task count specification invalid"


class NotSupported(SlurmError):
    """It cannot be done to this job, or on these nodes."""

    errno = ESLURM_NOT_SUPPORTED
    strerror = "Requested operation not supported on this system"


class Disabled(SlurmError):
    """Checkpoints are disabled, or the job is suspended."""

    errno = ESLURM_DISABLED
    strerror = "Requested operation is presently disabled"


def fail(status: int, text: str) -> None:
    """Raise the error that an exit status of `pycr` stands for."""
    from pycr import errors

    for each in vars(errors).values():
        if (
            isinstance(each, type)
            and issubclass(each, errors.PycrError)
            and each.exit_status == status
        ):
            raise each(text)
    raise errors.PycrError(text)


def told(call: Callable[[], Result]) -> Result:
    """Call something of pycr's; its errors become these, here and nowhere else."""
    from pycr import errors

    # What Slurm has no number for, but the C library has.
    others = {
        errors.UsageError: EINVAL,
        errors.DirectoryError: ESLURM_WRITING_TO_FILE,
        errors.ImageError: ENOENT,
        errors.TimedOut: ETIMEDOUT,
    }
    try:
        return call()
    except OSError as failure:
        raise WritingToFile(str(failure)) from failure  # as the command's one way out has it
    except errors.PycrError as failure:
        number = failure.eslurm or others.get(type(failure), SLURM_ERROR)
        kinds = {each.errno: each for each in reversed(SlurmError.__subclasses__())}
        raise kinds.get(number, Unspecified)(str(failure)) from failure
