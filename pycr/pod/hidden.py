# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that NFS only keeps for who has them open: deleted, and renamed to .nfsXXXX until then.

CRIU would dump such a file by a hard link, which an unprivileged process may not make, and the file
is gone when the task ends. So it has a name of ours while CRIU looks, and its contents are kept:

    .nfs00000000000a1b2c00000007  -- reveal() -->  .pycr-nfs00000000000a1b2c00000007
                                  <-- hide() ----
    task.3/hidden.json, hidden.0 ...      where it was, and what was in it

A restore makes it anew under that name, and deletes it when the task has it open: NFS renames it
again. (Linux, fs/nfs/unlink.c: nfs_sillyrename().)
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pycr.engine import proc
from pycr.errors import ImageError, TaskError
from pycr.images import image, space

SILLY = re.compile(r"(.*/)(\.nfs[0-9a-f]{24})")
OURS = ".pycr-"
REVEALED = re.compile(r".*/\.pycr-nfs[0-9a-f]{24}")
LIST = "hidden.json"
MAX_LIST = 1 << 20


class Kept(NamedTuple):
    """A file in the image. path: its name in CRIU's images; copy: the image file; mode: st_mode."""

    path: str
    copy: str
    mode: int


class Hidden:
    """The hidden files of one tree that stands still."""

    def __init__(self, root: int, images: Path, limit: int) -> None:
        """limit: bytes that one of them may have."""
        self.root, self.images, self.limit = root, images, limit
        self._renamed: list[tuple[str, str]] = []

    def reveal(self) -> None:
        """Give each the name under which CRIU may see it. Raises TaskError."""
        for path in self._open(SILLY):
            match = SILLY.fullmatch(path)
            assert match is not None
            ours = f"{match.group(1)}{OURS}{match.group(2)[1:]}"
            try:
                size = os.stat(path).st_size
                if size > self.limit:
                    raise TaskError(
                        f"it has {path} open, a deleted file of {space.size(size)}, and at most"
                        f" {space.size(self.limit)} of one are kept (ghost_limit)"
                    )
                os.rename(path, ours)
                self._renamed.append((path, ours))
            except FileNotFoundError:
                continue  # another task's dump has done it
            except OSError as error:
                raise TaskError(f"couldn't keep {path}: {error.strerror}") from error

    def paths(self) -> list[str]:
        """Return the names that they have now."""
        return self._open(REVEALED)

    def keep(self, paths: list[str]) -> None:
        """Copy them into the image. paths: as paths() has them. Raises OSError."""
        kept = []
        for number, path in enumerate(paths):
            copy = f"hidden.{number}"
            with open(path, "rb") as file, os.fdopen(image.create(self.images / copy), "wb") as to:
                kept.append(Kept(path, copy, os.fstat(file.fileno()).st_mode))
                shutil.copyfileobj(file, to, 1 << 20)
        if kept:
            with os.fdopen(image.create(self.images / LIST), "w") as to_list:
                json.dump([each._asdict() for each in kept], to_list)

    def hide(self) -> None:
        """Give them the names back by which NFS knows them."""
        for path, ours in self._renamed:
            with suppress(OSError):
                os.rename(ours, path)
        self._renamed.clear()

    def _open(self, pattern: re.Pattern[str]) -> list[str]:
        found = set()
        for pid in proc.tree(self.root):
            with suppress(OSError):
                for _, path in proc.descriptors(pid):
                    with suppress(OSError):
                        if pattern.fullmatch(path) and stat.S_ISREG(os.stat(path).st_mode):
                            found.add(path)
        return sorted(found)


def bring_back(images: int, where: Path) -> list[str]:
    """Make the hidden files of an image anew; return those that this has made.

    Raises OSError, ImageError.
    """
    try:
        descriptor = image.open_regular(LIST, images)
    except FileNotFoundError:
        return []
    made: list[str] = []
    try:
        with os.fdopen(descriptor, "rb") as file:
            kept = [Kept(**row) for row in json.loads(file.read(MAX_LIST))]
        for each in kept:
            if not REVEALED.fullmatch(each.path) or not re.fullmatch(r"hidden\.\d+", each.copy):
                raise ValueError("a name in it is none")
            with suppress(FileExistsError):  # another task of this restart has made it
                _make(images, each)
                made.append(each.path)
    except (ValueError, TypeError, RecursionError) as error:
        remove(made)
        raise ImageError(f"{where / LIST}: damaged: {error}") from error
    except OSError:
        remove(made)
        raise
    return made


def _make(images: int, kept: Kept) -> None:
    """Make one, whole or not at all: another task must not find half of it."""
    temporary = f"{kept.path}.{os.getpid()}.{os.urandom(4).hex()}"
    source = image.open_regular(kept.copy, images)
    with os.fdopen(source, "rb") as file, os.fdopen(image.create(temporary), "wb") as target:
        shutil.copyfileobj(file, target, 1 << 20)
        os.fchmod(target.fileno(), stat.S_IMODE(kept.mode) & 0o777)
    try:
        os.link(temporary, kept.path)
    finally:
        os.unlink(temporary)


def remove(paths: list[str]) -> None:
    """Delete them again: NFS keeps them for who has them open."""
    for path in paths:
        with suppress(OSError):
            os.unlink(path)
