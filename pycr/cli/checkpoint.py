# SPDX-License-Identifier: GPL-2.0-or-later
"""`pycr create`, `vacate` and `requeue`: they differ in what becomes of what was running."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from pycr.cli import byte_count, count, size, step_id, totals, verb_parser
from pycr.cli.progress import Line
from pycr.cli.words import directory, generations, parse, seconds
from pycr.coordinator import control, step
from pycr.errors import PycrError, UsageError
from pycr.images import image, retention
from pycr.slurm import BATCH


def add_where(parser: argparse.ArgumentParser, since: str = "") -> None:
    """Add the options that all have which make a checkpoint. since: what --max-wait counts from."""
    parser.add_argument(
        "--image-dir", metavar="DIR", type=directory, help="write the checkpoint to DIR/JOB.STEP"
    )
    parser.add_argument(
        "--max-wait",
        metavar="SECONDS",
        type=seconds,
        default=0,
        help=f"give up, and let all run on, after so long{since} (default: the site's max_wait, or"
        f" {step.MAX_WAIT})",
    )


def run(verb: str, argv: list[str]) -> int:
    """Run the verb with its arguments; return the exit status."""
    parser = verb_parser(verb)
    parser.add_argument("step", metavar="JOB" if verb == "requeue" else "JOB[.STEP]")
    add_where(parser)
    parser.add_argument(
        "--keep",
        metavar="N",
        type=generations,
        default=0,
        help="then remove all but the newest N checkpoints of it (default: none is removed)",
    )
    parser.add_argument(
        "--keep-size",
        metavar="SIZE",
        type=byte_count,
        default=0,
        help="then remove the oldest, until those that are left take no more than SIZE",
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
    stay = retention.Wanted(arguments.keep, arguments.keep_size)
    report(made, remove_older(made, stay), arguments.json)
    return 0


def remove_older(made: list[Path], wanted: retention.Wanted) -> list[list[Path]]:
    """Remove what need not stay behind each new generation; the checkpoints are made in any case.

    Return what was removed, for each.
    """
    gone: list[list[Path]] = [[] for _ in made]
    for index, path in enumerate(made if any(wanted) else []):
        try:
            gone[index] = retention.prune(path, wanted)
        except (PycrError, OSError) as error:
            warn(f"older checkpoints are not removed: {error}")
    return gone


def warn(text: str) -> None:
    """Print a warning."""
    print(f"pycr: warning: {text}", file=sys.stderr)


def report(made: list[Path], gone: list[list[Path]], as_json: bool) -> None:
    """Print the generations that were made, and those removed in their place, a line each."""
    rows = []
    for path, removed in zip(made, gone):
        every = image.load_all(path)
        manifest, *inside = every
        row: dict[str, Any] = {
            "step": image.step_name(manifest.job_id, manifest.step_id),
            "path": str(path),
            **totals(every),
            "removed": [str(each) for each in removed],
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
            for each in removed:
                print(f"{each}: removed")
    if as_json:
        print(json.dumps(rows, indent=1))
