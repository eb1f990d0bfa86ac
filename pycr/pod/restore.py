# SPDX-License-Identifier: GPL-2.0-or-later
"""Restore one task, or a batch script, from a generation, as PID 1 of its pod.

The restored task's streams are this step's: each file that the old streams were open on is
replaced, throughout the tree, by the new stream (CRIU's --inherit-fd). A name that matches nothing
would lose output without a word, so what came out is compared before anything runs; so are the
images' checksums, which are read while CRIU works.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Optional

from pycr import host
from pycr.engine import core_image, credentials, criu, proc
from pycr.engine import images as criu_images
from pycr.engine.files import OpenFile
from pycr.errors import GeometryError, ImageError, NotSupported, PycrError, RestoreFailed
from pycr.images import image
from pycr.images.manifest import Manifest, TaskImage
from pycr.pod.files import CUT, Files, load
from pycr.pod.meeting import Meeting, Place

Past = dict[str, list[Optional[str]]]

# slurmstepd's line, headed by its name up to 25.05, by the time since.
SLURM_SAYS = re.compile(rb"(?:(?:slurmstepd[^ ]*:|\[[^]\n]*\]) error: \*\*\* (?:JOB|STEP) .*\n)+")
FIRST_FD = 50
MIB = 1 << 20


def own_streams() -> None:
    """Open the files on descriptors 0, 1, 2 anew, where they are files or devices.

    slurmstepd opened them in another mount namespace, which CRIU could not dump from here
    ("Can't lookup mount"). Pipes belong to none.
    """
    for fd in (0, 1, 2):
        with suppress(OSError):
            old = os.fstat(fd)
            if not (stat.S_ISREG(old.st_mode) or stat.S_ISCHR(old.st_mode)) or os.isatty(fd):
                continue
            flags = fcntl.fcntl(fd, fcntl.F_GETFL)
            new = os.open(
                os.readlink(f"/proc/self/fd/{fd}"),
                flags & (os.O_ACCMODE | os.O_APPEND | os.O_NONBLOCK) | os.O_NOCTTY,
            )
            if os.path.samestat(os.fstat(new), old):
                if stat.S_ISREG(old.st_mode):
                    os.lseek(new, os.lseek(fd, 0, os.SEEK_CUR), os.SEEK_SET)
                os.dup2(new, fd)
            os.close(new)


def inherited(streams: list[proc.Stream]) -> list[tuple[str, int]]:
    """Return CRIU's (key, descriptor) pairs that put this step's streams in the old ones' place."""
    pairs: dict[str, int] = {}
    for stream in streams:
        key = stream.inherit_key
        if key is not None and key not in pairs:
            pairs[key] = fcntl.fcntl(stream.fd, fcntl.F_DUPFD_CLOEXEC, FIRST_FD)
    return list(pairs.items())


def avoid_pids(highest: int) -> None:
    """Let what runs in the pod beside the task take process ids above the task's own."""
    with suppress(OSError, ValueError):
        limit = int(Path("/proc/sys/kernel/pid_max").read_text())
        if highest + 300 < limit:
            Path("/proc/sys/kernel/ns_last_pid").write_text(str(highest + 1))


def give_input_back(images: int, stream: proc.Stream) -> None:
    """Put what the task had not read of its input before what comes now.

    Into the new pipe itself, which slurmstepd gave to the user; as much as a pipe holds was in the
    old one, and fits.
    """
    if stream.kind != "pipe":
        return
    waiting = criu_images.pipe_data(images, int(stream.name[len("pipe:[") : -1]))
    if not waiting:
        return
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        flags = os.O_NONBLOCK | os.O_CLOEXEC
        since = b""
        reader = os.open("/proc/self/fd/0", os.O_RDONLY | flags)
        with suppress(BlockingIOError):
            since = os.read(reader, MIB)
        os.close(reader)
        writer = os.open("/proc/self/fd/0", os.O_WRONLY | flags)
    else:  # /dev/null: a pipe of its own, with nothing behind
        reader, writer = os.pipe2(os.O_CLOEXEC)
        since = b""
        os.dup2(reader, 0)
        os.close(reader)
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        os.write(writer, waiting + since)
    os.close(writer)


class Sums(threading.Thread):
    """Compares an image's checksums while CRIU restores from it; result() waits for them."""

    def __init__(self, directory: int, path: Path, mine: TaskImage) -> None:
        super().__init__(daemon=True)
        self._arguments = (directory, path, mine)
        self._trouble: PycrError | None = None
        self.start()

    def run(self) -> None:
        try:
            image.check_sums(*self._arguments)
        except PycrError as error:
            self._trouble = error

    def result(self) -> None:
        """Raise ImageError if a file is not what it was."""
        self.join()
        if self._trouble is not None:
            raise self._trouble


def script_file(images: int, batch: dict[str, Any]) -> list[tuple[str, int]]:
    """Return CRIU's pair that gives a script its own text back, read as far as it had been.

    As a memfd: the file that Slurm had made is gone, and another dump has all of a memfd in it.
    """
    if batch["offset"] < 0:
        return []
    text = os.memfd_create(image.SCRIPT)
    source = os.open(image.SCRIPT, image.FILE_FLAGS, dir_fd=images)
    with os.fdopen(source, "rb") as file, os.fdopen(os.dup(text), "wb") as target:
        shutil.copyfileobj(file, target)
    reader = os.open(f"/proc/self/fd/{text}", os.O_RDONLY | os.O_CLOEXEC)
    os.close(text)
    os.lseek(reader, batch["offset"], os.SEEK_SET)
    return [(batch["script"].lstrip("/"), reader)]


def put_outputs_back(images: int, mine: TaskImage) -> set[int]:
    """Have this job's output files end as the script left them; return those made anew.

    Slurm truncates them when it starts a job again; and into what it does not, it has written that
    the job was ended, perhaps behind half a line. What is in a truncated one already is of this
    start (a TaskProlog's words), and stays.
    """
    made = set()
    for fd, name in image.OUTPUTS.items():
        if name not in mine.files or not stat.S_ISREG(os.fstat(fd).st_mode):
            continue
        size = mine.files[name][0]
        with open(f"/proc/self/fd/{fd}", "r+b") as target:
            if os.fstat(fd).st_size < size:
                since = target.read()
                target.seek(0)
                source = os.open(name, image.FILE_FLAGS, dir_fd=images)
                with os.fdopen(source, "rb") as file:
                    shutil.copyfileobj(file, target)
                target.write(since)
                made.add(fd)
            else:
                target.seek(size)
                if SLURM_SAYS.fullmatch(target.read(MIB)):
                    target.truncate(size)
    return made


def check_script(script: str, mine: TaskImage) -> None:
    """Compare a job's script with the one that was checkpointed: job ids come again one day.

    Raises RestoreFailed.
    """
    try:
        with open(script, "rb") as file:
            digest = image.checksum(file.fileno())
    except OSError as error:
        raise RestoreFailed(f"{script}: {error.strerror}") from error
    if digest != mine.files[image.SCRIPT][1]:
        raise RestoreFailed("it was requeued, but its script is not the checkpoint's")


class Job(NamedTuple):
    """What a pod knows of the job it is in.

    script: its batch script's file, "" in a step. requeued: whether the plugin found the checkpoint
    by itself, for a job that Slurm has started again. files: what to do about files that have
    changed since (files.py).
    """

    script: str = ""
    requeued: bool = False
    files: str = CUT


class Restored(NamedTuple):
    """A restored task: its pid, what Slurm's variables were in the jobs that it was restarted in
    before, the seconds that it had run for in them (images/manifest.py), what the user should know
    of its files, and what to do when it has ended."""

    pid: int
    past: Past
    work: float
    notes: list[str]
    end: Callable[[], None]


def restore(path: str, generation: Path, meeting: Meeting, job: Job, private: int) -> Restored:
    """Restore the task whose meeting this is from a generation.

    path: CRIU's. private: an empty directory, open, that nobody else can reach; closed here.
    Nothing of the task runs when this raises: ImageError, GeometryError, RestoreFailed,
    NotSupported.
    """
    place = meeting.place
    manifest = image.load(generation)
    if bool(manifest.batch) != bool(job.script):
        kind = "a batch script's" if manifest.batch else "a step's"
        raise RestoreFailed(f"{generation} is {kind} checkpoint: start it with pycr restart")
    if len(manifest.tasks) != place.tasks:
        raise GeometryError(
            f"{generation} holds {len(manifest.tasks)} tasks and this step has {place.tasks}:"
            f" restart it with --ntasks={len(manifest.tasks)}"
        )
    mine = manifest.tasks[place.task_id]
    where = generation / image.task_name(place.task_id)
    check_host(manifest, mine)
    images = image.check_task(generation, mine)
    sums = Sums(images, where, mine)
    streams = [proc.Stream(**each) for each in mine.streams]
    own_streams()
    files = Files(generation, place, job.files)
    files.prepare(images, where, files_of_steps(generation) if manifest.batch else ())
    pairs: list[tuple[str, int]] = []
    whole: set[int] = set()

    def check(pid: int) -> None:
        sums.result()
        check_streams(pid, streams)
        meeting.wait()

    try:
        core_image.copy_checked(images, mine.files, private, files.changed(images))
        give_input_back(images, streams[0])
        pairs += inherited(streams)
        if manifest.batch:
            if job.requeued:
                check_script(job.script, mine)
            whole = put_outputs_back(images, mine)
            pairs += script_file(images, manifest.batch)
        files.cut_streams(whole)
        avoid_pids(mine.max_pid)
        pid = criu.restore(criu.find(path), private, pairs, check, refuse_privilege)
    except criu.RestoreFailure as error:
        files.undo()
        sums.result()  # if the image is damaged, that is the reason
        old = host.old_criu(criu.version(criu.find(path)), os.uname().release)
        if old:
            raise NotSupported(f"CRIU is too old here: install {old}") from error
        raise RestoreFailed(f"{error}{save_log(error.log, generation, place)}") from error
    except BaseException:
        files.undo()
        raise
    finally:
        os.close(images)
        os.close(private)
        for _, fd in pairs:
            os.close(fd)
    return Restored(pid, mine.environment, manifest.work, files.restored(), files.end)


def files_of_steps(generation: Path) -> list[OpenFile]:
    """Return the files that the tasks of a batch job's steps had. Raises ImageError."""
    found = []
    for step in image.load_all(generation)[1:]:
        place = generation / image.step_name(step.job_id, step.step_id)
        for task in step.tasks:
            where = place / image.task_name(task.task_id)
            if image.FILES not in task.files:
                raise ImageError(f"{where}: no {image.FILES} in it")
            try:
                directory = image.open_owned(where)
            except OSError as error:
                raise ImageError(f"{where}: {error.strerror}") from error
            try:
                # Files are cut by what it says, and its own pod comes later.
                listed = {image.FILES: task.files[image.FILES]}
                image.check_sums(directory, where, task._replace(files=listed))
                found += load(directory, where)
            finally:
                os.close(directory)
    return found


def check_host(manifest: Manifest, mine: TaskImage) -> None:
    """Refuse an image that this node's processor could not run. Raises ImageError."""
    reason = host.unfit(manifest.hosts.get(mine.node, {}), host.facts((), ""))
    if reason:
        raise ImageError(reason)


def refuse_privilege(criu_pid: int) -> None:
    """Kill all that was restored if any of it has more than the user does, before it runs.

    CRIU sets what the image says, up to what this pod holds, and the image is the user's to write.
    Processes are told apart by pid: their names come from the image. Raises RestoreFailed.
    """
    try:
        more = credentials.of_pod({os.getpid(), criu_pid})
        if more:
            raise RestoreFailed(f"its image asks for {more}: it was tampered with")
    except (OSError, ValueError, KeyError, RestoreFailed) as error:
        with suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)  # every process of the pod but this one
        raise RestoreFailed(str(error)) from error


def check_streams(pid: int, streams: list[proc.Stream]) -> None:
    """Compare the restored task's streams with this step's. Raises RestoreFailed."""
    for stream in streams:
        if stream.inherit_key is None:
            continue
        first = next(each for each in streams if each.inherit_key == stream.inherit_key)
        wanted = proc.stream(os.getpid(), first.fd)
        found = proc.stream(pid, stream.fd)
        if found.name != wanted.name:
            raise RestoreFailed(
                f"its descriptor {stream.fd} came back as {found.name or 'closed'}, not as"
                f" this step's {wanted.name}"
            )


def save_log(log: str, generation: Path, place: Place) -> str:
    """Keep CRIU's log beside the generation, or in /tmp; say where."""
    name = f"restore-{place.step}-{image.task_name(place.task_id)}.log"
    for directory in (generation.parent, Path("/tmp")):
        with suppress(OSError):
            image.write_log(directory / name, log)
            return f" (CRIU's log: {directory / name})"
    return ""
