# SPDX-License-Identifier: GPL-2.0-or-later
"""What /proc says of a process tree: its processes, its open files, its standard streams."""

from __future__ import annotations

import fcntl
import os
import re
import sys
import termios
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

DELETED = " (deleted)"  # what /proc puts behind the name of a file that has none any more


def stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the third, the state, on. Raises OSError.

    The second is the name, which may hold blanks and brackets.
    """
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


def alive(pid: int) -> bool:
    """Tell whether a process is there and no zombie."""
    try:
        return stat(pid)[0] not in ("Z", "X")
    except OSError:
        return False


def ending(pid: int) -> bool:
    """Tell whether a process is ending, or has ended: it has no memory any more.

    From then on /proc says that it is root's, and does not let its owner look (task_dump_owner() in
    Linux's fs/proc/base.c).
    """
    try:
        return "\nVmSize:" not in Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return True


def children(pid: int) -> list[int]:
    """Return the children of every thread of a process; none where it has ended."""
    found: list[int] = []
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError):
                text = Path(f"/proc/{pid}/task/{thread}/children").read_text()
                found.extend(int(word) for word in text.split())
    return found


def tree(root: int) -> list[int]:
    """Return a process and all its descendants, the root first."""
    pids = [root]
    for pid in pids:
        pids.extend(child for child in children(pid) if child not in pids)
    return pids


def outside(pids: set[int], roots: set[int]) -> set[int]:
    """Return those processes that descend from none of the roots; not those that have ended.

    tree() can miss what forks meanwhile (proc(5): children is only reliable of a stopped process).
    """
    return {pid for pid in pids if not _descends(pid, roots)}


def _descends(pid: int, roots: set[int]) -> bool:
    at = pid
    for _ in range(1 << 16):
        if at in roots:
            return True
        if at <= 1:
            return False
        try:
            words = stat(at)
        except OSError:
            if at == pid:
                return True  # it has ended
            at = pid  # its parent has: it has another now
            continue
        at = int(words[1])
    return False


def stopped(pid: int) -> bool:
    """Tell whether a process is stopped, or frozen with its control group.

    proctrack/cgroup freezes the step for SIGSTOP; others signal.
    """
    with suppress(OSError):
        if stat(pid)[0] == "T":
            return True
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            with suppress(OSError):
                if controllers == "freezer":
                    return (
                        Path(f"/sys/fs/cgroup/freezer{path}/freezer.state").read_text()[:1] == "F"
                    )
                if not controllers:
                    events = Path(f"/sys/fs/cgroup{path}/cgroup.events").read_text()
                    if "frozen 1" in events:
                        return True
    return False


def highest_id(root: int) -> int:
    """Return the highest id in use in a tree: of processes, threads, groups and sessions."""
    ids = {root}
    for pid in tree(root):
        with suppress(OSError, ValueError):
            ids.update(int(thread) for thread in os.listdir(f"/proc/{pid}/task"))
            ids.update((os.getpgid(pid), os.getsid(pid)))
    return max(ids)


def threads(pid: int) -> list[str]:
    """Return the threads of a process; none where it has ended."""
    try:
        return os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return []


def comm(pid: int) -> str:
    """Return a process's short name, or "" where it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").rstrip("\n")
    except OSError:
        return ""


def executed(pid: int) -> bool:
    """Tell whether a task has executed its program: before, it is slurmstepd, which hides it."""
    try:
        os.readlink(f"/proc/{pid}/exe")
    except PermissionError:
        return comm(pid) not in ("slurmstepd", "(slurmstepd)")
    except OSError:
        return False
    return True


def age(pid: int) -> float:
    """Return the seconds since a process was made. Raises OSError."""
    ticks = int(stat(pid)[19])
    with open("/proc/uptime") as file:
        return float(file.read().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")


def descriptors(pid: int) -> Iterator[tuple[int, str]]:
    """Yield what a process has open: each descriptor and what it leads to. Raises OSError."""
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(OSError):
            yield int(name), os.readlink(f"/proc/{pid}/fd/{name}")


def maps(pid: int) -> Iterator[list[str]]:
    """Yield the named lines of /proc/PID/maps: range, flags, offset, device, inode, name."""
    with suppress(OSError), open(f"/proc/{pid}/maps", errors="surrogateescape") as file:
        for line in file:
            words = line.rstrip("\n").split(None, 5)
            if len(words) == 6:
                yield words


def offset(pid: int, path: str) -> int:
    """Return how far a process has read the file that it has open, -1 where it has not."""
    with suppress(OSError):
        for fd, name in descriptors(pid):
            if name == path:
                with suppress(OSError):
                    text = Path(f"/proc/{pid}/fdinfo/{fd}").read_text()
                    return int(text.split("\n", 1)[0].split()[1])
    return -1


def own_pid(pid: int) -> int:
    """Return the id by which a process knows itself, in its innermost namespace. Raises OSError."""
    with open(f"/proc/{pid}/status", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name == "NSpid":
                return int(value.split()[-1])
    return pid


def cmdline(pid: int) -> list[str]:
    """Return a process's arguments; none for a zombie or where it has ended."""
    try:
        data = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return [os.fsdecode(word) for word in data.split(b"\0")[:-1]]


def environ(pid: int, name: str) -> str | None:
    """Return a variable of the environment that a process was started with."""
    try:
        data = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    prefix = os.fsencode(name) + b"="
    for word in data.split(b"\0"):
        if word.startswith(prefix):
            return os.fsdecode(word[len(prefix) :])
    return None


class Stream(NamedTuple):
    """One of a task's descriptors 0, 1, 2: its kind, and the name CRIU knows its file by.

    kind is "pipe", "file", "null", "tty", "closed", or "other" (a socket, a device), which CRIU
    then has to cope with by itself.
    """

    fd: int
    kind: str
    name: str

    def json(self) -> dict[str, Any]:
        """Return the stream as the manifest has it."""
        return self._asdict()

    @property
    def inherit_key(self) -> str | None:
        """The key of criu's --inherit-fd that stands for this file, None where it needs none.

        /dev/null needs none: CRIU opens it again, and its key would catch every /dev/null of the
        tree, those open for writing too.
        """
        if self.kind == "pipe":
            return self.name
        if self.kind == "file":
            return self.name.lstrip("/")
        return None


def stream(pid: int, fd: int) -> Stream:
    """Say what a process's descriptor is open on."""
    try:
        name = os.readlink(f"/proc/{pid}/fd/{fd}")
    except FileNotFoundError:
        return Stream(fd, "closed", "")
    if name.startswith("pipe:["):
        kind = "pipe"
    elif name == "/dev/null":
        kind = "null"
    elif name.startswith(("/dev/pts/", "/dev/tty")) or name == "/dev/console":
        kind = "tty"
    elif name.startswith("/") and not name.startswith("/dev/"):
        kind = "file"
    else:
        kind = "other"
    return Stream(fd, kind, name)


def unread(pid: int) -> int:
    """Return the bytes that wait in a process's standard input, where that is a pipe."""
    if stream(pid, 0).kind != "pipe":
        return 0
    try:
        descriptor = os.open(f"/proc/{pid}/fd/0", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        waiting = fcntl.ioctl(descriptor, termios.FIONREAD, b"\0" * 4)
        return int.from_bytes(waiting, sys.byteorder)
    except OSError:
        return 0
    finally:
        os.close(descriptor)


def streams(pid: int) -> list[Stream]:
    """Say what a process's three standard streams are open on."""
    return [stream(pid, fd) for fd in (0, 1, 2)]


def late_timers(pids: list[int]) -> list[tuple[int, int]]:
    """Return the periodic timerfds that have an expiry nobody has read: (process, descriptor).

    CRIU puts none into the image, and such a timer never fires again (seen with 4.1 and 4.2).
    """
    found = []
    for pid in pids:
        with suppress(OSError):
            for fd, name in descriptors(pid):
                if name != "anon_inode:[timerfd]":
                    continue
                with suppress(OSError):
                    info = Path(f"/proc/{pid}/fdinfo/{fd}").read_text()
                    if not re.search(r"^ticks: 0$", info, re.M) and not re.search(
                        r"^it_interval: \(0, 0\)$", info, re.M
                    ):
                        found.append((pid, fd))
    return found


def link(pid: int, name: str) -> str:
    """Return where /proc/PID/exe or cwd points, "" where that is not to be seen."""
    try:
        return os.readlink(f"/proc/{pid}/{name}")
    except OSError:
        return ""
