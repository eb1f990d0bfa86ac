# SPDX-License-Identifier: GPL-2.0-or-later
"""Checkpoint running steps: the coordinator, run by the user anywhere in the cluster.

A checkpoint of a step is a step itself: srun starts a helper on each of its nodes (node/), and
protocol.py has what they say to each other. This owns the order in which things may happen:

    create:  dump all, held -> let all go on -> make durable -> commit
    vacate:  dump all, held -> make durable -> commit -> end all

and what happens when they do not: before the commit, everything runs on and no trace is left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from pycr import __version__, config, protocol
from pycr.coordinator import interrupt, limits
from pycr.coordinator.helpers import Helpers
from pycr.coordinator.record import Record, since
from pycr.coordinator.slots import Slots
from pycr.errors import AlreadyDone, PycrError, SlurmError, TimedOut
from pycr.images.manifest import Manifest, TaskImage
from pycr.images.writer import Part, Writer
from pycr.slurm import Geometry, Job, Layout, Step, geometry
from pycr.slurm.api import slurm

MAX_WAIT = 60
STARTING = 5.0  # seconds that Slurm may take to start the tasks of a step that it knows
END_WAIT = 60
# Bytes of unread input from which on more may wait behind the pipe: it holds 64 KiB, but less where
# its pages are not filled.
PIPE = 32768

Progress = Callable[[str, int, int], None]


class Options(NamedTuple):
    """What a checkpoint is asked for.

    max_wait: seconds until it must be committed; 0: the site's default.
    """

    vacate: bool = False
    image_dir: str | None = None
    max_wait: int = 0
    independent: bool = False

    def at(self, site: config.Site) -> Options:
        """Return them with what the site has by default."""
        return self._replace(max_wait=self.max_wait or site.max_wait or MAX_WAIT)


class Checkpoint:
    """One step's checkpoint, phase by phase."""

    def __init__(
        self,
        job: Job,
        step: Step,
        site: config.Site,
        options: Options,
        progress: Progress,
        inside: Checkpoint | None = None,
    ) -> None:
        """Start its helpers. inside: the batch script's checkpoint that this is a part of."""
        self.job, self.step, self.options, self.progress = job, step, options, progress
        self.inside = inside
        self.deadline: float = inside.deadline if inside else time.monotonic() + options.max_wait
        self.layout = self._layout()
        self.site = site
        self.writer: Part | None = None
        self.committed: Path | None = None
        self.warnings: list[str] = []
        self.place = Path()  # the image directory; known from prepare() on
        self.needs = 0  # bytes of its image, at the least; known from prepare() on
        self.beside: Sequence[Checkpoint] = ()  # of the same command
        self.ended = False  # whether its tasks were told to end: the checkpoint then stays
        if sum(len(tasks) for tasks in self.layout.values()) != step.tasks:
            raise SlurmError(f"step {step.name}: Slurm says {step.tasks} tasks and lays out others")
        # A given directory can be looked at before anything is started.
        if options.image_dir is not None:
            config.check_directory(Path(options.image_dir))
        self.helpers = Helpers(step, self.layout, self.deadline)
        self.helpers.let_all_go = self.let_all_go
        self.helpers.tell(
            do="find", tasks=self.layout, wait=self._just_started(), patience=options.max_wait
        )

    def _layout(self) -> Layout:
        return slurm().layout(self.step.job_id, self.step.step_id)

    def _just_started(self) -> float:
        """Return the seconds to wait for tasks that may be about to start."""
        started = self.step.fields.get("StartTime", "")
        young = not started.isdigit() or time.time() - int(started) < STARTING
        return STARTING if young else 0.0

    def _count(self, event: str, what: str) -> None:
        total = self.step.tasks
        seen = self.helpers.events(event)
        self.helpers.until(
            lambda: len(seen) >= total, what, lambda: self.progress(what, len(seen), total)
        )

    def prepare(self) -> None:
        """Wait for the helpers, refuse what cannot be dumped, and begin the generation."""
        helpers = self.helpers
        helpers.until(
            lambda: len(helpers.ready) >= len(self.layout),
            "starting the helpers",
            lambda: self.progress("starting", len(helpers.ready), len(self.layout)),
        )
        for node, tasks in self.layout.items():
            found = helpers.ready[node]["tasks"]
            for task in tasks:
                value = found.get(str(task))
                where = self.step.where(task, node)
                if value is None:
                    raise AlreadyDone(f"{where}: it has ended")
                if "reason" in value:
                    raise protocol.error_class(value)(f"{where}: {value['reason']}")
        self.needs = sum(int(each["needs"]) for each in self._facts())
        directory = self.place = (self.inside or self)._image_dir()
        limits.before(self, directory)
        if self.inside is not None and self.inside.writer is not None:
            self.writer = self.inside.writer.part(self.step.name)
        else:
            with interrupt.put_off():
                self.writer = Writer(directory, self.step.job_id, self.step.step_id)
        self.writer.add_tasks(self.step.tasks)

    def _facts(self) -> list[protocol.Object]:
        """Return what the helpers have said of each task."""
        ready = self.helpers.ready.values()
        return [each for value in ready for each in value["tasks"].values()]

    def needs_by_node(self) -> dict[str, int]:
        """Return the bytes that each node writes, at the least. From prepare() on."""
        return {
            node: sum(int(each["needs"]) for each in value["tasks"].values())
            for node, value in self.helpers.ready.items()
        }

    def together(self) -> set[Checkpoint]:
        """Return all that this command checkpoints at the same time, this one among them."""
        return {self, *self.beside, *([self.inside] if self.inside is not None else ())}

    @property
    def wish(self) -> str | None:
        """The image directory that the job was submitted with, or the step started with."""
        return next((v["image_dir"] for v in self.helpers.ready.values() if v["image_dir"]), None)

    def _image_dir(self) -> Path:
        return config.image_dir(self.options.image_dir, self.wish, self.site, self.step.job_id)

    def ask(self) -> None:
        """Ask the processes that want to be asked (mailbox.py), and wait until they are ready."""
        if any(each["callbacks"] for each in self._facts()):
            self.helpers.tell(do="ask", patience=max(1.0, self.deadline - time.monotonic() - 1))
            self._count("asked", "waiting until the tasks are ready for it")

    def freeze(self) -> None:
        """Have every task stand still (or, when independent, dumped and let go at once)."""
        self._tell_dump(hold=not self.options.independent)
        if not self.options.independent:
            self._count("frozen", "freezing the tasks")

    def _tell_dump(self, **more: bool) -> None:
        assert self.writer is not None
        self.helpers.tell(
            do="dump",
            dir=str(self._real_path()),
            keep=not self.options.vacate,
            timeout=self.options.max_wait,
            **more,
        )

    def _real_path(self) -> Path:
        """Return where it is written: links up to the image directory are resolved, none below it,
        which its user could just have put there."""
        assert self.writer is not None
        place = (self.inside or self).place
        return place.resolve() / self.writer.path.relative_to(place)

    def dump(self) -> None:
        """Have every task written, and held."""
        self.helpers.tell(do="write")
        self._count("dumped", "the dump")
        for task, value in sorted(self.helpers.events("dumped").items()):
            if value["unread"] >= PIPE:
                self.warnings.append(
                    f"{self.step.where(task, self.helpers.node_of[task])} has not read"
                    f" {value['unread']} bytes of its input, and srun may hold more, which a"
                    " restart will not have"
                )

    def release(self) -> None:
        """Let every task go: on, or to its end."""
        self.ended = self.options.vacate
        self.helpers.tell(do="release")
        if not self.options.vacate:
            self._count("released", "letting the tasks go on")
            return
        # The job may end with its last task, and take the helpers with it before they report.
        with suppress(PycrError):
            self._count("released", "ending the tasks")
        end_step(self.job, self.step)

    def seal(self) -> None:
        """Have every file made durable and its checksum taken."""
        self.helpers.tell(do="seal")
        self._count("sealed", "making it durable")

    def commit(self) -> Path:
        """Make the generation visible and return its path."""
        assert self.writer is not None
        limits.after(self)
        self.committed = self.writer.commit(self._manifest())
        return self.committed

    def _manifest(self) -> Manifest:
        assert self.writer is not None
        helpers = self.helpers
        tasks = helpers.images(self.step.tasks)
        return Manifest(
            job_id=self.step.job_id,
            step_id=self.step.step_id,
            generation=self.generation,
            user=self.job.user,
            uid=self.job.uid,
            command=tasks[0].args or [tasks[0].exe],
            cwd=tasks[0].cwd,
            created=time.time(),
            work=self._work(tasks),
            kept_running=not self.options.vacate,
            geometry=self._geometry()._asdict(),
            hosts={node: value["host"] for node, value in helpers.ready.items()},
            versions={"pycr": __version__},
            batch=self._batch(),
            tasks=tasks,
        )

    @property
    def generation(self) -> int:
        """The number that it has, or that it is a part of."""
        writer = self.inside.writer if self.inside else self.writer
        assert isinstance(writer, Writer)
        return writer.generation

    def _geometry(self) -> Geometry:
        return geometry(self.job, self.step)

    def _work(self, tasks: Sequence[TaskImage]) -> float:
        """Return the seconds that it had run for when it stood still, since its first start.

        By the wall clock, as the nodes and slurmctld have it: a suspension counts too.
        """
        started = since(self.job, self.step)
        if not started.isdigit():
            return 0.0
        before = max((float(each.get("work", 0.0)) for each in self._facts()), default=0.0)
        return round(before + max(0.0, min(task.began for task in tasks) - int(started)), 3)

    def _batch(self) -> dict[str, Any]:
        return {}

    def let_all_go(self) -> None:
        """Have all that this command holds let go, before anything is asked or waited for."""
        for each in self.together():
            each.helpers.let_go()

    def give_up(self) -> None:
        """Let every task run on and leave no trace; after the first task's end, only end."""
        try:
            with interrupt.heard():
                self.helpers.end()
        finally:
            if self.writer is not None and not self.ended:
                self.writer.abandon()


def last_phases(options: Options) -> list[str]:
    """Return the phases from where everything is frozen."""
    if options.vacate:
        return ["dump", "seal", "commit", "release"]
    return ["dump", "release", "seal", "commit"]


def checkpoint(
    job: Job,
    steps: Sequence[Step],
    options: Options,
    progress: Progress,
    warn: Callable[[str], None],
) -> list[Path]:
    """Checkpoint steps of a job, all or none; return their generations in the same order.

    progress: called with what is done, how many of how many. warn: called with what is not in a
    checkpoint though it is made.

    Raises PycrError; then every task runs on, and no new generation exists.
    """
    begun: list[Checkpoint] = []
    site = config.site()
    options = options.at(site)
    record = Record(site, job, warn, options.image_dir)
    record.refuse_disabled(steps)
    slots = Slots(site, progress, warn)
    try:
        for step in steps:
            begun.append(Checkpoint(job, step, site, options, progress))
            begun[-1].beside = begun
        run_phases(begun, ["prepare"])
        slots.take(begun)
        record.began(begun)
        run_phases(begun, ["ask", "freeze", *last_phases(options)])
        interrupt.too_late()
    except BaseException as error:
        undo(begun, error)
        record.failed(steps, error)
        raise
    finally:
        slots.close()
    return conclude(begun, record, warn)


def run_phases(begun: Sequence[Checkpoint], names: Sequence[str]) -> None:
    """Run phases, each for all before the next. Raises PycrError."""
    for name in names:
        for each in begun:
            getattr(each, name)()


def give_up(begun: Sequence[Checkpoint], *more: type[BaseException]) -> None:
    """Let everything run on: all at once, and only then wait for each. more: ends a wait only."""
    for each in begun:
        each.helpers.let_go()
    # The first failure is the one to tell: what ending the helpers may add comes of it.
    for each in begun:
        with suppress(PycrError, *more):
            each.give_up()


def undo(begun: Sequence[Checkpoint], error: BaseException) -> None:
    """Let everything run on after an error; raise another where that tells more.

    An interrupt now, such as an impatient second one, ends waits, and what was begun goes still.
    """
    interrupt.too_late()
    give_up(begun, KeyboardInterrupt)
    ended = [each.step.name for each in begun if each.ended]
    if ended and isinstance(error, KeyboardInterrupt):
        text = f"interrupted after the commit: checkpointed and being ended: {', '.join(ended)}"
        raise PycrError(text) from error


def conclude(
    begun: Sequence[Checkpoint], record: Record, warn: Callable[[str], None]
) -> list[Path]:
    """End the helpers; return the generations that were made."""
    for each in begun:
        # All is committed and let go: helpers that are slow to end change nothing of that.
        with suppress(TimedOut, KeyboardInterrupt), interrupt.heard():
            each.helpers.end()
        if each.writer is not None:
            each.writer.close()
        for text in each.warnings:
            warn(text)
    made = [each.committed for each in begun if each.committed and each.inside is None]
    record.committed(made)
    return made


def end_step(job: Job, step: Step) -> None:
    """See to it that a vacated step is gone. Raises TimedOut when it is not."""
    give_up = time.monotonic() + END_WAIT
    asked = False
    delay = 0.02
    while any(each.step_id == step.step_id for each in slurm().steps(job)):
        if time.monotonic() > give_up:
            raise TimedOut(
                f"step {step.name}: checkpointed, but it has not ended after {END_WAIT} s:"
                f" scancel {step.name}"
            )
        if not asked and time.monotonic() > give_up - END_WAIT + 5:
            asked = True
            with suppress(SlurmError):
                slurm().kill_step(step.job_id, step.step_id)
        time.sleep(delay)
        delay = min(delay * 2, 1.0)
