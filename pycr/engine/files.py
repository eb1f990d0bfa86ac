# SPDX-License-Identifier: GPL-2.0-or-later
"""The files that a task has by name: as they are when it is dumped, and what has become of them.

A checkpoint has of such a file its name and how far it was read or written, and nothing of what is
in it: note() says what it was, compare() what it is now. What follows from that is not for here.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pycr.engine import elf, proc
from pycr.engine.proc import DELETED

HEAD = 16384  # bytes at a file's beginning by which it is known again
STREAMS = {1: "stdout", 2: "stderr"}
USES = ("stdout", "stderr", "write", "program", "read", "directory")  # the first that fits is kept
# Not files that are kept anywhere; /dev/shm is.
PSEUDO = re.compile(r"/(proc|sys|dev(?!/shm/))(/|$)")


class OpenFile(NamedTuple):
    """A file as a task had it.

    use: one of USES; "program" is what it executes, libraries too; "directory" one that a process
    of it works in. size: bytes. mode: st_mode. mtime: nanoseconds since the epoch. build_id: of a
    program, "" where it has none. head: SHA-256 of the first HEAD bytes, "" where a build id says
    more, or they could not be read.
    """

    path: str
    use: str
    size: int
    mode: int
    inode: int
    mtime: int
    build_id: str
    head: str


def note(root: int, spared: Iterable[str] = ()) -> list[OpenFile]:
    """Return the files of a tree that stands still, each once, by path.

    spared: paths that a restore replaces. Its standard streams are replaced too; those that are
    files it writes are told by their use alone.
    """
    uses: dict[str, str] = {}
    streams = proc.streams(root)
    for stream in streams:
        if stream.fd in STREAMS and stream.kind == "file":
            uses.setdefault(stream.name, STREAMS[stream.fd])
    left_out = {*spared, *(stream.name for stream in streams)}
    for pid in proc.tree(root):
        for path, use in (*_descriptors(pid), *_mapped(pid), (proc.link(pid, "cwd"), "directory")):
            if path in left_out or PSEUDO.match(path) or not path.startswith("/"):
                continue
            before = uses.get(path, USES[-1])
            uses[path] = min(before, use, key=USES.index)
    found = []
    for path, use in sorted(uses.items()):
        with suppress(OSError):  # deleted: its contents are in the image
            found.append(_look(path, use))
    return found


def _descriptors(pid: int) -> Iterable[tuple[str, str]]:
    with suppress(OSError):
        for fd, path in proc.descriptors(pid):
            if not path.startswith("/") or path.endswith(DELETED):
                continue
            with suppress(OSError, ValueError, IndexError):
                kind = os.stat(f"/proc/{pid}/fd/{fd}").st_mode
                if stat.S_ISDIR(kind):
                    yield path, "directory"
                elif stat.S_ISREG(kind):
                    text = Path(f"/proc/{pid}/fdinfo/{fd}").read_text()
                    flags = int(text.split("flags:", 1)[1].split()[0], 8)
                    yield path, "write" if flags & os.O_ACCMODE else "read"


def _mapped(pid: int) -> Iterable[tuple[str, str]]:
    for _, rights, _, _, _, name in proc.maps(pid):
        if name.startswith("/") and not name.endswith(DELETED):
            shared = rights[3] == "s" and rights[1] == "w"
            use = "write" if shared else "program" if rights[2] == "x" else "read"
            yield name.replace("\\012", "\n"), use


def _look(path: str, use: str) -> OpenFile:
    found = os.stat(path)
    build_id, head = "", ""
    if stat.S_ISREG(found.st_mode):
        with suppress(OSError):
            build_id, head = _contents(path, use, found.st_size)
    return OpenFile(
        path,
        use,
        found.st_size,
        found.st_mode,
        found.st_ino,
        found.st_mtime_ns,
        build_id,
        head,
    )


def _contents(path: str, use: str, size: int) -> tuple[str, str]:
    """Return a file's build id and the checksum of its head. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        build_id = elf.build_id(descriptor) if use == "program" else ""
        head = b"" if build_id else os.pread(descriptor, min(size, HEAD), 0)
    finally:
        os.close(descriptor)
    return build_id, "" if build_id else hashlib.sha256(head).hexdigest()


class Change(NamedTuple):
    """What has become of a file. kind: SAME, or why it is not. size: bytes now, -1: not there."""

    kind: str
    size: int
    why: str = ""


SAME = "same"
TOUCHED = "touched"  # written or copied, but as long, and with the same head
GROWN, SHORTER, OVERWRITTEN, REPLACED, REBUILT = (
    "grown",
    "shorter",
    "overwritten",
    "replaced",
    "rebuilt",
)
MISSING, FORBIDDEN, OTHER, MODE = "missing", "forbidden", "other", "mode"


def compare(old: OpenFile) -> Change:
    """Say what has become of a file since it was noted."""
    try:
        now = _look(old.path, old.use)
    except OSError as error:
        return Change(MISSING, -1, error.strerror or "it is not there")
    if stat.S_IFMT(now.mode) != stat.S_IFMT(old.mode):
        return Change(OTHER, now.size, "it is of another kind")
    needed = os.W_OK if old.use in ("write", *STREAMS.values()) else os.R_OK
    if not os.access(old.path, os.X_OK if old.use == "directory" else needed):
        what = "write" if needed == os.W_OK else "read"
        return Change(FORBIDDEN, now.size, f"you may not {what} it any more")
    if old.use == "directory":
        return _mode(old, now)
    if old.build_id and now.build_id != old.build_id:
        ids = f"{old.build_id:.12} then, {now.build_id or 'none':.12} now"
        return Change(REBUILT, now.size, f"it was built anew (build id {ids})")
    return _compare_contents(old, now)


def _compare_contents(old: OpenFile, now: OpenFile) -> Change:
    if now.size < old.size:
        return Change(SHORTER, now.size, f"it had {old.size} bytes and has {now.size}")
    if old.head:
        head = old.head
        with suppress(OSError):  # it may be for writing only by now
            head = _contents(old.path, "read", old.size)[1]
        if head != old.head:
            same = now.inode == old.inode
            why = "its beginning was overwritten" if same else "it is another file now"
            return Change(OVERWRITTEN if same else REPLACED, now.size, why)
    if now.size > old.size:
        return Change(GROWN, now.size, f"it had {old.size} bytes and has {now.size}")
    if old.mtime != now.mtime and not old.build_id:
        return Change(TOUCHED, now.size, "it was written since")
    return _mode(old, now)


def _mode(old: OpenFile, now: OpenFile) -> Change:
    if now.mode != old.mode:
        modes = f"{stat.S_IMODE(old.mode):04o} then, {stat.S_IMODE(now.mode):04o} now"
        return Change(MODE, now.size, f"its mode was changed ({modes})")
    return Change(SAME, now.size)
