# SPDX-License-Identifier: GPL-2.0-or-later
"""`pycr drain`: checkpoint and requeue the jobs on nodes that are to be taken out of service."""

from __future__ import annotations

import argparse
import json
import os
import sys

from pycr import config
from pycr.cli import count, size, verb_parser
from pycr.cli.progress import Line
from pycr.cli.words import seconds
from pycr.coordinator import drain, step
from pycr.coordinator.drain import DONE, PLANNED, REQUEUE, Work
from pycr.errors import Remaining, SlurmError, printable

PARALLEL = 4
DONE_WORDS = {"requeue": "requeued", "vacate": "vacated"}


def several(text: str) -> int:
    """Parse --parallel."""
    if not text.isdigit() or not 0 < int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of jobs from 1 to 1000")
    return int(text)


def run(verb: str, argv: list[str]) -> int:
    """Run the verb with its arguments; return the exit status."""
    parser = verb_parser(verb)
    parser.add_argument("nodes", metavar="NODELIST", help="as Slurm has it: n[1-3],n7")
    parser.add_argument("--dry-run", action="store_true", help="only tell what would be done")
    parser.add_argument(
        "--reason",
        default=drain.REASON,
        help="why the nodes are drained, for sinfo -R (default %(default)s)",
    )
    parser.add_argument(
        "--only-jobs",
        action="store_true",
        help="leave the nodes' state alone; an ordinary user cannot but do so",
    )
    parser.add_argument(
        "--vacate-steps",
        action="store_true",
        help="vacate the steps of jobs without a batch script, which cannot be requeued",
    )
    parser.add_argument(
        "--parallel",
        metavar="N",
        type=several,
        default=PARALLEL,
        help="so many jobs at a time (default %(default)s)",
    )
    parser.add_argument(
        "--max-wait",
        metavar="SECONDS",
        type=seconds,
        default=0,
        help="give a job's checkpoint up, and let it run on, after so long (default: the site's"
        f" max_wait, or {step.MAX_WAIT})",
    )
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")
    arguments = parser.parse_args(argv)
    drain.check_nodes(arguments.nodes)
    closes = os.geteuid() == 0 and not arguments.only_jobs
    if closes and not arguments.dry_run:
        drain.drain_nodes(arguments.nodes, arguments.reason)
    works, others = drain.plan(arguments.nodes, arguments.vacate_steps)
    interrupted = False
    if not arguments.dry_run:
        line = Line()
        try:
            interrupted = drain.carry_out(
                works,
                arguments.parallel,
                arguments.max_wait or config.site().max_wait or step.MAX_WAIT,
                lambda done, total: line("taking jobs off the nodes", done, total),
            )
        finally:
            line.close()
    report(works, others, arguments)
    if interrupted:
        nodes = f"; the nodes stay drained (scontrol update nodename={arguments.nodes} state=resume"
        nodes = f"{nodes})" if closes else ""
        print(f"pycr: interrupted: what was not requeued runs on{nodes}", file=sys.stderr)
        return 130
    left = drain.remain(works)
    if left and not arguments.dry_run:
        raise Remaining(
            f"{count(len(left), 'job')} of {len(works)} on {arguments.nodes} not taken off: see"
            " why above, then scancel, or wait for the end"
        )
    return 0


def report(works: list[Work], others: int, arguments: argparse.Namespace) -> None:
    """Print what became of each job, and of the nodes."""
    nodes = {}
    if not arguments.dry_run:
        try:
            nodes = drain.states(arguments.nodes)
        except SlurmError as error:
            print(f"pycr: warning: {printable(str(error))}", file=sys.stderr)
    if arguments.json:
        rows = [
            {
                "job": work.job.job_id,
                "user": work.job.user,
                "verb": work.verb,
                "status": work.status,
                "seconds": round(work.seconds, 3),
                "size": work.size,
                "path": work.path,
                "why": work.why,
            }
            for work in works
        ]
        print(json.dumps({"jobs": rows, "others": others, "nodes": nodes}, indent=1))
        return
    if works:
        table(works)
    if not works:
        print(f"no job {'of yours ' if os.geteuid() else ''}on {printable(arguments.nodes)}")
    if others:
        print(f"{count(others, 'job')} of other users: only root takes those off")
    for name, state in nodes.items():
        print(f"{name}: {state}")


def table(works: list[Work]) -> None:
    """Print a line for each job."""
    cells = [("JOB", "USER", "DONE", "TIME", "SIZE", "WHY NOT")]
    for work in works:
        said = DONE_WORDS[work.verb] if work.status == DONE else work.status
        if work.status == PLANNED:
            said = f"would {work.verb}" if work.verb == REQUEUE else "would vacate"
        cells.append(
            (
                str(work.job.job_id),
                work.job.user,
                said,
                f"{work.seconds:.1f} s" if work.seconds else "-",
                size(work.size) if work.size else "-",
                printable(work.why),
            )
        )
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
