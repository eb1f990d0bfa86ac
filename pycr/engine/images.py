# SPDX-License-Identifier: GPL-2.0-or-later
"""CRIU's image files, as far as pycr looks into them or gives CRIU other ones.

An image file is two words of magic, then entries: a length and a protocol buffer message of that
length (CRIU 3.18 to 4.2, images/*.proto).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from pycr.engine import rpc

MAGIC = 8  # bytes
MAX_PIPE = 64 << 20  # bytes that a pipe may hold (pipe(7))
FILES = "files.img"
PIPES_DATA = "pipes-data.img"
# file_entry, and the reg_file_entry in it
REGULAR = 3
NAME, SIZE, MODE = 6, 8, 10


def pipe_data(dir_fd: int, inode: int) -> bytes:
    """Return what had not been read from a pipe when its tree was dumped.

    Behind each pipe_data_entry are its data. Raises OSError; ValueError for what is no such file.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(PIPES_DATA, flags, dir_fd=dir_fd)
    with os.fdopen(descriptor, "rb") as file:
        file.seek(MAGIC)
        while True:
            head = file.read(4)
            if len(head) < 4:
                return b""
            length = int.from_bytes(head, sys.byteorder)
            message = file.read(min(length, rpc.MAX_MESSAGE))
            if len(message) < length:
                raise ValueError(f"{PIPES_DATA}: damaged")
            fields = rpc.decode(message)
            size = fields.get(2, [0])[0]
            if not isinstance(size, int) or size > MAX_PIPE:
                raise ValueError(f"{PIPES_DATA}: damaged")
            data = file.read(size)
            if len(data) < size:
                raise ValueError(f"{PIPES_DATA}: cut off")
            if fields.get(1) == [inode]:
                return data


def forget_sizes(data: bytes, paths: set[str]) -> bytes:
    """Return files.img without the size and the mode of some files: CRIU then compares neither.

    Raises ValueError for what is no such file.
    """
    out = data[:MAGIC]
    for entry in _entries(data):
        fields = rpc.decode(entry)
        for at, inner in enumerate(fields.get(REGULAR, [])):
            if not isinstance(inner, bytes):
                raise ValueError(f"{FILES}: damaged")
            regular = rpc.decode(inner)
            name = regular.get(NAME, [b""])[0]
            if isinstance(name, bytes) and os.fsdecode(name) in paths:
                regular.pop(SIZE, None)
                regular.pop(MODE, None)
                fields[REGULAR][at] = rpc.message(regular)
        entry = rpc.message(fields)
        out += len(entry).to_bytes(4, sys.byteorder) + entry
    return out


def _entries(data: bytes) -> Iterator[bytes]:
    at = MAGIC
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], sys.byteorder)
        if len(data) < at + 4 + size:
            raise ValueError(f"{FILES}: damaged")
        yield data[at + 4 : at + 4 + size]
        at += 4 + size
