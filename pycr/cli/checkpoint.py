# SPDX-License-Identifier: GPL-2.0-or-later
"""`pycr create`, `vacate` and `requeue`: they differ in what becomes of what was running."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pycr import control, image, step
from pycr.cli import count, size, step_id, totals, verb_parser
from pycr.cli.progress import Line
from pycr.cli.words import parse, seconds
from pycr.errors import UsageError
from pycr.slurm import BATCH


def run(verb: str, argv: list[str]) -> int:
    """Run the verb with its arguments; return the exit status."""
    parser = verb_parser(verb)
    parser.add_argument("step", metavar="JOB" if verb == "requeue" else "JOB[.STEP]")
    parser.add_argument("--image-dir", metavar="DIR", help="write the checkpoint to DIR/JOB.STEP")
    parser.add_argument(
        "--max-wait",
        metavar="SECONDS",
        type=seconds,
        default=step.MAX_WAIT,
        help="give up, and let all run on, after so long (default %(default)s)",
    )
    if verb == "create":
        parser.add_argument(
            "--independent",
            action="store_true",
            help="let each task go on as soon as it is dumped: shorter stops, no common moment",
        )
    parser.add_argument("--json", action="store_true", help="print what was made as JSON")
    arguments = parse(parser, argv, ("image_dir", "max_wait"))
    job_id, wanted = step_id(arguments.step)
    requeue = verb == "requeue"
    if requeue and wanted not in (None, BATCH):
        raise UsageError(f"{arguments.step}: only a job can be requeued, not a step")
    options = step.Options(
        vacate=verb != "create",
        image_dir=arguments.image_dir,
        max_wait=arguments.max_wait,
        independent=verb == "create" and arguments.independent,
    )
    line = Line()
    try:
        made = control.create(job_id, wanted, options, requeue, line, warn)
    finally:
        line.close()
    report(made, arguments.json)
    return 0


def warn(text: str) -> None:
    """Print a warning."""
    print(f"pycr: warning: {text}", file=sys.stderr)


def report(made: list[Path], as_json: bool) -> None:
    """Print the generations that were made, a line each."""
    rows = []
    for path in made:
        every = image.load_all(path)
        manifest, *inside = every
        row: dict[str, Any] = {
            "step": image.step_name(manifest.job_id, manifest.step_id),
            "path": str(path),
            **totals(every),
        }
        if manifest.batch:
            row["steps"] = manifest.batch["steps"]
        rows.append(row)
        if not as_json:
            what = count(row["tasks"], "task")
            if manifest.batch:
                what = f"script and {count(len(inside), 'step')}" + (
                    f" of {what}" if inside else ""
                )
            print(f"{path}: {what}, {size(row['size'])}, frozen {row['frozen']:.2f} s")
    if as_json:
        print(json.dumps(rows, indent=1))
