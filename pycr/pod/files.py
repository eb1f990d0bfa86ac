# SPDX-License-Identifier: GPL-2.0-or-later
"""What a task's files must be for its restart, and how they are made so.

    task.3/files.json          the files as they were (engine/files.py), written when it is dumped
    12.0/cut-14.0/             beside the generations: what the restart 14.0 has cut off
      task.3.log@1000          ... of a file "log" of task 3, from its byte 1000 on
      task.3                   and from which files: a line "SIZE WAS NAME PATH" each

A file that the task writes and that has grown is cut back by default; others that have changed are
taken as they are or refused (decide()). Nothing is cut before every file has been looked at, and
what was cut comes back where the restore then fails. CRIU compares sizes and modes too: where
another is right, it is given its list of files without them.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pycr.engine import images as criu_images
from pycr.engine.files import (
    FORBIDDEN,
    MISSING,
    MODE,
    OTHER,
    OVERWRITTEN,
    REPLACED,
    SAME,
    SHORTER,
    STREAMS,
    TOUCHED,
    USES,
    Change,
    OpenFile,
    compare,
)
from pycr.errors import ImageError, PycrError, RestoreFailed, printable
from pycr.images import image
from pycr.pod import hidden
from pycr.pod.meeting import Place
from pycr.pod.settled import Settled

CUT, KEEP, REFUSE = "cut", "keep", "refuse"  # --files; spank_cr/options.pxi has them too
POLICIES = (CUT, KEEP, REFUSE)
MAX_LIST = 64 << 20
MAX_NAME = 200  # bytes of a file's name that are in the name of what was cut off it
CHUNK = 1 << 20
SHARED = ("write", "read")  # uses of files that tasks may have in common
# What glibc maps for getpwnam(3) and the like: sssd and nscd rewrite it at will, on each node its
# own, and its readers look for that.
CACHES = ("/var/lib/sss/mc/", "/var/cache/nscd/", "/var/db/nscd/", "/run/nscd/")


def save(images: Path, found: Sequence[OpenFile]) -> None:
    """Write the list of a task's files beside its images. Raises OSError."""
    with os.fdopen(image.create(images / image.FILES), "w") as file:
        json.dump([each._asdict() for each in found], file, indent=0)


def load(images: int, where: Path) -> list[OpenFile]:
    """Read the list of a task's files from its directory, open; where: its path.

    Raises ImageError.
    """
    path = where / image.FILES
    try:
        descriptor = image.open_regular(image.FILES, images)
        with os.fdopen(descriptor, "rb") as file:
            rows = json.loads(file.read(MAX_LIST))
        found = [OpenFile(**row) for row in rows]
        for each in found:
            _check(each)
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ImageError(f"{path}: damaged: {error}") from error
    return found


def _check(each: OpenFile) -> None:
    texts = (each.path, each.use, each.build_id, each.head)
    numbers = (each.size, each.mode, each.inode, each.mtime)
    if not all(type(text) is str for text in texts) or each.use not in USES:
        raise ValueError("a text in it is none")
    if not all(type(number) is int and abs(number) < 1 << 64 for number in numbers):
        raise ValueError("a number in it is none")
    if not each.path.startswith("/") or "\0" in each.path or each.size < 0:
        raise ValueError("a path in it is none")


class Verdict(NamedTuple):
    """What a restart does about a file. action: OK, CUT, TAKE (as it is now) or REFUSE; why: what
    the user should know of it, "" where nothing."""

    file: OpenFile
    change: Change
    action: str
    why: str = ""

    def __str__(self) -> str:
        return f"{self.file.path}: {self.why}"


OK, TAKE = "ok", "take"
_KEEP = "--files=keep takes it as it is"


def decide(file: OpenFile, change: Change, policy: str) -> Verdict:
    """Say what a restart does about a file that has changed so, under a policy."""

    def verdict(action: str, why: str = "") -> Verdict:
        return Verdict(file, change, action, why)

    kind, why = change.kind, change.why
    if file.use in STREAMS.values():
        # The new step has streams of its own; restore.py cuts one that is the old file again.
        return verdict(OK)
    if kind == SAME:
        return verdict(OK)
    if kind in (MISSING, FORBIDDEN, OTHER):
        return verdict(REFUSE, f"{why}: put it back as it was")
    if file.use == "read" and file.path.startswith(CACHES):
        return verdict(TAKE)
    if file.use == "directory":
        return verdict(REFUSE if kind != MODE else TAKE, why)
    if file.use == "program":
        # Its memory in the image is of that very file.
        taken = {TOUCHED: OK, MODE: TAKE}.get(kind, REFUSE)
        return verdict(taken, why if taken == TAKE else f"{why}: put the old one back")
    writes = file.use == "write"
    if kind == TOUCHED and (not writes or policy != REFUSE):
        return verdict(OK)  # another task, or another restart, may have cut it back
    if policy == REFUSE:
        return verdict(REFUSE, f"{why} (--files=refuse)")
    if policy == KEEP:
        return verdict(TAKE, f"{why}: taken as it is")
    if kind == MODE:
        return verdict(TAKE, why)
    if kind in (SHORTER, REPLACED) or (kind == OVERWRITTEN and not writes):
        return verdict(REFUSE, f"{why}: put it back as it was; {_KEEP}")
    if kind == OVERWRITTEN:
        why += ": what was overwritten is not in the checkpoint"
    if change.size > file.size:
        return verdict(CUT, why) if writes else verdict(TAKE)
    return verdict(OK, why)


def look(found: Sequence[OpenFile], policy: str) -> list[Verdict]:
    """Say of each file of a task what a restart here, now, would do about it."""
    return [decide(each, compare(each), policy) for each in found]


def _is_here(found: Verdict) -> bool:
    """Tell whether a file of another task's is to be dealt with here: that very file, not one of
    its name on this node's own disk."""
    if found.action == REFUSE:
        return False
    with suppress(OSError):
        return os.stat(found.file.path).st_ino == found.file.inode
    return False


class Cut(NamedTuple):
    """A file that was cut back to `size` bytes from `was`; what was behind is in `kept`."""

    path: str
    size: int
    was: int
    kept: Path

    def __str__(self) -> str:
        return (
            f"{self.path} was cut back from {self.was} to {self.size} bytes, as at the checkpoint;"
            f" what was cut is in {self.kept}"
        )


class Files:
    """One task's files on its way to be restored: prepare(), then undo() if it was not."""

    def __init__(self, generation: Path, place: Place, policy: str) -> None:
        self.place, self.policy = place, policy
        self.directory = image.beside(generation) / image.cut_name(place.step)
        self.cuts: list[Cut] = []
        self._streams: list[OpenFile] = []
        self._notes: list[str] = []
        self._made: list[str] = []
        self._taken: set[str] = set()
        self._settled = Settled(generation, place)

    def prepare(self, images: int, where: Path, steps: Sequence[OpenFile] = ()) -> None:
        """Look at every file, then cut back what has grown. Raises RestoreFailed, ImageError.

        steps: where this is a batch script, the files of its steps' tasks, which start later.
        """
        self._settled.begin()
        found = load(images, where)
        verdicts = [self._unless_settled(each) for each in look(found, self.policy)]
        self._streams = [each for each in found if each.use in STREAMS.values()]
        refused = [each for each in verdicts if each.action == REFUSE]
        if refused:
            more = f" (and {len(refused) - 1} more: pycr verify)" if len(refused) > 1 else ""
            raise RestoreFailed(f"{refused[0]}{more}")
        shared = [each for each in steps if each.use in SHARED]
        theirs = [each for each in look(shared, self.policy) if _is_here(each)]
        try:
            for each in verdicts:
                if each.action == CUT:
                    self.cut(each.file.path, each.file.size)
                    noted = each.change.kind == OVERWRITTEN
                else:
                    noted = bool(each.why) and each.change.kind != MODE
                if noted:
                    self._notes.append(str(each))
            for each in theirs:  # their tasks will say the rest
                if each.action == CUT:
                    self.cut(each.file.path, each.file.size)
            mine = [each for each in verdicts if each.file.use in SHARED]
            self._settled.say({each.file.path for each in (*mine, *theirs)})
            self._made = hidden.bring_back(images, where)
            # Compared here; CRIU would refuse the mode of one that has been cut back, too.
            self._taken = {each.file.path for each in verdicts if each.change.kind != SAME}
        except (OSError, ValueError) as error:
            self.undo()
            raise RestoreFailed(str(error)) from error
        except PycrError:
            self.undo()
            raise

    def _unless_settled(self, found: Verdict) -> Verdict:
        """Take a file as it is that has been dealt with: what has come since is this job's own."""
        lost = found.change.kind in (MISSING, FORBIDDEN, OTHER)
        if found.file.use not in SHARED or lost:
            return found
        return found._replace(action=TAKE, why="") if self._settled.has(found.file.path) else found

    def cut(self, path: str, size: int) -> None:
        """Cut a file back, what is behind kept on disk before. Raises RestoreFailed."""
        kept = None
        try:
            with open(path, "r+b") as file:
                while True:
                    was = os.fstat(file.fileno()).st_size
                    if was <= size:  # another task has done it
                        return
                    kept, copy = self._keep(path, size)
                    with os.fdopen(copy, "wb") as target:
                        end = _copy(file.fileno(), target.fileno(), size, 0)
                    if end >= was and os.fstat(file.fileno()).st_size >= end:
                        break
                    kept.unlink()  # another has cut it meanwhile, and has it whole
                self._list(printable(f"{size} {was} {kept.name} {path}"))
                file.truncate(size)
        except OSError as error:
            if kept is not None:
                kept.unlink(missing_ok=True)
            where = error.filename or kept or path
            raise RestoreFailed(
                f"{path}: couldn't keep what was to be cut off behind byte {size}: {where}:"
                f" {error.strerror}; {_KEEP}"
            ) from error
        self.cuts.append(Cut(path, size, was, kept))

    def _keep(self, path: str, size: int) -> tuple[Path, int]:
        """Make the file for what is cut off one. Raises OSError."""
        self.directory.mkdir(0o700, exist_ok=True)
        os.close(image.open_owned(self.directory))
        name = os.fsdecode(os.fsencode(os.path.basename(path))[:MAX_NAME])
        name = f"{image.task_name(self.place.task_id)}.{name}@{size}"
        for number in range(1, 1000):
            kept = self.directory / (name if number == 1 else f"{name}.{number}")
            with suppress(FileExistsError):
                return kept, image.create(kept)
        raise FileExistsError(errno.EEXIST, "too many of its name", str(kept))

    def _list(self, line: str) -> None:
        """Say in the list what has been kept. Raises OSError."""
        index = self.directory / image.task_name(self.place.task_id)
        with open(index, "a", encoding="utf-8") as file:
            file.write(f"{line}\n")
            file.flush()
            os.fsync(file.fileno())
        image.sync_directory(self.directory)

    def changed(self, images: int) -> dict[str, bytes]:
        """Return the images that CRIU is to find otherwise: its list of files, without size and
        mode of those that were looked at here and had changed. Raises RestoreFailed."""
        if not self._taken:
            return {}
        try:
            source = image.open_regular(criu_images.FILES, images)
            with os.fdopen(source, "rb") as file:
                return {criu_images.FILES: criu_images.forget_sizes(file.read(), self._taken)}
        except (OSError, ValueError) as error:
            raise RestoreFailed(str(error)) from error

    def cut_streams(self, whole: Collection[int] = ()) -> None:
        """Cut back what this step has as standard output or error, where the task had it too.

        whole: descriptors whose files have only this start's words behind the old ones.
        Raises RestoreFailed.
        """
        if self.policy == KEEP:
            return
        for fd, use in STREAMS.items():
            for file in () if fd in whole else self._streams:
                try:
                    if file.use != use or os.readlink(f"/proc/self/fd/{fd}") != file.path:
                        continue
                    if os.fstat(fd).st_size > file.size:
                        if self.policy == REFUSE:
                            raise RestoreFailed(f"{file.path}: it has grown (--files=refuse)")
                        self.cut(file.path, file.size)
                        os.lseek(fd, file.size, os.SEEK_SET)
                except OSError as error:
                    raise RestoreFailed(f"{file.path}: {error.strerror}") from error

    def restored(self) -> list[str]:
        """Have done, when CRIU has read everything; return what the user should know."""
        hidden.remove(self._made)
        self._made = []
        return [*self._notes, *map(str, self.cuts)]

    def end(self) -> None:
        """Have done for good: the task has ended."""
        self._settled.end()

    def undo(self) -> None:
        """Put back what was cut off, where nobody has written since."""
        self.restored()
        self._settled.withdraw()
        for cut in self.cuts:
            with suppress(OSError), open(cut.path, "r+b") as file, open(cut.kept, "rb") as kept:
                if os.fstat(file.fileno()).st_size == cut.size:
                    _copy(kept.fileno(), file.fileno(), 0, cut.size)
                    cut.kept.unlink()
        task = image.task_name(self.place.task_id)
        with suppress(OSError):
            if not any(path.name.startswith(f"{task}.") for path in self.directory.iterdir()):
                (self.directory / task).unlink(missing_ok=True)
            self.directory.rmdir()
        self.cuts.clear()


def _copy(source: int, target: int, start: int, to: int) -> int:
    """Copy an open file from a byte on to its end, holes as holes, to a byte of another.

    Return the end. Raises OSError.
    """
    while True:
        end = os.fstat(source).st_size
        at = start
        while at < end:
            try:
                at = os.lseek(source, at, os.SEEK_DATA)
                hole = os.lseek(source, at, os.SEEK_HOLE)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                break  # a hole up to its end
            os.lseek(target, to + at - start, os.SEEK_SET)
            while at < hole:
                data = os.pread(source, min(hole - at, CHUNK), at)
                if not data:
                    break
                at += len(data)
                while data:
                    data = data[os.write(target, data) :]
        os.ftruncate(target, to + end - start)
        if os.fstat(source).st_size <= end:  # somebody may still write it
            os.fsync(target)
            return end
        start, to = end, to + end - start
