# SPDX-License-Identifier: GPL-2.0-or-later
"""`pycr error`: the code and message that the last checkpoint left, in scontrol's words."""

from __future__ import annotations

import json

from pycr.cli import step_id, verb_parser
from pycr.coordinator import control
from pycr.errors import printable


def run(verb: str, argv: list[str]) -> int:
    """Run the verb with its arguments; return the exit status."""
    parser = verb_parser(verb)
    parser.add_argument("step", metavar="JOB[.STEP]")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    arguments = parser.parse_args(argv)
    code, message = control.error(*step_id(arguments.step))
    if arguments.json:
        print(json.dumps({"error_code": code, "error_msg": message}))
    else:
        print(f"error({code}): {printable(message)}")
    return 0
