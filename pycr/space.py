# SPDX-License-Identifier: GPL-2.0-or-later
"""The space that checkpoints take: how much there is, and what to say where it is too little."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from pycr.errors import DirectoryError

FULL = (errno.ENOSPC, errno.EDQUOT)


def size(count: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def left(path: Path) -> str:
    """Return what a user may still write to a file system. A quota is not seen. Raises OSError."""
    status = os.statvfs(path)
    text = f"{size(status.f_bavail * status.f_frsize)} are free"
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
    status = os.statvfs(directory)
    if status.f_blocks and needed > status.f_bavail * status.f_frsize:
        raise DirectoryError(
            f"{name}: image directory {directory}: the checkpoint needs {size(needed)} or more, and"
            f" {left(directory)}: remove old ones (pycr rm), or name another --image-dir"
        )
