# SPDX-License-Identifier: GPL-2.0-or-later
"""What pycr asks of Slurm: jobs, steps, layouts, processes, settings. Facts only, no checkpoints.

`commands` answers with Slurm's own commands (squeue would round and cut; scontrol does not).
"""

from __future__ import annotations

from typing import Any, NamedTuple

MAX_STEP = 0xFFFFFFF0  # SLURM_MAX_NORMAL_STEP_ID: above are batch, extern, interactive


class Geometry(NamedTuple):
    """What a step was given, so that a restart can ask for the like.

    cpus_per_task: 0 where Slurm does not say. mem_per_cpu, mem_per_node: in Slurm's spelling
    ("2G"), "" where not asked for. time_limit: Slurm's spelling, "UNLIMITED" where none.
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
        return f"{self.job_id}.{self.step_id}"


Layout = dict[str, list[int]]  # node -> global task ids


def geometry(job: Job, step: Step) -> Geometry:
    """Return what a step was given, from what Slurm says of it and its job."""

    def known(name: str, fields: dict[str, str] = job.fields) -> str:
        value = fields.get(name, "")
        return "" if value in ("(null)", "N/A", "0") else value

    cpus = step.fields.get("CPUs", "0")
    return Geometry(
        tasks=step.tasks,
        nodes=step.nodes,
        cpus_per_task=int(cpus) // step.tasks if cpus.isdigit() and step.tasks else 0,
        mem_per_cpu=known("MinMemoryCPU"),
        mem_per_node=known("MinMemoryNode"),
        partition=known("Partition"),
        account=known("Account"),
        qos=known("QOS"),
        time_limit=known("TimeLimit"),
        name=known("Name", step.fields),
    )


def geometry_from(value: dict[str, Any]) -> Geometry:
    """Return the geometry that a manifest holds. Raises ValueError."""
    try:
        made = Geometry(**value)
    except TypeError as error:
        raise ValueError(str(error)) from error
    numbers = (made.tasks, made.nodes, made.cpus_per_task)
    if not all(isinstance(number, int) and 0 <= number < 1 << 31 for number in numbers):
        raise ValueError("a number in it is none")
    return made
