# SPDX-License-Identifier: GPL-2.0-or-later
"""`pycr disable` and `enable`: each undoes one of the other; they print nothing."""

from __future__ import annotations

from pycr.cli import step_id, verb_parser
from pycr.coordinator import control


def run(verb: str, argv: list[str]) -> int:
    """Run the verb with its arguments; return the exit status."""
    parser = verb_parser(verb)
    parser.add_argument("step", metavar="JOB[.STEP]")
    arguments = parser.parse_args(argv)
    control.switch(*step_id(arguments.step), on=verb == "enable")
    return 0
