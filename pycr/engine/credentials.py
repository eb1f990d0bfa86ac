# SPDX-License-Identifier: GPL-2.0-or-later
"""What a process holds that its user does not: other ids, capabilities, namespaces.

Of a tree that was restored it is asked before any of it runs, since its image is the user's to
write; of one that is to be dumped when it stands still, since a helper may be able to look into
what its user may not (CAP_SYS_PTRACE, where the site's yama needs it). The measure is this process,
which is the user's with a capability or two of its own. Only numbers that the kernel shows count:
securebits it does not show, see docs/security.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from pycr.engine import proc

CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapAmb")
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
Status = dict[str, list[str]]


def status(pid: int, thread: str) -> Status:
    """Return the fields of a thread's status file, each cut at its blanks. Raises OSError."""
    path = f"/proc/{pid}/task/{thread}/status"
    lines = Path(path).read_text(errors="replace").splitlines()
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


def more_than(own: Status, found: Status) -> str:
    """Say what a thread has that the user with the status `own` does not, "" where nothing.

    Raises ValueError, KeyError.
    """
    for name, text in (
        ("Uid", "user id"),
        ("Gid", "group id"),
        ("Groups", "supplementary group"),
    ):
        others = sorted(set(found[name]) - set(own[name]))
        if others:
            return f"{text} {others[0]}"
    if any(int(found[name][0], 16) for name in CAPABILITIES):
        return "capabilities"
    if int(found["CapBnd"][0], 16) & ~int(own["CapBnd"][0], 16):
        return "a larger bounding set"
    return ""


def less_bound(own: Status, found: Status) -> str:
    """Say which of the bounds on `own` a thread does not have, "" where it has all.

    Raises ValueError, KeyError.
    """
    for name, text in (
        ("NoNewPrivs", "no_new_privs off"),
        ("Seccomp", "seccomp off"),
        ("Seccomp_filters", "fewer seccomp filters"),  # since Linux 5.9
    ):
        if name in own and int(found[name][0]) < int(own[name][0]):
            return text
    return ""


def elsewhere(directory: str, namespaces: Iterable[str]) -> str:
    """Say which namespace of a thread is not this process's, "" where none. Raises OSError."""
    for name in namespaces:
        # A kernel may lack one, and time came with Linux 5.6: then nobody has it.
        with suppress(FileNotFoundError):
            mine = os.stat(f"/proc/self/ns/{name}")
            if not os.path.samestat(os.stat(f"{directory}/{name}"), mine):
                return f"a {name} namespace of its own"
    return ""


def _statuses(pid: int) -> Iterator[tuple[str, Status]]:
    """Yield the directory and status of each thread of a process that will ever run again."""
    for thread in proc.threads(pid):
        with suppress(FileNotFoundError, ProcessLookupError):
            found = status(pid, thread)
            if found["State"][0] not in "ZX":
                yield f"/proc/{pid}/task/{thread}", found


def of_tree(root: int) -> str:
    """Say what a process of a tree that is to be dumped has beyond its user, "" for nothing."""
    own = status(os.getpid(), str(os.getpid()))
    for pid in proc.tree(root):
        for directory, found in _statuses(pid):
            more = more_than(own, found)
            # What hides its namespaces is nothing that CRIU could dump either: it says so itself.
            with suppress(OSError):
                more = more or elsewhere(f"{directory}/ns", ("user",))
            if more:
                return f"process {pid} ({proc.comm(pid)}) of it has {more}"
    return ""


def of_pod(beside: set[int]) -> str:
    """Say what any process of this pod but those `beside` has beyond its user, "" for nothing.

    Raises OSError, ValueError, KeyError where one cannot be seen.
    """
    own = status(os.getpid(), str(os.getpid()))
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in beside:
            for directory, found in _statuses(int(name)):
                more = more_than(own, found) or less_bound(own, found)
                more = more or elsewhere(f"{directory}/ns", NAMESPACES)
                if more:
                    return more
    return ""
