# SPDX-License-Identifier: GPL-2.0-or-later
"""Checkpoint running steps: the coordinator, run by the user anywhere in the cluster.

A checkpoint of a step is a step itself: srun starts a helper on each of its nodes (node.py), and
protocol.py has what they say to each other. This owns the order in which things may happen:

    create:  dump all, held -> let all go on -> make durable -> commit
    vacate:  dump all, held -> make durable -> commit -> end all

and what happens when they do not: before the commit, everything runs on and no trace is left.
"""

from __future__ import annotations

import os
import pwd
import re
import selectors
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pycr import __version__, config, image, protocol
from pycr.errors import (
    AccessDenied,
    AlreadyDone,
    DirectoryError,
    JobPending,
    NotSupported,
    PycrError,
    SlurmError,
    TaskError,
    TimedOut,
)
from pycr.slurm import Job, Layout, Step, commands, geometry

MAX_WAIT = 60
# Seconds for helpers to let go after a failure before they are reported as stuck: CRIU must not be
# killed in the middle of a dump, since its code would stay inside the task.
LET_GO = 120
END_WAIT = 60

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Options:
    """What a checkpoint is asked for. max_wait: seconds until it must be committed."""

    vacate: bool = False
    image_dir: str | None = None
    max_wait: int = MAX_WAIT
    independent: bool = False


def find(job_id: int, step_id: int | None) -> tuple[Job, list[Step]]:
    """Return a job and the steps of it to checkpoint: the one named, or all.

    Raises NoSuchJob, AccessDenied, JobPending, AlreadyDone, SlurmError.
    """
    job = commands.job(job_id)
    name = f"job {job_id}" if step_id is None else f"step {job_id}.{step_id}"
    if job.uid != os.getuid():
        raise AccessDenied(f"{name}: it is {job.user}'s, not yours")
    if job.pending:
        raise JobPending(f"{name}: the job has not started")
    if job.state == "SUSPENDED":
        raise SlurmError(f"{name}: the job is suspended: resume it first")
    if not job.running:
        raise AlreadyDone(f"{name}: the job has ended ({job.state})")
    running = commands.steps(job_id)
    if step_id is not None:
        running = [step for step in running if step.step_id == step_id]
    if not running:
        if step_id is not None:
            raise AlreadyDone(f"{name}: no such step is running; it has ended or never was")
        raise AlreadyDone(f"{name}: no step of it is running")
    return job, running


class Helpers:
    """The helper step: srun, what it was told and what came back."""

    def __init__(self, step: Step, layout: Layout, deadline: float) -> None:
        """Start a helper on each node of the step. deadline: by time.monotonic()."""
        self.step, self.layout, self.deadline = step, layout, deadline
        self.node_of = {task: node for node, tasks in layout.items() for task in tasks}
        self.ready: dict[str, protocol.Object] = {}
        self.seen: dict[str, dict[int, protocol.Object]] = {}
        self.clean: set[str] = set()
        self.complaints: list[str] = []
        self._joiner = protocol.Joiner()
        self._buffers = {"out": b"", "err": b""}
        self.process = subprocess.Popen(
            [
                commands.program("srun"),
                f"--jobid={step.job_id}",
                "--overlap",
                f"--nodes={len(layout)}",
                f"--nodelist={','.join(layout)}",
                f"--ntasks={len(layout)}",
                "--ntasks-per-node=1",
                "--mem=0",
                "--gres=none",
                "--cpu-bind=none",
                "--mpi=none",
                "--input=all",
                "--wait=0",
                "--kill-on-bad-exit=0",
                "--chdir=/",
                "--job-name=pycr",
                f"--cr-helper={step.name}",
                "/bin/false",  # what runs, and fails, where the plugin is not
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=commands.environment(),
            start_new_session=True,  # a Ctrl-C is for this process, which then lets go in order
        )
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.stdin = self.process.stdin
        self._selector = selectors.DefaultSelector()
        self._selector.register(self.process.stdout, selectors.EVENT_READ, "out")
        self._selector.register(self.process.stderr, selectors.EVENT_READ, "err")

    def tell(self, **value: Any) -> None:
        """Send a command to every helper."""
        with suppress(BrokenPipeError):  # its end is seen, with its reason, when reading
            self.stdin.write(protocol.parse_line(value))
            self.stdin.flush()

    def events(self, name: str) -> dict[int, protocol.Object]:
        """Return what has come of an event, by task."""
        return self.seen.setdefault(name, {})

    def until(self, done: Callable[[], bool], what: str, tick: Callable[[], None]) -> None:
        """Take in what the helpers say until done() holds.

        Raises TimedOut, and what the helpers report or their end implies.
        """
        while not done():
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise TimedOut(
                    f"step {self.step.name}: {what} took longer than --max-wait: given up, the"
                    f" tasks run on{self._behind(what)}"
                )
            self.take(min(left, 0.5))
            tick()

    def take(self, timeout: float) -> bool:
        """Read what is there, for timeout seconds at most; tell whether the helpers still are."""
        for key, _ in self._selector.select(timeout):
            data = os.read(key.fd, 65536)
            if not data:
                self._selector.unregister(key.fileobj)
                if not self._selector.get_map():
                    raise self.lost()
                continue
            *lines, rest = (self._buffers[key.data] + data).split(b"\n")
            self._buffers[key.data] = rest
            for line in lines:
                text = line.decode("utf-8", "replace")
                if key.data == "out":
                    self._hear(text)
                else:
                    self._complaint(text)
        return bool(self._selector.get_map())

    def _hear(self, line: str) -> None:
        try:
            whole = self._joiner.feed(line)
        except ValueError as error:
            raise SlurmError(f"step {self.step.name}: {error}") from error
        if whole is None:
            return
        node, value = whole
        event = value.get("event")
        if event == "ready":
            self.ready[node] = value
        elif event == "clean":
            self.clean.add(node)
        elif event == "error":
            raise self._raised(f"step {self.step.name}: node {node}", value)
        elif event == "failed":
            raise self._raised(f"step {self.step.name}: task {value['task']} on {node}", value)
        else:
            self.events(str(event))[int(value["task"])] = value

    @staticmethod
    def _raised(where: str, value: protocol.Object) -> PycrError:
        return protocol.error_class(value)(f"{where}: {value.get('reason')}")

    def _complaint(self, line: str) -> None:
        if not line.strip():
            return
        self.complaints.append(line)
        # One helper's end does not end srun: the others wait for commands.
        if re.search(r"tasks? [\d,\-]+: |[Nn]ode failure|unrecognized option|aborting", line):
            raise self.lost()

    def lost(self) -> PycrError:
        """Say why the helpers, or one of them, are no more."""
        words = " ".join(self.complaints)
        if "unrecognized option" in words or "unknown option" in words:
            return NotSupported(
                f"step {self.step.name}: srun here does not know --cr-helper: the spank_cr plugin"
                f" is not enabled on this host ({os.uname().nodename}): add it to plugstack.conf"
            )
        own = [line for line in self.complaints if " cr: " in line]
        if own:
            return NotSupported(f"step {self.step.name}: {own[0].split(' cr: ', 1)[1]}")
        missing = sorted(set(self.layout) - set(self.ready))
        match = re.search(r"error: (\S+): tasks? [\d,\-]+: (.*)", words)
        if missing and match and match.group(1) in missing:
            return NotSupported(
                f"step {self.step.name}: node {match.group(1)}: the helper did not start"
                f" ({match.group(2)}): is the spank_cr plugin enabled there (plugstack.conf)?"
            )
        last = self.complaints[-1] if self.complaints else "srun ended without a word"
        return SlurmError(f"step {self.step.name}: the helpers were lost: {last}")

    def _behind(self, what: str) -> str:
        """Say what was still waited for."""
        event = {"the dump": "dumped", "making it durable": "sealed"}.get(what)
        if event is None:
            nodes = sorted(set(self.layout) - set(self.ready))
            waiting = [f"node {node}" for node in nodes]
        else:
            done = self.events(event)
            left = sorted(task for task in self.node_of if task not in done)
            waiting = [f"task {task} on {self.node_of[task]}" for task in left]
        if not waiting:
            return ""
        last = f"; {self.complaints[-1]}" if self.complaints else ""
        return f" (waited for {waiting[0]}{last})"

    def end(self) -> None:
        """Let the helpers end and wait until they have. Raises TimedOut when they do not."""
        with suppress(OSError):
            self.stdin.close()
        give_up = time.monotonic() + LET_GO
        while self._selector.get_map() and time.monotonic() < give_up:
            with suppress(PycrError):
                self.take(0.5)
        try:
            self.process.wait(max(0.1, give_up - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            raise TimedOut(
                f"step {self.step.name}: its helpers do not end: look at them with"
                f" squeue -s -j {self.step.job_id}"
            ) from error


class Checkpoint:
    """One step's checkpoint, phase by phase."""

    def __init__(self, job: Job, step: Step, options: Options, progress: Progress) -> None:
        self.job, self.step, self.options, self.progress = job, step, options, progress
        self.deadline = time.monotonic() + options.max_wait
        self.layout = commands.layout(step.job_id, step.step_id)
        self.site = site()
        self.writer: image.Writer | None = None
        self.committed: Path | None = None
        if sum(len(tasks) for tasks in self.layout.values()) != step.tasks:
            raise SlurmError(f"step {step.name}: Slurm says {step.tasks} tasks and lays out others")
        # A given directory can be looked at before anything is started.
        if options.image_dir is not None:
            check_directory(Path(options.image_dir))
        self.helpers = Helpers(step, self.layout, self.deadline)

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
                where = f"step {self.step.name}: task {task} on {node}"
                if value is None:
                    raise AlreadyDone(f"{where}: it has ended")
                if "reason" in value:
                    raise protocol.error_class(value)(f"{where}: {value['reason']}")
        self.writer = image.Writer(self._image_dir(), self.step.job_id, self.step.step_id)
        self.writer.add_tasks(self.step.tasks)

    def _image_dir(self) -> Path:
        wish = next((v["image_dir"] for v in self.helpers.ready.values() if v["image_dir"]), None)
        return image_dir(self.options.image_dir, wish, self.site, self.step.job_id)

    def dump(self) -> None:
        """Have every task dumped and held (or, when independent, let go at once)."""
        assert self.writer is not None
        self.helpers.tell(
            do="dump",
            dir=str(self.writer.path.resolve()),
            keep=not self.options.vacate,
            hold=not self.options.independent,
            timeout=self.options.max_wait,
        )
        self._count("dumped", "the dump")

    def release(self) -> None:
        """Let every task go: on, or to its end."""
        self.helpers.tell(do="release")
        if not self.options.vacate:
            self._count("released", "letting the tasks go on")
            return
        # The job may end with its last task, and take the helpers with it before they report.
        with suppress(PycrError):
            self._count("released", "ending the tasks")
        end_step(self.step)

    def seal(self) -> None:
        """Have every file made durable and its checksum taken."""
        self.helpers.tell(do="seal")
        helpers = self.helpers
        helpers.until(
            lambda: len(helpers.clean) >= len(self.layout),
            "making it durable",
            lambda: self.progress("writing", len(helpers.events("sealed")), self.step.tasks),
        )
        if len(helpers.events("sealed")) != self.step.tasks:
            raise TaskError(f"step {self.step.name}: not every task's files were reported")

    def commit(self) -> Path:
        """Make the generation visible and return its path."""
        assert self.writer is not None
        self.committed = self.writer.commit(self._manifest())
        return self.committed

    def _manifest(self) -> image.Manifest:
        assert self.writer is not None
        helpers = self.helpers
        tasks = []
        for task in range(self.step.tasks):
            node = helpers.node_of[task]
            facts = helpers.ready[node]["tasks"][str(task)]
            dumped = helpers.events("dumped")[task]
            # A vacated task was frozen until its end: what counts is how long its dump froze it.
            times = helpers.events("released").get(task, dumped)
            tasks.append(
                image.TaskImage(
                    task_id=task,
                    node=node,
                    pids=facts["pids"],
                    max_pid=facts["max_pid"],
                    exe=facts["exe"],
                    args=facts["args"],
                    cwd=facts["cwd"],
                    streams=facts["streams"],
                    began=dumped["began"],
                    frozen=times["frozen"],
                    seconds=times["seconds"] if "seconds" in times else dumped["frozen"],
                    files=helpers.events("sealed")[task]["files"],
                )
            )
        return image.Manifest(
            job_id=self.step.job_id,
            step_id=self.step.step_id,
            generation=self.writer.generation,
            user=self.job.user,
            uid=self.job.uid,
            command=tasks[0].args or [tasks[0].exe],
            cwd=tasks[0].cwd,
            created=time.time(),
            kept_running=not self.options.vacate,
            geometry=asdict(geometry(self.job, self.step)),
            hosts={node: value["host"] for node, value in helpers.ready.items()},
            versions={"pycr": __version__},
            tasks=tasks,
        )

    def finish(self) -> None:
        """End the helpers; before the commit that lets every task run on and removes the rest."""
        try:
            self.helpers.end()
        finally:
            if self.writer is not None and self.committed is None:
                self.writer.abandon()


def checkpoint(job: Job, steps: Sequence[Step], options: Options, progress: Progress) -> list[Path]:
    """Checkpoint steps of a job, all or none; return their generations in the same order.

    Raises PycrError; then every task runs on, and no new generation exists.
    """
    begun: list[Checkpoint] = []
    try:
        for step in steps:
            begun.append(Checkpoint(job, step, options, progress))
        phases = ["prepare", "dump"]
        phases += ["seal", "commit", "release"] if options.vacate else ["release", "seal", "commit"]
        for phase in phases:
            for each in begun:
                getattr(each, phase)()
    except BaseException:
        # The first failure is the one to tell: what ending the helpers may add comes of it.
        for each in begun:
            with suppress(PycrError):
                each.finish()
        raise
    for each in begun:
        each.finish()
    return [each.committed for each in begun if each.committed is not None]


def end_step(step: Step) -> None:
    """See to it that a vacated step is gone. Raises TimedOut when it is not."""
    give_up = time.monotonic() + END_WAIT
    asked = False
    delay = 0.02
    while any(each.step_id == step.step_id for each in commands.steps(step.job_id)):
        if time.monotonic() > give_up:
            raise TimedOut(
                f"step {step.name}: checkpointed, but it has not ended after {END_WAIT} s:"
                f" scancel {step.name}"
            )
        if not asked and time.monotonic() > give_up - END_WAIT + 5:
            asked = True
            with suppress(SlurmError):
                commands.kill_step(step.job_id, step.step_id)
        time.sleep(delay)
        delay = min(delay * 2, 1.0)


def site() -> config.Site:
    """Return the site's settings, from the plugstack.conf that Slurm reads here.

    Slurm names it only where it is not beside slurm.conf. Raises SlurmError.
    """
    settings = commands.configuration()
    named = settings.get("PlugStackConfig", "(null)")
    if named != "(null)":
        return config.read(named)
    confs = [os.environ.get("SLURM_CONF", ""), settings.get("SLURM_CONF", "")]
    places = [os.path.dirname(conf) for conf in confs if conf.startswith("/")]
    paths = [f"{place}/plugstack.conf" for place in (*places, "/etc/slurm", "/run/slurm/conf")]
    return config.read(next((path for path in paths if os.path.exists(path)), paths[0]))


def check_directory(path: Path) -> None:
    """Refuse an image directory that is missing or cannot be written. Raises DirectoryError."""
    if not path.is_dir():
        what = "not a directory" if path.exists() else "no such directory"
        raise DirectoryError(f"image directory {path}: {what}")
    if not os.access(path, os.W_OK | os.X_OK):
        raise DirectoryError(f"image directory {path}: you cannot write to it")


def image_dir(option: str | None, wish: str | None, settings: config.Site, job_id: int) -> Path:
    """Return the image directory: the option's, the variable's, the step's own, or the site's.

    Only the site's default is made when it is missing. Raises DirectoryError.
    """
    named = option or os.environ.get("SLURM_CHECKPOINT_DIR") or wish
    if named:
        check_directory(Path(named))
        return Path(named).absolute()
    path = default_dir(settings, job_id)
    try:
        path.mkdir(0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise image.directory_error(path, error) from error
    check_directory(path)
    return path


def default_dir(settings: config.Site, job_id: int) -> Path:
    """Return the site's default image directory for a job of this user's."""
    entry = pwd.getpwuid(os.getuid())
    return settings.default_dir(entry.pw_name, entry.pw_dir, job_id)
