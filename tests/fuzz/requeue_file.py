# SPDX-License-Identifier: GPL-2.0-or-later
"""The requeue file: one absolute path, as spank_cr/batch.pxi takes it (plugin/requeue.c)."""

from __future__ import annotations

import os
from pathlib import Path

from pycr.errors import DirectoryError
from pycr.images.requeue import read_requeue, write_requeue

from .scratch import scratch

JOB = 12


def _path() -> Path:
    return scratch() / f"{JOB}.batch/requeue"


def made() -> list[bytes]:
    """Return files."""
    return [b"/d/12.batch/0001\n", b"/d\n/e\n", b"d\n", b"/d", b"/\xff\n", b"/" + b"x" * 4094]


def accepted(data: bytes) -> bool:
    """Tell whether a file's first bytes are what the plugin takes."""
    line = data[:4095]
    return (
        line[:1] == b"/"
        and line[1:].count(b"\n") == 1
        and line[-1:] == b"\n"
        and (b"\0" not in line)
    )


def check(data: bytes) -> None:
    """Read it; write the path that it holds, and any path that it might be."""
    _path().parent.mkdir(mode=0o700, exist_ok=True)
    _path().write_bytes(data)
    found = read_requeue(scratch(), JOB)
    assert (found is not None) == accepted(data)
    if b"\0" in data:
        return
    wanted = Path("/" + os.fsdecode(data))
    try:
        write_requeue(scratch(), JOB, wanted)
    except DirectoryError:
        assert b"\n" in data or len(data) > 4000
        return
    assert accepted(_path().read_bytes())
    assert read_requeue(scratch(), JOB) == wanted
