# SPDX-License-Identifier: GPL-2.0-or-later
"""What an image says of credentials, checked before CRIU acts on it.

CRIU gives a restored thread the ids and capabilities of its core-ID.img, as far as CRIU has them
itself, and the image is the user's to write. What came out is looked at too (credentials.py), but
whoever kills criu before that lets the tree run as it then is. So no image may ask for more to
begin with, and CRIU reads a copy that was checked, where the user cannot change it any more:

    private directory, of which only the pod has a descriptor
      core-4711.img     a copy, checked
      pages-1.img       -> /proc/1/fd/N/pages-1.img, as is everything else of the manifest
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterable, Iterator

from pycr.engine import rpc
from pycr.errors import ImageError, RestoreFailed

CORE = re.compile(r"core-[0-9]+\.img")
MAX_CORE = 1 << 20
# criu/include/magic.h: of a file since CRIU 1.1, which has two words of it; of a core
MAGIC = struct.pack("<II", 0x54564319, 0x55053847)
THREAD_CORE, CREDS = 5, 10  # images/core.proto
# images/creds.proto: field -> what is in it
UIDS, GIDS, GROUPS = (1, 3, 5, 7), (2, 4, 6, 8), 14
NOTHING = {9: "capabilities", 10: "capabilities", 11: "capabilities", 19: "capabilities"}
NOTHING[13] = "securebits"


def copy_checked(
    images: int, names: Iterable[str], private: int, changed: dict[str, bytes]
) -> None:
    """Fill the private directory from a task's image. Raises ImageError, RestoreFailed.

    images, private: open directories. names: of the files to be there. changed: those that CRIU is
    to find otherwise.
    """
    for name in names:
        if name in changed:
            _write(private, name, changed[name])
            continue
        if not CORE.fullmatch(name):
            os.symlink(f"/proc/1/fd/{images}/{name}", name, dir_fd=private)
            continue
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(name, flags, dir_fd=images), "rb") as file:
                data = file.read(MAX_CORE + 1) or b""
            more = asks_for(data)
        except (OSError, ValueError) as error:
            raise ImageError(f"{name}: damaged: {error}") from error
        if more:
            raise RestoreFailed(f"its image asks for {more}: it was tampered with")
        _write(private, name, data)


def _write(private: int, name: str, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, 0o600, dir_fd=private), "wb") as file:
        file.write(data)


def asks_for(data: bytes) -> str:
    """Say what a core image asks for that its user does not have, "" where nothing.

    Raises ValueError for what is none. Every occurrence of a field counts, since which one CRIU
    takes is for its parser to say.
    """
    if len(data) > MAX_CORE or data[:8] != MAGIC or len(data) < 12:
        raise ValueError("no core image")
    (size,) = struct.unpack("<I", data[8:12])
    if len(data) != 12 + size:
        raise ValueError("not one message")
    for thread in _inner(rpc.decode(data[12:]), THREAD_CORE):
        for creds in _inner(thread, CREDS):
            more = _more(creds)
            if more:
                return more
    return ""


def _inner(fields: dict[int, list[rpc.Value]], number: int) -> Iterator[dict[int, list[rpc.Value]]]:
    for value in fields.get(number, []):
        if not isinstance(value, bytes):
            raise ValueError(f"field {number} is no message")
        yield rpc.decode(value)


def _more(creds: dict[int, list[rpc.Value]]) -> str:
    for number, what in NOTHING.items():
        for value in creds.get(number, []):
            if value if isinstance(value, int) else value.strip(b"\0"):  # numbers may be packed
                return what
    for numbers, own, what in (
        (UIDS, {os.getuid()}, "user id"),
        (GIDS, {os.getgid()}, "group id"),
        ((GROUPS,), set(os.getgroups()), "supplementary group"),
    ):
        for value in (each for number in numbers for each in creds.get(number, [])):
            if not isinstance(value, int):
                raise ValueError(f"{what} is no number")
            if value not in own:
                return f"{what} {value}"
    return ""
