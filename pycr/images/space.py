# SPDX-License-Identifier: GPL-2.0-or-later
"""The space that checkpoints take: how much there is, and what to say where it is too little.

A quota is asked of the kernel (quotactl_fd(2), Linux 5.14): those of ext4, XFS and others that keep
it there, of the user and of the directory's group. NFS and Lustre keep theirs on the server, which
says so only when it is used up (EDQUOT).
"""

from __future__ import annotations

import errno
import os
import struct
import time
from pathlib import Path
from typing import NamedTuple

from pycr.errors import DirectoryError

FULL = (errno.ENOSPC, errno.EDQUOT)
NEVER_FULL = 1 << 63  # bytes that a file system has which counts none
SYS_QUOTACTL_FD = 443  # on every architecture
Q_GETQUOTA, USER, GROUP = 0x800007, 0, 1  # <linux/quota.h>, as the next two
DQBLK = struct.Struct("=8QI")
LIMITS_AND_USE = 1 | 2  # QIF_BLIMITS, QIF_SPACE


def size(count: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


class Quota(NamedTuple):
    """A limit of someone's on a file system, and what is used of it, in bytes; 0: no limit.

    until: until when more than soft may be used, seconds since the epoch; 0 where less is.
    """

    hard: int
    soft: int
    used: int
    until: int

    def left(self, now: float) -> int | None:
        """Return what may still be written, None where there is no limit."""
        limits = [self.hard] if self.hard else []
        if self.soft and self.until and now >= self.until:
            limits.append(self.soft)
        return max(0, min(limits) - self.used) if limits else None


def quotas(directory: Path) -> list[Quota]:
    """Return the quotas that hold for what this user writes to a directory, as far as is known."""
    import ctypes  # 5 ms, and most of who imports this module asks for none

    call = ctypes.CDLL(None, use_errno=True).syscall
    found = []
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        for kind, owner in ((USER, os.geteuid()), (GROUP, os.fstat(descriptor).st_gid)):
            buffer = ctypes.create_string_buffer(DQBLK.size + 8)
            command = (Q_GETQUOTA << 8 | kind) & 0xFFFFFFFF
            if call(SYS_QUOTACTL_FD, descriptor, command, owner, buffer) == 0:
                found.append(read_quota(buffer.raw))
    finally:
        os.close(descriptor)
    return found


def read_quota(data: bytes) -> Quota:
    """Return a quota from the kernel's struct if_dqblk: its limits are in KiB."""
    hard, soft, used, _, _, _, until, _, valid = DQBLK.unpack_from(data)
    if valid & LIMITS_AND_USE != LIMITS_AND_USE:
        return Quota(0, 0, 0, 0)
    return Quota(hard << 10, soft << 10, used, until)


def free(path: Path) -> tuple[int, str]:
    """Return the bytes that this user may still write below a directory, and what says so.

    Raises OSError.
    """
    status = os.statvfs(path)
    found = status.f_bavail * status.f_frsize if status.f_blocks else NEVER_FULL
    name = ""
    for quota in quotas(path):
        left_of_it = quota.left(time.time())
        if left_of_it is not None and left_of_it < found:
            found, name = left_of_it, " by your quota"
    return found, name


def left(path: Path) -> str:
    """Return what a user may still write to a file system, in words. Raises OSError."""
    status = os.statvfs(path)
    count, name = free(path)
    text = f"{size(count if count != NEVER_FULL else 0)} are free{name}"
    # Some file systems count no files, and say 0 of 0.
    return f"{text}, but no more files" if status.f_files and not status.f_favail else text


def exhausted(path: Path, number: int) -> DirectoryError:
    """Return the error for a path that cannot be written since all is used: ENOSPC, EDQUOT."""
    place = next(each for each in (path, *path.parents) if each.exists())
    remedy = "remove old checkpoints (pycr rm), or name another --image-dir"
    return DirectoryError(f"{path}: {os.strerror(number)} ({left(place)}): {remedy}")


def check(directory: Path, needed: int, name: str) -> None:
    """Refuse to begin what cannot end well. needed: bytes, at the least. name: of the step.

    A file system that counts no blocks is taken for large enough. Raises DirectoryError.
    """
    if needed > free(directory)[0]:
        raise DirectoryError(
            f"{name}: image directory {directory}: the checkpoint needs {size(needed)} or more, and"
            f" {left(directory)}: remove old ones (pycr rm), or name another --image-dir"
        )


def check_limit(limit: int, count: int, what: str) -> None:
    """Refuse a checkpoint that the site has too large. limit: in MiB, 0: none. count: bytes.

    Raises DirectoryError.
    """
    if limit and count > limit << 20:
        raise DirectoryError(
            f"{what} {size(count)}, and the site allows {size(limit << 20)}"
            " (max_size in plugstack.conf)"
        )
