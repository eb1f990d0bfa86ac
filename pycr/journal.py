# SPDX-License-Identifier: GPL-2.0-or-later
"""The journal: what was asked of a job's checkpoints and what came of it, and the state it gives.

    DEFAULT/.journal/4711        one for each job, mode 0600: a JSON object a line, oldest first

DEFAULT is the user's default image directory (checkpoint_dir in plugstack.conf): there all nodes of
the job and every later login see it, and it outlives slurmctld and pycr. Only its owner can write
to it; one that anybody else could have written is not read. A line is appended under a lock, and
one that is torn (its writer's node went down) is passed over.

Every line has `time` (seconds since the epoch), `event` and, but for events of the whole job,
`step` ("4711.0", "4711.batch"). `since` tells the life of the step: when Slurm started it, as a
requeued job has steps by the same names again. The events are written by whoever does the thing:

    disable, enable      since                       `pycr disable`, `enable`
    began                id steps host pid until     a checkpoint; until: when it is given up for
                         dir needs vacate            sure; dir: the directories that are being
                         since submitted             written; needs: node -> bytes, at the least;
                                                     since, submitted: the job's, of Slurm
    committed            id steps path size frozen   a generation of it; key: which step of its
                         seconds vacate key          script it is of (identity.py), "" of none
    failed               id steps code message       its error_code and error_msg
    complete             code message                slurm_checkpoint_complete(3)
    note                 text anew aside             what a user should know: one skipped, one kept;
                                                     anew: the key of a step that begins again with
                                                     nothing, "batch": the script; aside: the
                                                     generation that was set aside
    restored             path                        a requeued job goes on from a generation; not
                                                     so where that is then set aside
    done                 key                         a step has ended with 0 (--cr-skip-done)
    life                 since nodes end interval    a keeper (keeper/) looks after the job from
                         before_end generation       now on; generation: what it goes on from
    next                 since at                    when it makes the next one (seconds since the
                                                     epoch), where that is not k * `interval` after
                                                     `life`: sooner, as one has failed
    ended                why                         and does no more: requeued, preempted, done
    first                                            a job has begun: what is before this is of an
                                                     earlier job, which had the number (batch.pxi)
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from pycr.engine import proc
from pycr.errors import AccessDenied, DirectoryError

DIRECTORY = ".journal"
FIRST = "first"
MAX_SIZE = 64 << 20  # bytes that are read of one
DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
LONGEST = 1000  # characters of a message that are kept
LONGEST_INT = 24  # and of a number

Event = dict[str, Any]


class Running(NamedTuple):
    """A checkpoint that is under way. began, until: seconds since the epoch.

    dirs: what is being written. needs: bytes to be written, at the least, by node.
    """

    id: str
    began: float
    until: float
    host: str
    pid: int
    dirs: tuple[str, ...]
    needs: dict[str, int]
    steps: tuple[str, ...]

    @property
    def alive(self) -> bool:
        """Whether it still may be; on its own host that is known for certain."""
        if self.host == socket.gethostname():
            return proc.alive(self.pid)
        return time.time() < self.until


class State(NamedTuple):
    """What the journal says of a step, or of a whole job: the old interface's state.

    disabled, job_disabled: how often more it, and its whole job, was disabled than enabled; either
    is enough. running: None where nothing is.
    error_code, error_msg: of the last checkpoint; the highest code is kept. last: the last
    committed checkpoint's event.
    """

    disabled: int = 0
    job_disabled: int = 0
    running: Running | None = None
    error_code: int = 0
    error_msg: str = ""
    last: Event | None = None


class Journal:
    """One job's, in its owner's default image directory."""

    def __init__(self, default_dir: Path, job_id: int, uid: int | None = None) -> None:
        """uid: its owner's, where that is not the caller (root looks at a user's)."""
        self.place = default_dir
        self.job_id = job_id
        self.uid = os.geteuid() if uid is None else uid
        self.path = default_dir / DIRECTORY / str(job_id)

    def append(self, event: str, **values: Any) -> None:
        """Add a line. Raises DirectoryError, AccessDenied."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **values})
        try:
            directory = self._directory(make=True)
            try:
                flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                file = os.open(self.path.name, flags | os.O_NONBLOCK, 0o600, dir_fd=directory)
            finally:
                os.close(directory)
            try:
                self._check(file)
                with suppress(OSError):  # no locks on this file system: O_APPEND is what is left
                    fcntl.flock(file, fcntl.LOCK_EX)
                size = os.fstat(file).st_size
                torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
                data = (b"\n" if torn else b"") + line.encode() + b"\n"
                if os.write(file, data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file)
            finally:
                os.close(file)
        except OSError as error:
            raise DirectoryError(f"{self.path}: {error.strerror}") from error

    def events(self) -> list[Event]:
        """Return its lines, oldest first, from the last `first` on: those of the last job that has
        the number; none where there is no journal. Raises DirectoryError, AccessDenied.
        """
        every = self.every()
        return every[begin(every) :]

    def every(self) -> list[Event]:
        """Return its lines, of earlier jobs too. Raises DirectoryError, AccessDenied."""
        try:
            directory = self._directory(make=False)
            try:
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
                file = os.open(self.path.name, flags, dir_fd=directory)
            finally:
                os.close(directory)
            with os.fdopen(file, "rb") as opened:
                self._check(file)
                data = opened.read(MAX_SIZE)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise DirectoryError(f"{self.path}: {error.strerror}") from error
        return list(_parse(data))

    def _directory(self, make: bool) -> int:
        """Open the directory of journals. Raises OSError, AccessDenied."""
        path = self.place / DIRECTORY
        if make:
            self.place.mkdir(0o700, parents=True, exist_ok=True)
            path.mkdir(0o700, exist_ok=True)
        descriptor = os.open(path, DIR_FLAGS)
        try:
            self._check(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _check(self, descriptor: int) -> None:
        """Refuse what others than its owner could have written. Raises AccessDenied."""
        status = os.fstat(descriptor)
        if status.st_uid != self.uid or status.st_mode & 0o022:
            what = "another user's" if status.st_uid != self.uid else "writable by others"
            raise AccessDenied(f"{self.path}: it is {what}: what it says cannot be relied upon")


def _int(text: str) -> int:
    """Return a number; pycr writes none that is longer, and a float could not hold it."""
    if len(text) > LONGEST_INT:
        raise ValueError(f"{text:.20}...: no number of the journal's")
    return int(text)


def _parse(data: bytes) -> Iterator[Event]:
    for line in data.split(b"\n"):
        try:
            value = json.loads(line, parse_int=_int)
        except (ValueError, RecursionError):
            continue
        if (
            isinstance(value, dict)
            and isinstance(value.get("event"), str)
            and type(value.get("time")) in (int, float)
            and 0 <= value["time"] < 1 << 40  # and so no NaN
            and isinstance(value.get("steps", []), list)
        ):
            yield value


def begin(every: Sequence[Event]) -> int:
    """Return which line is the first of the last job that has the number."""
    starts = [at for at, each in enumerate(every) if each["event"] == FIRST]
    return starts[-1] if starts else 0


def state(events: Iterable[Event], step: str | None, since: str = "", job_since: str = "") -> State:
    """Return the state that a journal gives a step: its own, and that of its whole job.

    step: None for the job, all steps of which then count. since, job_since: the lives they are in;
    "": whatever lives those were.
    """
    found = State()
    for event in events:
        names = event.get("steps") or [event.get("step")]
        if names == [None]:
            if event.get("since") in (None, job_since) or not job_since:
                found = found._replace(job_disabled=_counted(found.job_disabled, event))
        elif step is None:
            found = _after(found, event)
        elif step in names:
            if event.get("since") in (None, since) or not since:
                found = found._replace(disabled=_counted(found.disabled, event))
            found = _after(found, event)
        if event["event"] == "began" and event.get("since", job_since) != job_since and job_since:
            found = found._replace(running=None)  # of an earlier life, which ended it too
    if found.running is not None and not found.running.alive:
        found = found._replace(running=None)
    return found


def _counted(count: int, event: Event) -> int:
    return max(0, count + {"disable": 1, "enable": -1}.get(event["event"], 0))


def _after(before: State, event: Event) -> State:
    what = event["event"]
    if what == "began":
        return before._replace(running=_running(event), error_code=0, error_msg="")
    running = before.running
    if running is not None and event.get("id") == running.id:
        running = None
    if what == "committed":
        return before._replace(running=running, last=event)
    code, message = event.get("code"), event.get("message")
    if what not in ("failed", "complete") or type(code) is not int or not isinstance(message, str):
        return before
    if what == "complete" and code <= before.error_code:
        return before
    return before._replace(running=running, error_code=code, error_msg=message)


def _running(event: Event) -> Running | None:
    try:
        return Running(
            id=str(event["id"]),
            began=float(event["time"]),
            until=float(event["until"]),
            host=str(event["host"]),
            pid=int(event["pid"]),
            dirs=tuple(str(each) for each in event["dir"]),
            needs={str(node): int(size) for node, size in event["needs"].items()},
            steps=tuple(str(each) for each in event["steps"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None
