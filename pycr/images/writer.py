# SPDX-License-Identifier: GPL-2.0-or-later
"""Write a generation: beside the others, out of sight, then visible whole by one rename.

What the names are is image.py's; who writes which file is for coordinator/step.py and
node/dumper.py to say.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from pycr.errors import Busy
from pycr.images.image import (
    GENERATION,
    LOCK,
    MANIFEST,
    create,
    directory_error,
    open_owned,
    remove_tree,
    step_name,
    take_lock,
    task_name,
)
from pycr.images.manifest import Manifest
from pycr.images.removal import sweep


class Part:
    """A directory with a manifest that is being written: a generation, or a step in one."""

    def __init__(self, path: Path, final: Path, descriptor: int) -> None:
        self.path, self.final = path, final  # where it is, and where it will be
        self._new = descriptor

    def add_tasks(self, count: int) -> None:
        """Make the tasks' directories."""
        try:
            for task_id in range(count):
                os.mkdir(task_name(task_id), 0o700, dir_fd=self._new)
            os.fsync(self._new)
        except OSError as error:
            raise directory_error(self.path, error) from error

    def part(self, name: str) -> Part:
        """Begin a directory in this one, in place of one that was begun before."""
        remove_tree(f"/proc/self/fd/{self._new}/{name}")
        try:
            os.mkdir(name, 0o700, dir_fd=self._new)
            return Part(self.path / name, self.final / name, open_owned(name, self._new))
        except OSError as error:
            raise directory_error(self.path / name, error) from error

    def commit(self, manifest: Manifest) -> Path:
        """Write the manifest and make it durable; return where this will be.

        The tasks' own files are on disk by now: node/dumper.py has seen to that on their nodes.
        """
        try:
            with os.fdopen(create(MANIFEST, self._new), "wb") as file:
                file.write(manifest.dumps())
                file.flush()
                os.fsync(file.fileno())
            os.fsync(self._new)
        except OSError as error:
            raise directory_error(self.path, error) from error
        return self.final

    def abandon(self) -> None:
        """Remove what there is."""
        remove_tree(self.path)
        self.close()

    def close(self) -> None:
        """Have done with it."""
        if self._new >= 0:
            os.close(self._new)
            self._new = -1


class Writer(Part):
    """A generation being written: commit() makes it visible, abandon() leaves no trace of it."""

    def __init__(self, image_dir: Path, job_id: int, step_id: int) -> None:
        """Begin one under image_dir, which must exist.

        Raises DirectoryError, AccessDenied, Busy.
        """
        self.step_dir = image_dir / step_name(job_id, step_id)
        self._lock = self._new = -1
        try:
            with suppress(FileExistsError):
                self.step_dir.mkdir(0o700)
            self._dir = open_owned(self.step_dir)
        except OSError as error:
            raise directory_error(self.step_dir, error) from error
        try:
            self._lock = take_lock(self._dir, self.step_dir.name)
            sweep(self._dir)
            taken = [int(name) for name in os.listdir(self._dir) if GENERATION.fullmatch(name)]
            self.generation = max(taken, default=0) + 1
            self.temporary = f".new-{self.generation:04}-{os.urandom(4).hex()}"
            os.mkdir(self.temporary, 0o700, dir_fd=self._dir)
            super().__init__(
                self.step_dir / self.temporary,
                self.step_dir / f"{self.generation:04}",
                open_owned(self.temporary, self._dir),
            )
        except OSError as error:
            self._tidy()
            self.close()
            raise directory_error(self.step_dir, error) from error
        except Busy:
            self.close()
            raise

    def commit(self, manifest: Manifest) -> Path:
        """Write the manifest, make everything durable, then visible; return the generation's path.

        Its parts are committed by now.
        """
        super().commit(manifest)
        try:
            os.rename(self.temporary, self.final.name, src_dir_fd=self._dir, dst_dir_fd=self._dir)
            os.fsync(self._dir)
        except OSError as error:
            raise directory_error(self.path, error) from error
        return self.final

    def abandon(self) -> None:
        """Remove what there is, also what was committed, and the step's directory if it is empty.

        The number was fresh and the lock is held: what has that name is this writer's.
        """
        with suppress(OSError):
            os.rename(self.final.name, self.temporary, src_dir_fd=self._dir, dst_dir_fd=self._dir)
        remove_tree(self.path)
        self._tidy()
        self.close()

    def _tidy(self) -> None:
        """Remove the step's directory where there is nothing in it."""
        with suppress(OSError):
            if self._lock >= 0 and os.listdir(self._dir) == [LOCK]:
                os.unlink(LOCK, dir_fd=self._dir)
            self.step_dir.rmdir()

    def close(self) -> None:
        """Give the lock back."""
        super().close()
        for descriptor in (self._dir, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._dir = self._lock = -1
