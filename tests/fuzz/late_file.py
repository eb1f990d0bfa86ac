# SPDX-License-Identifier: GPL-2.0-or-later
"""What is kept of an srun's output: anything else than bytes for stdout and stderr is nothing."""

from __future__ import annotations

import json
from pathlib import Path

from pycr.images import late
from pycr.images.manifest import seal, unseal

from .scratch import scratch

PID = 4711


def _path() -> Path:
    return scratch() / late.name_of(PID)


def made() -> list[bytes]:
    """Return bodies, whose checksum check() makes right."""
    found = [b"{}", json.dumps({"1": 3, "2": None, "0": ""}).encode()]
    for streams in ({1: b"one\n"}, {1: bytes(range(256)), 2: b"\0"}):
        late.write(str(scratch()), PID, streams)
        found.append(unseal(_path().read_bytes()))
    return found


def check(data: bytes) -> None:
    """Read it as it is, and as a body with its checksum right."""
    for text in (data, seal(data)):
        _path().parent.mkdir(exist_ok=True)
        _path().write_bytes(text)
        found = late.read(str(scratch()), PID)
        assert set(found) <= {1, 2}
        late.write(str(scratch()), PID, found)
        assert late.read(str(scratch()), PID) == found
