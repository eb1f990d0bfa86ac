# SPDX-License-Identifier: GPL-2.0-or-later
"""What an srun_cr has still to deliver of its srun's output, kept beside a script's image.

    0001/late/4711      srun_cr's pid -> {"1": base64 of what is due on its descriptor 1, ...}

Written by its monitor: what it holds when the script is frozen and, for a script that is vacated,
what srun says until its end. A manifest of the generation is written before that; so this has a
checksum of its own.
"""

from __future__ import annotations

import base64
import json
import os
from contextlib import suppress
from pathlib import Path

from pycr.images import image
from pycr.images.manifest import seal, unseal

MAX_SIZE = 1 << 30  # bytes
_STREAMS = {"1": 1, "2": 2}


def name_of(own_pid: int) -> str:
    """Return where a generation keeps what an srun_cr still has to deliver."""
    return f"{image.LATE}/{own_pid}"


def write(directory: str, own_pid: int, streams: dict[int, bytes]) -> None:
    """Keep what an srun_cr has not delivered, by descriptor, in a generation. Raises OSError."""
    path = Path(directory) / name_of(own_pid)
    with suppress(FileNotFoundError):
        path.unlink()
    if not streams:
        return
    path.parent.mkdir(0o700, exist_ok=True)
    body = json.dumps({str(fd): base64.b64encode(data).decode() for fd, data in streams.items()})
    with os.fdopen(image.create(path), "wb") as file:
        file.write(seal(body.encode()))
        file.flush()
        os.fsync(file.fileno())
    for each in (path.parent, path.parent.parent):
        image.sync_directory(each)


def read(directory: str, own_pid: int) -> dict[int, bytes]:
    """Return what write() kept, none where it is not there or damaged."""
    try:
        # A device or a file without end in its place must not take all memory.
        descriptor = image.open_regular(Path(directory) / name_of(own_pid))
        with os.fdopen(descriptor, "rb") as file:
            if os.fstat(descriptor).st_size > MAX_SIZE:
                return {}
            value = json.loads(unseal(file.read(MAX_SIZE)))
        return {_STREAMS[name]: base64.b64decode(data) for name, data in value.items()}
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError):
        return {}
