# SPDX-License-Identifier: GPL-2.0-or-later
"""Image directories below a directory, and root's way through those of all users.

Root itself lists only directories that are root's, with every directory above them, and opens each
through the one above it, following no link. What is a user's is left to a process that has become
that user for good, so nothing that a user puts in its way gets it further than they are themselves:

    root: /home  ->  fork, setuid(alice): /home/alice, and all of hers below
                 ->  fork, setuid(bob):   /home/bob ...

It tells of directories of others that it meets, and each of these gets a process of its owner's. It
stays on one file system and goes DEEPEST directories deep. One that says nothing for SILENCE
seconds is killed: its user can stop it.
"""

from __future__ import annotations

import json
import os
import pwd
import select
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from pycr import journal
from pycr.errors import DirectoryError
from pycr.images import image

DEEPEST = 64
SILENCE = 300.0
MOST = 1 << 20  # bytes of a line that are read from a process of a user's
TOLD = 100_000  # other users' directories that one tree may tell of


class Found(NamedTuple):
    """A directory: an image directory of this user's, or one that is another's."""

    path: Path
    uid: int
    mine: bool


Report = dict[str, Any]
Work = Callable[[Path], Iterator[Report]]


def search(top: Path) -> Iterator[Found]:
    """Yield the image directories of this user's at and below a directory, and others' directories.

    Raises DirectoryError where the directory itself cannot be read.
    """
    uid = os.geteuid()
    try:
        device = os.stat(top).st_dev
        os.listdir(top)
    except OSError as error:
        raise DirectoryError(f"{top}: {error.strerror}") from error
    waiting = [(top, 0)]
    while waiting:
        path, depth = waiting.pop()
        below = []
        found = False
        with suppress(OSError), os.scandir(path) as entries:
            for entry in entries:
                with suppress(OSError):
                    if not entry.is_dir(follow_symlinks=False):
                        continue
                    status = entry.stat(follow_symlinks=False)
                    if status.st_dev != device:
                        continue
                    is_image = image.STEP.fullmatch(entry.name) or entry.name == journal.DIRECTORY
                    if status.st_uid != uid:
                        yield Found(Path(entry.path), status.st_uid, False)
                    elif is_image:
                        found = True
                    elif depth < DEEPEST:
                        below.append((Path(entry.path), depth + 1))
        if found:
            yield Found(path, uid, True)
        waiting += sorted(below, reverse=True)


def owned(top: Path) -> Iterator[Found]:
    """Yield, as root, the first directories of users below one of root's. Raises DirectoryError."""
    try:
        descriptor = os.open(top, image.DIR_FLAGS)
    except OSError as error:
        raise DirectoryError(f"{top}: {error.strerror}") from error
    status = os.fstat(descriptor)
    if status.st_uid:
        os.close(descriptor)
        yield Found(top, status.st_uid, False)
        return
    yield from _owned(descriptor, top, status.st_dev, 0)


def _owned(descriptor: int, path: Path, device: int, depth: int) -> Iterator[Found]:
    try:
        for name in sorted(os.listdir(descriptor)):
            try:
                below = os.open(name, image.DIR_FLAGS, dir_fd=descriptor)
            except OSError:
                continue  # no directory, or a link, or gone
            status = os.fstat(below)
            if status.st_dev != device or (status.st_uid == 0 and depth >= DEEPEST):
                os.close(below)
            elif status.st_uid:
                os.close(below)
                yield Found(path / name, status.st_uid, False)
            else:
                yield from _owned(below, path / name, device, depth + 1)
    finally:
        os.close(descriptor)


def everyone(top: Path, work: Work) -> Iterator[tuple[int, Report]]:
    """Have work(image directory) done for all below a directory, each as its owner; yield what it
    reports, with whose it is. For root. Raises DirectoryError."""
    seen: set[tuple[Path, int]] = set()
    for first in owned(top):
        waiting = [first]
        while waiting:
            each = waiting.pop()
            if (each.path, each.uid) in seen or not each.uid or len(seen) > TOLD:
                continue  # what is root's below a user's is left alone
            seen.add((each.path, each.uid))
            for report in as_owner(each, work):
                if "other" in report:
                    waiting.append(Found(Path(report["other"]), int(report["uid"]), False))
                else:
                    yield each.uid, report


def as_owner(place: Found, work: Work) -> Iterator[Report]:
    """Do the work below a directory in a process that has become its owner; yield its reports."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            become(place.uid)
            with os.fdopen(writer, "w") as out:
                for found in search(place.path):
                    if found.mine:
                        for report in work(found.path):
                            out.write(json.dumps(report) + "\n")
                    else:
                        report = {"other": str(found.path), "uid": found.uid}
                        out.write(json.dumps(report) + "\n")
                    out.flush()
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    done = False
    try:
        done = yield from _lines(reader)
    finally:
        os.close(reader)
        if not done:
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
    if status:
        why = f"the search below it, as its owner, was not finished (status {status})"
        yield {"path": str(place.path), "why": "", "size": 0, "error": why}


def become(uid: int) -> None:
    """Become a user for good, with their groups and nothing of this process's. Raises OSError."""
    try:
        entry = pwd.getpwuid(uid)
        groups, group = os.getgrouplist(entry.pw_name, entry.pw_gid), entry.pw_gid
    except KeyError:  # gone from here: their files are still theirs
        groups, group = [], 65534
    os.setgroups(groups)
    os.setresgid(group, group, group)
    os.setresuid(uid, uid, uid)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)


def _lines(reader: int) -> Generator[Report, None, bool]:
    """Yield what a process reports; return whether it came to its end."""
    rest = b""
    while select.select([reader], [], [], SILENCE)[0]:
        data = os.read(reader, 65536)
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            with suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict):
                    yield value
        if not data or len(rest) > MOST:
            return not data
    return False
