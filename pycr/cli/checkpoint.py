# SPDX-License-Identifier: GPL-2.0-or-later
"""`pycr create` and `pycr vacate`: they differ in what becomes of the tasks."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from pycr import image, step
from pycr.cli import count, size, step_id, verb_parser
from pycr.cli.progress import Line


def seconds(text: str) -> int:
    """Parse --max-wait."""
    if not text.isdigit() or not 0 < int(text) < 1 << 31:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return int(text)


def run(verb: str, argv: list[str]) -> int:
    """Run the verb with its arguments; return the exit status."""
    parser = verb_parser(verb)
    parser.add_argument("step", metavar="JOB[.STEP]")
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
    arguments = parser.parse_args(argv)
    job, steps = step.find(*step_id(arguments.step))
    options = step.Options(
        vacate=verb == "vacate",
        image_dir=arguments.image_dir,
        max_wait=arguments.max_wait,
        independent=verb == "create" and arguments.independent,
    )
    line = Line()
    try:
        made = step.checkpoint(job, steps, options, line, warn)
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
        manifest = image.load(path)
        rows.append(
            {
                "step": image.step_name(manifest.job_id, manifest.step_id),
                "path": str(path),
                "tasks": len(manifest.tasks),
                "size": manifest.size,
                "frozen": manifest.frozen,
            }
        )
        if not as_json:
            print(
                f"{path}: {count(len(manifest.tasks), 'task')}, {size(manifest.size)},"
                f" frozen {manifest.frozen:.2f} s"
            )
    if as_json:
        print(json.dumps(rows, indent=1))
