# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the facts of a report come from: the journals of a job and of those it goes on from, and
Slurm: what scontrol still knows, and accounting where there is any.

A user's journal is read as that user, also by root.
"""

from __future__ import annotations

import os
import pwd
import time
from pathlib import Path
from typing import NamedTuple

from pycr import config, journal
from pycr.errors import AccessDenied, AlreadyDone, DirectoryError, NoSuchJob, NoSuchUser
from pycr.journal import Event, Journal
from pycr.report import account
from pycr.report.account import Known, Life
from pycr.slurm import Job, accounting
from pycr.slurm.api import slurm

LONGEST_CHAIN = 100  # jobs, each gone on from the one before
SOON = 30.0  # seconds: less than Slurm's shortest time limit, more than clocks differ
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "CONFIGURING")


class Report(NamedTuple):
    """A job and its lives. now: when that was asked, seconds since the epoch."""

    job_id: int
    name: str
    user: str
    now: float
    lives: list[Life]


def look(job_id: int, image_dir: str | None = None) -> Report:
    """Return what there is to report of a job. image_dir: where its journal is, if not by default.

    Raises NoSuchJob, AccessDenied, AlreadyDone, DirectoryError, SlurmError.
    """
    job = _job(job_id)
    rows = accounting.lives(job_id)
    user = job.user if job is not None else rows[-1].user if rows else ""
    rows = _of(user, rows)
    _become(user, job_id, image_dir)
    if image_dir is not None and not os.path.isdir(image_dir):
        raise DirectoryError(f"image directory {image_dir}: no such directory")
    jobs: list[tuple[int, list[Event], list[Known]]] = []
    _chain(job_id, job, rows, image_dir, jobs)
    now = time.time()
    lives = account.build(jobs, now)
    if not lives:
        if job is None:
            raise NoSuchJob(
                f"job {job_id}: Slurm knows no such job, or no longer, and there is no journal of"
                " its checkpoints here: if it is elsewhere, name its directory with --image-dir"
            )
        raise AlreadyDone(f"job {job_id}: it ended ({job.state}) before it began")
    name = job.fields.get("JobName", "") if job is not None else accounting.name(job_id)
    return Report(job_id, name, user or _name(os.geteuid()), now, lives)


def _job(job_id: int) -> Job | None:
    try:
        return slurm().job(job_id)
    except NoSuchJob:
        return None


def _become(user: str, job_id: int, image_dir: str | None) -> None:
    """As root, go on as the job's owner; else refuse another's job. Raises AccessDenied."""
    if os.getuid() != 0:
        if user and user != _name(os.getuid()):
            raise AccessDenied(f"job {job_id}: it is {user}'s, not yours")
        return
    try:
        if user:
            entry = pwd.getpwnam(user)
        else:
            place = Path(image_dir or "/", journal.DIRECTORY)
            entry = pwd.getpwuid(os.stat(place).st_uid)
    except FileNotFoundError:
        raise NoSuchJob(
            f"job {job_id}: Slurm knows no such job, or no longer: name the image directory of its"
            " owner with --image-dir"
        ) from None
    except KeyError as error:
        raise NoSuchUser(
            f"job {job_id}: its owner, {user or 'by uid'}, is not known here"
        ) from error
    if entry.pw_uid != 0:
        os.initgroups(entry.pw_name, entry.pw_gid)
        os.setegid(entry.pw_gid)
        os.seteuid(entry.pw_uid)


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _chain(
    job_id: int,
    job: Job | None,
    rows: list[accounting.Row],
    image_dir: str | None,
    jobs: list[tuple[int, list[Event], list[Known]]],
) -> None:
    """Put a job before those in `jobs`, then the one that it goes on from, and so on back."""
    site = config.site()
    while True:
        place = Path(image_dir) if image_dir else config.default_dir(site, job_id)
        events = Journal(place, job_id).events()
        jobs.insert(0, (job_id, events, _known(job_id, job, rows)))
        seen = {each for each, _, _ in jobs}
        older = [account.job_of(path) for path in account.sources(events)]
        before = next((each for each in older if each is not None and each not in seen), None)
        if before is None or len(jobs) >= LONGEST_CHAIN:
            return
        job_id, rows = before, _of(_name(os.geteuid()), accounting.lives(before))
        job = _job(job_id)
        if job is not None and job.uid != os.geteuid():
            job = None  # Slurm has given the number to somebody else meanwhile


def _of(user: str, rows: list[accounting.Row]) -> list[accounting.Row]:
    """Return those rows that are a user's: where slurmctld had lost its state, or run out of
    numbers, accounting has several jobs of one number."""
    return [row for row in rows if row.user == user]


def _known(job_id: int, job: Job | None, rows: list[accounting.Row]) -> list[Known]:
    """Return what Slurm says of each life: accounting of all, scontrol of the last."""
    found = [
        Known(
            job_id, row.submitted, row.start, row.end, row.state, row.nodes,
            waits=row.start is None and row.state in WAITING,
        )
        for row in rows
        if row.start is not None or row.state in WAITING
    ]  # fmt: skip
    if job is None:
        return found
    fields = job.fields
    submitted, start, end = (
        accounting.seconds(fields.get(name)) for name in ("SubmitTime", "StartTime", "EndTime")
    )
    # Put back while its last life is still being cleaned up: start and end are made up, and move
    # with each question. One that has ended has an end in the past.
    completing = job.state == "COMPLETING"
    put_back = completing and (end is None or end > time.time() + SOON)
    waits = put_back or job.state in WAITING
    start = None if waits else start  # a guess
    submitted = None if put_back else submitted  # the last life's
    if not waits and start is None:
        return found
    # While it runs, EndTime is when its time limit is over.
    ended = None if job.running and not completing else end
    nodes = fields.get("NodeList", "").replace("(null)", "")
    last = Known(job_id, submitted, start, ended, job.state, nodes, waits)
    found = [each for each in found if not each.waits and not _is_same(each.start, start)]
    return [*found, last]


def _is_same(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and abs(one - other) <= account.SAME
