# SPDX-License-Identifier: GPL-2.0-or-later
"""`pycr restart`: becomes an srun with --restart-dir, which asks for what the old step had."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from pathlib import Path

from pycr import image, meeting
from pycr.cli import verb_parser
from pycr.cli.find import target
from pycr.errors import AccessDenied, ImageError, UsageError
from pycr.manifest import Manifest
from pycr.slurm import Geometry, commands, geometry_from

OWN = ("-h", "--help", "--image-dir", "--dry-run")


def run(verb: str, argv: list[str]) -> int:
    """Run the verb with its arguments; returns only with --dry-run."""
    parser = verb_parser(verb, epilog="What follows the checkpoint is given to srun, and wins.")
    parser.add_argument("--image-dir", metavar="DIR", help="look for JOB.STEP in DIR")
    parser.add_argument("--dry-run", action="store_true", help="only print the srun command")
    parser.add_argument("checkpoint", metavar="DIR|JOB.STEP")
    parser.add_argument("srun", nargs=argparse.REMAINDER, metavar="srun options")
    if argv and argv[0].startswith("-") and argv[0].split("=")[0] not in OWN:
        raise UsageError(f"{argv[0]}: srun's options go behind the checkpoint")
    arguments = parser.parse_args(argv)
    generation = image.resolve(target(arguments.checkpoint, arguments.image_dir))
    meeting.sweep(generation)
    manifest = check(generation)
    try:
        wanted = geometry_from(manifest.geometry)
    except ValueError as error:
        raise ImageError(f"{generation / image.MANIFEST}: damaged: geometry: {error}") from error
    command = srun(generation, manifest, wanted, arguments.srun, "SLURM_JOB_ID" in os.environ)
    if not arguments.dry_run:
        os.environ.pop("SLURM_RESTART_DIR", None)
        os.execv(commands.program("srun"), command)
    print(shlex.join(command))
    return 0


def check(generation: Path) -> Manifest:
    """Read the manifest and see that every file is there, before anything is asked of Slurm.

    Checksums are for the nodes: each pod reads its own task's files anyway, side by side.
    Raises ImageError, AccessDenied.
    """
    manifest = image.load(generation)
    if manifest.uid != os.getuid():
        raise AccessDenied(f"{generation}: it is a checkpoint of {manifest.user}'s step, not yours")
    for task in manifest.tasks:
        os.close(image.check_task(generation, task))
    return manifest


def srun(
    generation: Path, manifest: Manifest, wanted: Geometry, more: list[str], inside: bool
) -> list[str]:
    """Return the srun command: in an allocation only the number of tasks, else what it had."""
    command = ["srun", f"--restart-dir={generation}", f"--ntasks={wanted.tasks}"]
    if not inside:
        if not names_nodes(more):
            command.append(f"--nodes={wanted.nodes}")
        if wanted.cpus_per_task:
            command.append(f"--cpus-per-task={wanted.cpus_per_task}")
        for option, value in (
            ("mem-per-cpu", "" if names_memory(more) else wanted.mem_per_cpu),
            ("mem", "" if names_memory(more) else wanted.mem_per_node),
            ("partition", wanted.partition),
            ("account", wanted.account),
            ("qos", wanted.qos),
            ("time", wanted.time_limit),
        ):
            if value:
                command.append(f"--{option}={value}")
    if wanted.name:
        command.append(f"--job-name={wanted.name}")
    # srun wants a command, and this one fails where the plugin is not: the task's own program
    # would start from the beginning there, and could overwrite what it had written.
    return [*command, *more, *meeting.without_plugin(generation)]


def names_memory(options: list[str]) -> bool:
    """Tell whether srun options say how much memory: srun takes only one of its ways to."""
    return any(re.match(r"--mem(-per-(cpu|gpu))?(=|$)", word) for word in options)


def names_nodes(options: list[str]) -> bool:
    """Tell whether srun options say how many nodes, or which."""
    return any(re.match(r"-[NwF]|--(nodes|nodelist|nodefile)\b", word) for word in options)
