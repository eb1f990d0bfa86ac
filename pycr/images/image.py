# SPDX-License-Identifier: GPL-2.0-or-later
"""Checkpoints on disk: every name, and how one becomes visible whole.

    DIR/                        image directory: --image-dir, --checkpoint-dir or the site's default
      12.0/                     job.step, mode 0700
        .lock                   held while a checkpoint is written
        .new-0002-5f1c9a70/     one being written, or a crashed writer's remains
        0001/                   a generation: whole, for ever unchanged
          manifest.json
          task.0/ task.1/ ...   CRIU's images of each task, by global task id, and files.json:
                                the files it had open by name
        0001.set-aside          why no restart takes that generation by itself: it failed to restore
        .failed-14.0-5f1c9a70   why the restart 14.0, by a requeued job, failed; its srun_cr, which
                                has given the number, reads it
        cut-14.0/               what a restart has cut off files that had grown (pod/files.py)
      12.batch/               the same for a job's batch script, which is its task.0
        requeue               the generation from which Slurm is to start the job again
        newest                the same, of a job submitted with --cr, at whatever start
        0001/
          manifest.json task.0/
          12.3/                 a step that an srun_cr of the script waited for: as a generation
          late/4711             what that srun_cr (its pid) still has to deliver of its output

A generation appears by one rename, after every file in it is on disk and named, with size and
checksum, in its manifest, which carries a checksum of its own. docs/image-format.md is the
reference. Who writes which file is for coordinator/step.py and node/ to say.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pycr.errors import UNDER_WAY, AccessDenied, Busy, DirectoryError, ImageError
from pycr.images import oldnames, space
from pycr.images.manifest import Manifest, TaskImage
from pycr.slurm import BATCH

MANIFEST = "manifest.json"
MAX_MANIFEST = 256 << 20
LOCK = ".lock"
DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
FILES = "files.json"  # in a task's directory: what it had open by name (pod/files.py)
SCRIPT = "slurm_script"  # in the directory of a batch script's task
OUTPUTS = {1: "stdout", 2: "stderr"}  # there too: what Slurm will truncate when it requeues the job
REQUEUE, NEWEST = "requeue", "newest"  # spank_cr/batch.pxi looks for them
ASIDE = ".set-aside"
FAILED = ".failed-"
MAX_REASON = 4000  # bytes
LATE = "late"
STEP = re.compile(r"[0-9]{1,10}\.(?:[0-9]{1,10}|batch)")
GENERATION = re.compile(r"[0-9]{4,9}")


def step_name(job_id: int, step_id: int) -> str:
    """Return the name of a step as Slurm's commands have it: 12.0, 12.batch."""
    return f"{job_id}.{'batch' if step_id == BATCH else step_id}"


def task_name(task_id: int) -> str:
    return f"task.{task_id}"


def meeting_name(step: str) -> str:
    """Return the name of the directory where the tasks of a restarted step wait for one another."""
    return f".restart-{step}"


def cut_name(step: str) -> str:
    """Return the name of the directory with what a restart has cut off the tasks' files."""
    return f"cut-{step}"


def failed_name(step: str, attempt: str) -> str:
    """Return the name of the file that says why a requeued job's restart as a step failed.

    attempt: as its srun_cr calls it; steps have the same names in each life of a job.
    """
    return f"{FAILED}{step}-{attempt}"


def set_aside(generation: Path, reason: str) -> None:
    """Have no restart take a generation by itself any more. Raises DirectoryError."""
    path = generation.with_name(generation.name + ASIDE)
    try:
        write_log(path, reason + "\n")
        sync_directory(path.parent)
    except OSError as error:
        raise directory_error(path, error) from error


def aside(generation: Path) -> str:
    """Return why a generation was set aside, "" where it was not."""
    try:
        with os.fdopen(open_regular(generation.with_name(generation.name + ASIDE)), "rb") as file:
            return file.read(MAX_REASON).decode(errors="replace").strip() or "it was set aside"
    except FileNotFoundError:
        return ""
    except OSError as error:
        return str(error.strerror)


def beside(generation: Path) -> Path:
    """Return the JOB.STEP directory of a generation, of a batch job's step too."""
    inside = GENERATION.fullmatch(generation.parent.name) is not None
    return generation.parent.parent if inside else generation.parent


def is_meeting(name: str) -> bool:
    """Tell whether a name in a step's directory is that of a meeting."""
    return name.startswith(".restart-")


def is_leftover(name: str) -> bool:
    """Tell whether a name in a step's directory is that of an unfinished generation."""
    return name.startswith(".new-")


def checksum(descriptor: int) -> str:
    """Return the SHA-256 of a file, in hexadecimal, from its beginning."""
    digest = hashlib.sha256()
    buffer = bytearray(1 << 20)
    view = memoryview(buffer)
    offset = 0
    while True:
        count = os.preadv(descriptor, [view], offset)
        if count == 0:
            return digest.hexdigest()
        digest.update(view[:count])
        offset += count


def open_owned(name: str | Path, dir_fd: int | None = None, called: Path | None = None) -> int:
    """Open a directory that is this user's alone to write, and no symbolic link.

    Raises OSError, AccessDenied.
    """
    descriptor = os.open(name, DIR_FLAGS, dir_fd=dir_fd)
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        os.close(descriptor)
        what = "another user's" if status.st_uid != os.geteuid() else "writable by others"
        path = called or name
        raise AccessDenied(f"{path}: it is {what}: not safe for a checkpoint")
    return descriptor


def open_inside(path: Path) -> int:
    """Open a directory in a generation that is being written, following no link on the way from
    JOB.STEP on: one that is swapped in meanwhile leads nowhere. Raises OSError, AccessDenied.
    """
    own = [part for part in path.parts if is_leftover(part)]
    depth = path.parts.index(own[0]) if own else len(path.parts) - 1
    descriptor = os.open(Path(*path.parts[:depth]), DIR_FLAGS & ~os.O_NOFOLLOW)
    for name in path.parts[depth:]:
        outer = descriptor
        try:
            descriptor = open_owned(name, outer, path)
        finally:
            os.close(outer)
    return descriptor


def open_regular(name: str | Path, dir_fd: int | None = None) -> int:
    """Open a file for reading that is a plain one, and no symbolic link. Raises OSError."""
    descriptor = os.open(name, FILE_FLAGS, dir_fd=dir_fd)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file")
    return descriptor


def create(name: str | Path, dir_fd: int | None = None) -> int:
    """Make a new file for its owner alone and return it, open for writing. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, 0o600, dir_fd=dir_fd)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable. Raises OSError."""
    descriptor = os.open(path, DIR_FLAGS)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def directory_error(path: Path, error: OSError) -> DirectoryError:
    """Say in one line what was the matter with a path of an image directory."""
    if error.errno in space.FULL:
        return space.exhausted(path, error.errno)
    return DirectoryError(f"{path}: {error.strerror}")


def generations(step_dir: Path, ruins: bool = False) -> list[Path]:
    """Return the generations of a step's directory, the newest first.

    ruins: those too that were set aside and have lost their manifest.
    """
    try:
        names = [name for name in os.listdir(step_dir) if GENERATION.fullmatch(name)]
    except OSError:
        return []
    found = [step_dir / name for name in sorted(names, key=int, reverse=True)]
    return [path for path in found if os.path.isfile(path / MANIFEST) or (ruins and aside(path))]


def steps(image_dir: Path) -> list[Path]:
    """Return the step directories under an image directory, by job and step."""
    try:
        names = [name for name in os.listdir(image_dir) if STEP.fullmatch(name)]
    except OSError:
        return []
    names.sort(key=_by_number)
    return [image_dir / name for name in names]


def _by_number(name: str) -> tuple[int, bool, int]:
    job, _, step = name.partition(".")
    return int(job), step != "batch", 0 if step == "batch" else int(step)


def resolve(path: Path) -> Path:
    """Return the generation that a path stands for: itself, or the newest of a step's directory
    that was not set aside.

    path: names of old images too (oldnames.py). Raises ImageError.
    """
    path = oldnames.successor(path)
    if is_leftover(path.name):
        raise ImageError(f"{path}: the remains of a checkpoint that was not finished")
    if os.path.isfile(path / MANIFEST):
        return path
    found = generations(path)
    for each in found:
        if not aside(each):
            return each
    if found:
        raise ImageError(f"{found[0]}: set aside: {aside(found[0])}: name it itself to try again")
    try:
        half = [name for name in os.listdir(path) if is_leftover(name)]
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from error
    oldnames.refuse_images(path)
    under = steps(path)
    why = "no whole checkpoint in it"
    if half:
        why += f", only the remains of one ({half[0]})"
    elif under:
        why += f": name a step in it, for example {under[-1]}"
    raise ImageError(f"{path}: {why}")


def load(generation: Path) -> Manifest:
    """Read the manifest of a generation that is this user's.

    Raises ImageError, AccessDenied.
    """
    path = generation / MANIFEST
    try:
        directory = open_owned(generation)
    except OSError as error:
        raise ImageError(f"{generation}: {error.strerror}") from error
    try:
        descriptor = open_regular(MANIFEST, directory)
        with os.fdopen(descriptor, "rb") as file:
            size = os.fstat(descriptor).st_size
            data = b"" if size > MAX_MANIFEST else file.read(MAX_MANIFEST + 1)
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from error
    finally:
        os.close(directory)
    if max(size, len(data)) > MAX_MANIFEST:
        raise ImageError(f"{path}: larger than {MAX_MANIFEST} bytes")
    return Manifest.loads(data, str(path))


def load_all(generation: Path) -> list[Manifest]:
    """Read a generation's manifest and, behind it, those of the steps in it.

    Raises ImageError, AccessDenied.
    """
    own = load(generation)
    return [own, *(load(generation / name) for name in own.batch.get("steps", []))]


def check_task(generation: Path, task: TaskImage) -> int:
    """Hold a task's files against the manifest, presence and size; return its directory, open.

    Raises ImageError.
    """
    path = generation / task_name(task.task_id)
    try:
        directory = open_owned(path)
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from error
    try:
        for name, (size, _) in task.files.items():
            _check_file(directory, path / name, size, None)
        extra = set(os.listdir(directory)) - set(task.files)
        if extra:
            # CRIU opens images by name: one more could take a missing one's place.
            raise ImageError(f"{path / min(extra)}: not in the manifest")
    except BaseException:
        os.close(directory)
        raise
    return directory


def check_sums(directory: int, path: Path, task: TaskImage) -> None:
    """Read all of a task's files and compare their checksums. Raises ImageError."""
    for name, (size, digest) in task.files.items():
        _check_file(directory, path / name, size, digest)


def _check_file(directory: int, path: Path, size: int, digest: str | None) -> None:
    try:
        descriptor = open_regular(path.name, directory)
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from error
    try:
        found = os.fstat(descriptor).st_size
        if found != size:
            raise ImageError(f"{path}: changed: {found} bytes, the manifest says {size}")
        if digest is not None and checksum(descriptor) != digest:
            raise ImageError(f"{path}: changed: its checksum is not the manifest's")
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from error
    finally:
        os.close(descriptor)


def seal_task(directory: int) -> Iterator[tuple[str, int, str]]:
    """Make a task's files durable and yield (name, size, checksum) of each. Raises OSError."""
    for name in sorted(os.listdir(directory)):
        descriptor = os.open(name, FILE_FLAGS, dir_fd=directory)
        try:
            os.fsync(descriptor)
            yield name, os.fstat(descriptor).st_size, checksum(descriptor)
        finally:
            os.close(descriptor)
    os.fsync(directory)


def write_log(path: Path, log: str) -> None:
    """Keep CRIU's log of a failure, for its owner alone. Raises OSError."""
    with suppress(FileNotFoundError):
        os.unlink(path)
    with os.fdopen(create(path), "w") as file:
        file.write(log)


def remove_tree(path: Path | str, ignore_errors: bool = True) -> None:
    """Remove a directory and all in it, following no link. Raises OSError if it may."""
    import shutil  # 5 ms, and most of who imports this module removes nothing

    shutil.rmtree(path, ignore_errors=ignore_errors)


def take_lock(step_fd: int, name: str) -> int:
    """Take the lock of a step's directory and return its descriptor. Raises Busy, OSError."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    lock = os.open(LOCK, flags, 0o600, dir_fd=step_fd)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise Busy(f"{name}: {UNDER_WAY}") from error
    except OSError as error:
        # A file system without locks (Lustre mounted so): CRIU's own claim on the tasks stays.
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            os.close(lock)
            raise
    return lock
