# SPDX-License-Identifier: GPL-2.0-or-later
"""One task on this node: what there is to say of it, and its dump, held until it is let go.

Used by dumper.py for a task as srun started it, and by pod/worker.py, inside the pod, for a
restored one.
Knows CRIU and /proc; knows neither Slurm nor the coordinator.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pycr import host
from pycr.engine import credentials, criu, holds, proc
from pycr.engine.files import note
from pycr.errors import AlreadyDone, DirectoryError, NotSupported, PycrError, TaskError
from pycr.images import image, space
from pycr.pod import files
from pycr.pod.hidden import Hidden
from pycr.protocol import Object, failure

# Seconds after which a criu is killed that was told to give up: it may hang in a file system that
# does not answer, or still have gigabytes to write, and the task stands still as long.
GIVE_UP = 10.0
SHEPHERD = 2.0  # seconds that an srun whose parent has ended may take to end too
Report = Callable[[Object], None]


class Limits(NamedTuple):
    """How dumps are done on this node: criu's path, the largest deleted file in bytes, and the
    seconds CRIU may take to freeze a task."""

    criu: str
    ghost_limit: int
    timeout: int


def describe(root: int) -> Object:
    """Say what a task is: its processes, program, directory and streams.

    Raises TaskError, AlreadyDone.
    """
    refuse_privileged(root)
    try:
        return {
            "pids": proc.tree(root),
            **program(root),
            "environment": {},
            "needs": holds.needs(root),
        }
    except FileNotFoundError as error:
        raise AlreadyDone("it has just ended") from error
    except PermissionError as error:
        if proc.ending(root):
            raise AlreadyDone("it has just ended") from error
        raise TaskError(
            "/proc does not let its owner look at it: it runs a set-user-ID or unreadable program,"
            " or made itself undumpable (PR_SET_DUMPABLE)"
        ) from error


def program(root: int) -> Object:
    """Say what a task runs, where, and on which streams. It may be something else a moment later.

    Raises OSError.
    """
    return {
        "exe": proc.link(root, "exe"),
        "args": proc.cmdline(root),
        "cwd": proc.link(root, "cwd"),
        "streams": [stream.json() for stream in proc.streams(root)],
    }


def refuse_privileged(root: int) -> None:
    """Refuse a tree in which a process has more than its user. Raises TaskError."""
    more = credentials.of_tree(root)
    if more:
        raise TaskError(
            f"{more}, which a restart could not give it: a set-user-ID program or a container"
            " cannot be checkpointed"
        )


def refuse_stopped(leader: int, step: str) -> None:
    """Refuse a stopped task: CRIU could not freeze it, a pod would not answer. Raises TaskError."""
    if proc.stopped(leader):
        raise TaskError(f"it is stopped: let it go on first (scancel -s CONT {step})")


def refuse(root: int, strays: set[int], pod: bool = False) -> None:
    """Refuse a task that CRIU could not dump, or not whole. Raises TaskError, NotSupported.

    strays: processes of the step (here, or in the pod) that are in no task's tree. pod: whether
    this is the task's pod.
    """
    forbidden = host.yama(host.ptrace_scope(), may_trace(), pod)
    if forbidden:
        raise NotSupported(f"yama does not let it be traced: {forbidden}")
    holds.refuse_traced(root)
    for stream in proc.streams(root):
        if stream.kind == "tty":
            name = ("standard input", "standard output", "standard error")[stream.fd]
            raise TaskError(
                f"its {name} is a terminal ({stream.name}): steps with --pty or --unbuffered"
                " cannot be checkpointed"
            )
    for pid in sorted(passing(strays)):
        raise TaskError(
            f"process {pid} ({proc.comm(pid)}) of it is orphaned: its parent has ended, so that it"
            " belongs to no task's tree"
        )


def passing(strays: set[int]) -> set[int]:
    """Return those processes that are still there when what is just ending has ended.

    srun has a child that outlives it for a moment, to clean up after it (Slurm's srun_job.c,
    _shepherd_spawn()); one that stays is an srun that would be lost. And a process that ends has
    no memory any more, and so no command line: a worker of another checkpoint, in a pod.
    """
    give_up = time.monotonic() + SHEPHERD
    while True:
        strays = {pid for pid in strays if proc.alive(pid)}
        ending = [pid for pid in strays if proc.comm(pid) == "srun" or not proc.cmdline(pid)]
        if not ending or time.monotonic() > give_up:
            return strays
        time.sleep(0.02)


def refuse_holding(root: int, version: Callable[[], tuple[int, ...]], ghost_limit: int) -> None:
    """Refuse a task for what it holds, once it is ready for a checkpoint. Raises TaskError.

    version: CRIU's, asked only where it matters. ghost_limit: bytes.
    """
    kernel = os.uname().release
    holds.refuse(root, lambda: host.no_internet_sockets(version(), kernel), ghost_limit)


def may_trace() -> bool:
    """Tell whether this process may trace whatever yama says."""
    held = credentials.status(os.getpid(), str(os.getpid()))["CapEff"][0]
    return bool(int(held, 16) >> host.CAP_SYS_PTRACE & 1)


class Dump(threading.Thread):
    """The dump of one task: start(), write(), then release() once.

    It reports frozen, dumped, released, failed. Nothing is written before write(): by then every
    task stands still, so that none can change a file that another's image tells of. Without `hold`
    it waits for neither write() nor release(), and does not report frozen. `slots` bounds how many
    are being written at once; one that is held has given its slot back. `look`, where it is set, is
    called when the task stands still: what it returns is reported, and what it raises is why the
    task is not dumped. `spared` are paths of files that a restore replaces.
    """

    look: Callable[[], Object] | None = None
    spared: tuple[str, ...] = ()

    def __init__(
        self,
        task_id: int,
        root: int,
        directory: Path,
        limits: Limits,
        slots: threading.Semaphore,
        report: Report,
        *,
        keep: bool,
        hold: bool,
    ) -> None:
        super().__init__(daemon=True)
        self.task_id, self.root, self.directory = task_id, root, directory
        self.limits, self.slots, self.report = limits, slots, report
        self.keep, self.hold = keep, hold
        self._all_frozen = threading.Event()
        self._go = threading.Event()
        self._commit = False
        self._refused: PycrError | None = None
        self._has_slot = False
        self._noting: threading.Thread | None = None
        self._criu = criu.Handle()
        self._images = directory
        self._hidden = Hidden(root, directory, limits.ghost_limit)

    def release(self, commit: bool) -> None:
        """Let the task go: as asked when commit is true, on in any case when it is not."""
        self._commit = commit
        self._go.set()
        self._all_frozen.set()

    def finish(self) -> None:
        """Wait, after release(), until criu has let the task go."""
        if not self._commit:
            self.join(GIVE_UP)
            if self.is_alive():
                self._criu.kill()
        self.join()

    def write(self) -> None:
        """Let it be written: every task stands still."""
        self._all_frozen.set()

    def run(self) -> None:
        """Dump, hold, let go; never raises: what goes wrong is reported."""
        if not self.hold:
            self._take_slot()
        try:
            if self._given_up():
                raise TaskError("given up before it began")
            times = self.dump()
        except PycrError as error:
            self.report({"event": "failed", "task": self.task_id, **failure(error)})
        except Exception as error:
            # A thread's traceback would reach nobody; the coordinator must hear of it.
            reason = f"{type(error).__name__}: {error}"
            self.report({"event": "failed", "task": self.task_id, "reason": reason})
        else:
            self.report({"event": "released", "task": self.task_id, **times})
        finally:
            self._give_slot_back()

    def dump(self) -> Object:
        """Do it, by CRIU, here; return the times. Raises PycrError."""
        began = time.time()
        directory = image.open_inside(self.directory)
        # Held open, so that nothing put in its place meanwhile is written to.
        self._images = self._hidden.images = Path(f"/proc/self/fd/{directory}")
        try:
            times = criu.dump(
                self.limits.criu,
                self.root,
                directory,
                self.frozen,
                lambda frozen: self.dumped(began, frozen),
                leave_running=self.keep,
                ghost_limit=self.limits.ghost_limit,
                timeout=self.limits.timeout,
                handle=self._criu,
            )
        except criu.DumpFailure as error:
            if self._refused is not None:
                raise self._refused from error
            if not proc.alive(self.root):
                raise AlreadyDone("it has just ended") from error
            full = next((each for each in space.FULL if os.strerror(each) in error.log), 0)
            if full and not self._given_up():
                raise space.exhausted(self._kept(), full) from error
            log = "" if self._given_up() else error.log
            raise TaskError(f"{error}{self._save_log(log)}") from error
        finally:
            if self._noting is not None:
                self._noting.join()
            self._hidden.hide()
            os.close(directory)
        return {"frozen": round(times.frozen, 6), "seconds": round(times.seconds, 6)}

    def frozen(self) -> bool:
        """Report that it stands still, wait for the others and a turn; return whether to write."""
        try:
            # Only now that it stands still nothing of it can become another user's (execve(2)).
            self.refuse_privileged()
            facts = self.program()
            if self.look is not None and self.hold:
                facts.update(self.look())
        except OSError as error:
            self._refused = AlreadyDone(f"it has just ended ({error.strerror})")
            return False
        except PycrError as error:
            self._refused = error
            return False
        if self.hold:
            self.report({"event": "frozen", "task": self.task_id, **facts})
            self._all_frozen.wait()
            self._take_slot()
            if self._given_up():
                return False
        return self.begin_image()

    def begin_image(self) -> bool:
        """Do what belongs to the image and is not CRIU's; tell whether CRIU may begin."""
        try:
            self._hidden.reveal()
        except PycrError as error:
            self._refused = error
            return False
        # Beside CRIU's work: it takes as long as a small dump.
        self._noting = threading.Thread(target=self.note_files, daemon=True)
        self._noting.start()
        return True

    def dumped(self, began: float, frozen: float) -> bool:
        """Report that all is written; hold as asked; return whether it is committed."""
        self._give_slot_back()
        for pid, fd in self.late_timers():
            self._refused = TaskError(
                f"descriptor {fd} of process {pid} is a periodic timer (timerfd) with an expiry"
                " that is not read yet, which CRIU would lose: try again"
            )
            return False
        if self._noting is not None:
            self._noting.join()
        if self._refused is not None:
            return False
        self.report(
            {
                "event": "dumped",
                "task": self.task_id,
                "began": round(began, 6),
                "frozen": round(frozen, 6),
                "unread": self.unread(),
                "max_pid": self.max_pid(),
            }
        )
        if self.hold:
            self._go.wait()
        self._hidden.hide()
        return self._commit or not self.hold

    def note_files(self) -> None:
        """Keep in the image what the task's files are."""
        try:
            hidden = self._hidden.paths()
            files.save(self._images, note(self.root, (*self.spared, *hidden)))
            self._hidden.keep(hidden)
        except (OSError, ValueError) as error:
            self._refused = DirectoryError(f"{self.directory / image.FILES}: {error}")

    def refuse_privileged(self) -> None:
        """Refuse what has more than its user by now. Raises TaskError."""
        refuse_privileged(self.root)

    def program(self) -> Object:
        """Say what it runs now that it stands still. Raises OSError."""
        return program(self.root)

    def unread(self) -> int:
        """Return the bytes of its input that the image does not have: they are in srun's pipe."""
        return proc.unread(self.root)

    def max_pid(self) -> int:
        """Return the highest id in the image: what was started since describe() is in it too."""
        return proc.highest_id(self.root)

    def late_timers(self) -> list[tuple[int, int]]:
        """Return the timers that the image does not have whole; only now do they stand still."""
        return proc.late_timers(proc.tree(self.root))

    def _given_up(self) -> bool:
        return self._go.is_set() and not self._commit

    def _take_slot(self) -> None:
        self.slots.acquire()
        self._has_slot = True

    def _give_slot_back(self) -> None:
        if self._has_slot:
            self._has_slot = False
            self.slots.release()

    def _kept(self) -> Path:
        """Return the directory above all that is about to be removed: a step's part in a job's
        unfinished generation goes with that."""
        parents = self.directory.parents
        return next((each for each in parents if image.is_leftover(each.name)), parents[0]).parent

    def _save_log(self, log: str) -> str:
        """Keep CRIU's log beside the generations, where the user can read it; say where."""
        kept = self._kept()
        path = kept / f"failed-{'-'.join(self.directory.relative_to(kept).parts[1:])}.log"
        if not log:
            return ""
        try:
            image.write_log(path, log)
        except OSError:
            return ""
        return f" (CRIU's log: {path})"
