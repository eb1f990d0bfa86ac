# SPDX-License-Identifier: GPL-2.0-or-later
"""What is removed from an image directory, by its owner: remains, a generation, all of a step's.

The names are image.py's; what is of no more use is for retention.py and gc.py to say.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from pycr.errors import ImageError
from pycr.images.image import (
    ASIDE,
    GENERATION,
    STEP,
    directory_error,
    generations,
    is_leftover,
    open_owned,
    remove_tree,
    take_lock,
)

_LOG = re.compile(r"failed-(?:[0-9.]+-)?task\.[0-9]+\.log")


def sweep(step_fd: int) -> int:
    """Remove the remains of crashed writers from a step's directory, and logs of failures.

    Return how many writers there were.

    Only for the holder of its lock.
    """
    names = os.listdir(step_fd)
    for name in names:
        if _LOG.fullmatch(name):
            with suppress(OSError):
                os.unlink(name, dir_fd=step_fd)
    remains = [name for name in names if is_leftover(name)]
    for name in remains:
        remove_tree(f"/proc/self/fd/{step_fd}/{name}")
    return len(remains)


def check_removable(path: Path) -> None:
    """Refuse to remove what is no checkpoint of this user's. Raises ImageError, AccessDenied."""
    generation = GENERATION.fullmatch(path.name) and STEP.fullmatch(path.parent.name)
    if not generation and not STEP.fullmatch(path.name):
        raise ImageError(f"{path}: neither JOB.STEP nor a generation of one")
    if GENERATION.fullmatch(path.parent.name):
        raise ImageError(f"{path}: a part of the batch job's checkpoint {path.parent}")
    try:
        os.close(open_owned(path))
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from error


def remove(path: Path) -> None:
    """Remove a generation, or a step's directory with all of them.

    Raises DirectoryError; Busy while a checkpoint is being written there.
    """
    whole = STEP.fullmatch(path.name) is not None
    step_dir = path if whole else path.parent
    try:
        directory = open_owned(step_dir)
        lock = take_lock(directory, step_dir.name)
        try:
            for generation in generations(path) if whole else [path]:
                # Out of sight first: whoever looks meanwhile sees it whole or not at all.
                gone = f".new-{generation.name}-{os.urandom(4).hex()}"
                os.rename(generation.name, gone, src_dir_fd=directory, dst_dir_fd=directory)
                with suppress(FileNotFoundError):
                    os.unlink(generation.name + ASIDE, dir_fd=directory)
            sweep(directory)
            if whole or not generations(step_dir):
                remove_tree(step_dir, ignore_errors=False)
        finally:
            os.close(lock)
            os.close(directory)
    except OSError as error:
        raise directory_error(path, error) from error
