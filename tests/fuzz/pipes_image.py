# SPDX-License-Identifier: GPL-2.0-or-later
"""pipes-data.img, which the user may have written: bytes of a pipe, or a ValueError."""

from __future__ import annotations

import os
import struct

from pycr.engine import images, rpc

from .scratch import scratch

INODE = 7
MAGIC = struct.pack("=II", 0x54564319, 0x56453709)


def entry(inode: int, size: int, data: bytes) -> bytes:
    """Return a pipe's part of the file."""
    head = rpc.encode(1, inode) + rpc.encode(2, size)
    return struct.pack("=I", len(head)) + head + data


def made() -> list[bytes]:
    """Return files; the first is of two pipes."""
    return [
        MAGIC + entry(3, 2, b"no") + entry(INODE, 3, b"yes"),
        MAGIC,
        MAGIC + entry(INODE, 5, b"cut"),
        MAGIC + entry(INODE, 1 << 40, b""),
        MAGIC + b"\xff\xff\xff\xff",
    ]


def check(data: bytes) -> None:
    """Look for one pipe's bytes."""
    (scratch() / "pipes-data.img").write_bytes(data)
    place = os.open(scratch(), os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = images.pipe_data(place, INODE)
    except ValueError:
        return
    finally:
        os.close(place)
    assert found in data
    (scratch() / "pipes-data.img").write_bytes(MAGIC + entry(INODE, len(found), found))
