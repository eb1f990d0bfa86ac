# SPDX-License-Identifier: GPL-2.0-or-later
"""`pycr restart`: becomes an srun with --restart-dir, or an sbatch with it for a batch job."""

from __future__ import annotations

import argparse
import os
import pwd
import shlex
import time
from pathlib import Path

from pycr import config
from pycr.cli import by_name, verb_parser
from pycr.cli.find import add_image_dir, target
from pycr.cli.progress import Line
from pycr.cli.words import behind, take
from pycr.coordinator import become, resubmit
from pycr.errors import AccessDenied, Busy, NoSuchJob, UsageError
from pycr.images import image
from pycr.images.manifest import Manifest
from pycr.pod import meeting
from pycr.pod.files import CUT, POLICIES
from pycr.slurm import Geometry, commands, geometry_from, like, names_nodes
from pycr.slurm.api import slurm

# Seconds that Slurm may take to end a step that was killed, and a job.
ENDING, COMPLETING = 3.0, 60.0
OLD = ("image_dir", "stick")  # what scontrol's words may say
OWN = ("-h", "--help", "--image-dir", "--dry-run", "--stick", "--job-id", "--files")


def run(verb: str, argv: list[str]) -> int:
    """Run the verb with its arguments; returns only with --dry-run."""
    parser = verb_parser(
        verb, epilog="What follows the checkpoint is given to sbatch or srun, and wins."
    )
    add_image_dir(parser)
    parser.add_argument("--dry-run", action="store_true", help="only print the command")
    parser.add_argument("--stick", action="store_true", help="on the nodes it was on")
    parser.add_argument(
        "--job-id", action="store_true", help="under its old id, while Slurm still knows the job"
    )
    parser.add_argument(
        "--files",
        choices=POLICIES,
        default=CUT,
        help="what to do about files that have changed since: cut back what has grown (default),"
        " keep all as they are, or refuse",
    )
    parser.add_argument("checkpoint", metavar="DIR|JOB[.STEP]")
    parser.add_argument("more", nargs=argparse.REMAINDER, metavar="sbatch or srun options")
    if argv and argv[0].startswith("-") and argv[0].split("=")[0] not in OWN:
        raise UsageError(f"{argv[0]}: options of sbatch and srun go behind the checkpoint")
    arguments = parser.parse_args(argv)
    own, arguments.more = behind(arguments.more)
    take(own, arguments, OLD)
    generation = image.resolve(target(by_name(arguments.checkpoint), arguments.image_dir))
    owner = become_owner(generation)
    meeting.sweep(generation)
    manifest = check(generation)
    wanted = geometry_from(manifest.geometry)
    more = list(arguments.more)
    if arguments.files != CUT:
        more = [f"--files={arguments.files}", *more]
    if arguments.stick:
        nodes = manifest.batch["nodelist"] if manifest.batch else ",".join(sorted(manifest.hosts))
        more = [f"--nodelist={nodes}", f"--nodes={wanted.nodes}", *more]
    if manifest.batch:
        return restart_job(generation, manifest, wanted, more, owner, arguments)
    if arguments.job_id:
        raise UsageError("--job-id: only a batch job is restarted under its old id")
    if owner is not None:
        raise UsageError("a step is restarted by its owner, not by root")
    if arguments.files == CUT:
        refuse_running(manifest)
    command = srun(generation, manifest, wanted, more, "SLURM_JOB_ID" in os.environ)
    if not arguments.dry_run:
        os.environ.pop("SLURM_RESTART_DIR", None)
        os.execv(commands.program("srun"), command)
    print(shlex.join(command))
    return 0


def become_owner(generation: Path) -> pwd.struct_passwd | None:
    """As root, go on as the owner of a checkpoint; return who that is, None where not root.

    What is read is the user's, and so is who reads it. Raises AccessDenied.
    """
    if os.getuid() != 0:
        return None
    uid = os.stat(generation).st_uid
    if uid == 0:
        return None
    return become.go_on_as(uid, str(generation))


def restart_job(
    generation: Path,
    manifest: Manifest,
    wanted: Geometry,
    more: list[str],
    owner: pwd.struct_passwd | None,
    arguments: argparse.Namespace,
) -> int:
    """Submit a batch job that goes on from its checkpoint; returns only with --dry-run."""
    for name in manifest.batch["steps"]:
        check(generation / name)
    if arguments.job_id:
        if more:
            raise UsageError(f"--job-id: the job keeps its own options: {more[0]} cannot be given")
        if not arguments.dry_run:
            resubmit.requeue(generation, manifest, regain)
        else:
            print(shlex.join(["scontrol", "requeue", str(manifest.job_id)]))
        return 0
    home = manifest.batch["home"]
    if home != str(config.default_dir(config.site(), manifest.job_id)) and os.path.isdir(home):
        more = [f"--checkpoint-dir={home}", *more]  # as it was submitted
    resubmit.refuse_running(manifest)
    command = resubmit.sbatch(generation, manifest, wanted, more)
    if arguments.dry_run:
        print(shlex.join(command))
        return 0
    script = resubmit.stand_in(generation)
    regain()
    return resubmit.submit(command, script, owner)


def regain() -> None:
    """Be root again, where this was root."""
    if os.getuid() == 0:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups([0])


def check(generation: Path) -> Manifest:
    """Read the manifest and see that every file is there, before anything is asked of Slurm.

    Checksums are for the nodes: each pod reads its own task's files anyway, side by side.
    Raises ImageError, AccessDenied.
    """
    manifest = image.load(generation)
    if manifest.uid != os.geteuid():
        what = "job" if manifest.batch else "step"
        raise AccessDenied(
            f"{generation}: it is a checkpoint of {manifest.user}'s {what}, not yours"
        )
    for task in manifest.tasks:
        os.close(image.check_task(generation, task))
    return manifest


def refuse_running(manifest: Manifest) -> None:
    """Refuse a step that still runs: a restart would cut back the files that it writes.

    Raises Busy, SlurmError.
    """
    name = f"{manifest.job_id}.{manifest.step_id}"
    began = time.monotonic()
    line = Line()
    state = running(manifest, name)
    while state:
        # It may just be ending; a job that ends takes Slurm's KillWait at most.
        if time.monotonic() - began > (COMPLETING if state == "COMPLETING" else ENDING):
            line.close()
            raise Busy(
                f"step {name} still runs, and a restart would cut back the files that it writes:"
                f" end it first (pycr vacate {name}, or scancel {name}), or give --files=keep"
            )
        line(f"waiting for step {name} to end", 0, 1)
        time.sleep(0.1)
        state = running(manifest, name)
    line.close()


def running(manifest: Manifest, name: str) -> str:
    """Return the state of the job whose step still runs, "" where it does not."""
    try:
        job = slurm().job(manifest.job_id)
    except NoSuchJob:
        return ""
    mine = job.running and job.uid == manifest.uid
    return job.state if mine and any(each.name == name for each in slurm().steps(job)) else ""


def srun(
    generation: Path, manifest: Manifest, wanted: Geometry, more: list[str], inside: bool
) -> list[str]:
    """Return the srun command: in an allocation only the number of tasks, else what it had."""
    command = ["srun", f"--restart-dir={generation}", f"--ntasks={wanted.tasks}"]
    if wanted.overcommit:
        command.append("--overcommit")
    if not inside:
        if not names_nodes(more):
            command.append(f"--nodes={wanted.nodes}")
        if wanted.cpus_per_task:
            command.append(f"--cpus-per-task={wanted.cpus_per_task}")
        command += like(wanted, more)
    if wanted.name:
        command.append(f"--job-name={wanted.name}")
    # srun wants a command, and this one fails where the plugin is not: the task's own program
    # would start from the beginning there, and could overwrite what it had written.
    return [*command, *more, *meeting.without_plugin(generation)]
