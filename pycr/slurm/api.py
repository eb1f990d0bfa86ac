# SPDX-License-Identifier: GPL-2.0-or-later
"""The one interface over Slurm, and which of the two that have it answers here.

`commands` has it by Slurm's commands, everywhere. `native` has it by PySlurm, where that is
installed, was built for just the libslurm that is here, and starts. The choice is made once, at the
first question; `pycr doctor` tells it. PYCR_SLURM=commands or =pyslurm makes it for a user or site.

These go round the interface, to `commands`, always:
- the helpers, pods and all else that has capabilities, or that srun_cr asks (config.site());
- what is asked while things go wrong (coordinator/helpers.py): PySlurm holds the interpreter's lock
  while it waits for slurmctld, so that neither a thread nor Ctrl-C gets through;
- pids(), and srun and sbatch where the plugin's options are given (restart, resubmit): libslurm
  has no way to give those.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

from pycr.errors import SlurmError, UsageError
from pycr.slurm import Job, Layout, Step, commands

VARIABLE = "PYCR_SLURM"
# Those of `scontrol show config` that configuration() has for certain.
SETTINGS = ("PlugStackConfig", "ProctrackType", "SLURM_CONF", "SlurmdSpoolDir")


class Slurm(Protocol):
    """What pycr asks of Slurm. Each raises SlurmError where Slurm fails, beside what it says."""

    def job(self, job_id: int) -> Job:
        """Return a job. Raises NoSuchJob."""

    def steps(self, job: Job) -> list[Step]:
        """Return the running steps of a job that srun started, in order. Raises NotSupported."""

    def is_running(self, job_id: int, step_id: int) -> bool:
        """Tell whether Slurm still knows a step."""

    def layout(self, job_id: int, step_id: int) -> Layout:
        """Return which tasks of a step are on which node. Raises AlreadyDone, AccessDenied."""

    def configuration(self) -> dict[str, str]:
        """Return Slurm's settings, SETTINGS at the least, as scontrol spells them."""

    def nodes(self, partition: str) -> dict[str, dict[str, str]]:
        """Return a partition's nodes by name, each with its Arch, State and Partitions."""

    def version(self) -> str:
        """Return the version of Slurm on this node, for example "24.11.5"."""

    def expand(self, nodelist: str) -> list[str]:
        """Return the nodes of a list like "n[0-2],x"."""

    def compress(self, nodes: Iterable[str]) -> str:
        """Return nodes as Slurm lists them, sorted and each once."""

    def submit(
        self,
        script: str,
        options: Mapping[str, str] = commands.NONE,
        environment: Mapping[str, str] = commands.NONE,
    ) -> int:
        """Submit a batch job; return its id.

        options: of SUBMIT_OPTIONS, sbatch's words for them. environment: all that the job is given
        beside HOME, PATH and the like: it replaces this process's, it is not merged with it.
        """

    def requeue(self, job_id: int) -> None:
        """Put a running job back into the queue, under the same id, as scontrol does: for one that
        Slurm may have preempted see preemption.requeue()."""

    def signal(self, job_id: int, step_id: int, number: int) -> None:
        """Send a signal to a step's tasks. Raises AlreadyDone."""

    def kill_step(self, job_id: int, step_id: int) -> None:
        """End a step at once."""

    def cancel(self, job_id: int) -> None:
        """End a job at once."""


class Choice(NamedTuple):
    """Which implementation is in use, its name for people, and why it is this one.

    given_up: the questions that it left to the commands so far, each with the reason.
    """

    slurm: Slurm
    name: str
    why: str = ""
    given_up: Sequence[str] = ()


@lru_cache(maxsize=1)
def choice() -> Choice:
    """Choose, the first time. Raises UsageError; SlurmError where PySlurm is a must and cannot."""
    wanted = os.environ.get(VARIABLE, "")
    if wanted == "commands":
        return Choice(commands, "its commands", f"{VARIABLE}={wanted}")
    if wanted not in ("", "pyslurm"):
        raise UsageError(f"{VARIABLE}={wanted!r:.40}: it may be commands or pyslurm")
    from pycr.slurm import native

    try:
        # Whoever names it answers for what it was built for.
        version = native.load(matching=not wanted)
    except native.Unusable as error:
        if wanted:
            raise SlurmError(f"{VARIABLE}={wanted}: {error}") from error
        return Choice(commands, "its commands", str(error))
    why = f"{VARIABLE}={wanted}" if wanted else "built for the libslurm here"
    return Choice(native, f"PySlurm {version}", why, native.given_up)


def slurm() -> Slurm:
    """Return what answers for Slurm here. Raises as choice() does."""
    return choice().slurm
