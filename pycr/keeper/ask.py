# SPDX-License-Identifier: GPL-2.0-or-later
"""What a keeper asks Slurm about its job: until when it may run, and what becomes of it then."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import NamedTuple

from pycr.errors import SlurmError
from pycr.slurm import Job, commands, preemption

GRACE = 30.0  # seconds, where nobody says
SIGNAL = re.compile(r"^#SBATCH\s+(?:.*\s)?--signal[=\s]\s*\S*?@(\d+)", re.MULTILINE)
SIGNAL_EARLY = 60.0  # seconds that Slurm may send it before its time (sbatch(1))


class Facts(NamedTuple):
    """Times are in seconds since the epoch. end: None where the job has none."""

    running: bool
    start: float
    end: float | None
    preempted: bool
    requeue: bool
    is_batch: bool
    nodes: int
    nodelist: str
    partition: str
    qos: str

    @property
    def slot(self) -> float:
        """How long it may run, all in all."""
        return self.end - self.start if self.end is not None else float("inf")


def facts(job: Job) -> Facts:
    """Return what scontrol says of a job, its times in seconds."""
    start = _time(job.fields.get("StartTime")) or 0.0
    preempted = _time(job.fields.get("PreemptTime"))
    nodes = job.fields.get("NumNodes", "1").split("-")[0]
    return Facts(
        running=job.state == "RUNNING",
        start=start,
        end=_time(job.fields.get("EndTime")),
        # In a requeued job's next life it may still say when the last one was preempted.
        preempted=preempted is not None and preempted >= start,
        requeue=job.fields.get("Requeue") == "1",
        is_batch=job.is_batch,
        nodes=int(nodes) if nodes.isdigit() else 1,
        nodelist=job.fields.get("NodeList", ""),
        partition=job.fields.get("Partition", ""),
        qos=job.fields.get("QOS", ""),
    )


def _time(text: str | None) -> float | None:
    return float(text) if text and text.isdigit() else None


def grace(partition: str, qos: str) -> float:
    """Return how long a job of this partition and QOS goes on when it is preempted; 0: it is not,
    or ends at once."""
    try:
        return preemption.grace(partition, qos)
    except SlurmError:
        return GRACE


def signal_ahead(job_id: int) -> float:
    """Return how long before the job's end its own script has asked for a signal, 0: it has not."""
    with suppress(SlurmError):
        found = SIGNAL.search(commands.run("scontrol", "write", "batch_script", str(job_id), "-"))
        if found:
            return int(found.group(1)) + SIGNAL_EARLY
    return 0.0
