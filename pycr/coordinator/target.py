# SPDX-License-Identifier: GPL-2.0-or-later
"""Which job and steps a command means, refused as far as Slurm alone can say why."""

from __future__ import annotations

import os

from pycr import protocol
from pycr.errors import AccessDenied, AlreadyDone, JobPending, NotSupported, Suspended
from pycr.slurm import Job, Step
from pycr.slurm.api import slurm


def find_job(job_id: int, name: str, root: bool = False, suspended: bool = False) -> Job:
    """Return a job that can be checkpointed as far as Slurm can say. name: what to call it.

    root: who may have it though it is a user's. suspended: whether it may be.

    Raises NoSuchJob, AccessDenied, JobPending, AlreadyDone, Suspended, SlurmError.
    """
    job = slurm().job(job_id)
    if job.uid != os.getuid() and not (root and os.getuid() == 0):
        raise AccessDenied(f"{name}: it is {job.user}'s, not yours")
    if job.pending:
        raise JobPending(f"{name}: the job has not started")
    if job.state == "SUSPENDED" and not suspended:
        raise Suspended(f"{name}: the job is suspended: resume it first")
    if not job.running:
        raise AlreadyDone(f"{name}: the job has ended ({job.state})")
    return job


def find(job: Job, step_id: int | None) -> list[Step]:
    """Return the steps of a job to checkpoint: the one named, or all.

    Raises AlreadyDone, NotSupported.
    """
    if "HetJobId" in job.fields:
        name = f"step {job.job_id}.{step_id}" if step_id is not None else f"job {job.job_id}"
        raise NotSupported(f"{name}: steps of heterogeneous jobs cannot be checkpointed yet")
    running = slurm().steps(job)
    if step_id is not None:
        running = [step for step in running if step.step_id == step_id]
        if not running:
            name = f"step {job.job_id}.{step_id}"
            raise AlreadyDone(f"{name}: no such step is running; it has ended or never was")
        return running
    running = [step for step in running if not protocol.is_helper(step.fields.get("Name", ""))]
    if not running:
        raise AlreadyDone(f"job {job.job_id}: no step of it is running")
    return running
