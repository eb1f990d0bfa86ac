# SPDX-License-Identifier: GPL-2.0-or-later
"""The requeue file: from which generation Slurm's plugin is to restore a job that starts again.

    DIR/12.batch/requeue        one line: the generation's path (spank_cr/batch.pxi reads it)

DIR is where the plugin looks: the --checkpoint-dir the job was submitted with, or the default.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from pycr import image
from pycr.slurm import BATCH


def write_requeue(image_dir: Path, job_id: int, generation: Path) -> Path:
    """Have the plugin restore a job from a generation when Slurm starts it again; return the file
    that says so. image_dir: where it looks. Raises DirectoryError."""
    step_dir = image_dir / image.step_name(job_id, BATCH)
    path = step_dir / image.REQUEUE
    temporary = step_dir / f"{image.REQUEUE}.{os.getpid()}"
    try:
        step_dir.mkdir(0o700, parents=True, exist_ok=True)
        os.close(image.open_owned(step_dir))
        with suppress(FileNotFoundError):
            temporary.unlink()
        with os.fdopen(image.create(temporary), "w") as file:
            file.write(f"{generation}\n")
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
        image.sync_directory(step_dir)
    except OSError as error:
        raise image.directory_error(path, error) from error
    return path


def read_requeue(image_dir: Path, job_id: int) -> Path | None:
    """Return the generation from which a job will be started again, None where there is none."""
    path = image_dir / image.step_name(job_id, BATCH) / image.REQUEUE
    try:
        return Path(path.read_text().rstrip("\n"))
    except (OSError, ValueError):
        return None
