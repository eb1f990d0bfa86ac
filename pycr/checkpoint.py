# SPDX-License-Identifier: GPL-2.0-or-later
"""slurm_checkpoint(3) in Python: its functions, parameters, constants and errors, for programs.

    import pycr.checkpoint as checkpoint

    if not checkpoint.able(4711, 0):
        checkpoint.create(4711, 0, max_wait=60, image_dir="/scratch/images")

A step_id of NO_VAL means every step of the job and, for a batch job, its script; of
SLURM_BATCH_SCRIPT the script with the steps that it waits for. max_wait is in seconds, times are in
seconds since the epoch; 0 and None mean the default. What fails raises one of

    SlurmError
     |- AlreadyDone        2021  ESLURM_ALREADY_DONE
     |- Disabled           2037  ESLURM_DISABLED
     `- ...                      the rest: eslurm.py

with errno and strerror, those of the C library (slurm_checkpoint(3)).

The state (able, disable, enable, error, complete) is read and written here. What makes a
checkpoint or uses one is a `pycr` of its own, beside the caller's threads and signal handlers: it
is given up in order when the caller is interrupted. Its warnings are CheckpointWarnings.

Importing this costs a few milliseconds: whatever is large is imported when it is first needed.
"""

from __future__ import annotations

import os
import sys

from pycr.eslurm import (
    EALREADY,
    EINVAL,
    ENOENT,
    ESLURM_ACCESS_DENIED,
    ESLURM_ALREADY_DONE,
    ESLURM_BAD_TASK_COUNT,
    ESLURM_DISABLED,
    ESLURM_INVALID_JOB_ID,
    ESLURM_JOB_PENDING,
    ESLURM_NOT_SUPPORTED,
    ESLURM_USER_ID_MISSING,
    ESLURM_WRITING_TO_FILE,
    ETIMEDOUT,
    SLURM_ERROR,
    AccessDenied,
    AlreadyDone,
    AlreadyInProgress,
    BadTaskCount,
    Disabled,
    InvalidArgument,
    InvalidJobId,
    JobPending,
    NoCheckpoint,
    NotSupported,
    SlurmError,
    TimedOut,
    Unspecified,
    UserIdMissing,
    WritingToFile,
    fail,
    told,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "EALREADY",
    "EINVAL",
    "ENOENT",
    "ESLURM_ACCESS_DENIED",
    "ESLURM_ALREADY_DONE",
    "ESLURM_BAD_TASK_COUNT",
    "ESLURM_DISABLED",
    "ESLURM_INVALID_JOB_ID",
    "ESLURM_JOB_PENDING",
    "ESLURM_NOT_SUPPORTED",
    "ESLURM_USER_ID_MISSING",
    "ESLURM_WRITING_TO_FILE",
    "ETIMEDOUT",
    "NO_VAL",
    "SLURM_BATCH_SCRIPT",
    "SLURM_ERROR",
    "AccessDenied",
    "AlreadyDone",
    "AlreadyInProgress",
    "BadTaskCount",
    "CheckpointWarning",
    "Disabled",
    "InvalidArgument",
    "InvalidJobId",
    "JobPending",
    "NoCheckpoint",
    "NotSupported",
    "SlurmError",
    "TimedOut",
    "Unspecified",
    "UserIdMissing",
    "WritingToFile",
    "able",
    "complete",
    "create",
    "disable",
    "enable",
    "error",
    "requeue",
    "restart",
    "tasks",
    "vacate",
]

NO_VAL = 0xFFFFFFFE
SLURM_BATCH_SCRIPT = 0xFFFFFFFB
_JOBS = 10**9  # ids are below: Slurm's are below 1 << 26


class CheckpointWarning(UserWarning):
    """A checkpoint was made, and something is not in it, or not as usual."""


def able(job_id: int, step_id: int) -> int:
    """Return when the checkpoint that is under way began, 0 where none is.

    As root, of any user's job; the whole process is that user while the journal is read.
    Raises SlurmError: Disabled where checkpoints are disabled; otherwise what create() would raise,
    as far as Slurm alone can say.
    """
    from pycr.coordinator import control

    return told(lambda: control.able(*_named(job_id, step_id)))


def complete(
    job_id: int,
    step_id: int,
    start_time: int = 0,
    error_code: int = 0,
    error_msg: str | None = None,
    *,
    begin_time: int = 0,
) -> None:
    """Note that a checkpoint is complete, and what came of it, for error() to return.

    start_time: when it began, as able() had it; 0: whichever began last. begin_time: the same, as
    slurm.h calls it. error_code, error_msg: the highest code is kept, with its message; 0: none.
    Raises SlurmError: AlreadyDone where that is not the checkpoint that began last.
    """
    from pycr.coordinator import control

    named = start_time or begin_time
    told(
        lambda: control.complete(
            *_named(job_id, step_id), int(named), int(error_code), error_msg or ""
        )
    )


def create(
    job_id: int, step_id: int, max_wait: int = 0, image_dir: str | os.PathLike[str] | None = None
) -> list[Path]:
    """Checkpoint a step or a batch job, which goes on; return when that is done, with what is made.

    The result has a generation's path for each step, or one for a batch job. max_wait: seconds
    after which it is given up. image_dir: written to is image_dir/JOB.STEP. Raises SlurmError;
    then everything runs on, and no new generation exists.
    """
    return _made("create", job_id, step_id, max_wait, image_dir)


def disable(job_id: int, step_id: int) -> None:
    """Have checkpoints refused: of a step, or of the whole job (NO_VAL). It counts.

    Raises SlurmError.
    """
    from pycr.coordinator import control

    told(lambda: control.switch(*_named(job_id, step_id), on=False))


def enable(job_id: int, step_id: int) -> None:
    """Undo one disable() of the same step, or of the whole job (NO_VAL).

    Raises SlurmError.
    """
    from pycr.coordinator import control

    told(lambda: control.switch(*_named(job_id, step_id), on=True))


def error(job_id: int, step_id: int) -> tuple[int, str]:
    """Return the error code and message of the last checkpoint; (0, "") where there was none.

    Also after the step has ended, while its journal is there. As root, of any user's job; the whole
    process is that user while the journal is read. Raises SlurmError.
    """
    from pycr.coordinator import control

    return told(lambda: control.error(*_named(job_id, step_id)))


def requeue(
    job_id: int, max_wait: int = 0, image_dir: str | os.PathLike[str] | None = None
) -> list[Path]:
    """Checkpoint a batch job and put it back into the queue; see create(). Raises SlurmError."""
    return _made("requeue", job_id, NO_VAL, max_wait, image_dir)


def restart(
    job_id: int,
    step_id: int = SLURM_BATCH_SCRIPT,
    stick: int = 0,
    image_dir: str | os.PathLike[str] | None = None,
) -> int:
    """Submit a batch job that goes on from the newest checkpoint of an old one; return its id.

    stick: on the nodes that the old one was on. image_dir: where image_dir/JOB.batch is. A step is
    refused, as slurmctld refused it: it goes on in an srun that stays (`pycr restart JOB.STEP`, or
    srun --restart-dir). Raises SlurmError.
    """
    if step_id not in (NO_VAL, SLURM_BATCH_SCRIPT):
        raise NotSupported(
            f"step {job_id}.{step_id}: a step is restarted by an srun, which stays while it runs:"
            f" pycr restart {job_id}.{step_id}"
        )
    words = [f"--image-dir={os.fspath(image_dir)}"] if image_dir else []
    if stick:
        words.append("--stick")
    out = _command("restart", *words, _text(job_id, NO_VAL), "--parsable")
    found = out.split(";")[0].strip()  # the id, and behind a ";" the cluster's name (sbatch(1))
    if not found.isdigit():
        raise Unspecified(f"job {job_id}: sbatch told no id of the new job: {found!r:.80}")
    return int(found)


def tasks(
    job_id: int,
    step_id: int,
    begin_time: int = 0,
    image_dir: str | os.PathLike[str] | None = None,
    max_wait: int = 0,
    nodelist: str | None = None,
) -> list[Path]:
    """Checkpoint the tasks of a step at a given time; they go on. Return what was made.

    begin_time: what is past, and 0, is now; max_wait counts from then. image_dir: written to is
    image_dir/JOB.STEP, as create() does. nodelist: the step's nodes ("n[0-3]"), all or none: a
    checkpoint of a part of them would not be whole. Raises SlurmError: NotSupported for a script.
    """
    words = [f"--begin-time={int(begin_time)}"] if begin_time else []
    if nodelist:
        words.append(f"--nodelist={nodelist}")
    return _made("tasks", job_id, step_id, max_wait, image_dir, *words)


def vacate(
    job_id: int, step_id: int, max_wait: int = 0, image_dir: str | os.PathLike[str] | None = None
) -> list[Path]:
    """Checkpoint a step or a batch job and end it; see create(). Raises SlurmError."""
    return _made("vacate", job_id, step_id, max_wait, image_dir)


def _named(job_id: int, step_id: int) -> tuple[int, int | None]:
    """Return a job and a step as the rest of pycr has them. Raises PycrError."""
    from pycr.errors import NoSuchJob
    from pycr.slurm import BATCH, MAX_STEP

    if not 0 < int(job_id) < _JOBS:
        raise NoSuchJob(f"job {job_id}: Slurm knows no such job")
    if step_id in (NO_VAL, SLURM_BATCH_SCRIPT):
        return int(job_id), None if step_id == NO_VAL else BATCH
    if not 0 <= int(step_id) <= MAX_STEP:
        raise NoSuchJob(f"step {job_id}.{step_id}: Slurm knows no such step")
    return int(job_id), int(step_id)


def _text(job_id: int, step_id: int) -> str:
    """Return a job or step as the command line has it. Raises SlurmError."""
    job, step = told(lambda: _named(job_id, step_id))
    if step is None:
        return str(job)
    return f"{job}.{'batch' if step == SLURM_BATCH_SCRIPT else step}"


def _made(
    verb: str,
    job_id: int,
    step_id: int,
    max_wait: int,
    image_dir: str | os.PathLike[str] | None,
    *words: str,
) -> list[Path]:
    """Have `pycr` make a checkpoint; return the generations."""
    import json
    from pathlib import Path

    from pycr.coordinator import control

    options = [f"--max-wait={int(max_wait)}"] if max_wait else []
    if image_dir:
        options.append(f"--image-dir={os.fspath(image_dir)}")
    # What Slurm alone refuses is refused here: it is quicker, and has the right number.
    told(lambda: control.refuse(*_named(job_id, step_id)))
    out = _command(verb, *options, *words, "--json", _text(job_id, step_id))
    return [Path(row["path"]) for row in json.loads(out)]


def _command(*words: str) -> str:
    """Run `pycr`; return what it prints. Raises SlurmError."""
    import signal
    import subprocess
    import warnings

    # Not by -m, which would import from the current directory, whoever's that is.
    start = (
        "import sys; sys.path.append(sys.argv.pop(1)); from pycr.cli import main; sys.exit(main())"
    )
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    child = subprocess.Popen(
        [sys.executable, "-I", "-c", start, root, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="surrogateescape",
        start_new_session=True,  # a terminal's ^C is the caller's alone, and reaches it from here
    )
    try:
        out, said = child.communicate()
    except BaseException:
        child.send_signal(signal.SIGTERM)  # it gives up in order
        child.communicate()
        raise
    lines = [line for line in said.splitlines() if line.strip()]
    warned = [line for line in lines if line.startswith("pycr: warning: ")]
    for line in warned:
        warnings.warn(line[len("pycr: warning: ") :], CheckpointWarning, stacklevel=4)
    if child.returncode:
        rest = [line for line in lines if line not in warned]
        text = rest[-1] if rest else f"pycr {words[0]}: failed silently ({child.returncode})"
        told(lambda: fail(child.returncode, text.removeprefix("pycr: ")))
    return out
