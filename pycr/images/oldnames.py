# SPDX-License-Identifier: GPL-2.0-or-later
"""The names that checkpoint/blcr gave its images, and what stands in their place now.

    DIR/12.3/task.0.ckpt, DIR/12.3.ckpt                 -> DIR/12.3
    DIR/12/script.ckpt,   DIR/12.ckpt,   DIR/12         -> DIR/12.batch

Scripts of that time name them. A file that is there by such a name is an image of BLCR's: its
kernel module wrote it, and nothing but that can read it. spank_cr/oldnames.pxi has the same for
--restart-dir.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from pycr.errors import ImageError

IMAGE = re.compile(r"script\.ckpt|task\.[0-9]+\.ckpt")
_RECORD = re.compile(r"([0-9]+(?:\.[0-9]+)?)\.ckpt")
_REMEDY = "of BLCR, which CRIU cannot read: the job has to start from its beginning"


def successor(path: Path) -> Path:
    """Return what an old image's name stands for now; any other path as it is. Raises ImageError.

    What there is by the path itself comes first.
    """
    if os.path.isdir(path):
        return path
    record = _RECORD.fullmatch(path.name)
    is_old = record is not None or IMAGE.fullmatch(path.name) is not None
    if is_old and os.path.isfile(path):
        raise ImageError(f"{path}: an image {_REMEDY}")
    found = path.parent / record.group(1) if record else path.parent if is_old else path
    batch = found.with_name(f"{found.name}.batch")
    is_job = re.fullmatch("[0-9]+", found.name) is not None
    return batch if is_job and os.path.isdir(batch) else found


def refuse_images(directory: Path) -> None:
    """Refuse a directory of old images. Raises ImageError."""
    for name in sorted(os.listdir(directory)):
        if IMAGE.fullmatch(name):
            raise ImageError(f"{directory}: {name} in it is an image {_REMEDY}")
