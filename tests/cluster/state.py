# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a checkout's cluster keeps its state, who may change it, and which processes are its.

Owns: the state directory, its lock, its one record (cluster.json) and finding the cluster's
processes. A cluster is known by the path of its checkout, so two checkouts never meet.

    <base>/<id>/cluster.json    parameters, layers, plugins in force
               /conf/           slurm.conf, munge.key ...: copied into each node
               /nodes/nX/       upper/ work/ (the node's disk), root/ (mount point), pid
               /log/nX/         slurmd.log slurmctld.log init.log munge/
               /shared/         /shared on every node
    <base>/<id>.lock
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

CHECKOUT = Path(__file__).resolve().parents[2]


class ClusterError(Exception):
    """What failed, and what to do about it, for the user to read."""


def say(text: str) -> None:
    """Tell the user how far we are."""
    print(f"cluster: {text}", file=sys.stderr, flush=True)


def wait_until(what: str, ready: Callable[[], bool], seconds: float, step: float = 0.02) -> None:
    """Poll READY until it is true; raise ClusterError after SECONDS."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise ClusterError(f"gave up after {seconds:.0f} s waiting for {what}")
        time.sleep(step)


def filesystem_of(path: Path) -> str:
    """Return the type of the file system PATH is on, or '' when the kernel does not say."""
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    found = ""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if left.split()[2] == wanted:
            found = right.split()[0]
    return found


def holds_overlay_layers(path: Path) -> bool:
    """Tell whether overlayfs takes a directory under PATH as its upper layer."""
    return filesystem_of(path) not in ("overlay", "nfs", "nfs4", "9p", "fuse", "virtiofs", "vfat")


def base_dir() -> Path:
    """Return the directory that holds every checkout's state; not necessarily existing."""
    # A node's disk and the images tests write do not belong in memory, if there is a choice.
    parent = Path("/var/tmp")
    return (parent if holds_overlay_layers(parent) else Path("/run")) / "pycr-cluster"


def cluster_id(checkout: Path = CHECKOUT) -> str:
    """Return the name of CHECKOUT's cluster: short, as it ends up in cgroup names.

    Where pytest runs tests side by side (pytest-xdist), each of its workers has one of its own.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    return hashlib.sha256(os.fsencode(f"{checkout}{worker}")).hexdigest()[:10]


class State:
    """One checkout's state directory."""

    def __init__(self, checkout: Path = CHECKOUT) -> None:
        self.checkout = checkout
        self.id = cluster_id(checkout)
        self.base = base_dir()
        self.dir = self.base / self.id
        self.conf = self.dir / "conf"
        self.shared = self.dir / "shared"
        self.marker = f"--cluster={self.dir}"

    def node(self, name: str) -> Path:
        """Return the directory of node NAME."""
        return self.dir / "nodes" / name

    def log(self, name: str) -> Path:
        """Return the directory of node NAME's logs."""
        return self.dir / "log" / name

    def load(self) -> dict[str, Any] | None:
        """Return the record, or None when there is no whole one."""
        try:
            record = json.loads((self.dir / "cluster.json").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return record if isinstance(record, dict) else None

    def save(self, record: dict[str, Any]) -> None:
        """Replace the record; a reader sees the old one or the new one."""
        write_whole(self.dir / "cluster.json", json.dumps(record, indent=1))

    def pid(self, name: str) -> int | None:
        """Return the host's PID of node NAME's init, or None when it is not running."""
        try:
            pid, start = (self.node(name) / "pid").read_text().split()
        except (FileNotFoundError, ValueError):
            return None
        # The start time tells our process from a later one that got the same PID.
        return int(pid) if start_time(int(pid)) == start else None

    def processes(self) -> list[int]:
        """Return every process on the machine that holds part of this cluster alive.

        Found by their argument list, not by recorded PIDs: an `up` killed between starting a
        process and recording it leaves no record.
        """
        marker = os.fsencode(self.marker)
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if marker in (entry / "cmdline").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
        return found

    def kill_all(self) -> None:
        """Kill every process of the cluster; each node's init takes its whole node along."""

        def none_left() -> bool:
            pids = self.processes()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not pids

        wait_until("the cluster's processes to die", none_left, 30)

    def remove(self) -> None:
        """Delete the state directory, which nothing uses any more."""
        if self.dir.exists():
            shutil.rmtree(self.dir)
        with contextlib.suppress(OSError):
            self.base.rmdir()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other `up`s and `down`s of this checkout out."""
        with file_lock(self.base / f"{self.id}.lock", "another up or down of this checkout"):
            # /var/tmp is everybody's: somebody may have made our directory first.
            if self.base.is_symlink() or self.base.stat().st_uid != os.geteuid():
                raise ClusterError(f"{self.base} is not ours: remove it")
            yield
        with contextlib.suppress(OSError):
            self.base.rmdir()


def start_time(pid: int) -> str | None:
    """Return when PID started, in ticks since boot; None when it is gone or a zombie."""
    try:
        fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def write_whole(path: Path, text: str, mode: int = 0o644) -> None:
    """Write PATH so that nobody ever sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.chmod(mode)
    temporary.rename(path)


@contextlib.contextmanager
def file_lock(path: Path, holder: str) -> Iterator[None]:
    """Hold the lock file PATH, and delete it afterwards.

    The kernel frees the lock when its holder dies, however it dies.
    """
    fd = _take(path, holder)
    try:
        yield
    finally:
        path.unlink()
        os.close(fd)


def _take(path: Path, holder: str) -> int:
    waiting = False
    while True:
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # A `down` removed the empty directory between the two calls.
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not waiting:
                say(f"waiting for {holder}")
            waiting = True
            fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            # The last holder deleted the file we waited on, if it is not this one: start over.
            if os.path.samestat(os.fstat(fd), path.stat()):
                return fd
        except FileNotFoundError:
            pass
        os.close(fd)
