# SPDX-License-Identifier: GPL-2.0-or-later
"""The requeue file: from which generation Slurm's plugin is to restore a job that starts again.

    DIR/12.batch/requeue        one line: the generation's path (spank_cr/batch.pxi reads it)
    DIR/12.batch/newest         the same, written for each generation of a job submitted with --cr

DIR is where the plugin looks: the --checkpoint-dir the job was submitted with, or the default. The
first is left by `pycr requeue`; the second is for any start, and the plugin takes it first, but
only for a job submitted with --cr: whoever requeues another by hand expects a fresh start.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from pycr.errors import DirectoryError
from pycr.images import image
from pycr.slurm import BATCH

MAX_LINE = 4095  # bytes, of which the plugin reads no more


def write_requeue(
    image_dir: Path, job_id: int, generation: Path, name: str = image.REQUEUE
) -> Path:
    """Have the plugin restore a job from a generation when Slurm starts it again; return the file
    that says so. image_dir: where it looks. name: image.REQUEUE or NEWEST. Raises DirectoryError.
    """
    step_dir = image_dir / image.step_name(job_id, BATCH)
    path = step_dir / name
    line = os.fsencode(generation) + b"\n"
    if _parse(line) != generation:
        raise DirectoryError(f"{generation!r:.200}: the requeue file cannot hold such a path")
    temporary = step_dir / f"{name}.{os.getpid()}"
    try:
        step_dir.mkdir(0o700, parents=True, exist_ok=True)
        os.close(image.open_owned(step_dir))
        with suppress(FileNotFoundError):
            temporary.unlink()
        with os.fdopen(image.create(temporary), "wb") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
        image.sync_directory(step_dir)
    except OSError as error:
        raise image.directory_error(path, error) from error
    return path


def forget_requeue(image_dir: Path, job_id: int) -> None:
    """Have Slurm start a job from its script's beginning again. Raises DirectoryError."""
    step_dir = image_dir / image.step_name(job_id, BATCH)
    for name in (image.NEWEST, image.REQUEUE):
        try:
            with suppress(FileNotFoundError):
                (step_dir / name).unlink()
        except OSError as error:
            raise image.directory_error(step_dir / name, error) from error


def read_requeue(image_dir: Path, job_id: int, name: str = image.REQUEUE) -> Path | None:
    """Return the generation from which a job will be started again, None where there is none."""
    path = image_dir / image.step_name(job_id, BATCH) / name
    try:
        with os.fdopen(image.open_regular(path), "rb") as file:
            return _parse(file.read(MAX_LINE))
    except OSError:
        return None


def _parse(line: bytes) -> Path | None:
    """Return the path in it, None where the plugin will take it for damaged."""
    if not line.startswith(b"/") or line.find(b"\n") != len(line) - 1 or b"\0" in line:
        return None
    return Path(os.fsdecode(line[:-1])) if len(line) <= MAX_LINE else None
