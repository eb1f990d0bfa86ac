# SPDX-License-Identifier: GPL-2.0-or-later
"""The frame on srun_cr's socket: however it is cut, it is the frame or a ValueError."""

from __future__ import annotations

import os
import struct

from pycr.srun_cr.frames import MAX_NODELIST, Connection, parse_frame

Frame = tuple[int, int, str]


def made() -> list[bytes]:
    """Return a cut and a frame each; the first byte is the cut."""
    found = [b"", b"\0"]
    for nodelist in (b"", b"n0", b"n[0-3,7]"):
        whole = struct.pack("=IIi", 12, 3, len(nodelist)) + nodelist + b"\0"
        found += [b"\0" + whole, b"\5" + whole, b"\1" + whole[:-1]]
    found.append(b"\1" + struct.pack("=IIi", 1, 0, -1))
    found.append(b"\1" + struct.pack("=IIi", 1, 0, MAX_NODELIST + 1))
    return found


def check(data: bytes) -> None:
    """Read it at once, and in pieces through a connection: both must say the same."""
    cut, data = (data[0] or 65536) if data else 1, data[1:]
    wanted = _parsed(data)
    assert wanted is None or struct.pack("=II", *wanted[:2]) == data[:8]
    assert wanted is None or wanted[2].encode() == data[12:-1]
    assert _connected(data, cut) == wanted


def _parsed(data: bytes) -> Frame | None:
    try:
        return parse_frame(data)
    except ValueError:
        return None


def _connected(data: bytes, cut: int) -> Frame | None:
    reader, writer = os.pipe()
    connection = Connection(reader)
    try:
        for at in range(0, len(data), cut):
            os.write(writer, data[at : at + cut])
            assert connection.read() is None
        os.close(writer)
        writer = -1
        return connection.read()
    except ValueError:
        return None
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
