# SPDX-License-Identifier: GPL-2.0-or-later
"""Checkpoint a batch job: its script, and the steps that srun_cr processes of it wait for.

The script is one more tree beside the steps' tasks (step.py), dumped by a helper on its node, into
one generation with them, which becomes visible by one rename. What is its own is the order:

    ask     every srun_cr of the script which step it waits for; it then does nothing else
    freeze  the tasks of those steps; hold their output; then the script, with its srun_cr
    ...     as for a step
    release (vacate) the tasks, then what their sruns still say is collected, then the script

A script does not stand still before it is frozen. Where a step has ended or begun meanwhile, all
goes on and it is asked again, until --max-wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pycr import config
from pycr.coordinator import interrupt, step
from pycr.coordinator.record import Record
from pycr.coordinator.slots import Slots
from pycr.coordinator.step import Checkpoint, Options, Progress
from pycr.errors import AlreadyDone, Later, NotSupported, PycrError, SlurmError, TimedOut
from pycr.images import image
from pycr.images.requeue import write_requeue
from pycr.protocol import is_helper
from pycr.slurm import Geometry, Job, Layout, Step, batch_step, job_geometry, preemption
from pycr.slurm.api import slurm

NOTICE = 0.5  # seconds that Slurm may take to notice that a step has ended
ENDING = 2.0  # and after which, where some of its tasks have, it will go on without them
EPILOG = 10.0  # seconds to wait until a job that is as good as ended has
AGAIN = 0.1  # seconds between attempts


def check(job: Job, requeue: bool) -> None:
    """Refuse a job whose batch script cannot be checkpointed, as far as Slurm can say.

    Raises NotSupported, SlurmError.
    """
    name = f"job {job.job_id}"
    if not job.is_batch:
        more = "only such a job is requeued" if requeue else f"name a step, as {job.job_id}.0"
        raise NotSupported(f"{name}: it runs no batch script: {more}")
    if "ArrayJobId" in job.fields:
        raise NotSupported(f"{name}: scripts of job arrays cannot be checkpointed yet, only steps")
    if "HetJobId" in job.fields:
        raise NotSupported(f"{name}: heterogeneous jobs cannot be checkpointed yet")
    if requeue and job.fields.get("Requeue") == "0":
        raise SlurmError(
            f"{name}: it may not be requeued: scontrol update jobid={job.job_id} requeue=1"
        )


def refuse_shell(job: Job) -> None:
    """Refuse a job that is a shell's at a terminal: salloc, whose default name it has.

    Raises NotSupported.
    """
    if job.fields.get("JobName") == "interactive":
        raise NotSupported(
            f"job {job.job_id}: it is salloc's, whose shell at a terminal cannot be checkpointed:"
            f" name a step, as {job.job_id}.0"
        )


class Script(Checkpoint):
    """The batch script's part, and the whole's generation."""

    def __init__(
        self, job: Job, site: config.Site, options: Options, requeue: bool, progress: Progress
    ) -> None:
        self.requeue = requeue
        self.steps: list[Checkpoint] = []
        self.trouble: PycrError | None = None  # why it was not possible the last time
        self.trouble_since = 0.0
        super().__init__(job, batch_step(job), site, options, progress)

    def _layout(self) -> Layout:
        return {self.job.fields["BatchHost"]: [0]}

    def _geometry(self) -> Geometry:
        return job_geometry(self.job)

    def ask(self) -> None:
        """Ask the script's processes; step_names() then has what they wait for."""
        left = self.deadline - time.monotonic()
        self.helpers.forget("asked", "frozen")
        self.helpers.tell(do="ask", patience=max(0.0, left - 1))
        self._count("asked", "waiting until the script is ready for it")

    def refuse_for_good(self, error: PycrError) -> None:
        """Raise an error again unless it comes of what is just changing, and may pass."""
        if time.monotonic() > self.deadline:
            # The first one says what was in the way; the last may be that the time was short.
            raise TimedOut(f"{self.trouble or error}: given up after --max-wait") from error
        if self.helpers.stdin.closed:
            raise error  # a helper was lost, and all was let go
        if isinstance(error, Later) or self._has_changed(isinstance(error, AlreadyDone)):
            self.trouble, self.trouble_since = error, 0.0
            return
        # Where a step's tasks have ended and it has not, it may take Slurm a moment, or for ever.
        if not isinstance(error, AlreadyDone):
            raise error
        if not self.trouble_since:
            self.trouble, self.trouble_since = error, time.monotonic()
        elif time.monotonic() - self.trouble_since > ENDING:
            raise error

    def _has_changed(self, at_once: bool) -> bool:
        """Tell whether a step has ended since the script was asked; Slurm may take a moment."""
        names = set(self.step_names()) if "asked" in self.helpers.seen else set()
        give_up = time.monotonic() + (0 if at_once else NOTICE)
        while not names - {each.name for each in slurm().steps(self.job)}:
            if time.monotonic() >= give_up:
                return False
            time.sleep(AGAIN)
        return True

    def step_names(self) -> list[str]:
        """Return the steps that the script's srun_cr processes wait for."""
        return sorted(set(self.helpers.events("asked")[0]["steps"]))

    def warn_of_others(self, names: list[str], every: list[Step]) -> None:
        """Warn of steps that no srun_cr of the script waits for, where the job is to end.

        names: those that one does. Not while anything stands still: Slurm may be slow to answer.
        """
        self.warnings = [
            f"{other.title}: the script did not start it: it ends with the job, and is not in the"
            " checkpoint"
            for other in every
            if other.name not in names and not is_helper(other.fields.get("Name", ""))
        ]

    def freeze(self) -> None:
        """Hold the output of the script's sruns, and have the script stand still."""
        self._tell_dump(hold=True, outputs=self.options.vacate or self.goes_on)
        self._count("frozen", "freezing the script")

    def commit(self) -> Path:
        """Make the whole generation visible; what ends the helper now ends the script too."""
        if self.options.vacate:
            interrupt.too_late()  # half done, the job would be lost
        made = super().commit()
        if self.goes_on:
            write_requeue(self._home(), self.job.job_id, made, image.NEWEST)
        if self.requeue:
            write_requeue(self._home(), self.job.job_id, made)
        if self.options.vacate:
            self.ended = True  # its helper's end is the script's: the generation must stay
            self.helpers.tell(do="committed", requeue=self.requeue)
        return made

    @property
    def goes_on(self) -> bool:
        """Whether it was submitted with --cr: any later start of it goes on from this."""
        return any(value["goes_on"] for value in self.helpers.ready.values())

    def _home(self) -> Path:
        """Return the directory in which the plugin looks when Slurm starts the job again."""
        return Path(self.wish or config.default_dir(self.site, self.job.job_id))

    def release(self) -> None:
        """Let the script go: on, or to its job's end, or back to the queue."""
        if not self.options.vacate:
            super().release()
            return
        self.helpers.tell(do="collect", dir=str(self.committed))
        try:
            self._count("collected", "collecting output")
            for reason in self.helpers.events("collected")[0].get("reasons", []):
                self.warnings.append(f"job {self.job.job_id}: output is missing: {reason}")
        except PycrError as error:
            self.warnings.append(f"job {self.job.job_id}: output may be missing: {error}")
        try:
            if self.requeue:
                preemption.requeue(self.job.job_id, slurm().requeue)
            else:
                slurm().cancel(self.job.job_id)
        finally:
            self.helpers.tell(do="release")
        with suppress(PycrError):
            self._count("released", "ending the script")
        self._await_end()

    def _await_end(self) -> None:
        """Wait until Slurm has ended the job; its epilog may take longer than anyone waits for."""
        began = time.monotonic()
        delay = 0.05
        while True:
            state = slurm().job(self.job.job_id).state
            waited = time.monotonic() - began
            if state not in ("RUNNING", "COMPLETING"):
                return
            if state == "COMPLETING" and waited > EPILOG:
                return
            if waited > step.END_WAIT:
                raise TimedOut(
                    f"job {self.job.job_id}: checkpointed, but it has not ended after"
                    f" {step.END_WAIT} s: look at it with scontrol show job {self.job.job_id}"
                )
            time.sleep(delay)
            delay = min(delay * 2, 1.0)

    def _batch(self) -> dict[str, Any]:
        facts = next(iter(self.helpers.ready.values()))["tasks"]["0"]
        fields = self.job.fields
        return {
            "script": facts["script"],
            "offset": self.helpers.events("frozen")[0]["offset"],
            "work_dir": fields.get("WorkDir", "/"),
            "nodelist": fields.get("NodeList", ""),
            "home": str(self._home()),
            "steps": [each.step.name for each in self.steps],
        }


def checkpoint(
    job: Job,
    options: Options,
    requeue: bool,
    progress: Progress,
    warn: Callable[[str], None],
) -> list[Path]:
    """Checkpoint a batch job whole; return its one generation.

    requeue: put it back into the queue in place of ending it. progress, warn: as for step.py.

    Raises PycrError; then everything runs on, and no new generation exists.
    """
    check(job, requeue)
    site = config.site()
    options = options.at(site)
    record = Record(site, job, warn, options.image_dir)
    record.refuse_disabled([batch_step(job)])
    slots = Slots(site, progress, warn)
    script = Script(job, site, options, requeue, progress)
    try:
        script.prepare()
        slots.take([script])
        while not freeze_all(script, record, slots):
            time.sleep(AGAIN)
        for phase in step.last_phases(options):
            run_last(script, phase)
            if phase == "commit" and options.vacate and script.committed is not None:
                # What follows may be this process's end too: a keeper is a process of the job's.
                record.committed([script.committed])
                record.ended(script.step, "requeued" if requeue else "vacated")
        interrupt.too_late()
    except BaseException as error:
        step.undo([*script.steps, script], error)
        record.failed([*(each.step for each in script.steps), script.step], error)
        raise
    finally:
        slots.close()
    return step.conclude([*script.steps, script], record, warn)


def run_last(script: Script, phase: str) -> None:
    """Run a phase from where everything is frozen: the steps' parts first.

    From the commit on a vacated job has to end, or be requeued, whatever its steps do.
    """
    for each in script.steps:
        try:
            getattr(each, phase)()
        except PycrError as error:
            if not script.ended:
                raise
            script.warnings.append(str(error))
    getattr(script, phase)()


def freeze_all(script: Script, record: Record, slots: Slots) -> bool:
    """Have the steps' tasks, then the script, stand still; tell whether they do.

    Raises PycrError where it is no use to try again, or no time is left to.
    """
    script.ask()
    try:
        steps = running(script, script.step_names())
        record.refuse_disabled(steps)
        for each in steps:
            script.steps.append(
                Checkpoint(
                    script.job, each, script.site, script.options, script.progress, inside=script
                )
            )
            script.steps[-1].beside = script.beside = script.steps
        step.run_phases(script.steps, ["prepare"])
        slots.take([script, *script.steps])
        record.began([*script.steps, script])
        step.run_phases(script.steps, ["ask", "freeze"])
        script.freeze()
    except PycrError as error:
        # They first: with slurmctld down, Slurm's answer to what has changed takes minutes.
        step.give_up(script.steps)
        script.steps.clear()
        script.refuse_for_good(error)
        return False
    return True


def running(script: Script, names: list[str]) -> list[Step]:
    """Return the named steps. Raises AlreadyDone where one has just ended."""
    if not names and not script.options.vacate:
        return []
    every = slurm().steps(script.job)
    if script.options.vacate:
        script.warn_of_others(names, every)
    found = {each.name: each for each in every}
    for name in names:
        if name not in found:
            raise AlreadyDone(f"step {name}: it has just ended")
    return [found[name] for name in names]
