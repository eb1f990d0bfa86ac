# SPDX-License-Identifier: GPL-2.0-or-later
"""PID 1 of a pod: has one task restored, reaps, passes signals on, and has it dumped again.

The plugin executes it (spank_cr/pod.pxi) as `python3 -I -m pycr.pod`, as the job's user, in new PID
and mount namespaces with a fresh /proc, so that the task finds its old process ids free. It stays
as long as the task: a restored task can only be dumped from inside, where its files were opened.
How it is restored is restore.py's; a node's helper is served by worker.py.
"""

from __future__ import annotations

import os
import re
import resource
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pycr import again, ask, identity, protocol
from pycr.errors import GeometryError, PycrError, RestoreFailed, printable
from pycr.images import image
from pycr.pod import worker
from pycr.pod.meeting import Meeting, OtherFailed, Place
from pycr.pod.restore import Job, Past, restore
from pycr.slurm import commands
from pycr.srun_cr import step

# After the task has ended, a dump that ended it may still have to report: seconds to wait for it.
LINGER = 10.0
SIGNALS_ALL = 3  # exit status of the process that asked


def slurm_signals_all() -> bool:
    """Tell whether Slurm itself signals every process of a step, and not just each task's first.

    proctrack/linuxproc does, and proctrack/cgroup with SignalChildrenProcesses: to pass a signal
    on would then deliver it twice.
    """
    try:
        settings = commands.configuration()
    except PycrError:
        return False
    return (
        settings.get("ProctrackType") == "proctrack/linuxproc"
        or settings.get("SignalChildrenProcesses", "no").lower() == "yes"
    )


def read_environment(descriptor: int) -> dict[str, str]:
    """Return the variables that Slurm made for this task, from the plugin's memfd."""
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)
        pairs = [os.fsdecode(each).partition("=") for each in file.read().split(b"\0") if each]
    return {name: value for name, _, value in pairs}


# What the job that pycr restart submits has of its own, or what Slurm hands on as options.
NOT_THE_JOBS = ("SLURM_SPANK_", "SLURM_OPEN_MODE", "SLURM_TIME_FORMAT", "SLURM_EXPORT_ENV")
ALWAYS = "SLURM_RESTART_COUNT"  # whether or not the first job had it


def is_slurms(name: str) -> bool:
    """Tell whether a variable is one that Slurm makes for a task to tell it of its job."""
    return name.startswith("SLURM") and not name.startswith(NOT_THE_JOBS)


def lengthen(past: Past, values: dict[str, str]) -> Past:
    """Return what Slurm's variables have been so far, and in one more job."""
    found: Past = {}
    for name in sorted({*past, *filter(is_slurms, values)}):
        known = past.get(name, [])
        value = values.get(name)
        found[name] = known if value in known else [*known, value]
    return found


def lives(past: Past, values: dict[str, str], now: dict[str, str]) -> int:
    """Return how often a restored task has been restarted, this time among them.

    Slurm counts a job's requeues, and nothing in a new job. past, values, now: Slurm's variables
    in the jobs before, those the task was first executed with, and those of this job.
    """
    before = [*past.get(ALWAYS, []), values.get(ALWAYS)]
    known = [int(each) for each in before if each is not None and is_count(each)]
    told = now.get(ALWAYS, "")
    return max(int(told) if is_count(told) else 0, max(known, default=0) + 1)


def is_count(text: str) -> bool:
    """Tell whether a variable's value is a count; it may be anything that its user likes."""
    return re.fullmatch("[0-9]{1,9}", text) is not None


class Pod:
    """The restored task and what goes on beside it."""

    def __init__(self, argv: list[str]) -> None:
        self.job_id, self.step_id, self.task_id, self.local_id = (int(word) for word in argv[:4])
        self.tasks, self.node, self.criu = int(argv[4]), argv[5], argv[6]
        self.ghost_limit = int(argv[8]) << 20
        self.directory = Path(argv[9])
        self.ctl, self.status = int(argv[10]), int(argv[11])
        self.environment = read_environment(int(argv[13]))
        self.past: Past = {}
        self.worked = 0.0  # seconds, in the jobs before
        self.private = int(argv[16])
        self.listener = socket.socket(fileno=int(argv[17]))
        self.job = Job(script=argv[14], requeued=argv[15] == "1", files=argv[18])
        # Where a requeued job finds its script's checkpoint by itself, or its step's.
        self.by_itself = self.environment.get(step.BY_ITSELF, "")
        self.generation = self.directory
        self.root = 0
        self.end: Callable[[], None] = lambda: None
        self.workers: set[int] = set()
        self.signals_all: bool | None = None
        self.learner = 0
        self.waiting: list[int] = []

    @property
    def step(self) -> str:
        return image.step_name(self.job_id, self.step_id)

    def where(self) -> str:
        """Name the task for a message."""
        what = "the batch script" if self.job.script else f"task {self.task_id}"
        return f"{what} on {self.node}"

    def first(self) -> dict[str, str]:
        """Return the variables that the task was executed with, in its first job."""
        try:
            first = Path(f"/proc/{self.root}/environ").read_bytes()
        except OSError:
            first = b""
        pairs = [os.fsdecode(each).partition("=") for each in first.split(b"\0") if each]
        return {name: value for name, _, value in pairs}

    def count(self) -> None:
        """Have what it tells of this job say how often the task has been restarted."""
        self.environment[ALWAYS] = str(lives(self.past, self.first(), self.environment))

    def changes(self) -> Past:
        """Return Slurm's variables that are otherwise now: name -> [now, in the jobs before...].

        Those that the first job did not have at all stay away: srun takes many for options, and
        the job that pycr restart submits names more of them than its user once did. The task's own
        first environment is what it was executed with.
        """
        before = lengthen(self.past, self.first())
        before.setdefault(ALWAYS, [None])
        found: Past = {}
        for name, values in before.items():
            now = self.environment.get(name)
            if [now] != values and (now is not None or name == ALWAYS):
                found[name] = [now, *values]
        return found

    def told(self) -> protocol.Object:
        """Return what a checkpoint's manifest is to have of the job, besides the task itself."""
        past = lengthen(self.past, self.environment)
        past.pop(identity.VARIABLE, None)
        if identity.VARIABLE in self.environment:
            past[identity.VARIABLE] = [self.environment[identity.VARIABLE]]
        return {
            "image_dir": self.environment.get("SLURM_CHECKPOINT_IMAGE_DIR", ""),
            "environment": past,
            "goes_on": identity.GOES_ON in self.environment,
            "work": self.worked,
        }

    def announce(self) -> None:
        """Tell the restored processes that wait for it where they are (mailbox.py)."""
        every = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        generation = str(self.generation)
        for process in ask.find(every):
            process.tell(
                "restarted",
                image_dir=generation,
                files=self.job.files,
                environment=self.changes(),
            )
            process.close()

    def serve(self) -> None:
        """Reap, pass signals on and take requests, until the task has ended; never returns."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        listener = self.listener
        listener.setblocking(False)
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.close(null)
        poll = select.poll()
        for fd in (wake_read, self.ctl, listener.fileno()):
            poll.register(fd, select.POLLIN)
        ended: int | None = None
        give_up = 0.0
        while True:
            # First of all: the task may have ended before SIGCHLD had a handler.
            status = self.reap()
            if status is not None:
                ended, give_up = status, time.monotonic() + LINGER
            if ended is not None and (not self.workers or time.monotonic() > give_up):
                self.end()
                os.write(self.status, struct.pack("i", ended))
                os._exit(0)
            for fd, _ in poll.poll(1000 if ended is not None else None):
                if fd == wake_read:
                    with suppress(BlockingIOError):
                        os.read(wake_read, 4096)
                elif fd == self.ctl:
                    signals = os.read(self.ctl, 256)
                    if not signals:
                        os._exit(1)  # the parent is gone, and with it the step
                    for number in signals:
                        self.forward(number)
                else:
                    with suppress(OSError):
                        self.accept(listener)

    def reap(self) -> int | None:
        """Collect what has ended; return the task's wait status if it is among it."""
        found = None
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return found
            if pid == 0:
                return found
            self.workers.discard(pid)
            if pid == self.learner:
                self.learned(os.WIFEXITED(status) and os.WEXITSTATUS(status) == SIGNALS_ALL)
            if pid == self.root:
                found = status

    def forward(self, number: int) -> None:
        """Pass a signal on to the task, once.

        Whether that is for this process to do is asked of Slurm at the first signal, in a process
        of its own: with slurmctld down the answer takes minutes, and reaping must go on.
        """
        if self.signals_all is None:
            self.waiting.append(number)
            if not self.learner:
                try:
                    self.learner = os.fork()
                except OSError:
                    self.learned(False)
                else:
                    if self.learner == 0:
                        self.ask()
        elif not self.signals_all:
            with suppress(OSError):
                os.kill(self.root, number)

    def ask(self) -> None:
        """Be the process that asks Slurm; never returns."""
        status = 0
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            status = SIGNALS_ALL if slurm_signals_all() else 0
        finally:
            os._exit(status)

    def learned(self, signals_all: bool) -> None:
        """Take the answer, and pass on what came meanwhile."""
        self.signals_all = signals_all
        waiting, self.waiting = self.waiting, []
        for number in waiting:
            self.forward(number)

    def accept(self, listener: socket.socket) -> None:
        """Serve a node helper in a process of its own, so that nothing here ever waits for it."""
        connection, _ = listener.accept()
        with connection:
            if protocol.peer_uid(connection) != os.getuid():
                return
            pid = os.fork()
            if pid:
                self.workers.add(pid)
                return
            status = 1
            try:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                listener.close()
                os.close(self.ctl)
                os.close(self.status)
                connection.setblocking(True)
                worker.work(self, connection)
                status = 0
            finally:
                os._exit(status)


def main() -> int:
    """Run the pod with the plugin's words; returns only when the task was not restored."""
    os.umask(0o077)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a pod's PID 1 ignores what it does not catch
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the task gets its own back
    pod = Pod(sys.argv[1:])
    meeting: Meeting | None = None
    script: again.Script | None = None
    try:
        if pod.job.requeued:
            script = again.Script(pod.job_id, pod.directory, pod.environment)
            pod.generation = script.choose()
        generation = pod.generation = image.resolve(pod.generation)
        meeting = Meeting(generation, Place(pod.step, pod.task_id, pod.tasks))
        restored = restore(pod.criu, generation, meeting, pod.job, pod.private)
        pod.root, pod.past, pod.end = restored.pid, restored.past, restored.end
        pod.worked = restored.work
        pod.count()
        pod.announce()
        if script is not None:
            script.restored(generation)
    except OtherFailed:
        return RestoreFailed.exit_status  # that one has said why
    except GeometryError as error:
        if pod.task_id == 0:  # all find the same
            print(f"pycr: couldn't restart: {printable(str(error))}", file=sys.stderr, flush=True)
            if pod.by_itself:
                again.say_failed(pod.generation, pod.step, pod.by_itself, error, pod.where())
        return RestoreFailed.exit_status
    except Exception as error:
        text = str(error) if isinstance(error, PycrError) else f"{type(error).__name__}: {error}"
        if pod.by_itself:
            again.say_failed(pod.generation, pod.step, pod.by_itself, error, pod.where())
        if script is not None:
            said = script.after(pod.generation if meeting is not None else None, error)
            text = f"{text}; {said}" if said else text
        text = printable(f"{pod.where()}: {text}")
        print(f"pycr: couldn't restart: {text}", file=sys.stderr, flush=True)
        # The others must not go on without this one; a lone task's own status says it all.
        if (meeting is None or not meeting.fail()) and pod.tasks > 1:
            with suppress(PycrError):
                commands.kill_step(pod.job_id, pod.step_id)
        return RestoreFailed.exit_status
    for note in restored.notes:
        print(f"pycr: {pod.where()}: {printable(note)}", file=sys.stderr, flush=True)
    pod.serve()
    return 0
