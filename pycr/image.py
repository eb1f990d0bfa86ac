# SPDX-License-Identifier: GPL-2.0-or-later
"""Checkpoints on disk: every name, and how one becomes visible whole.

    DIR/                        image directory: --image-dir, --checkpoint-dir or the site's default
      12.0/                     job.step, mode 0700
        .lock                   held while a checkpoint is written
        .new-0002-5f1c9a70/     one being written, or a crashed writer's remains
        0001/                   a generation: whole, for ever unchanged
          manifest.json
          task.0/ task.1/ ...   CRIU's images of each task, by global task id
      12.batch/               the same for a job's batch script, which is its task.0
        requeue               the generation from which Slurm is to start the job again
        0001/
          manifest.json task.0/
          12.3/                 a step that an srun_cr of the script waited for: as a generation
          late/4711             what that srun_cr (its pid) still has to deliver of its output

A generation appears by one rename, after every file in it is on disk and named, with size and
checksum, in its manifest, which carries a checksum of its own. docs/image-format.md is the
reference. Who writes which file is for step.py and node.py to say.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pycr.errors import AccessDenied, Busy, DirectoryError, ImageError
from pycr.manifest import Manifest, TaskImage, seal, unseal
from pycr.slurm import BATCH

MANIFEST = "manifest.json"
MAX_MANIFEST = 256 << 20
LOCK = ".lock"
DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
SCRIPT = "slurm_script"  # in the directory of a batch script's task
OUTPUTS = {1: "stdout", 2: "stderr"}  # there too: what Slurm will truncate when it requeues the job
REQUEUE = "requeue"  # spank_cr/batch.pxi looks for it
LATE = "late"
_STEP = re.compile(r"[0-9]{1,10}\.(?:[0-9]{1,10}|batch)")
_LOG = re.compile(r"failed-task\.[0-9]+\.log")
_GENERATION = re.compile(r"[0-9]{4,9}")


def step_name(job_id: int, step_id: int) -> str:
    """Return the name of a step as Slurm's commands have it: 12.0, 12.batch."""
    return f"{job_id}.{'batch' if step_id == BATCH else step_id}"


def task_name(task_id: int) -> str:
    return f"task.{task_id}"


def meeting_name(step: str) -> str:
    """Return the name of the directory where the tasks of a restarted step wait for one another."""
    return f".restart-{step}"


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


def open_owned(name: str | Path, dir_fd: int | None = None) -> int:
    """Open a directory that is this user's alone to write, and no symbolic link.

    Raises OSError, AccessDenied.
    """
    descriptor = os.open(name, DIR_FLAGS, dir_fd=dir_fd)
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        os.close(descriptor)
        what = "another user's" if status.st_uid != os.geteuid() else "writable by others"
        raise AccessDenied(f"{name}: it is {what}: not safe to keep a checkpoint in")
    return descriptor


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
        remove_tree(self.path / name)
        try:
            os.mkdir(name, 0o700, dir_fd=self._new)
            return Part(self.path / name, self.final / name, open_owned(name, self._new))
        except OSError as error:
            raise directory_error(self.path / name, error) from error

    def commit(self, manifest: Manifest) -> Path:
        """Write the manifest and make it durable; return where this will be.

        The tasks' own files are on disk by now: node.py has seen to that on their nodes.
        """
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(MANIFEST, flags, 0o600, dir_fd=self._new)
            with os.fdopen(descriptor, "wb") as file:
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
            taken = [int(name) for name in os.listdir(self._dir) if _GENERATION.fullmatch(name)]
            self.generation = max(taken, default=0) + 1
            self.temporary = f".new-{self.generation:04}-{os.urandom(4).hex()}"
            os.mkdir(self.temporary, 0o700, dir_fd=self._dir)
            super().__init__(
                self.step_dir / self.temporary,
                self.step_dir / f"{self.generation:04}",
                open_owned(self.temporary, self._dir),
            )
        except OSError as error:
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
        with suppress(OSError):
            if os.listdir(self._dir) == [LOCK]:
                os.unlink(LOCK, dir_fd=self._dir)
                self.step_dir.rmdir()
        self.close()

    def close(self) -> None:
        """Give the lock back."""
        super().close()
        for descriptor in (self._dir, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._dir = self._lock = -1


def directory_error(path: Path, error: OSError) -> DirectoryError:
    """Say in one line what was the matter with a path of an image directory."""
    return DirectoryError(f"{path}: {error.strerror}")


def sweep(step_fd: int) -> int:
    """Remove the remains of crashed writers from a step's directory, and logs of failures.

    Return how many writers there were.

    Only for the holder of its lock.
    """
    names = os.listdir(step_fd)
    for name in names:
        if _LOG.fullmatch(name):
            with suppress(OSError):
                os.unlink(name, dir_fd=step_fd)
    remains = [name for name in names if is_leftover(name)]
    for name in remains:
        remove_tree(f"/proc/self/fd/{step_fd}/{name}")
    return len(remains)


def generations(step_dir: Path) -> list[Path]:
    """Return the generations of a step's directory, the newest first."""
    try:
        names = [name for name in os.listdir(step_dir) if _GENERATION.fullmatch(name)]
    except OSError:
        return []
    found = [step_dir / name for name in sorted(names, key=int, reverse=True)]
    return [path for path in found if os.path.isfile(path / MANIFEST)]


def steps(image_dir: Path) -> list[Path]:
    """Return the step directories under an image directory, by job and step."""
    try:
        names = [name for name in os.listdir(image_dir) if _STEP.fullmatch(name)]
    except OSError:
        return []
    names.sort(key=_by_number)
    return [image_dir / name for name in names]


def _by_number(name: str) -> tuple[int, bool, int]:
    job, _, step = name.partition(".")
    return int(job), step != "batch", 0 if step == "batch" else int(step)


def resolve(path: Path) -> Path:
    """Return the generation that a path stands for: itself, or the newest of a step's directory.

    Raises ImageError.
    """
    if is_leftover(path.name):
        raise ImageError(f"{path}: the remains of a checkpoint that was not finished")
    if os.path.isfile(path / MANIFEST):
        return path
    newest = generations(path)
    if newest:
        return newest[0]
    try:
        half = [name for name in os.listdir(path) if is_leftover(name)]
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from error
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
        descriptor = os.open(MANIFEST, FILE_FLAGS, dir_fd=directory)
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(MAX_MANIFEST + 1)
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from error
    finally:
        os.close(directory)
    if len(data) > MAX_MANIFEST:
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
        descriptor = os.open(path.name, FILE_FLAGS, dir_fd=directory)
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
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "w") as file:
        file.write(log)


def late_name(own_pid: int) -> str:
    """Return where a generation keeps what an srun_cr still has to deliver."""
    return f"{LATE}/{own_pid}"


def write_late(directory: str, own_pid: int, streams: dict[int, bytes]) -> None:
    """Keep what an srun_cr has not delivered, by descriptor, in a generation. Raises OSError."""
    path = Path(directory) / late_name(own_pid)
    with suppress(FileNotFoundError):
        path.unlink()
    if not streams:
        return
    path.parent.mkdir(0o700, exist_ok=True)
    body = json.dumps({str(fd): base64.b64encode(data).decode() for fd, data in streams.items()})
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(seal(body.encode()))
        file.flush()
        os.fsync(file.fileno())
    for each in (path.parent, path.parent.parent):
        descriptor = os.open(each, DIR_FLAGS)
        os.fsync(descriptor)
        os.close(descriptor)


def read_late(directory: str, own_pid: int) -> dict[int, bytes]:
    """Return what write_late() kept, none where it is not there or damaged."""
    try:
        descriptor = os.open(Path(directory) / late_name(own_pid), FILE_FLAGS)
        with os.fdopen(descriptor, "rb") as file:
            value = json.loads(unseal(file.read()))
        return {int(fd): base64.b64decode(data) for fd, data in value.items()}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return {}


def write_requeue(image_dir: Path, job_id: int, generation: Path) -> Path:
    """Have the plugin restore a job from a generation when Slurm starts it again; return the file
    that says so. image_dir: where it looks. Raises DirectoryError."""
    step_dir = image_dir / step_name(job_id, BATCH)
    path = step_dir / REQUEUE
    temporary = step_dir / f"{REQUEUE}.{os.getpid()}"
    try:
        step_dir.mkdir(0o700, parents=True, exist_ok=True)
        os.close(open_owned(step_dir))
        with suppress(FileNotFoundError):
            temporary.unlink()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(temporary, flags, 0o600), "w") as file:
            file.write(f"{generation}\n")
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
        descriptor = os.open(step_dir, DIR_FLAGS)
        os.fsync(descriptor)
        os.close(descriptor)
    except OSError as error:
        raise directory_error(path, error) from error
    return path


def requeued_from(path: Path) -> Path | None:
    """Return the generation from which a job will be started again, of a script's directory or of
    a generation in it; None where it will not be from one of these."""
    whole = _STEP.fullmatch(path.name) is not None
    try:
        text = (path if whole else path.parent).joinpath(REQUEUE).read_text().rstrip("\n")
    except OSError:
        return None
    named = Path(text)
    return named if whole or named.name == path.name else None


def remove_tree(path: Path | str, ignore_errors: bool = True) -> None:
    """Remove a directory and all in it, following no link. Raises OSError if it may."""
    import shutil  # 5 ms, and most of who imports this module removes nothing

    shutil.rmtree(path, ignore_errors=ignore_errors)


def check_removable(path: Path) -> None:
    """Refuse to remove what is no checkpoint of this user's. Raises ImageError, AccessDenied."""
    generation = _GENERATION.fullmatch(path.name) and _STEP.fullmatch(path.parent.name)
    if not generation and not _STEP.fullmatch(path.name):
        raise ImageError(f"{path}: neither JOB.STEP nor a generation of one")
    if _GENERATION.fullmatch(path.parent.name):
        raise ImageError(f"{path}: a part of the batch job's checkpoint {path.parent}")
    try:
        os.close(open_owned(path))
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from error


def remove(path: Path) -> None:
    """Remove a generation, or a step's directory with all of them.

    Raises DirectoryError; Busy while a checkpoint is being written there.
    """
    whole = _STEP.fullmatch(path.name) is not None
    step_dir = path if whole else path.parent
    try:
        directory = open_owned(step_dir)
        lock = take_lock(directory, step_dir.name)
        try:
            for generation in generations(path) if whole else [path]:
                # Out of sight first: whoever looks meanwhile sees it whole or not at all.
                gone = f".new-{generation.name}-{os.urandom(4).hex()}"
                os.rename(generation.name, gone, src_dir_fd=directory, dst_dir_fd=directory)
            sweep(directory)
            if whole or not generations(step_dir):
                remove_tree(step_dir, ignore_errors=False)
        finally:
            os.close(lock)
            os.close(directory)
    except OSError as error:
        raise directory_error(path, error) from error


def take_lock(step_fd: int, name: str) -> int:
    """Take the lock of a step's directory and return its descriptor. Raises Busy, OSError."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    lock = os.open(LOCK, flags, 0o600, dir_fd=step_fd)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise Busy(f"{name}: a checkpoint of it is under way already: wait for it") from error
    except OSError as error:
        # A file system without locks (Lustre mounted so): CRIU's own claim on the tasks stays.
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            os.close(lock)
            raise
    return lock
