# SPDX-License-Identifier: GPL-2.0-or-later
"""From a plain process to a node: namespaces, root file system, mounts; then exec of init.py.

Run by node.py as `python3 -m tests.cluster.boot --cluster=STATE NAME PARENT`; the marker argument
is how the process is found again (state.py). NAME `switch` makes the bridge's namespace instead.

    node.py ── boot.py: own cgroups, unshare, fork ──┬─ writes the pid file, exits
                                                     └─ PID 1: mounts, pivot_root, exec init.py
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import stat
import sys
from pathlib import Path
from typing import Any

from . import cgroups, slurmconf, syscalls
from .layers import overlay_options
from .state import State, start_time, wait_until, write_whole

NAMESPACES = (
    syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWNET
    | syscalls.CLONE_NEWPID
)
SAFE = syscalls.MS_NOSUID | syscalls.MS_NODEV

# The minor numbers of the memory devices, major 1: mem(4), null(4), full(4), random(4).
DEVICES = {"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9}


def main() -> None:
    """Become node or switch NAME of the cluster."""
    syscalls.die_with_parent()
    _, _, name, parent = sys.argv
    if os.getppid() != int(parent):
        sys.exit("boot: the process that started this one is gone")
    state = State()
    if sys.argv[1] != state.marker:
        sys.exit(f"boot: {sys.argv[1]} is not this checkout's cluster")
    record = state.load()
    if record is None:
        sys.exit("boot: no record of the cluster")
    if name == "switch":
        syscalls.unshare(syscalls.CLONE_NEWNET)
        _leave_parent(state, name, os.fork())
        os.setsid()
        while True:
            signal.pause()
    flags = NAMESPACES
    if record["plugins"]["cgroup"] != "disabled":
        cgroups.enter(cgroups.make(state, name))
        flags |= syscalls.CLONE_NEWCGROUP
    syscalls.unshare(flags)
    _leave_parent(state, name, os.fork())
    os.setsid()
    _become(state, name, record)


def _leave_parent(state: State, name: str, child: int) -> None:
    if child:
        write_whole(state.node(name) / "pid", f"{child} {start_time(child)}\n")
        os._exit(0)


def _become(state: State, name: str, record: dict[str, Any]) -> None:
    """Build the root of node NAME around this process, PID 1 of its namespaces, and exec init."""
    os.umask(0o022)
    socket.sethostname(name)
    syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    root = state.node(name) / "root"
    disk = state.node(name)
    options = overlay_options(
        tuple(Path(layer) for layer in record["layers"]), disk / "upper", disk / "work"
    )

    def mounted() -> bool:
        try:
            syscalls.mount("overlay", str(root), "overlay", options=options)
        except OSError as error:
            # After a crash the kernel takes a moment to let go of the node's old mount.
            if error.errno != errno.EBUSY:
                raise
            return False
        return True

    wait_until(f"the disk of {name}", mounted, 10)
    _kernel_mounts(root)
    if record["plugins"]["cgroup"] != "disabled":
        _mount_cgroups(root / "sys/fs/cgroup")
    _devices(root / "dev")
    _files(state, name, root)
    shutil.copy(Path(__file__).with_name("init.py"), root / "run/pycr-init.py")
    syscalls.enter_root(str(root))
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    role = "controller" if name == "n0" else "worker"
    command = ["python3", "-I", "/run/pycr-init.py", state.marker, name, role]
    os.execve("/usr/bin/python3", command, environment)


def _kernel_mounts(root: Path) -> None:
    for directory, fstype, options in (
        ("proc", "proc", ""),
        ("sys", "sysfs", ""),
        ("dev", "tmpfs", "mode=755,size=1m"),
        ("dev/pts", "devpts", "newinstance,ptmxmode=666,mode=620,gid=5"),
        ("dev/shm", "tmpfs", "mode=1777"),
        ("run", "tmpfs", "mode=755"),
        ("tmp", "tmpfs", "mode=1777"),
    ):
        target = root / directory
        target.mkdir(exist_ok=True)
        flags = syscalls.MS_NOSUID if directory.startswith("dev") else SAFE
        syscalls.mount(fstype, str(target), fstype, flags, options)


def _mount_cgroups(target: Path) -> None:
    syscalls.mount("tmpfs", str(target), "tmpfs", SAFE | syscalls.MS_NOEXEC, "mode=755")
    for hierarchy in cgroups.hierarchies():
        path = target / ",".join(hierarchy.controllers)
        path.mkdir()
        # The kernel finds the hierarchy by its whole set of controllers, wanted or not.
        options = ",".join(hierarchy.every_controller)
        syscalls.mount("cgroup", str(path), "cgroup", SAFE | syscalls.MS_NOEXEC, options)
        for name in hierarchy.controllers:
            if name != path.name:
                (target / name).symlink_to(path.name)


def _devices(dev: Path) -> None:
    for name, minor in DEVICES.items():
        os.mknod(dev / name, stat.S_IFCHR | 0o666, os.makedev(1, minor))
        (dev / name).chmod(0o666)
    os.mknod(dev / "tty", stat.S_IFCHR | 0o666, os.makedev(5, 0))
    (dev / "tty").chmod(0o666)
    (dev / "ptmx").symlink_to("pts/ptmx")
    (dev / "fd").symlink_to("/proc/self/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        (dev / name).symlink_to(f"/proc/self/fd/{number}")


def _files(state: State, name: str, root: Path) -> None:
    """Give the node its configuration, its users and the directories of its daemons."""
    slurmconf.add_users(root)
    slurm, munge = slurmconf.owner(root, "slurm"), slurmconf.owner(root, "munge")
    etc = root / "etc"
    (etc / "slurm").mkdir(exist_ok=True)
    for file in ("slurm.conf", "cgroup.conf", "plugstack.conf"):
        shutil.copyfile(state.conf / file, etc / "slurm" / file)
    daemons = state.conf / slurmconf.SLURMDBD_CONF
    if name == "n0" and daemons.exists():
        # slurmdbd takes it only from its own user, and readable by nobody else.
        shutil.copyfile(daemons, etc / "slurm" / daemons.name)
        os.chown(etc / "slurm" / daemons.name, *slurm)
        (etc / "slurm" / daemons.name).chmod(0o600)
    for file in ("hostname", "resolv.conf"):
        # Either may be a link to somewhere the node does not have.
        (etc / file).unlink(missing_ok=True)
    (etc / "hostname").write_text(name + "\n")
    (etc / "resolv.conf").touch()
    shutil.copyfile(state.conf / "hosts", etc / "hosts")
    (etc / "munge").mkdir(exist_ok=True)
    key = etc / "munge/munge.key"
    key.unlink(missing_ok=True)
    shutil.copyfile(state.conf / "munge.key", key)
    log = state.log(name)
    (log / "munge").mkdir(parents=True, exist_ok=True)
    for path, mode, (uid, gid) in (
        (etc / "munge", 0o700, munge),
        (key, 0o400, munge),
        (root / "run/munge", 0o755, munge),
        (root / "var/lib/munge", 0o711, munge),
        (log / "munge", 0o700, munge),
        (log, 0o755, slurm),
        (root / "run/slurm", 0o755, slurm),
        (root / "run/mysqld", 0o755, slurm),
        (root / "var/spool/slurmctld", 0o755, slurm),
        (root / "var/spool/slurmd", 0o755, (0, 0)),
    ):
        if not path.exists():
            path.mkdir(parents=True)
        os.chown(path, uid, gid)
        path.chmod(mode)
    for source, target in (
        (log, root / "var/log/slurm"),
        (log / "munge", root / "var/log/munge"),
        (state.shared, root / "shared"),
    ):
        target.mkdir(parents=True, exist_ok=True)
        syscalls.bind(str(source), str(target))


if __name__ == "__main__":
    main()
