# SPDX-License-Identifier: GPL-2.0-or-later
"""What /proc says of a process tree: its processes, its open files, its standard streams."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple


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


def highest_id(root: int) -> int:
    """Return the highest id in use in a tree: of processes, threads, groups and sessions."""
    ids = {root}
    for pid in tree(root):
        with suppress(OSError, ValueError):
            ids.update(int(thread) for thread in os.listdir(f"/proc/{pid}/task"))
            ids.update((os.getpgid(pid), os.getsid(pid)))
    return max(ids)


def comm(pid: int) -> str:
    """Return a process's short name, or "" where it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").rstrip("\n")
    except OSError:
        return ""


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


def streams(pid: int) -> list[Stream]:
    """Say what a process's three standard streams are open on."""
    return [stream(pid, fd) for fd in (0, 1, 2)]


def cpu_model() -> str:
    """Return what the first processor calls itself, "" where it does not (some architectures)."""
    with suppress(OSError), open("/proc/cpuinfo", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return ""


def link(pid: int, name: str) -> str:
    """Return where /proc/PID/exe or cwd points, "" where that is not to be seen."""
    try:
        return os.readlink(f"/proc/{pid}/{name}")
    except OSError:
        return ""
