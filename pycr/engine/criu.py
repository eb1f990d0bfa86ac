# SPDX-License-Identifier: GPL-2.0-or-later
"""Dump and restore one process tree with CRIU, as an unprivileged user.

    this process                     criu swrk FD
       | -- request DUMP ------------> |
       | <- notify query-ext-files --- |   the tree is frozen, and nothing of it read yet
       |      ... held, until all other trees are frozen as well ...
       | -- reply true / false ------> |   true: write; false: run on
       | <- notify post-dump --------- |   everything is written; the tree is still frozen
       |      ... held, as long as the caller likes ...
       | -- reply true / false ------> |   true: run on, or be killed, as asked; false: run on
       | <- response ----------------- |

A criu that dies, or whose caller dies, while it holds a tree lets the tree run on: it holds it by
ptrace alone, and the kernel ends that with its holder. (CRIU's --leave-stopped would leave SIGSTOP
behind instead.) CRIU's log goes to memory; it is only ever read after a failure. Its statistics,
which it writes to its working directory after the tree was let go, go nowhere: an image is complete
before, and is never changed by a restore.
"""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from pycr.engine import rpc
from pycr.engine.trust import untrusted
from pycr.errors import NotSupported, PycrError, RestoreFailed, TaskError

PLACES = ("/usr/sbin/criu", "/usr/local/sbin/criu", "/usr/bin/criu", "/usr/local/bin/criu")
LOG_LEVEL = 4
MIB = 1 << 20

Options = dict[str, "int | bool | list[tuple[str, int]]"]
COMMON: Options = {
    "shell_job": True,
    "file_locks": True,
    "log_level": LOG_LEVEL,
    "notify_scripts": True,
    "manage_cgroups_mode": rpc.MANAGE_CGROUPS_IGNORE,
    "unprivileged": True,
    "log_to_stderr": True,
}


def find(configured: str = "") -> str:
    """Return the criu to run: the configured one, or that of the system.

    Raises NotSupported where there is none.
    """
    for path in (configured,) if configured else PLACES:
        if os.access(path, os.X_OK):
            fault = untrusted(path)
            if fault:
                raise NotSupported(f"CRIU is not safe to run with a capability: {fault}")
            return path
    where = configured or " or ".join(PLACES[:2])
    raise NotSupported(f"no CRIU: {where} is not there: install criu 4.1 or later")


def telling_line(log: str) -> str:
    """Return the line of CRIU's log that says best what went wrong: its first error."""
    for line in log.splitlines():
        match = re.search(r"Error \([^)]*\): (.*)", line)
        if match:
            return without_advice(match.group(1))
    return log.strip().splitlines()[-1].strip() if log.strip() else "CRIU said nothing"


def without_advice(line: str) -> str:
    """Return a line of CRIU's log without the options it advises, which pycr does not have."""
    line = re.sub(r"\s+", " ", line).strip()
    return re.sub(
        r"[.,;:]? ?(?:[Cc]onsider|[Tt]ry|Use|use)\b[^.;]*\b(?:option|--).*$", "", line
    ).rstrip(". ")


class Outcome(NamedTuple):
    """How a conversation with criu ended: its last answer, None where it died, and its log."""

    answer: rpc.Response | None
    log: str
    status: int

    @property
    def good(self) -> bool:
        return self.answer is not None and self.answer.success

    @property
    def reason(self) -> str:
        """Why it is not good."""
        if self.status < 0:
            return f"criu was killed by signal {-self.status}"
        return telling_line(self.log)


class Worker:
    """One `criu swrk` process and the socket to it."""

    def __init__(self, path: str, keep: tuple[int, ...] = (), group: bool = True) -> None:
        """Start it. keep: descriptors it needs beside the socket. group: in one of its own.

        Without XDG_RUNTIME_DIR it probes the kernel anew each time, 6 ms: what it would keep there
        it reads back as a raw struct, and here the user could have written it.
        """
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._log = os.memfd_create("criu.log")
        self.nowhere = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # No configuration file: the user's own (~/.criu) could name a script to run.
            self.process = subprocess.Popen(
                [path, "--no-default-config", "swrk", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                env=env,
                pass_fds=(theirs.fileno(), *keep),
                start_new_session=group,
            )
        except OSError as error:
            self.socket.close()
            os.close(self._log)
            os.close(self.nowhere)
            raise NotSupported(f"couldn't run {path}: {error.strerror}") from error
        finally:
            theirs.close()
        self._group = group
        self._end = os.pidfd_open(self.process.pid)

    def receive(self) -> rpc.Response | None:
        """Return the next message, or None where criu has ended.

        A criu that was killed while it probed the kernel leaves a child, which sleeps for ever and
        holds the socket open (fork_and_ptrace_attach() in its cr-check.c): its end is its own.
        """
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        poll.register(self._end, select.POLLIN)
        if [fd for fd, _ in poll.poll()] == [self._end]:
            return None
        try:
            message = self.socket.recv(rpc.MAX_MESSAGE)
        except OSError:
            return None
        return rpc.response(message) if message else None

    def converse(self, request: bytes, notified: Callable[[rpc.Response], bool]) -> Outcome:
        """Send a request, answer each notification as notified() says, and let criu end."""
        answer = None
        log = ""
        try:
            self.socket.sendall(request)
            while True:
                answer = self.receive()
                if answer is None or answer.kind != rpc.NOTIFY:
                    break
                self.socket.sendall(rpc.notify_reply(notified(answer)))
            if answer is None or not answer.success:
                size = os.lseek(self._log, 0, os.SEEK_END)
                log = os.pread(self._log, min(size, 64 * MIB), 0).decode("utf-8", "replace")
        except OSError:
            answer = None  # it died with a reply under way; its status says how
        finally:
            status = self.close()
        return Outcome(answer, log, status)

    def close(self) -> int:
        """Let criu end, and return its status."""
        self.socket.close()
        status = self.process.wait()
        if status < 0 and self._group:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        os.close(self._end)
        os.close(self._log)
        os.close(self.nowhere)
        return status


def version(path: str) -> tuple[int, ...]:
    """Return CRIU's version, for example (4, 1, 1).

    Raises NotSupported where it does not answer.
    """
    answer = Worker(path).converse(rpc.request(rpc.VERSION, {}), lambda _: True).answer
    if answer is None or not answer.version:
        raise NotSupported(f"{path} does not answer: install criu 4.1 or later")
    return answer.version


class Failure(PycrError):
    """CRIU failed; `log` is all it wrote."""

    def __init__(self, reason: str, log: str) -> None:
        super().__init__(reason)
        self.log = log


class DumpFailure(Failure, TaskError):
    """The tree could not be dumped; it runs on."""


class RestoreFailure(Failure, RestoreFailed):
    """The tree could not be restored; nothing of it runs."""


class Handle:
    """The criu of a dump, for who must end it: one that is killed lets its tree run on."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def kill(self) -> None:
        """Kill it, where it runs."""
        if self.process is not None:
            self.process.kill()


class DumpTimes(NamedTuple):
    """How long a dump took: frozen is from the freeze to the release, seconds from its start."""

    frozen: float
    seconds: float


def dump(
    path: str,
    pid: int,
    dir_fd: int,
    frozen: Callable[[], bool],
    hold: Callable[[float], bool],
    *,
    leave_running: bool,
    ghost_limit: int,
    timeout: int,
    handle: Handle | None = None,
) -> DumpTimes:
    """Dump the tree of `pid` into the directory open as `dir_fd`.

    frozen: called when the tree stands still and nothing is written; what it returns lets the dump
        begin (True) or fail and the tree run on (False).
    hold: called when all is written and the tree still frozen, with the seconds it has been so;
        what it returns lets the tree go as asked (True) or run on and the dump fail (False).
    leave_running: whether the tree goes on after a successful dump, or is killed.
    ghost_limit: the largest deleted file, in bytes, that is put into the image.
    timeout: seconds CRIU may take to freeze the tree.
    handle: is given the criu process.

    Raises DumpFailure, NotSupported.
    """
    worker = Worker(path)
    if handle is not None:
        handle.process = worker.process
    began = since = ended = time.monotonic()
    held: bool | None = None

    def notified(message: rpc.Response) -> bool:
        nonlocal since, held
        if message.script == "query-ext-files":
            since = time.monotonic()
            if not frozen():
                held = False
                return False
        elif message.script == "post-dump":
            held = hold(time.monotonic() - since)
            return held
        return True

    options: Options = {
        **COMMON,
        "images_dir_fd": dir_fd,
        "work_dir_fd": worker.nowhere,
        "pid": pid,
        "leave_running": leave_running,
        "ghost_limit": min(ghost_limit, 0xFFFFFFFF),
        "timeout": timeout,
    }
    outcome = worker.converse(rpc.request(rpc.DUMP, options), notified)
    ended = time.monotonic()
    if held is False:
        raise DumpFailure("given up before it was committed", "")
    if not outcome.good or not held:
        raise DumpFailure(outcome.reason, outcome.log)
    return DumpTimes(frozen=ended - since, seconds=ended - began)


def restore(
    path: str,
    dir_fd: int,
    inherit: list[tuple[str, int]],
    check: Callable[[int], None],
    last_check: Callable[[int], None],
) -> int:
    """Restore a tree from the directory open as `dir_fd`; return its root's pid.

    The root becomes a child of this process's reaper (here: PID 1 of a pod) when criu ends.
    inherit: (key, descriptor) of the files to replace (criu's --inherit-fd).
    check: called with the root's pid when all is restored but nothing runs yet; when it raises,
        nothing will.
    last_check: called with criu's pid when the tasks' credentials are in place too. CRIU does not
        heed an answer any more: when it raises, it must have killed what it refuses.

    Raises RestoreFailure, NotSupported, and what the checks raise.
    """
    # What is restored joins its session and process group (shell_job).
    worker = Worker(path, keep=tuple(sorted({fd for _, fd in inherit})), group=False)
    trouble: PycrError | None = None

    def notified(message: rpc.Response) -> bool:
        nonlocal trouble
        try:
            if message.script == "post-restore":
                check(message.pid)
            elif message.script == "pre-resume":
                last_check(worker.process.pid)
        except PycrError as error:
            trouble = error
        return trouble is None

    options: Options = {
        **COMMON,
        "images_dir_fd": dir_fd,
        "work_dir_fd": worker.nowhere,
        "inherit_fd": inherit,
    }
    outcome = worker.converse(rpc.request(rpc.RESTORE, options), notified)
    if trouble is not None:
        raise trouble
    if outcome.answer is None or not outcome.good:
        raise RestoreFailure(outcome.reason, outcome.log)
    return outcome.answer.pid
