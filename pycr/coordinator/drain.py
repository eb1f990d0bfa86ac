# SPDX-License-Identifier: GPL-2.0-or-later
"""Take the jobs off nodes: which there are, which can be requeued, and that, some at a time.

    nodes -> drain (Slurm)     jobs on them -> plan: requeue, vacate, or why not
                                            -> pycr requeue JOB, as the job's owner, N at once

Each requeue is a `pycr` of its own, started as its owner with an environment of nothing of root's.
What it prints is its user's to forge: no more than a little of it is kept, and only shown.
"""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

from pycr.coordinator import batch, step
from pycr.errors import (
    AlreadyDone,
    JobPending,
    NoSuchJob,
    NotSupported,
    PycrError,
    SlurmError,
    UsageError,
)
from pycr.slurm import Job, commands

REQUEUE, VACATE = "requeue", "vacate"
# What a job's line says in the end.
PLANNED, RUNNING, DONE, LEFT, GIVEN_UP = "planned", "running", "done", "left", "given up"
GONE = "gone"  # it has ended, or been requeued, without us
OFF = {
    REQUEUE: (NoSuchJob.exit_status, AlreadyDone.exit_status, JobPending.exit_status),
    VACATE: (NoSuchJob.exit_status,),
}
STATES = "RUNNING,SUSPENDED,CONFIGURING"
REASON = "pycr drain"
GRACE = 60.0  # seconds beyond --max-wait, and beyond the end of the job, that a requeue may take
ORDERLY = 30.0  # and to give up in order when it is interrupted
POLL = 0.1
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LONGEST = 1 << 16  # bytes that are kept of what one prints


@dataclass
class Work:
    """One job on the nodes, and what becomes of it. verb: "" where nothing can be done.

    seconds: that it took. size: of its checkpoint, in bytes. why: why it was left.
    """

    job: Job
    verb: str
    status: str = PLANNED
    why: str = ""
    seconds: float = 0.0
    size: int = 0
    path: str = ""


def check_nodes(nodelist: str) -> None:
    """Refuse nodes that Slurm does not know. Raises UsageError, SlurmError."""
    if not nodelist or nodelist.startswith("-") or "\0" in nodelist:
        raise UsageError(f"{nodelist!r:.80} is no list of nodes")
    states(nodelist)


def states(nodelist: str) -> dict[str, str]:
    """Return the nodes' states as Slurm spells them ("IDLE+DRAIN"). Raises SlurmError."""
    text = commands.run("scontrol", "-o", "show", "node", nodelist)
    found = [commands.fields(line) for line in text.splitlines()]
    return {each["NodeName"]: each.get("State", "") for each in found if "NodeName" in each}


def drain_nodes(nodelist: str, reason: str) -> None:
    """Have Slurm start nothing more on the nodes. Raises SlurmError."""
    commands.run("scontrol", "update", f"nodename={nodelist}", "state=drain", f"reason={reason}")


def plan(nodelist: str, vacate_steps: bool) -> tuple[list[Work], int]:
    """Return what there is to do for each job on the nodes, and how many of others' there are.

    An ordinary user's are their own. Raises SlurmError.
    """
    text = commands.run("squeue", "-h", "-w", nodelist, "-t", STATES, "-o", "%A")
    found, others = [], 0
    for job_id in sorted({int(word) for word in text.split() if word.isdigit()}):
        with suppress(NoSuchJob):  # ended since
            job = commands.job(job_id)
            if os.geteuid() not in (0, job.uid):
                others += 1
            elif job.running or job.state == "CONFIGURING":
                found.append(plan_one(job, vacate_steps))
    return found, others


def plan_one(job: Job, vacate_steps: bool) -> Work:
    """Return what there is to do for a job, by what Slurm says of it."""
    if job.state != "RUNNING":
        return Work(job, "", LEFT, f"it is {job.state.lower()}")
    if "HetJobId" in job.fields:
        return Work(job, "", LEFT, "heterogeneous jobs cannot be checkpointed yet")
    if not job.is_batch and vacate_steps:
        try:
            batch.refuse_shell(job)
        except PycrError as error:
            return Work(job, "", LEFT, _bare(str(error), job))
        return Work(job, VACATE)
    try:
        batch.check(job, requeue=True)
    except NotSupported as error:
        why = "it runs no batch script (--vacate-steps)" if not job.is_batch else str(error)
        return Work(job, "", LEFT, _bare(why, job))
    except SlurmError as error:
        return Work(job, "", LEFT, _bare(str(error), job))
    return Work(job, REQUEUE)


def _bare(message: str, job: Job) -> str:
    """Return a message without what its line in the table says anyway."""
    for start in ("pycr: ", f"job {job.job_id}: "):
        message = message[len(start) :] if message.startswith(start) else message
    return message


class Child:
    """A `pycr requeue` that runs as the job's owner."""

    def __init__(self, work: Work, max_wait: int) -> None:
        """Start it. Raises NotSupported, OSError."""
        self.work = work
        self.began = time.monotonic()
        self.until = self.began + max_wait + step.END_WAIT + GRACE
        self.killed = False
        command = [sys.executable, "-I", "-m", "pycr.cli", work.verb, str(work.job.job_id)]
        self.process = subprocess.Popen(
            [*command, f"--max-wait={max_wait}", "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            start_new_session=True,  # an interrupt is told to it once, by us
            **as_owner(work.job),
        )
        self.said: dict[int, bytes] = {}
        for stream in self._streams():
            os.set_blocking(stream.fileno(), False)
            self.said[stream.fileno()] = b""
        work.status = RUNNING

    def _streams(self) -> tuple[IO[bytes], IO[bytes]]:
        assert self.process.stdout is not None and self.process.stderr is not None
        return self.process.stdout, self.process.stderr

    def poll(self) -> bool:
        """Tell whether it has ended; work then has what came of it."""
        ended = self.process.poll() is not None  # before reading: then nothing more comes
        for number in self.said:
            with suppress(BlockingIOError):
                while data := os.read(number, LONGEST):
                    self.said[number] = (self.said[number] + data)[:LONGEST]
                    if len(data) < LONGEST:
                        break
        if not ended:
            if time.monotonic() > self.until:
                self.killed = True
                with suppress(ProcessLookupError):
                    self.process.kill()
            return False
        out, errors = (
            self.said[each.fileno()].decode(errors="replace") for each in self._streams()
        )
        self._conclude(out, errors)
        for stream in self._streams():
            stream.close()
        return True

    def give_up(self) -> None:
        """Have it give its checkpoint up in order; its job runs on."""
        self.until = min(self.until, time.monotonic() + ORDERLY)
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGINT)

    def _conclude(self, out: str, errors: str) -> None:
        work, status = self.work, self.process.returncode
        work.seconds = time.monotonic() - self.began
        for row in _rows(out):
            size, path = row.get("size"), row.get("path")
            work.size += size if isinstance(size, int) and 0 <= size < 1 << 60 else 0
            work.path = work.path or (path if isinstance(path, str) else "")
        if status == 0:
            work.status = DONE
            return
        lines = [line for line in errors.splitlines() if line.strip()]
        work.why = _bare(lines[-1].strip(), work.job) if lines else ""
        if status in OFF[work.verb]:
            work.status = GONE
            return
        work.status = GIVEN_UP if status == 130 else LEFT
        if self.killed:
            work.why = "it did not answer in time"
        work.why = work.why or f"pycr {work.verb} ended with status {status}"


def as_owner(job: Job) -> dict[str, Any]:
    """Return what makes a process the job's owner's, and its environment. Raises NotSupported."""
    environment = commands.environment(for_reading=False)
    environment["LC_ALL"] = "C.UTF-8"
    if os.geteuid() != 0 or job.uid == 0:
        return {"env": environment}
    try:
        entry = pwd.getpwuid(job.uid)
    except KeyError as error:
        raise NotSupported(f"its owner, uid {job.uid}, is not known on this host") from error
    environment.pop("KRB5CCNAME", None)
    environment.update(HOME=entry.pw_dir, USER=entry.pw_name, LOGNAME=entry.pw_name)
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return {
        "env": environment,
        "user": job.uid,
        "group": entry.pw_gid,
        "extra_groups": groups,
        "umask": 0o077,
    }


def _rows(text: str) -> list[dict[str, Any]]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def carry_out(
    works: Sequence[Work], parallel: int, max_wait: int, show: Callable[[int, int], None]
) -> bool:
    """Do what is planned, so many at a time; return whether it was interrupted.

    Interrupted, what runs is given up in order, and what has not begun is left.
    show: called with how many are done, of how many.
    """
    waiting = [work for work in works if work.verb]
    total = len(waiting)
    children: list[Child] = []
    told: list[int] = []  # signals
    # No exception out of the middle of starting one: it would run on without us.
    before = {number: signal.signal(number, lambda got, _: told.append(got)) for number in ENDING}
    try:
        heard = 0
        while waiting or children:
            if len(told) > heard:
                heard = len(told)
                for work in waiting:
                    work.status, work.why = LEFT, "interrupted before its turn"
                waiting = []
                for child in children:
                    child.give_up()
            while waiting and len(children) < parallel:
                _start(waiting.pop(0), max_wait, children)
            children = [child for child in children if not child.poll()]
            show(total - len(waiting) - len(children), total)
            if children:
                time.sleep(POLL)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return bool(told)


def _start(work: Work, max_wait: int, children: list[Child]) -> None:
    try:
        children.append(Child(work, max_wait))
    except (PycrError, OSError) as error:
        work.status, work.why = LEFT, str(error)


def remain(works: Iterable[Work]) -> list[Work]:
    """Return what is still on the nodes, or was when its requeue failed."""
    return [work for work in works if work.status not in (DONE, GONE)]
