# SPDX-License-Identifier: GPL-2.0-or-later
"""Submit a new job for a batch script's checkpoint: what sbatch is asked for, and what it is given.

The plugin restores the script in place of the one that is submitted (spank_cr/batch.pxi). That one
has the old script's #SBATCH lines, for the options that the manifest does not know, and then only a
complaint: where the plugin is not, the old script would begin anew and overwrite what it had made.
"""

from __future__ import annotations

import os
import pwd
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from pycr.errors import (
    Busy,
    ImageError,
    NoSuchJob,
    NotSupported,
    RestoreFailed,
    SlurmError,
    printable,
)
from pycr.images import image
from pycr.images.manifest import Manifest
from pycr.images.requeue import write_requeue
from pycr.slurm import Geometry, commands, like, names_nodes, preemption
from pycr.slurm.api import slurm

COMPLAINT = f"""
echo "pycr: couldn't restart: the batch script on $SLURMD_NODENAME: the spank_cr plugin is not" \\
    "enabled there (plugstack.conf)" >&2
exit {RestoreFailed.exit_status}
"""


def stand_in(generation: Path) -> str:
    """Return the text of the script to submit. Raises ImageError."""
    path = generation / image.task_name(0) / image.SCRIPT
    try:
        text = path.read_text(errors="surrogateescape")
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from error
    lines = ["#!/bin/sh"]
    for line in text.split("\n"):
        # As sbatch reads them: up to the first line that is a command (sbatch(1)).
        if line.strip() and not line.startswith("#"):
            break
        if line.startswith("#SBATCH"):
            lines.append(line)
    return "\n".join(lines) + "\n" + COMPLAINT


def sbatch(generation: Path, manifest: Manifest, wanted: Geometry, more: list[str]) -> list[str]:
    """Return the sbatch command. more: the user's own options, which win."""
    command = ["sbatch", f"--restart-dir={generation}", "--open-mode=append"]
    streams = {stream["fd"]: stream for stream in manifest.tasks[0].streams}
    for fd, option in ((1, "output"), (2, "error")):
        if streams[fd]["kind"] in ("file", "null"):
            # In a file's name sbatch would take %j and the like for its own.
            name = streams[fd]["name"].replace("%", "%%")
            command.append(f"--{option}={re.sub(r' [(]deleted[)]$', '', name)}")
    if not names_nodes(more):
        command.append(f"--nodes={wanted.nodes}")
    command.append(f"--ntasks={wanted.tasks}")
    if wanted.cpus_per_task > 1:
        command.append(f"--cpus-per-task={wanted.cpus_per_task}")
    command += like(wanted, more)
    for option, value in (
        ("constraint", wanted.features),
        ("gres", re.sub(r"gres[:/]", "", wanted.gres)),
        ("reservation", wanted.reservation),
        ("job-name", wanted.name),
        ("chdir", manifest.batch["work_dir"]),
    ):
        if value:
            command.append(f"--{option}={value}")
    # What the script waited for before its first start (#SBATCH --dependency) is over.
    return [*command, "--dependency=", *more]


def requeue(generation: Path, manifest: Manifest, regain: Callable[[], None]) -> None:
    """Have Slurm start an ended job again, under its own id, from a checkpoint.

    sbatch cannot choose an id, but what Slurm still remembers (MinJobAge) can be requeued. regain:
    called before Slurm is asked, when all of the user's files are written.

    Raises NotSupported, Busy, DirectoryError, SlurmError.
    """
    refuse_running(manifest)
    try:
        job = slurm().job(manifest.job_id)
    except NoSuchJob as error:
        raise NotSupported(
            f"job {manifest.job_id}: Slurm has no record of it any more (MinJobAge), and gives no"
            " old id to a new job: restart it without --job-id"
        ) from error
    if job.uid != manifest.uid or job.fields.get("JobName") != manifest.geometry.get("name"):
        raise ImageError(f"job {manifest.job_id} is another job than the checkpoint's by now")
    write_requeue(Path(manifest.batch["home"]), manifest.job_id, generation)
    regain()
    preemption.requeue(manifest.job_id, slurm().requeue)


def refuse_running(manifest: Manifest) -> None:
    """Refuse to start what still runs, or will by itself: both would write the same files.

    Raises Busy.
    """
    try:
        job = slurm().job(manifest.job_id)
    except NoSuchJob:
        return
    same = job.uid == manifest.uid and job.fields.get("JobName") == manifest.geometry.get("name")
    if same and (job.pending or job.state in ("RUNNING", "SUSPENDED")):
        raise Busy(
            f"job {manifest.job_id} is still there ({job.state}), and would write the same files:"
            f" end it first (pycr vacate {manifest.job_id}, or scancel {manifest.job_id})"
        )


def submit(command: list[str], script: str, owner: pwd.struct_passwd | None) -> int:
    """Have sbatch submit the script, as the owner where this is root; return its exit status.

    The checkpoint and the script's #SBATCH lines are the owner's words: what root may ask of Slurm
    (--nice=-5, a partition of root's own) is not for them. Raises SlurmError.
    """
    text = os.memfd_create(image.SCRIPT)
    with os.fdopen(os.dup(text), "w", errors="surrogateescape") as file:
        file.write(script)
    os.lseek(text, 0, os.SEEK_SET)
    # The new job's environment is made of this; the script has its own.
    environment = commands.environment(for_reading=False)
    if owner is None:
        os.dup2(text, 0)
        os.execve(commands.program("sbatch"), command, environment)
    environment.update(HOME=owner.pw_dir, USER=owner.pw_name, LOGNAME=owner.pw_name)
    # Away from root's terminal, on which its owner could type as soon as the process is theirs.
    done = subprocess.run(
        [commands.program("sbatch"), *command[1:]],
        stdin=text,
        capture_output=True,
        text=True,
        errors="replace",
        env=environment,
        cwd="/",
        start_new_session=True,
        user=owner.pw_uid,
        group=owner.pw_gid,
        extra_groups=os.getgrouplist(owner.pw_name, owner.pw_gid),
        check=False,
    )
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise SlurmError(lines[-1] if lines else "sbatch failed silently")
    print("\n".join(map(printable, done.stdout.splitlines())))
    return 0
