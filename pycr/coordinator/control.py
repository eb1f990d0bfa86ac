# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be asked of the checkpoints of running jobs and steps, as slurm_checkpoint(3) had it.

    create, tasks            make one: step.py and batch.py do, for what is named
    able, disable, enable    whether one may be made, by the journal (journal.py)
    error, complete          what came of the last

A step_id of None means every step of the job and, for a batch job, its script. Root may look
(able, error) at every user's: their journals are read as their owner. slurmctld kept this state,
and lost it with the step; a journal stays, so that error() can be asked afterwards too.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from pycr import config, journal
from pycr.coordinator import batch, record, step, target
from pycr.coordinator.become import become
from pycr.coordinator.step import Options, Progress
from pycr.errors import (
    AccessDenied,
    AlreadyDone,
    NoSuchJob,
    NotSupported,
    UsageError,
)
from pycr.images import image
from pycr.journal import Event
from pycr.slurm import BATCH, Job, Step, batch_step, commands

LARGEST = (1 << 32) - 1  # of an error code


def title(job_id: int, step_id: int | None) -> str:
    """Return what messages call a job or a step."""
    return f"job {job_id}" if step_id in (None, BATCH) else f"step {job_id}.{step_id}"


def refuse(job_id: int, step_id: int | None) -> None:
    """Refuse a job of which no checkpoint can be made, as Slurm says at once. Raises PycrError."""
    target.find_job(job_id, title(job_id, step_id))


def create(
    job_id: int,
    step_id: int | None,
    options: Options,
    requeue: bool,
    progress: Progress,
    warn: Callable[[str], None],
) -> list[Path]:
    """Checkpoint a job or a step; return the generations that were made.

    requeue: put the batch job back into the queue. Raises PycrError; then everything runs on.
    """
    job = target.find_job(job_id, title(job_id, step_id))
    if requeue or step_id == BATCH or (step_id is None and job.is_batch):
        return batch.checkpoint(job, options, requeue, progress, warn)
    if step_id is None:
        batch.refuse_shell(job)
    return step.checkpoint(job, target.find(job, step_id), options, progress, warn)


def tasks(
    job_id: int,
    step_id: int | None,
    begin_time: int,
    nodelist: str,
    options: Options,
    progress: Progress,
    warn: Callable[[str], None],
) -> list[Path]:
    """Checkpoint the tasks of a step, or of every step, at a time; return the generations.

    begin_time: seconds since the epoch; now where it is past. nodelist: "", or the steps' nodes.
    Raises PycrError; then everything runs on.
    """
    name = title(job_id, step_id)
    if step_id == BATCH:
        raise NotSupported(f"{name}: its script is none of a step's tasks: pycr create {job_id}")
    job, steps = _find_tasks(job_id, step_id, nodelist)
    while begin_time > time.time():
        progress(f"waiting to begin with {name}", 0, 1)
        time.sleep(min(1.0, max(0.01, begin_time - time.time())))
        if begin_time <= time.time():  # what is there now is what counts
            job, steps = _find_tasks(job_id, step_id, nodelist)
    return step.checkpoint(job, steps, options, progress, warn)


def _find_tasks(job_id: int, step_id: int | None, nodelist: str) -> tuple[Job, list[Step]]:
    """Return a job and its steps, refused where a nodelist is not that of their nodes."""
    job = target.find_job(job_id, title(job_id, step_id))
    steps = target.find(job, step_id)
    if nodelist:
        # It is Slurm's to read: "n[0-3,7]". Such a word only: it goes on a command line.
        if not re.fullmatch(r"[A-Za-z0-9_.][A-Za-z0-9_.,\[\]-]*", nodelist):
            raise UsageError(f"{nodelist!r:.80} is no list of nodes")
        given = set(commands.run("scontrol", "show", "hostnames", nodelist).split())
        theirs = {node for each in steps for node in commands.layout(each.job_id, each.step_id)}
        if given != theirs:
            raise NotSupported(
                f"{title(job_id, step_id)}: it is on {','.join(sorted(theirs))}, and a checkpoint"
                f" on {nodelist} would not be whole: give all of its nodes, or none"
            )
    return job, steps


def able(job_id: int, step_id: int | None) -> int:
    """Return when the checkpoint under way began (seconds since the epoch), 0 where none is.

    Raises Disabled, and what a checkpoint would be refused with as far as Slurm alone can say.
    """
    name = title(job_id, step_id)
    job = target.find_job(job_id, name, root=True)
    steps = _steps(job, step_id)
    events = _events(job_id, job.uid)
    record.refuse_disabled(events, job, steps)
    found = [journal.state(events, each.name).running for each in steps]
    return min((int(each.began) for each in found if each is not None), default=0)


def _steps(job: Job, step_id: int | None) -> list[Step]:
    """Return what a checkpoint of this would be of, the script first; its steps are not asked."""
    if step_id != BATCH and not (step_id is None and job.is_batch):
        if step_id is None:
            batch.refuse_shell(job)
        return target.find(job, step_id)
    batch.check(job, requeue=False)
    try:
        return [batch_step(job), *target.find(job, None)]
    except AlreadyDone:  # none runs just now
        return [batch_step(job)]


def switch(job_id: int, step_id: int | None, on: bool) -> None:
    """Enable checkpoints of a step, or disable them: these count, and each undoes one of the other.

    A step_id of None is the whole job's own count, which the steps that start later heed too; it
    leaves theirs alone. Raises PycrError.
    """
    job = target.find_job(job_id, title(job_id, step_id), suspended=True)
    event = "enable" if on else "disable"
    if step_id is None:
        _journal(job_id).append(event, since=record.since(job))
        return
    if step_id == BATCH:
        batch.check(job, requeue=False)
    of = batch_step(job) if step_id == BATCH else target.find(job, step_id)[0]
    _journal(job_id).append(event, step=of.name, since=record.since(job, of))


def error(job_id: int, step_id: int | None) -> tuple[int, str]:
    """Return the error code and message of the last checkpoint; 0 and "" where there was none.

    Also of what has ended, as long as its journal is there. Raises PycrError.
    """
    name = title(job_id, step_id)
    gone = None
    uid = os.getuid()
    try:
        job = commands.job(job_id)
        uid = job.uid
        if os.getuid() not in (0, uid):
            raise AccessDenied(f"{name}: it is {job.user}'s, not yours")
    except NoSuchJob as said:
        gone = said  # whose it was only a journal can say: the caller's own
    events = _events(job_id, uid)
    if not _named(events, job_id, step_id):
        if gone is not None:
            raise gone
        _steps(target.find_job(job_id, name, root=True, suspended=True), step_id)
    found = journal.state(events, _name(job_id, step_id))
    return found.error_code, found.error_msg


def complete(
    job_id: int, step_id: int | None, begin_time: int, error_code: int, error_msg: str
) -> None:
    """Note what came of a checkpoint: of several codes the highest is kept, with its message.

    begin_time: when it began, as able() had it; 0: whichever was last. Raises AlreadyDone where
    another has begun since, or none has; PycrError.
    """
    if not 0 <= error_code <= LARGEST:
        raise UsageError(f"{error_code} is no error code: 0 to {LARGEST}")
    job = target.find_job(job_id, title(job_id, step_id), suspended=True)
    steps = [each.name for each in _steps(job, step_id)]
    log = _journal(job_id)
    if begin_time:
        last = next((e for e in reversed(log.events()) if _has_begun(e, steps)), None)
        if last is None or int(last["time"]) != begin_time:
            began = f"the last began at {int(last['time'])}" if last else "none has begun yet"
            raise AlreadyDone(
                f"{title(job_id, step_id)}: no checkpoint of it that began at {begin_time} is the"
                f" last: {began}"
            )
    log.append("complete", steps=steps, code=error_code, message=error_msg[: journal.LONGEST])


def _has_begun(event: Event, steps: list[str]) -> bool:
    return event["event"] == "began" and not set(steps).isdisjoint(_names(event))


def _names(event: Event) -> list[str]:
    """Return the steps that a line is of."""
    names = event.get("steps") or [event.get("step")]
    return [each for each in names if isinstance(each, str)] if isinstance(names, list) else []


def _named(events: list[Event], job_id: int, step_id: int | None) -> bool:
    """Tell whether a journal has anything of a step, or of any."""
    name = _name(job_id, step_id)
    return any(name is None or name in _names(event) for event in events)


def _name(job_id: int, step_id: int | None) -> str | None:
    return None if step_id is None else image.step_name(job_id, step_id)


def _journal(job_id: int) -> journal.Journal:
    """Return the journal of a job of the caller's. Raises NoSuchUser."""
    return journal.Journal(config.default_dir(config.site(), job_id), job_id)


def _events(job_id: int, uid: int) -> list[Event]:
    """Return what a user's journal of a job has, read as that user."""
    site = config.site()
    with become(uid, title(job_id, None)):
        return journal.Journal(config.default_dir(site, job_id), job_id).events()
