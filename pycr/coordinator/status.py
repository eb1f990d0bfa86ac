# SPDX-License-Identifier: GPL-2.0-or-later
"""What there is to know of a job's checkpoints: from Slurm, its journal and what is on disk.

Facts for `pycr status` (cli/status.py prints them); nothing is written, and no node is asked. How
far a running checkpoint is, is told by the files it has written so far, where this host sees them:

    freezing   nothing is written yet        durable    all is written; fsync and checksums
    writing    some task is not whole yet    ending     it is visible, or given up
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from pycr import config, journal
from pycr.coordinator import record
from pycr.errors import PycrError
from pycr.images import image
from pycr.images.manifest import LONG
from pycr.journal import Event, Running
from pycr.keeper import plan
from pycr.protocol import is_helper
from pycr.slurm import BATCH, Job, Layout, Step, batch_step, commands

WHOLE = "inventory.img"  # CRIU writes it last (cr_dump_tasks() in its cr-dump.c)


class Part(NamedTuple):
    """What is written of what: bytes."""

    written: int
    needs: int

    @property
    def share(self) -> float:
        """How much of it is done, from 0 to 1: the needs are only the least there will be."""
        return min(1.0, self.written / self.needs) if self.needs > 0 else 1.0


class Progress(NamedTuple):
    """A running checkpoint. began: seconds since the epoch. nodes: by name, where known."""

    id: str
    steps: tuple[str, ...]
    began: float
    phase: str
    whole: Part
    nodes: dict[str, Part]


class Keeping(NamedTuple):
    """What a keeper does for it: all 0 where it does nothing.

    interval, before_end: seconds. next: of the next checkpoint, seconds since the epoch.
    """

    interval: float = 0.0
    before_end: float = 0.0
    next: float = 0.0


class Last(NamedTuple):
    """The last generation. work: see manifest.py. why: why it is of no use now, "" where it is."""

    path: str
    created: float
    size: int
    frozen: float
    work: float
    why: str


class Of(NamedTuple):
    """A step, or a job's batch script. disabled: how often, its whole job not counted."""

    step: str
    name: str
    state: str
    tasks: int
    nodes: int
    started: float
    disabled: int
    keeping: Keeping
    last: Last | None
    running: Progress | None
    error_code: int
    error_msg: str


class Status(NamedTuple):
    """A job. started, ends: seconds since the epoch, 0 where not known or for ever."""

    job_id: int
    user: str
    name: str
    state: str
    restarts: int
    started: float
    ends: float
    disabled: int
    steps: list[Of]

    def json(self) -> dict[str, Any]:
        """Return it as JSON has it: what is not known, or not there, is null."""
        steps = []
        for each in self.steps:
            keeping = {name: value or None for name, value in each.keeping._asdict().items()}
            last = each.last and {**each.last._asdict(), "work": each.last.work or None}
            running = each.running and {
                **each.running._asdict(),
                "whole": each.running.whole._asdict(),
                "nodes": {name: part._asdict() for name, part in each.running.nodes.items()},
            }
            values = {**each._asdict(), "started": each.started or None, **keeping}
            del values["keeping"]
            steps.append({**values, "last": last, "running": running})
        times = {"started": self.started or None, "ends": self.ends or None}
        return {**self._asdict(), **times, "steps": steps}


class Reader:
    """Reads one job's status, as often as it is asked. As root it must be the job's owner."""

    def __init__(self, job: Job, step_id: int | None) -> None:
        """step_id: of the one step, or BATCH; None for the whole job. Raises SlurmError."""
        self.job, self.step_id = job, step_id
        self.site = config.site()
        self.layouts: dict[str, Layout] = {}

    def read(self) -> Status:
        """Return the status as it is now. Raises NoSuchJob, SlurmError, AccessDenied..."""
        job = self.job = commands.job(self.job.job_id)
        book = record.of_job(self.site, job.job_id)
        events = book.events() if book is not None else []
        steps = self._steps(events)
        whole = journal.state(events, None, "", record.since(job))
        restarts = job.fields.get("Restarts", "0")
        return Status(
            job_id=job.job_id,
            user=job.user,
            name=job.fields.get("JobName", ""),
            state=job.state,
            restarts=int(restarts) if restarts.isdigit() else 0,
            started=number(record.since(job)),
            ends=number(job.fields.get("EndTime", "")),
            disabled=whole.job_disabled,
            steps=[self._of(step, events) for step in steps],
        )

    def _steps(self, events: Iterable[Event]) -> list[Step]:
        """Return what there is to tell of: what runs; else what the journal knows."""
        job = self.job
        found = [batch_step(job)] if job.is_batch else []
        if job.running:
            found += [
                step for step in commands.steps(job) if not is_helper(step.fields.get("Name", ""))
            ]
        if self.step_id is not None:
            found = [step for step in found if step.step_id == self.step_id]
        if not found:
            names = {name for event in events for name in named(event)}
            found = [ended(job, name) for name in sorted(names, key=by_number)]
        if self.step_id is not None:
            found = [step for step in found if step.step_id == self.step_id]
        return found or ([ended(job, self._name())] if self.step_id is not None else [])

    def _name(self) -> str:
        assert self.step_id is not None
        return image.step_name(self.job.job_id, self.step_id)

    def _of(self, step: Step, events: list[Event]) -> Of:
        job = self.job
        life = record.since(job, step)
        state = journal.state(events, step.name, life, record.since(job))
        return Of(
            step=step.name,
            name=job.fields.get("JobName", "")
            if step.step_id == BATCH
            else step.fields.get("Name", ""),
            state=job.state if step.step_id == BATCH else step.state,
            tasks=step.tasks,
            nodes=step.nodes,
            started=number(life),
            disabled=state.disabled,
            keeping=keeping(events, step, job, time.time()) if job.running else Keeping(),
            last=last(state.last),
            running=self._progress(state.running) if state.running is not None else None,
            error_code=state.error_code,
            error_msg=state.error_msg,
        )

    def _progress(self, running: Running) -> Progress:
        where = {name: self._layout(name) for name in running.steps}
        return progress(running, where)

    def _layout(self, name: str) -> Layout:
        """Return which tasks are where, {} where Slurm does not say any more."""
        if name not in self.layouts:
            step_id = name.partition(".")[2]
            if step_id == "batch":
                self.layouts[name] = {self.job.fields.get("BatchHost", ""): [0]}
            else:
                with suppress(PycrError, ValueError):
                    self.layouts[name] = commands.layout(self.job.job_id, int(step_id))
        return self.layouts.get(name, {})


def number(text: str) -> float:
    """Return a moment as Slurm prints it, 0 where it is none ("Unknown")."""
    return float(text) if text.isdigit() else 0.0


def named(event: Event) -> list[str]:
    """Return the steps that an event of the journal is of; none where of the whole job."""
    names = event.get("steps") or [event.get("step")]
    if not isinstance(names, list):
        return []
    return [name for name in names if isinstance(name, str) and image.STEP.fullmatch(name)]


def by_number(name: str) -> int:
    """Return what to sort a job's steps by: its script first."""
    step_id = name.partition(".")[2]
    return int(step_id) if step_id.isdigit() else -1


def ended(job: Job, name: str) -> Step:
    """Return a step that Slurm does not know any more."""
    step_id = name.partition(".")[2]
    return Step(
        job.job_id, BATCH if step_id == "batch" else int(step_id), job.uid, "ENDED", 0, 0, {}
    )


def keeping(events: Iterable[Event], step: Step, job: Job, now: float) -> Keeping:
    """Return what a keeper does for a step, or for the batch script, in the life it is in.

    now: seconds since the epoch.
    """
    life = record.since(job, step)
    interval = before_end = start = told = 0.0
    for event in events:
        names = named(event)
        if step.name not in names and (names or step.step_id != BATCH):
            continue
        what = event["event"]
        if what == "life":
            mine = event.get("since") in (None, life)
            interval = seconds(event.get("interval")) if mine else 0.0
            before_end = seconds(event.get("before_end")) if mine else 0.0
            start, told = float(event["time"]), 0.0
        elif what == "ended":
            interval = before_end = 0.0
        elif what == "next":
            told = seconds(event.get("at"))
        elif what == "committed":
            told = 0.0
    if not interval and not before_end:
        return Keeping()
    at_end = number(job.fields.get("EndTime", "")) - before_end if before_end else 0.0
    due = plan.next_tick(start, interval, now) if interval else 0.0
    wanted = [each for each in (told if told > now else due, at_end) if each > 0]
    return Keeping(interval, before_end, min(wanted, default=0.0))


def seconds(value: object) -> float:
    """Return a time of the journal's, 0 where it is none."""
    return float(value) if isinstance(value, (int, float)) and 0 < value < LONG else 0.0


def last(event: Event | None) -> Last | None:
    """Return the last generation: as it is on disk, or, where it is not, as the journal has it."""
    if event is None:
        return None
    path = Path(str(event.get("path", "")))
    try:
        every = image.load_all(path)
    except PycrError as error:
        size, frozen = event.get("size"), event.get("frozen")
        return Last(
            str(path),
            float(event["time"]),
            size if type(size) is int else 0,
            seconds(frozen),
            0.0,
            "it has been removed" if not os.path.isdir(path) else str(error),
        )
    frozen = max(each.frozen for each in every)
    size = sum(each.size for each in every)
    return Last(str(path), every[0].created, size, frozen, every[0].work, "")


def progress(running: Running, where: dict[str, Layout]) -> Progress:
    """Return how far a checkpoint is. where: each step's layout."""
    written = dict.fromkeys(running.needs, 0)
    total, seen, whole = 0, 0, True
    for name, directory in zip(running.steps, running.dirs):
        seen += os.path.isdir(directory)
        node_of = {task: node for node, tasks in where[name].items() for task in tasks}
        for task, node in node_of.items():
            size, done = task_size(os.path.join(directory, image.task_name(task)))
            whole = whole and done
            total += size
            if node in written:
                written[node] += size
        if not node_of:  # the step has just ended, or is not told of
            whole = False
    phase = "freezing" if not total else "durable" if whole else "writing"
    if not seen:
        phase, total, written = "ending", sum(running.needs.values()), dict(running.needs)
    return Progress(
        id=running.id,
        steps=running.steps,
        began=running.began,
        phase=phase,
        whole=Part(total, sum(running.needs.values())),
        nodes={node: Part(written[node], size) for node, size in sorted(running.needs.items())},
    )


def task_size(path: str) -> tuple[int, bool]:
    """Return the bytes that a task's directory has so far, and whether CRIU has done with it."""
    size, done = 0, False
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                with suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode):
                        size += status.st_size
                        done = done or entry.name == WHOLE
    except OSError:
        return 0, False
    return size, done
