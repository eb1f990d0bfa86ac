# SPDX-License-Identifier: GPL-2.0-or-later
"""`pycr able`: whether a checkpoint can be asked for, in scontrol's words."""

from __future__ import annotations

import json
import os
import sys
import time

from pycr.cli import step_id, verb_parser
from pycr.coordinator import control
from pycr.errors import Disabled, Suspended

ISO = "%FT%T"
LONGEST = 31  # bytes of a time, and of its format, that Slurm's commands have room for


def run(verb: str, argv: list[str]) -> int:
    """Run the verb with its arguments; return the exit status."""
    parser = verb_parser(verb)
    parser.add_argument("step", metavar="JOB[.STEP]")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    arguments = parser.parse_args(argv)
    able, began = True, 0
    try:
        began = control.able(*step_id(arguments.step))
    except (Disabled, Suspended):  # as slurmctld had it of both
        able = False
    if arguments.json:
        print(json.dumps({"able": able, "began": began}))
    elif began:
        print(f"Began at {when(began)}")
    else:
        print("Yes" if able else "No")
    return 0


def when(moment: int) -> str:
    """Return a time as Slurm's commands print it: as SLURM_TIME_FORMAT says (sacct(1))."""
    wanted = os.environ.get("SLURM_TIME_FORMAT") or "standard"
    there = time.localtime(moment)
    form = wanted
    if wanted == "relative":
        form = relative(there, time.localtime())
    elif wanted == "standard":
        form = ISO
    elif "%" not in wanted or len(os.fsencode(wanted)) > LONGEST:
        print(f"pycr: warning: SLURM_TIME_FORMAT={wanted!r}: no such format", file=sys.stderr)
        form = ISO
    text = time.strftime(form, there)
    return text if text and len(os.fsencode(text)) <= LONGEST else "#" * LONGEST


def relative(there: time.struct_time, now: time.struct_time) -> str:
    """Return the format of a time as seen from another: the less of it the nearer they are."""
    # A number that grows with the days, and by 1 within a year: that is enough, and Slurm's own.
    days = 1000 * (there.tm_year - now.tm_year) + there.tm_yday - now.tm_yday
    near = {-1: "Ystday %H:%M", 0: "%H:%M:%S", 1: "Tomorr %H:%M"}
    if days in near:
        return near[days]
    if not -365 <= days <= 365:
        return "%-d %b %Y"
    return "%a %H:%M" if 0 < days <= 6 else "%-d %b %H:%M"
