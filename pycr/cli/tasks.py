# SPDX-License-Identifier: GPL-2.0-or-later
"""`pycr tasks`: checkpoint the tasks of a step, at a given time; they go on running."""

from __future__ import annotations

from pycr.cli import step_id, verb_parser
from pycr.cli.checkpoint import add_where, report, warn
from pycr.cli.progress import Line
from pycr.cli.words import number, parse
from pycr.coordinator import control, step


def run(verb: str, argv: list[str]) -> int:
    """Run the verb with its arguments; return the exit status."""
    parser = verb_parser(verb)
    parser.add_argument("step", metavar="JOB[.STEP]")
    parser.add_argument(
        "--begin-time", metavar="EPOCH", type=number, default=0, help="wait until then"
    )
    add_where(parser, " from then on")
    parser.add_argument("--nodelist", metavar="LIST", default="", help="the nodes of the step")
    parser.add_argument("--json", action="store_true", help="print what was made as JSON")
    arguments = parse(parser, argv, ("image_dir", "max_wait"))
    options = step.Options(image_dir=arguments.image_dir, max_wait=arguments.max_wait)
    line = Line()
    try:
        made = control.tasks(
            *step_id(arguments.step),
            arguments.begin_time,
            arguments.nodelist,
            options,
            line,
            warn,
        )
    finally:
        line.close()
    report(made, [[] for _ in made], arguments.json)
    return 0
