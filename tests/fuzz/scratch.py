# SPDX-License-Identifier: GPL-2.0-or-later
"""A directory in memory for the targets that read a file; one for the process, gone at its end."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

_IN_MEMORY = Path("/dev/shm")


@functools.cache
def _place() -> tempfile.TemporaryDirectory[str]:
    base = str(_IN_MEMORY) if _IN_MEMORY.is_dir() else None
    return tempfile.TemporaryDirectory(prefix="pycr-fuzz-", dir=base)


def scratch() -> Path:
    """Return it."""
    return Path(_place().name)
