# SPDX-License-Identifier: GPL-2.0-or-later
"""What can go wrong, as one tree of exceptions, each with its exit status.

    PycrError                  1
     |- UsageError             2
     |- NoSuchJob              3   ESLURM_INVALID_JOB_ID
     |- AccessDenied           4   ESLURM_ACCESS_DENIED
     |- AlreadyDone            5   ESLURM_ALREADY_DONE
     |- JobPending             6   ESLURM_JOB_PENDING
     |- NotSupported           7   ESLURM_NOT_SUPPORTED
     |- DirectoryError         8
     |- TaskError              9
     |- ImageError            10
     |- GeometryError         11   ESLURM_BAD_TASK_COUNT
     |- TimedOut              12
     |- Busy                  13   EALREADY
     |   `- Later                  not now: asked again until --max-wait
     |- SlurmError            14
     |   `- Suspended               ESLURM_DISABLED
     |- NoSuchUser            15   ESLURM_USER_ID_MISSING
     |- Disabled              16   ESLURM_DISABLED
     |- Remaining             17
     `- RestoreFailed        125

The message of each is one line: what failed, where (node, task), why, what to do. pycr(1) lists the
statuses; `eslurm` is the number that Slurm gave the same failure (slurm_errno.h), 0 where none.
"""

from __future__ import annotations

UNDER_WAY = "a checkpoint of it is under way already: wait for it"


class PycrError(Exception):
    """A failure that is told to the user in one line."""

    exit_status = 1
    eslurm = 0


class UsageError(PycrError):
    """The command line asks for something that has no meaning."""

    exit_status = 2


class NoSuchJob(PycrError):
    """Slurm knows no such job or step."""

    exit_status = 3
    eslurm = 2017


class AccessDenied(PycrError):
    """The job, the step or the image is another user's."""

    exit_status = 4
    eslurm = 2002


class AlreadyDone(PycrError):
    """The job or step has ended, or has nothing running that could be checkpointed."""

    exit_status = 5
    eslurm = 2021


class JobPending(PycrError):
    """The job has not started."""

    exit_status = 6
    eslurm = 2024


class NotSupported(PycrError):
    """A node lacks what pycr needs: the plugin, a usable CRIU, a kernel feature."""

    exit_status = 7
    eslurm = 2036


class DirectoryError(PycrError):
    """The image directory is missing, unwritable, unsafe, full, or not visible on a node; or the
    site does not allow it, or so large a checkpoint."""

    exit_status = 8


class TaskError(PycrError):
    """A task could not be dumped; it runs on."""

    exit_status = 9


class ImageError(PycrError):
    """The checkpoint is missing, half, changed, or of a kind this pycr cannot read."""

    exit_status = 10


class GeometryError(PycrError):
    """The step has another number of tasks than the checkpoint."""

    exit_status = 11
    eslurm = 2025


class TimedOut(PycrError):
    """The checkpoint took longer than --max-wait; it was given up and the tasks run on."""

    exit_status = 12


class Busy(PycrError):
    """Another checkpoint of the same step is under way."""

    exit_status = 13
    eslurm = 114


class Later(Busy):
    """What is to be checkpointed is just changing; pycr tries again until --max-wait."""


class SlurmError(PycrError):
    """A Slurm command failed for a reason of its own."""

    exit_status = 14


class Suspended(SlurmError):
    """The job is suspended: nothing of it can run, no helper either."""

    eslurm = 2037


class NoSuchUser(PycrError):
    """The caller's user id is not known on this host."""

    exit_status = 15
    eslurm = 2010


class Disabled(PycrError):
    """Checkpoints of the step are disabled (`pycr disable`)."""

    exit_status = 16
    eslurm = 2037


class Remaining(PycrError):
    """Some jobs are still on the nodes that were to be drained (`pycr drain`)."""

    exit_status = 17


class RestoreFailed(PycrError):
    """A task could not be restored. spank_cr/pod.pxi uses the same status."""

    exit_status = 125


def printable(text: str) -> str:
    """Return a text as one line for a terminal: file names in it may be hostile."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
