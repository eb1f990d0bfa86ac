# SPDX-License-Identifier: GPL-2.0-or-later
"""What pycr asks of Slurm: jobs, steps, layouts, processes, settings. Facts only, no checkpoints.

`commands` answers with Slurm's own commands (squeue would round and cut; scontrol does not).
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

BATCH = 0xFFFFFFFB  # SLURM_BATCH_SCRIPT
MAX_STEP = 0xFFFFFFF0  # SLURM_MAX_NORMAL_STEP_ID: above are batch, extern, interactive


class Geometry(NamedTuple):
    """What a step was given, so that a restart can ask for the like.

    cpus_per_task: 0 where Slurm does not say. mem_per_cpu, mem_per_node: in Slurm's spelling
    ("2G"), "" where not asked for. time_limit: Slurm's spelling, "UNLIMITED" where none.
    overcommit: more tasks than processors.
    """

    tasks: int
    nodes: int
    cpus_per_task: int = 0
    mem_per_cpu: str = ""
    mem_per_node: str = ""
    partition: str = ""
    account: str = ""
    qos: str = ""
    time_limit: str = ""
    name: str = ""
    features: str = ""
    gres: str = ""
    reservation: str = ""
    overcommit: bool = False


def job_state(text: str) -> str:
    """Return a job's state. While Slurm does something to a running job, it says that in its place:
    SIGNALING while a SIGCONT is on its way, with which each preemption begins."""
    return "RUNNING" if text in ("SIGNALING", "RESIZING") else text


class Job(NamedTuple):
    """A job; `fields` are scontrol's own."""

    job_id: int
    user: str
    uid: int
    state: str
    fields: dict[str, str]

    @property
    def pending(self) -> bool:
        return self.state in ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD")

    @property
    def is_batch(self) -> bool:
        """Whether it runs a batch script."""
        return self.fields.get("BatchFlag") not in (None, "0")

    @property
    def running(self) -> bool:
        return self.state in ("RUNNING", "COMPLETING", "SUSPENDED")


class Step(NamedTuple):
    """A running step; `fields` are scontrol's own."""

    job_id: int
    step_id: int
    uid: int
    state: str
    tasks: int
    nodes: int
    fields: dict[str, str]

    @property
    def name(self) -> str:
        """The step as Slurm's commands name it."""
        return f"{self.job_id}.{'batch' if self.step_id == BATCH else self.step_id}"

    @property
    def title(self) -> str:
        """The step as messages name it."""
        return f"job {self.job_id}" if self.step_id == BATCH else f"step {self.name}"

    def where(self, task: object, node: str) -> str:
        """Name a task of it, as messages do."""
        what = "its batch script" if self.step_id == BATCH else f"task {task}"
        return f"{self.title}: {what} on {node}"


Layout = dict[str, list[int]]  # node -> global task ids


def _known(fields: dict[str, str], name: str) -> str:
    value = fields.get(name, "")
    return "" if value in ("(null)", "N/A", "0") else value


def geometry(job: Job, step: Step) -> Geometry:
    """Return what a step was given, from what Slurm says of it and its job."""
    text = step.fields.get("CPUs", "0")
    cpus = int(text) if text.isdigit() else 0
    return job_geometry(job)._replace(
        tasks=step.tasks,
        nodes=step.nodes,
        cpus_per_task=cpus // step.tasks if step.tasks else 0,
        overcommit=0 < cpus < step.tasks,
        name=_known(step.fields, "Name"),
    )


def job_geometry(job: Job) -> Geometry:
    """Return what a job was given, from what Slurm says of it."""

    def number(name: str) -> int:
        value = _known(job.fields, name).split("-")[0]
        return int(value) if value.isdigit() else 0

    return Geometry(
        tasks=number("NumTasks") or 1,
        nodes=number("NumNodes") or 1,
        cpus_per_task=number("CPUs/Task"),
        mem_per_cpu=_known(job.fields, "MinMemoryCPU"),
        mem_per_node=_known(job.fields, "MinMemoryNode"),
        partition=_known(job.fields, "Partition"),
        account=_known(job.fields, "Account"),
        qos=_known(job.fields, "QOS"),
        time_limit=_known(job.fields, "TimeLimit"),
        name=_known(job.fields, "JobName"),
        features=_known(job.fields, "Features"),
        gres=_known(job.fields, "TresPerNode"),
        reservation=_known(job.fields, "Reservation"),
    )


def batch_step(job: Job) -> Step:
    """Return a job's batch script as the step that it is to Slurm: one task on the first node."""
    return Step(job.job_id, BATCH, job.uid, "RUNNING", 1, 1, {"Name": "batch"})


_SAMPLE = Geometry(0, 0)


def geometry_from(value: dict[str, Any]) -> Geometry:
    """Return the geometry that a manifest holds. Raises ValueError."""
    try:
        made = Geometry(**value)
    except TypeError as error:
        raise ValueError(f"geometry: {error}") from error
    for name, sample in _SAMPLE._asdict().items():
        found: Any = getattr(made, name)
        if type(found) is not type(sample) or (type(found) is int and not 0 <= found < 1 << 31):
            raise ValueError(f"geometry: {name}")
    return made


def like(wanted: Geometry, more: list[str]) -> list[str]:
    """Return the options of srun and sbatch that ask for a job like the old one.

    more: the user's own options. How many tasks, nodes and processors is not among them.
    """
    memory = not names_memory(more)
    values = {
        "mem-per-cpu": wanted.mem_per_cpu if memory else "",
        "mem": wanted.mem_per_node if memory else "",
        "partition": wanted.partition,
        "account": wanted.account,
        "qos": wanted.qos,
        "time": wanted.time_limit,
    }
    return [f"--{option}={value}" for option, value in values.items() if value]


def names_memory(options: list[str]) -> bool:
    """Tell whether srun or sbatch options say how much memory: only one of its ways is taken."""
    return any(re.match(r"--mem(-per-(cpu|gpu))?(=|$)", word) for word in options)


def names_nodes(options: list[str]) -> bool:
    """Tell whether srun or sbatch options say how many nodes, or which."""
    return any(re.match(r"-[NwF]|--(nodes|nodelist|nodefile)\b", word) for word in options)
