# SPDX-License-Identifier: GPL-2.0-or-later
"""Which step of its job's script an srun_cr is: what a requeued job knows its steps again by.

    SLURM_CR_STEP=8f0c27d1e35a9b64.2       the third step of that command, directory and geometry
    SLURM_CR_STEP=@main.0                  the first with --cr-name=main

srun hands the variable to its tasks, where a checkpoint finds it (node/, pod/); it is in the
manifest with Slurm's other variables. The order is counted in a file on the script's node, one for
the job, to which each srun_cr of the script appends a line before it starts srun:

    /tmp/srun_cr-steps.4711.5b0e...    LIFE KEY PID

Its name is told by spank_cr/batch.pxi, which removes it with the job; nobody can know it before.

This is on the way of every `srun --cr` of a script: only built-in modules are imported, and it
costs about 50 microseconds. A restored script's srun_cr processes have none: what is checkpointed
and restored is the script.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

VARIABLE = "SLURM_CR_STEP"
BATCH = "SLURM_CR_BATCH"  # JOB:FILE, in the job's batch script alone: spank_cr/slurmstepd.pxi
GOES_ON = "SLURM_CR_GOES_ON"  # in a batch script submitted with --cr: spank_cr/batch.pxi
PLACE = "/tmp/srun_cr-steps."
GEOMETRY = ("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_CPUS_PER_TASK")
PRIME = (1 << 64) - 59  # the largest below 2^64; hashlib takes 5 ms to import
FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def in_script() -> bool:
    """Tell whether this runs in a batch script that Slurm, and no restore, has started."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job or os.environ.get(BATCH, "").partition(":")[0] != job:
        return False
    try:
        with open("/proc/1/cmdline", "rb", 0) as file:
            return b"\0pycr.pod\0" not in file.read(4096)
    except OSError:
        return True


def place() -> str:
    """Return the file in which this script's steps are counted."""
    named = os.environ.get(BATCH, "").partition(":")[2]
    return named or PLACE + os.environ["SLURM_JOB_ID"]


def lives() -> int:
    """Return how often Slurm has started the job before."""
    text = os.environ.get("SLURM_RESTART_COUNT", "0")
    return int(text) if text.isdigit() else 0


def key(argv: Sequence[str], name: str = "") -> str:
    """Return what is the same in every life of a job: of the name, or of srun's words, where it
    starts, and the geometry that is not among the words."""
    if name:
        return f"@{name}"
    parts = [*argv, os.getcwd(), *(os.environ.get(each, "") for each in GEOMETRY)]
    text = os.fsencode("\0".join(parts))
    return f"{int.from_bytes(text, 'big') % PRIME:016x}"


def _life() -> str:
    """Return what tells this start of the job's script from every other on this node."""
    return f"{lives()}.{os.environ.get('SLURM_TASK_PID', '')}"


def seen() -> set[str]:
    """Return the steps that have begun in this life."""
    own = _life().encode()
    found: set[str] = set()
    try:
        with open(place(), "rb", opener=_opener) as file:
            lines = [line.split() for line in file.read().split(b"\n")]
    except OSError:
        return found
    keys = [os.fsdecode(words[1]) for words in lines if len(words) == 3 and words[0] == own]
    for number, each in enumerate(keys):
        found.add(f"{each}.{keys[:number].count(each)}")
    return found


def _opener(path: str, _: int) -> int:
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def of_step(argv: Sequence[str], name: str = "") -> str:
    """Count this srun_cr among those of its key, and return which step it is. Raises OSError."""
    own = key(argv, name)
    head = f"\n{_life()} {own} ".encode()
    file = os.open(place(), FLAGS, 0o600)
    try:
        if os.fstat(file).st_uid != os.geteuid():
            raise PermissionError(13, "it is another user's")
        line = head + str(os.getpid()).encode()
        os.write(file, line + b" ")
        # One that comes at the same time is before this or behind it, and both find the same.
        data = os.pread(file, os.fstat(file).st_size, 0).rpartition(line + b" ")[0]
    finally:
        os.close(file)
    return f"{own}.{data.count(head)}"
