# SPDX-License-Identifier: GPL-2.0-or-later
"""`pycr complete`: note what came of a checkpoint, for `pycr error` to tell; it prints nothing."""

from __future__ import annotations

from pycr.cli import step_id, verb_parser
from pycr.cli.words import number
from pycr.coordinator import control


def run(verb: str, argv: list[str]) -> int:
    """Run the verb with its arguments; return the exit status."""
    parser = verb_parser(verb)
    parser.add_argument("step", metavar="JOB[.STEP]")
    parser.add_argument(
        "--begin-time",
        metavar="EPOCH",
        type=number,
        default=0,
        help="of the checkpoint that began then only, and only while it is the last",
    )
    parser.add_argument(
        "--error-code", metavar="N", type=number, default=0, help="the highest is kept (default 0)"
    )
    parser.add_argument("--error-msg", metavar="TEXT", default="", help="what went wrong")
    arguments = parser.parse_args(argv)
    control.complete(
        *step_id(arguments.step), arguments.begin_time, arguments.error_code, arguments.error_msg
    )
    return 0
