# SPDX-License-Identifier: GPL-2.0-or-later
"""How Slurm preempts a job, and how one that it may have preempted is put back into the queue.

Asked by Slurm's commands alone: it is asked while a job's time runs out (see api.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple

from pycr.errors import SlurmError
from pycr.slurm import Job, commands

TIMEOUT = 20.0  # seconds: a compute node may not reach slurmdbd at all


class Qos(NamedTuple):
    """What accounting says of a QOS. grace: its GraceTime, in seconds. mode: its PreemptMode."""

    grace: float
    mode: str


def qos(name: str) -> Qos:
    """Return how jobs of a QOS are preempted. Raises SlurmError."""
    words = ["-n", "-P", "show", "qos", "where", f"name={name}", "format=GraceTime,PreemptMode"]
    said = commands.run("sacctmgr", *words, timeout=TIMEOUT).strip()
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)\|([a-zA-Z,]+)", said)
    if found is None:
        raise SlurmError(f"sacctmgr show qos {name}: not understood: {said:.80}")
    days, hours, minutes, seconds = (int(each or 0) for each in found.groups()[:4])
    return Qos(((days * 24 + hours) * 60 + minutes) * 60.0 + seconds, found.group(5).upper())


def mode(found: Qos, settings: Mapping[str, str]) -> str:
    """Return the PreemptMode of a QOS' jobs. settings: of commands.configuration()."""
    modes = settings.get("PreemptMode", "") if "CLUSTER" in found.mode else found.mode
    known = ("REQUEUE", "CANCEL", "SUSPEND")
    return next((each for each in known if each in modes.split(",")), "OFF")


def grace(partition: str, qos_name: str) -> float:
    """Return how long a job of this partition and QOS goes on when it is preempted, in seconds; 0:
    it is not, or ends at once. Raises SlurmError."""
    settings = commands.configuration()
    kind = settings.get("PreemptType", "(null)")
    if kind in ("(null)", "", "preempt/none"):
        return 0.0
    if kind == "preempt/qos":
        found = qos(qos_name)
        return found.grace if mode(found, settings) in ("REQUEUE", "CANCEL") else 0.0
    values = _partition(partition)
    if values.get("PreemptMode") in ("OFF", "SUSPEND", "GANG"):
        return 0.0
    text = values.get("GraceTime", "")
    return float(text) if text.isdigit() else 0.0


def _partition(name: str) -> dict[str, str]:
    return commands.fields(commands.run("scontrol", "-o", "show", "partition", name))


def requeue(job_id: int, how: Callable[[int], None] = commands.requeue) -> None:
    """Put a running job back into the queue, under the same id. Raises SlurmError, NoSuchJob.

    how: api.py's requeue(), where PySlurm may do it.
    """
    job = commands.job(job_id)
    if put_back_by_slurm(job):
        commands.end_script(job)
    else:
        how(job_id)


def put_back_by_slurm(job: Job) -> bool:
    """Tell whether to end a preempted job's script is the better way to have the job put back.

    Slurm keeps that it has signalled a job in its GraceTime until the script ends, over requeues
    too: one put back by scontrol is put back once more when it has run to its end. It puts back
    itself one whose script ends in the GraceTime, but holds it when it has done so MaxBatchRequeue
    times, which BatchFlag counts; two are left for failed launches. (Slurm 24.11, 26.05:
    _slurm_rpc_complete_batch_script, _handle_requeue_limit.) Raises SlurmError.
    """
    preempted, start = (job.fields.get(each, "") for each in ("PreemptTime", "StartTime"))
    if not (preempted.isdigit() and start.isdigit() and int(preempted) >= int(start)):
        return False
    settings = commands.configuration()
    if settings.get("PreemptType") not in ("preempt/partition_prio", "preempt/qos"):
        return False
    most, already = settings.get("MaxBatchRequeue", ""), job.fields.get("BatchFlag", "")
    if not (most.isdigit() and already.isdigit() and int(already) + 2 <= int(most)):
        return False
    if settings["PreemptType"] == "preempt/qos":
        with suppress(SlurmError):
            return mode(qos(job.fields.get("QOS", "")), settings) == "REQUEUE"
        return False
    return _partition(job.fields.get("Partition", "")).get("PreemptMode") == "REQUEUE"
