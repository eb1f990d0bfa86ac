# SPDX-License-Identifier: GPL-2.0-or-later
"""The few system calls Python 3.9 has no wrapper for, raising OSError as os.* does.

Owns: the ctypes declarations and the kernel's flag values. Knows nothing of clusters.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 0x2

_PR_SET_PDEATHSIG = 1
# glibc has no pivot_root(3), see pivot_root(2); the number differs by architecture.
_NR_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "ppc64le": 203, "riscv64": 41, "s390x": 217}

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result == -1:
        errno = ctypes.get_errno()
        raise OSError(errno, f"{what}: {os.strerror(errno)}")


def unshare(flags: int) -> None:
    """Move this process into new namespaces (unshare(2))."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def setns(fd: int, flags: int) -> None:
    """Join the namespace FD refers to (setns(2))."""
    _check(_libc.setns(ctypes.c_int(fd), ctypes.c_int(flags)), "setns")


def mount(source: str, target: str, fstype: str = "", flags: int = 0, options: str = "") -> None:
    """Mount SOURCE on TARGET (mount(2))."""
    _check(
        _libc.mount(
            source.encode(),
            target.encode(),
            fstype.encode() or None,
            ctypes.c_ulong(flags),
            options.encode() or None,
        ),
        f"mount {fstype or source} on {target}",
    )


def bind(source: str, target: str) -> None:
    """Make SOURCE visible at TARGET as well."""
    mount(source, target, flags=MS_BIND)


def enter_root(new_root: str) -> None:
    """Make NEW_ROOT this mount namespace's root and drop the old one.

    A chroot would not do: CRIU refuses to dump a task whose root is not its namespace's.
    """
    os.chdir(new_root)
    nr = _NR_PIVOT_ROOT[platform.machine()]
    # Same directory twice stacks the old root on top of the new one (pivot_root(2), NOTES).
    _check(_libc.syscall(ctypes.c_long(nr), b".", b"."), f"pivot_root {new_root}")
    _check(_libc.umount2(b".", ctypes.c_int(MNT_DETACH)), "umount the old root")
    os.chdir("/")


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies.

    Lost at a change of credentials, so call it after setuid (prctl(2), PR_SET_PDEATHSIG).
    """
    _check(_libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0), "prctl PR_SET_PDEATHSIG")
