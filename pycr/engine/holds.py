# SPDX-License-Identifier: GPL-2.0-or-later
"""What a tree holds that CRIU would refuse or lose, from /proc alone, before anything is frozen.

CRIU finds most of it too, but late, when all tasks stand still, and in words of its own. What is
not known here is left to it. What it would dump and restore is not refused, but for inotify: of
watches it knows the paths of a few, in /etc and /var/log, and of others not.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress

from pycr.engine import proc, sockets
from pycr.engine.proc import DELETED
from pycr.errors import UNDER_WAY, Busy, TaskError

MEMORY = ("/memfd:", "/dev/zero", "/SYSV")  # names of what never was a file
BLOCK = 512  # bytes of st_blocks

# What /proc/PID/fd calls it -> what people call it
ANONYMOUS = {
    "anon_inode:[io_uring]": "an io_uring",
    "anon_inode:[fanotify]": "a watch on files (fanotify)",
    "anon_inode:[userfaultfd]": "a userfaultfd",
    "anon_inode:[perf_event]": "a performance counter (perf_event_open)",
    "anon_inode:bpf-map": "a BPF map",
    "anon_inode:bpf-prog": "a BPF program",
    "anon_inode:kvm-vm": "a virtual machine (KVM)",
    "anon_inode:kvm-vcpu:0": "a virtual machine (KVM)",
}
DEVICES = (
    (re.compile(r"/dev/(?:nvidia|dri/|kfd|dxg|mali|accel/)"), "a GPU"),
    (re.compile(r"/dev/(?:infiniband/|hfi1|cxi)"), "a network card, for RDMA"),
    (re.compile(r"/dev/(?:kvm|fuse|vfio/)"), "a device with a state in the kernel"),
)
TERMINAL = re.compile(r"/dev/(?:pts/[0-9]+|tty[A-Z0-9]*|console)")
MASTER = ("/dev/ptmx", "/dev/pts/ptmx")


def refuse_traced(root: int) -> None:
    """Refuse a tree in which a process is traced: it can have only one tracer.

    Raises TaskError, Busy.
    """
    for pid in proc.tree(root):
        tracer = _status(pid).get("TracerPid", "0").strip()
        if tracer != "0" and proc.comm(int(tracer)) == "criu":
            raise Busy(UNDER_WAY)
        if tracer != "0":
            by = f"process {tracer} ({proc.comm(int(tracer)) or 'outside'})"
            raise TaskError(
                f"{_called(pid)} is traced by {by}: end the debugger, or whatever it is, first"
            )


def refuse(root: int, internet: Callable[[], str], ghost_limit: int) -> None:
    """Refuse a tree that holds what no checkpoint can have. Raises TaskError.

    ghost_limit: bytes of a deleted file that CRIU is told to keep. internet: says why there can be
    no TCP and UDP sockets at all, "" where there can; asked only of a tree that has one.
    """
    ends: dict[int, tuple[int, int]] = {}  # socket -> process, descriptor
    terminal: tuple[int, int, str] | None = None
    master = False
    for pid in proc.tree(root):
        _refuse_links(pid, ghost_limit)
        for fd, name in _descriptors(pid):
            if name.startswith("socket:["):
                ends.setdefault(int(name[8:-1]), (pid, fd))
            elif name.startswith("anon_inode:"):
                _refuse_anonymous(pid, fd, name)
            elif name.endswith(DELETED):
                path = f"/proc/{pid}/fd/{fd}"
                _refuse_deleted(pid, path, name, f"descriptor {fd}", ghost_limit)
            elif name.startswith("/dev/"):
                _refuse_device(pid, name, f"descriptor {fd}")
                master = master or name in MASTER
                if TERMINAL.fullmatch(name):
                    terminal = terminal or (pid, fd, name)
        _refuse_maps(pid, ghost_limit)
    if terminal and not master:
        pid, fd, name = terminal
        raise TaskError(
            f"descriptor {fd} of {_called(pid)} is a terminal ({name}), which a restart would not"
            " have: close it first"
        )
    if ends:
        _refuse_sockets(ends, internet)


def _called(pid: int) -> str:
    """Return what to call a process: by the id that it has for itself."""
    own = pid
    with suppress(OSError):
        own = proc.own_pid(pid)
    return f"process {own} ({proc.comm(pid)})"


def _status(pid: int) -> dict[str, str]:
    """Return /proc/PID/status; nothing where it has ended."""
    with suppress(OSError), open(f"/proc/{pid}/status", errors="replace") as file:
        return dict(line.split(":", 1) for line in file if ":" in line)
    return {}


def _descriptors(pid: int) -> Iterator[tuple[int, str]]:
    """Yield what a process has open. Raises TaskError where /proc does not say."""
    try:
        yield from proc.descriptors(pid)
    except PermissionError as error:
        if proc.ending(pid):
            return
        raise TaskError(
            f"/proc does not let its owner look at {_called(pid)}: it runs a set-user-ID or"
            " unreadable program, or made itself undumpable (PR_SET_DUMPABLE)"
        ) from error
    except OSError:
        return


def _refuse_links(pid: int, ghost_limit: int) -> None:
    for link, what in (("exe", "program"), ("cwd", "working directory")):
        name = proc.link(pid, link)
        if name.endswith(DELETED):
            _refuse_deleted(pid, f"/proc/{pid}/{link}", name, f"the {what}", ghost_limit)


def _refuse_deleted(pid: int, path: str, name: str, where: str, ghost_limit: int) -> None:
    """Refuse what CRIU cannot put into an image, or make again, of what is deleted.

    It makes a deleted file again when it restores, gives it its owner, which only root can where
    that is another, and deletes it. One that has another name it would have to find by that.
    """
    if not name.startswith("/") or name.startswith("/memfd:"):
        return
    with suppress(OSError):
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            return
        if _is_there(name, status):  # a file's own name may end so
            return
        what = f"{where} of {_called(pid)} is a file that was deleted or replaced"
        if stat.S_ISDIR(status.st_mode):
            what = f"{where} of {_called(pid)} has been deleted"
        elif status.st_nlink:
            raise TaskError(
                f"{what}, as {name[: -len(DELETED)]}, and still has another name (a hard link),"
                " which CRIU cannot dump"
            )
        if status.st_uid != os.geteuid() or status.st_gid not in {os.getegid(), *os.getgroups()}:
            raise TaskError(
                f"{what} ({name[: -len(DELETED)]}) and belongs to another (uid {status.st_uid}, gid"
                f" {status.st_gid}): a restore could not make it again"
            )
        size = status.st_blocks * BLOCK
        if size > ghost_limit and not name.startswith(MEMORY):
            raise TaskError(
                f"{what} ({name[: -len(DELETED)]}) and has {size >> 20} MiB, and at most"
                f" {ghost_limit >> 20} MiB of one are kept: ghost_limit in plugstack.conf"
            )


def _is_there(name: str, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(name), status)
    except OSError:
        return False


def _refuse_anonymous(pid: int, fd: int, name: str) -> None:
    what = ANONYMOUS.get(name)
    if name == "anon_inode:inotify":
        with suppress(OSError), open(f"/proc/{pid}/fdinfo/{fd}") as file:
            if any(line.startswith("inotify ") for line in file):
                what = "a watch on files (inotify)"
    if what:
        raise TaskError(f"descriptor {fd} of {_called(pid)} is {what}, which CRIU cannot dump")


def _refuse_device(pid: int, name: str, where: str) -> None:
    for pattern, what in DEVICES:
        if pattern.match(name):
            raise TaskError(
                f"{where} of {_called(pid)} is {what} ({name}), whose state no checkpoint has:"
                " close it first"
            )


def _refuse_maps(pid: int, ghost_limit: int) -> None:
    for words in proc.maps(pid):
        name = words[5]
        if name.startswith("/SYSV"):
            raise TaskError(
                f"{_called(pid)} has System V shared memory (shmget, key 0x{name[5:13]}), which"
                " CRIU cannot dump: use shm_open, or a file in /dev/shm"
            )
        if name.endswith(DELETED):
            path = f"/proc/{pid}/map_files/{words[0]}"
            _refuse_deleted(pid, path, name, "memory", ghost_limit)
        elif name.startswith("/dev/"):
            _refuse_device(pid, name, "memory")


def _refuse_sockets(ends: dict[int, tuple[int, int]], internet: Callable[[], str]) -> None:
    known: dict[int, sockets.Unix] = {}
    with suppress(OSError):  # without it CRIU says so
        known = sockets.unix()
    for inode, (pid, fd) in ends.items():
        peer = known[inode].peer if inode in known else 0
        if peer and peer not in ends:
            name = known[inode].name or (known[peer].name if peer in known else "")
            named = f" ({name})" if name else ""
            raise TaskError(
                f"descriptor {fd} of {_called(pid)} is a Unix socket{named} connected to a process"
                " outside the task: close it before a checkpoint (pycr.on_checkpoint)"
            )
    if all(inode in known for inode in ends):
        return
    others = sockets.internet()
    for inode, (pid, fd) in ends.items():
        found = others.get(inode)
        if found is None:
            continue
        where = f"descriptor {fd} of {_called(pid)} is a {found.protocol}"
        if found.connected:
            raise TaskError(
                f"{where} connection to {found.remote}: close it before a checkpoint"
                " (pycr.on_checkpoint)"
            )
        why = internet()
        if why:
            raise TaskError(f"{where} socket, which CRIU cannot dump here: {why}")


def shared(root: int) -> dict[str, str]:
    """Return the memory that a tree shares and no path leads to: device and inode -> its name.

    Unlinked files, memfds and anonymous shared memory: whoever maps them too shares them only as
    long as both live (proc_pid_maps(5)).
    """
    found: dict[str, str] = {}
    for pid in proc.tree(root):
        found.update(_shared(pid))
    return found


def _shared(pid: int) -> Iterator[tuple[str, str]]:
    for _, flags, _, device, inode, name in proc.maps(pid):
        if flags[3] == "s" and DELETED in name:
            yield f"{device}:{inode}", name


def sharers(wanted: set[str], without: set[int]) -> dict[str, int]:
    """Return which of that memory another process has too: device and inode -> a process.

    Of the processes of this user that /proc shows, but those of `without`.
    """
    found: dict[str, int] = {}
    for name in os.listdir("/proc") if wanted else ():
        if name.isdigit() and int(name) not in without:
            found.update({key: int(name) for key, _ in _shared(int(name)) if key in wanted})
    return found


def needs(root: int) -> int:
    """Return the bytes that an image of a tree takes at the least.

    CRIU writes each process's own memory, and shared memory and files that no name leads to once;
    it leaves out what it can read from files again. Small change, like its other files, is not
    counted, so that nothing is refused that would have fitted.
    """
    size = 0
    files: dict[tuple[int, int], int] = {}
    for pid in proc.tree(root):
        status = _status(pid)
        for name in ("RssAnon", "VmSwap"):
            size += int(status.get(name, "0").split()[0]) << 10
        paths = [
            f"/proc/{pid}/map_files/{words[0]}" for words in proc.maps(pid) if _is_ghost(words[5])
        ]
        with suppress(TaskError):
            paths += [f"/proc/{pid}/fd/{fd}" for fd, name in _descriptors(pid) if _is_ghost(name)]
        for path in paths:
            with suppress(OSError):
                found = os.stat(path)
                if stat.S_ISREG(found.st_mode):
                    files[found.st_dev, found.st_ino] = found.st_blocks * BLOCK
    return size + sum(files.values())


def _is_ghost(name: str) -> bool:
    return name.startswith("/") and name.endswith(DELETED)
