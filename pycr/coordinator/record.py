# SPDX-License-Identifier: GPL-2.0-or-later
"""What a checkpoint leaves in its job's journal, and what it refuses by it: the side that writes.

    refuse_disabled ---- began ----- committed        for each generation
                           |   `---- failed
                           `- none where its writer was killed: `began` says until when it counts

A journal that cannot be written is told of and is no reason to lose a checkpoint. Behind committed
and failed runs the site's program, where there is one (hook.py).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pycr import config, journal
from pycr.coordinator import hook
from pycr.errors import Busy, Disabled, NoSuchUser, PycrError
from pycr.images import image
from pycr.journal import Event, Journal
from pycr.slurm import BATCH, Job, Step

if TYPE_CHECKING:
    from pycr.coordinator.step import Checkpoint

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


def refuse_disabled(events: Sequence[Event], job: Job, steps: Iterable[Step]) -> None:
    """Refuse steps of a job that its journal says are disabled. Raises Disabled."""
    if not events:
        return
    for step in steps:
        found = journal.state(events, step.name, since(job, step), since(job))
        if found.disabled or found.job_disabled:
            name = step.name if found.disabled else str(job.job_id)
            times = max(found.disabled, found.job_disabled)
            more = f", {times} times" if times > 1 else ""
            raise Disabled(f"{step.title}: checkpoints are disabled{more}: pycr enable {name}")


class Record:
    """What is written of one command's checkpoints."""

    def __init__(
        self,
        site: config.Site,
        job: Job,
        warn: Callable[[str], None],
        image_dir: str | None = None,
    ) -> None:
        """image_dir: that of the command line, where it names one."""
        self.job, self.site, self.warn = job, site, warn
        self.journal = of_job(site, job.job_id)
        self.id = os.urandom(4).hex()
        self.vacate = False
        default = self.journal.place if self.journal is not None else Path("/")
        self.place = Path(image_dir).absolute() if image_dir else default  # until began() knows
        self.told = False  # of what was made

    def refuse_disabled(self, steps: Iterable[Step]) -> None:
        """Refuse steps for which checkpoints are disabled, or for whose job.

        Raises Disabled, DirectoryError, AccessDenied.
        """
        events = self.journal.events() if self.journal is not None else []
        refuse_disabled(events, self.job, steps)

    def began(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Note that they are under way. The last is the one that has the generation."""
        first, whole = checkpoints[0], checkpoints[-1]
        assert whole.writer is not None
        self.vacate = first.options.vacate
        self.place = whole.writer.final.parent.parent
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
            since=since(self.job),
            submitted=self.job.fields.get("SubmitTime", ""),
        )

    def committed(self, made: Sequence[Path]) -> None:
        """Note the generations that were made, once."""
        if self.told:
            return
        self.told = True
        loaded = [(path, image.load_all(path)) for path in made]
        for path, every in loaded:
            self._append(
                "committed",
                steps=[image.step_name(each.job_id, each.step_id) for each in every],
                path=str(path),
                size=sum(each.size for each in every),
                frozen=max(each.frozen for each in every),
                seconds=time.time() - min(task.began for each in every for task in each.tasks),
                key=every[0].key,
                vacate=self.vacate,
            )
        for path, every in loaded:
            self._run_hook(every[0].step_id, 0, path)

    def ended(self, step: Step, why: str) -> None:
        """Note that a job is about to end by its checkpoint: nobody of the job's may live to."""
        self._append("ended", step=step.name, why=why)

    def failed(self, steps: Sequence[Step], error: BaseException) -> None:
        """Note why they were not made; that another is under way is no failure of this one."""
        if isinstance(error, (Busy, Disabled)):
            return
        code = error.eslurm if isinstance(error, PycrError) else 0
        text = str(error) or "interrupted"
        names = [each.name for each in steps]
        self._append("failed", steps=names, code=code or GENERAL, message=text[: journal.LONGEST])
        script = [each for each in steps if each.step_id == BATCH]
        for step in script or steps:  # the steps in a batch job's checkpoint are parts of it
            self._run_hook(step.step_id, code or GENERAL, self.place / step.name)

    def _run_hook(self, step_id: int, code: int, directory: Path) -> None:
        """Run the site's program, where it has one; that it fails is worth a warning."""
        if not self.site.after_checkpoint:
            return
        trouble = hook.run(self.site.after_checkpoint, self.job.job_id, step_id, code, directory)
        if trouble:
            self.warn(f"after_checkpoint (plugstack.conf): {trouble}")

    def _append(self, event: str, **values: object) -> None:
        if self.journal is None:
            return
        try:
            self.journal.append(event, id=self.id, **values)
        except PycrError as error:
            self.warn(f"the journal of job {self.job.job_id} is not written: {error}")
