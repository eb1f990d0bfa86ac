# SPDX-License-Identifier: GPL-2.0-or-later
"""`pycr rm`: remove a generation, or all of a step."""

from __future__ import annotations

import json
import os
from pathlib import Path

from pycr.cli import verb_parser
from pycr.cli.find import add_image_dir, target
from pycr.errors import Busy, NoSuchJob, PycrError, SlurmError
from pycr.images import image, removal
from pycr.images.requeue import read_requeue
from pycr.slurm.api import slurm


def run(verb: str, argv: list[str]) -> int:
    """Run the verb with its arguments; return the exit status."""
    parser = verb_parser(verb)
    parser.add_argument("checkpoints", metavar="DIR|JOB[.STEP]", nargs="+")
    add_image_dir(parser)
    parser.add_argument("--json", action="store_true", help="print what was removed as JSON")
    arguments = parser.parse_args(argv)
    named = {target(word, arguments.image_dir): None for word in arguments.checkpoints}
    # one of a step that goes as a whole goes with it
    paths = [path for path in named if path.parent not in named]
    for path in paths:
        removal.check_removable(path)
        refuse_needed(path)
    for path in paths:
        removal.remove(path)
    if arguments.json:
        print(json.dumps([str(path) for path in paths]))
    return 0


def refuse_needed(path: Path) -> None:
    """Refuse to remove what a queued job is to be started from. Raises Busy."""
    for generation in image.generations(path) or [path]:
        try:
            manifest = image.load(generation)
        except PycrError:
            continue  # no job can be started from it
        job_id = manifest.job_id
        if not manifest.batch or generation.absolute() not in [
            read_requeue(Path(manifest.batch["home"]), job_id, name)
            for name in (image.REQUEUE, image.NEWEST)
        ]:
            continue
        try:
            job = slurm().job(job_id)
        except (NoSuchJob, SlurmError):
            continue  # it is gone, or Slurm does not answer
        if job.uid == os.getuid() and job.pending:
            raise Busy(
                f"{path}: job {job_id} is in the queue, to be started from it: cancel it first"
            )
