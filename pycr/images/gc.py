# SPDX-License-Identifier: GPL-2.0-or-later
"""What of a user's checkpoints is of no more use: found here, and removed only by remove().

    remains      .new-* of writers that are no more        at once
    meetings     .restart-* of restarts that were killed   after a day
    notes        .failed-* that nobody has read,           after a day
                 newest.PID, requeue.PID half written
                 NNNN.set-aside of what is no more         at once
                 newest, requeue of what is no more        when the job is over
    generations  of a job that ended well                  all: it has COMPLETED behind them
                 of another that is over, or that Slurm
                 has forgotten                             all but the newest good one
                 of one that runs or waits                 none; --keep says how many stay
    cut-*        what a restart cut off files              when its job has COMPLETED
    journals     .journal/JOB                              with the job's last image

--older-than takes everything of a job that is over and that nobody has touched for so long, the
newest too; --max-size takes the oldest of those that are not the newest whole one of their step.
Never removed: what a requeue file names while Slurm still has the job; a directory in which a
checkpoint is being written; what is another user's.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pycr import journal
from pycr.errors import PycrError
from pycr.images import image, removal, retention
from pycr.images.requeue import read_requeue
from pycr.images.retention import Generation, Wanted
from pycr.pod.meeting import OLD
from pycr.slurm import Job

CUT = re.compile(r"cut-([0-9]{1,10})\.(?:[0-9]{1,10}|batch)")
NOTES = (image.REQUEUE, image.NEWEST)
YOUNG = 86400.0  # seconds in which a journal may be of a job that has not written an image yet


class Rules(NamedTuple):
    """What was asked for. older_than: seconds. max_size: bytes of all images. 0: not asked for."""

    keep: int = 0
    older_than: float = 0.0
    max_size: int = 0


class Garbage(NamedTuple):
    """A thing to be removed, why, and how many bytes it has."""

    path: Path
    why: str
    size: int


class Jobs:
    """What Slurm knows of jobs. known: None where it does not answer; then all are taken to run."""

    def __init__(self, known: Mapping[int, Job] | None) -> None:
        self.known = known

    def state(self, job_id: int, uid: int, last: float) -> str:
        """Return a job's state: "" where Slurm has forgotten it, "?" where it does not answer.

        last: when what is looked at was made; a job submitted since only has the same number. Slurm
        takes a requeue for a submission.
        """
        if self.known is None:
            return "?"
        job = self.known.get(job_id)
        if job is None or job.uid != uid:
            return ""
        requeued = job.fields.get("Restarts", "0") != "0"
        return job.state if requeued or _epoch(job, "SubmitTime") <= last else ""

    def ended_well(self, job_id: int, uid: int, last: Generation) -> bool:
        """Tell whether a job has completed behind its last checkpoint, as far as Slurm knows.

        One that was made by a vacate is of a step that was ended: it is to be restarted, unless
        the whole job was started again since.
        """
        if self.state(job_id, uid, last.created) != "COMPLETED" or self.known is None:
            return False
        kept = last.whole and last.manifests[0].kept_running
        return kept or _epoch(self.known[job_id], "StartTime") > last.created


def _epoch(job: Job, name: str) -> float:
    """Return a time of a job's, in seconds since the epoch; 0 where there is none."""
    text = job.fields.get(name, "")
    if text.isdigit():
        return float(text)
    with suppress(ValueError):
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    return 0.0


def find(place: Path, jobs: Jobs, rules: Rules) -> list[Garbage]:
    """Return what is of no more use below an image directory of this user's, and why."""
    found: list[Garbage] = []
    spared: list[Generation] = []  # older ones that --max-size may take
    stays = 0
    now = time.time()
    for step_dir in image.steps(place):
        if not _is_mine(step_dir):
            continue
        every = [retention.look(path) for path in image.generations(step_dir)]
        gone, left = _of_step(step_dir, every, jobs, rules, now)
        found += gone
        found += _leftovers(step_dir, jobs, rules, now, bool(left))
        fixed = retention.needed(left) | retention.newest(left)
        spared += [each for each in left if each.path not in fixed]
        stays += sum(each.size for each in left)
    if rules.max_size:
        found += _beyond(spared, stays, rules.max_size)
    removed = {each.path for each in found}
    return [*found, *_journals(place, jobs, now, removed)]


def _is_mine(path: Path) -> bool:
    try:
        os.close(image.open_owned(path))
    except (OSError, PycrError):
        return False
    return True


def _of_step(
    step_dir: Path, every: Sequence[Generation], jobs: Jobs, rules: Rules, now: float
) -> tuple[list[Garbage], list[Generation]]:
    """Return which generations of a step go, with the reason, and which stay."""
    if not every:
        return [], []
    job_id, uid = int(step_dir.name.partition(".")[0]), os.geteuid()
    whole = [each for each in every if each.whole]
    last = whole[0] if whole else every[0]
    state = jobs.state(job_id, uid, last.created)
    over = is_over(state) and not _is_restarted(step_dir, jobs, uid, now)
    fixed = set() if over else retention.needed(every)
    why: dict[Path, str] = {}
    if over and jobs.ended_well(job_id, uid, last):
        why = {each.path: f"job {job_id} has completed" for each in every}
    elif over or rules.keep:
        wanted = Wanted(keep=rules.keep or 1)
        older = retention.superfluous(every, wanted)
        reason = f"older than the newest {wanted.keep}" if wanted.keep > 1 else "an older one"
        why = {each.path: reason for each in older}
    if over and rules.older_than and now - last.created > rules.older_than:
        why = {each.path: "older than --older-than" for each in every}
    gone = [each for each in every if each.path in why and each.path not in fixed]
    left = [each for each in every if each not in gone]
    return [Garbage(each.path, why[each.path], each.size) for each in gone], left


def _is_restarted(step_dir: Path, jobs: Jobs, uid: int, now: float) -> bool:
    """Tell whether a restart from a step's directory is under way: by what it leaves there."""
    for path in step_dir.iterdir():
        with suppress(OSError):
            age = now - path.lstat().st_mtime
            cut = CUT.fullmatch(path.name)
            if image.is_meeting(path.name) and age <= OLD:
                return True
            if cut and not is_over(jobs.state(int(cut.group(1)), uid, now - age)):
                return True
    return False


def is_over(state: str) -> bool:
    """Tell whether a job in this state, as Jobs.state() has it, neither runs nor waits."""
    return state == "" or state in (
        "COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL",
        "DEADLINE", "OUT_OF_MEMORY", "REVOKED",
    )  # fmt: skip


def _leftovers(
    step_dir: Path, jobs: Jobs, rules: Rules, now: float, in_use: bool
) -> Iterator[Garbage]:
    """Yield what else lies in a step's directory and is of no use."""
    uid = os.geteuid()
    for path in sorted(step_dir.iterdir()):
        with suppress(OSError):
            age = now - path.lstat().st_mtime
            cut = CUT.fullmatch(path.name)
            if image.is_leftover(path.name) and not _is_locked(step_dir):
                yield Garbage(path, "a checkpoint that was not finished", retention.disk_use(path))
            elif image.is_meeting(path.name) and age > OLD:
                yield Garbage(path, "a restart that is over", retention.disk_use(path))
            elif why := _is_void(path, jobs, age, uid):
                yield Garbage(path, why, path.lstat().st_size)
            elif cut:
                state = jobs.state(int(cut.group(1)), uid, path.lstat().st_mtime)
                old = bool(rules.older_than) and age > rules.older_than and is_over(state)
                if state == "COMPLETED" or (old and not in_use):
                    text = f"cut off for a job that is over ({cut.group(1)})"
                    yield Garbage(path, text, retention.disk_use(path))


def _is_void(path: Path, jobs: Jobs, age: float, uid: int) -> str:
    """Return why a file beside a step's generations says nothing to anybody any more."""
    name = path.name
    if name.startswith(image.FAILED) and age > OLD:
        return "of a restart that is over"
    if name.startswith(tuple(f"{each}." for each in NOTES)) and age > OLD:
        return "half written"
    if name.endswith(image.ASIDE) and not os.path.lexists(path.with_suffix("")):
        return "of a checkpoint that is no more"
    job_id = int(path.parent.name.partition(".")[0])
    if name in NOTES and is_over(jobs.state(job_id, uid, path.lstat().st_mtime)):
        named = read_requeue(path.parent.parent, job_id, name)
        if named is not None and not os.path.lexists(named):
            return "it names a checkpoint that is no more"
    return ""


def _is_locked(step_dir: Path) -> bool:
    """Tell whether a checkpoint is being written in a step's directory, or removed."""
    try:
        directory = image.open_owned(step_dir)
    except (OSError, PycrError):
        return True
    try:
        os.close(image.take_lock(directory, step_dir.name))
    except (OSError, PycrError):
        return True
    finally:
        os.close(directory)
    return False


def _beyond(spared: list[Generation], stays: int, limit: int) -> Iterator[Garbage]:
    """Yield the oldest until what stays is no more than the limit."""
    for each in sorted(spared, key=lambda one: (one.created, int(one.path.name))):
        if stays <= limit:
            return
        stays -= each.size
        yield Garbage(each.path, "the oldest, for --max-size", each.size)


def _journals(place: Path, jobs: Jobs, now: float, removed: set[Path]) -> Iterator[Garbage]:
    """Yield the journals of jobs that are over and have no image left."""
    directory = place / journal.DIRECTORY
    left: set[int] = set()
    for step_dir in image.steps(place):
        if any(path not in removed for path in image.generations(step_dir)):
            left.add(int(step_dir.name.partition(".")[0]))
    try:
        names = sorted(os.listdir(directory)) if _is_mine(directory) else []
    except OSError:
        return
    for name in names:
        if not re.fullmatch("[0-9]{1,10}", name) or int(name) in left:
            continue
        with suppress(OSError, PycrError):
            status = (directory / name).lstat()
            state = jobs.state(int(name), os.geteuid(), status.st_mtime)
            if not is_over(state) or now - status.st_mtime < YOUNG:
                continue
            events = journal.Journal(place, int(name)).every()
            made = [Path(str(each.get("path"))) for each in events if each["event"] == "committed"]
            if not any(path not in removed and os.path.exists(path) for path in made):
                yield Garbage(
                    directory / name, "the journal of a job without images", status.st_size
                )


def remove(garbage: Garbage) -> None:
    """Remove one. Raises DirectoryError, AccessDenied, Busy, OSError."""
    path = garbage.path
    if path.parent.name == journal.DIRECTORY:
        os.unlink(path)
    elif image.GENERATION.fullmatch(path.name):
        removal.remove(path)
    elif os.path.lexists(path):  # it may have gone with the last generation beside it
        directory = image.open_owned(path.parent)
        try:
            lock = image.take_lock(directory, path.parent.name)
            try:
                if path.is_symlink() or not path.is_dir():
                    os.unlink(path.name, dir_fd=directory)
                else:
                    place = f"/proc/self/fd/{directory}/{path.name}"
                    image.remove_tree(place, ignore_errors=False)
                if os.listdir(directory) == [image.LOCK]:
                    os.unlink(image.LOCK, dir_fd=directory)
                    os.rmdir(path.parent)
            finally:
                os.close(lock)
        finally:
            os.close(directory)
