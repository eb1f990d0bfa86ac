# SPDX-License-Identifier: GPL-2.0-or-later
"""Which files a restart of a batch job has dealt with already, so that none is cut back twice.

A script goes on before its steps do, and steps start one after the other: a file that they have in
common may have grown again, rightly, by the time a step's task looks at it. So the script's pod
looks at the steps' files too, before anything runs, and each pod says which it has looked at:

    12.batch/.restart-14.batch/     of the restart of the job 12 as 14
      14.batch.0  14.0.3            by the script, by task 3 of step 14.0: path, inode, file system

The file system is in it for files on a node's own disk, which another node may have by that path.
Where it cannot be written (a read-only file system) every pod judges for itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from pycr.images import image
from pycr.pod.meeting import Place
from pycr.slurm import BATCH

MAX_LIST = 64 << 20


class Settled:
    """What the pods of one restart of a batch job tell one another; of a lone step, nothing."""

    def __init__(self, generation: Path, place: Place) -> None:
        home = image.beside(generation)
        job_id = int(place.step.split(".")[0])
        self._script = place.step == image.step_name(job_id, BATCH)
        self._path: Path | None = None
        if self._script or home != generation.parent:
            self._path = home / image.meeting_name(image.step_name(job_id, BATCH))
        self._own = f"{place.step}.{place.task_id}"
        self._known: set[tuple[object, ...]] = set()

    def begin(self) -> None:
        """Forget what an earlier start of the same job has said; read what this one has."""
        if self._path is None:
            return
        with suppress(OSError):
            if self._script:
                image.remove_tree(self._path)
                self._path.mkdir(0o700)
            os.close(image.open_owned(self._path))
            for path in self._path.iterdir():
                self._read(path)

    def _read(self, path: Path) -> None:
        # What is none says nothing: its files are looked at as those of a lone step are.
        with suppress(OSError, ValueError, TypeError, RecursionError):
            descriptor = image.open_regular(path)
            with os.fdopen(descriptor, "rb") as file:
                self._known.update(tuple(row) for row in json.loads(file.read(MAX_LIST)))

    def has(self, path: str) -> bool:
        """Tell whether a file has been dealt with."""
        with suppress(OSError):
            return bool(self._known) and _identity(path) in self._known
        return False

    def say(self, paths: Iterable[str]) -> None:
        """Tell the others that these have been dealt with."""
        if self._path is None:
            return
        found = []
        for path in paths:
            with suppress(OSError):
                found.append(_identity(path))
        temporary = self._path / f".{self._own}"
        with suppress(OSError):
            with os.fdopen(image.create(temporary), "w") as file:
                json.dump(found, file)
            os.rename(temporary, self._path / self._own)

    def withdraw(self) -> None:
        """Take it back: the task does not run."""
        if self._path is not None:
            with suppress(OSError):
                (self._path / self._own).unlink()

    def end(self) -> None:
        """Remove it all, when the script has ended."""
        if self._script and self._path is not None:
            with suppress(OSError):
                image.remove_tree(self._path)


def _identity(path: str) -> tuple[object, ...]:
    return path, os.stat(path).st_ino, os.statvfs(path).f_fsid
