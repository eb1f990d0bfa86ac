# SPDX-License-Identifier: GPL-2.0-or-later
"""What a checkpoint leaves in its job's journal, and what it refuses by it: the side that writes.

    refuse_disabled ---- began ----- committed        for each generation
                           |   `---- failed
                           `- none where its writer was killed: `began` says until when it counts

A journal that cannot be written is told of and is no reason to lose a checkpoint.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pycr import config, image, journal
from pycr.errors import Busy, Disabled, NoSuchUser, PycrError
from pycr.journal import Journal
from pycr.slurm import BATCH, Job, Step

if TYPE_CHECKING:
    from pycr.step import Checkpoint

GRACE = 60.0  # seconds after --max-wait in which a checkpoint that is being given up may still run
GENERAL = 1  # the code of a failure for which Slurm has none: SLURM_ERROR is -1, which is no code


def of_job(site: config.Site, job_id: int) -> Journal | None:
    """Return a job's journal, None where there can be none: the user has no home here."""
    try:
        return Journal(config.default_dir(site, job_id), job_id)
    except NoSuchUser:
        return None


def since(job: Job, step: Step | None = None) -> str:
    """Return what tells one life of a step, or of the job, from the others: when it started."""
    fields = job.fields if step is None or step.step_id == BATCH else step.fields
    return fields.get("StartTime", "")


class Record:
    """What is written of one command's checkpoints."""

    def __init__(self, site: config.Site, job: Job, warn: Callable[[str], None]) -> None:
        self.job, self.warn = job, warn
        self.journal = of_job(site, job.job_id)
        self.id = os.urandom(4).hex()
        self.vacate = False
        self.told = False  # of what was made

    def refuse_disabled(self, steps: Iterable[Step]) -> None:
        """Refuse steps for which checkpoints are disabled, or for whose job.

        Raises Disabled, DirectoryError, AccessDenied.
        """
        events = self.journal.events() if self.journal is not None else []
        if not events:
            return
        for step in steps:
            found = journal.state(events, step.name, since(self.job, step), since(self.job))
            if found.disabled or found.job_disabled:
                name = step.name if found.disabled else str(self.job.job_id)
                times = max(found.disabled, found.job_disabled)
                more = f", {times} times" if times > 1 else ""
                raise Disabled(f"{step.title}: checkpoints are disabled{more}: pycr enable {name}")

    def began(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Note that they are under way. The last is the one that has the generation."""
        first, whole = checkpoints[0], checkpoints[-1]
        assert whole.writer is not None
        self.vacate = first.options.vacate
        needs: dict[str, int] = {}
        for each in checkpoints:
            for node, size in each.needs_by_node().items():
                needs[node] = needs.get(node, 0) + size
        self._append(
            "began",
            host=socket.gethostname(),
            pid=os.getpid(),
            until=time.time() + max(0.0, whole.deadline - time.monotonic()) + GRACE,
            dir=[str(each.writer.path) for each in checkpoints if each.writer is not None],
            needs=needs,
            steps=[each.step.name for each in checkpoints],
            vacate=self.vacate,
        )

    def committed(self, made: Sequence[Path]) -> None:
        """Note the generations that were made, once."""
        if self.told:
            return
        self.told = True
        for path in made:
            every = image.load_all(path)
            self._append(
                "committed",
                steps=[image.step_name(each.job_id, each.step_id) for each in every],
                path=str(path),
                size=sum(each.size for each in every),
                frozen=max(each.frozen for each in every),
                seconds=time.time() - min(task.began for each in every for task in each.tasks),
                vacate=self.vacate,
            )

    def failed(self, steps: Sequence[Step], error: BaseException) -> None:
        """Note why they were not made; that another is under way is no failure of this one."""
        if isinstance(error, (Busy, Disabled)):
            return
        code = error.eslurm if isinstance(error, PycrError) else 0
        text = str(error) or "interrupted"
        names = [each.name for each in steps]
        self._append("failed", steps=names, code=code or GENERAL, message=text[: journal.LONGEST])

    def _append(self, event: str, **values: object) -> None:
        if self.journal is None:
            return
        try:
            self.journal.append(event, id=self.id, **values)
        except PycrError as error:
            self.warn(f"the journal of job {self.job.job_id} is not written: {error}")
