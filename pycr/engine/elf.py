# SPDX-License-Identifier: GPL-2.0-or-later
"""The build id of a program or library (elf(5)): what tells two builds of it apart.

CRIU keeps the build ids of what a task has mapped in its image and refuses others; here they are
read so that this can be said beforehand, and in words.
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

PT_NOTE = 4
NT_GNU_BUILD_ID = 3
MAX_NOTES = 1 << 16  # bytes of notes that are looked at; a build id is among the first


class _Layout(NamedTuple):
    """Where the fields are in a file of this class: struct formats without byte order, offsets."""

    header: str  # e_phoff at header_at
    header_at: int
    counts_at: int  # e_phentsize, e_phnum
    program: str  # p_offset and p_filesz of a program header
    offset_at: int
    size_at: int


_LAYOUTS = {1: _Layout("I", 28, 42, "I", 4, 16), 2: _Layout("Q", 32, 54, "Q", 8, 32)}


def build_id(descriptor: int) -> str:
    """Return the build id of an open file, in hexadecimal; "" where it has none or is no ELF file.

    Raises OSError.
    """
    head = os.pread(descriptor, 64, 0)
    if head[:4] != b"\x7fELF" or len(head) < 52 or head[5] not in (1, 2):
        return ""
    layout, order = _LAYOUTS.get(head[4]), "<>"[head[5] - 1]
    if layout is None:
        return ""
    try:
        (start,) = struct.unpack_from(order + layout.header, head, layout.header_at)
        size, count = struct.unpack_from(order + "HH", head, layout.counts_at)
        table = os.pread(descriptor, min(size * count, MAX_NOTES), start)
        for at in range(0, len(table), max(size, 1)):
            if struct.unpack_from(order + "I", table, at)[0] != PT_NOTE:
                continue
            (offset,) = struct.unpack_from(order + layout.program, table, at + layout.offset_at)
            (length,) = struct.unpack_from(order + layout.program, table, at + layout.size_at)
            found = _in_notes(os.pread(descriptor, min(length, MAX_NOTES), offset), order)
            if found:
                return found
    except (struct.error, OverflowError):
        return ""  # truncated, or no ELF file after all
    return ""


def _in_notes(notes: bytes, order: str) -> str:
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from(order + "3I", notes, at)
        name = at + 12
        value = name + (name_size + 3 & ~3)
        if kind == NT_GNU_BUILD_ID and notes[name : name + name_size] == b"GNU\0":
            return notes[value : value + size].hex()
        at = value + (size + 3 & ~3)
    return ""
